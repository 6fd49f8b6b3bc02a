//! Access: from the key that a caller presents to its subscription, and what that subscription is
//! granted, and how much it may use. What leaves this room is a subscription and a model that it may use, or an
//! [`AccessError`].

mod error;
pub mod key;
pub mod limits;
pub mod scope;

pub use error::AccessError;
