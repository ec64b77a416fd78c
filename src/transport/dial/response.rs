//! Reads the head of an HTTP response, and recognizes peers that do not speak HTTP by their first bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The status that accepts an upgrade.
pub(super) const SWITCHING_PROTOCOLS: u16 = 101;
/// Maximum bytes of a head: more than any server or proxy sends.
const MAX_HEAD: usize = 64 << 10;
/// Maximum header lines of a head.
const MAX_HEADERS: usize = 128;
/// Beginning of all responses of HTTP/1.
const HTTP: &[u8] = b"HTTP/1.";
/// First bytes of a TLS record: change of the cipher, alert, handshake, data.
const TLS_RECORDS: std::ops::RangeInclusive<u8> = 0x14..=0x17;
/// Characters of a foreign greeting that an error quotes.
const EXCERPT: usize = 60;

/// The head of a response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Text of the status; it may be empty.
    pub(super) reason: String,
    headers: Vec<(String, String)>,
    /// Bytes received behind the head.
    pub(super) early: Vec<u8>,
}

/// The reason why there is no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// The socket has failed.
    Io(io::Error),
    /// The peer closed the connection before the end of the head.
    HangUp,
    /// The peer sent a TLS record.
    SpeaksTls,
    /// The peer sent something else, which the text describes.
    NotHttp(String),
}

impl Response {
    /// The first value of a header. `name`: in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|header| header.0 == name);
        values.next().map(|(_, value)| &**value)
    }

    /// True if a header, which is a list, contains this token.
    pub(super) fn has_token(&self, name: &str, token: &str) -> bool {
        let values = self.headers.iter().filter(|header| header.0 == name);
        let mut tokens = values.flat_map(|(_, value)| value.split(','));
        tokens.any(|each| each.trim().eq_ignore_ascii_case(token))
    }
}

/// Reads a response up to the end of its head. Interim responses are skipped. `bytes`: those received already.
pub(super) async fn read_response(
    socket: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
) -> Result<Response, Failure> {
    let mut chunk = [0; 1024];
    loop {
        while let Some(response) = parse(&mut bytes)? {
            // 100 to 199, other than 101, precede the response.
            if response.status >= 200 || response.status == SWITCHING_PROTOCOLS {
                return Ok(Response {
                    early: bytes,
                    ..response
                });
            }
        }
        if bytes.len() > MAX_HEAD {
            let reason = "its response has more than 64 KiB of headers";
            return Err(Failure::NotHttp(reason.to_owned()));
        }
        match socket.read(&mut chunk).await.map_err(Failure::Io)? {
            0 => return Err(Failure::HangUp),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

/// Parses a head and removes it from the received bytes. None if it is incomplete.
fn parse(bytes: &mut Vec<u8>) -> Result<Option<Response>, Failure> {
    if bytes
        .first()
        .is_some_and(|first| TLS_RECORDS.contains(first))
    {
        return Err(Failure::SpeaksTls);
    }
    let known = bytes.len().min(HTTP.len());
    if bytes[..known] != HTTP[..known] {
        return Err(Failure::NotHttp(describe(bytes)));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) => {
            let reason = format!("its response has more than {MAX_HEADERS} headers");
            return Err(Failure::NotHttp(reason));
        }
        Err(_) => {
            return Err(Failure::NotHttp(
                "its HTTP response is malformed".to_owned(),
            ));
        }
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    let head = Response {
        status: response.code.unwrap_or_default(),
        reason: response.reason.unwrap_or_default().to_owned(),
        headers: response
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), text(header.value)))
            .collect(),
        early: Vec::new(),
    };
    bytes.drain(..length);
    Ok(Some(head))
}

/// Describes bytes that are not HTTP: the greeting of another protocol, or binary data.
fn describe(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next();
    let line = line.unwrap_or_default();
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~');
    if line.is_empty() || !line.iter().all(is_text) {
        return "it sent binary data, expected an HTTP response".to_owned();
    }
    let line = String::from_utf8_lossy(&line[..line.len().min(EXCERPT)]);
    format!("it sent \"{line}\", expected an HTTP response")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Response, Failure> {
        // One byte at a time, and the end.
        let (mut near, far) = tokio::io::duplex(1);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            let mut far = far;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut far, &bytes).await;
        });
        read_response(&mut near, Vec::new()).await
    }

    #[tokio::test]
    async fn a_response_is_read_up_to_the_end_of_its_head() {
        let bytes =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nA: 1\r\nA: 2, x\r\n\r\n";
        let response = read(bytes).await.unwrap();
        assert_eq!((response.status, &*response.reason), (404, "Not Found"));
        assert_eq!(response.header("a"), Some("1"));
        assert!(response.has_token("a", "X") && !response.has_token("a", "y"));
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\nframes".to_vec();
        let response = parse(&mut bytes).unwrap().unwrap();
        assert_eq!((response.status, &*bytes), (101, &b"frames"[..]));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_speak_http_is_described() {
        for (bytes, expected) in [
            (
                &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
                "it sent \"S\", expected an HTTP response",
            ),
            (b"\0\0\0", "it sent binary data, expected an HTTP response"),
            (
                b"HTTP/2.0 200\r\n",
                "it sent \"HTTP/2\", expected an HTTP response",
            ),
            (b"HTTP/1.1 x\r\n", "its HTTP response is malformed"),
            (b"\x15\x03\x01\0\x02\x02\x46", "SpeaksTls"),
            (b"HTTP/1.1 200 OK\r\nA: ", "HangUp"),
            (b"", "HangUp"),
        ] {
            let reason = match read(bytes).await {
                Err(Failure::NotHttp(reason)) => reason,
                other => format!("{:?}", other.unwrap_err()),
            };
            assert_eq!(reason, expected);
        }
        let mut endless = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
        endless.resize(MAX_HEAD + 1, b'x');
        assert!(matches!(read(&endless).await, Err(Failure::NotHttp(_))));
        assert_eq!(
            describe(b"220 mail ready\r\n"),
            "it sent \"220 mail ready\", expected an HTTP response"
        );
    }
}
