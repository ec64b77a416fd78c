//! A peer that writes bytes, valid WebSocket frames or not.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{Listening, PATIENCE, tcp};

/// A request head that any server of ours accepts.
pub const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// First bytes of frames: the last of a message, and a first fragment.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
pub const TEXT_FRAGMENT: u8 = 0x01;
pub const MORE: u8 = 0x00;
pub const LAST: u8 = 0x80;

/// The header of a masked frame, for a payload that announces this length. The key is zero, so
/// that the payload follows as it is.
pub fn header(first: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// A masked frame, as clients send it.
pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = header(first, payload.len());
    bytes.extend_from_slice(payload);
    bytes
}

/// A `send` of `length` bytes of message to `dest`; the message begins with `number`.
pub fn numbered_send(number: usize, dest: &str, length: usize) -> String {
    let text = format!("{number} ");
    let fill = "x".repeat(length.saturating_sub(text.len()));
    format!(r#"{{"action":"send","dest":{dest},"message":"{text}{fill}"}}"#)
}

/// The number in a message that began as [`numbered_send`].
pub fn number(message: &[u8]) -> usize {
    let start = br#"{"action":"message","message":""#.len();
    let digits = message[start..].split(|byte| *byte == b' ').next();
    let digits = std::str::from_utf8(digits.unwrap_or_default()).unwrap();
    digits.parse().unwrap()
}

/// An open WebSocket, as bytes.
pub struct Raw<S = TcpStream>(pub BufReader<S>);

impl Raw {
    /// Connected, the handshake done.
    pub async fn connect(server: &impl Listening) -> Self {
        Self::open(tcp(server).await).await
    }

    /// Connected and registered.
    pub async fn register(server: &impl Listening, id: &str) -> Self {
        let mut raw = Self::connect(server).await;
        raw.send(&format!(r#"{{"action":"register","id":"{id}"}}"#))
            .await;
        let registered = format!(r#"{{"action":"registered","id":"{id}"}}"#);
        assert_eq!(raw.receive().await, registered);
        raw
    }

    /// Connected and registered; speaks version 2.
    pub async fn register_2(server: &impl Listening, id: &str) -> Self {
        let mut raw = Self::connect(server).await;
        let register = format!(r#"{{"action":"register","id":"{id}","protocol":2}}"#);
        raw.send(&register).await;
        let registered = format!(r#"{{"action":"registered","id":"{id}","protocol":2}}"#);
        assert_eq!(raw.receive().await, registered);
        raw
    }

    /// Its two directions, for a peer that does one thing at a time. Nothing may wait to be read.
    pub fn split(self) -> (Raw<OwnedReadHalf>, OwnedWriteHalf) {
        assert!(self.0.buffer().is_empty());
        let (read, write) = self.0.into_inner().into_split();
        (Raw(BufReader::new(read)), write)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// The handshake on a connected socket.
    pub async fn open(socket: S) -> Self {
        let mut raw = Self(BufReader::new(socket));
        raw.write(REQUEST.as_bytes()).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.unwrap();
        // TLS may keep what the socket has not taken.
        within(self.0.flush()).await.unwrap();
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: &str) {
        self.write(&frame(TEXT, text)).await;
    }

    /// Closes, and waits for the end.
    pub async fn ended_by_us(mut self) {
        self.write(&frame(CLOSE, 1000_u16.to_be_bytes())).await;
        assert_eq!(self.close_code().await, 1000);
        self.ended().await;
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// A response head, the empty line included.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(self.0.read_u8()).await.expect("a whole head"));
        }
        String::from_utf8(head).unwrap()
    }

    /// The next frame: its first byte and its payload. None at the end of the connection.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = within(self.0.read_u8()).await.ok()?;
        let length = match within(self.0.read_u8()).await.ok()? {
            126 => within(self.0.read_u16()).await.ok()?.into(),
            127 => within(self.0.read_u64()).await.ok()?,
            // A masked frame would have the first bit set, and be too long.
            length => length.into(),
        };
        let mut payload = vec![0; length as usize];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        Some((first, payload))
    }

    /// The next frame, which is a text.
    pub async fn receive(&mut self) -> String {
        match self.next().await {
            Some((TEXT, payload)) => String::from_utf8(payload).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The code with which the server closes, 1005 if it names none; frames before it are
    /// skipped. 1006 if the connection ends without one.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.next().await {
                Some((CLOSE, payload)) => return code(&payload),
                Some(_) => {}
                None => return 1006,
            }
        }
    }

    /// Waits for the end of the connection, reset or not.
    pub async fn ended(&mut self) {
        let mut chunk = [0; 4096];
        while within(self.0.read(&mut chunk)).await.is_ok_and(|n| n > 0) {}
    }
}

/// The code in the payload of a close frame; 1005 if there is none.
pub fn code(payload: &[u8]) -> u16 {
    match *payload {
        [high, low, ..] => u16::from_be_bytes([high, low]),
        _ => 1005,
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("an answer in time")
}
