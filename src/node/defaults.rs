//! Converts the default options for JavaScript. A test compares the defaults in the documents with them.

use super::convert::{
    NativeAdmin, NativeClientOptions, NativeJwt, NativeNats, NativeServerOptions, NativeStore,
};
use crate::{
    AdminOptions, Authentication, ClientOptions, Listen, NatsOptions, ServerOptions, SlowConsumer,
    StoreOptions, StoreSync,
    auth::{JwtOptions, Subject},
};

impl From<ServerOptions> for NativeServerOptions {
    /// Leaves out the key of `jwt`. A limit of zero is no limit.
    fn from(options: ServerOptions) -> Self {
        let numbers = Self::of_numbers(&options);
        let limit = options.effective_register_timeout();
        let errors = options.effective_protocol_errors();
        let authentication = options.authentication;
        let (host, port) = match options.listen {
            Listen::Tcp { host, port } => (host, port),
            _ => Default::default(),
        };
        Self {
            host,
            port,
            reuse_port: Some(options.reuse_port),
            allow_wait: Some(options.allow_wait),
            path: options.path,
            trust_proxy: Some(0.0),
            proxy_protocol: Some(options.proxy_protocol),
            health: options.health,
            socket_mode: options.socket_mode,
            slow_consumer: Some(name(options.slow_consumer).to_owned()),
            max_protocol_errors: Some(errors.into()),
            allowed_origins: options.allowed_origins,
            jwt: match authentication {
                Authentication::Jwt(jwt) => Some(jwt.into()),
                _ => None,
            },
            register_timeout: Some(limit.unwrap_or_default().as_millis() as f64),
            ..numbers
        }
    }
}

fn name(slow_consumer: SlowConsumer) -> &'static str {
    match slow_consumer {
        SlowConsumer::Pushback => "pushback",
        SlowConsumer::Close => "close",
        SlowConsumer::Drop => "drop",
    }
}

impl From<JwtOptions> for NativeJwt {
    fn from(options: JwtOptions) -> Self {
        Self {
            secret: None,
            public_key: None,
            algorithms: Some(options.algorithms),
            issuer: Some(options.issuer),
            audience: Some(options.audience),
            pattern: options.subject == Subject::Pattern,
            leeway: Some(options.leeway.as_millis() as f64),
            require_exp: Some(options.require_exp),
        }
    }
}

impl From<AdminOptions> for NativeAdmin {
    fn from(options: AdminOptions) -> Self {
        let (host, port, unix) = match options.listen {
            Listen::Tcp { host, port } => (host, port, None),
            Listen::Unix(path) => (String::new(), 0, Some(path.display().to_string())),
            _ => (String::new(), 0, None),
        };
        Self {
            host,
            port,
            unix,
            fd: None,
            token: None,
        }
    }
}

impl From<NatsOptions> for NativeNats {
    /// Leaves out credentials and TLS.
    fn from(options: NatsOptions) -> Self {
        Self {
            servers: options.servers,
            namespace: Some(options.namespace),
            name: options.name,
            user: None,
            pass: None,
            token: None,
            nkey: None,
            creds: None,
            tls: None,
            trust: None,
            required: Some(options.required),
            timeout: Some(options.timeout.as_millis() as f64),
        }
    }
}

impl From<StoreOptions> for NativeStore {
    /// Leaves out the path.
    fn from(options: StoreOptions) -> Self {
        let (sync, delay) = match options.sync {
            StoreSync::Batch => (Some("batch"), None),
            StoreSync::Every(delay) => (None, Some(delay.as_millis() as f64)),
            StoreSync::Never => (Some("never"), None),
        };
        Self {
            path: None,
            sync: sync.map(str::to_owned),
            delay,
            max_bytes: Some(options.max_bytes as f64),
        }
    }
}

impl From<ClientOptions> for NativeClientOptions {
    fn from(options: ClientOptions) -> Self {
        let numbers = Self::of_numbers(&options);
        Self {
            host: options.host,
            port: options.port,
            path: options.path,
            protocol: Some(options.protocol.into()),
            ..numbers
        }
    }
}
