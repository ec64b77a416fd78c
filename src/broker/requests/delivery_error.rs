//! Delivery errors, and their codes.

/// Reason why a message was not delivered, or will not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryError {
    /// The id has no owner.
    UnknownId,
    /// The receiver's outbox is full.
    Slow,
    /// The receiver has disconnected.
    Gone,
    /// Another connection has taken over the id.
    Replaced,
    Timeout,
    /// The receiver is at another broker, which is unreachable.
    ClusterDown,
    /// Another request with this ack is pending at the receiver's broker.
    AckTaken,
    /// The answer is larger than a message between brokers may be.
    TooLarge,
    /// The topic has no subscriber.
    NoSubscriber,
    /// Too many messages wait for the members of a group.
    Busy,
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
            Self::NoSubscriber => "NO_SUBSCRIBER",
            Self::Busy => "BUSY",
        }
    }

    /// Parses the code of another broker. Unknown codes become `Gone`.
    pub(crate) fn of_code(code: &str) -> Self {
        const ALL: [DeliveryError; 10] = [
            DeliveryError::UnknownId,
            DeliveryError::Slow,
            DeliveryError::Replaced,
            DeliveryError::Timeout,
            DeliveryError::ClusterDown,
            DeliveryError::AckTaken,
            DeliveryError::TooLarge,
            DeliveryError::NoSubscriber,
            DeliveryError::Busy,
            DeliveryError::Gone,
        ];
        let known = ALL.into_iter().find(|error| error.code() == code);
        known.unwrap_or(DeliveryError::Gone)
    }

    /// Code in a receipt: an id whose owner has just disconnected counts as unknown (rule 24.3).
    pub(crate) fn receipt_code(self) -> &'static str {
        match self {
            Self::Slow | Self::Timeout | Self::ClusterDown => self.code(),
            _ => Self::UnknownId.code(),
        }
    }
}
