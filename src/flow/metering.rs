//! What a request uses: read from its response as that passes, or estimated where it does not tell.
//!
//! | response | tokens |
//! | --- | --- |
//! | tells its usage | as told |
//! | of texts, and does not tell (it broke, the caller left, or Azure does not say) | the request's bytes and the response's events or bytes, estimated |
//! | none, and the caller left when the request was complete | the request's bytes, estimated |
//! | an error, or none because the backend failed | none |
//!
//! Attempts that failed use nothing: only the response that the caller gets counts.

use std::time::{Duration, SystemTime};

use super::caller::{Caller, Series};
use super::host::Host;
use super::limit_service::SharedLimits;
use super::limits::Reservation;
use super::measure::{Counter, Histogram, LogField, Source, TokenKind};
use super::step::Changes;
use crate::base::estimate;
use crate::config::LimitStore;
use crate::reply::{Reason, Reply};
use crate::request::operation::TokenUse;
use crate::response::usage::{DocumentReader, EventReader, FrameReader, Usage};

/// The meter of one request, from its head to its end.
#[derive(Debug, Default)]
pub struct Meter {
    /// Whose request it is.
    pub caller: Caller,
    /// The reason of its local reply.
    pub reason: Option<Reason>,
    /// The mistake that its response shows.
    pub diagnosis: Option<String>,
    /// The backend that has responded, or was asked last.
    pub backend: Option<String>,
    /// How many backends of a pool were asked.
    pub attempts: Option<usize>,
    began: Option<SystemTime>,
    tokens: TokenUse,
    /// The name of the operation, once its caller may use it.
    pub operation: Option<&'static str>,
    admission: Admission,
    is_forwarded: bool,
    /// How many bytes of the request's body have gone on.
    sent: u64,
    /// Whether that is all of it.
    is_sent: bool,
    response: Response,
}

/// By which limits a request was admitted.
#[derive(Debug, Default)]
enum Admission {
    /// By none.
    #[default]
    Unlimited,
    /// By those of this process.
    Local(Reservation),
    /// By those of all proxies, if it is.
    Shared(SharedLimits),
}

/// What is known of a response's usage.
#[derive(Debug, Default)]
enum Response {
    /// There is none.
    #[default]
    None,
    /// It uses nothing, or it is an error.
    Free,
    /// Nothing of its body has come.
    Begun {
        takes_out: bool,
    },
    Document {
        reader: Box<DocumentReader>,
        received: u64,
    },
    Events {
        reader: Box<EventReader>,
        has_output: bool,
    },
    Frames(Box<FrameReader>),
}

impl Meter {
    /// The request's head has come at this time, and its operation uses such tokens.
    pub fn begin(&mut self, tokens: TokenUse, now: SystemTime) {
        (self.tokens, self.began) = (tokens, Some(now));
    }

    /// Admits the request, whose body has about so many bytes, by its subscription's limits.
    ///
    /// # Errors
    /// The reply where there is no room for it.
    pub fn admit(
        &mut self,
        host: &dyn Host,
        store: &LimitStore,
        body: u64,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<(), Reply> {
        let Caller { subscription: Some(subscription), model } = &self.caller else {
            return Ok(());
        };
        let model = model.as_ref().map(|model| model.name.as_str());
        let tokens = match self.tokens {
            TokenUse::None => None,
            TokenUse::Texts | TokenUse::TextsIfAsked | TokenUse::Input => {
                Some(estimate::tokens(body))
            }
            // Whose size says nothing.
            TokenUse::Media | TokenUse::Session => Some(0),
        };
        self.admission = match store {
            LimitStore::Local => Reservation::take(host, subscription, model, tokens, now)?
                .map_or(Admission::Unlimited, Admission::Local),
            LimitStore::Shared(_) => SharedLimits::ask(host, subscription, model, tokens.is_some())
                .map_or(Admission::Unlimited, Admission::Shared),
        };
        Ok(())
    }

    /// Tells the caller its limits, with the head of the response. Whether they were checked.
    ///
    /// # Errors
    /// The reply in its place, where it was not admitted.
    pub fn tell_limits(&self, host: &dyn Host, changes: &mut Changes) -> Result<bool, Reply> {
        match &self.admission {
            Admission::Unlimited => Ok(true),
            Admission::Local(reservation) => {
                for (name, value) in reservation.headers() {
                    changes.set(name, value);
                }
                Ok(true)
            }
            Admission::Shared(limits) => limits.take(host, changes),
        }
    }

    /// So much of the request's body goes on, which is all that was left where it has `ended`.
    pub fn send(&mut self, bytes: usize, ended: bool) {
        self.is_forwarded = true;
        self.sent = self.sent.saturating_add(bytes as u64);
        self.is_sent |= ended;
    }

    /// A response begins: of a backend that serves the request, or another one. `takes_out` is whether the
    /// caller is not to see that its stream tells its usage.
    pub fn respond(&mut self, is_served: bool, takes_out: bool) {
        self.response = match self.tokens {
            _ if !is_served => Response::Free,
            TokenUse::None => Response::Free,
            TokenUse::Session => Response::Frames(Box::default()),
            TokenUse::Texts | TokenUse::TextsIfAsked | TokenUse::Input | TokenUse::Media => {
                Response::Begun { takes_out }
            }
        };
    }

    /// Whether the response's body has to be read.
    pub fn reads(&self) -> bool {
        !matches!(self.response, Response::None | Response::Free)
    }

    /// Reads the next piece of the response. What goes on in its place, where that is not the piece as it is.
    pub fn read(
        &mut self,
        host: &dyn Host,
        now: impl FnOnce() -> SystemTime,
        piece: &[u8],
        ended: bool,
    ) -> Option<Vec<u8>> {
        if let Response::Begun { takes_out } = self.response {
            // Azure sends JSON or events. Neither begins as the other does, so that no header is needed.
            self.response = match piece.trim_ascii_start().first() {
                None => return None,
                Some(b'{') => Response::Document { reader: Box::default(), received: 0 },
                Some(_) => {
                    let reader = Box::new(EventReader::new(takes_out));
                    Response::Events { reader, has_output: false }
                }
            };
        }
        match &mut self.response {
            Response::Document { reader, received } => {
                reader.push(piece);
                *received = received.saturating_add(piece.len() as u64);
                None
            }
            Response::Events { reader, has_output } => {
                let changed = reader.push(piece, ended);
                if reader.outputs() > 0 && !std::mem::replace(has_output, true) {
                    self.record(host, now(), |backend, model| Histogram::TimeToFirstToken {
                        backend,
                        model,
                    });
                }
                changed
            }
            Response::Frames(reader) => {
                reader.push(piece);
                // A session may be long: it is charged as it goes.
                if let (Admission::Local(reservation), Some(usage)) =
                    (&mut self.admission, reader.usage())
                {
                    reservation.charge_more(host, usage.total());
                }
                None
            }
            Response::None | Response::Free | Response::Begun { .. } => None,
        }
    }

    /// The exchange is over, in whatever way: counts what it has used, and leaves what is known of it to access
    /// logs.
    pub fn settle(&mut self, host: &dyn Host, series: &Series, now: impl FnOnce() -> SystemTime) {
        let (usage, source) = self.used();
        match &mut self.admission {
            Admission::Local(reservation) if self.is_forwarded => {
                reservation.charge(host, usage.total());
            }
            Admission::Local(reservation) => reservation.give_back(host),
            Admission::Unlimited | Admission::Shared(_) => {}
        }
        if !matches!(self.response, Response::None) {
            self.record(host, now(), |backend, model| Histogram::RequestDuration {
                backend,
                model,
            });
        }
        let Caller { subscription, model } = &self.caller;
        for field in [
            subscription.as_ref().map(|one| LogField::Subscription(&one.id)),
            model.as_ref().map(|model| LogField::Model(&model.name)),
            self.operation.map(LogField::Operation),
            self.backend.as_deref().map(LogField::Backend),
            self.attempts.map(LogField::Attempts),
            self.reason.map(LogField::Reason),
            self.diagnosis.as_deref().map(LogField::Diagnosis),
        ] {
            field.into_iter().for_each(|field| host.note(field));
        }
        let Some(backend) = self.backend.as_deref().filter(|_| usage != Usage::default()) else {
            return;
        };
        let labels = series.labels(host, &self.caller);
        for (kind, count) in [
            (TokenKind::Input, usage.input),
            (TokenKind::CachedInput, usage.cached_input),
            (TokenKind::Output, usage.output),
            (TokenKind::Reasoning, usage.reasoning),
        ] {
            if count > 0 {
                host.add(Counter::Tokens { labels, backend, kind, source }, count);
            }
        }
        host.note(LogField::Tokens(usage.total()));
        host.note(LogField::InputTokens(usage.input));
        host.note(LogField::OutputTokens(usage.output));
    }

    /// What the exchange has used, and how that is known.
    pub fn used(&self) -> (Usage, Source) {
        let reported = match &self.response {
            Response::None | Response::Free | Response::Begun { .. } => None,
            Response::Document { reader, .. } => reader.usage(),
            Response::Events { reader, .. } => reader.usage(),
            Response::Frames(reader) => reader.usage(),
        };
        match reported {
            Some(usage) => (usage, Source::Reported),
            None => (self.estimate(), Source::Estimated),
        }
    }

    /// What the exchange is likely to have used.
    fn estimate(&self) -> Usage {
        let output = match &self.response {
            // Without a response, only a complete request may have cost anything.
            Response::None if !self.is_sent => return Usage::default(),
            Response::Free => return Usage::default(),
            Response::None | Response::Begun { .. } | Response::Frames(_) => 0,
            Response::Document { received, .. } => estimate::tokens(*received),
            // An event has a token or a few.
            Response::Events { reader, .. } => reader.outputs(),
        };
        let (input, output) = match self.tokens {
            TokenUse::Texts | TokenUse::TextsIfAsked => (estimate::tokens(self.sent), output),
            TokenUse::Input => (estimate::tokens(self.sent), 0),
            TokenUse::None | TokenUse::Media | TokenUse::Session => (0, 0),
        };
        Usage { input, output, ..Usage::default() }
    }

    /// Records the time since the request came, where it is for a model.
    fn record<'a>(
        &'a self,
        host: &dyn Host,
        now: SystemTime,
        histogram: impl FnOnce(&'a str, &'a str) -> Histogram<'a>,
    ) {
        let (Some(model), Some(backend), Some(began)) =
            (&self.caller.model, &self.backend, self.began)
        else {
            return;
        };
        let millis = since(began, now).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        host.record(histogram(backend, &model.name), millis);
    }
}

/// A clock that was set back shows no time.
fn since(began: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(began).unwrap_or_default()
}
