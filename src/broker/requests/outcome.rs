//! How a request has ended.

use super::delivery_error::DeliveryError;

/// The outcomes of requests that are counted.
pub(super) const OUTCOMES: [&str; 10] = [
    "answered",
    "rejected",
    "timeout",
    "cancelled",
    "gone",
    "slow",
    "unknown_id",
    "cluster_down",
    "no_subscriber",
    "busy",
];

/// How a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With the last answer that was wanted.
    Answered,
    /// The last responder has refused it.
    Rejected,
    /// The asker has cancelled it, or has disconnected.
    Cancelled,
    /// The last responder has failed for this reason. The asker is notified already.
    By(DeliveryError),
    /// The remaining responders fail for this reason, and the asker is notified of each.
    Failed(DeliveryError),
}

impl Ended {
    /// The reason of which the asker is notified.
    #[inline(always)]
    pub(super) fn error(self) -> Option<DeliveryError> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Answered | Self::Rejected | Self::Cancelled | Self::By(_) => None,
        }
    }

    /// The index in `OUTCOMES`.
    #[inline(always)]
    pub(super) fn index(self) -> usize {
        match self {
            Self::Answered => 0,
            Self::Rejected => 1,
            Self::Cancelled => 3,
            Self::By(error) | Self::Failed(error) => match error {
                DeliveryError::Timeout => 2,
                DeliveryError::Slow => 5,
                DeliveryError::UnknownId => 6,
                DeliveryError::ClusterDown => 7,
                DeliveryError::NoSubscriber => 8,
                DeliveryError::Busy => 9,
                DeliveryError::Gone
                | DeliveryError::Replaced
                | DeliveryError::AckTaken
                | DeliveryError::TooLarge => 4,
            },
        }
    }
}
