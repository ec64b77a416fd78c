//! Tests of groups: who gets a message, what waits, and who waits for room.

use super::*;
use crate::{memory::Memory, transport::socket::pipe::Pipe};

fn handle(key: u64) -> Arc<Handle> {
    let memory = Arc::new(Memory::new(usize::MAX));
    Arc::new(Handle::new(key, Pipe::full(), 1024, memory))
}

fn job(text: &'static str) -> Job {
    let frame = Bytes::from_static(text.as_bytes());
    Job {
        frame,
        request: None,
        hops: 0,
    }
}

fn texts(assigned: &[Assignment]) -> Vec<(&str, u64)> {
    let text = |job: &Job| match &job.frame[..] {
        b"1" => "1",
        b"2" => "2",
        _ => "other",
    };
    let each = assigned.iter();
    each.map(|(job, handle)| (text(job), handle.key)).collect()
}

#[test]
fn a_message_that_a_closed_member_did_not_get_is_the_next_of_another() {
    let group = Group::new(&"jobs".into(), "g");
    let (a, b) = (handle(1), handle(2));
    let mut assigned = Vec::new();
    group.set(&a, 1, &mut assigned);
    group.set(&b, 1, &mut assigned);
    let first = group.dispatch(&job("1")).unwrap();
    let second = group.dispatch(&job("other")).unwrap();
    assert_eq!((first.key, second.key), (1, 2));
    assert_eq!(group.dispatch(&job("2")).unwrap_err(), Dispatched::Queued);
    // `a` has closed, and `b` is busy: the message waits before the one that came later.
    assert!(group.take_back(&job("1"), &a).unwrap().is_empty());
    assert_eq!(texts(&group.acknowledge(&b, 1)), [("1", 2)]);
    assert_eq!(texts(&group.acknowledge(&b, 1)), [("2", 2)]);
    assert!(group.acknowledge(&a, 1).is_empty(), "it takes no more");
    assert_eq!(group.state.lock().bytes, 0);
    assert!(group.remove(&a).is_empty() && !group.is_empty());
    assert!(group.remove(&b).is_empty() && group.is_empty());
    // The last member has left meanwhile: nothing may wait here.
    assert!(group.take_back(&job("3"), &b).is_none());
    assert_eq!(group.dispatch(&job("2")).unwrap_err(), Dispatched::Empty);
}

#[test]
fn a_message_waits_until_the_outbox_of_an_idle_member_has_room() {
    let group = Group::new(&"jobs".into(), "g");
    let a = handle(1);
    let mut assigned = Vec::new();
    group.set(&a, 2, &mut assigned);
    let _ = a.outbox.push(&["x".repeat(2000).as_str()]);
    assert!(!a.awaits_jobs());
    assert_eq!(group.dispatch(&job("1")).unwrap_err(), Dispatched::Queued);
    assert!(a.awaits_jobs(), "it has nothing to acknowledge");
    a.set_awaits_jobs(false);
    assert!(group.acknowledge(&a, 0).is_empty());
    assert!(a.awaits_jobs());
    a.outbox.discard();
    assert_eq!(texts(&group.acknowledge(&a, 0)), [("1", 1)]);
}

fn asked(group: &Group, asker: &Arc<Handle>, ack: &str) -> Result<Arc<Handle>, Dispatched> {
    let request = JobRequest {
        asker: asker.clone(),
        ack: ack.into(),
        dest: "\"a\"".into(),
        asked_as: None,
        answers: 1,
        deadline: None,
        is_cancelled: Arc::default(),
    };
    group.dispatch(&Job {
        request: Some(request),
        ..job("1")
    })
}

#[test]
fn a_group_offers_the_member_that_is_next_and_requests_that_wait_are_cancelled() {
    let group = Group::new(&"jobs".into(), "g");
    let now = Instant::now();
    let offer = || (group.offer(now)).map(|one| (one.member.to_string(), one.is_free));
    assert_eq!(offer(), None);
    let (a, b, asker, other) = (handle(1), handle(2), handle(3), handle(4));
    for (member, id) in [(&a, "a"), (&b, "b")] {
        *member.last_id.lock() = Some(id.into());
        member.set_registration(1);
        group.set(member, 1, &mut Vec::new());
    }
    for id in ["a", "b"] {
        assert_eq!(offer(), Some((id.to_owned(), true)));
        group.on_offer_taken();
        let next = asked(&group, &asker, "first").expect("it is free");
        assert_eq!(next.owned_id().as_deref(), Some(id));
    }
    assert_eq!(offer().map(|(_, is_free)| is_free), Some(false));
    for member in [&a, &b] {
        assert!(group.acknowledge(member, 1).is_empty());
    }
    // No more than there is room for, until these have come or are late.
    for is_free in [true, true, false, false] {
        assert_eq!(offer().map(|(_, is_free)| is_free), Some(is_free));
    }
    group.on_offer_taken();
    assert_eq!(offer().map(|(_, is_free)| is_free), Some(true));
    let later = group.offer(now + OFFER_TIME);
    assert_eq!(later.map(|one| one.is_free), Some(true));
    for _ in 0..2 {
        assert!(asked(&group, &asker, "second").is_ok());
    }
    for ack in ["x", "y"] {
        let waits = asked(&group, &asker, ack).unwrap_err();
        assert_eq!(waits, Dispatched::Queued);
    }
    group.cancel("x", &other);
    assert!(group.has_waiting("x", &asker) && !group.has_waiting("x", &other));
    group.cancel("x", &asker);
    assert!(!group.has_waiting("x", &asker) && group.has_waiting("y", &asker));
    assert_eq!(group.state.lock().bytes, 1);
    a.set_registration(0);
    b.set_registration(0);
    assert_eq!(offer(), None);
}

#[test]
fn senders_wait_once_too_many_messages_wait_and_are_woken_by_room() {
    use std::task::{Wake, Waker};

    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    let group = Group::new(&"jobs".into(), "g");
    let a = handle(1);
    let count = Arc::new(Count(0.into()));
    let waker = Waker::from(count.clone());
    group.set(&a, 0, &mut Vec::new());
    for _ in 0..MAX_JOBS {
        assert!(group.has_room(7, &waker));
        assert_eq!(group.dispatch(&job("1")).unwrap_err(), Dispatched::Queued);
    }
    assert_eq!(group.dispatch(&job("1")).unwrap_err(), Dispatched::Full);
    for _ in 0..3 {
        assert!(!group.has_room(7, &waker));
    }
    let mut assigned = Vec::new();
    group.set(&a, 1, &mut assigned);
    assert_eq!((assigned.len(), count.0.load(Relaxed)), (1, 1));
    assert!(group.has_room(7, &waker));
}
