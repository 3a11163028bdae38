//! Whether the topic is still the one that was announced.
//!
//! A topic that is deleted and made anew keeps its name and loses everything else: offsets begin again, and a stored position points at
//! records that have nothing to do with it. Only the topic's id tells the two apart. The consumer does not: it follows the name.
//!
//! So a thread with a client of its own asks the brokers for the id (`DescribeTopics`): every few seconds, and before each write, by
//! [`TopicWatch::confirm`]. A client of its own, because a broker answers the requests of one connection in turn, and behind a fetch that
//! waits for records an answer would take half a second.

use crate::config::{ConsumerConfig, admin};
use crate::errors::fault;
use crate::rebalance::lock;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::{RDKafka, RDKafkaRespErr};
use rdkafka_sys as sys;
use spawn_core::{Fault, FaultClass};
use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two questions while nothing is written. A topic that changes while nothing is read is noticed after this.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Asks for the topic's id, and remembers what was announced.
pub(crate) struct TopicWatch {
    topic: String,
    pipeline: String,
    /// The id that the line was told; `None` inside when the brokers tell none.
    announced: Mutex<Option<Option<String>>>,
    /// Questions begun so far.
    begun: Arc<AtomicU64>,
    ask_tx: SyncSender<()>,
    answered_rx: watch::Receiver<Answered>,
}

/// The last question that was answered, by number, and its answer.
#[derive(Clone, Default)]
struct Answered {
    number: u64,
    answer: Option<Result<Option<String>, String>>,
}

impl TopicWatch {
    /// Starts the thread. It ends when the watch is dropped.
    pub(crate) fn start(config: &ConsumerConfig) -> Result<Self, Fault> {
        let asker = Asker::new(admin(&config.brokers, &config.properties), config.topic.clone())
            .map_err(|e| fault("cannot create the client that asks for the topic's id", &e))?;
        let (ask_tx, ask_rx) = sync_channel(1);
        let (answered_tx, answered_rx) = watch::channel(Answered::default());
        let begun = Arc::<AtomicU64>::default();
        let counter = begun.clone();
        std::thread::Builder::new()
            .name(format!("topic-{}", config.group))
            .spawn(move || answer_all(asker, &ask_rx, &counter, &answered_tx))
            .map_err(|e| Fault::new(FaultClass::Operator, "kafka", format!("cannot start a thread: {e}")))?;
        Ok(Self {
            topic: config.topic.clone(),
            pipeline: config.pipeline.clone(),
            announced: Mutex::default(),
            begun,
            ask_tx,
            answered_rx,
        })
    }

    /// Asks, and tells the number of the first question that begins after this call.
    pub(crate) fn ask(&self) -> u64 {
        // A question that has begun already may be answered with what was before now.
        let number = self.begun.load(SeqCst) + 1;
        // Full: a question is due that has not begun yet.
        let _due = self.ask_tx.try_send(());
        number
    }

    /// The id to announce, once question `number` was answered; a fault when nobody could, or when it is another one than was announced
    /// before.
    pub(crate) fn announce(&self, number: u64) -> Option<Result<Option<Arc<str>>, Fault>> {
        let Answered { number: answered, answer } = self.answered_rx.borrow().clone();
        let answer = answer.filter(|_| answered >= number)?;
        let mut announced = lock(&self.announced);
        Some(match answer {
            Ok(id) if announced.is_none() => Ok(announced.insert(id).as_deref().map(Arc::from)),
            Ok(id) => {
                drop(announced);
                self.judge().map(|()| id.map(Arc::from))
            }
            Err(error) => Err(self.unanswered(&error)),
        })
    }

    /// Waits until the brokers have said, after this call, that the topic is the one that was announced.
    pub(crate) async fn confirm(&self) -> Result<(), Fault> {
        if !matches!(&*lock(&self.announced), Some(Some(_))) {
            return Ok(());
        }
        let wanted = self.ask();
        let mut answered_rx = self.answered_rx.clone();
        match answered_rx.wait_for(|answered| answered.number >= wanted).await {
            Ok(_) => self.judge(),
            Err(_) => {
                Err(Fault::new(FaultClass::Operator, "kafka", "the thread that asks for topic ids ended"))
            }
        }
    }

    /// What follows from the last answer: a fault of class `Operator` when the topic was made anew, `Systemic` when nobody answered.
    pub(crate) fn judge(&self) -> Result<(), Fault> {
        let Some(Some(announced)) = lock(&self.announced).clone() else { return Ok(()) };
        let answer = self.answered_rx.borrow().answer.clone();
        match answer {
            None => Ok(()),
            Some(Err(error)) => Err(self.unanswered(&error)),
            Some(Ok(id)) => {
                same(Some(&announced), id.as_deref()).map_err(|(was, is)| self.made_anew(&was, &is))
            }
        }
    }

    /// Why the last question had no answer, if it had none. Also before anything was announced.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.answered_rx.borrow().answer.clone()?.err()
    }

    fn unanswered(&self, error: &str) -> Fault {
        let detail = format!("cannot ask for the id of topic {}: {error}", self.topic);
        Fault::new(FaultClass::Systemic, "kafka", detail)
    }

    fn made_anew(&self, was: &str, is: &str) -> Fault {
        let Self { topic, pipeline, .. } = self;
        Fault::new(
            FaultClass::Operator,
            "kafka",
            format!(
                "topic `{topic}` was made anew while it was read: its id was {was} and is {is}. Nothing of the new one was written. To \
                 end the old reading and begin the new one run `spawn pipelines adopt-topic --pipeline {pipeline} --topic {topic}`"
            ),
        )
    }
}

/// An answer without an id contradicts nothing: it came from a broker that tells none.
fn same(announced: Option<&str>, found: Option<&str>) -> Result<(), (String, String)> {
    match (announced, found) {
        (Some(was), Some(is)) if was != is => Err((was.to_owned(), is.to_owned())),
        _ => Ok(()),
    }
}

fn answer_all(
    mut asker: Asker,
    ask_rx: &Receiver<()>,
    begun: &AtomicU64,
    answered_tx: &watch::Sender<Answered>,
) {
    loop {
        let number = begun.fetch_add(1, SeqCst) + 1;
        let answer = asker.ask().map_err(|e| e.to_string());
        answered_tx.send_replace(Answered { number, answer: Some(answer) });
        if ask_rx.recv_timeout(ASK_EVERY) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Asks a broker that leads a partition of the topic: whatever it hands out, it hands out of the topic that it knows.
pub(crate) struct Asker {
    config: ClientConfig,
    client: Option<Client>,
    topic: String,
    broker: Option<i32>,
}

type Client = AdminClient<DefaultClientContext>;

impl Asker {
    pub(crate) fn new(config: ClientConfig, topic: String) -> KafkaResult<Self> {
        Ok(Self { client: Some(config.create()?), config, topic, broker: None })
    }

    /// The topic's id as text; `None` from a broker that has none (before Apache Kafka 2.8). Blocks for a few seconds at most.
    pub(crate) fn ask(&mut self) -> KafkaResult<Option<String>> {
        let client = self.client.take().map_or_else(|| self.config.create(), Ok)?;
        let answer = self.ask_by(&client);
        // A client forgets all brokers when an answer names none, as one does while the only broker is fenced, and then takes five
        // minutes to begin anew. Ours begins anew at once.
        self.client = answer.is_ok().then_some(client);
        answer
    }

    fn ask_by(&mut self, client: &Client) -> KafkaResult<Option<String>> {
        let broker = self.broker.take().map_or_else(|| self.leader(client), Ok)?;
        let native = client.inner().native_ptr();
        let answer = describe(native, &self.topic, broker);
        // SAFETY: the client lives for the call. It has nothing to serve but its log, which would pile up.
        unsafe { sys::rd_kafka_poll(native, 0) };
        self.broker = answer.is_ok().then_some(broker);
        answer
    }

    fn leader(&self, client: &Client) -> KafkaResult<i32> {
        let metadata = client.inner().fetch_metadata(Some(&self.topic), ANSWER_MAX)?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let leader = partitions.find_map(|partition| Some(partition.leader()).filter(|id| *id >= 0));
        leader.ok_or(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition))
    }
}

fn describe(client: *mut RDKafka, topic: &str, broker: i32) -> KafkaResult<Option<String>> {
    let name = CString::new(topic).map_err(|_| KafkaError::AdminOpCreation("a topic with a NUL".into()))?;
    let wait_ms = i32::try_from(ANSWER_MAX.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `client` is a live client; all that is made here is destroyed here, and nothing of it is used afterwards. The name is
    // copied by the collection; an error text is not asked for.
    unsafe {
        let (queue, kind) =
            (sys::rd_kafka_queue_new(client), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = sys::rd_kafka_AdminOptions_new(client, kind);
        let mut error = [0 as c_char; 256];
        let set =
            sys::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, error.as_mut_ptr(), error.len());
        let sent = sys::rd_kafka_AdminOptions_set_broker(options, broker, error.as_mut_ptr(), error.len());
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let answer = match (set, sent) {
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR) => {
                sys::rd_kafka_DescribeTopics(client, topics, options, queue);
                let event = sys::rd_kafka_queue_poll(queue, wait_ms);
                let answer = read(event);
                if !event.is_null() {
                    sys::rd_kafka_event_destroy(event);
                }
                answer
            }
            (code, _) => Err(KafkaError::AdminOp(code.into())),
        };
        sys::rd_kafka_TopicCollection_destroy(topics);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// # Safety
/// `event` is null, or an answer to `DescribeTopics` with one topic.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> KafkaResult<Option<String>> {
    let failed = |code: RDKafkaRespErr| KafkaError::AdminOp(code.into());
    // SAFETY: the caller's promise; what is read lives as long as the event, and is copied.
    unsafe {
        if event.is_null() {
            return Err(failed(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT));
        }
        let code = sys::rd_kafka_event_error(event);
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(failed(code));
        }
        let mut count = 0;
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return Err(failed(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
        }
        let code = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(*topics));
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(failed(code));
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(*topics);
        if id.is_null()
            || (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id))
                == (0, 0)
        {
            return Ok(None);
        }
        Ok(Some(CStr::from_ptr(sys::rd_kafka_Uuid_base64str(id)).to_string_lossy().into_owned()))
    }
}
