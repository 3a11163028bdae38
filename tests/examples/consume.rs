//! Reads so many records of a topic as the line does, and prints how fast that was as one JSON object. For benchmarks.
//!
//! `consume BROKERS TOPIC COUNT`, with the settings of a bulk pipeline. The clock starts with the first records, which do not count: of
//! `rdkafka_performance`, which starts with its first message, that is one, of ours what came with it.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use spawn_core::{Body, Claim, Claimed, Event, Payload, Source};
use spawn_kafka::{ConsumerConfig, FetchProfile, KafkaSource};
use std::time::Instant;

// As `spawn` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, count] = &arguments[..] else { return Err("consume BROKERS TOPIC COUNT".into()) };
    let wanted: u64 = count.parse()?;
    let source = KafkaSource::start(ConsumerConfig {
        brokers: brokers.clone(),
        group: format!("consume-{}-{}", std::process::id(), topic),
        topic: topic.clone(),
        fetch: FetchProfile::THROUGHPUT,
        ..ConsumerConfig::default()
    })?;
    let (mut records, mut first, mut bytes, mut started) = (0_u64, 0_u64, 0_usize, None);
    while records < wanted {
        match source.next().await? {
            Event::Assigned(wanted) => {
                let claim = Claim { epoch: 1, token: 1 };
                let claimed = |a: spawn_core::Assignment| Claimed {
                    partition: a.partition,
                    claim,
                    position: a.first_offset,
                };
                source.start(wanted.into_iter().map(claimed).collect()).await?;
            }
            Event::Records(envelopes) => {
                if started.is_none() {
                    started = Some(Instant::now());
                    first = envelopes.len() as u64;
                }
                records += envelopes.len() as u64;
                bytes += envelopes
                    .iter()
                    .map(|envelope| match &envelope.body {
                        Body::Work(Payload::Inline(payload)) => payload.len(),
                        _ => 0,
                    })
                    .sum::<usize>();
            }
            _ => {}
        }
    }
    let seconds = started.map_or(0.0, |started| started.elapsed().as_secs_f64());
    let timed = records - first;
    println!("{{\"records\": {records}, \"timed\": {timed}, \"bytes\": {bytes}, \"seconds\": {seconds}}}");
    source.stop();
    Ok(())
}
