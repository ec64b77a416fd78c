//! What can go wrong, each with a stable code.
//!
//! [`Error`] is what a call of this crate returns. [`ActionError`] is what a peer's frame did
//! wrong: it reaches the embedder as an event and never ends the server.

use std::io;

/// The result of a call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value it cannot have. Correct the option named.
    #[error("option \"{name}\" {reason}")]
    InvalidOption {
        /// The option, spelled as in JavaScript.
        name: &'static str,
        /// What was found and what was expected.
        reason: String,
    },
    /// The operating system refused: the port is taken, the address is not ours, ...
    #[error("{syscall} {}{}", code_of(.source), .target.as_ref().map(|t| format!(": {t}")).unwrap_or_default())]
    Io {
        /// What was being done: `listen`, `connect`, `getaddrinfo`.
        syscall: &'static str,
        /// With which address or name.
        target: Option<String>,
        /// What the system said.
        source: io::Error,
    },
    /// The connection is closed, or closing: nothing can be sent on it any more.
    #[error("not opened")]
    NotOpen,
    /// More bytes wait to be sent than `maxQueued` allows. Wait for `drain`, then send again.
    #[error("{queued} bytes wait to be sent, maxQueued is {limit}")]
    QueueFull {
        /// Bytes waiting.
        queued: usize,
        /// The limit.
        limit: usize,
    },
    /// The peer answered the handshake with an HTTP status other than 101.
    #[error("unexpected server response ({0})")]
    UnexpectedResponse(u16),
    /// The peer closed the connection in the middle of the handshake.
    #[error("socket hang up")]
    HangUp,
    /// The peer's `Sec-WebSocket-Accept` does not belong to our key: no WebSocket server.
    #[error("invalid server key")]
    InvalidServerKey,
    /// The handshake did not come through within `connectTimeout`.
    #[error("the handshake took longer than {0} ms")]
    ConnectTimeout(u64),
    /// A certificate, a key or another option of TLS cannot be used.
    #[error("option \"{option}\" {reason}")]
    Tls {
        /// The option, spelled as in JavaScript: `tls.cert`.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The handshake of TLS failed; nothing was said without it.
    #[error("TLS: {0}")]
    TlsHandshake(String),
    /// The address is no `ws:` or `wss:` URL of a host and a port.
    #[error("invalid address \"{0}\"")]
    InvalidAddress(String),
    /// The server does not know who we are: the token is missing, wrong or expired. Get a new one.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// We may not have the id that we wanted. Ask for another one, or for the right to it.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The id belongs to somebody else who is connected now.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The peer broke the WebSocket protocol (RFC 6455); the connection is closed.
    #[error("{0}")]
    WebSocket(String),
}

impl Error {
    /// The stable code: Node's own for what the system said, `ERR_WSMB_*` for the rest.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidOption { .. } => "ERR_WSMB_OPTION",
            Self::Io { source, .. } => code_of(source),
            Self::NotOpen => "ERR_WSMB_NOT_OPEN",
            Self::QueueFull { .. } => "ERR_WSMB_MAX_QUEUED",
            Self::UnexpectedResponse(_) => "ERR_WSMB_UNEXPECTED_RESPONSE",
            Self::HangUp => "ECONNRESET",
            Self::InvalidServerKey => "ERR_WSMB_SERVER_KEY",
            Self::ConnectTimeout(_) => "ETIMEDOUT",
            Self::Tls { .. } | Self::TlsHandshake(_) => "ERR_WSMB_TLS",
            Self::InvalidAddress(_) => "ERR_WSMB_ADDRESS",
            Self::Unauthorized(_) => "ERR_WSMB_UNAUTHORIZED",
            Self::Forbidden(_) => "ERR_WSMB_FORBIDDEN",
            Self::Conflict(_) => "ERR_WSMB_CONFLICT",
            Self::WebSocket(_) => "ERR_WSMB_WEBSOCKET",
        }
    }

    /// What a close frame says with the codes of a refused registration.
    pub(crate) fn denied(code: u16, reason: String) -> Option<Self> {
        match code {
            4401 => Some(Self::Unauthorized(reason)),
            4403 => Some(Self::Forbidden(reason)),
            4409 => Some(Self::Conflict(reason)),
            _ => None,
        }
    }

    /// The error of a system call made for `target`.
    pub(crate) fn io(syscall: &'static str, target: impl ToString, source: io::Error) -> Self {
        let target = Some(target.to_string());
        Self::Io {
            syscall,
            target,
            source,
        }
    }
}

/// The name Node gives to an error of the system.
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
        // getaddrinfo has codes of its own, which std turns into a text.
        _ if error.raw_os_error().is_none() => "ENOTFOUND",
        _ => "EIO",
    }
}

/// True when no file descriptor was left, neither for the process nor for the machine.
fn is_out_of_files(error: &io::Error) -> bool {
    // EMFILE and ENFILE; on Windows WSAEMFILE.
    matches!(error.raw_os_error(), Some(23 | 24 | 10024))
}

/// What was wrong with one action of a peer. The texts are those of version 1, where it had them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ActionError {
    /// The frame is not JSON.
    #[error("unable to parse message (only JSON-encoded messages are handled)")]
    NotJson,
    /// The frame is the JSON text `null`, which has no members.
    #[error("unable to parse message (only JSON-encoded messages are handled)")]
    Null,
    /// The frame is a binary one.
    #[error("\"undefined\" is not valid JSON")]
    Binary,
    /// The action is unknown, or there is none.
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
    /// `send` to something that is longer than any id can be.
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
    /// `send` or `answer` of more than goes between brokers: what NATS takes, less its head.
    #[error("Unable to send message. {0} bytes are more than {1} (max_payload of NATS)")]
    ClusterPayload(usize, usize),
    /// `answer` without ack.
    #[error("Unable to parse \"answer\" message (msg.ack is undefined)")]
    NoAck,
    /// `cancel` without ack.
    #[error("Unable to parse \"cancel\" message (msg.ack is undefined)")]
    NoCancelAck,
    /// A member of version 2 that is missing, or has a value that it cannot have.
    #[error("Unable to parse {0}")]
    InvalidMember(&'static str),
}

impl ActionError {
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
            Self::Forbidden => "ERR_WSMB_FORBIDDEN",
            Self::AckTaken => "ERR_WSMB_ACK_TAKEN",
            Self::ClusterPayload(..) => "ERR_WSMB_CLUSTER_PAYLOAD",
            Self::NoAck => "ERR_WSMB_ANSWER",
            Self::NoCancelAck => "ERR_WSMB_CANCEL",
            Self::InvalidMember(_) => "ERR_WSMB_MEMBER",
        }
    }
}
