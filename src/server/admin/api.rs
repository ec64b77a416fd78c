//! The API of the dashboard: figures, connections and topics as JSON, and disconnecting clients.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::{
    Admin,
    http::{self, Method, Request, Response},
};
use crate::{
    broker::{
        handle::{Close, Handle},
        recent::Closed,
    },
    event::{ConnectionInfo, Traffic},
    metrics::{ByLabel, FAMILIES, Value as Metric},
    server::directory,
    transport::{outbox::Congestion, socket::ReadHalf},
};

/// The path that disconnects a client.
pub(super) const DISCONNECT: &str = "/api/disconnect";
/// Connections and topics are not listed again within this time, whatever the number of requests.
const LISTED: Duration = Duration::from_secs(1);
/// Number of connections in the list of those that delay others.
const WORST: usize = 20;
/// Number of ids that a search returns.
const FOUND: usize = 50;
/// Number of topics in a list, and of groups of a topic.
const TOPICS: usize = 50;
const GROUPS: usize = 3;
/// A search for topics that would have to wait longer than this is refused.
const SEARCH_WAIT: Duration = Duration::from_secs(3);
/// Time limit of a search at the other brokers of the cluster.
const SEARCH: Duration = Duration::from_secs(1);
/// Number of brokers of the cluster that are named.
const BROKERS: usize = 100;
/// The close code of a disconnected client. Clients may connect again.
const CODE: u16 = 4000;

/// A connection that is not read because the outbox of a receiver is full.
struct Held {
    duration: Duration,
    /// The id of the receiver.
    by: Option<Arc<str>>,
}

impl Admin {
    /// The state of the broker, and the points of its history behind the second `since`.
    pub(super) fn stats(&self, request: &Request) -> Response {
        let since = request.parameter("since");
        let since = since.and_then(|since| since.parse().ok());
        self.sample();
        let history = self.history.lock();
        let stats = history.latest();
        let peers = self.broker.peers.as_ref();
        let cluster = stats.cluster.as_ref().zip(peers).map(|(cluster, peers)| {
            let mut names = peers.names();
            names.truncate(BROKERS);
            json!({
                "connected": cluster.connected,
                "brokers": cluster.brokers,
                "names": names,
                "remoteIds": cluster.remotes,
                "received": cluster.received,
                "unreachable": cluster.unreachable,
                "lagged": cluster.lagged,
                "late": cluster.late,
                "disconnects": cluster.lost,
            })
        });
        // Of each counter with labels, the values that have been counted.
        let totals = FAMILIES.iter().filter_map(|family| {
            let Metric::Labelled(_, counts) = (family.value)(stats) else {
                return None;
            };
            Some((family.name.to_owned(), counted(&counts)))
        });
        let drain = self.broker.drains_for().map(|left| left.as_secs());
        Response::json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": unix_millis(self.started),
            "uptime": history.uptime().as_secs(),
            "state": self.unready().unwrap_or("ready"),
            "drain": drain,
            "canDisconnect": self.token.is_some(),
            "limits": { "connections": stats.max_connections, "memory": stats.max_memory },
            "history": history.to_json(since.unwrap_or(0)),
            "totals": totals.collect::<Value>(),
            "subscriptions": {
                "subscriptions": stats.subscriptions,
                "topics": stats.topics,
                "patterns": stats.patterns,
                "members": stats.members,
            },
            "received": stats.messages_in,
            "sent": stats.messages_out,
            "errors": history.errors_to_json(),
            "cluster": cluster,
        }))
    }

    /// The connections with the most bytes queued, and those that were closed last.
    pub(super) fn connections(&self) -> Response {
        let now = Instant::now();
        let mut cached = self.connections.lock();
        let text = match &*cached {
            Some((at, text)) if now.duration_since(*at) < LISTED => text.clone(),
            _ => {
                let closed = self.broker.recently_closed.newest_first();
                let closed = closed.iter().map(closed_to_json);
                let list = json!({
                    "at": self.history.lock().uptime().as_millis() as u64,
                    "worst": self.worst(),
                    "closed": closed.collect::<Value>(),
                });
                let text: Arc<str> = list.to_string().into();
                *cached = Some((now, text.clone()));
                text
            }
        };
        Response::new(200, "application/json", text)
    }

    /// The connections with the most bytes queued, and those for which senders wait.
    fn worst(&self) -> Vec<Value> {
        let handles = self.broker.handles();
        let held = held_senders(&handles);
        let mut waiting: Vec<_> = (handles.into_iter())
            .filter(|handle| !handle.participant)
            .map(|handle| (handle.outbox.waiting(), handle))
            .filter(|(bytes, handle)| *bytes > 0 || handle.outbox.waiters() > 0)
            .collect();
        let order = |(bytes, handle): &(usize, Arc<Handle>)| (Reverse(*bytes), handle.key);
        if waiting.len() > WORST {
            waiting.select_nth_unstable_by_key(WORST, order);
            waiting.truncate(WORST);
        }
        waiting.sort_unstable_by_key(order);
        let rows = waiting.iter().map(|(_, handle)| {
            let id = handle.last_id.lock().clone();
            connection_to_json(id.as_deref(), handle, &held)
        });
        rows.collect()
    }

    /// The topics with the most subscribers; with `prefix` of those that begin with it. The topics are read at most once a
    /// second for the list, and once a second for searches: a search waits for its turn.
    pub(super) async fn topics(&self, request: &Request) -> Response {
        let prefix = match request.parameter("prefix") {
            Some(prefix) => prefix,
            None if request.query.is_empty() => String::new(),
            None => return Response::text(400, "the parameter \"prefix\" is invalid"),
        };
        let now = Instant::now();
        if prefix.is_empty() {
            let mut cached = self.topics.lock();
            let text = match &*cached {
                Some((at, text)) if now.duration_since(*at) < LISTED => text.clone(),
                _ => {
                    let text: Arc<str> = self.list_topics("").to_string().into();
                    *cached = Some((now, text.clone()));
                    text
                }
            };
            return Response::new(200, "application/json", text);
        }
        let turn = {
            let mut next = self.next_search.lock();
            let turn = now.max(*next);
            if turn - now > SEARCH_WAIT {
                return Response::text(503, "too many searches: try again later");
            }
            *next = turn + LISTED;
            turn
        };
        sleep_until(turn.into()).await;
        Response::json(&self.list_topics(&prefix))
    }

    fn list_topics(&self, prefix: &str) -> Value {
        let (listed, has_more) = self.broker.topics.list(prefix, TOPICS);
        let rows = listed.into_iter().map(|topic| {
            let groups = topic.groups.iter().map(|group| {
                let (members, waiting) = group.load();
                (waiting, members, &*group.name)
            });
            let mut groups: Vec<_> = groups.collect();
            groups.sort_unstable_by_key(|group| Reverse(*group));
            let first = groups.iter().take(GROUPS).map(|(waiting, members, name)| {
                json!({ "name": name, "members": members, "waiting": waiting })
            });
            json!({
                "topic": &*topic.name,
                "subscribers": topic.subscribers,
                // Those with the most waiting messages, and the number of all.
                "groups": first.collect::<Value>(),
                "groupCount": groups.len(),
            })
        });
        json!({ "topics": rows.collect::<Value>(), "more": has_more })
    }

    /// The ids of this broker that begin with `prefix`, or the broker of the cluster that has `id`.
    pub(super) async fn find(&self, request: &Request) -> Response {
        if let Some(id) = request.parameter("id") {
            return self.locate(&id).await;
        }
        match request.parameter("prefix") {
            Some(prefix) => self.find_here(&prefix),
            None => {
                let text = "the parameter \"prefix\" or \"id\" is missing or invalid";
                Response::text(400, text)
            }
        }
    }

    /// The broker that has an id, and the brokers that did not answer. `connected`: false if only this broker was searched,
    /// because NATS is unreachable; null without a cluster.
    async fn locate(&self, id: &str) -> Response {
        let is_here = self.broker.registry.find(id).is_some();
        let mut location = json!({
            "id": id,
            "isHere": is_here,
            "node": null,
            "connected": null,
            "silent": [],
        });
        let Some(cluster) = &self.cluster else {
            return Response::json(&location);
        };
        if is_here {
            location["node"] = json!(cluster.name());
        } else {
            let mut found = cluster.find(Some(id), SEARCH).await;
            // This broker was searched without NATS.
            found.silent.retain(|node| node != cluster.name());
            found.silent.sort_unstable();
            found.silent.truncate(BROKERS);
            location["node"] = json!(found.ids.first().map(|(_, node)| node));
            location["silent"] = json!(found.silent);
        }
        location["connected"] = json!(cluster.stats().connected);
        Response::json(&location)
    }

    /// The ids of this broker that begin with `prefix`, with their connections.
    fn find_here(&self, prefix: &str) -> Response {
        let registry = &self.broker.registry;
        let mut found = registry.find_by_prefix(prefix, FOUND + 1);
        let has_more = found.len() > FOUND;
        // Of many ids the one that was asked for is always among them.
        if let Some(owner) = registry.find(prefix).filter(|_| has_more) {
            found.retain(|(id, _)| **id != *prefix);
            found.insert(0, (prefix.into(), owner));
        }
        found.truncate(FOUND);
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let held = held_senders(&self.broker.handles());
        let rows = found.iter();
        let rows = rows.map(|(id, handle)| connection_to_json(Some(id), handle, &held));
        Response::json(&json!({ "found": rows.collect::<Value>(), "more": has_more }))
    }

    /// Closes the connection that owns an id. Only with a token: without one, any program of this machine could.
    pub(super) async fn disconnect(
        &self,
        request: &mut Request,
        read: &mut ReadHalf,
    ) -> Option<Response> {
        if request.method != Method::Post {
            return Some(Response::wrong_method(http::ALLOW_POST));
        }
        if self.token.is_none() {
            return Some(Response::text(
                403,
                "only an endpoint with a token can do this",
            ));
        }
        if !self.is_allowed(request) {
            return Some(Response::unauthorized());
        }
        let body = match request.read_json(read).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        let Some(id) = id_of(&body) else {
            let text = "the body must be an object with the text \"id\"";
            return Some(Response::text(400, text));
        };
        let owner = self.broker.registry.find(&id);
        if owner.is_some_and(|owner| owner.participant) {
            let text = "the id is that of the server";
            return Some(Response::text(403, text));
        }
        let close = Close::Requested {
            code: CODE,
            reason: "disconnected by an operator".into(),
        };
        let is_closed = directory::disconnect(&self.broker, &id, &close);
        *self.connections.lock() = None;
        Some(match is_closed {
            true => Response::json(&json!({ "disconnected": true })),
            false => Response::text(404, "no client has this id"),
        })
    }
}

/// The member `id` of a JSON object.
fn id_of(body: &[u8]) -> Option<String> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(mut members)) => match members.remove("id") {
            Some(Value::String(id)) => Some(id),
            _ => None,
        },
        _ => None,
    }
}

/// The values of a label that have been counted.
fn counted(counts: &ByLabel) -> Value {
    let counts = counts.0.iter().filter(|(_, count)| *count > 0);
    counts
        .map(|(name, count)| ((*name).to_owned(), json!(count)))
        .collect()
}

/// Milliseconds since 1970.
fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The address of a client; null if unknown.
fn address_to_json(info: &ConnectionInfo) -> Value {
    match (info.remote_address, info.remote_port) {
        (Some(address), Some(port)) => json!(std::net::SocketAddr::new(address, port).to_string()),
        (Some(address), None) => json!(address.to_string()),
        (None, _) => Value::Null,
    }
}

/// The connections that wait for room in the outbox of another, by their keys.
fn held_senders(receivers: &[Arc<Handle>]) -> HashMap<u64, Held> {
    let mut held = HashMap::new();
    for receiver in receivers {
        for (key, duration) in receiver.outbox.waiting_senders() {
            let by = receiver.last_id.lock().clone();
            held.insert(key, Held { duration, by });
        }
    }
    held
}

/// A connection. All times but `age` are in milliseconds.
fn connection_to_json(id: Option<&str>, handle: &Handle, held: &HashMap<u64, Held>) -> Value {
    let Congestion {
        waiting,
        blocked,
        waiters,
        blocking,
    } = handle.outbox.congestion();
    let millis = |duration: Duration| duration.as_millis() as u64;
    let held = held.get(&handle.key);
    let Traffic {
        open,
        messages,
        bytes_received,
        bytes_sent,
    } = handle.traffic();
    json!({
        "key": handle.key,
        "id": id,
        // A former owner of an id is not disconnected by it.
        "isOwner": handle.owns_its_id() && !handle.participant,
        "isClosing": handle.requested_close().is_some(),
        "address": address_to_json(&handle.info()),
        "waiting": waiting,
        // For how long its socket has accepted nothing.
        "blocked": blocked.map(millis),
        "senders": waiters,
        // For how long the first of these senders has waited.
        "blocking": blocking.map(millis),
        // For how long it has waited itself, and for which id.
        "held": held.map(|held| millis(held.duration)),
        "heldBy": held.and_then(|held| held.by.as_deref()),
        "messages": messages,
        // Modulo 2^32: for rates.
        "messagesOut": handle.outbox.messages(),
        "bytesIn": bytes_received,
        "bytesOut": bytes_sent,
        "age": open.as_secs(),
        "protocol": if handle.uses_version_2() { 2 } else { 1 },
    })
}

fn closed_to_json(closed: &Closed) -> Value {
    json!({
        "key": closed.key,
        "at": unix_millis(closed.at),
        "id": closed.id,
        "address": address_to_json(&closed.info),
        "reason": closed.reason.name(),
        "code": closed.code,
        "age": closed.traffic.open.as_secs(),
        "messages": closed.traffic.messages,
    })
}
