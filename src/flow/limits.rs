//! The limits of subscriptions, in buckets that all workers of a process share: a request is admitted where there
//! is room, and charged for what it has used once that is known.

use std::cell::Cell;
use std::time::SystemTime;

use super::host::Host;
use super::store::{self, Value};
use crate::access::limits::{bucket, Buckets, Limit, LimitReached, Remaining};
use crate::base::header::{LIMIT_REQUESTS, LIMIT_TOKENS, REMAINING_REQUESTS, REMAINING_TOKENS};
use crate::config::{Config, LimitStore, Rates, Subscription};
use crate::reply::Reply;

/// What the keys of buckets begin with.
const KEY: &str = "aoai-filter/limits/";

impl Value for Buckets {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_bytes(bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        Buckets::to_bytes(*self)
    }
}

/// What was taken out of a subscription's buckets for a request.
#[derive(Debug)]
pub struct Reservation {
    key: String,
    rates: Rates,
    /// How many tokens: at first what was reserved, then what was charged.
    tokens: u64,
    remaining: Remaining,
}

/// Makes the buckets of a configuration, full, where they are not there yet.
pub fn prepare(config: &Config, host: &dyn Host) {
    if config.limit_store != LimitStore::Local {
        return;
    }
    for subscription in config.subscriptions.values() {
        let limits = &subscription.limits;
        let models = limits.models.keys().map(|model| Some(model.as_str()));
        for model in models.chain([None]).filter(|model| limits.of(*model).is_some()) {
            store::prepare::<Buckets>(host, &key(subscription, model));
        }
    }
}

fn key(subscription: &Subscription, model: Option<&str>) -> String {
    format!("{KEY}{}", bucket(&subscription.id, model))
}

impl Reservation {
    /// Takes what a request for this model, or for none, is expected to use. `tokens` is `None` for one that uses no
    /// tokens. `None` where nothing limits it.
    ///
    /// # Errors
    /// The reply where there is no room.
    pub fn take(
        host: &dyn Host,
        subscription: &Subscription,
        model: Option<&str>,
        tokens: Option<u64>,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<Option<Self>, Reply> {
        let Some((rates, model)) = subscription.limits.of(model) else {
            return Ok(None);
        };
        let key = key(subscription, model);
        let (now, taken) = (now(), Cell::new(None));
        let changed = store::change(host, &key, &|buckets: &Buckets| {
            let result = buckets.take(rates, tokens, now);
            taken.set(Some(result));
            result.ok().map(|(buckets, _)| buckets)
        });
        match (taken.get(), changed) {
            (Some(Err(reached)), _) => Err(reached.reply(rates)),
            (Some(Ok((buckets, tokens))), Some(_)) => {
                Ok(Some(Self { key, rates, tokens, remaining: buckets.remaining(rates) }))
            }
            _ => Err(Reply::limits_unavailable()),
        }
    }

    /// Charges the request for what it has used so far.
    pub fn charge(&mut self, host: &dyn Host, used: u64) {
        let reserved = self.tokens;
        if self.rates.tokens_per_minute.is_some() && used != reserved {
            let settle = |buckets: &Buckets| Some(buckets.settle(reserved, used));
            store::change(host, &self.key, &settle);
            self.tokens = used;
        }
    }

    /// Charges the request for more than it was charged before, if it has used more.
    pub fn charge_more(&mut self, host: &dyn Host, used: u64) {
        if used > self.tokens {
            self.charge(host, used);
        }
    }

    /// Gives back what was taken: the request was not forwarded.
    pub fn give_back(&self, host: &dyn Host) {
        let give_back = |buckets: &Buckets| Some(buckets.give_back(self.tokens));
        store::change(host, &self.key, &give_back);
    }

    /// The headers that tell the caller its limits, and what is left of them.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        headers(self.rates, self.remaining)
    }
}

/// The headers that tell a caller these limits.
pub fn headers(rates: Rates, remaining: Remaining) -> Vec<(&'static str, String)> {
    let limit = |rate: Option<u32>| rate.map(|rate| rate.to_string());
    let left = |left: Option<u64>| left.map(|left| left.to_string());
    [
        (LIMIT_REQUESTS, limit(rates.requests_per_minute)),
        (REMAINING_REQUESTS, left(remaining.requests)),
        (LIMIT_TOKENS, limit(rates.tokens_per_minute)),
        (REMAINING_TOKENS, left(remaining.tokens)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

impl LimitReached {
    /// The reply to a request for which there is no room.
    fn reply(self, rates: Rates) -> Reply {
        let Self { limit, wait, remaining } = self;
        let reply = match limit {
            Limit::Requests(rate) => Reply::request_limit_reached(rate, wait),
            Limit::Tokens(rate) => Reply::token_limit_reached(rate, wait),
        };
        reply.with_limits(headers(rates, remaining))
    }
}
