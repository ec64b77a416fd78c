//! Commands `watch` and `unwatch`: who is there.

use std::sync::Arc;

use super::{Connection, Turn};
use crate::{
    broker::presence::subject_of_id,
    error::ActionError,
    protocol::{self, RawSubscription, SubscriptionCommand, Watch, Watched, version_2},
};

impl Connection {
    /// Command `watch`: the peer gets the members of a topic, or whether ids are online, and changes of that.
    pub(super) fn watch(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let Watch { watched, reference } = self.check_watch(raw)?;
        let refused = match &watched {
            Watched::Topic(topic) => Some(topic).filter(|topic| !self.may_watch(topic)),
            Watched::Ids(ids) => ids.iter().find(|id| !self.may_watch(&subject_of_id(id))),
        };
        if let Some(refused) = refused {
            return Err(ActionError::WatchForbidden(refused.to_string()));
        }
        self.broker.watch(&self.handle, &subjects_of(&watched))?;
        let frame = version_2::watched(true, reference);
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        Ok(())
    }

    /// Command `unwatch`: ends that.
    pub(super) fn unwatch(
        &mut self,
        raw: &RawSubscription<'_>,
        turn: &mut Turn,
    ) -> Result<(), ActionError> {
        let Watch { watched, reference } = self.check_watch(raw)?;
        self.broker.unwatch(&self.handle, &subjects_of(&watched));
        let frame = version_2::watched(false, reference);
        turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        Ok(())
    }

    fn check_watch<'a>(&self, raw: &RawSubscription<'a>) -> Result<Watch<'a>, ActionError> {
        let name = match raw.command {
            SubscriptionCommand::Watch => "watch",
            _ => "unwatch",
        };
        let options = &self.broker.options;
        match self.handle.uses_version_2() {
            true => raw.check_watch(options.max_dest, options.max_id_length),
            false => Err(ActionError::UnknownAction(name.to_owned())),
        }
    }

    /// True if the presence of a topic, or of `$` and an id, may be watched.
    fn may_watch(&self, subject: &str) -> bool {
        self.access.may_watch(subject, self.id.as_deref())
    }

    /// Ends the watches that the current grant does not allow.
    pub(super) fn recheck_watches(&self, turn: &mut Turn) {
        let refused = (self.broker).retain_watches(&self.handle, |subject| self.may_watch(subject));
        for subject in refused {
            let what = match subject.strip_prefix('$') {
                Some(id) => ["\"ids\":[", &protocol::json_string(id), "]"].concat(),
                None => ["\"topic\":", &protocol::json_string(&subject)].concat(),
            };
            let frame = version_2::unwatched(&what, "FORBIDDEN");
            turn.pushed(&self.handle, self.handle.outbox.push(&frame));
        }
    }
}

fn subjects_of(watched: &Watched<'_>) -> Vec<Arc<str>> {
    match watched {
        Watched::Topic(topic) => vec![(&**topic).into()],
        Watched::Ids(ids) => ids.iter().map(|id| subject_of_id(id).into()).collect(),
    }
}
