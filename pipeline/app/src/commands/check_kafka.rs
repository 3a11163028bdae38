//! The part of `spawn check` about Kafka: our settings of the client, the cluster, the topics.

use super::check::Findings;
use crate::config::Settings;
use spawn_jobs::media::INLINE_BYTES_MAX;
use spawn_kafka::TopicSeen;

/// A message's key, headers and frame beside its payload, in bytes.
const FRAME_BYTES: usize = 64 << 10;
/// Largest message that our producers send unless `message.max.bytes` says otherwise.
const PRODUCED_BYTES_MAX: usize = 16 << 20;
/// What librdkafka takes where `max.poll.interval.ms` is not set.
const POLL_INTERVAL_MS: u64 = 300_000;
/// A partition of a dead worker has to move on within this many milliseconds.
const MOVE_MS_MAX: u64 = 30_000;

pub(super) async fn kafka(settings: &Settings, findings: &mut Findings) {
    client(settings, findings);
    intervals(settings, findings);
    let kafka = &settings.kafka;
    let topics: Vec<String> = settings.pipeline.iter().map(|p| p.topic.clone()).collect();
    let seen = match spawn_kafka::inspect::inspect(&kafka.brokers, &kafka.properties, &topics).await {
        Ok(seen) => seen,
        Err(fault) => {
            let fix = "start it, or set kafka.brokers";
            return findings.wrong("kafka", &kafka.brokers, fault, "an answer", fix);
        }
    };
    findings.well("kafka", &kafka.brokers, "answers".into());
    findings.judge(
        (1..=seen.brokers).contains(&usize::try_from(kafka.replication).unwrap_or(0)),
        "replication",
        "kafka.replication",
        format!("{} wanted, {} brokers", kafka.replication, seen.brokers),
        "1 to the number of brokers",
        "lower kafka.replication, or add brokers: topics cannot be created so",
    );
    for (name, topic) in &seen.topics {
        match topic {
            Some(topic) => self::topic(settings, name, topic, findings),
            None => findings.wrong(
                "topic",
                name,
                "not there",
                "a topic",
                "start `spawn worker`, which creates it",
            ),
        }
    }
}

/// Whether librdkafka takes what `[kafka]` and `[kafka.properties]` make together.
fn client(settings: &Settings, findings: &mut Findings) {
    let Some(pipeline) = settings.pipeline.first() else { return };
    match spawn_kafka::inspect::accepted(&crate::line::consumer(settings, pipeline)) {
        Ok(()) => findings.well("client", "kafka.properties", "accepted".into()),
        Err(fault) => findings.wrong(
            "client",
            "kafka.properties",
            fault,
            "settings that librdkafka accepts together",
            "correct the setting that it names",
        ),
    }
}

/// How soon the group gives partitions away, against what the line may take.
fn intervals(settings: &Settings, findings: &mut Findings) {
    let kafka = &settings.kafka;
    let number = |key: &str, otherwise: u64| {
        kafka.properties.get(key).map_or(Some(otherwise), |value| value.trim().parse().ok())
    };
    let claim_ms = spawn_postgres::CLAIM_PATIENCE.as_millis() as u64;
    let stuck_ms = settings.health.stuck_seconds.saturating_mul(1000);
    let fix = "raise max.poll.interval.ms, or lower health.stuck_seconds";
    let at = "kafka.properties.max.poll.interval.ms";
    match number("max.poll.interval.ms", POLL_INTERVAL_MS) {
        Some(poll) if poll > stuck_ms.max(claim_ms) => {
            findings.well("poll_interval", at, format!("{poll} ms"))
        }
        Some(poll) if poll > claim_ms => {
            let want = format!("more than health.stuck_seconds ({stuck_ms} ms), so that health fails first");
            findings.doubtful("poll_interval", at, format!("{poll} ms"), &want, fix);
        }
        other => {
            let found = other.map_or_else(|| "no number".to_owned(), |poll| format!("{poll} ms"));
            let want = format!("more than the {claim_ms} ms that a claim may wait for others");
            findings.wrong("poll_interval", at, found, &want, fix);
        }
    }
    let at = "kafka.session_timeout_ms";
    match number("session.timeout.ms", kafka.session_timeout_ms.into()) {
        Some(session) if session + claim_ms <= MOVE_MS_MAX => {
            findings.well("session", at, format!("{session} ms"));
        }
        other => findings.doubtful(
            "session",
            at,
            other.map_or_else(|| "no number".to_owned(), |session| format!("{session} ms")),
            &format!("at most {} ms: a dead worker's partitions move on within 30 s", MOVE_MS_MAX - claim_ms),
            "lower kafka.session_timeout_ms",
        ),
    }
}

fn topic(settings: &Settings, name: &str, topic: &TopicSeen, findings: &mut Findings) {
    let kafka = &settings.kafka;
    findings.well("topic", name, format!("{} partitions", topic.partitions));
    let wanted = |n: i32| usize::try_from(n).unwrap_or(0);
    if topic.partitions < wanted(kafka.partitions) {
        findings.doubtful(
            "partitions",
            name,
            topic.partitions,
            &format!("kafka.partitions = {}", kafka.partitions),
            "add partitions to the topic, or lower kafka.partitions: at most one worker reads each",
        );
    }
    if topic.replicas < wanted(kafka.replication) {
        findings.doubtful(
            "replicas",
            name,
            topic.replicas,
            &format!("kafka.replication = {}", kafka.replication),
            "reassign its partitions to more brokers, or lower kafka.replication",
        );
    }
    let produced = kafka.properties.get("message.max.bytes").and_then(|v| v.trim().parse().ok());
    let produced: usize = produced.unwrap_or(PRODUCED_BYTES_MAX);
    // Larger files are sent as references.
    let payload = settings.fetch.payload_bytes_max.min(INLINE_BYTES_MAX as usize);
    match topic.message_bytes_max {
        Some(accepted) if accepted.min(produced) < payload + FRAME_BYTES => findings.doubtful(
            "message_bytes",
            name,
            format!("max.message.bytes = {accepted}, our producers send up to {produced}"),
            &format!("{} bytes: a payload of {payload} sent inline, and its frame", payload + FRAME_BYTES),
            "raise the topic's max.message.bytes (and message.max.bytes), or lower fetch.payload_bytes_max",
        ),
        Some(accepted) => findings.well("message_bytes", name, format!("max.message.bytes = {accepted}")),
        None => findings.doubtful(
            "message_bytes",
            name,
            "the brokers do not tell",
            "the topic's max.message.bytes",
            "allow this user DescribeConfigs on the topic",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl Fn(&mut Settings)) -> Vec<String> {
        let mut settings = crate::config::load(None, &Default::default(), &[]).expect("loads").settings;
        change(&mut settings);
        let mut findings = Findings::default();
        client(&settings, &mut findings);
        intervals(&settings, &mut findings);
        findings.wrong_ids()
    }

    fn with(key: &str, value: &str) -> Vec<String> {
        wrong(|s| drop(s.kafka.properties.insert(key.into(), value.into())))
    }

    #[test]
    fn intervals_that_do_not_fit_are_found() {
        assert!(wrong(|_| ()).is_empty());
        assert_eq!(with("max.poll.interval.ms", "20000"), ["poll_interval"]);
        assert_eq!(wrong(|s| s.health.stuck_seconds = 301), ["poll_interval"]);
        assert_eq!(wrong(|s| s.kafka.session_timeout_ms = 26_000), ["session"]);
        // librdkafka wants it to be at least the session's.
        assert_eq!(with("max.poll.interval.ms", "4000"), ["client", "poll_interval"]);
        assert_eq!(with("nonsense", "1"), ["client"]);
    }
}
