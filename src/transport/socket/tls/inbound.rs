//! What a peer makes us hold of what it sends over TLS.
//!
//! rustls keeps what has come of a record until that is whole, and of a message of the handshake until
//! that is; it does not say how much. A peer that sends the beginning of either, and no more, holds that
//! much of our memory: it is counted here, as it passes, and charged while nothing more comes.

use std::{io, sync::Arc};

use crate::memory::{Charge, Memory, TLS};

/// Bytes that a client may send up to the end of its handshake: five times what browsers send.
const HELLO: usize = 16 << 10;
/// The same where it is asked for its certificates; rustls takes no longer message.
const HELLO_WITH_CERTIFICATES: usize = 64 << 10;
/// Bytes that rustls asks of a socket at once, and its buffer at rest.
const READ: usize = 4 << 10;
/// Bytes of a record's header.
const HEADER: usize = 5;

/// What a peer may send, and where it is charged.
#[derive(Debug)]
pub(in crate::transport) struct Limits {
    handshake: usize,
    charge: Option<Charge>,
}

impl Limits {
    /// Of a client; charged from now on. `asks`: for its certificate.
    pub(in crate::transport) fn of_client(asks: bool, memory: &Arc<Memory>) -> Self {
        Self {
            handshake: match asks {
                false => HELLO,
                true => HELLO_WITH_CERTIFICATES,
            },
            charge: Some(Charge::new(memory, TLS)),
        }
    }

    /// Of a server, which we have chosen.
    pub(in crate::transport) fn of_server() -> Self {
        Self {
            handshake: usize::MAX,
            charge: None,
        }
    }
}

/// What has come, and was not yet passed on.
#[derive(Debug)]
pub(super) struct InboundRecords {
    limits: Limits,
    pub(super) records: Records,
    /// Bytes of the handshake so far; zero once that is done.
    handshake: usize,
    /// Bytes that are decrypted, and not yet read.
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

    /// Notes what was read and processed.
    ///
    /// Errors: a handshake of too many bytes.
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

    /// Bytes of rustls' buffer beyond what it has at rest. It grows by doubling.
    pub(super) fn held(&self) -> usize {
        // Of a handshake in part it is not known how much is needed still: all, at most.
        match self.records.part.max(self.handshake) {
            0 => 0,
            part => (part + READ).next_power_of_two() - READ,
        }
    }

    /// Charges what is held now.
    pub(super) fn settle(&mut self) {
        let held = TLS + self.held();
        if let Some(charge) = &mut self.limits.charge {
            charge.set(held);
        }
    }
}

/// Where records begin and end in what passes.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Bytes of a record that is not whole.
    part: usize,
    /// Bytes of it in all, once its header is whole.
    length: Option<usize>,
    /// The length in its header, as far as that has come.
    announced: usize,
}

impl Records {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            let Some(length) = self.length else {
                // The last two of a header are the length of what follows.
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
    fn the_part_of_a_record_is_counted_however_it_comes() {
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
    fn what_is_held_is_charged_until_it_is_whole() {
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
