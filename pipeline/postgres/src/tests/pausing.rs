use super::fixture::{Db, claim, envelope, unit, with_db};
use crate::Redrive;
use spawn_core::{Body, Orders, Pause, Rejection, Sink};

#[tokio::test]
async fn a_pause_is_kept_and_ends_as_it_began() {
    with_db(|db: Db| async move {
        let (sink, other, store) = (db.sink().await, db.sink().await, db.store().await);
        assert_eq!(sink.orders().await.unwrap(), Orders::GoOn { by_operator: false });
        let budget = Pause { reason: "too many payload.not_found".into(), probe: Some(3) };
        sink.pause(&budget).await.unwrap();
        assert_eq!(other.orders().await.unwrap(), Orders::Pause(budget.clone()), "every worker sees it");
        other.pause(&Pause { reason: "later".into(), probe: Some(0) }).await.unwrap();
        let row = store.pipelines().await.unwrap().remove(0);
        assert_eq!((row.pipeline.as_str(), row.paused, row.resumes_by_itself), ("test", true, true));
        assert_eq!(row.paused_reason.as_deref(), Some("too many payload.not_found"), "the first one counts");
        assert!(row.paused_at.is_some());
        sink.resume().await.unwrap();
        assert_eq!(other.orders().await.unwrap(), Orders::GoOn { by_operator: false });

        assert!(store.pause_pipeline("test", "maintenance").await.unwrap());
        sink.resume().await.unwrap();
        let kept = Pause { reason: "maintenance".into(), probe: None };
        assert_eq!(sink.orders().await.unwrap(), Orders::Pause(kept), "no probe ends what an operator wants");
        assert!(store.resume_pipeline("test").await.unwrap());
        assert_eq!(sink.orders().await.unwrap(), Orders::GoOn { by_operator: true });
        sink.pause(&budget).await.unwrap();
        sink.resume().await.unwrap();
        assert_eq!(sink.orders().await.unwrap(), Orders::GoOn { by_operator: false }, "the last word counts");
        assert!(!store.pause_pipeline("nobody", "x").await.unwrap());
        assert!(!store.resume_pipeline("nobody").await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_paused_pipeline_leaves_its_deferred_records() {
    with_db(|db: Db| async move {
        let (sink, store) = (db.sink().await, db.store().await);
        let p = claim(&sink, 0).await;
        let later =
            envelope(&p, 0, "a", Body::Deferred(Rejection::new("fetch", "payload.unreachable", "slow")));
        sink.write(&unit(&[p], vec![later])).await.unwrap();
        db.execute("UPDATE spawn.redrive SET due_at = now()").await;
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        store.pause_pipeline("test", "maintenance").await.unwrap();
        assert_eq!(redrive.take().await.unwrap().len(), 0);
        assert_eq!(store.pipelines().await.unwrap()[0].deferred, 1);
        store.resume_pipeline("test").await.unwrap();
        assert_eq!(redrive.take().await.unwrap().len(), 1);
    })
    .await;
}
