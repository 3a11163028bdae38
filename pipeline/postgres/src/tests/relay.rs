use super::fixture::{Db, claim, unit, with_db};
use super::letters::dead;
use crate::{LETTERS_RELAY, RelayLimits};
use spawn_core::Sink;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_holder_has_the_lease_until_it_gives_it_back_or_its_time_is_over() {
    with_db(|db: Db| async move {
        let store = db.store().await;
        let take = async |holder, time| store.take_lease(LETTERS_RELAY, holder, time).await.unwrap();
        assert!(take(1, LONG).await);
        assert!(take(1, LONG).await, "renewed");
        assert!(!take(2, LONG).await);
        store.end_lease(LETTERS_RELAY, 2).await.unwrap();
        assert!(!take(2, LONG).await, "nobody gives back what is another's");
        store.end_lease(LETTERS_RELAY, 1).await.unwrap();
        assert!(take(2, LONG).await);
        db.execute("UPDATE spawn.lease SET until = now() - interval '1 second'").await;
        assert!(take(1, LONG).await);
    })
    .await;
}

#[tokio::test]
async fn portions_are_bounded_and_what_arrived_does_not_come_again() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        // Eleven bytes of key and value and as many of a header; the third is larger than any portion.
        let mut records: Vec<_> = (0..6).map(|i| dead(&p, i, "x", "decode.truncated")).collect();
        records[2].record.value = Some(vec![0; 1000].into());
        sink.write(&unit(&[p], records)).await.unwrap();
        let store = db.store().await;
        let limits = RelayLimits { records_max: 3, bytes_max: 40 };
        let mut portions = Vec::new();
        loop {
            let letters = store.unpublished(limits).await.unwrap();
            let numbers: Vec<i64> = letters.iter().map(|l| l.number).collect();
            portions.push(letters.iter().map(|l| l.row.origin.offset).collect::<Vec<_>>());
            if numbers.is_empty() {
                break;
            }
            assert_eq!(store.unpublished(limits).await.unwrap(), letters, "reading marks nothing");
            match portions.last().unwrap()[..] {
                [2] => store.unpublishable(numbers[0], "too large").await.unwrap(),
                _ => store.published(&numbers).await.unwrap(),
            }
        }
        assert_eq!(portions, [vec![0, 1], vec![2], vec![3, 4, 5], vec![]]);
        assert_eq!(store.unpublished_count().await.unwrap(), 0);
        db.audited().await;
    })
    .await;
}
