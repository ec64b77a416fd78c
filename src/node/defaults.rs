//! Converts the default options for JavaScript. A test compares the defaults in the documents with them.

use super::convert::{
    NativeAdmin, NativeClientOptions, NativeJwt, NativeNats, NativeServerOptions,
};
use crate::{
    AdminOptions, Authentication, ClientOptions, Listen, NatsOptions, ServerOptions, SlowConsumer,
    auth::{JwtOptions, Subject},
};

impl From<ServerOptions> for NativeServerOptions {
    /// Leaves out the key of `jwt`. A limit of zero is no limit.
    fn from(options: ServerOptions) -> Self {
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
            path: options.path,
            trust_proxy: Some(0.0),
            proxy_protocol: Some(options.proxy_protocol),
            health: options.health,
            socket_mode: options.socket_mode,
            max_payload: Some(options.max_payload as f64),
            max_backpressure: Some(options.max_backpressure as f64),
            slow_consumer_timeout: Some(options.slow_consumer_timeout.as_millis() as f64),
            slow_consumer: Some(name(options.slow_consumer).to_owned()),
            max_memory: Some(options.max_memory as f64),
            max_connections: Some(options.max_connections as f64),
            max_id_length: Some(options.max_id_length as f64),
            max_dest: Some(options.max_dest as f64),
            max_fanout_bytes: Some(options.max_fanout_bytes as f64),
            max_subscriptions: Some(options.max_subscriptions as f64),
            max_patterns: Some(options.max_patterns as f64),
            allow_wait: Some(options.allow_wait),
            max_fragments: Some(options.max_fragments as f64),
            max_control_frames: Some(options.max_control_frames.into()),
            max_protocol_errors: Some(errors.into()),
            allowed_origins: options.allowed_origins,
            jwt: match authentication {
                Authentication::Jwt(jwt) => Some(jwt.into()),
                _ => None,
            },
            max_header_size: Some(options.max_header_size as f64),
            handshake_timeout: Some(options.handshake_timeout.as_millis() as f64),
            register_timeout: Some(limit.unwrap_or_default().as_millis() as f64),
            ping_interval: Some(options.ping_interval.as_millis() as f64),
            ping_timeout: Some(options.ping_timeout.as_millis() as f64),
            close_timeout: Some(options.close_timeout.as_millis() as f64),
            ack_timeout: Some(options.ack_timeout.as_millis() as f64),
            max_pending_acks: Some(options.max_pending_acks as f64),
            ..Self::default()
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

impl From<ClientOptions> for NativeClientOptions {
    fn from(options: ClientOptions) -> Self {
        Self {
            host: options.host,
            port: options.port,
            path: options.path,
            protocol: Some(options.protocol.into()),
            max_payload: Some(options.max_payload as f64),
            high_water_mark: Some(options.high_water_mark as f64),
            max_queued: Some(options.max_queued as f64),
            connect_timeout: Some(options.connect_timeout.as_millis() as f64),
            ping_interval: Some(options.ping_interval.as_millis() as f64),
            ping_timeout: Some(options.ping_timeout.as_millis() as f64),
            close_timeout: Some(options.close_timeout.as_millis() as f64),
            ..Self::default()
        }
    }
}
