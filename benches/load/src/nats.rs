//! Parses the output of a NATS server: one stream of messages, divided into frames at any position.

use crate::failure::Result;
use crate::frame::{self, BINARY, CLOSE, CONTINUATION, PING, PONG};

/// The state of the stream after the last read.
#[derive(Default)]
pub(crate) struct Stream {
    /// Remaining bytes of the payload of a frame.
    left: usize,
    /// The received part of an incomplete message.
    incomplete: Vec<u8>,
}

impl Stream {
    /// Passes each message on, its line and its payload, and answers pings. Returns the number of
    /// used bytes: all but those of an incomplete frame header.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        replies: &mut Vec<u8>,
        on_message: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut rest = bytes;
        loop {
            if self.left > 0 {
                let (payload, behind) = rest.split_at(self.left.min(rest.len()));
                self.left -= payload.len();
                rest = behind;
                self.take(payload, replies, on_message)?;
            }
            let Some(header) = frame::header(rest)? else {
                return Ok(bytes.len() - rest.len());
            };
            match header.opcode {
                BINARY | CONTINUATION => {
                    self.left = header.payload;
                    rest = &rest[header.start..];
                }
                PING | PONG => {
                    let Some(ping) = rest.get(header.start..header.start + header.payload) else {
                        return Ok(bytes.len() - rest.len());
                    };
                    if header.opcode == PING {
                        replies.extend(frame::encode(PONG, ping).0);
                    }
                    rest = &rest[header.start + header.payload..];
                }
                CLOSE => return Err("the broker sent a close frame".into()),
                opcode => return Err(format!("unexpected opcode {opcode}").into()),
            }
        }
    }

    fn take(
        &mut self,
        payload: &[u8],
        replies: &mut Vec<u8>,
        on_message: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if self.incomplete.is_empty() {
            let used = messages(payload, replies, on_message)?;
            self.incomplete.extend_from_slice(&payload[used..]);
        } else {
            self.incomplete.extend_from_slice(payload);
            let used = messages(&self.incomplete, replies, on_message)?;
            self.incomplete.drain(..used);
        }
        Ok(())
    }
}

/// Passes complete messages on. Returns their length.
fn messages(
    bytes: &[u8],
    replies: &mut Vec<u8>,
    on_message: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<usize> {
    let mut used = 0;
    while let Some(message) = first(&bytes[used..])? {
        used += message.len();
        if message == b"PING\r\n" {
            replies.extend(frame::encode(BINARY, b"PONG\r\n").0);
        } else if !message.starts_with(b"INFO ") {
            on_message(message)?;
        }
    }
    Ok(used)
}

/// The first message, or `None` while it is incomplete.
fn first(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    let mut length = end + 1;
    if bytes.starts_with(b"MSG ") {
        let line = &bytes[..end.saturating_sub(1)];
        let size = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
        let size = str::from_utf8(size).ok().and_then(|size| size.parse().ok());
        let size: usize = size.ok_or("a message without its size")?;
        length = length.saturating_add(size).saturating_add(2);
    }
    Ok(bytes.get(..length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(texts: &[&str]) -> Vec<u8> {
        let unmasked = |text: &&str| [&[0x80 | BINARY, text.len() as u8], text.as_bytes()].concat();
        texts.iter().flat_map(unmasked).collect()
    }

    fn heard(bytes: &[u8], step: usize) -> (Vec<String>, usize) {
        let (mut stream, mut replies, mut texts) = (Stream::default(), Vec::new(), Vec::new());
        let mut kept = Vec::new();
        for chunk in bytes.chunks(step) {
            kept.extend_from_slice(chunk);
            let used = stream
                .read(&kept, &mut replies, &mut |text: &[u8]| {
                    texts.push(String::from_utf8_lossy(text).into_owned());
                    Ok(())
                })
                .unwrap();
            kept.drain(..used);
        }
        (texts, replies.len())
    }

    #[test]
    fn messages_are_found_at_any_split_of_frames_and_reads() {
        let one = "MSG a 1 5\r\nab\r\nc\r\n";
        let bytes = frames(&[
            "INFO {}\r\nMSG a 1",
            &one[7..],
            one,
            "PING\r\n",
            "MSG b 2 0\r\n\r\n",
        ]);
        for step in 1..=bytes.len() {
            let (texts, replied) = heard(&bytes, step);
            assert_eq!(texts, [one, one, "MSG b 2 0\r\n\r\n"], "{step}");
            assert_eq!(replied, 12);
        }
    }

    #[test]
    fn a_message_without_its_size_is_a_failure() {
        assert!(first(b"MSG a x\r\n").is_err());
    }
}
