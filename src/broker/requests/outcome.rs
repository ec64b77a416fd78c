//! What becomes of a request beside an answer, and whom that concerns.

use std::sync::Arc;

use crate::broker::handle::Handle;

/// Why a receiver will not answer, or has not got what was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryError {
    /// Nobody owns the id.
    UnknownId,
    /// It does not read.
    Slow,
    /// Its connection has ended.
    Gone,
    /// Another connection owns the id now.
    Replaced,
    /// Its time is up.
    Timeout,
    /// It is at another broker, and there is no way to that.
    ClusterDown,
    /// Its broker has another request with that ack.
    AckTaken,
    /// Its answer is larger than what goes between brokers.
    TooLarge,
}

impl DeliveryError {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::UnknownId => "UNKNOWN_ID",
            Self::Slow => "SLOW",
            Self::Gone => "GONE",
            Self::Replaced => "REPLACED",
            Self::Timeout => "TIMEOUT",
            Self::ClusterDown => "CLUSTER_DOWN",
            Self::AckTaken => "ERR_WSMB_ACK_TAKEN",
            Self::TooLarge => "ERR_WSMB_CLUSTER_PAYLOAD",
        }
    }

    /// What another broker means by a code.
    pub(crate) fn of_code(code: &str) -> Self {
        const ALL: [DeliveryError; 8] = [
            DeliveryError::UnknownId,
            DeliveryError::Slow,
            DeliveryError::Replaced,
            DeliveryError::Timeout,
            DeliveryError::ClusterDown,
            DeliveryError::AckTaken,
            DeliveryError::TooLarge,
            DeliveryError::Gone,
        ];
        let known = ALL.into_iter().find(|fault| fault.code() == code);
        known.unwrap_or(DeliveryError::Gone)
    }

    /// What a receipt says of a message that was not delivered: nobody owns the id of one who has
    /// just gone (rule 24.3).
    pub(crate) fn receipt_code(self) -> &'static str {
        match self {
            Self::Slow | Self::Timeout | Self::ClusterDown => self.code(),
            _ => Self::UnknownId.code(),
        }
    }
}

/// Something to be told.
#[derive(Debug)]
pub(crate) enum Notification {
    /// To the one who asked: this receiver will not answer.
    Failed {
        asker: Arc<Handle>,
        ack: Arc<str>,
        dest: Arc<str>,
        fault: DeliveryError,
    },
    /// To one who was asked: nobody awaits the answer any more.
    Cancelled {
        responder: Arc<Handle>,
        ack: Arc<str>,
    },
}

/// Collected while locks are held, and told when they are not.
pub(crate) type Notifications = Vec<Notification>;
