//! The events of one server or client, waiting for JavaScript.
//!
//! Events are written as JSON arrays, `[kind, ...]`, and joined into segments: one `JSON.parse`
//! opens a whole batch. The kinds are listed in `client.rs` and `server.rs`, and in `lib/`.

/// A segment is closed at this size: larger batches only delay the first event of the next.
const SEGMENT: usize = 64 << 10;

/// Segments of JSON text.
#[derive(Debug, Default)]
pub(super) struct Segments {
    closed: Vec<String>,
    open: String,
    bytes: usize,
}

impl Segments {
    /// Appends one event: the JSON texts of its kind and arguments.
    pub(super) fn push(&mut self, parts: &[&str]) {
        let before = self.open.len();
        self.open.push(if before == 0 { '[' } else { ',' });
        for (at, part) in parts.iter().enumerate() {
            self.open.push(if at == 0 { '[' } else { ',' });
            self.open.push_str(part);
        }
        self.open.push(']');
        self.bytes += self.open.len() - before;
        if self.open.len() >= SEGMENT {
            self.close_segment();
        }
    }

    fn close_segment(&mut self) {
        if !self.open.is_empty() {
            self.open.push(']');
            self.closed.push(std::mem::take(&mut self.open));
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// All that waits.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.close_segment();
        self.bytes = 0;
        std::mem::take(&mut self.closed)
    }
}

/// JSON text of a string.
pub(super) fn json(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}
