//! What came: a request's head, its path and query, the operation that it is, and its body while that
//! arrives. What leaves this room is read once and in one way, or refused with a [`RequestError`].

pub mod body;
mod error;
pub mod head;
pub mod operation;
pub mod path;

pub use error::RequestError;
