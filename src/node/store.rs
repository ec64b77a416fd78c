//! Functions for the command `wsmsgbroker store`, on the file of a store that no server uses.

use std::{fmt::Write, path::Path};

use data_encoding::BASE64URL_NOPAD;
use napi_derive::napi;
use serde_json::to_string;

use super::convert::{self, Result};
use crate::{
    Error,
    store::{
        StoreError,
        disk::tools::{self, Reader, StoredMessage},
    },
};

/// How the log of a rule of mailboxes is named.
const MAILBOX_LOG: &str = "mailbox ";

/// The result of a check.
#[napi(object)]
pub(crate) struct NativeStoreReport {
    pub bytes: f64,
    pub has_intact_pages: bool,
    pub logs: Vec<NativeLogReport>,
}

/// The result of a check of one log.
#[napi(object)]
pub(crate) struct NativeLogReport {
    pub log: String,
    pub epoch: String,
    pub messages: f64,
    pub topics: f64,
    pub bytes: f64,
    pub keys: f64,
    pub damaged: f64,
}

fn failed(error: StoreError) -> napi::Error<String> {
    convert::error(Error::Store(error.0.to_string()))
}

/// Checks each page and each row of the file in a folder.
#[napi]
pub(crate) fn check_store(folder: String) -> Result<NativeStoreReport> {
    let report = tools::check(Path::new(&folder)).map_err(failed)?;
    let log = |log: tools::LogReport| NativeLogReport {
        log: log.name,
        epoch: log.epoch,
        messages: log.messages as f64,
        topics: log.topics as f64,
        bytes: log.bytes as f64,
        keys: log.keys as f64,
        damaged: log.damaged as f64,
    };
    Ok(NativeStoreReport {
        bytes: report.bytes as f64,
        has_intact_pages: report.has_intact_pages,
        logs: report.logs.into_iter().map(log).collect(),
    })
}

/// Compacts the file in a folder. Returns its bytes before and after.
#[napi]
pub(crate) fn compact_store(folder: String) -> Result<Vec<f64>> {
    let (before, after) = tools::compact(Path::new(&folder)).map_err(failed)?;
    Ok(vec![before as f64, after as f64])
}

/// Reads all messages of the file in a folder.
#[napi]
pub struct NativeStoreReader {
    reader: Reader,
}

#[napi]
impl NativeStoreReader {
    #[napi(constructor)]
    pub fn new(folder: String) -> Result<Self> {
        let reader = Reader::open(Path::new(&folder)).map_err(failed)?;
        Ok(Self { reader })
    }

    /// The next messages, a JSON object a line; null at the end. `with_frames`: with their text, and the epoch of the log.
    #[napi]
    pub fn next(&mut self, with_frames: bool) -> Result<Option<String>> {
        let Some(page) = self.reader.next().map_err(failed)? else {
            return Ok(None);
        };
        let mut lines = String::new();
        for message in &page.messages {
            let line = line(&page.log, with_frames.then_some(&*page.epoch), message);
            lines.push_str(&line);
            lines.push('\n');
        }
        Ok(Some(lines))
    }
}

/// A message as JSON. `epoch`: none for a line without text.
fn line(log: &str, epoch: Option<&str>, message: &StoredMessage) -> String {
    let json = |text: &str| to_string(text).unwrap_or_default();
    let (offset, time, frame) = (message.offset, message.time, &message.frame);
    let mut line = format!("{{\"log\":{}", json(log));
    if let Some(epoch) = epoch {
        let _ = write!(line, ",\"epoch\":{}", json(epoch));
    }
    let _ = write!(line, ",\"offset\":{offset},\"time\":{time}");
    let _ = match mailbox_of(log, &message.topic) {
        Some(mailbox) => write!(line, ",\"mailbox\":{}", json(&mailbox)),
        None => write!(line, ",\"topic\":{}", json(&message.topic)),
    };
    let _ = match (epoch, text_of(frame)) {
        (Some(_), Some(text)) => write!(line, ",\"text\":{}", json(text)),
        _ => write!(line, ",\"bytes\":{}", frame.len()),
    };
    if !message.is_intact {
        line.push_str(",\"damaged\":true");
    }
    line.push('}');
    line
}

/// The name of the mailbox of a topic in this log, if it is one.
fn mailbox_of(log: &str, topic: &str) -> Option<String> {
    log.strip_prefix(MAILBOX_LOG)?;
    let name = BASE64URL_NOPAD.decode(topic.as_bytes()).ok()?;
    String::from_utf8(name).ok()
}

/// The text of a frame of a WebSocket that is not masked.
fn text_of(frame: &[u8]) -> Option<&str> {
    let header = match frame.get(1)? {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    str::from_utf8(frame.get(header..)?).ok()
}
