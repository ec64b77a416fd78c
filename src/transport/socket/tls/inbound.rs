//! Accounts for the memory that rustls holds for incomplete input of a peer.
//!
//! rustls keeps the bytes of a record until it is complete, and of a handshake message until that is
//! complete, but does not report how many. A peer that sends only the beginning of either makes us hold that
//! memory: its bytes are counted here on the way in, and charged while no more arrive.

use std::{io, sync::Arc};

use crate::memory::{Charge, Memory, TLS};

/// Bytes that a client may send during its handshake: five times as many as browsers send.
const HELLO: usize = 16 << 10;
/// Bytes that a client may send during its handshake if it must send certificates; rustls accepts no longer
/// message.
const HELLO_WITH_CERTIFICATES: usize = 64 << 10;
/// Bytes that rustls reads from a socket at once, and the size of its idle buffer.
const READ: usize = 4 << 10;
/// Bytes of a record header.
const HEADER: usize = 5;

/// The limit of a peer's handshake, and the charge for its memory.
#[derive(Debug)]
pub(in crate::transport) struct Limits {
    handshake: usize,
    charge: Option<Charge>,
}

impl Limits {
    /// Limits of a client, charged from now on. `asks`: its certificate is requested.
    pub(in crate::transport) fn of_client(asks: bool, memory: &Arc<Memory>) -> Self {
        Self {
            handshake: match asks {
                false => HELLO,
                true => HELLO_WITH_CERTIFICATES,
            },
            charge: Some(Charge::new(memory, TLS)),
        }
    }

    /// No limits, and no charge: the server was chosen by this side.
    pub(in crate::transport) fn of_server() -> Self {
        Self {
            handshake: usize::MAX,
            charge: None,
        }
    }
}

/// The bytes received from a peer and not yet passed on.
#[derive(Debug)]
pub(super) struct InboundRecords {
    limits: Limits,
    pub(super) records: Records,
    /// Bytes of the handshake so far; zero after it.
    handshake: usize,
    /// Bytes decrypted but not yet read.
    pub(super) unread: usize,
}

impl InboundRecords {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            records: Records::default(),
            handshake: 0,
            unread: 0,
        }
    }

    /// Records bytes that were read and processed.
    ///
    /// Errors: the handshake is too long.
    pub(super) fn took(&mut self, length: usize, is_handshaking: bool) -> io::Result<()> {
        if !is_handshaking {
            if self.handshake > 0 {
                self.handshake = 0;
                self.settle();
            }
            return Ok(());
        }
        self.handshake += length;
        self.settle();
        match self.handshake > self.limits.handshake {
            false => Ok(()),
            true => {
                let error = rustls::Error::General("the handshake is too long".to_owned());
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Bytes of rustls' buffer beyond its idle size. The buffer grows by doubling.
    pub(super) fn held(&self) -> usize {
        // It is unknown how many bytes of an incomplete handshake are still needed: at most all.
        match self.records.part.max(self.handshake) {
            0 => 0,
            part => (part + READ).next_power_of_two() - READ,
        }
    }

    /// Adjusts the charge to the memory held now.
    pub(super) fn settle(&mut self) {
        let held = TLS + self.held();
        if let Some(charge) = &mut self.limits.charge {
            charge.set(held);
        }
    }
}

/// Tracks the record boundaries in the received bytes.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Bytes received of an incomplete record.
    part: usize,
    /// Bytes of that record in total, once its header is complete.
    length: Option<usize>,
    /// The length in its header, as far as received.
    announced: usize,
}

impl Records {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            let Some(length) = self.length else {
                // The last two bytes of a header are the length of the payload.
                if self.part >= HEADER - 2 {
                    self.announced = self.announced << 8 | usize::from(*first);
                }
                self.part += 1;
                bytes = rest;
                if self.part == HEADER {
                    self.length = Some(HEADER + self.announced);
                    self.end_if_whole();
                }
                continue;
            };
            let more = bytes.len().min(length - self.part);
            self.part += more;
            bytes = &bytes[more..];
            self.end_if_whole();
        }
    }

    fn end_if_whole(&mut self) {
        if self.length == Some(self.part) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_record_is_counted_for_any_split_of_the_bytes() {
        let record = |length: u16| {
            let [high, low] = length.to_be_bytes();
            [&[23, 3, 3, high, low][..], &vec![7; length.into()]].concat()
        };
        let bytes = [record(0), record(300), record(1), record(16_000)].concat();
        for portion in [1, 2, 3, 4, 5, 6, 7, 300, 4096] {
            let mut records = Records::default();
            let mut fed = 0;
            let starts = [0, 5, 310, 316, bytes.len()];
            for piece in bytes.chunks(portion) {
                records.feed(piece);
                fed += piece.len();
                let start = starts.iter().rev().find(|start| **start <= fed);
                assert_eq!(records.part, fed - start.unwrap(), "{portion} {fed}");
            }
        }
    }

    #[test]
    fn incomplete_input_is_charged_until_it_is_complete() {
        let memory = Arc::new(Memory::new(usize::MAX));
        let mut inbound = InboundRecords::new(Limits::of_client(false, &memory));
        assert_eq!(memory.used(), TLS);
        inbound.took(200, true).unwrap();
        assert_eq!(memory.used(), TLS + (4 << 10));
        inbound.took(200, false).unwrap();
        assert_eq!(memory.used(), TLS);
        inbound.records.feed(&[23, 3, 3, 0x40, 0]);
        inbound.records.feed(&[0; 16_000]);
        inbound.settle();
        assert_eq!(memory.used(), TLS + (28 << 10));
        inbound.records.feed(&[0; 384]);
        inbound.settle();
        assert_eq!(memory.used(), TLS);
        let mut inbound = InboundRecords::new(Limits::of_client(false, &memory));
        inbound.took(HELLO, true).unwrap();
        inbound.took(1, true).unwrap_err();
        drop(inbound);
        assert_eq!(memory.used(), TLS, "of the other");
    }
}
