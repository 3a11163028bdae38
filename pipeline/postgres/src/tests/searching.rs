//! Search against brute force, on clustered vectors.

use super::fixture::{Db, claim, envelope, identity, inferred, unit, with_db};
use crate::{Indexed, Narrow, PgSink, SearchFilter, Store, StoreError};
use spawn_core::{Body, Claimed, Embedding, Envelope, Inference, Inferred, Modality, Sink};
use std::collections::HashSet;

const WIDE: usize = 48;

/// A small generator (xorshift64*), so that the vectors are the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..WIDE).map(|_| self.next()).collect()
    }

    fn around(&mut self, centre: &[f32]) -> Vec<f32> {
        centre.iter().map(|c| c + 0.5 * self.next()).collect()
    }
}

fn wide(p: &Claimed, offset: i64, vector: Vec<f32>) -> Envelope<Inferred> {
    let mut made = inferred(&offset.to_string(), &[]);
    made.chunks =
        vec![Inference { embedding: Some(Embedding::try_new(vector, WIDE).unwrap()), labels: Vec::new() }];
    let mut envelope = envelope(p, offset, &format!("v{offset}"), Body::Work(made));
    envelope.job.metadata.insert("even".into(), (offset % 2 == 0).into());
    envelope
}

#[tokio::test]
async fn the_index_is_used_and_finds_what_brute_force_finds() {
    with_db(|db: Db| async move {
        let mut id = identity();
        id.dimension = WIDE;
        let sink = PgSink::open(&db.url, id).await.unwrap();
        let mut random = Random(42);
        let centres: Vec<Vec<f32>> = (0..50).map(|_| random.vector()).collect();
        let mut p = claim(&sink, 0).await;
        load(&sink, &mut p, 5000, || random.around(&centres[(random.0 % 50) as usize])).await;
        let store = db.store().await;
        assert!(!store.generations().await.unwrap()[0].indexed);
        let mut steps = Vec::new();
        let built =
            store.build_index(sink.generation(), |done, total| steps.push((done, total))).await.unwrap();
        let indexed = Indexed { rows: 5000, segments: 1, open_rows: 0, seal_at: 10_000 };
        assert_eq!((built, steps.last()), (indexed, Some(&(5000, 5000))));
        assert!(store.generations().await.unwrap()[0].indexed);
        let again = store.build_index(sink.generation(), |_, _| {}).await.unwrap();
        assert_eq!(again, indexed, "nothing to do");

        let near = SearchFilter { modality: Modality::Text, exact: false, limit: 10 };
        let exact = SearchFilter { exact: true, ..near };
        let (any, even) = (
            Narrow::default(),
            Narrow { metadata: Some(serde_json::json!({"even": true})), ..Default::default() },
        );
        let probe = random.around(&centres[7]);
        let plan = store.explain_search(&probe, &near, &any).await.unwrap();
        assert!(plan.contains("Index Scan using embedding_1_s1_hnsw"), "{plan}");
        let plan = store.explain_search(&probe, &exact, &any).await.unwrap();
        assert!(!plan.contains("hnsw"), "{plan}");

        for narrow in [&any, &even] {
            let recall = recall(&store, &mut random, &centres, (&near, &exact), narrow).await;
            assert!(recall >= 0.95, "recall at 10 is {recall} with {narrow:?}");
        }
    })
    .await;
}

/// Writes so many records in units of 500.
async fn load(sink: &PgSink, p: &mut Claimed, count: i64, mut vector: impl FnMut() -> Vec<f32>) {
    for _ in 0..count / 500 {
        let records = (p.position..p.position + 500).map(|i| wide(p, i, vector()));
        sink.write(&unit(&[*p], records.collect())).await.unwrap();
        p.position += 500;
    }
}

#[tokio::test]
async fn what_comes_after_an_index_is_found_without_being_put_into_it() {
    with_db(|db: Db| async move {
        let mut id = identity();
        id.dimension = WIDE;
        let sink = PgSink::open(&db.url, id).await.unwrap();
        let mut random = Random(7);
        let centres: Vec<Vec<f32>> = (0..50).map(|_| random.vector()).collect();
        let mut p = claim(&sink, 0).await;
        let store = db.store().await;
        load(&sink, &mut p, 2000, || random.around(&centres[(random.0 % 50) as usize])).await;
        store.build_index(sink.generation(), |_, _| {}).await.unwrap();

        load(&sink, &mut p, 1000, || random.around(&centres[(random.0 % 50) as usize])).await;
        let built = store.build_index(sink.generation(), |_, _| {}).await.unwrap();
        assert_eq!(built, Indexed { rows: 2000, segments: 1, open_rows: 1000, seal_at: 10_000 });
        assert_eq!(db.number("SELECT count(*) FROM spawn.embedding_1_s1").await, 2000);
        let exact = SearchFilter { modality: Modality::Text, exact: true, limit: 10 };
        let near = SearchFilter { exact: false, ..exact };
        let found = recall(&store, &mut random, &centres, (&near, &exact), &Narrow::default()).await;
        assert!(found >= 0.95, "recall at 10 over an index and an open segment is {found}");

        load(&sink, &mut p, 9000, || random.around(&centres[(random.0 % 50) as usize])).await;
        let built = store.build_index(sink.generation(), |_, _| {}).await.unwrap();
        assert_eq!(built, Indexed { rows: 12_000, segments: 2, open_rows: 0, seal_at: 10_000 });
        let plan = store.explain_search(&random.vector(), &near, &Narrow::default()).await.unwrap();
        assert!(plan.contains("embedding_1_s1_hnsw") && plan.contains("embedding_1_s2_hnsw"), "{plan}");
        let found = recall(&store, &mut random, &centres, (&near, &exact), &Narrow::default()).await;
        assert!(found >= 0.95, "recall at 10 over two indexes is {found}");
        assert_eq!(store.found_again(Modality::Text).await.unwrap(), (1000, 1000));
    })
    .await;
}

async fn recall(
    store: &Store,
    random: &mut Random,
    centres: &[Vec<f32>],
    (near, exact): (&SearchFilter, &SearchFilter),
    narrow: &Narrow,
) -> f64 {
    let mut right = 0;
    for round in 0..40 {
        let query = random.around(&centres[round % 50]);
        let truth = store.search_narrow(&query, exact, narrow).await.unwrap();
        let found = store.search_narrow(&query, near, narrow).await.unwrap();
        assert_eq!((truth.returned, found.returned), (10, 10));
        assert!(found.hits.windows(2).all(|w| w[0].cosine >= w[1].cosine));
        let truth: HashSet<&str> = truth.hits.iter().map(|h| h.id.as_str()).collect();
        right += found.hits.iter().filter(|h| truth.contains(h.id.as_str())).count();
    }
    right as f64 / 400.0
}

#[tokio::test]
async fn hits_are_items_with_their_nearest_chunk() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        // One item with 40 chunks that are all nearer than the only chunk of the others.
        let many: Vec<[f32; 4]> = (0..40).map(|i| [1.0, 0.001 * (i as f32 - 20.0), 0.0, 0.0]).collect();
        let records = vec![
            envelope(&p, 0, "many", Body::Work(inferred("many", &many))),
            envelope(&p, 1, "near", Body::Work(inferred("near", &[[1.0, 0.5, 0.0, 0.0]]))),
            envelope(&p, 2, "far", Body::Work(inferred("far", &[[-1.0, 0.0, 0.0, 0.0]]))),
            envelope(&p, 3, "zero", Body::Work(inferred("zero", &[[0.0; 4]]))),
        ];
        sink.write(&unit(&[p], records)).await.unwrap();
        let store = db.store().await;
        for exact in [true, false] {
            let filter = SearchFilter { modality: Modality::Text, exact, limit: 3 };
            let found = store.search(&[1.0, 0.0, 0.0, 0.0], &filter).await.unwrap();
            let hits: Vec<_> =
                found.hits.iter().map(|h| (h.rank, h.source_uri.as_deref().unwrap(), h.chunk)).collect();
            assert_eq!(hits, [(1, "file:///many", 20), (2, "file:///near", 0), (3, "file:///far", 0)]);
            assert!((found.hits[0].cosine - 1.0).abs() < 1e-6 && (found.hits[2].cosine + 1.0).abs() < 1e-6);
            assert_eq!((found.requested, found.returned), (3, 3));
        }
        let filter = SearchFilter { modality: Modality::Text, exact: false, limit: 3 };
        assert!(matches!(
            store.search(&[1.0], &filter).await,
            Err(StoreError::Dimension { want: 4, got: 1, .. })
        ));
        assert!(matches!(store.search(&[0.0; 4], &filter).await, Err(StoreError::NoDirection)));
        let images = SearchFilter { modality: Modality::Image, ..filter };
        assert!(matches!(
            store.search(&[1.0; 4], &images).await,
            Err(StoreError::NoGeneration(Modality::Image))
        ));
    })
    .await;
}
