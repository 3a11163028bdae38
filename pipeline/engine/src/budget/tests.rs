//! Floors, growth, order and pressure of the pools.

use super::*;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What a future that needs no runtime answers now.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_shrunk_reservation_lets_the_next_one_in() {
    let share = Budget::new("test", 10).share(0, 0);
    let mut first = share.acquire(10).await;
    let waiting = tokio::spawn({
        let share = share.clone();
        async move { share.acquire(4).await.bytes() }
    });
    share.pressed().await; // the second one waits
    assert!(!waiting.is_finished());
    first.shrink_to(6);
    assert_eq!(waiting.await.expect("joins"), 4);
    assert_eq!(share.bytes_used(), 6);
}

#[test]
fn work_larger_than_the_budget_enters_alone() {
    let share = Budget::new("test", 4).share(1, 0);
    let whole = now(share.acquire(1 << 40)).expect("enters");
    assert_eq!(whole.bytes(), 4);
    assert!(now(share.acquire(1)).is_none());
    drop(whole);
    assert_eq!(share.bytes_used(), 0);
}

#[test]
fn a_flooded_share_leaves_the_others_their_floor() {
    let budget = Budget::new("test", 100);
    let (flooded, calm) = (budget.share(20, 0), budget.share(20, 0));
    let held: Vec<_> = (0..8).map(|_| now(flooded.acquire(10)).expect("floor and common")).collect();
    let mut waits = pin!(flooded.acquire(10));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    let floor = now(calm.acquire(20)).expect("the floor is kept");
    assert!(now(calm.acquire(1)).is_none(), "beyond it all is taken");
    assert_eq!(calm.bytes_used(), 100);
    drop((held, floor));
    assert!(waits.as_mut().poll(&mut context).is_ready());
}

#[test]
fn the_oldest_grows_whatever_the_younger_hold() {
    let share = Budget::new("test", 100).share(0, 40);
    let mut oldest = now(share.acquire_growing(1)).expect("enters");
    let mut younger = now(share.acquire_growing(1)).expect("enters");
    let rest = now(share.acquire(58)).expect("enters");
    assert!(!younger.try_grow(20), "the reserve is not for the younger");
    assert!(now(younger.grow(20)).is_none());
    assert!(oldest.try_grow(40));
    assert!(share.bytes_used() <= 100);
    oldest.shrink_to(30); // fetched
    assert!(!younger.try_grow(20), "the reserve is in use");
    drop(oldest); // written
    assert!(younger.try_grow(40), "the next one is the oldest");
    drop((younger, rest));
    assert_eq!(share.bytes_used(), 0);
}

/// Many records that all grow to the largest size, in a pool with hardly more than one of them.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_all_grow_come_through() {
    let budget = Budget::new("test", 60);
    let share = budget.share(10, 32);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut reservation = share.acquire_growing(1).await;
        let share = share.clone();
        tasks.spawn(async move {
            tokio::task::yield_now().await;
            reservation.grow(32).await;
            assert!(reservation.bytes() == 32 && share.bytes_used() <= 60);
            reservation.shrink_to(31);
            tokio::task::yield_now().await;
        });
    }
    let all = async { while tasks.join_next().await.transpose().expect("no panic").is_some() {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), all).await.expect("no deadlock");
    assert_eq!(share.bytes_used(), 0);
}
