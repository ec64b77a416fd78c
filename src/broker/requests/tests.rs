//! Requests in sequence: who may answer, how each ends, and its notifications.

mod metrics;

use std::slice;

use super::*;
use crate::transport::socket::pipe::Pipe;

const HOUR: Duration = Duration::from_secs(3600);
/// Limit of pending deliveries of one asker.
const MAX_PENDING: usize = 4;

/// Requests with a clock and the notifications collected.
struct Table {
    memory: Arc<Memory>,
    requests: Requests,
    now: Instant,
    notifications: Notifications,
}

impl Table {
    fn new() -> Self {
        let memory = Arc::new(Memory::new(usize::MAX));
        Self {
            requests: Requests::new(HOUR, MAX_PENDING, memory.clone()),
            memory,
            now: Instant::now(),
            notifications: Notifications::new(),
        }
    }

    /// Connection of version 1.
    fn old(&self, key: u64) -> Arc<Handle> {
        Arc::new(Handle::new(key, Pipe::full(), 1024, self.memory.clone()))
    }

    /// Connection of version 2.
    fn new_one(&self, key: u64) -> Arc<Handle> {
        let handle = self.old(key);
        handle.set_uses_version_2(true);
        handle
    }

    fn open(&mut self, ack: &str, asker: &Arc<Handle>, to: &[Arc<Handle>]) {
        self.ask(ack, asker, to, 1, None).unwrap();
    }

    /// Each receiver's id is its key.
    fn ask(
        &mut self,
        ack: &str,
        asker: &Arc<Handle>,
        to: &[Arc<Handle>],
        answers: u32,
        timeout: Option<Duration>,
    ) -> Result<(), ActionError> {
        let ids: Vec<_> = to.iter().map(|handle| handle.key.to_string()).collect();
        let names: Vec<_> = (ids.iter())
            .map(|id| Name {
                id,
                registration: 7,
            })
            .collect();
        let question = Question {
            ack,
            asker,
            receivers: to,
            names: &names,
            answers,
            timeout,
        };
        let request = loop {
            match (self.requests).open(&question, self.now, &mut self.notifications)? {
                Opened::Pending(request) => break request,
                Opened::Expired => assert!(!self.notifications.is_empty()),
            }
        };
        if let Some(request) = request {
            self.requests.delivered(&request, &mut self.notifications);
        }
        Ok(())
    }

    fn answer(&mut self, ack: &str, responder: &Handle) -> Option<u64> {
        let notifications = &mut self.notifications;
        let part = self
            .requests
            .answer(ack, responder, self.now, notifications);
        part.map(|part| part.asker.key)
    }

    fn refuse(&mut self, ack: &str, responder: &Handle) -> Option<(u64, bool)> {
        let notifications = &mut self.notifications;
        let part = self
            .requests
            .refuse(ack, responder, self.now, notifications);
        part.map(|part| (part.asker.key, part.ended))
    }

    fn leave(&mut self, handle: &Handle, error: DeliveryError) {
        self.requests
            .disconnect(handle, error, &mut self.notifications);
    }

    fn expire(&mut self, after: Duration) {
        self.now += after;
        let notified = &mut self.notifications;
        self.requests
            .expire(self.now, |notifications| notified.append(notifications));
    }

    /// Notifications since the last call, in order.
    fn notified(&mut self) -> Vec<String> {
        let notified = self
            .notifications
            .drain(..)
            .map(|notification| match notification {
                Notification::Failed {
                    asker,
                    ack,
                    dest,
                    error,
                } => format!("{} {ack}: {dest} {}", asker.key, error.code()),
                Notification::Cancelled { responder, ack } => {
                    format!("{} {ack}: cancel", responder.key)
                }
            });
        let mut notified: Vec<_> = notified.collect();
        notified.sort();
        notified
    }

    /// Asserts that nothing is pending, counted or charged.
    fn is_empty(&self, asker: &Handle) {
        let requests = asker.requests.lock();
        assert_eq!((self.requests.count(), requests.deliveries()), (0, 0));
        assert_eq!((requests.charged(), self.memory.used()), (0, 0));
    }
}

fn name(id: &str) -> Name<'_> {
    Name {
        id,
        registration: 7,
    }
}

#[test]
fn a_held_request_ends_with_its_last_responder_once_it_is_released() {
    let mut table = Table::new();
    let asker = table.new_one(1);
    let (holder, first, second) = (table.old(9), table.new_one(2), table.new_one(3));
    let open = |table: &mut Table, ack: &str, answers| {
        let question = Question {
            ack,
            asker: &asker,
            receivers: slice::from_ref(&holder),
            names: &[name("")],
            answers,
            timeout: None,
        };
        let opened = table
            .requests
            .open(&question, table.now, &mut table.notifications);
        let request = opened.unwrap().pending().expect("the asker is notified");
        table.requests.delivered(&request, &mut table.notifications);
        request
    };
    let extend = |table: &mut Table, request: &Arc<Request>, to: &Arc<Handle>| {
        let id = to.key.to_string();
        let extended = (table.requests).extend(request, to, name(&id), &mut table.notifications);
        table.requests.delivered(request, &mut table.notifications);
        extended
    };
    let release = |table: &mut Table, request: &Arc<Request>| {
        let error = DeliveryError::NoSubscriber;
        (table.requests).release(request, &holder, error, &mut table.notifications)
    };
    // Without any other responder.
    let request = open(&mut table, "a", 1);
    assert!(release(&mut table, &request) && !release(&mut table, &request));
    assert_eq!(extend(&mut table, &request, &first), None);
    // All others have ended before.
    let request = open(&mut table, "b", u32::MAX);
    assert_eq!(extend(&mut table, &request, &first), Some(true));
    assert_eq!(extend(&mut table, &request, &first), Some(false));
    let answered = table
        .requests
        .answer("b", &first, table.now, &mut table.notifications);
    assert!(!answered.expect("it may").ended);
    assert_eq!(extend(&mut table, &request, &first), Some(false));
    assert_eq!(table.requests.count(), 1);
    assert!(release(&mut table, &request));
    // One is left.
    let request = open(&mut table, "c", u32::MAX);
    assert_eq!(extend(&mut table, &request, &second), Some(true));
    assert!(release(&mut table, &request));
    assert_eq!(table.requests.count(), 1);
    let answered = table
        .requests
        .answer("c", &second, table.now, &mut table.notifications);
    assert!(answered.expect("it may").ended);
    // The first answer ends it, and cancels the others.
    let request = open(&mut table, "d", 1);
    assert_eq!(extend(&mut table, &request, &first), Some(true));
    assert_eq!(extend(&mut table, &request, &second), Some(true));
    assert!(table.notifications.is_empty());
    let answered = table
        .requests
        .answer("d", &first, table.now, &mut table.notifications);
    assert!(answered.expect("it may").ended);
    let [Notification::Cancelled { responder, .. }] = &table.notifications[..] else {
        panic!("{:?}", table.notifications);
    };
    assert_eq!(responder.key, second.key);
    assert!(!release(&mut table, &request));
    assert_eq!(asker.requests.lock().deliveries(), 0);
}

#[test]
fn the_first_answer_of_a_receiver_wins() {
    let mut table = Table::new();
    let [asker, one, two, other] = [1, 2, 3, 4].map(|key| table.old(key));
    table.open("k", &asker, &[one.clone(), two.clone()]);
    assert_eq!(table.answer("k", &other), None, "it was not asked");
    assert_eq!(table.answer("k", &two), Some(1));
    assert_eq!(table.answer("k", &one), None, "it was too late");
    table.is_empty(&asker);
    assert!(table.notified().is_empty());
}

#[test]
fn a_pending_ack_cannot_be_taken_over() {
    let mut table = Table::new();
    let [asker, other, one] = [1, 2, 3].map(|key| table.old(key));
    let one = std::slice::from_ref(&one);
    table.open("k", &asker, one);
    let taken = table.ask("k", &other, one, 1, None);
    assert_eq!(taken, Err(ActionError::AckTaken));
    table.open("k", &asker, one);
    assert_eq!(table.answer("k", &one[0]), Some(1));
    table.open("k", &other, one);
}

#[test]
fn an_ack_is_free_again_after_the_timeout() {
    let mut table = Table::new();
    let [asker, other, one] = [1, 2, 3].map(|key| table.new_one(key));
    let to = std::slice::from_ref(&one);
    table.open("k", &asker, to);
    assert!(table.requests.check("k", &other, table.now).is_err());
    // The request has not been expired yet.
    table.now += HOUR;
    table.requests.check("k", &other, table.now).unwrap();
    table.open("k", &asker, to);
    assert_eq!(table.notified(), ["1 k: 3 TIMEOUT", "3 k: cancel"]);
    assert_eq!(table.answer("k", &one), Some(1));
    table.open("k", &asker, to);
    table.now += HOUR;
    table.open("k", &other, to);
    assert_eq!(asker.requests.lock().deliveries(), 0);
    assert_eq!(table.notified(), ["1 k: 3 TIMEOUT", "3 k: cancel"]);
    table.now += HOUR;
    assert_eq!(table.answer("k", &one), None, "it is too late");
    assert_eq!(table.notified(), ["2 k: 3 TIMEOUT", "3 k: cancel"]);
    table.is_empty(&other);
}

#[test]
fn a_request_ends_with_its_asker_its_last_responder_or_on_timeout() {
    let open = || {
        let mut table = Table::new();
        let [asker, one, two] = [1, 2, 3].map(|key| table.new_one(key));
        table.open("k", &asker, &[one.clone(), two.clone()]);
        (table, asker, one, two)
    };
    let (mut table, asker, one, two) = open();
    table.leave(&one, DeliveryError::Slow);
    assert_eq!(table.requests.count(), 1);
    table.leave(&two, DeliveryError::Gone);
    table.is_empty(&asker);
    assert_eq!(table.notified(), ["1 k: 2 SLOW", "1 k: 3 GONE"]);
    table.open("late", &asker, &[one]);
    table.is_empty(&asker);
    assert_eq!(
        table.notified(),
        ["1 late: 2 SLOW"],
        "who has gone cannot answer"
    );

    let (mut table, asker, ..) = open();
    table.leave(&asker, DeliveryError::Gone);
    table.is_empty(&asker);
    assert_eq!(table.notified(), ["2 k: cancel", "3 k: cancel"]);

    let (mut table, asker, ..) = open();
    table.expire(HOUR - Duration::from_secs(1));
    assert_eq!(table.requests.count(), 1);
    table.expire(Duration::from_secs(2));
    table.is_empty(&asker);
    let notified = [
        "1 k: 2 TIMEOUT",
        "1 k: 3 TIMEOUT",
        "2 k: cancel",
        "3 k: cancel",
    ];
    assert_eq!(table.notified(), notified);
}

#[test]
fn beyond_the_limit_the_oldest_request_expires() {
    let mut table = Table::new();
    let [asker, one, two] = [1, 2, 3].map(|key| table.new_one(key));
    for ack in ["a", "b", "c"] {
        table.open(ack, &asker, &[one.clone(), two.clone()]);
    }
    let notified = [
        "1 a: 2 TIMEOUT",
        "1 a: 3 TIMEOUT",
        "2 a: cancel",
        "3 a: cancel",
    ];
    assert_eq!(table.notified(), notified);
    assert_eq!(table.answer("a", &one), None);
    assert_eq!(table.answer("b", &one), Some(1));
    assert_eq!(table.answer("c", &one), Some(1));
    assert_eq!(table.notified(), ["3 b: cancel", "3 c: cancel"]);
    table.is_empty(&asker);
}

#[test]
fn ended_requests_do_not_accumulate_behind_a_pending_one() {
    let mut table = Table::new();
    let [asker, one] = [1, 2].map(|key| table.old(key));
    let to = std::slice::from_ref(&one);
    table.open("old", &asker, to);
    table.ask("own", &asker, to, 1, Some(HOUR / 2)).unwrap();
    for n in 0..10_000 {
        let ack = n.to_string();
        let own = (n % 2 == 0).then_some(HOUR / 2 + Duration::from_millis(n));
        table.ask(&ack, &asker, to, 1, own).unwrap();
        table.answer(&ack, &one).unwrap();
    }
    assert!(asker.requests.lock().len() < 256 && one.requests.lock().len() < 256);
    assert!(table.requests.deadlines() < 2048);
    assert_eq!(table.answer("old", &one), Some(1));
    assert_eq!(table.answer("own", &one), Some(1));
    table.is_empty(&asker);
}

/// Number of entries left in the queues of a connection.
fn left(handle: &Handle) -> usize {
    let requests = handle.requests.lock();
    assert!(requests.outgoing.items.capacity() <= 256 && requests.incoming.items.capacity() <= 256);
    requests.len()
}

#[test]
fn a_burst_of_requests_leaves_no_memory_behind() {
    const RUSH: usize = 10_000;
    let (mut table, acks) = (Table::new(), || (0..RUSH).map(|n| n.to_string()));
    table.requests.max_pending = 4 * RUSH;
    let [asker, one, other] = [1, 2, 3].map(|key| table.old(key));
    let to = [one.clone(), other.clone()];
    // Answered by one of one, by one of two, by both of two; cancelled; expired.
    for (receivers, answers, by) in [(1, 1, 1), (2, 1, 1), (2, 2, 2), (1, 1, 0), (2, 2, 0)] {
        for ack in acks() {
            table
                .ask(&ack, &asker, &to[..receivers], answers, None)
                .unwrap();
        }
        for ack in acks() {
            for responder in &to[..by] {
                table.answer(&ack, responder).unwrap();
            }
            if by == 0 && receivers == 1 {
                table
                    .requests
                    .cancel(&ack, &asker, &mut table.notifications);
            }
        }
        if by == 0 {
            table.now += HOUR;
            table
                .requests
                .expire(table.now, |notifications| notifications.clear());
        }
        assert!(table.requests.sweep() && !table.requests.sweep());
        for handle in [&asker, &one, &other] {
            handle.requests.lock().sweep();
            assert_eq!(left(handle), 0, "{receivers} {answers} {by}");
        }
        assert_eq!(table.requests.deadlines(), 0);
        table.notified();
        table.is_empty(&asker);
    }
}

#[test]
fn a_request_ends_after_its_own_timeout_or_the_general_one() {
    let mut table = Table::new();
    let [asker, one] = [1, 2].map(|key| table.new_one(key));
    let to = std::slice::from_ref(&one);
    for (ack, minutes) in [("long", 90), ("b", 20), ("a", 10)] {
        let own = Duration::from_secs(minutes * 60);
        table.ask(ack, &asker, to, 1, Some(own)).unwrap();
    }
    for notified in [
        vec!["1 a: 2 TIMEOUT", "2 a: cancel"],
        vec!["1 b: 2 TIMEOUT", "2 b: cancel"],
        vec![],
        vec![],
        vec![],
        vec!["1 long: 2 TIMEOUT", "2 long: cancel"],
    ] {
        table.expire(HOUR / 6);
        assert_eq!(table.notified(), notified);
    }
    table.is_empty(&asker);
}

#[test]
fn a_request_accepts_as_many_answers_as_it_asks_for() {
    let mut table = Table::new();
    let [asker, one, two, three] = [1, 2, 3, 4].map(|key| table.new_one(key));
    let to = [one.clone(), two.clone(), three.clone()];
    table.ask("k", &asker, &to, 2, None).unwrap();
    assert_eq!(table.answer("k", &one), Some(1));
    assert_eq!(table.answer("k", &one), None, "each answers once");
    assert_eq!(asker.requests.lock().deliveries(), 2);
    assert_eq!(table.answer("k", &two), Some(1));
    assert_eq!(table.notified(), ["4 k: cancel"]);
    table.is_empty(&asker);

    table.ask("k", &asker, &to, u32::MAX, None).unwrap();
    for each in &to {
        assert_eq!(table.answer("k", each), Some(1));
    }
    assert!(table.notified().is_empty());
    table.is_empty(&asker);
}

#[test]
fn refusals_do_not_count_as_answers_and_the_last_one_ends_the_request() {
    let mut table = Table::new();
    let [asker, one, two, three] = [1, 2, 3, 4].map(|key| table.new_one(key));
    let to = [one.clone(), two.clone(), three.clone()];
    table.open("k", &asker, &to);
    assert_eq!(table.refuse("k", &one), Some((1, false)));
    assert_eq!(table.refuse("k", &one), None);
    assert_eq!(table.answer("k", &one), None);
    assert_eq!(table.answer("k", &two), Some(1));
    assert_eq!(table.notified(), ["4 k: cancel"]);
    table.open("k", &asker, &to);
    for (each, ended) in to.iter().zip([false, false, true]) {
        assert_eq!(table.refuse("k", each), Some((1, ended)));
    }
    assert!(table.notified().is_empty());
    table.is_empty(&asker);
}

#[test]
fn only_the_asker_can_cancel() {
    let mut table = Table::new();
    let [asker, one, two] = [1, 2, 3].map(|key| table.new_one(key));
    let old = table.old(4);
    table.open("k", &asker, &[one.clone(), two, old]);
    let Table {
        requests,
        notifications,
        ..
    } = &mut table;
    requests.cancel("k", &one, notifications);
    requests.cancel("other", &asker, notifications);
    assert_eq!((requests.count(), notifications.len()), (1, 0));
    requests.cancel("k", &asker, notifications);
    assert_eq!(table.notified(), ["2 k: cancel", "3 k: cancel"]);
    table.is_empty(&asker);
}

#[test]
fn a_former_owner_may_answer_only_requests_of_version_1() {
    let mut table = Table::new();
    let [asker, one] = [1, 2].map(|key| table.new_one(key));
    let old = table.old(3);
    let to = std::slice::from_ref(&one);
    table.open("new", &asker, to);
    table.open("old", &old, to);
    let replaced = |table: &mut Table, id, registration| {
        let Table {
            requests,
            notifications,
            ..
        } = table;
        requests.replaced(&one, id, registration, notifications);
    };
    replaced(&mut table, "another id", 6);
    assert!(table.notified().is_empty());
    replaced(&mut table, "2", 7);
    assert_eq!(table.notified(), ["1 new: 2 REPLACED", "2 new: cancel"]);
    // A receiver found before it lost its id, and asked afterwards, is treated alike.
    table.open("late", &asker, to);
    table.open("late old", &old, to);
    assert_eq!(table.notified(), ["1 late: 2 REPLACED", "2 late: cancel"]);
    assert_eq!(table.answer("new", &one), None);
    assert_eq!(table.answer("late", &one), None);
    assert_eq!(table.answer("old", &one), Some(3));
    assert_eq!(table.answer("late old", &one), Some(3));
    table.is_empty(&asker);
}

#[test]
fn connections_of_version_1_get_no_notifications_and_cost_no_more() {
    let mut table = Table::new();
    let [asker, one, two] = [1, 2, 3].map(|key| table.old(key));
    table.open("k", &asker, &[one.clone(), two.clone()]);
    assert_eq!(table.memory.used(), REQUEST + 1 + 2 * RESPONDER);
    table.leave(&one, DeliveryError::Gone);
    table.expire(2 * HOUR);
    assert!(table.notified().is_empty());
    table.is_empty(&asker);
    // A responder of version 2 is cancelled even in a request of version 1.
    two.set_uses_version_2(true);
    table.open("k", &asker, &[table.old(4), two.clone()]);
    table.expire(2 * HOUR);
    assert_eq!(table.notified(), ["3 k: cancel"]);
}

#[test]
fn a_cancellation_does_not_overtake_its_message() {
    let mut table = Table::new();
    let [asker, one, two] = [1, 2, 3].map(|key| table.new_one(key));
    let question = Question {
        ack: "k",
        asker: &asker,
        receivers: &[one.clone(), two],
        names: &["2", "3"].map(|id| Name {
            id,
            registration: 7,
        }),
        answers: 1,
        timeout: None,
    };
    let opened = (table.requests).open(&question, table.now, &mut table.notifications);
    // The first responder answers before the second one has its message.
    assert_eq!(table.answer("k", &one), Some(1));
    assert!(table.notified().is_empty());
    let request = opened.unwrap().pending().unwrap();
    table.requests.delivered(&request, &mut table.notifications);
    assert_eq!(table.notified(), ["3 k: cancel"]);
    table.is_empty(&asker);
    // A single responder may lose its id, or time out, before it has its message.
    let question = Question {
        receivers: std::slice::from_ref(&one),
        names: &question.names[..1],
        ..question
    };
    for (code, id) in [("REPLACED", Some("2")), ("TIMEOUT", None)] {
        let opened = (table.requests).open(&question, table.now, &mut table.notifications);
        match id {
            Some(id) => (table.requests).replaced(&one, id, 6, &mut table.notifications),
            None => table.expire(2 * HOUR),
        }
        assert_eq!(table.notified(), [format!("1 k: 2 {code}")]);
        let request = opened.unwrap().pending().unwrap();
        table.requests.delivered(&request, &mut table.notifications);
        assert_eq!(table.notified(), ["2 k: cancel"]);
    }
    table.is_empty(&asker);
}

#[test]
fn a_responder_is_replaced_by_another_receiver() {
    let mut table = Table::new();
    let [asker, link, owner, other] = [1, 2, 3, 4].map(|key| table.new_one(key));
    let transfer = |table: &mut Table, ack, to: &Arc<Handle>, registration| {
        let name = Name {
            id: "2",
            registration,
        };
        let notifications = &mut table.notifications;
        let passed = (table.requests).transfer(ack, link.key, to, name, notifications);
        if let Some(Some(request)) = &passed {
            table.requests.delivered(request, &mut table.notifications);
        }
        passed.is_some()
    };
    table.open("k", &asker, std::slice::from_ref(&link));
    assert!(transfer(&mut table, "k", &owner, 8));
    // The former receiver has no part any more: it cannot answer, fail, or transfer it again.
    assert_eq!(table.answer("k", &link), None);
    table.leave(&link, DeliveryError::Gone);
    assert!(!transfer(&mut table, "k", &other, 9));
    assert!(table.notified().is_empty());
    assert_eq!(table.answer("k", &owner), Some(1));
    table.is_empty(&asker);

    // Transfers beside other parts, which stay; and to a receiver that has lost the id meanwhile.
    let link = table.new_one(5);
    table
        .ask("k", &asker, &[link.clone(), other.clone()], 2, None)
        .unwrap();
    table
        .requests
        .replaced(&owner, "2", 8, &mut table.notifications);
    let name = Name {
        id: "2",
        registration: 8,
    };
    let passed = (table.requests).transfer("k", link.key, &owner, name, &mut table.notifications);
    assert!(passed.is_some());
    assert_eq!(table.notified(), ["1 k: 2 REPLACED", "3 k: cancel"]);
    assert_eq!(table.answer("k", &other), Some(1));
    table.is_empty(&asker);
    assert!(!transfer(&mut table, "k", &owner, 9));
}

#[test]
fn one_responder_can_be_cancelled_alone() {
    let mut table = Table::new();
    let [asker, one, two, other] = [1, 2, 3, 4].map(|key| table.new_one(key));
    let both = [one.clone(), two.clone()];
    let cancel = |table: &mut Table, ack, asker: &_, owner: Option<&Handle>, id: &str| {
        let notifications = &mut table.notifications;
        table
            .requests
            .cancel_part(ack, asker, owner, id, notifications);
        table.notified()
    };
    table.ask("k", &asker, &both, u32::MAX, None).unwrap();
    assert!(cancel(&mut table, "k", &other, None, "2").is_empty());
    assert!(cancel(&mut table, "k", &asker, None, "4").is_empty());
    assert!(cancel(&mut table, "j", &asker, None, "2").is_empty());
    // The id may have another owner by now.
    let notified = cancel(&mut table, "k", &asker, Some(&two), "2");
    assert_eq!(notified, ["2 k: cancel"]);
    let may_answer = |one: &Handle, id| table.requests.may_answer("k", &asker, one, id);
    assert_eq!(
        [may_answer(&one, "2"), may_answer(&two, "3")],
        [false, true]
    );
    assert_eq!(
        [may_answer(&two, "2"), may_answer(&other, "3")],
        [false, false]
    );
    assert!(!table.requests.may_answer("k", &other, &two, "3"));
    assert!(!table.requests.may_answer("j", &asker, &two, "3"));
    assert_eq!(table.answer("k", &one), None);
    assert_eq!(table.answer("k", &two), Some(1));
    table.ask("k", &asker, &both, u32::MAX, None).unwrap();
    for (owner, id, notified) in [(&one, "2", "2 k: cancel"), (&two, "3", "3 k: cancel")] {
        assert_eq!(cancel(&mut table, "k", &asker, Some(owner), id), [notified]);
    }
    table.is_empty(&asker);
}

#[test]
fn requests_of_other_brokers_end_when_the_id_is_given_up() {
    let mut table = Table::new();
    let [asker, one] = [1, 2].map(|key| table.new_one(key));
    let mut far = Handle::new(3, Pipe::full(), 1024, table.memory.clone());
    far.remote = true;
    far.set_uses_version_2(true);
    let far = Arc::new(far);
    table.open("near", &asker, std::slice::from_ref(&one));
    table.open("far", &far, std::slice::from_ref(&one));
    for (id, notified) in [("4", &[][..]), ("2", &["2 far: cancel", "3 far: 2 GONE"])] {
        table
            .requests
            .fail_remote_askers(&one, id, &mut table.notifications);
        assert_eq!(table.notified(), notified);
    }
    assert_eq!(table.answer("far", &one), None);
    assert_eq!(table.answer("near", &one), Some(1));
    table.is_empty(&far);
}

#[test]
fn incoming_requests_are_those_delivered_and_not_answered() {
    let mut table = Table::new();
    let [asker, one, two] = [1, 2, 3].map(|key| table.new_one(key));
    let both = [one.clone(), two.clone()];
    assert!(!table.requests.has_incoming(&one));
    table.ask("k", &asker, &both, u32::MAX, None).unwrap();
    table.ask("j", &asker, &both[..1], u32::MAX, None).unwrap();
    let incoming = |table: &Table, one: &Handle| {
        let incoming = table.requests.incoming(one);
        let acks = incoming.iter().map(|request| request.ack().to_owned());
        acks.collect::<Vec<_>>()
    };
    assert_eq!(incoming(&table, &one), ["k", "j"]);
    assert_eq!(incoming(&table, &two), ["k"]);
    assert_eq!(table.answer("k", &one), Some(1));
    assert_eq!(incoming(&table, &one), ["j"]);
    assert_eq!(incoming(&table, &two), ["k"]);
    // A new request with the same ack is a different one.
    let old = table.requests.incoming(&one);
    assert_eq!(table.answer("j", &one), Some(1));
    table.ask("j", &asker, &both[..1], u32::MAX, None).unwrap();
    for request in [old, table.requests.incoming(&one)].concat() {
        let notifications = &mut table.notifications;
        table
            .requests
            .fail_responder(&request, &one, DeliveryError::Gone, notifications);
    }
    assert_eq!(table.notified(), ["1 j: 2 GONE"]);
}
