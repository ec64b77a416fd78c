//! HTTP of the admin endpoint: one request and one response per connection. Only GET and HEAD, without a body.

use std::{net::Shutdown, sync::Arc, time::Duration};

use tokio::{io::AsyncReadExt, time::timeout};

use crate::transport::{
    handshake,
    socket::{ReadHalf, WriteHalf},
};

/// Maximum bytes of a request's head.
const MAX_HEAD: usize = 8 << 10;
/// Maximum number of headers.
const MAX_HEADERS: usize = 64;
/// Time limit for the head, and for the response.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes discarded behind a request.
const DISCARD: usize = 64 << 10;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Without the query.
    pub(super) path: String,
    pub(super) is_head: bool,
    pub(super) host: Option<String>,
    /// The token of `Authorization: Bearer`.
    pub(super) token: Option<String>,
    pub(super) accepts_openmetrics: bool,
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    content_type: &'static str,
    body: Arc<str>,
}

impl Response {
    pub(super) fn new(status: u16, content_type: &'static str, body: Arc<str>) -> Self {
        Self {
            status,
            content_type,
            body,
        }
    }

    /// A text.
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into())
    }

    pub(super) fn unauthorized() -> Self {
        Self::text(
            401,
            "the header \"Authorization: Bearer <token>\" is missing or wrong",
        )
    }

    fn to_text(&self, is_head: bool) -> String {
        let Self {
            status,
            content_type,
            body,
        } = self;
        let phrase = match status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let extra = match status {
            401 => "WWW-Authenticate: Bearer\r\n",
            405 => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{extra}\r\n",
            body.len()
        );
        let body = if is_head { "" } else { body };
        [&head, body].concat()
    }
}

/// Reads a request. Errors: the response to an invalid one; none if the peer has disconnected.
pub(super) async fn read(socket: &mut ReadHalf) -> Result<Request, Option<Response>> {
    let mut head = Vec::with_capacity(1024);
    let reading = async {
        loop {
            let mut chunk = [0; 1024];
            match socket.read(&mut chunk).await {
                Ok(0) | Err(_) => return Err(None),
                Ok(count) => head.extend_from_slice(&chunk[..count]),
            }
            if let Some(request) = parse(&head)? {
                return Ok(request);
            }
            if head.len() > MAX_HEAD {
                return Err(Some(Response::text(431, "the request is too long")));
            }
        }
    };
    match timeout(TIMEOUT, reading).await {
        Ok(result) => result,
        Err(_) => Err(Some(Response::text(
            408,
            "the request did not arrive in time",
        ))),
    }
}

/// Parses the head of a request. None: it is not complete.
fn parse(head: &[u8]) -> Result<Option<Request>, Option<Response>> {
    let invalid = || Some(Response::text(400, "invalid request"));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Some(Response::text(
                431,
                "the request has too many headers",
            )));
        }
        Err(_) => return Err(invalid()),
    }
    let is_head = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Some(Response::text(405, "only GET and HEAD are possible"))),
    };
    let target = parsed.path.unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let header = |name: &str| -> Result<Option<String>, Option<Response>> {
        let mut found = parsed
            .headers
            .iter()
            .filter(|it| it.name.eq_ignore_ascii_case(name));
        let Some(first) = found.next() else {
            return Ok(None);
        };
        // Two values may mean something else to a proxy in front.
        match (std::str::from_utf8(first.value), found.next()) {
            (Ok(value), None) => Ok(Some(value.trim().to_owned())),
            _ => Err(invalid()),
        }
    };
    let token = header("authorization")?.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        (scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim().to_owned())
    });
    let accepts = |it: &httparse::Header<'_>| {
        it.name.eq_ignore_ascii_case("accept")
            && String::from_utf8_lossy(it.value).contains("application/openmetrics-text")
    };
    Ok(Some(Request {
        path,
        is_head,
        host: header("host")?,
        token,
        accepts_openmetrics: parsed.headers.iter().any(accepts),
    }))
}

/// Writes a response, and closes the connection.
pub(super) async fn respond(
    read: &mut ReadHalf,
    write: &WriteHalf,
    response: &Response,
    is_head: bool,
) {
    let text = response.to_text(is_head);
    let finished = handshake::finish(Some(text), read, write, DISCARD);
    // Ends the same way whether the peer reads the response or not.
    let _ = timeout(TIMEOUT, finished).await;
    write.shutdown(Shutdown::Both);
}
