//! A database of its own for each test, and units made by hand.

use crate::{PgSink, PipelineIdentity, Store, migrate};
use spawn_core::{
    Assignment, Batch, Body, Claimed, ContentHash, Embedding, Envelope, Inference, Inferred, ItemId, Job,
    Label, MediaFacts, Modality, Origin, PartitionSpan, Provenance, Record, Sink,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub(super) const DIMENSION: usize = 4;

/// One test's database.
#[derive(Clone)]
pub(super) struct Db {
    pub(super) url: String,
}

/// The server's URL.
pub(super) fn server() -> String {
    std::env::var("DATABASE_URL")
        .expect("DATABASE_URL is not set: run the tests through setup/with-services, or point it at a PostgreSQL with pgvector")
}

/// Runs `test` with an empty database that has the schema, and drops it afterwards, also when the test fails.
pub(super) async fn with_db<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Db) -> F) {
    with_empty_db(|db| {
        let test = test(db.clone());
        async move {
            migrate(&db.url).await.unwrap();
            test.await;
        }
    })
    .await;
}

/// The same without the schema.
pub(super) async fn with_empty_db<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Db) -> F) {
    let name = format!("spawn_test_{}", sqlx::types::Uuid::new_v4().simple());
    let server = server();
    let mut admin = PgConnection::connect(&server).await.unwrap();
    execute(&mut admin, &format!("CREATE DATABASE {name}")).await;
    let (base, _) = server.rsplit_once('/').unwrap();
    let ended = tokio::spawn(test(Db { url: format!("{base}/{name}") })).await;
    execute(&mut admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(failed) = ended {
        std::panic::resume_unwind(failed.into_panic());
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

impl Db {
    pub(super) async fn sink(&self) -> PgSink {
        PgSink::open(&self.url, identity()).await.unwrap()
    }

    pub(super) async fn store(&self) -> Store {
        Store::connect(&self.url, 4).await.unwrap()
    }

    pub(super) async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    pub(super) async fn execute(&self, sql: &str) {
        execute(&mut self.connection().await, sql).await;
    }

    /// The first column of the first row.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT ({sql})::bigint")))
            .fetch_one(&mut self.connection().await)
            .await
            .unwrap()
    }

    /// Offset, outcome and reason of every ledger row of the partition.
    pub(super) async fn ledger(&self, partition: i32) -> Vec<(i64, i16, Option<String>)> {
        sqlx::query_as(
            "SELECT \"offset\", outcome, reason FROM spawn.record WHERE partition = $1 ORDER BY \"offset\"",
        )
        .bind(partition)
        .fetch_all(&mut self.connection().await)
        .await
        .unwrap()
    }

    pub(super) async fn audited(&self) {
        let report = self.store().await.audit().await.unwrap();
        assert!(report.ok, "{report:#?}");
    }
}

pub(super) fn identity() -> PipelineIdentity {
    PipelineIdentity {
        pipeline: "test".into(),
        topic: "jobs".into(),
        collection: "main".into(),
        modality: Modality::Text,
        model: "m@1".into(),
        model_hash: "1".into(),
        preparation: "p/1".into(),
        dtype: "f32".into(),
        dimension: DIMENSION,
    }
}

/// One partition from offset 0.
pub(super) async fn claim(sink: &PgSink, partition: i32) -> Claimed {
    sink.claim(vec![Assignment::new(partition, 0)]).await.unwrap()[0]
}

pub(super) fn inferred(content: &str, vectors: &[[f32; DIMENSION]]) -> Inferred {
    let chunks = vectors.iter().map(|v| Inference {
        embedding: Some(Embedding::try_new(v.to_vec(), DIMENSION).unwrap()),
        labels: vec![Label { name: "cat".into(), score: 0.75 }],
    });
    Inferred {
        chunks: chunks.collect(),
        pooled: None,
        facts: MediaFacts { media_type: "text/plain".into(), ..MediaFacts::default() },
        provenance: Provenance {
            content: ContentHash::of(content.as_bytes()),
            preparation: "p/1".into(),
            model: "m@1".into(),
            dtype: "f32".into(),
        },
    }
}

/// A finished record whose content follows from its id.
pub(super) fn work(claimed: &Claimed, offset: i64, id: &str) -> Envelope<Inferred> {
    let spread = ContentHash::of(id.as_bytes()).0;
    let vector = std::array::from_fn(|i| f32::from(spread[i]) / 255.0 + 0.01);
    envelope(claimed, offset, id, Body::Work(inferred(id, &[vector])))
}

pub(super) fn envelope(claimed: &Claimed, offset: i64, id: &str, body: Body<Inferred>) -> Envelope<Inferred> {
    let record = Record {
        origin: Origin { topic: "jobs".into(), partition: claimed.partition, offset },
        claim: claimed.claim,
        ordinal: 0,
        key: Some(id.as_bytes().to_vec().into()),
        value: Some(format!("value of {id}").into_bytes().into()),
        headers: vec![("ce_id".into(), id.as_bytes().to_vec().into())],
        timestamp_ms: 1_700_000_000_000,
    };
    let job = Job {
        id: ItemId::of_event("test", id),
        event_id: Some(id.into()),
        source: "test".into(),
        source_uri: Some(format!("file:///{id}")),
        media_type: None,
        metadata: serde_json::Map::new(),
    };
    Envelope::new(record, job, body)
}

/// The unit of these records; spans begin at the claims' positions and end after the last record.
pub(super) fn unit(claims: &[Claimed], envelopes: Vec<Envelope<Inferred>>) -> Batch<Inferred> {
    let mut batch = Batch { envelopes, delta: Default::default(), flushed: Vec::new() };
    for claimed in claims {
        let own = batch.envelopes.iter().filter(|e| e.origin().partition == claimed.partition);
        let offsets: Vec<i64> = own.map(|e| e.origin().offset).collect();
        let to = offsets.iter().max().map_or(claimed.position, |last| last + 1);
        let span =
            PartitionSpan { from: claimed.position, to, claim: claimed.claim, records: offsets.len() as u64 };
        batch.delta.insert(claimed.partition, span);
    }
    batch
}

/// Records `range` of a partition, ids `prefix` and the offset.
pub(super) fn works(claimed: &Claimed, prefix: &str, range: std::ops::Range<i64>) -> Vec<Envelope<Inferred>> {
    range.map(|offset| work(claimed, offset, &format!("{prefix}{offset}"))).collect()
}

/// The claim further on.
pub(super) fn at(claimed: &Claimed, position: i64) -> Claimed {
    Claimed { position, ..*claimed }
}
