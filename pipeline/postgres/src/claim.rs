//! Taking ownership of partitions.
//!
//! The claim has to wait for a write that holds the partition's row, and that is how it learns what became of it. Nobody may hold the
//! row for long, though: whoever does after [`PATIENCE`] is ended.

use crate::errors::{OTHER_SPEC, OTHER_TOPIC, fault, sqlstate};
use crate::identity::PipelineIdentity;
use crate::sink::PgSink;
use spawn_core::{Assignment, Claim, Claimed, Fault, FaultClass, Standing};
use sqlx::types::Uuid;
use std::collections::HashMap;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a claim waits for others before it ends them. A write takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn claim(sink: &PgSink, wanted: Vec<Assignment>) -> Result<Vec<Claimed>, Fault> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let partitions: Vec<i32> = wanted.iter().map(|w| w.partition).collect();
    let first: Vec<i64> = wanted.iter().map(|w| w.first_offset).collect();
    let tokens: Vec<Uuid> = wanted.iter().map(|_| Uuid::new_v4()).collect();
    let topic_id = wanted.iter().find_map(|w| w.topic_id.clone());
    // Known once the claim is under way.
    let backend = AtomicI32::new(0);
    let asked = sink.claimer.ask(async |connection| {
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
        backend.store(pid, Relaxed);
        sqlx::query_as("SELECT * FROM spawn.claim($1, $2, $3, $4, $5, $6)")
            .bind(sink.source)
            .bind(&sink.spec_hash[..])
            .bind(&partitions)
            .bind(&first)
            .bind(&tokens)
            .bind(topic_id.as_deref())
            .fetch_all(connection)
            .await
    });
    let mut asked = std::pin::pin!(asked);
    let rows: Vec<(i32, i64, i64)> = loop {
        match tokio::time::timeout(PATIENCE, &mut asked).await {
            Ok(answer) => break answer.map_err(|e| explain(&e, sink, topic_id.as_deref()))?,
            Err(_) => end_blockers(sink, backend.load(Relaxed)).await,
        }
    };
    let tokens: HashMap<i32, Uuid> = partitions.iter().copied().zip(tokens.iter().copied()).collect();
    Ok(rows
        .into_iter()
        .map(|(partition, epoch, position)| Claimed {
            partition,
            claim: Claim { epoch, token: tokens[&partition].as_u128() },
            position,
        })
        .collect())
}

/// Who owns each partition now, and where it stands.
pub(crate) async fn standing(sink: &PgSink) -> Result<Option<Standing>, Fault> {
    let asked = sink.warden.ask(async |connection| {
        sqlx::query_as(
            "SELECT partition, owner_epoch, owner, next_offset FROM spawn.checkpoint WHERE source = $1",
        )
        .bind(sink.source)
        .fetch_all(connection)
        .await
    });
    let rows: Vec<(i32, i64, Uuid, i64)> = asked.await.map_err(|e| fault(&e))?;
    let stands = |(partition, epoch, token, next): (i32, i64, Uuid, i64)| {
        (partition, (Claim { epoch, token: token.as_u128() }, next))
    };
    Ok(Some(rows.into_iter().map(stands).collect()))
}

/// Process, application name, state, and whether it could be ended.
type Ended = (i32, String, Option<String>, bool);

/// Ends the sessions that `backend` waits for, and no other: they are listed in full first, because a function in a condition may be
/// called for rows that the condition leaves out.
async fn end_blockers(sink: &PgSink, backend: i32) {
    let asked = sink.warden.ask(async |connection| {
        sqlx::query_as(
            "WITH blockers AS MATERIALIZED (
                SELECT a.pid, a.application_name, a.state FROM pg_stat_activity a
                 WHERE a.pid = ANY (pg_blocking_pids($1)) AND a.backend_type = 'client backend')
             SELECT pid, application_name, state, pg_terminate_backend(pid) FROM blockers",
        )
        .bind(backend)
        .fetch_all(connection)
        .await
    });
    let ended: Result<Vec<Ended>, _> = asked.await;
    match ended {
        Ok(ended) => {
            for (pid, application, state, done) in ended {
                tracing::warn!(pid, application, state, done, "ended a session that blocked a claim");
            }
        }
        Err(error) => tracing::warn!(%error, "cannot end the sessions that block a claim"),
    }
}

fn explain(error: &sqlx::Error, sink: &PgSink, topic_id: Option<&str>) -> Fault {
    let stored = error
        .as_database_error()
        .and_then(|e| e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
        .and_then(|e| e.detail())
        .unwrap_or_default();
    match sqlstate(error).as_deref() {
        Some(OTHER_SPEC) => other_spec(sink, stored),
        Some(OTHER_TOPIC) => other_topic(sink, stored, topic_id.unwrap_or_default()),
        _ => fault(error),
    }
}

fn other_topic(sink: &PgSink, stored: &str, now: &str) -> Fault {
    let PipelineIdentity { pipeline, topic, .. } = &sink.identity;
    Fault::new(
        FaultClass::Operator,
        "postgres",
        format!(
            "topic `{topic}` was made anew: pipeline `{pipeline}` has read the one with id {stored}, this one's id is {now}, and stored \
             positions mean nothing in it. Nothing of it was written. To end the old reading and begin the new one run `spawn pipelines \
             adopt-topic --pipeline {pipeline} --topic {topic}`"
        ),
    )
}

fn other_spec(sink: &PgSink, stored: &str) -> Fault {
    Fault::new(
        FaultClass::Operator,
        "postgres",
        format!(
            "pipeline `{}` has read topic `{}` with another specification ({}): its rows and yours would mix. Run the binary and models \
             of before, or give the new ones a pipeline of their own: another `name` reads the topic from its start into a generation \
             of its own",
            sink.identity.pipeline,
            sink.identity.topic,
            sink.identity.differences(stored).join("; "),
        ),
    )
}
