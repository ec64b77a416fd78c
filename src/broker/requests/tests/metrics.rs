//! Counting of requests for the metrics, and the sleep of the task that expires them.

use std::{pin::pin, slice};

use futures_util::FutureExt;

use super::*;

/// The counters that are not zero.
fn counted(table: &Table) -> Vec<(&'static str, u64)> {
    let outcomes = table.requests.outcomes().0.into_iter();
    outcomes.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn each_request_is_counted_once_when_it_ends() {
    let mut table = Table::new();
    let (asker, one, two) = (table.old(1), table.new_one(2), table.new_one(3));
    let both = [one.clone(), two.clone()];
    table.open("answered", &asker, &both);
    assert_eq!(counted(&table), []);
    table.answer("answered", &one);
    table.answer("answered", &two);
    assert_eq!(counted(&table), [("answered", 1)]);
    table.open("rejected", &asker, &both);
    table.refuse("rejected", &one);
    table.refuse("rejected", &two);
    table.open("cancelled", &asker, &both);
    table
        .requests
        .cancel("cancelled", &asker, &mut table.notifications);
    table.open("gone", &asker, &both);
    for responder in both {
        (table.requests).disconnect(&responder, DeliveryError::Gone, &mut table.notifications);
    }
    let last = table.new_one(4);
    table.open("late", &asker, &[last]);
    table.now += HOUR;
    table.requests.expire(table.now, |_| {});
    table.requests.count_failed(DeliveryError::UnknownId);
    let expected = [
        ("answered", 1),
        ("rejected", 1),
        ("timeout", 1),
        ("cancelled", 1),
        ("gone", 1),
        ("unknown_id", 1),
    ];
    assert_eq!(counted(&table), expected);
}

#[test]
fn a_request_of_another_broker_is_not_counted_here() {
    let mut table = Table::new();
    let memory = table.memory.clone();
    let asker = Arc::new(Handle::new(1, Pipe::full(), 1024, memory).of_remote());
    let one = table.new_one(2);
    for number in 0..100 {
        let ack = number.to_string();
        table.open(&ack, &asker, slice::from_ref(&one));
        table.answer(&ack, &one);
    }
    assert_eq!(counted(&table), []);
    assert_eq!(table.requests.durations().count(), 0);
}

#[test]
fn the_duration_of_some_requests_is_measured() {
    let mut table = Table::new();
    let (asker, one) = (table.old(1), table.new_one(2));
    let took = Duration::from_millis(7);
    for number in 0..400 {
        let ack = number.to_string();
        table.open(&ack, &asker, slice::from_ref(&one));
        table.now += took;
        table.answer(&ack, &one);
    }
    let durations = table.requests.durations();
    // 50 on average.
    assert!((5..200).contains(&durations.count()), "{durations:?}");
    assert_eq!(durations.sum, took * durations.count() as u32);
}

#[test]
fn the_task_that_expires_requests_sleeps_while_there_is_none() {
    let mut table = Table::new();
    let (asker, one) = (table.old(1), table.new_one(2));
    for round in 0..3 {
        let ack = round.to_string();
        assert!(table.requests.await_pending().now_or_never().is_none());
        table.open(&ack, &asker, slice::from_ref(&one));
        assert!(table.requests.await_pending().now_or_never().is_some());
        table.answer(&ack, &one);
        // The notification of the first poll is still there: it costs one further round.
        let _ = table.requests.await_pending().now_or_never();
    }
}

#[test]
fn a_request_wakes_the_task_that_expires_requests() {
    let table = Table::new();
    let (asker, one) = (table.old(1), table.new_one(2));
    let mut sleeps = pin!(table.requests.await_pending());
    assert!((&mut sleeps).now_or_never().is_none());
    let question = Question {
        ack: "a",
        asker: &asker,
        receivers: &[one],
        names: &[Name {
            id: "2",
            registration: 7,
        }],
        answers: 1,
        timeout: None,
    };
    let opened = table
        .requests
        .open(&question, table.now, &mut Notifications::new());
    assert!(opened.is_ok());
    assert!(sleeps.now_or_never().is_some());
}
