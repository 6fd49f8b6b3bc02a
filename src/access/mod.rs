//! Access: from the key that a caller presents to its subscription, and what that subscription is
//! granted. What leaves this room is a subscription and a model that it may use, or an [`AccessError`].

mod error;
pub mod key;
pub mod scope;

pub use error::AccessError;
