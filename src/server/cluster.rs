//! Cluster of a server: joining it, and querying its nodes and ids.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle as Runtime, sync::mpsc};

use super::Server;
use crate::{
    cluster::{BusEvent, Cluster, Found},
    error::Result,
    options::ServerOptions,
};

pub(super) type Joined = Option<(Arc<Cluster>, mpsc::Receiver<BusEvent>)>;

/// Joins the cluster given in the options; none if they name no cluster. An unreachable NATS server is no
/// error: the connection is retried.
///
/// Errors: `InvalidOption`, `Tls`.
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
    /// Names of the brokers in the cluster, including this one; none without a cluster.
    pub fn nodes(&self) -> Option<Vec<String>> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.nodes())
    }

    /// The ids registered in the cluster, and the brokers that did not answer within `within`. Without a
    /// cluster: the ids of this broker.
    pub fn cluster_ids(&self, within: Duration) -> impl Future<Output = Found> + Send + 'static {
        self.look_for(None, within)
    }

    /// The brokers at which this id is registered, and the brokers that did not answer within `within`.
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
