//! By what a request selects one of a model's backends: in turn, or by what it has in common with others
//! that should reach the same backend, such as a prompt in its cache.

use crate::config::{Affinity, Model, Subscription};

/// A longer value selects nothing; keys of caches are far shorter.
pub const LONGEST_VALUE: usize = 512;

/// By what a request selects one of several backends that could serve it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// By its turn among the model's requests.
    RoundRobin(u64),
    /// By a name that it shares with others, which prefer the same backend.
    Affinity(String),
}

impl Selection {
    /// The selection for a request of this subscription with this value. The name is the subscription's
    /// own: no caller can choose the backend of another subscription's requests.
    pub fn of(subscription: &Subscription, model: &Model, value: Option<&[u8]>) -> Self {
        match value.filter(|value| (1..=LONGEST_VALUE).contains(&value.len())) {
            Some(value) => {
                let value = String::from_utf8_lossy(value);
                Self::Affinity([&subscription.id, "\n", &*value].concat())
            }
            None => Self::RoundRobin(model.round_robin.next()),
        }
    }
}

impl Affinity {
    /// The header that it looks at, if it is one.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Body(_) => None,
        }
    }

    /// The field of a JSON body that it looks at, if it is one.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Body(name) => Some(name),
            Self::Header(_) => None,
        }
    }
}
