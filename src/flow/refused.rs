//! A refused request whose body is still coming.
//!
//! Many clients send all of a body before they read anything. Where a reply comes before the end of a
//! request, Envoy closes an HTTP/1.1 connection after it and reads no more of what the client sends, and the
//! reset that follows takes the reply with it. So the rest of a body is received first, and discarded piece by
//! piece: nothing of it is held, and nothing goes on.

use std::time::{Duration, SystemTime};

use super::context::Context;
use super::step::{Changes, Then};
use crate::base::clock::is_over;
use crate::reply::Reply;
use crate::request::body::edit::BodyEdit;

/// How much of a refused body is received. The client of a longer one may not get to read the reply.
const MOST_DISCARDED: u64 = 16 << 20;

/// For how long it is received.
const DEADLINE: Duration = Duration::from_secs(10);

/// A client that sends nothing for so long gets the reply then.
const CHECK: Duration = Duration::from_secs(1);

/// A refused request, and the reply that it gets.
#[derive(Debug)]
pub struct Refused {
    reply: Reply,
    /// How many bytes were discarded.
    discarded: u64,
    /// Whether any have come since the last check.
    is_coming: bool,
    deadline: SystemTime,
}

/// How much of a request's body there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// How many bytes the host holds, which are all that have come.
    pub held: usize,
    /// Whether that is all of it, or all that will be shown.
    pub ended: bool,
    /// Its length, where the head tells.
    pub length: Option<u64>,
}

impl Refused {
    /// Refuses a request.
    ///
    /// # Errors
    /// The reply, where it is due now: nothing of the body is to come, or too much.
    pub fn begin(
        ctx: &Context<'_>,
        changes: &mut Changes,
        reply: Reply,
        body: Body,
    ) -> Result<(Self, Then), Reply> {
        if body.length.is_some_and(|length| length > MOST_DISCARDED) {
            return Err(reply);
        }
        let now = ctx.now();
        let refused = Self { reply, discarded: 0, is_coming: false, deadline: now + DEADLINE };
        let (refused, _) = refused.discard(changes, body.held, body.ended)?;
        let refused = Self { is_coming: false, ..refused };
        Ok((refused, Then::Pause(Some(now + CHECK))))
    }

    /// Discards what the host holds of the body.
    ///
    /// # Errors
    /// The reply, as soon as the body has ended or is too long.
    pub fn discard(
        self,
        changes: &mut Changes,
        held: usize,
        ended: bool,
    ) -> Result<(Self, Then), Reply> {
        let discarded = self.discarded.saturating_add(held as u64);
        // The piece that reaches the body's length is not the last one: Envoy tells the end by an empty one.
        if ended || discarded > MOST_DISCARDED {
            return Err(self.reply);
        }
        if held > 0 {
            changes.body = Some(BodyEdit { at: 0..held, with: Vec::new() });
        }
        Ok((Self { discarded, is_coming: true, ..self }, Then::Pause(None)))
    }

    /// Checks whether to wait on.
    ///
    /// # Errors
    /// The reply, where the client sends nothing, or too slowly.
    pub fn wake_up(self, ctx: &Context<'_>) -> Result<(Self, Then), Reply> {
        let now = ctx.now();
        if !self.is_coming || is_over(self.deadline, DEADLINE, now) {
            return Err(self.reply);
        }
        Ok((Self { is_coming: false, ..self }, Then::Pause(Some(now + CHECK))))
    }
}
