//! The metrics: their names and labels. Envoy shows them under `wasmcustom.`; the module's interface to Envoy knows
//! no labels, so names carry them as `.label.value` pairs, for `stats_config.stats_tags` to take out.

use crate::config::Config;
use crate::flow::measure::{
    AttemptResult, Counter, FetchResult, Gauge, Histogram, Labels, Source, TokenKind,
};
use crate::reply::Reason;

/// A metric with `N` labels.
#[derive(Debug)]
pub struct Metric<const N: usize> {
    name: &'static str,
    /// In the order in which names carry them. A model's name may have dots, and so is last.
    labels: [&'static str; N],
    text: &'static str,
}

/// A row of the documentation's table of metrics.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The metric's name.
    pub name: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts, in Markdown.
    pub text: &'static str,
}

/// The value of the label `model` where a backend is concerned for every model.
const EVERY_MODEL: &str = "*";

static REQUESTS: Metric<4> = Metric {
    name: "aoai_requests_total",
    labels: ["outcome", "backend", "subscription", "model"],
    text: "requests, each with one outcome: `forwarded` (a backend responded) and the first backend, \
           `models_listed`, `abandoned` (the caller left before a response) and the first backend if there was one, \
           or the reason of a local reply",
};
static TOKENS: Metric<5> = Metric {
    name: "aoai_tokens_total",
    labels: ["backend", "type", "source", "subscription", "model"],
    text: "[tokens](#tokens) used: `input` and of these `cached_input`, `output` and of these `reasoning`; \
           `reported` or `estimated`",
};
static LIMITS_UNCHECKED: Metric<2> = Metric {
    name: "aoai_limits_unchecked_total",
    labels: ["subscription", "model"],
    text: "requests that `limits.on_error: allow` has let through, or whose limits the service does not know",
};
static TIME_TO_FIRST_TOKEN: Metric<2> = Metric {
    name: "aoai_time_to_first_token_ms",
    labels: ["backend", "model"],
    text:
        "histogram: from a request's head to the first event of a streamed response that has output",
};
static REQUEST_DURATION: Metric<2> = Metric {
    name: "aoai_request_duration_ms",
    labels: ["backend", "model"],
    text: "histogram: from a request's head to the end of its response",
};
static ATTEMPTS: Metric<4> = Metric {
    name: "aoai_attempts_total",
    labels: ["backend", "result", "status", "model"],
    text: "attempts at backends: `responded`, `throttled` (429), `failed` (5xx, or no response: its status is \
           `none`), `misconfigured`; and the response's HTTP status",
};
static RETRIES: Metric<0> =
    Metric { name: "aoai_retries_total", labels: [], text: "attempts beyond a request's first" };
static COOLDOWNS: Metric<2> = Metric {
    name: "aoai_cooldowns_total",
    labels: ["backend", "model"],
    text: "cooldowns that began, those after a failed probe included; `*` for all models",
};
static IN_COOLDOWN: Metric<2> = Metric {
    name: "aoai_in_cooldown",
    labels: ["backend", "model"],
    text: "1 from the beginning of a cooldown until the backend has served the model again, then 0; `*` for all models",
};
static DIAGNOSES: Metric<2> = Metric {
    name: "aoai_diagnoses_total",
    labels: ["backend", "diagnosis"],
    text: "responses of backends that show a mistake of configuration",
};
static MISCONFIGURED: Metric<3> = Metric {
    name: "aoai_misconfigured",
    labels: ["backend", "diagnosis", "model"],
    text: "1 while the backend is misconfigured in this way, 0 after it has served a request again; `*` for all models",
};
static DOCUMENT_TAKEN: Metric<1> = Metric {
    name: "aoai_document_taken_timestamp_seconds",
    labels: ["version"],
    text: "when a document was taken (Unix time): the latest is in use. `aoai doctor` knows the version of a file",
};
static TOKEN_FETCHES: Metric<2> = Metric {
    name: "aoai_entra_token_fetches_total",
    labels: ["identity", "result"],
    text: "fetches of tokens: `success`, `failed` (retried soon), `refused` (the configuration has to be corrected)",
};
static TOKEN_REMAINING: Metric<1> = Metric {
    name: "aoai_entra_token_remaining_seconds",
    labels: ["identity"],
    text: "the remaining lifetime of the token",
};

/// All of them.
pub fn rows() -> impl Iterator<Item = Row> {
    let rows = [
        REQUESTS.row(),
        TOKENS.row(),
        LIMITS_UNCHECKED.row(),
        TIME_TO_FIRST_TOKEN.row(),
        REQUEST_DURATION.row(),
        ATTEMPTS.row(),
        RETRIES.row(),
        COOLDOWNS.row(),
        IN_COOLDOWN.row(),
        DIAGNOSES.row(),
        MISCONFIGURED.row(),
        TOKEN_FETCHES.row(),
        TOKEN_REMAINING.row(),
        DOCUMENT_TAKEN.row(),
    ];
    rows.into_iter()
}

impl<const N: usize> Metric<N> {
    fn row(&'static self) -> Row {
        Row { name: self.name, labels: &self.labels, text: self.text }
    }

    /// Writes its name with these values of its labels.
    fn write(&self, name: &mut String, values: [&str; N]) {
        name.push_str(self.name);
        for (label, value) in self.labels.iter().zip(values) {
            [".", label, ".", value].iter().for_each(|part| name.push_str(part));
        }
    }
}

impl Counter<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        let mut requests = |outcome, backend, Labels { subscription, model }| {
            REQUESTS.write(name, [outcome, backend, subscription, model]);
        };
        match *self {
            Self::Forwarded { backend, labels } => requests("forwarded", backend, labels),
            Self::Abandoned { backend, labels } => {
                requests("abandoned", backend.unwrap_or("none"), labels);
            }
            Self::Replied { reason, labels } => requests(reason.name(), "none", labels),
            Self::ModelsListed { labels } => requests("models_listed", "none", labels),
            Self::Tokens { labels: Labels { subscription, model }, backend, kind, source } => {
                let values = [backend, kind.name(), source.name(), subscription, model];
                TOKENS.write(name, values);
            }
            Self::LimitsUnchecked { labels: Labels { subscription, model } } => {
                LIMITS_UNCHECKED.write(name, [subscription, model]);
            }
            Self::Attempt { backend, model, result, status } => {
                let mut digits = itoa::Buffer::new();
                let status = status.map_or("none", |status| digits.format(status));
                ATTEMPTS.write(name, [backend, result.name(), status, model]);
            }
            Self::Retries => RETRIES.write(name, []),
            Self::Cooldowns { backend, model } => {
                COOLDOWNS.write(name, [backend, model.unwrap_or(EVERY_MODEL)]);
            }
            Self::Diagnosis { backend, diagnosis } => {
                DIAGNOSES.write(name, [backend, diagnosis.slug]);
            }
            Self::TokenFetch { identity, result } => {
                TOKEN_FETCHES.write(name, [identity, result.name()]);
            }
        }
    }

    /// Calls this for each counter of a configuration that is shown from the beginning, at zero.
    pub fn each(config: &Config, mut define: impl FnMut(Counter<'_>)) {
        for reason in Reason::ALL {
            define(Counter::Replied { reason, labels: Labels::NONE });
        }
        define(Counter::Retries);
        for (backend, model) in pairs(config) {
            define(Counter::Cooldowns { backend, model: Some(model) });
        }
        for identity in config.credentials.iter().map(|credential| credential.name.as_str()) {
            for result in FetchResult::ALL {
                define(Counter::TokenFetch { identity, result });
            }
        }
    }
}

impl Gauge<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        match *self {
            Self::InCooldown { backend, model } => {
                IN_COOLDOWN.write(name, [backend, model.unwrap_or(EVERY_MODEL)]);
            }
            Self::Misconfigured { backend, diagnosis, model } => {
                MISCONFIGURED.write(name, [backend, diagnosis, model.unwrap_or(EVERY_MODEL)]);
            }
            Self::DocumentTaken { version } => DOCUMENT_TAKEN.write(name, [version]),
            Self::TokenRemaining { identity } => TOKEN_REMAINING.write(name, [identity]),
        }
    }

    /// Calls this for each gauge of a configuration.
    pub fn each(config: &Config, mut define: impl FnMut(Gauge<'_>)) {
        for (backend, model) in pairs(config) {
            define(Gauge::InCooldown { backend, model: Some(model) });
        }
        for identity in config.credentials.iter().map(|credential| credential.name.as_str()) {
            define(Gauge::TokenRemaining { identity });
        }
    }
}

impl Histogram<'_> {
    /// The metric's name, written into this buffer.
    pub fn write_name(&self, name: &mut String) {
        match *self {
            Self::TimeToFirstToken { backend, model } => {
                TIME_TO_FIRST_TOKEN.write(name, [backend, model]);
            }
            Self::RequestDuration { backend, model } => {
                REQUEST_DURATION.write(name, [backend, model]);
            }
        }
    }
}

/// The backends that a cooldown matters for, and their models: those of pools.
fn pairs(config: &Config) -> impl Iterator<Item = (&str, &str)> {
    let models = config.models.values().filter(|model| model.is_pooled());
    models.flat_map(|model| {
        let backends = model.placements.iter().map(|placement| placement.backend.name.as_str());
        backends.map(|backend| (backend, model.name.as_str()))
    })
}

impl TokenKind {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
        }
    }
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
        }
    }
}

impl AttemptResult {
    fn name(self) -> &'static str {
        match self {
            Self::Responded => "responded",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
            Self::Misconfigured => "misconfigured",
        }
    }
}

impl FetchResult {
    fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::diagnosis::BACKENDS;

    fn name(write: impl FnOnce(&mut String)) -> String {
        let mut name = String::new();
        write(&mut name);
        name
    }

    #[test]
    fn names_are_what_dashboards_are_built_on() {
        let backend = "eastus";
        let identity = "default";
        let labels = Labels { subscription: "team", model: "gpt-4.1" };
        let rows = [
            (
                Counter::Forwarded { backend, labels },
                "aoai_requests_total.outcome.forwarded.backend.eastus.subscription.team.model.gpt-4.1",
            ),
            (
                Counter::Abandoned { backend: None, labels },
                "aoai_requests_total.outcome.abandoned.backend.none.subscription.team.model.gpt-4.1",
            ),
            (
                Counter::Replied { reason: Reason::MissingKey, labels: Labels::NONE },
                "aoai_requests_total.outcome.missing_key.backend.none.subscription.none.model.none",
            ),
            (
                Counter::Tokens {
                    labels,
                    backend,
                    kind: TokenKind::CachedInput,
                    source: Source::Reported,
                },
                "aoai_tokens_total.backend.eastus.type.cached_input.source.reported.subscription.team\
                 .model.gpt-4.1",
            ),
            (
                Counter::TokenFetch { identity, result: FetchResult::Refused },
                "aoai_entra_token_fetches_total.identity.default.result.refused",
            ),
            (
                Counter::Attempt {
                    backend,
                    model: "gpt-4.1",
                    result: AttemptResult::Throttled,
                    status: Some(429),
                },
                "aoai_attempts_total.backend.eastus.result.throttled.status.429.model.gpt-4.1",
            ),
            (
                Counter::Attempt {
                    backend,
                    model: "gpt-4.1",
                    result: AttemptResult::Failed,
                    status: None,
                },
                "aoai_attempts_total.backend.eastus.result.failed.status.none.model.gpt-4.1",
            ),
            (
                Counter::Diagnosis { backend, diagnosis: &BACKENDS[0] },
                "aoai_diagnoses_total.backend.eastus.diagnosis.regional_endpoint",
            ),
            (
                Counter::ModelsListed { labels },
                "aoai_requests_total.outcome.models_listed.backend.none.subscription.team.model.gpt-4.1",
            ),
            (Counter::Retries, "aoai_retries_total"),
            (
                Counter::Cooldowns { backend, model: Some("gpt-4.1") },
                "aoai_cooldowns_total.backend.eastus.model.gpt-4.1",
            ),
            (
                Counter::Cooldowns { backend, model: None },
                "aoai_cooldowns_total.backend.eastus.model.*",
            ),
        ];
        for (counter, expected) in rows {
            assert_eq!(name(|name| counter.write_name(name)), expected);
        }
        for (gauge, expected) in [
            (
                Gauge::InCooldown { backend, model: Some("gpt-4.1") },
                "aoai_in_cooldown.backend.eastus.model.gpt-4.1",
            ),
            (
                Gauge::Misconfigured { backend, diagnosis: "token_rejected", model: None },
                "aoai_misconfigured.backend.eastus.diagnosis.token_rejected.model.*",
            ),
            (
                Gauge::DocumentTaken { version: "0123456789ab" },
                "aoai_document_taken_timestamp_seconds.version.0123456789ab",
            ),
            (
                Gauge::TokenRemaining { identity },
                "aoai_entra_token_remaining_seconds.identity.default",
            ),
        ] {
            assert_eq!(name(|name| gauge.write_name(name)), expected);
        }
    }
}
