//! What the requests of one worker and one configuration share.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::caller::Series;
use super::cooldowns::SharedCooldowns;
use super::failed_holds::FailedHolds;
use super::host::Host;
use super::limits;
use super::measure::Gauge;
use super::store::{Stamp, View};
use super::tokens::{Bearer, Tokens, IDLE};
use crate::config::{Backend, Config};
use crate::identity::{CalloutResponse, IdentityError};
use crate::routing::cooldown::Cooldowns;
use crate::routing::selection::{BackendStates, SignIn};

/// Where it is stored when a backend stage last met a request of another module's.
const MODULES_DIFFER: &str = "aoai-filter/modules-differ";

/// For so long a gateway stage leaves more than a number for the backend stage then. A listener drains
/// for ten minutes by default.
const REPLACEMENT: Duration = Duration::from_secs(600);

/// How often a worker looks whether that is so.
const REPLACEMENT_MAX_AGE: Duration = Duration::from_millis(50);

/// One worker's gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its configuration.
    pub config: Config,
    /// By the credential's position.
    pub tokens: Vec<Tokens>,
    /// What is remembered of backends.
    pub cooldowns: SharedCooldowns,
    /// Whose requests have metrics of their own.
    pub series: Series,
    /// Whether responses can be held to be inspected, in the gateway stage.
    pub failed_holds: FailedHolds,
    /// And in the backend stage.
    pub failed_attempt_holds: FailedHolds,
    modules_differ: View<Stamp>,
    has_pools: bool,
}

/// What is known of backends, where anything can be.
#[derive(Debug, Default)]
pub struct States {
    cooldowns: Rc<Cooldowns>,
    sign_in: Vec<SignIn>,
}

impl States {
    /// As routing looks at it.
    pub fn get(&self) -> BackendStates<'_> {
        BackendStates { cooldowns: &self.cooldowns, sign_in: &self.sign_in }
    }
}

/// Says that a backend stage has met a request whose gateway stage is of another module.
pub fn note_that_modules_differ(host: &dyn Host, now: SystemTime) {
    let stamp =
        |last: &Stamp| (!last.is_within(Duration::from_secs(1), now)).then(|| Stamp::of(now));
    super::store::change(host, MODULES_DIFFER, &stamp);
}

impl Gateway {
    /// The gateway of a configuration.
    pub fn new(config: Config, host: &dyn Host) -> Self {
        let gateway = Self {
            tokens: Tokens::of(&config, host),
            cooldowns: SharedCooldowns::new(host),
            series: Series::new(host),
            failed_holds: FailedHolds::default(),
            failed_attempt_holds: FailedHolds::default(),
            modules_differ: View::new(host, MODULES_DIFFER.to_owned(), REPLACEMENT_MAX_AGE),
            has_pools: config.models.values().any(|model| model.is_pooled()),
            config,
        };
        limits::prepare(&gateway.config, host);
        let now = host.now();
        gateway.cooldowns.forget(host, &gateway.config, now);
        let taken = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        host.set(Gauge::DocumentTaken { version: &gateway.config.version }, taken.as_secs());
        gateway
    }

    /// What is known of backends now.
    pub fn states(&self, host: &dyn Host, now: SystemTime) -> States {
        if !self.has_pools {
            return States::default();
        }
        let sign_in = match self.tokens.as_slice() {
            // A request for the one identity's token waits for it whichever backend it goes to.
            [] | [_] => Vec::new(),
            all => all.iter().map(|tokens| tokens.sign_in(host, now)).collect(),
        };
        States { cooldowns: self.cooldowns.get(host, now), sign_in }
    }

    /// The token for a request to a backend that waits until `deadline` at the longest; `None` to wait
    /// on.
    ///
    /// # Errors
    /// There is none, and there will be none in time.
    pub fn admit(
        &self,
        backend: &Backend,
        host: &dyn Host,
        now: SystemTime,
        deadline: SystemTime,
    ) -> Result<Option<Rc<Bearer>>, IdentityError> {
        self.tokens_for(backend)?.admit(host, now, deadline)
    }

    /// The tokens of a backend's credential.
    ///
    /// # Errors
    /// Never: a configuration's backends all have one.
    pub fn tokens_for(&self, backend: &Backend) -> Result<&Tokens, IdentityError> {
        let missing = IdentityError::Unavailable { wait: IDLE };
        self.tokens.get(backend.credential).ok_or(missing)
    }

    /// Whether backend stages of another module may get this worker's requests now.
    pub fn modules_differ(&self, host: &dyn Host, now: SystemTime) -> bool {
        self.modules_differ.get(host, now).is_within(REPLACEMENT, now)
    }

    /// Looks after the tokens that backends are signed in to with, and what other workers have learned of
    /// backends. Returns when to look again.
    pub fn tick(&self, host: &dyn Host, now: SystemTime) -> SystemTime {
        self.cooldowns.tick(host, now);
        let used = self.tokens.iter().filter(|tokens| tokens.is_used);
        used.map(|tokens| tokens.tick(host, now)).min().unwrap_or(now + IDLE).min(now + IDLE)
    }

    /// Takes what came back for a callout.
    pub fn settle(
        &self,
        host: &dyn Host,
        callout: u32,
        response: &CalloutResponse,
        now: SystemTime,
    ) {
        let _ = self.tokens.iter().any(|tokens| tokens.settle(host, callout, response, now));
    }

    /// Leaves fetches to other workers whose responses this one will not see.
    pub fn release(&self, host: &dyn Host, now: SystemTime) {
        self.tokens.iter().for_each(|tokens| tokens.release(host, now));
    }
}
