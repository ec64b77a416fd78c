//! Errors, each with a stable code.
//!
//! [`Error`] is returned by calls of this crate. [`ActionError`] describes an invalid action of a peer: it is
//! emitted to the embedder as an event, and never stops the server.

use std::io;

/// The result of a call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has an invalid value. Correct the named option.
    #[error("option \"{name}\" {reason}")]
    InvalidOption {
        /// The option, spelled as in JavaScript.
        name: &'static str,
        /// The value found and the values expected.
        reason: String,
    },
    /// The operating system returned an error: the port is in use, the address is not local, ...
    #[error("{syscall} {}{}", code_of(.source), .target.as_ref().map(|t| format!(": {t}")).unwrap_or_default())]
    Io {
        /// The operation: `listen`, `connect`, `getaddrinfo`.
        syscall: &'static str,
        /// The address or name that it was called with.
        target: Option<String>,
        /// The error of the system.
        source: io::Error,
    },
    /// A host name has no address, or the resolver does not respond.
    #[error("getaddrinfo {code} {host}")]
    Lookup {
        /// The name.
        host: String,
        /// The code: `ENOTFOUND` if the name does not exist, `EAI_AGAIN` if the resolver gives no answer.
        code: &'static str,
    },
    /// A host has several addresses, and none of them accepts a connection.
    #[error("no address of \"{host}\" accepts a connection: {}", list(failures))]
    Connect {
        /// The host name.
        host: String,
        /// An error for each address.
        failures: Vec<Error>,
    },
    /// The connection is closed or closing: no message can be sent.
    #[error("not opened")]
    NotOpen,
    /// More bytes are queued than `maxQueued` allows. Wait for `drain`, then send again.
    #[error("{queued} bytes wait to be sent, maxQueued is {limit}")]
    QueueFull {
        /// Bytes queued.
        queued: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The peer answered the handshake with an HTTP status other than 101.
    #[error("unexpected server response ({0})")]
    UnexpectedResponse(u16),
    /// The peer closed the connection during the handshake.
    #[error("socket hang up")]
    HangUp,
    /// The peer's `Sec-WebSocket-Accept` does not match the key that was sent: it is not a WebSocket server.
    #[error("invalid server key")]
    InvalidServerKey,
    /// The peer does not speak WebSocket: it answered the handshake with something else.
    #[error("the server at {address} is not a WebSocket server: {reason}")]
    NotWebSocket {
        /// Host and port of the server.
        address: String,
        /// The response.
        reason: String,
    },
    /// The proxy cannot be reached, or did not open a tunnel to the server.
    #[error("the proxy at {address} {reason}")]
    Proxy {
        /// Host and port of the proxy.
        address: String,
        /// The response, or the failure.
        reason: String,
    },
    /// The connection was not open within `connectTimeout`.
    #[error("the connection was not open within {0} ms (connectTimeout)")]
    ConnectTimeout(u64),
    /// A certificate, a key or another TLS option cannot be used.
    #[error("option \"{option}\" {reason}")]
    Tls {
        /// The option, spelled as in JavaScript: `tls.cert`.
        option: &'static str,
        /// The reason.
        reason: String,
    },
    /// The TLS handshake failed, or only one side speaks TLS. No message was sent.
    #[error("{0}")]
    TlsHandshake(String),
    /// Host, port and path do not form a URL.
    #[error("invalid address \"{0}\": expected ws://host:port/path or wss://host:port/path")]
    InvalidAddress(String),
    /// The server has refused the token: it is missing, wrong or expired. Get a new one.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// The client may not have the requested id. Request another one, or the permission for it.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The id belongs to another principal, which is connected now.
    #[error("conflict: {0}")]
    Conflict(String),
    /// No connection of this broker has registered the id.
    #[error("\"{0}\": id not registered")]
    UnknownId(String),
    /// The client speaks version 1 of the protocol, which has no subscriptions.
    #[error("\"{0}\": does not speak protocol 2")]
    NotNegotiated(String),
    /// The store cannot be opened, or has failed: messages are not stored any more.
    #[error("the store cannot be used: {0}")]
    Store(String),
    /// The broker has refused to subscribe a client.
    #[error("{0}")]
    Subscription(ActionError),
    /// The peer violated the WebSocket protocol (RFC 6455); the connection is closed.
    #[error("{0}")]
    WebSocket(String),
}

impl Error {
    /// The stable code: that of Node.js for errors of the system, `ERR_WSMB_*` for all others.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidOption { .. } => "ERR_WSMB_OPTION",
            Self::Io { source, .. } => code_of(source),
            Self::Lookup { code, .. } => code,
            Self::Connect { failures, .. } => most_telling(failures),
            Self::NotOpen => "ERR_WSMB_NOT_OPEN",
            Self::QueueFull { .. } => "ERR_WSMB_MAX_QUEUED",
            Self::UnexpectedResponse(_) | Self::NotWebSocket { .. } => {
                "ERR_WSMB_UNEXPECTED_RESPONSE"
            }
            Self::Proxy { .. } => "ERR_WSMB_PROXY",
            Self::HangUp => "ECONNRESET",
            Self::InvalidServerKey => "ERR_WSMB_SERVER_KEY",
            Self::ConnectTimeout(_) => "ETIMEDOUT",
            Self::Tls { .. } | Self::TlsHandshake(_) => "ERR_WSMB_TLS",
            Self::InvalidAddress(_) => "ERR_WSMB_ADDRESS",
            Self::Unauthorized(_) => "ERR_WSMB_UNAUTHORIZED",
            Self::Forbidden(_) => "ERR_WSMB_FORBIDDEN",
            Self::Conflict(_) => "ERR_WSMB_CONFLICT",
            Self::UnknownId(_) => "UNKNOWN_ID",
            Self::NotNegotiated(_) => "ERR_WSMB_NOT_NEGOTIATED",
            Self::Store(_) => "ERR_WSMB_STORE",
            Self::Subscription(error) => error.code(),
            Self::WebSocket(_) => "ERR_WSMB_WEBSOCKET",
        }
    }

    /// The system call that failed, and the address or name that it was called with.
    #[cfg(feature = "node")]
    pub(crate) fn system_call(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Io {
                syscall, target, ..
            } => Some((syscall, target.as_deref().unwrap_or_default())),
            Self::Lookup { host, .. } => Some(("getaddrinfo", host)),
            Self::Connect { host, .. } => Some(("connect", host)),
            _ => None,
        }
    }

    /// The error of a close frame with the code of a denied registration.
    pub(crate) fn denied(code: u16, reason: String) -> Option<Self> {
        match code {
            4401 => Some(Self::Unauthorized(reason)),
            4403 => Some(Self::Forbidden(reason)),
            4409 => Some(Self::Conflict(reason)),
            _ => None,
        }
    }

    /// Creates the error of a system call with `target`.
    pub(crate) fn io(syscall: &'static str, target: impl ToString, source: io::Error) -> Self {
        let target = Some(target.to_string());
        Self::Io {
            syscall,
            target,
            source,
        }
    }
}

/// The texts of errors, as a list.
fn list(errors: &[Error]) -> String {
    let texts: Vec<_> = errors.iter().map(Error::to_string).collect();
    texts.join(", ")
}

/// The code of the first error that is not caused by a missing route: a host may have an IPv6 address that
/// this machine cannot reach.
fn most_telling(errors: &[Error]) -> &'static str {
    let is_telling =
        |code: &&str| !matches!(*code, "ENETUNREACH" | "EHOSTUNREACH" | "EADDRNOTAVAIL");
    let codes = || errors.iter().map(Error::code);
    let code = codes().find(is_telling).or_else(|| codes().next());
    code.unwrap_or("ENOTFOUND")
}

/// The code that Node.js uses for an error of the system.
pub(crate) fn code_of(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "ECONNREFUSED",
        Kind::ConnectionReset => "ECONNRESET",
        Kind::ConnectionAborted => "ECONNABORTED",
        Kind::BrokenPipe => "EPIPE",
        Kind::AddrInUse => "EADDRINUSE",
        Kind::AddrNotAvailable => "EADDRNOTAVAIL",
        Kind::PermissionDenied => "EACCES",
        Kind::TimedOut => "ETIMEDOUT",
        Kind::NotFound => "ENOENT",
        Kind::HostUnreachable => "EHOSTUNREACH",
        Kind::NetworkUnreachable => "ENETUNREACH",
        Kind::NetworkDown => "ENETDOWN",
        Kind::InvalidInput => "EINVAL",
        _ if is_out_of_files(error) => "EMFILE",
        // Errors of getaddrinfo have separate codes, which std converts to text.
        _ if error.raw_os_error().is_none() => "ENOTFOUND",
        _ => "EIO",
    }
}

/// True if no file descriptor was free, in this process or on this machine.
fn is_out_of_files(error: &io::Error) -> bool {
    // EMFILE and ENFILE; on Windows WSAEMFILE.
    matches!(error.raw_os_error(), Some(23 | 24 | 10024))
}

/// The reason why an action of a peer is refused. The texts are those of version 1, where it has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ActionError {
    /// The frame is not JSON.
    #[error("unable to parse message (only JSON-encoded messages are handled)")]
    NotJson,
    /// The frame is the JSON text `null`, which has no members.
    #[error("unable to parse message (only JSON-encoded messages are handled)")]
    Null,
    /// The frame is binary.
    #[error("\"undefined\" is not valid JSON")]
    Binary,
    /// The action is unknown or missing.
    #[error("\"action\" module must be Functions (action \"{0}\" is a undefined)")]
    UnknownAction(String),
    /// `register` without an id.
    #[error("Unable to parse \"register\" message (msg.id is undefined)")]
    NoId,
    /// `register` with an id that is neither a string nor a number, or not valid Unicode.
    #[error("Unable to parse \"register\" message (msg.id must be a string)")]
    InvalidId,
    /// `register` with an id longer than `maxIdLength`.
    #[error(
        "Unable to parse \"register\" message (msg.id has {0} bytes as JSON, maxIdLength is {1})"
    )]
    IdTooLong(usize, usize),
    /// `send` without dest or message.
    #[error("Unable to parse \"send\" message (msg.dest or msg.message are undefined)")]
    IncompleteSend,
    /// `send` whose dest is neither a string nor an array.
    #[error(
        "Unable to parse \"send\" message (msg.dest must be an array of string IDs or a string)"
    )]
    InvalidDest,
    /// `send` to more ids than `maxDest`.
    #[error("Unable to send message. It has more than {0} receivers (maxDest)")]
    TooManyDest(usize),
    /// `send` to a receiver that is longer than an id can be.
    #[error("Unable to send message. An id in its dest has {0} bytes as JSON, maxIdLength is {1}")]
    DestTooLong(usize, usize),
    /// `send` of more than `maxFanoutBytes`.
    #[error(
        "Unable to send message. {0} receivers of {1} bytes are more than {2} (maxFanoutBytes)"
    )]
    FanoutTooLarge(usize, usize, usize),
    /// `send` to an id that the sender may not address.
    #[error("Unable to send message. Its sender may not address all its receivers")]
    Forbidden,
    /// `send` with an ack that belongs to a pending request of another connection.
    #[error("Unable to send message. Its ack belongs to another connection")]
    AckTaken,
    /// `send` with an ack longer than `maxIdLength`.
    #[error("Unable to send message. Its ack has {0} bytes as JSON, maxIdLength is {1}")]
    AckTooLong(usize, usize),
    /// `send` or `answer` of more bytes than can be sent to another broker: the limit of NATS, without the
    /// header.
    #[error("Unable to send message. {0} bytes are more than {1} (max_payload of NATS)")]
    ClusterPayload(usize, usize),
    /// `answer` without ack.
    #[error("Unable to parse \"answer\" message (msg.ack is undefined)")]
    NoAck,
    /// `cancel` without ack.
    #[error("Unable to parse \"cancel\" message (msg.ack is undefined)")]
    NoCancelAck,
    /// `send` to something that is not a topic.
    #[error(
        "Unable to send message. Its topic must be 1 to 16 tokens joined by \".\", without wildcards, spaces and \
         control characters, and must not begin with \"$\""
    )]
    InvalidTopic,
    /// `subscribe` or `unsubscribe` with something that is not a pattern.
    #[error(
        "Unable to subscribe. msg.topic must be 1 to 16 tokens joined by \".\", without spaces and control \
         characters; a token may be \"*\", the last one \">\""
    )]
    InvalidPattern,
    /// `subscribe` to a pattern, or `send` to a topic, without the permission.
    #[error("Its sender may not {0} topic \"{1}\"")]
    TopicForbidden(&'static str, String),
    /// `subscribe` of a connection that has `maxSubscriptions`.
    #[error("Unable to subscribe. The connection has {0} subscriptions (maxSubscriptions)")]
    TooManySubscriptions(usize),
    /// `subscribe` to a new pattern with wildcards when the broker has `maxPatterns`.
    #[error("Unable to subscribe. The broker has {0} patterns with wildcards (maxPatterns)")]
    TooManyPatterns(usize),
    /// `subscribe` that makes publishers wait, without `allowWait`.
    #[error("Unable to subscribe. The broker does not allow slow \"wait\" (allowWait)")]
    WaitForbidden,
    /// `subscribe` with `info` that exceeds `maxPresenceInfo`.
    #[error(
        "Unable to subscribe. msg.info has {0} bytes, at most {1} are allowed (maxPresenceInfo)"
    )]
    PresenceInfoTooLarge(usize, usize),
    /// `subscribe` with a position, or `history`, of topics that are not kept, or by several rules.
    #[error(
        "Unable to read kept messages. Topic \"{0}\" is not within one rule of the server (keep)"
    )]
    NotKept(String),
    /// A `send` to a mailbox, or its `subscribe`, that no rule of the server allows.
    #[error("The server has no mailbox \"{0}\" (mailboxes)")]
    NoMailbox(String),
    /// A mailbox that the grant does not allow.
    #[error("Its sender may not open the mailbox \"{0}\"")]
    MailboxForbidden(String),
    /// `watch` without the permission.
    #[error("Its sender may not watch \"{0}\"")]
    WatchForbidden(String),
    /// `subscribe` or `watch` of a connection that does not own an id.
    #[error("Unable to subscribe. The connection has no id")]
    NotRegistered,
    /// A member of version 2 is missing or invalid.
    #[error("Unable to parse {0}")]
    InvalidMember(&'static str),
}

impl ActionError {
    /// All codes.
    pub(crate) const CODES: [&'static str; 21] = [
        "ERR_WSMB_JSON",
        "ERR_WSMB_BINARY",
        "ERR_WSMB_ACTION",
        "ERR_WSMB_ID",
        "ERR_WSMB_MAX_ID_LENGTH",
        "ERR_WSMB_SEND",
        "ERR_WSMB_DEST",
        "ERR_WSMB_MAX_DEST",
        "ERR_WSMB_MAX_FANOUT",
        "ERR_WSMB_FORBIDDEN",
        "ERR_WSMB_ACK_TAKEN",
        "ERR_WSMB_CLUSTER_PAYLOAD",
        "ERR_WSMB_ANSWER",
        "ERR_WSMB_CANCEL",
        "ERR_WSMB_TOPIC",
        "ERR_WSMB_MAX_SUBSCRIPTIONS",
        "ERR_WSMB_NOT_REGISTERED",
        "ERR_WSMB_MAX_PRESENCE_INFO",
        "ERR_WSMB_NOT_KEPT",
        "ERR_WSMB_NO_MAILBOX",
        "ERR_WSMB_MEMBER",
    ];

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson | Self::Null => "ERR_WSMB_JSON",
            Self::Binary => "ERR_WSMB_BINARY",
            Self::UnknownAction(_) => "ERR_WSMB_ACTION",
            Self::NoId | Self::InvalidId => "ERR_WSMB_ID",
            Self::IdTooLong(..) | Self::DestTooLong(..) | Self::AckTooLong(..) => {
                "ERR_WSMB_MAX_ID_LENGTH"
            }
            Self::IncompleteSend => "ERR_WSMB_SEND",
            Self::InvalidDest => "ERR_WSMB_DEST",
            Self::TooManyDest(_) => "ERR_WSMB_MAX_DEST",
            Self::FanoutTooLarge(..) => "ERR_WSMB_MAX_FANOUT",
            Self::Forbidden
            | Self::TopicForbidden(..)
            | Self::WaitForbidden
            | Self::MailboxForbidden(_)
            | Self::WatchForbidden(_) => "ERR_WSMB_FORBIDDEN",
            Self::PresenceInfoTooLarge(..) => "ERR_WSMB_MAX_PRESENCE_INFO",
            Self::NotKept(_) => "ERR_WSMB_NOT_KEPT",
            Self::NoMailbox(_) => "ERR_WSMB_NO_MAILBOX",
            Self::InvalidTopic | Self::InvalidPattern => "ERR_WSMB_TOPIC",
            Self::TooManySubscriptions(_) | Self::TooManyPatterns(_) => {
                "ERR_WSMB_MAX_SUBSCRIPTIONS"
            }
            Self::NotRegistered => "ERR_WSMB_NOT_REGISTERED",
            Self::AckTaken => "ERR_WSMB_ACK_TAKEN",
            Self::ClusterPayload(..) => "ERR_WSMB_CLUSTER_PAYLOAD",
            Self::NoAck => "ERR_WSMB_ANSWER",
            Self::NoCancelAck => "ERR_WSMB_CANCEL",
            Self::InvalidMember(_) => "ERR_WSMB_MEMBER",
        }
    }
}
