//! The frames for the watchers of a room: the whole state, or changes of it.

use std::{sync::Arc, time::Instant};

use super::{INTERVAL, Info, Map, Room};
use crate::{broker::handle::Handle, protocol};

/// The frames of a flush.
#[derive(Debug, Default)]
pub(in crate::broker::presence) struct Frames {
    /// Frames about topics, in order. One text may be for many.
    pub(in crate::broker::presence) topics: Vec<(String, Vec<Arc<Handle>>)>,
    /// Changes of ids, by the keys of connections.
    pub(in crate::broker::presence) ids: Map<u64, IdChanges>,
    /// Bytes of all of these.
    pub(in crate::broker::presence) bytes: usize,
}

/// Ids, as JSON text, for one watcher.
#[derive(Debug)]
pub(in crate::broker::presence) struct IdChanges {
    pub(in crate::broker::presence) handle: Arc<Handle>,
    pub(in crate::broker::presence) online: Vec<String>,
    pub(in crate::broker::presence) offline: Vec<String>,
}

impl Frames {
    /// Adds a frame about a topic for these watchers.
    fn add(&mut self, frame: String, watchers: Vec<Arc<Handle>>) {
        self.bytes += frame.len();
        self.topics.push((frame, watchers));
    }
}

impl Room {
    /// Number of members, and whether each is known by name. `max`: number of members that are named.
    fn count(&self, max: usize) -> (usize, bool) {
        let has_counts = self.remote.values().any(|one| one.count.is_some());
        if has_counts || self.own.len() > max {
            let remote = self.remote.values();
            let remote =
                remote.map(|one| one.count.map_or(one.members.len(), |count| count as usize));
            return (self.own.len() + remote.sum::<usize>(), false);
        }
        let mut count = 0;
        self.each(|_, _| count += 1);
        // Names return only once there are clearly fewer.
        let max = if self.has_names { max } else { max / 4 * 3 };
        (count, count <= max)
    }

    /// Calls a function with each member, once.
    fn each<'a>(&'a self, mut call: impl FnMut(&'a str, &'a str)) {
        for (id, member) in &self.own {
            call(id, &member.info);
        }
        let remotes: Vec<_> = self.remote.values().collect();
        for (place, remote) in remotes.iter().enumerate() {
            for (id, info) in &remote.members {
                let is_known = self.own.contains_key(id)
                    || remotes[..place]
                        .iter()
                        .any(|one| one.members.contains_key(id));
                if !is_known {
                    call(id, info);
                }
            }
        }
    }

    /// Tells the watchers what has changed. `max`: number of members that are named. Returns when to call it again.
    pub(in crate::broker::presence) fn flush(
        &mut self,
        now: Instant,
        max: usize,
        out: &mut Frames,
    ) -> Option<Instant> {
        self.expire(now);
        let leaving = |room: &Self| room.leaving.front().map(|(at, _)| *at);
        if !self.is_watched() {
            return leaving(self);
        }
        let next = self.next_flush(now);
        if next > now {
            return Some(next);
        }
        let told = std::mem::take(&mut self.told);
        self.told_bytes = 0;
        self.last_told = Some(now);
        match self.subject.strip_prefix('$').map(str::to_owned) {
            Some(id) => self.tell_id(&id, &told, out),
            None => self.tell_members(max, &told, out),
        }
        let is_stale = self.watchers.values().any(|one| !one.is_current);
        let retry = is_stale.then_some(now + INTERVAL);
        retry.into_iter().chain(leaving(self)).min()
    }

    fn tell_members(&mut self, max: usize, told: &Map<Arc<str>, Option<Info>>, out: &mut Frames) {
        let (count, has_names) = self.count(max);
        let topic = protocol::json_string(&self.subject);
        let had_names = std::mem::replace(&mut self.has_names, has_names);
        let changes = match (had_names, has_names) {
            (true, true) => self.changes(told),
            (false, false) if count != self.told_count => Some(String::new()),
            (false, false) => None,
            // Names begin or end: all get the whole state.
            _ => {
                self.watchers
                    .values_mut()
                    .for_each(|one| one.is_current = false);
                None
            }
        };
        self.told_count = count;
        let (mut fresh, mut current) = (Vec::new(), Vec::new());
        for one in self.watchers.values_mut() {
            if one.is_current && changes.is_none() {
                continue;
            }
            if one.handle.outbox.is_full() {
                one.is_current = false;
                continue;
            }
            match one.is_current {
                true => current.push(one.handle.clone()),
                false => fresh.push(one.handle.clone()),
            }
            one.is_current = true;
        }
        let number = count.to_string();
        if let Some(changes) = changes
            && !current.is_empty()
        {
            let frame = protocol::version_2::presence(&topic, &number, &changes);
            out.add(frame, current);
        }
        if !fresh.is_empty() {
            let mut members = String::new();
            if has_names {
                members.push_str(",\"members\":{");
                let mut separator = "";
                self.each(|id, info| {
                    let id = protocol::json_string(id);
                    members.extend([separator, &id, ":", info]);
                    separator = ",";
                });
                members.push('}');
            }
            let frame = protocol::version_2::presence(&topic, &number, &members);
            out.add(frame, fresh);
        }
    }

    /// The members `joined` and `left` of a frame; none if nothing has changed.
    fn changes(&self, told: &Map<Arc<str>, Option<Info>>) -> Option<String> {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for (id, before) in told {
            let now = self.info(id);
            if now == before.as_ref() {
                continue;
            }
            let id = protocol::json_string(id);
            match now {
                Some(info) => joined.push([&id, ":", &**info].concat()),
                None => left.push(id),
            }
        }
        if joined.is_empty() && left.is_empty() {
            return None;
        }
        let (joined, left) = (joined.join(","), left.join(","));
        Some([",\"joined\":{", &joined, "},\"left\":[", &left, "]"].concat())
    }

    fn tell_id(&mut self, id: &str, told: &Map<Arc<str>, Option<Info>>, out: &mut Frames) {
        let is_online = self.info(id).is_some();
        let before = told.get(id).map(Option::is_some);
        let has_changed = before.is_some_and(|before| before != is_online);
        let text = protocol::json_string(id);
        for one in self.watchers.values_mut() {
            if one.is_current && !has_changed {
                continue;
            }
            one.is_current = !one.handle.outbox.is_full();
            if one.is_current {
                let changes = (out.ids.entry(one.handle.key)).or_insert_with(|| IdChanges {
                    handle: one.handle.clone(),
                    online: Vec::new(),
                    offline: Vec::new(),
                });
                out.bytes += text.len();
                match is_online {
                    true => changes.online.push(text.clone()),
                    false => changes.offline.push(text.clone()),
                }
            }
        }
    }
}
