//! The other brokers of a server: joining them, and asking them.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle as Runtime, sync::mpsc};

use super::Server;
use crate::{
    cluster::{BusEvent, Cluster, Found},
    error::Result,
    options::ServerOptions,
};

pub(super) type Joined = Option<(Arc<Cluster>, mpsc::Receiver<BusEvent>)>;

/// Joins the cluster that the options name.
///
/// Errors: `InvalidOption`, `Tls`. A cluster that cannot be reached is none.
#[cfg(feature = "nats")]
pub(super) fn join(options: &ServerOptions, runtime: &Runtime) -> Result<Joined> {
    let Some(nats) = &options.nats else {
        return Ok(None);
    };
    let (bus, events) = crate::cluster::nats::connect(nats, runtime)?;
    Ok(Some((Cluster::new(bus, nats, runtime), events)))
}

#[cfg(not(feature = "nats"))]
pub(super) fn join(_: &ServerOptions, _: &Runtime) -> Result<Joined> {
    Ok(None)
}

impl Server {
    /// The names of the brokers that are one with this one, itself included; none if it is alone.
    pub fn nodes(&self) -> Option<Vec<String>> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.nodes())
    }

    /// The ids registered at all brokers, and who did not answer within that time; those here alone
    /// if there are no others.
    pub fn cluster_ids(&self, within: Duration) -> impl Future<Output = Found> + Send + 'static {
        self.look_for(None, within)
    }

    /// The same for one id.
    pub fn cluster_has(
        &self,
        id: &str,
        within: Duration,
    ) -> impl Future<Output = Found> + Send + 'static {
        self.look_for(Some(id.into()), within)
    }

    fn look_for(
        &self,
        id: Option<Arc<str>>,
        within: Duration,
    ) -> impl Future<Output = Found> + Send + 'static {
        let cluster = self.cluster.clone();
        let here = match &id {
            None => self.ids(),
            Some(id) => self.has(id).then(|| id.clone()).into_iter().collect(),
        };
        async move {
            match cluster {
                Some(cluster) => cluster.find(id.as_deref(), within).await,
                None => Found {
                    ids: here.into_iter().map(|id| (id, String::new())).collect(),
                    silent: Vec::new(),
                },
            }
        }
    }
}
