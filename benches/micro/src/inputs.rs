//! Inputs of the benchmarks: texts of clients, and the frames that carry them.

/// Text of a plain message.
const PLAIN: &str = "the quick brown fox jumps over the lazy dog, 0123456789; ";
/// Text with escapes and letters beyond ASCII.
const ESCAPED: &str = r#"the \"quick\" brown f\u00f6x,\n jümps över the ℓazy dog; "#;

/// A message of `bytes` bytes: a JSON object of a number and an ASCII text.
pub(crate) fn message(bytes: usize) -> String {
    let text = PLAIN.repeat(bytes / PLAIN.len() + 1);
    let envelope = object("").len();
    object(&text[..bytes - envelope])
}

/// A message of about `bytes` bytes with escapes and letters beyond ASCII.
pub(crate) fn escaped_message(bytes: usize) -> String {
    object(&ESCAPED.repeat(bytes / ESCAPED.len()))
}

fn object(text: &str) -> String {
    format!(r#"{{"n":1,"text":"{text}"}}"#)
}

pub(crate) fn send(message: &str, id: &str) -> String {
    format!(r#"{{"action":"send","message":{message},"dest":"{id}"}}"#)
}

pub(crate) fn send_to_many(message: &str, ids: &[String]) -> String {
    format!(r#"{{"action":"send","message":{message},"dest":{ids:?}}}"#)
}

/// A request. Its ack is like those of version 1 clients.
pub(crate) fn request(number: usize, message: &str, id: &str) -> String {
    format!(r#"{{"action":"send","message":{message},"dest":"{id}","ack":"sender-{number}"}}"#)
}

/// The answer to that request.
pub(crate) fn answer(number: usize, message: &str) -> String {
    format!(r#"{{"action":"answer","ack":"sender-{number}","message":{message}}}"#)
}

pub(crate) fn register(id: &str) -> String {
    format!(r#"{{"action":"register","id":"{id}"}}"#)
}

/// Text frames of a client, each masked with another key.
pub(crate) fn frames(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<u8> {
    const TEXT: u8 = 0x81;
    const MASKED: u8 = 0x80;

    let mut bytes = Vec::new();
    let mut key = 0x9e37_79b9_u32;
    for text in texts {
        let payload = text.as_ref().as_bytes();
        bytes.push(TEXT);
        match payload.len() {
            length @ 0..126 => bytes.push(MASKED | length as u8),
            length @ 126..65_536 => {
                bytes.push(MASKED | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(MASKED | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        key = key.rotate_left(7).wrapping_mul(5);
        let mask = key.to_be_bytes();
        bytes.extend(mask);
        bytes.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
    }
    bytes
}
