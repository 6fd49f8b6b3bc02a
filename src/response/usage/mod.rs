//! How many tokens a response has used, read as the response passes: never held, whatever its size, and the
//! same whatever pieces it comes in.
//!
//! | response | where the usage stands |
//! | --- | --- |
//! | JSON | the field `usage` at the top level |
//! | server-sent events | `usage` of the last chunk, or `response.usage` of `response.completed`, `.incomplete`, `.failed` |
//! | server-sent events of Claude | `message.usage` of `message_start`, and `usage` of `message_delta` |
//! | WebSocket (realtime) | `response.usage` of every `response.done` |
//!
//! Only these places count: what else is called `usage`, in a text or below, is content.

mod document;
mod events;
mod fields;
mod frames;
mod tokens;

pub use document::DocumentReader;
pub use events::EventReader;
pub use frames::FrameReader;
pub use tokens::Usage;

#[cfg(test)]
mod tests;
