//! Why a fetch brought no token.

use std::time::Duration;

use thiserror::Error;

use crate::base::error_body::ErrorBody;
use crate::base::text::printable;

/// Why a fetch brought no token. The details are short, printable, and hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// A retry will fail in the same way.
    #[error("refused with status {status}: {detail}")]
    Permanent {
        /// The status of the response.
        status: u16,
        /// The endpoint's error.
        detail: String,
    },
    /// A retry may succeed.
    #[error("failed{}: {detail}", status.map(|status| format!(" with status {status}")).unwrap_or_default())]
    Transient {
        /// The status of the response, if there was one.
        status: Option<u16>,
        /// The endpoint's error, or what is wrong with its response.
        detail: String,
        /// The time after which to retry, by the endpoint.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// Whether a retry is pointless until an operator corrects something.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Permanent { .. })
    }

    /// Whether it is of the same kind and status as another failure.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.is_permanent(), self.status()) == (other.is_permanent(), other.status())
    }

    /// The HTTP status of the response, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Permanent { status, .. } => Some(*status),
            Self::Transient { status, .. } => *status,
        }
    }

    /// The endpoint's error, or what is wrong with its response.
    pub fn detail(&self) -> &str {
        let (Self::Permanent { detail, .. } | Self::Transient { detail, .. }) = self;
        detail
    }

    /// A transient failure without a status: the response cannot be used.
    pub(super) fn unusable(detail: impl Into<String>) -> Self {
        Self::Transient { status: None, detail: detail.into(), retry_after: None }
    }
}

/// An error as text for a line of the log. A body of an unknown shape may come from any server, and is not
/// shown.
pub(super) fn describe(error: &ErrorBody) -> String {
    match (error.code.as_str(), error.message.as_str()) {
        ("", _) => "no explanation".to_owned(),
        (text, "") => printable(text),
        (code, message) => printable(&format!("{code}: {}", message.trim_end_matches('.'))),
    }
}
