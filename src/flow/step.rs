//! What a flow wants done.

use std::borrow::Cow;
use std::time::SystemTime;

use crate::reply::LocalResponse;
use crate::request::body::edit::BodyEdit;

/// What becomes of the message at hand.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Which message it is.
    pub message: Message,
    /// What changes first. Headers can be changed only while the message's head has not gone on.
    pub changes: Changes,
    /// What happens then.
    pub then: Then,
}

/// One of the two messages of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// What happens to a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on.
    Continue,
    /// It waits: for its next piece, or for a wake-up at this time, whichever comes first.
    Pause(Option<SystemTime>),
    /// The caller gets a local reply, and nothing more is done with the message.
    Reply(LocalResponse),
}

/// Changes of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of its headers; a name at most once.
    pub headers: Vec<HeaderChange>,
    /// Trailers that are removed.
    pub removed_trailers: Vec<String>,
    /// Of the bytes of its body that are held, counted from the first of these.
    pub body: Option<BodyEdit>,
    /// What is left for the attempts at the request.
    pub pool_reference: Option<Vec<u8>>,
}

/// A change of one header.
#[derive(Debug, PartialEq, Eq)]
pub enum HeaderChange {
    /// It is removed, however often it is there.
    Remove(String),
    /// It has this value and no other.
    Set(Cow<'static, str>, Vec<u8>),
}

impl HeaderChange {
    fn name(&self) -> &str {
        match self {
            Self::Remove(name) => name,
            Self::Set(name, _) => name,
        }
    }
}

impl Changes {
    /// Removes a header.
    pub fn remove(&mut self, name: &str) {
        self.change(HeaderChange::Remove(name.to_owned()));
    }

    /// Sets a header.
    pub fn set(&mut self, name: &'static str, value: impl Into<Vec<u8>>) {
        self.change(HeaderChange::Set(Cow::Borrowed(name), value.into()));
    }

    fn change(&mut self, change: HeaderChange) {
        match self.headers.iter_mut().find(|known| known.name() == change.name()) {
            Some(known) => *known = change,
            None => self.headers.push(change),
        }
    }
}

impl Step {
    /// A message goes on as it is.
    pub fn pass(message: Message) -> Self {
        Self { message, changes: Changes::default(), then: Then::Continue }
    }
}
