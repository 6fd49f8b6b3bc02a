//! Reads when a backend goes into cooldown, and for how long a request tries others.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Reader;
use super::time::duration;
use super::types::Failover;
use crate::base::json::Node;

/// A shorter cooldown does not relieve Azure; a longer one leaves capacity unused.
const COOLDOWN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);

const FAILURES_IN_A_ROW: RangeInclusive<u32> = 1..=100;

/// Zero means that there is one attempt. Clients give up before the end.
const RETRY_WITHIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(5 * 60);

impl Default for Failover {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(10),
            longest_cooldown: Duration::from_secs(2 * 60),
            failures_in_a_row: 3,
            retry_within: Duration::from_secs(10),
        }
    }
}

/// Reads `failover`.
pub(super) fn failover(reader: &mut Reader, node: &Node) -> Option<Failover> {
    let object = reader
        .object(node, &["cooldown", "longest_cooldown", "failures_in_a_row", "retry_within"])?;
    let default = Failover::default();
    let cooldown = reader.optional(object, "cooldown", |r, node| duration(r, node, COOLDOWN));
    let longest =
        reader.optional(object, "longest_cooldown", |r, node| duration(r, node, COOLDOWN));
    let failures =
        reader.optional(object, "failures_in_a_row", |r, node| r.integer(node, FAILURES_IN_A_ROW));
    let within = reader.optional(object, "retry_within", |r, node| duration(r, node, RETRY_WITHIN));
    let longest_cooldown = longest.unwrap_or(default.longest_cooldown);
    if cooldown.is_some_and(|cooldown| cooldown > longest_cooldown) {
        let longest = longest_cooldown.as_millis();
        reader.at_field("cooldown", |reader| {
            reader.problem(format!(
                "longer than longest_cooldown, which is {longest}ms; expected at most that"
            ));
        });
    }
    Some(Failover {
        cooldown: cooldown.unwrap_or(default.cooldown.min(longest_cooldown)),
        longest_cooldown,
        failures_in_a_row: failures.unwrap_or(default.failures_in_a_row),
        retry_within: within.unwrap_or(default.retry_within),
    })
}
