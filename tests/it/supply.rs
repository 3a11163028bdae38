//! Texts onto a topic whose records are counted: which partition has how many is known without asking.

use crate::kills::positions;
use crate::letters::{client, wait_for};
use crate::world::World;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::RDKafkaErrorCode;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
/// As many as a world's topics have.
pub const PARTITIONS: usize = 4;

/// Numbered texts, dealt to the partitions in turn.
pub struct Supply {
    topic: String,
    pub sent: usize,
}

/// A job whose id is its number.
pub fn text(number: usize) -> String {
    format!(r#"{{"id": "t{number}", "text": "text number {number} about a lake and {} boats"}}"#, number % 7)
}

impl Supply {
    /// The text topic of a world, with settings of its own.
    pub fn new(world: &World, settings: &[(&str, &str)]) -> Self {
        let topic = world.topic("text");
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let new = NewTopic::new(&topic, PARTITIONS as i32, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        wait_for(admin.create_topics([&new], &AdminOptions::new())).unwrap()[0].clone().unwrap();
        Self { topic, sent: 0 }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn more(&mut self, count: usize) {
        let numbers = self.sent..self.sent + count;
        send(&self.topic, numbers.map(|i| ((i % PARTITIONS) as i32, "", text(i))));
        self.sent += count;
    }

    /// Sees that so many texts are not settled yet; answers how many are.
    pub fn keep(&mut self, world: &World, waiting: usize) -> i64 {
        let settled = world.count("SELECT count(*) FROM spawn.record");
        let left = self.sent - settled as usize;
        if left < waiting {
            self.more(2 * waiting - left);
        }
        settled
    }

    /// So many texts in a transaction, under keys that other transactions use too.
    pub fn transaction(&mut self, count: usize, commits: bool) {
        let id = format!("supply-{}", self.topic);
        let producer: BaseProducer = client().set("transactional.id", id).create().unwrap();
        producer.init_transactions(LONG).unwrap();
        producer.begin_transaction().unwrap();
        let numbers = self.sent..self.sent + count;
        send_by(&producer, &self.topic, numbers.map(|i| ((i % PARTITIONS) as i32, "again", text(i))));
        if commits {
            producer.commit_transaction(LONG).unwrap();
        } else {
            producer.abort_transaction(LONG).unwrap();
        }
        self.sent += count;
    }

    /// Gives each partition something to do, and waits until all have moved, at most 30 s; how long it took.
    pub fn all_go_on(&mut self, world: &World) -> Duration {
        let (before, started) = (positions(world), Instant::now());
        self.more(10 * PARTITIONS);
        world.wait("each partition goes on", 30, || {
            let now = positions(world);
            now.len() == PARTITIONS && now.iter().all(|(p, next)| *next > before.get(p).copied().unwrap_or(0))
        });
        started.elapsed()
    }
}

/// Jobs with their partitions and keys, in this order. An empty key is none.
pub fn send<'a>(topic: &str, jobs: impl IntoIterator<Item = (i32, &'a str, String)>) {
    send_by(&client().set("enable.idempotence", "true").create().unwrap(), topic, jobs);
}

fn send_by<'a>(
    producer: &BaseProducer<DefaultProducerContext>,
    topic: &str,
    jobs: impl IntoIterator<Item = (i32, &'a str, String)>,
) {
    for (partition, key, job) in jobs {
        let mut record = BaseRecord::<str, str>::to(topic).partition(partition).payload(&job);
        record.key = Some(key).filter(|key| !key.is_empty());
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(LONG).unwrap();
}
