//! The class `NativeServer`: a broker as `lib/server/serverImpl.js` uses it.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use napi_derive::napi;
use tokio::runtime::Runtime;

use super::{
    authenticate::{Asker, NativeAuthResult},
    client::NativeClient,
    convert::{
        self, NativeClientOptions, NativeJwt, NativeServerOptions, NativeTlsServerOptions, Result,
    },
    events::{Listener, Shared},
    hub::{Hub, client_runtime, runtime},
    mailbox::Mailbox,
    stats::NativeStats,
};
#[cfg(unix)]
use crate::InheritedSocket;
use crate::{
    Address, AdminOptions, Authentication, Authorization, ClientOptions, Error, Format, Found,
    Listen, NatsOptions, Server, ServerOptions, StoreOptions, TrustProxy,
    auth::{JwtKey, JwtOptions},
    server::check_close,
};

/// Default of `authenticateTimeout`.
const AUTHENTICATE: Duration = Duration::from_secs(5);
/// Default limit of `threads`. More threads were not faster: one routes about a million messages a second.
const MAX_DEFAULT_THREADS: usize = 4;
const MAX_THREADS: usize = 256;
/// The system's code for a descriptor that is not open.
#[cfg(unix)]
const EBADF: i32 = 9;
/// Default of `clientMaxPayload`: bytes of one message to the server's own client. JavaScript parses such a
/// message, and V8 may need 40 times its size.
const CLIENT_MAX_PAYLOAD: usize = 1 << 20;

/// A broker that runs on its own threads.
#[napi]
pub struct NativeServer {
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Option<Runtime>,
    client_max_payload: usize,
}

#[napi]
impl NativeServer {
    /// Binds the address, or throws the error of the operating system. `number`: the number of this server in
    /// the hub.
    #[napi(constructor)]
    pub fn new(hub: &Hub, number: u32, options: NativeServerOptions) -> Result<Self> {
        let asks = options.authenticates;
        let authorizes = options.authorizes == Some(true);
        let Checked {
            mut options,
            threads,
            client_max_payload,
            limit,
        } = Checked::new(options)?;
        let runtime = runtime("wsmsgbroker-srv", threads)
            .map_err(|error| convert::failure("ERR_WSMB_THREADS", error))?;
        let shared = Arc::new(Shared::new(Mailbox::new(number, hub.inbox().clone())));
        if asks {
            let (to, of) = (shared.clone(), shared.clone());
            let asker = Asker::new(
                shared.questions.clone(),
                move |question| to.ask(question),
                move || of.is_behind(),
            );
            options.authentication = Authentication::Hook(Arc::new(asker), limit);
        }
        if authorizes {
            let (to, of) = (shared.clone(), shared.clone());
            let asker = Asker::new(
                shared.questions.clone(),
                move |question| to.ask_topic(question),
                move || of.is_behind(),
            );
            options.authorization = Authorization::Hook(Arc::new(asker), limit);
        }
        let server = Server::bind(options, Listener(shared.clone()), runtime.handle())
            .map_err(convert::error)?;
        *shared.server.lock() = Some(server);
        hub.inbox().add(number, shared.clone());
        Ok(Self {
            shared,
            runtime: Some(runtime),
            client_max_payload,
        })
    }

    /// Checks options as the constructor does, and reads the files of TLS. Nothing is bound.
    #[napi]
    pub fn check(options: NativeServerOptions) -> Result<()> {
        let Checked { options, .. } = Checked::new(options)?;
        Server::check(&options).map_err(convert::error)
    }

    /// The default options. `authenticates`: return the defaults of a server that authenticates clients. `nats`
    /// and `admin` have the defaults of their members, although a server has neither by default.
    #[napi]
    pub fn defaults(authenticates: bool) -> NativeServerOptions {
        let mut options = ServerOptions::default();
        if authenticates {
            let no_key = JwtKey::Secret(Vec::new());
            options.authentication = Authentication::Jwt(JwtOptions::new(no_key));
        }
        NativeServerOptions {
            threads: Some(default_threads() as f64),
            client_max_payload: Some(CLIENT_MAX_PAYLOAD as f64),
            authenticates,
            authenticate_timeout: Some(AUTHENTICATE.as_millis() as f64),
            nats: Some(NatsOptions::new(Vec::<String>::new()).into()),
            store: Some(StoreOptions::new("").into()),
            admin: Some(AdminOptions::new(0).into()),
            ..options.into()
        }
    }

    /// Host and port, or the path of a Unix socket. Nothing after `close`.
    #[napi]
    pub fn address(&self) -> Option<(String, u16)> {
        // The listener is closed while a drain is in progress.
        self.runtime.as_ref()?;
        let server = self.shared.server.lock();
        address_parts(server.as_ref()?.address())
    }

    /// Host and port of the admin endpoint, or the path of its Unix socket. Nothing after `close`.
    #[napi]
    pub fn admin_address(&self) -> Option<(String, u16)> {
        let server = self.shared.server.lock();
        address_parts(server.as_ref()?.admin_address()?)
    }

    /// The metrics as text for Prometheus. Nothing after `close`.
    #[napi]
    pub fn metrics(&self) -> Option<String> {
        let server = self.shared.server.lock();
        let stats = server.as_ref()?.stats();
        Some(stats.exposition(Format::Prometheus))
    }

    /// Announces that the server is about to close: its admin endpoint is not ready any more.
    #[napi]
    pub fn leave(&self) {
        if let Some(server) = &*self.shared.server.lock() {
            server.leave();
        }
    }

    /// Sets the mask of events to send: a bit for each `ServerEventKind`.
    #[napi]
    pub fn listen(&self, interest: u32) {
        self.shared.interest.store(interest, Relaxed);
    }

    /// Changes `ackTimeout`, in milliseconds.
    #[napi]
    pub fn set_ack_timeout(&self, millis: f64) {
        if let Some(server) = &*self.shared.server.lock() {
            server.set_ack_timeout(Duration::from_millis(millis as u64));
        }
    }

    /// Changes the certificate for new connections.
    #[napi]
    pub fn set_tls(&self, tls: NativeTlsServerOptions) -> Result<()> {
        match &*self.shared.server.lock() {
            Some(server) => server.set_tls(tls.into()).map_err(convert::error),
            None => Err(convert::error(Error::NotOpen)),
        }
    }

    /// Changes the keys and conditions of tokens for new registrations.
    #[napi]
    pub fn set_jwt(&self, jwt: NativeJwt) -> Result<()> {
        match &*self.shared.server.lock() {
            Some(server) => server.set_jwt(jwt.into()).map_err(convert::error),
            None => Err(convert::error(Error::NotOpen)),
        }
    }

    /// Changes the token of the admin endpoint.
    #[napi]
    pub fn set_admin_token(&self, token: String) -> Result<()> {
        match &*self.shared.server.lock() {
            Some(server) => server.set_admin_token(&token).map_err(convert::error),
            None => Err(convert::error(Error::NotOpen)),
        }
    }

    /// Counters. Nothing after `close`.
    #[napi]
    pub fn stats(&self) -> Option<NativeStats> {
        self.shared
            .server
            .lock()
            .as_ref()
            .map(|server| server.stats().into())
    }

    /// The ids that are registered at this broker.
    #[napi]
    pub fn ids(&self) -> Vec<String> {
        let server = self.shared.server.lock();
        let ids = server.as_ref().map(Server::ids).unwrap_or_default();
        ids.iter().map(|id| id.to_string()).collect()
    }

    /// True if this id is registered at this broker.
    #[napi]
    pub fn has(&self, id: String) -> bool {
        let server = self.shared.server.lock();
        server.as_ref().is_some_and(|server| server.has(&id))
    }

    /// Makes the client with this id a subscriber of a pattern.
    #[napi]
    pub fn add_subscriber(&self, pattern: String, id: String) -> Result<()> {
        match &*self.shared.server.lock() {
            Some(server) => server.add_subscriber(&pattern, &id),
            None => Err(Error::NotOpen),
        }
        .map_err(convert::error)
    }

    /// Ends the subscription of the client with this id to a pattern. False if there was none.
    #[napi]
    pub fn remove_subscriber(&self, pattern: String, id: String) -> Result<bool> {
        match &*self.shared.server.lock() {
            Some(server) => server.remove_subscriber(&pattern, &id),
            None => Err(Error::NotOpen),
        }
        .map_err(convert::error)
    }

    /// The ids that get messages to a topic.
    #[napi]
    pub fn subscribers(&self, topic: String) -> Result<Vec<String>> {
        let server = self.shared.server.lock();
        let ids = server.as_ref().map(|server| server.subscribers(&topic));
        let ids = ids.transpose().map_err(convert::error)?;
        let ids = ids.unwrap_or_default();
        Ok(ids.iter().map(|id| id.to_string()).collect())
    }

    /// The numbers of messages and bytes in a mailbox.
    #[napi]
    pub fn mailbox(&self, name: String) -> Option<Vec<f64>> {
        let server = self.shared.server.lock();
        let usage = server.as_ref()?.mailbox(&name)?;
        Some(vec![usage.messages as f64, usage.bytes as f64])
    }

    /// The names of all known brokers of the cluster. Nothing without a cluster.
    #[napi]
    pub fn nodes(&self) -> Option<Vec<String>> {
        let server = self.shared.server.lock();
        server.as_ref()?.nodes()
    }

    /// Searches all brokers for all ids, or for one. A `Found` event with this number has the result.
    #[napi]
    pub fn find(&self, number: u32, id: Option<String>, within: f64) -> Result<()> {
        let within = convert::millis(within);
        let shared = self.shared.clone();
        let answer = |server: &Server| {
            let found: Pin<Box<dyn Future<Output = Found> + Send>> = match &id {
                None => Box::pin(server.cluster_ids(within)),
                Some(id) => Box::pin(server.cluster_has(id, within)),
            };
            found
        };
        let Some(found) = self.shared.server.lock().as_ref().map(answer) else {
            return Err(convert::error(Error::NotOpen));
        };
        client_runtime()?.spawn(async move { shared.found(number, &found.await) });
        Ok(())
    }

    /// Closes the connection that owns this id, or with `principal` all connections of the same principal.
    /// False if the id has no owner.
    #[napi]
    pub fn disconnect(
        &self,
        id: String,
        code: f64,
        reason: String,
        principal: bool,
    ) -> Result<bool> {
        // The conversion saturates: a number above 65535 stays invalid as a close code.
        let code = code as u16;
        match &*self.shared.server.lock() {
            Some(server) if principal => server.disconnect_principal(&id, code, &reason),
            Some(server) => server.disconnect(&id, code, &reason),
            None => check_close(code, &reason).map(|()| false),
        }
        .map_err(convert::error)
    }

    /// Creates a client that is connected to this server within the process. `number`: its number in the hub.
    #[napi]
    pub fn join(
        &self,
        hub: &Hub,
        number: u32,
        options: NativeClientOptions,
    ) -> Result<NativeClient> {
        let runtime = client_runtime()?.handle();
        NativeClient::start(hub, number, options, |options, listener| {
            let options = ClientOptions {
                max_message: self.client_max_payload,
                ..options
            };
            match &*self.shared.server.lock() {
                Some(server) => server.join(options, listener, runtime),
                None => Err(Error::NotOpen),
            }
        })
    }

    /// Answers the `Question` event with this number.
    #[napi]
    pub fn answer(&self, question: u32, result: NativeAuthResult) {
        self.shared.questions.answer(question, result);
    }

    /// Closes the listener immediately. A `Closed` event follows when the last connection has ended. `drain`:
    /// time in milliseconds for pending requests.
    #[napi]
    pub fn close(&mut self, drain: Option<f64>) -> Result<()> {
        let waiting = client_runtime()?;
        let shared = self.shared.clone();
        let mut server = shared.server.lock();
        let Some(open) = &*server else { return Ok(()) };
        let closed = open.closed();
        let drained = drain.map(|within| open.drain(convert::millis(within)));
        if drained.is_none() {
            // Dropping the server closes its connections.
            *server = None;
        }
        drop(server);
        // The first call has the runtime, and waits for the end.
        let Some(runtime) = self.runtime.take() else {
            return Ok(());
        };
        // Runs on another runtime: a runtime cannot shut itself down.
        waiting.spawn(async move {
            tokio::pin!(closed);
            let is_closed = match drained {
                None => false,
                Some(drained) => tokio::select! {
                    () = drained => false,
                    // A further call of `close`, without `drain`, has ended the drain.
                    () = &mut closed => true,
                },
            };
            drop(shared.server.lock().take());
            if !is_closed {
                closed.await;
            }
            runtime.shutdown_background();
            shared.closed();
        });
        Ok(())
    }
}

impl Drop for NativeServer {
    fn drop(&mut self) {
        drop(self.shared.server.lock().take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The options of a server, checked.
struct Checked {
    options: ServerOptions,
    threads: usize,
    client_max_payload: usize,
    /// Time limit of `authenticate`.
    limit: Duration,
}

impl Checked {
    fn new(mut options: NativeServerOptions) -> Result<Self> {
        let threads = options
            .threads
            .map_or_else(default_threads, |threads| threads as usize);
        if !(1..=MAX_THREADS).contains(&threads) {
            let reason = format!("is {threads}, expected 1 to {MAX_THREADS}");
            return Err(convert::error(Error::InvalidOption {
                name: "threads",
                reason,
            }));
        }
        let client_max_payload = options
            .client_max_payload
            .map_or(CLIENT_MAX_PAYLOAD, |bytes| bytes as usize);
        crate::options::payload("clientMaxPayload", client_max_payload).map_err(convert::error)?;
        let limit = options
            .authenticate_timeout
            .map_or(AUTHENTICATE, convert::millis);
        let networks = options.trusted_networks.take();
        let descriptor = options.fd.take();
        let admin_descriptor = options.admin.as_mut().and_then(|admin| admin.fd.take());
        let mut options = ServerOptions::from(options);
        if let Some(descriptor) = descriptor {
            options.listen = inherited("fd", descriptor as i32)?;
        }
        if let (Some(descriptor), Some(admin)) = (admin_descriptor, &mut options.admin) {
            admin.listen = inherited("admin.fd", descriptor as i32)?;
        }
        if let Some(networks) = networks {
            options.trust_proxy = TrustProxy::networks(&networks).map_err(convert::error)?;
        }
        options.validate().map_err(convert::error)?;
        Ok(Self {
            options,
            threads,
            client_max_payload,
            limit,
        })
    }
}

/// The address of a listener on a copy of a descriptor of the program. `name`: the option of the descriptor.
#[cfg(unix)]
fn inherited(name: &'static str, descriptor: i32) -> Result<Listen> {
    use std::os::fd::BorrowedFd;

    // SAFETY: the descriptor is only copied, which fails if it is not open. It is not negative: `lib/options.js`.
    let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let copy = socket.try_clone_to_owned().map_err(|error| {
        if error.raw_os_error() != Some(EBADF) {
            return Error::io("listen", "inherited socket", error);
        }
        let reason = format!("is {descriptor}, expected an open descriptor");
        Error::InvalidOption { name, reason }
    });
    let socket = copy.and_then(InheritedSocket::new);
    let socket = socket.map_err(|error| match error {
        Error::InvalidOption { reason, .. } => Error::InvalidOption { name, reason },
        other => other,
    });
    socket.map(Listen::Inherited).map_err(convert::error)
}

#[cfg(not(unix))]
fn inherited(name: &'static str, _: i32) -> Result<Listen> {
    let reason = "is not supported on Windows".to_owned();
    Err(convert::error(Error::InvalidOption { name, reason }))
}

/// An address as JavaScript gets it.
fn address_parts(address: &Address) -> Option<(String, u16)> {
    Some(match address {
        Address::Tcp(address) => (address.ip().to_string(), address.port()),
        Address::Unix(path) => (path.display().to_string(), 0),
        Address::Nowhere => return None,
    })
}

fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_DEFAULT_THREADS)
}
