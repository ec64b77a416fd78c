//! HTTP of the admin endpoint: one request and one response per connection.

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
/// Maximum bytes of a request's body.
pub(super) const MAX_BODY: usize = 16 << 10;
/// Maximum bytes discarded behind a request.
const DISCARD: usize = 64 << 10;

/// Header lines that list the possible methods.
pub(super) const ALLOW_READ: &str = "Allow: GET, HEAD\r\n";
pub(super) const ALLOW_POST: &str = "Allow: POST\r\n";

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Without the query.
    pub(super) path: String,
    /// Behind the question mark; empty without one.
    pub(super) query: String,
    pub(super) host: Option<String>,
    /// The token of `Authorization: Bearer`.
    pub(super) token: Option<String>,
    pub(super) accepts_openmetrics: bool,
    content_type: Option<String>,
    content_length: Option<String>,
    /// Bytes received behind the head.
    rest: Vec<u8>,
}

impl Request {
    /// The value of a parameter of the query, decoded; none if it is missing or not UTF-8.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        let mut bytes = Vec::with_capacity(value.len());
        let mut rest = value.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let mut digit = || char::from(rest.next()?).to_digit(16);
                    let (high, low) = (digit()?, digit()?);
                    u8::try_from(high << 4 | low).ok()?
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).ok()
    }

    /// Reads the body: JSON of at most `MAX_BODY` bytes. Errors: the response to an invalid one; none if the peer has
    /// disconnected.
    pub(super) async fn read_json(
        &mut self,
        socket: &mut ReadHalf,
    ) -> Result<Vec<u8>, Option<Response>> {
        let content_type = self.content_type.as_deref().unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let text = "the header \"Content-Type\" must be application/json";
            return Err(Some(Response::text(415, text)));
        }
        let Some(length) = &self.content_length else {
            let text = "the header \"Content-Length\" is missing";
            return Err(Some(Response::text(411, text)));
        };
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length.parse::<usize>() {
            Ok(length) if is_number && length <= MAX_BODY => length,
            _ if is_number => return Err(Some(Response::text(413, "the body is too long"))),
            _ => return Err(Some(Response::text(400, "invalid request"))),
        };
        let mut body = std::mem::take(&mut self.rest);
        let reading = async {
            let mut chunk = [0; 1024];
            while body.len() < length {
                match socket.read(&mut chunk).await {
                    Ok(0) | Err(_) => return Err(None),
                    Ok(count) => body.extend_from_slice(&chunk[..count]),
                }
            }
            Ok(())
        };
        match timeout(TIMEOUT, reading).await {
            Ok(result) => result?,
            Err(_) => return Err(Some(Response::late())),
        }
        body.truncate(length);
        Ok(body)
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    content_type: &'static str,
    body: Arc<str>,
    /// Further header lines, each with its line end.
    headers: &'static str,
}

impl Response {
    pub(super) fn new(status: u16, content_type: &'static str, body: Arc<str>) -> Self {
        Self {
            status,
            content_type,
            body,
            headers: "",
        }
    }

    /// Adds header lines, each with its line end.
    pub(super) fn with(self, headers: &'static str) -> Self {
        Self { headers, ..self }
    }

    /// A JSON text.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, "application/json", value.to_string().into())
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
        .with("WWW-Authenticate: Bearer\r\n")
    }

    /// The method is not possible for the path. `allow`: the header line that lists those that are.
    pub(super) fn wrong_method(allow: &'static str) -> Self {
        Self::text(405, "the method is not possible here").with(allow)
    }

    fn late() -> Self {
        Self::text(408, "the request did not arrive in time")
    }

    fn to_text(&self, is_head: bool) -> String {
        let Self {
            status,
            content_type,
            body,
            headers,
        } = self;
        let phrase = match status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            411 => "Length Required",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let head = format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}\r\n",
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
        Err(_) => Err(Some(Response::late())),
    }
}

/// Parses the head of a request. None: it is not complete.
fn parse(head: &[u8]) -> Result<Option<Request>, Option<Response>> {
    let invalid = || Some(Response::text(400, "invalid request"));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Some(Response::text(
                431,
                "the request has too many headers",
            )));
        }
        Err(_) => return Err(invalid()),
    };
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => return Err(Some(Response::wrong_method(ALLOW_READ))),
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
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
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        host: header("host")?,
        token,
        content_type: header("content-type")?,
        content_length: header("content-length")?,
        rest: head[length..].to_vec(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(target: &str, name: &str) -> Option<String> {
        let head = format!("GET {target} HTTP/1.1\r\n\r\n");
        let request = parse(head.as_bytes()).unwrap().unwrap();
        request.parameter(name)
    }

    #[test]
    fn a_parameter_is_decoded_or_refused() {
        assert_eq!(parameter("/x?since=12&a=b", "since").as_deref(), Some("12"));
        assert_eq!(parameter("/x?a=%C3%A9+%2B", "a").as_deref(), Some("é +"));
        assert_eq!(parameter("/x?a=", "a").as_deref(), Some(""));
        for target in [
            "/x", "/x?a", "/x?b=a", "/x?a=%", "/x?a=%4", "/x?a=%zz", "/x?a=%ff", "/x?a=%+1",
        ] {
            assert_eq!(parameter(target, "a"), None, "{target}");
        }
    }

    #[test]
    fn bytes_behind_the_head_belong_to_the_body() {
        let request = parse(b"POST /x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(request.unwrap().unwrap().rest, b"{}");
    }
}
