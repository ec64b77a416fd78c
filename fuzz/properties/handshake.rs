//! Any bytes as the request that opens a WebSocket: however they are cut, the verdict is the same,
//! it is the one of a naive reading, and its answer is sound HTTP.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{cuts, runtime};
use crate::{
    memory::{Charge, Memory},
    options::{ServerOptions, SocketPeer},
    transport::handshake::{Refusal, RequestContext, Upgrade, read_request},
};

const PATH: &str = "/ws";
/// Enough for a request, and small enough to be exceeded.
const MAX_HEADER_SIZE: usize = 600;
const MAX_HEADERS: usize = 100;

#[derive(Debug, PartialEq)]
enum Verdict {
    /// The peer went away before the head was complete.
    Gone,
    Refused(Refusal),
    Accepted {
        response: String,
        /// Bytes of the request's head.
        head: usize,
    },
}

/// The first byte says how the others are cut.
pub fn handshake(input: &[u8]) {
    let [cut, bytes @ ..] = input else { return };
    let verdict = runtime(judge(cuts(bytes, *cut)));
    assert_eq!(verdict, runtime(judge([bytes].into_iter())));
    match &verdict {
        Verdict::Gone => assert!(bytes.len() <= MAX_HEADER_SIZE, "too big to go on waiting"),
        Verdict::Refused(refusal) => sound_refusal(*refusal),
        Verdict::Accepted { response, head } => sound_response(response, &bytes[..*head]),
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let expected = match end.map(|at| at + 4) {
        Some(end) if end <= MAX_HEADER_SIZE => Request::read(&bytes[..end]).map(naive),
        None if bytes.len() <= MAX_HEADER_SIZE => Some(Verdict::Gone),
        _ => Some(Verdict::Refused(Refusal::HeadersTooLarge)),
    };
    // What is wrong in its beginning is refused before its end, or in place of it.
    let is_cut_short = match verdict {
        Verdict::Refused(Refusal::BadRequest) => Request::read(bytes).is_none(),
        Verdict::Refused(Refusal::HeadersTooLarge) => has_many_lines(bytes),
        _ => false,
    };
    if let Some(expected) = expected
        && !is_cut_short
    {
        assert_eq!(verdict, expected);
    }
}

fn has_many_lines(bytes: &[u8]) -> bool {
    bytes.iter().filter(|byte| **byte == b'\n').count() > MAX_HEADERS
}

async fn judge<'a>(pieces: impl Iterator<Item = &'a [u8]> + Unpin) -> Verdict {
    let mut source = Source {
        pieces,
        piece: &[],
        taken: Vec::new(),
    };
    let mut charge = Charge::new(&Arc::new(Memory::new(usize::MAX)), 0);
    let options = ServerOptions {
        path: PATH.into(),
        max_header_size: MAX_HEADER_SIZE,
        ..ServerOptions::default()
    };
    let context = RequestContext {
        options: &options,
        peer: SocketPeer::Unknown,
        secure: false,
        received: None,
    };
    match read_request(&mut source, &context, &mut charge).await {
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            Verdict::Gone
        }
        Ok(Upgrade::Refused(refusal)) => Verdict::Refused(refusal),
        Ok(Upgrade::Answered(_)) => panic!("there is no health path"),
        Ok(Upgrade::Accepted {
            response, early, ..
        }) => {
            assert!(source.taken.ends_with(&early));
            let head = source.taken.len() - early.len();
            Verdict::Accepted { response, head }
        }
    }
}

/// Gives one piece a read, and then the end.
struct Source<'a, I> {
    pieces: I,
    piece: &'a [u8],
    taken: Vec<u8>,
}

impl<'a, I: Iterator<Item = &'a [u8]> + Unpin> AsyncRead for Source<'a, I> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.piece.is_empty() {
            this.piece = this.pieces.next().unwrap_or_default();
        }
        let (now, later) = this.piece.split_at(this.piece.len().min(buf.remaining()));
        buf.put_slice(now);
        this.taken.extend_from_slice(now);
        this.piece = later;
        Poll::Ready(Ok(()))
    }
}

fn sound_refusal(refusal: Refusal) {
    let response = refusal.response();
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut parsed = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(response.as_bytes()) else {
        panic!("{response}");
    };
    assert!(parsed.code.is_some_and(|code| (400..600).contains(&code)));
    let length = value(parsed.headers, "content-length").map(str::parse);
    assert_eq!(length, Some(Ok(response.len() - head)), "{response}");
    assert_eq!(value(parsed.headers, "connection"), Some("close"));
}

/// Whatever the request says, the response has these fields and no others.
fn sound_response(response: &str, head: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut parsed = httparse::Response::new(&mut headers);
    let complete = parsed.parse(response.as_bytes());
    assert_eq!(complete, Ok(httparse::Status::Complete(response.len())));
    assert_eq!(parsed.code, Some(101));
    let names: Vec<_> = parsed.headers.iter().map(|header| header.name).collect();
    let expected = [
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Protocol",
    ];
    assert!(names == expected || names == expected[..3], "{response}");
    if let Some(protocol) = value(parsed.headers, "sec-websocket-protocol") {
        assert!(!protocol.is_empty() && !protocol.contains(','));
        let offered = head
            .windows(protocol.len())
            .any(|part| part == protocol.as_bytes());
        assert!(offered, "{response}");
    }
}

fn value<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let header = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

/// A request without anything that servers read differently.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    fields: Vec<(String, &'a str)>,
    head: usize,
}

impl<'a> Request<'a> {
    fn read(head: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
        let mut lines = text.split("\r\n");
        let is_plain = |part: &str, others: &str| {
            let of_it = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
            !part.is_empty() && part.chars().all(of_it)
        };
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some()
            || !is_plain(method, "")
            || !is_plain(target, "/?=&-._")
            || version != "HTTP/1.1"
        {
            return None;
        }
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_visible = value.chars().all(|c| matches!(c, ' '..='~'));
            (is_plain(name, "-") && is_visible).then(|| (name.to_lowercase(), value.trim()))
        });
        Some(Self {
            method,
            target,
            fields: fields.collect::<Option<_>>()?,
            head: head.len(),
        })
    }

    fn first(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(move |(other, _)| other == name);
        fields.map(|(_, value)| *value)
    }

    /// The items of a list that may be spread over several fields.
    fn has(&self, name: &str, item: &str) -> bool {
        let list = self.all(name).collect::<Vec<_>>().join(",");
        list.split(',')
            .any(|other| other.trim().to_lowercase() == item)
    }
}

/// Rules 14.2 to 14.7, and 14.10.
fn naive(request: Request<'_>) -> Verdict {
    use Refusal::{BadRequest, HeadersTooLarge, MethodNotAllowed, NotFound, UpgradeRequired};
    if request.fields.len() > MAX_HEADERS {
        return Verdict::Refused(HeadersTooLarge);
    }
    let asks = request.has("connection", "upgrade") && request.first("upgrade").is_some();
    if !asks {
        return Verdict::Refused(UpgradeRequired);
    }
    if request.method != "GET" {
        return Verdict::Refused(MethodNotAllowed);
    }
    let is_host = |host: &str| {
        let others = "-._~%!$&'()*+;=:[]";
        host.chars()
            .all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    let hosts: Vec<_> = request.all("host").collect();
    let has_body = request.all("content-length").any(|length| length != "0")
        || request.first("transfer-encoding").is_some();
    if hosts.len() != 1 || !is_host(hosts[0]) || !request.target.starts_with('/') || has_body {
        return Verdict::Refused(BadRequest);
    }
    if request.target != PATH && !request.target.starts_with(&format!("{PATH}?")) {
        return Verdict::Refused(NotFound);
    }
    let version = request.first("sec-websocket-version");
    let key = request.first("sec-websocket-key").unwrap_or_default();
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    let digits = key.strip_suffix("==").unwrap_or_default();
    if !request.has("upgrade", "websocket")
        || request.all("sec-websocket-version").count() != 1
        || request.all("sec-websocket-key").count() != 1
        || !["13", "8"].map(Some).contains(&version)
        || digits.len() != 22
        || !digits.chars().all(is_of_key)
    {
        return Verdict::Refused(BadRequest);
    }
    let accept = derive_accept_key(key.as_bytes());
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    );
    let offer = request.first("sec-websocket-protocol").unwrap_or_default();
    let offer = offer.split(',').next().unwrap_or_default().trim();
    if !offer.is_empty() {
        response += &format!("Sec-WebSocket-Protocol: {offer}\r\n");
    }
    response += "\r\n";
    let head = request.head;
    Verdict::Accepted { response, head }
}
