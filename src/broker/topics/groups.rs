//! Groups of workers: each message to the topics of a group goes to one of its members.
//!
//! The member with the fewest unfinished messages gets the next one. It reports what it has finished
//! (`acknowledge`), and gets no more than its window at a time: messages that no member can take wait in the group.

use std::{
    collections::{HashMap, VecDeque},
    fmt, slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foldhash::quality::RandomState;
use ring::digest::{SHA256, digest};

use crate::{
    broker::{
        Broker,
        handle::Handle,
        requests::{DeliveryError, Name, Notifications, Opened, Question, Request},
    },
    protocol::{self, version_2},
    sync::Mutex,
    transport::outbox::Pushed,
};

/// Maximum number, and maximum bytes, of the messages that wait in a group.
const MAX_JOBS: usize = 1_000;
const MAX_BYTES: usize = 16 << 20;
/// Interval at which a full group drops requests whose askers no longer wait.
const DROP_EVERY: Duration = Duration::from_millis(100);

/// The id of a group: a hash of its pattern and its name, the same at all brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GroupId(pub(crate) u128);

impl GroupId {
    pub(crate) fn new(pattern: &str, name: &str) -> Self {
        // Neither has a space.
        let hash = digest(&SHA256, [pattern, " ", name].concat().as_bytes());
        let first = hash.as_ref().first_chunk();
        Self(first.copied().map_or(0, u128::from_be_bytes))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Time in which a member that was offered to another broker counts as about to get its request.
const OFFER_TIME: Duration = Duration::from_millis(50);

/// The members of one pattern and name.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) pattern: Arc<str>,
    pub(crate) name: Arc<str>,
    state: Mutex<GroupState>,
}

#[derive(Debug, Default)]
struct GroupState {
    members: Vec<Member>,
    /// Messages that no member could take, oldest first, and their bytes.
    jobs: VecDeque<Job>,
    bytes: usize,
    /// When members were offered to other brokers whose requests have not come yet.
    offered: VecDeque<Instant>,
    /// When requests whose askers no longer wait were dropped last.
    dropped: Option<Instant>,
    /// Senders that wait for room in `jobs`, by the keys of their connections.
    waiters: HashMap<u64, Waker, RandomState>,
}

#[derive(Debug)]
struct Member {
    handle: Arc<Handle>,
    /// Maximum number of unfinished messages.
    window: u32,
    unfinished: u32,
}

/// A message to a group.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The encoded frame.
    pub(crate) frame: Bytes,
    pub(crate) request: Option<JobRequest>,
    /// Number of brokers that have passed it on.
    pub(crate) hops: u8,
}

impl Job {
    /// True if it is this asker's request with this ack, as a key.
    fn is_request(&self, ack: &str, asker: &Arc<Handle>) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|one| *one.ack == *ack && Arc::ptr_eq(&one.asker, asker))
    }
}

/// The request that a message is.
#[derive(Debug, Clone)]
pub(crate) struct JobRequest {
    pub(crate) asker: Arc<Handle>,
    /// The ack, as a key.
    pub(crate) ack: Arc<str>,
    /// The `dest` of a failure before a member has got it, as JSON.
    pub(crate) dest: Arc<str>,
    /// The id that an asker at another broker has asked, whichever member gets it.
    pub(crate) asked_as: Option<Arc<str>>,
    pub(crate) answers: u32,
    /// When the asker gives up.
    pub(crate) deadline: Option<Instant>,
    /// Set once the asker has cancelled it. Shared by the groups to which it is sent.
    pub(crate) is_cancelled: Arc<AtomicBool>,
}

impl JobRequest {
    /// True if its asker still waits for an answer.
    fn is_wanted(&self, now: Instant) -> bool {
        !self.is_cancelled.load(Relaxed)
            && self.deadline.is_none_or(|deadline| now < deadline)
            && self.asker.owns_its_id()
    }
}

/// A member of a group that another broker may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) pattern: Arc<str>,
    pub(crate) name: Arc<str>,
    /// The id of the member.
    pub(crate) member: Arc<str>,
    /// A member can take a message now.
    pub(crate) is_free: bool,
}

impl Offer {
    /// The id of the group.
    pub(crate) fn id(&self) -> GroupId {
        GroupId::new(&self.pattern, &self.name)
    }

    /// Approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.pattern.len() + self.name.len() + self.member.len()
    }
}

/// The treatment of a message by a group.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dispatched {
    /// A member gets it.
    Sent,
    /// It waits until a member can take it.
    Queued,
    /// Too many wait already.
    Full,
    /// The last member has just left.
    Empty,
}

/// The outcome of a message for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivered {
    Yes,
    /// Its asker no longer waits.
    NotWanted,
    /// The connection of the member has closed.
    Closed,
}

/// A message, and the member that gets it.
pub(crate) type Assignment = (Job, Arc<Handle>);

impl GroupState {
    /// The member that can take a message and has the fewest unfinished ones. Counts the message.
    fn assign(&mut self) -> Option<Arc<Handle>> {
        let can_take = |one: &Member| one.unfinished < one.window && !one.handle.outbox.is_full();
        let free = self.members.iter_mut().enumerate();
        let free = free.filter(|(_, one)| can_take(one));
        let (place, member) = free.min_by_key(|(_, one)| one.unfinished)?;
        member.unfinished += 1;
        let handle = member.handle.clone();
        // Among equals the one that waits longest is next.
        self.members[place..].rotate_left(1);
        Some(handle)
    }

    /// The member with the fewest unfinished messages of those that can take one; otherwise any.
    fn next_member(&self) -> Option<&Member> {
        let can_take = |one: &&Member| one.unfinished < one.window && !one.handle.outbox.is_full();
        let free = self.members.iter().filter(can_take);
        let next = free.min_by_key(|one| one.unfinished);
        next.or_else(|| self.members.first())
    }

    /// Number of messages that the members can take now; none while messages wait.
    fn room(&self) -> u32 {
        if !self.jobs.is_empty() {
            return 0;
        }
        let can_take = |one: &&Member| !one.handle.outbox.is_full();
        let members = self.members.iter().filter(can_take);
        let room = members.map(|one| one.window.saturating_sub(one.unfinished));
        room.fold(0, u32::saturating_add)
    }

    /// Assigns waiting messages as far as members can take them.
    fn assign_waiting(&mut self, assigned: &mut Vec<Assignment>) {
        while !self.jobs.is_empty() {
            let Some(handle) = self.assign() else { break };
            let Some(job) = self.jobs.pop_front() else {
                break;
            };
            self.bytes -= job.frame.len();
            assigned.push((job, handle));
        }
        if self.has_room() {
            self.wake_waiters();
        }
    }

    fn wake_waiters(&mut self) {
        for (_, waker) in self.waiters.drain() {
            waker.wake();
        }
    }

    fn has_room(&self) -> bool {
        self.jobs.len() < MAX_JOBS && self.bytes < MAX_BYTES
    }

    /// True if there is room for a message, perhaps once requests whose askers no longer wait are dropped.
    fn make_room(&mut self) -> bool {
        if self.has_room() {
            return true;
        }
        let now = Instant::now();
        if (self.dropped).is_none_or(|last| now.duration_since(last) >= DROP_EVERY) {
            self.dropped = Some(now);
            let is_wanted = |job: &Job| {
                let request = job.request.as_ref();
                request.is_none_or(|request| request.is_wanted(now))
            };
            self.jobs.retain(is_wanted);
            self.bytes = self.jobs.iter().map(|job| job.frame.len()).sum();
        }
        self.has_room()
    }

    fn find(&mut self, handle: &Arc<Handle>) -> Option<&mut Member> {
        let mut members = self.members.iter_mut();
        members.find(|one| Arc::ptr_eq(&one.handle, handle))
    }
}

impl Group {
    pub(crate) fn new(pattern: &Arc<str>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            id: GroupId::new(pattern, name),
            pattern: pattern.clone(),
            name: name.into(),
            state: Mutex::default(),
        })
    }

    /// True if a message would be taken, or could wait. Otherwise the waker of the connection with this key is called
    /// when it could.
    pub(crate) fn has_room(&self, key: u64, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        let has_room = state.make_room() || state.members.is_empty();
        if !has_room {
            state.waiters.insert(key, waker.clone());
        }
        has_room
    }

    /// The connections of its members.
    pub(super) fn members(&self) -> Vec<Arc<Handle>> {
        let state = self.state.lock();
        state.members.iter().map(|one| one.handle.clone()).collect()
    }

    /// Number of its members, and of the messages that wait for one.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.members.len(), state.jobs.len())
    }

    /// True if it has no member.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().members.is_empty()
    }

    /// Adds a member, or changes its window.
    pub(super) fn set(&self, handle: &Arc<Handle>, window: u32, assigned: &mut Vec<Assignment>) {
        let mut state = self.state.lock();
        match state.find(handle) {
            Some(member) => member.window = window,
            None => state.members.push(Member {
                handle: handle.clone(),
                window,
                unfinished: 0,
            }),
        }
        state.assign_waiting(assigned);
    }

    /// Removes a member. Returns the messages that wait if it was the last one.
    pub(super) fn remove(&self, handle: &Arc<Handle>) -> Vec<Job> {
        let mut state = self.state.lock();
        state
            .members
            .retain(|one| !Arc::ptr_eq(&one.handle, handle));
        if !state.members.is_empty() {
            return Vec::new();
        }
        state.bytes = 0;
        state.wake_waiters();
        state.jobs.drain(..).collect()
    }

    /// Records that a member has finished messages.
    pub(crate) fn acknowledge(&self, handle: &Arc<Handle>, count: u32) -> Vec<Assignment> {
        let mut assigned = Vec::new();
        let mut state = self.state.lock();
        if let Some(member) = state.find(handle) {
            member.unfinished = member.unfinished.saturating_sub(count);
            state.assign_waiting(&mut assigned);
        }
        assigned
    }

    /// Decides about a message: a member gets it, or it waits.
    fn dispatch(&self, job: &Job) -> Result<Arc<Handle>, Dispatched> {
        let mut state = self.state.lock();
        if state.jobs.is_empty()
            && let Some(handle) = state.assign()
        {
            return Ok(handle);
        }
        if state.members.is_empty() {
            return Err(Dispatched::Empty);
        }
        if !state.make_room() {
            return Err(Dispatched::Full);
        }
        state.bytes += job.frame.len();
        state.jobs.push_back(job.clone());
        Err(Dispatched::Queued)
    }

    /// A member that another broker may ask; none if there is no member.
    pub(crate) fn offer(&self, now: Instant) -> Option<Offer> {
        let mut state = self.state.lock();
        let member = state.next_member()?.handle.owned_id()?;
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < OFFER_TIME;
        state.offered.retain(is_recent);
        let is_free = state.offered.len() < state.room() as usize;
        // The bound of the messages that may wait is one for these, too.
        if is_free && state.offered.len() < MAX_JOBS {
            state.offered.push_back(now);
        }
        Some(Offer {
            pattern: self.pattern.clone(),
            name: self.name.clone(),
            member,
            is_free,
        })
    }

    /// Records that a request to a member that was offered has come.
    pub(crate) fn on_offer_taken(&self) {
        self.state.lock().offered.pop_front();
    }

    /// True if a request waits for a member.
    pub(crate) fn has_waiting(&self, ack: &str, asker: &Arc<Handle>) -> bool {
        let state = self.state.lock();
        state.jobs.iter().any(|job| job.is_request(ack, asker))
    }

    /// Removes a request that waits for a member.
    pub(crate) fn cancel(&self, ack: &str, asker: &Arc<Handle>) {
        let mut state = self.state.lock();
        let mut removed = 0;
        state.jobs.retain(|job| {
            let is_it = job.is_request(ack, asker);
            removed += if is_it { job.frame.len() } else { 0 };
            !is_it
        });
        state.bytes -= removed;
        if removed > 0 && state.has_room() {
            state.wake_waiters();
        }
    }

    /// True if messages wait that another broker may take.
    pub(crate) fn has_jobs(&self) -> bool {
        let state = self.state.lock();
        state.jobs.iter().any(|job| job.request.is_none())
    }

    /// Number of messages that the members can take now; none while messages wait.
    pub(crate) fn room(&self) -> u32 {
        self.state.lock().room()
    }

    /// Removes the first messages that wait, for another broker. Requests stay, and frames of more than `size` bytes.
    pub(crate) fn take_waiting(&self, count: u32, size: usize) -> Vec<Job> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        state.jobs.retain(|job| {
            let fits = job.frame.len() <= size && taken.len() < count as usize;
            let is_taken = job.request.is_none() && fits;
            if is_taken {
                taken.push(job.clone());
            }
            !is_taken
        });
        state.bytes -= taken.iter().map(|job| job.frame.len()).sum::<usize>();
        if !taken.is_empty() && state.has_room() {
            state.wake_waiters();
        }
        taken
    }

    /// Takes back a message from a member whose connection has closed. It is the next one of another member.
    fn take_back(&self, job: Job, handle: &Arc<Handle>) -> Vec<Assignment> {
        let mut assigned = Vec::new();
        let mut state = self.state.lock();
        if let Some(member) = state.find(handle) {
            // It is about to leave.
            member.window = 0;
        }
        state.bytes += job.frame.len();
        state.jobs.push_front(job);
        state.assign_waiting(&mut assigned);
        assigned
    }
}

impl Broker {
    /// Gives a message to a member of a group, or lets it wait. Handles that need a flush are added to `touched`.
    pub(crate) fn dispatch(
        &self,
        group: &Group,
        job: Job,
        touched: &mut Vec<Arc<Handle>>,
    ) -> Dispatched {
        match group.dispatch(&job) {
            Ok(handle) => {
                self.deliver_jobs(group, vec![(job, handle)], touched);
                Dispatched::Sent
            }
            Err(dispatched) => {
                if let (Dispatched::Queued, Some(peers)) = (dispatched, &self.peers) {
                    peers.note_waiting(group);
                }
                dispatched
            }
        }
    }

    /// Delivers messages to the members that they are assigned to.
    pub(crate) fn deliver_jobs(
        &self,
        group: &Group,
        assigned: Vec<Assignment>,
        touched: &mut Vec<Arc<Handle>>,
    ) {
        let mut notifications = Notifications::new();
        let mut rest: VecDeque<_> = assigned.into();
        while let Some((job, handle)) = rest.pop_front() {
            match self.deliver_job(&job, &handle, touched, &mut notifications) {
                Delivered::Yes => {}
                // Another message may take its place.
                Delivered::NotWanted => rest.extend(group.acknowledge(&handle, 1)),
                Delivered::Closed => {
                    rest.extend(group.take_back(job, &handle));
                    if let Some(peers) = &self.peers {
                        peers.note_waiting(group);
                    }
                }
            }
        }
        self.notify(&mut notifications, touched);
    }

    /// Delivers a message to a member.
    fn deliver_job(
        &self,
        job: &Job,
        handle: &Arc<Handle>,
        touched: &mut Vec<Arc<Handle>>,
        notifications: &mut Notifications,
    ) -> Delivered {
        let opened = match &job.request {
            None => None,
            Some(request) => match self.open_job(request, handle, notifications) {
                Some(opened) => opened,
                None => return Delivered::NotWanted,
            },
        };
        let pushed = handle.outbox.push_shared(&job.frame);
        if let Some(opened) = opened {
            self.registry.requests.delivered(&opened, notifications);
        }
        // The part of a member that has closed has ended with `GONE`, and its asker decides.
        if pushed == Pushed::Closed && job.request.is_none() {
            return Delivered::Closed;
        }
        if pushed == Pushed::NeedsFlush {
            touched.push(handle.clone());
        }
        if pushed != Pushed::Closed {
            (self.metrics.turns.messages_out).fetch_add(1, Relaxed);
        }
        Delivered::Yes
    }

    /// Opens the request that a message is. None if its asker no longer waits.
    #[allow(clippy::option_option)]
    fn open_job(
        &self,
        request: &JobRequest,
        handle: &Arc<Handle>,
        notifications: &mut Notifications,
    ) -> Option<Option<Arc<Request>>> {
        let now = Instant::now();
        let left = request
            .deadline
            .map(|deadline| deadline.saturating_duration_since(now));
        if !request.is_wanted(now) {
            return None;
        }
        let id = request.asked_as.clone();
        let id = id.or_else(|| handle.last_id.lock().clone());
        let id = id.unwrap_or_default();
        let names = [Name {
            id: &id,
            registration: handle.registration(),
        }];
        let question = Question {
            ack: &request.ack,
            asker: &request.asker,
            receivers: slice::from_ref(handle),
            names: &names,
            answers: request.answers,
            timeout: left,
        };
        let requests = &self.registry.requests;
        loop {
            match requests.open(&question, now, notifications) {
                Ok(Opened::Pending(opened)) => return Some(opened),
                Ok(Opened::Expired) => {}
                Err(_) => return None,
            }
        }
    }

    /// Ends all subscriptions of a connection that has lost or given up its id.
    pub(crate) fn end_subscriptions(&self, handle: &Arc<Handle>) {
        self.end_participation(handle);
        let jobs = self.topics.leave(handle);
        self.fail_jobs(jobs);
    }

    /// Ends the wait of messages for groups whose last members have left: other brokers get them. Requests fail.
    pub(crate) fn fail_jobs(&self, jobs: Vec<(Arc<Group>, Job)>) {
        for (group, job) in jobs {
            let Some(JobRequest {
                asker, ack, dest, ..
            }) = job.request
            else {
                let peers = self.peers.as_ref();
                if !peers.is_some_and(|peers| peers.pass_on(&group, &job)) {
                    self.no_subscriber(1);
                }
                continue;
            };
            self.registry.requests.count_failed(DeliveryError::Gone);
            if self.has_room_for_answer(&asker) {
                let ack = protocol::json_string(&ack);
                let frame = version_2::failed(&ack, &dest, DeliveryError::Gone.code());
                asker.write(|outbox| outbox.push(&frame));
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert!(group.take_back(job("1"), &a).is_empty());
        assert_eq!(texts(&group.acknowledge(&b, 1)), [("1", 2)]);
        assert_eq!(texts(&group.acknowledge(&b, 1)), [("2", 2)]);
        assert!(group.acknowledge(&a, 1).is_empty(), "it takes no more");
        assert_eq!(group.state.lock().bytes, 0);
        assert!(group.remove(&a).is_empty() && !group.is_empty());
        assert!(group.remove(&b).is_empty() && group.is_empty());
        assert_eq!(group.dispatch(&job("2")).unwrap_err(), Dispatched::Empty);
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
}
