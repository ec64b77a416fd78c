//! The server side of the WebSocket handshake: reads the HTTP request, then refuses or accepts it.
//!
//! It is not read by tungstenite, because a first frame may follow in the same segment, and because plain
//! HTTP requests, oversized heads and unknown paths get a proper HTTP response.
//!
//! `handshake/head.rs` validates the bytes of the head, `handshake/target.rs` the requested host and path;
//! `handshake/forwarded.rs` reads the headers of trusted proxies; this file checks the other headers.

mod forwarded;
mod head;
mod target;

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    memory::Charge,
    options::{self, ServerOptions, SocketPeer},
    transport::socket::{ReadHalf, WriteHalf},
};
pub(crate) use forwarded::Forwarded;
use head::{Head, MAX_HEADERS};

/// The reason why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Timeout,
    UpgradeRequired,
    HeadersTooLarge,
    Unavailable,
}

impl Refusal {
    /// The HTTP status.
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::BadRequest => "400",
            Self::Forbidden => "403",
            Self::NotFound => "404",
            Self::MethodNotAllowed => "405",
            Self::Timeout => "408",
            Self::UpgradeRequired => "426",
            Self::HeadersTooLarge => "431",
            Self::Unavailable => "503",
        }
    }

    /// The HTTP response of the refusal.
    pub(crate) fn response(self) -> String {
        let status = self.status();
        let (text, headers) = match self {
            Self::BadRequest => ("Bad Request", "Sec-WebSocket-Version: 13, 8\r\n"),
            Self::Forbidden => ("Forbidden", ""),
            Self::NotFound => ("Not Found", ""),
            Self::MethodNotAllowed => ("Method Not Allowed", "Allow: GET\r\n"),
            Self::Timeout => ("Request Timeout", ""),
            Self::UpgradeRequired => (
                "Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Self::HeadersTooLarge => ("Request Header Fields Too Large", ""),
            Self::Unavailable => ("Service Unavailable", "Retry-After: 5\r\n"),
        };
        format!(
            "HTTP/1.1 {status} {text}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n{headers}\r\n{text}",
            text.len()
        )
    }
}

/// Lower-case header names with their values, in order of arrival.
pub(crate) type Headers = Vec<(String, String)>;

/// The result of a handshake, if the peer stayed connected.
pub(crate) enum Upgrade {
    Accepted {
        /// The response to send.
        response: String,
        /// The target and the headers of the request, if a hook of the embedder needs them.
        request: Option<(String, Headers)>,
        /// The client behind a trusted proxy; none if no proxy is trusted, or it has not named the client.
        forwarded: Option<Forwarded>,
        /// Bytes received behind the request.
        early: Vec<u8>,
    },
    Refused(Refusal),
    /// A request without an upgrade, with its answer.
    Answered(String),
}

/// The circumstances of a request.
pub(crate) struct RequestContext<'a> {
    pub(crate) options: &'a ServerOptions,
    /// The peer of the socket.
    pub(crate) peer: SocketPeer,
    /// True if the client uses TLS.
    pub(crate) secure: bool,
    /// Bytes that an HTTP server of the embedder has received, which has chosen this server by the path of the
    /// request. None: nothing was read yet.
    pub(crate) received: Option<&'a [u8]>,
}

/// Reads and checks a request head.
///
/// `charge`: the memory charge of the socket, to which the received bytes are added. Errors: the peer has
/// disconnected.
pub(crate) async fn read_request(
    socket: &mut (impl AsyncRead + Unpin),
    context: &RequestContext<'_>,
    charge: &mut Charge,
) -> io::Result<Upgrade> {
    let before = charge.bytes();
    let mut head = Head::new(context.options.max_header_size);
    let mut chunk = [0; 1024];
    let mut received = context.received;
    loop {
        let added = match received.take() {
            Some(bytes) => head.add(bytes),
            None => match socket.read(&mut chunk).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => head.add(&chunk[..read]),
            },
        };
        charge.set(before + head.memory());
        let (head, early) = match added {
            Ok(None) => continue,
            Ok(Some(whole)) => whole,
            Err(refusal) => return Ok(Upgrade::Refused(refusal)),
        };
        charge.set(before + head.capacity() + early.capacity());
        if let Some(answer) = health(&head, context) {
            return Ok(Upgrade::Answered(answer));
        }
        return Ok(match respond(&head, context) {
            Ok(accepted) => Upgrade::Accepted {
                response: accepted.response,
                request: accepted.request,
                forwarded: accepted.forwarded,
                early,
            },
            Err(refusal) => Upgrade::Refused(refusal),
        });
    }
}

/// A request that is accepted; the members are those of [`Upgrade::Accepted`].
struct Accepted {
    response: String,
    request: Option<(String, Headers)>,
    forwarded: Option<Forwarded>,
}

/// The answer to a health check; none if the request is none.
fn health(head: &[u8], context: &RequestContext<'_>) -> Option<String> {
    let health = context.options.health.as_deref()?;
    let mut parts = head.split(|byte| *byte == b' ');
    let (method, target) = (parts.next()?, parts.next()?);
    let path = target.split(|byte| *byte == b'?').next();
    let is_meant = matches!(method, b"GET" | b"HEAD") && path == Some(health.as_bytes());
    let body = if method == b"GET" { "ok" } else { "" };
    is_meant.then(|| {
        format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             Cache-Control: no-store\r\nContent-Length: 2\r\n\r\n{body}"
        )
    })
}

/// Checks a request head.
fn respond(head: &[u8], context: &RequestContext<'_>) -> Result<Accepted, Refusal> {
    let RequestContext {
        options, secure, ..
    } = *context;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadersTooLarge),
        _ => return Err(Refusal::BadRequest),
    }
    let lines = |name: &'static str| {
        let lines = request.headers.iter();
        lines.filter(move |line| line.name.eq_ignore_ascii_case(name))
    };
    let values = |name| {
        lines(name)
            .filter_map(|line| std::str::from_utf8(line.value).ok())
            .map(|value| value.trim_matches([' ', '\t']))
    };
    let header = |name| values(name).next();
    // A list may be spread over several header lines.
    let has_token = |name, token: &str| {
        values(name)
            .flat_map(|value| value.split(','))
            .any(|t| t.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
    };
    if !has_token("connection", "upgrade") || header("upgrade").is_none() {
        return Err(Refusal::UpgradeRequired);
    }
    if request.method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    // The value of a header that must appear exactly once.
    let only = |name| match lines(name).count() {
        1 => header(name).ok_or(Refusal::BadRequest),
        _ => Err(Refusal::BadRequest),
    };
    // HTTP/1.0 has no upgrades (RFC 9110, 7.8).
    if request.version != Some(1) {
        return Err(Refusal::BadRequest);
    }
    let target = target::read(request.path.unwrap_or_default(), only("host")?)?;
    // The following bytes are frames to us. A proxy that expects a body would interpret them differently.
    let has_body = lines("content-length").any(|line| line.value != b"0")
        || lines("transfer-encoding").next().is_some();
    if has_body {
        return Err(Refusal::BadRequest);
    }
    if context.received.is_none() && options::path::encode(target.path) != options.path {
        return Err(Refusal::NotFound);
    }
    // Browsers always send it. An origin that is not UTF-8 cannot be allowed.
    let foreign = lines("origin").any(|line| {
        let origin = std::str::from_utf8(line.value).unwrap_or_default();
        let origin = origin.trim_matches([' ', '\t']);
        !options.allows_origin(origin, Some(target.host), secure)
    });
    if foreign {
        return Err(Refusal::Forbidden);
    }
    // Version 8 is the same protocol; clients of version 1 may still use it.
    let version = only("sec-websocket-version")?;
    if !has_token("upgrade", "websocket") || !matches!(version, "13" | "8") {
        return Err(Refusal::BadRequest);
    }
    let key = only("sec-websocket-key")?;
    if !is_key(key) {
        return Err(Refusal::BadRequest);
    }
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n",
        derive_accept_key(key.as_bytes())
    );
    // The first offered subprotocol is accepted, as in version 1.
    let offered = header("sec-websocket-protocol").and_then(|value| value.split(',').next());
    if let Some(protocol) = offered
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty())
    {
        response.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    response.push_str("\r\n");
    let url = request.path.unwrap_or_default();
    let headers = request.headers.iter();
    let asks_embedder = options.asks_embedder();
    Ok(Accepted {
        response,
        request: asks_embedder.then(|| (url.to_owned(), headers.map(text).collect())),
        forwarded: match &options.trust_proxy {
            trusted if trusted.is_none() => None,
            // Lossy: a value of which a part is not UTF-8 has the entries of proxies, too.
            trusted => Forwarded::read(trusted, context.peer, |name| {
                let values = lines(name).map(|line| String::from_utf8_lossy(line.value));
                values.collect()
            }),
        },
    })
}

/// True for 16 bytes in base64. The unused bits may have any value: those of the example in RFC 6455 (1.3)
/// are not zero.
fn is_key(key: &str) -> bool {
    let digits = key.strip_suffix("==").unwrap_or_default().as_bytes();
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    digits.len() == 22 && digits.iter().all(is_digit)
}

/// A header as text: a value that is not UTF-8 is read as Latin-1, the former encoding of HTTP.
fn text(header: &httparse::Header<'_>) -> (String, String) {
    let value = match std::str::from_utf8(header.value) {
        Ok(value) => value.trim().to_owned(),
        Err(_) => header.value.iter().copied().map(char::from).collect(),
    };
    (header.name.to_ascii_lowercase(), value)
}

/// Writes all bytes of a short response.
pub(crate) async fn write_all(socket: &WriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        std::future::poll_fn(|cx| socket.poll_writable(cx)).await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    std::future::poll_fn(|cx| socket.poll_flush(cx)).await
}

/// Sends an answer, then reads until the peer closes: closing a socket with unread bytes would reset the
/// connection before the peer has read the response. `answer`: none if the peer expects none.
pub(crate) async fn finish(
    answer: Option<String>,
    read: &mut ReadHalf,
    write: &WriteHalf,
    mut discard: usize,
) -> io::Result<()> {
    if let Some(answer) = answer {
        write_all(write, answer.as_bytes()).await?;
    }
    write.shutdown(std::net::Shutdown::Write);
    let socket = read.socket();
    let mut chunk = [0; 1024];
    loop {
        match socket.read(&mut chunk).await? {
            0 => return Ok(()),
            length if length > discard => return Ok(()),
            length => discard -= length,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::Memory;

    const REQUEST: &str = "GET /foo?x=1 HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn options(path: &str, max_header_size: usize) -> ServerOptions {
        ServerOptions {
            path: path.into(),
            max_header_size,
            ..ServerOptions::default()
        }
    }

    fn context(options: &ServerOptions) -> RequestContext<'_> {
        RequestContext {
            options,
            peer: SocketPeer::Unknown,
            secure: false,
            received: None,
        }
    }

    fn respond(request: &str) -> Result<String, Refusal> {
        let options = options("/foo", 1024);
        let accepted = super::respond(request.as_bytes(), &context(&options));
        accepted.map(|it| it.response)
    }

    #[test]
    fn a_valid_request_is_accepted_with_the_key_of_the_rfc() {
        let response = respond(REQUEST).unwrap();
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!response.contains("Protocol:"));
        let offers = REQUEST.replace("Host: a", "Host: a\r\nSec-WebSocket-Protocol: one, two");
        assert!(
            respond(&offers)
                .unwrap()
                .contains("Sec-WebSocket-Protocol: one\r\n")
        );
    }

    #[test]
    fn an_invalid_request_is_refused_with_its_status() {
        for (from, to, refusal) in [
            ("GET", "POST", Refusal::MethodNotAllowed),
            (
                "Upgrade: WebSocket",
                "Accept: all",
                Refusal::UpgradeRequired,
            ),
            ("/foo", "/bar", Refusal::NotFound),
            ("/foo", "/foo/", Refusal::NotFound),
            ("Upgrade: WebSocket", "Upgrade: h2c", Refusal::BadRequest),
            ("keep-alive, Upgrade", "close", Refusal::UpgradeRequired),
            ("Version: 13", "Version: 7", Refusal::BadRequest),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", Refusal::BadRequest),
            ("HTTP/1.1", "HTTP/1.0", Refusal::BadRequest),
            ("HTTP/1.1", "HTTQ", Refusal::BadRequest),
        ] {
            assert_eq!(respond(&REQUEST.replace(from, to)), Err(refusal), "{to}");
        }
        let many = format!("GET /foo HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(2000));
        assert_eq!(respond(&many), Err(Refusal::HeadersTooLarge));
    }

    #[tokio::test]
    async fn a_head_in_single_bytes_is_read_and_later_bytes_are_kept() {
        let mut bytes = tokio_test_io(REQUEST.as_bytes(), b"\x81\x00");
        let memory = Arc::new(Memory::new(usize::MAX));
        let mut charge = Charge::new(&memory, 100);
        let options = options("/foo", 1024);
        match read_request(&mut bytes, &context(&options), &mut charge)
            .await
            .unwrap()
        {
            Upgrade::Accepted { early, .. } => {
                assert!(b"\x81\x00".starts_with(&early[..]));
                assert!(memory.used() >= 100 + REQUEST.len() + early.len());
            }
            _ => panic!("not accepted"),
        }
    }

    #[tokio::test]
    async fn a_head_beyond_the_limit_is_refused_before_it_ends() {
        let endless = "GET / HTTP/1.1\r\nA: ".to_owned() + &"x".repeat(5000);
        let mut charge = Charge::new(&Arc::new(Memory::new(usize::MAX)), 0);
        let options = options("/", 2048);
        match read_request(&mut endless.as_bytes(), &context(&options), &mut charge)
            .await
            .unwrap()
        {
            Upgrade::Refused(refusal) => assert_eq!(refusal, Refusal::HeadersTooLarge),
            _ => panic!("not refused"),
        }
    }

    /// A source that returns the head in single bytes, then the rest at once.
    fn tokio_test_io(head: &[u8], rest: &[u8]) -> impl AsyncRead + Unpin {
        let (mut write, read) = tokio::io::duplex(1);
        let bytes = [head, rest].concat();
        tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await;
        });
        read
    }
}
