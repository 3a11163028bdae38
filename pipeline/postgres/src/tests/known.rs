//! Contents that were seen before.

use super::fixture::*;
use crate::{PgSink, PipelineIdentity, index_contents};
use spawn_core::{Body, ContentHash, FaultClass, Inferred, MediaFacts, Provenance, Sink};

#[tokio::test]
async fn what_was_written_is_known_in_every_collection_once_the_contents_are_indexed() {
    with_db(async |db| {
        let sink = db.sink().await;
        let claimed = claim(&sink, 0).await;
        let short = || inferred("short", &[[0.5; DIMENSION]]);
        let long = || inferred("long", &[[0.5; DIMENSION], [0.25; DIMENSION]]);
        // The long one twice, under two ids.
        let envelopes = [("a", short()), ("b", long()), ("c", long())].into_iter().enumerate();
        let envelopes = envelopes.map(|(i, (id, made))| envelope(&claimed, i as i64, id, Body::Work(made)));
        sink.write(&unit(&[claimed], envelopes.collect())).await.unwrap();
        let asked = ["short", "long", "never seen"].map(|content| ContentHash::of(content.as_bytes()));
        assert_eq!(sink.known(&asked).await.unwrap(), [], "there is no index yet");

        // Twice at once, as when two workers start.
        let (first, second) = tokio::join!(index_contents(&db.url), index_contents(&db.url));
        first.and(second).unwrap();
        let other = |change: fn(&mut PipelineIdentity)| {
            let mut identity = PipelineIdentity { pipeline: "other".into(), ..identity() };
            change(&mut identity);
            PgSink::open(&db.url, identity)
        };
        let elsewhere = other(|i| i.collection = "another".into()).await.unwrap();
        let newer = other(|i| (i.topic, i.model) = ("others".into(), "m@2".into())).await.unwrap();
        for sink in [sink, elsewhere] {
            let known = sink.known(&asked).await.unwrap();
            assert_eq!(stored(&known), stored(&[short(), long()]));
            // The best label of each item, as another item would have it written.
            assert!(
                known.iter().all(|i| i.chunks[0].labels.len() == 1 && i.chunks[0].labels[0].score == 0.75)
            );
        }
        assert_eq!(newer.known(&asked).await.unwrap(), [], "another model has made nothing of them");
        let mixed =
            other(|i| (i.topic, i.model_hash) = ("more".into(), "1a".into())).await.map(|_| ()).unwrap_err();
        assert!(mixed.class == FaultClass::Operator && mixed.detail.contains("another name"), "{mixed}");
        let namesake = other(|i| {
            (i.topic, i.collection, i.model_hash) = ("more".into(), "third".into(), "1a".into());
        });
        let namesake = namesake.await.unwrap();
        assert_eq!(namesake.known(&asked).await.unwrap(), [], "nor has one that shares the first digits");
    })
    .await;
}

/// What the store keeps of each, by content.
fn stored(all: &[Inferred]) -> Vec<(Provenance, MediaFacts, Vec<pgvector::HalfVector>)> {
    let vectors = |i: &Inferred| {
        let embeddings = i.chunks.iter().filter_map(|c| c.embedding.as_ref());
        embeddings.map(|e| pgvector::HalfVector::from_f32_slice(e.as_slice())).collect()
    };
    let mut all: Vec<_> = all.iter().map(|i| (i.provenance.clone(), i.facts.clone(), vectors(i))).collect();
    all.sort_by_key(|(provenance, ..)| provenance.content.0);
    all
}
