//! Search for ids at all brokers: sends the question and collects the answers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout_at;

use super::{
    Cluster,
    bus::{NodeId, Publication, ReplyAddress},
    message::{self, Message},
};

/// The result of a search at all brokers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// The ids found, each with the name of its broker, in no particular order.
    pub ids: Vec<(Arc<str>, String)>,
    /// The names of the brokers that did not answer in time.
    pub silent: Vec<String>,
}

impl Cluster {
    /// The name of this broker.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The sorted names of all known brokers, including this one.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let mut names: Vec<_> = self.nodes.names().into_values().collect();
        names.push(self.name.clone());
        names.sort_unstable();
        names
    }

    /// Asks all brokers for all their ids, or for this one. Resolves once all have answered or at the timeout,
    /// with the ids known by then.
    pub(crate) async fn find(&self, id: Option<&str>, within: Duration) -> Found {
        let deadline = tokio::time::Instant::now() + within;
        let mut found = Found::default();
        let mut missing = self.nodes.names();
        if !self.is_up() {
            let own = self.broker().map(|broker| match id {
                None => broker.registry.ids(),
                Some(id) => (broker.registry.find(id))
                    .map(|_| id.into())
                    .into_iter()
                    .collect(),
            });
            let own = own.unwrap_or_default().into_iter();
            found.ids = own.map(|id| (id, self.name.clone())).collect();
            found.silent = missing.into_values().collect();
            return found;
        }
        missing.insert(self.node, self.name.clone());
        let mut question = self.open_question();
        let number = question.number;
        let node = self.node;
        let search = Message::Search { node, number, id };
        let _ = timeout_at(deadline, self.broadcast(&search)).await;
        let mut seen = HashSet::new();
        // Parts received from each broker. A broker with a missing part counts as silent.
        let mut parts: HashMap<NodeId, u32> = HashMap::new();
        while !missing.is_empty() {
            let Ok(Some(answer)) = timeout_at(deadline, question.answers.recv()).await else {
                break;
            };
            let Some(Message::Found {
                node,
                name,
                part,
                is_last,
                ids,
            }) = self.decode(&answer.payload)
            else {
                continue;
            };
            for id in ids.iter() {
                // Both brokers may list an id that moves meanwhile.
                if seen.insert(id.clone()) {
                    found.ids.push((id.clone(), name.to_owned()));
                }
            }
            let expected = parts.entry(node).or_default();
            let is_whole = *expected == part;
            *expected += u32::from(is_whole);
            if is_last && is_whole {
                missing.remove(&node);
            }
        }
        found.silent = missing.into_values().collect();
        found
    }

    pub(super) async fn answer_search(&self, node: NodeId, number: u64, ids: &[Arc<str>]) {
        let subject = self.subjects.reply(ReplyAddress { node, number });
        let mut rest = ids;
        for part in 0.. {
            let (now, later) = message::part(rest, |id| id.len());
            let found = Message::Found {
                node: self.node,
                name: &self.name,
                part,
                is_last: later.is_empty(),
                ids: now.into(),
            };
            let publication = Publication {
                subject: subject.clone(),
                reply: None,
                payload: found.encode().into(),
            };
            self.bus.publish(publication).await;
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }
}
