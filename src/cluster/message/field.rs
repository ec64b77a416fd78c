//! The fields of messages between brokers, encoded as bytes.
//!
//! Numbers are big-endian. A text or a list begins with its length, 4 bytes. A flag and the presence of an optional
//! field are a byte, 0 or 1.

use std::{borrow::Cow, sync::Arc};

use super::{Amount, Credit, Refusal};
use crate::{
    broker::topics::groups::{GroupId, Offer},
    cluster::{
        bus::NodeId,
        claims::{Claim, Owner, Stamp},
    },
};

/// The part of a message that has not been read.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }
}

/// A field of a message.
pub(super) trait Field<'a>: Sized {
    fn write(&self, out: &mut Vec<u8>);

    /// Reads the field from the start of the input.
    fn read(input: &mut Input<'a>) -> Result<Self, Refusal>;
}

/// All bytes up to the end of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rest<'a>(pub(crate) &'a [u8]);

impl<'a> Field<'a> for Rest<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }

    fn read(input: &mut Input<'a>) -> Result<Self, Refusal> {
        Ok(Self(std::mem::take(&mut input.0)))
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Field<'_> for $number {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.to_be_bytes());
            }

            fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
                input.bytes().map(Self::from_be_bytes)
            }
        }
    )*};
}

numbers!(u8 u32 u64 u128);

/// Writes a length or an amount. It fits into 32 bits: ids and lists are shorter, and so is the window of a link.
fn write_length(length: usize, out: &mut Vec<u8>) {
    (length as u32).write(out);
}

fn read_length(input: &mut Input<'_>) -> Result<usize, Refusal> {
    Ok(u32::read(input)? as usize)
}

impl Field<'_> for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        match u8::read(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Refusal::Malformed),
        }
    }
}

impl Field<'_> for NodeId {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        u64::read(input).map(Self)
    }
}

impl Field<'_> for GroupId {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        u128::read(input).map(Self)
    }
}

impl Field<'_> for Offer {
    fn write(&self, out: &mut Vec<u8>) {
        let Self {
            pattern,
            name,
            member,
            is_free,
        } = self;
        for text in [pattern, name, member] {
            text.write(out);
        }
        is_free.write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            pattern: Field::read(input)?,
            name: Field::read(input)?,
            member: Field::read(input)?,
            is_free: Field::read(input)?,
        })
    }
}

impl<'a> Field<'a> for &'a str {
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }

    fn read(input: &mut Input<'a>) -> Result<Self, Refusal> {
        let length = read_length(input)?;
        let (text, rest) = (input.0.split_at_checked(length)).ok_or(Refusal::Malformed)?;
        input.0 = rest;
        std::str::from_utf8(text).map_err(|_| Refusal::Malformed)
    }
}

impl Field<'_> for Arc<str> {
    fn write(&self, out: &mut Vec<u8>) {
        (&**self).write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        <&str>::read(input).map(Into::into)
    }
}

impl Field<'_> for (Arc<str>, Arc<str>) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        Ok((Field::read(input)?, Field::read(input)?))
    }
}

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        if let Some(field) = self {
            field.write(out);
        }
    }

    fn read(input: &mut Input<'a>) -> Result<Self, Refusal> {
        bool::read(input)?.then(|| T::read(input)).transpose()
    }
}

impl<'a, T: Field<'a> + Clone> Field<'a> for Cow<'_, [T]> {
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.len(), out);
        self.iter().for_each(|item| item.write(out));
    }

    fn read(input: &mut Input<'a>) -> Result<Self, Refusal> {
        // The length may be damaged: no memory is reserved for it.
        let items: Result<Vec<_>, _> = (0..read_length(input)?).map(|_| T::read(input)).collect();
        items.map(Into::into)
    }
}

/// Credit with the number of its link.
impl Field<'_> for (u64, Credit) {
    fn write(&self, out: &mut Vec<u8>) {
        let (link, credit) = self;
        link.write(out);
        credit.packet.write(out);
        credit.arrived.write(out);
        credit.consumed.write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        let link = Field::read(input)?;
        let credit = Credit {
            packet: Field::read(input)?,
            arrived: Field::read(input)?,
            consumed: Field::read(input)?,
        };
        Ok((link, credit))
    }
}

impl Field<'_> for Amount {
    fn write(&self, out: &mut Vec<u8>) {
        write_length(self.bytes, out);
        write_length(self.packets, out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            bytes: read_length(input)?,
            packets: read_length(input)?,
        })
    }
}

impl Field<'_> for Claim {
    fn write(&self, out: &mut Vec<u8>) {
        self.id.write(out);
        self.stamp.time.write(out);
        self.stamp.node.write(out);
        self.owner.write(out);
        self.is_confirmed.then_some(self.first).write(out);
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        let id = Field::read(input)?;
        let stamp = Stamp {
            time: Field::read(input)?,
            node: Field::read(input)?,
        };
        let claim = Self::new(id, stamp, Field::read(input)?);
        Ok(match Field::read(input)? {
            None => claim,
            Some(first) => Self {
                first,
                is_confirmed: true,
                ..claim
            },
        })
    }
}

/// The kinds of owners.
const ANYONE: u8 = 0;
const PARTICIPANT: u8 = 1;
const PRINCIPAL: u8 = 2;

impl Field<'_> for Owner {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Anyone => out.push(ANYONE),
            Self::Participant(node) => {
                out.push(PARTICIPANT);
                node.write(out);
            }
            Self::Principal(principal) => {
                out.push(PRINCIPAL);
                principal.write(out);
            }
        }
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Refusal> {
        match u8::read(input)? {
            ANYONE => Ok(Self::Anyone),
            PARTICIPANT => NodeId::read(input).map(Self::Participant),
            PRINCIPAL => Field::read(input).map(Self::Principal),
            _ => Err(Refusal::Malformed),
        }
    }
}
