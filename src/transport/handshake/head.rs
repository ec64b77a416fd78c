//! Validates the bytes of a request head, and finds its end (RFC 9112).
//!
//! Bytes are checked as they arrive, so that a malformed head is refused at once instead of after the
//! timeout: a bare CR or LF, a control character, a line without a colon, a name followed by whitespace, a
//! folded line. A proxy might interpret such a head differently than we do.

use super::Refusal;

/// Maximum number of header lines: more than any browser or proxy sends.
pub(super) const MAX_HEADERS: usize = 100;

/// A complete head, and the bytes behind it.
pub(super) type Whole = (Vec<u8>, Vec<u8>);

/// An incomplete request head.
#[derive(Debug)]
pub(super) struct Head {
    bytes: Vec<u8>,
    /// Maximum bytes of the head.
    limit: usize,
    /// Number of bytes checked so far.
    parsed: usize,
    /// Start of the current line.
    line: usize,
    /// Kind of the current line.
    expected: HeadLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadLine {
    /// The request line, or an empty line before it.
    First,
    /// The request line, after an empty line.
    Request,
    /// A header after this number of others, or the empty line at the end.
    Header(usize),
}

impl Head {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            parsed: 0,
            line: 0,
            expected: HeadLine::First,
        }
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds received bytes. Returns the head once it is complete.
    ///
    /// Errors: it is too large, or malformed.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<Option<Whole>, Refusal> {
        self.bytes.extend_from_slice(bytes);
        while self.parsed < self.bytes.len() {
            if self.parsed >= self.limit {
                return Err(Refusal::HeadersTooLarge);
            }
            let is_end = self.parse_next()?;
            self.parsed += 1;
            if is_end {
                let early = self.bytes.split_off(self.parsed);
                return Ok(Some((std::mem::take(&mut self.bytes), early)));
            }
        }
        Ok(None)
    }

    /// Checks the next byte; true if it is the last one of the head.
    fn parse_next(&mut self) -> Result<bool, Refusal> {
        let at = self.parsed;
        let before = at.checked_sub(1).map(|before| self.bytes[before]);
        match (before, self.bytes[at]) {
            (Some(b'\r'), b'\n') => {}
            (Some(b'\r'), _) | (_, b'\n') => return Err(Refusal::BadRequest),
            (_, b'\r' | b'\t' | b' '..=b'~' | 0x80..) => return Ok(false),
            _ => return Err(Refusal::BadRequest),
        }
        let line = &self.bytes[self.line..at - 1];
        self.expected = match self.expected {
            // One empty line before a request is ignored (2.2).
            HeadLine::First if line.is_empty() => HeadLine::Request,
            HeadLine::First | HeadLine::Request if is_request_line(line) => HeadLine::Header(0),
            HeadLine::Header(_) if line.is_empty() => return Ok(true),
            HeadLine::Header(MAX_HEADERS) => return Err(Refusal::HeadersTooLarge),
            HeadLine::Header(count) if is_header(line) => HeadLine::Header(count + 1),
            _ => return Err(Refusal::BadRequest),
        };
        self.line = at + 1;
        Ok(false)
    }
}

/// True for a method, a target and a version of HTTP/1, separated by single spaces.
fn is_request_line(line: &[u8]) -> bool {
    let mut parts = line.split(|byte| *byte == b' ');
    let is_target = |target: &[u8]| !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    parts.next().is_some_and(is_token)
        && parts.next().is_some_and(is_target)
        && matches!(parts.next(), Some(b"HTTP/1.1" | b"HTTP/1.0"))
        && parts.next().is_none()
}

/// True for a name directly followed by a colon. A line that begins with whitespace would continue the line
/// before, which is forbidden (5.2).
fn is_header(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| is_token(&line[..colon]))
}

/// True for a token of HTTP (RFC 9110, 5.6.2).
fn is_token(bytes: &[u8]) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_of_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nCookie: \u{e9}\ta\r\n\r\n";

    /// Reads a head in portions of this size; none while it is incomplete.
    fn read(bytes: &[u8], portion: usize) -> Result<Option<Whole>, Refusal> {
        let mut head = Head::new(1024);
        for bytes in bytes.chunks(portion) {
            if let Some(whole) = head.add(bytes)? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_ends_at_its_empty_line_for_any_split_of_the_bytes() {
        for portion in [1, 2, 3, 7, 1024] {
            for before in ["", "\r\n"] {
                let head = format!("{before}{HEAD}");
                let bytes = format!("{head}more\n");
                let (found, _) = read(bytes.as_bytes(), portion).unwrap().unwrap();
                assert_eq!(found, head.as_bytes());
                for end in 0..head.len() {
                    assert_eq!(read(&head.as_bytes()[..end], portion), Ok(None), "{end}");
                }
            }
        }
    }

    #[test]
    fn a_malformed_head_is_refused_before_it_ends() {
        for (from, to) in [
            ("\r\nHost", "\nHost"),
            ("\r\nHost", "\rHost"),
            ("a\r\n", "a\n"),
            ("a\r\n", "a\r\r\n"),
            ("a\r\n", "a\0\r\n"),
            ("a\r\n", "a\u{7f}\r\n"),
            ("a\r\n", "a\u{b}\r\n"),
            ("Host:", "Host :"),
            ("Host:", " Host:"),
            ("Host:", ":"),
            ("Host:", "H\u{e9}st:"),
            ("Host: a", "Host"),
            ("Cookie: ", " folded: "),
            ("Cookie: ", "\tfolded: "),
            ("GET / ", "GET  / "),
            ("GET / ", " GET / "),
            ("GET / ", "GET\t/ "),
            ("GET / ", "GET / / "),
            ("GET / ", "G@T / "),
            ("GET / ", "GET /\u{e9} "),
            ("GET / ", "GET "),
            (" HTTP/1.1", ""),
            ("HTTP/1.1", "HTTP/2.0"),
            ("HTTP/1.1", "http/1.1"),
            ("HTTP/1.1", "HTTP/1.1 "),
            ("GET", "\r\n\r\nGET"),
            ("GET", "\nGET"),
            ("GET", "\u{16}\u{3}\u{1}"),
        ] {
            let bytes = HEAD.replacen(from, to, 1);
            let unfinished = &bytes[..bytes.len() - 2];
            for bytes in [&bytes, unfinished] {
                let found = read(bytes.as_bytes(), 5);
                assert_eq!(found, Err(Refusal::BadRequest), "{to:?} for {from:?}");
            }
        }
    }

    #[test]
    fn a_head_has_limits_of_bytes_and_headers() {
        let line = "GET / HTTP/1.1\r\n";
        let with = |count| format!("{line}{}\r\n", "a: b\r\n".repeat(count));
        assert!(read(with(MAX_HEADERS).as_bytes(), 9).unwrap().is_some());
        let too_many = read(with(MAX_HEADERS + 1).as_bytes(), 9);
        assert_eq!(too_many, Err(Refusal::HeadersTooLarge));
        let long = |length: usize| format!("{line}a: {}\r\n\r\n", "x".repeat(length - 23));
        assert!(read(long(1024).as_bytes(), 9).unwrap().is_some());
        let too_long = read(long(1025).as_bytes(), 9);
        assert_eq!(too_long, Err(Refusal::HeadersTooLarge));
    }
}
