//! Groups of workers: each message to the topics of a group goes to one of its members.
//!
//! The member with the fewest unfinished messages gets the next one. It reports what it has finished
//! (`acknowledge`), and gets no more than its window at a time: messages that no member can take wait in the group.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
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

use crate::{broker::handle::Handle, sync::Mutex};

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

impl Member {
    /// True if its connection takes messages now.
    fn reads(&self) -> bool {
        !self.handle.outbox.is_full() && !self.handle.is_suspended()
    }
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
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
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

/// A message, and the member that gets it.
pub(crate) type Assignment = (Job, Arc<Handle>);

impl GroupState {
    /// The member that can take a message and has the fewest unfinished ones. Counts the message.
    fn assign(&mut self) -> Option<Arc<Handle>> {
        let can_take = |one: &Member| one.unfinished < one.window && one.reads();
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
        let can_take = |one: &&Member| one.unfinished < one.window && one.reads();
        let free = self.members.iter().filter(can_take);
        let next = free.min_by_key(|one| one.unfinished);
        next.or_else(|| self.members.first())
    }

    /// Number of messages that the members can take now; none while messages wait.
    fn room(&self) -> u32 {
        if !self.jobs.is_empty() {
            return 0;
        }
        let can_take = |one: &&Member| one.reads();
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
        if !self.jobs.is_empty() {
            self.await_room();
        }
        if self.has_room() {
            self.wake_waiters();
        }
    }

    /// Lets the tasks of members whose outboxes are full take messages when there is room: they may have nothing to
    /// acknowledge.
    fn await_room(&self) {
        for member in &self.members {
            if member.unfinished < member.window && member.handle.outbox.is_full() {
                member.handle.set_awaits_jobs(true);
                member.handle.waker.wake();
            }
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
    pub(super) fn dispatch(&self, job: &Job) -> Result<Arc<Handle>, Dispatched> {
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
        state.await_room();
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
    /// None if no member is left: a message that waits here would never be delivered.
    pub(super) fn take_back(&self, job: &Job, handle: &Arc<Handle>) -> Option<Vec<Assignment>> {
        let mut assigned = Vec::new();
        let mut state = self.state.lock();
        if state.members.is_empty() {
            return None;
        }
        if let Some(member) = state.find(handle) {
            // It is about to leave.
            member.window = 0;
        }
        state.bytes += job.frame.len();
        state.jobs.push_front(job.clone());
        state.assign_waiting(&mut assigned);
        Some(assigned)
    }
}

#[cfg(test)]
mod tests;
