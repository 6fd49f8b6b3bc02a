//! What each attempt at a pool's backends sends.
//!
//! Envoy chooses the backend of each attempt, and all attempts of a request share one header map. So every
//! attempt is made from the request as it came, and never from what the attempt before it wrote.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::RoutingError;
use crate::base::codec::{Reader, Writer};
use crate::config::{Backend, Model};
use crate::request::body::edit::{BodyEdit, ModelInBody};
use crate::request::path::WrittenPath;

/// A request to a pool, from which every attempt is made.
#[derive(Debug, Clone)]
pub struct AttemptPlan {
    /// The model.
    pub model: Arc<Model>,
    /// Its backends in the order in which they are tried.
    pub order: Vec<Arc<Backend>>,
    /// Path and query, without keys.
    pub path: WrittenPath,
    /// Where the body names the model, if it does.
    pub body: Option<ModelInBody>,
    /// The declared length of the body.
    pub content_length: Option<u64>,
}

/// What an attempt at a backend sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<'p> {
    /// Its `:authority`.
    pub authority: Cow<'p, str>,
    /// Its path and query.
    pub path: Cow<'p, [u8]>,
    /// Its `content-length`, where the request has one and it may change.
    pub content_length: Option<u64>,
    /// What is to be changed in its body.
    pub body: Option<BodyEdit>,
}

impl AttemptPlan {
    /// The attempt at a backend, in terms of the request as it came to the gateway.
    ///
    /// # Errors
    /// [`RoutingError::UnknownBackend`].
    pub fn attempt(&self, backend: &str) -> Result<Attempt<'_>, RoutingError> {
        let placement = self.model.on(backend).ok_or(RoutingError::UnknownBackend)?;
        let deployment = placement.deployment.as_str();
        let body = self.body.as_ref().map(|model| model.edit(deployment));
        Ok(Attempt {
            authority: Cow::Borrowed(placement.backend.endpoint.authority()),
            path: self.path.with_deployment(deployment),
            content_length: match (&body, self.content_length) {
                (Some(edit), Some(length)) => Some(edit.length_of(length)),
                _ => None,
            },
            body,
        })
    }

    /// The plan as it leaves the gateway stage, where the body names the deployment of the first backend.
    pub fn forwarded(mut self) -> Self {
        let first = self.order.first().and_then(|backend| self.model.on(&backend.name));
        if let (Some(placement), Some(model)) = (first, &mut self.body) {
            let edit = model.edit(&placement.deployment);
            self.content_length = self.content_length.map(|length| edit.length_of(length));
            model.at.end = model.at.start + edit.with.len();
        }
        self
    }
}

/// A plan with every attempt written out, for a backend stage that does not share this one's memory: for
/// a moment, while a module is replaced, the two stages are of two modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedPlan {
    /// The model's name.
    pub model: String,
    /// For how long after the request's last byte another attempt may start.
    pub retry_within: Duration,
    /// The attempts in their order.
    pub attempts: Vec<DetachedAttempt>,
}

/// An attempt of such a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedAttempt {
    /// The backend's name.
    pub backend: String,
    /// Where the workers share the token for it.
    pub token_key: String,
    /// What it sends.
    pub attempt: Attempt<'static>,
}

/// Changes with the format.
const VERSION: u64 = 1;

impl DetachedPlan {
    /// Writes out a plan; `token_key` returns where the token for a backend is shared.
    ///
    /// # Errors
    /// [`RoutingError::UnknownBackend`].
    pub fn of(
        plan: &AttemptPlan,
        retry_within: Duration,
        token_key: impl Fn(&Backend) -> String,
    ) -> Result<Self, RoutingError> {
        let attempt = |backend: &Arc<Backend>| {
            let Attempt { authority, path, content_length, body } = plan.attempt(&backend.name)?;
            let (authority, path) =
                (Cow::Owned(authority.into_owned()), Cow::Owned(path.into_owned()));
            Ok(DetachedAttempt {
                backend: backend.name.clone(),
                token_key: token_key(backend),
                attempt: Attempt { authority, path, content_length, body },
            })
        };
        Ok(Self {
            model: plan.model.name.clone(),
            retry_within,
            attempts: plan.order.iter().map(attempt).collect::<Result<_, _>>()?,
        })
    }

    /// The attempt at a backend and its number, from 1.
    pub fn attempt(&self, backend: &str) -> Option<(usize, &DetachedAttempt)> {
        let position = self.attempts.iter().position(|one| one.backend == backend)?;
        Some((position + 1, self.attempts.get(position)?))
    }

    /// The plan as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let retry_within = u64::try_from(self.retry_within.as_millis()).unwrap_or(u64::MAX);
        writer.number(VERSION).text(&self.model).number(retry_within);
        writer.number(self.attempts.len() as u64);
        for DetachedAttempt { backend, token_key, attempt } in &self.attempts {
            let Attempt { authority, path, content_length, body } = attempt;
            writer.text(backend).text(token_key).text(authority).bytes(path);
            writer.optional(*content_length);
            let (at, with) = match body {
                Some(BodyEdit { at, with }) => (at.clone(), with.as_slice()),
                None => (0..0, [].as_slice()),
            };
            writer.number(at.start as u64).number(at.end as u64).bytes(with);
        }
        writer.finish()
    }

    /// Reads such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.number()? != VERSION {
            return None;
        }
        let model = reader.text()?.to_owned();
        let retry_within = Duration::from_millis(reader.number()?);
        let count = reader.number()?;
        let attempts = (0..count).map(|_| read_attempt(&mut reader)).collect::<Option<_>>()?;
        reader.is_empty().then_some(Self { model, retry_within, attempts })
    }
}

fn read_attempt(reader: &mut Reader<'_>) -> Option<DetachedAttempt> {
    let backend = reader.text()?.to_owned();
    let token_key = reader.text()?.to_owned();
    let authority = Cow::Owned(reader.text()?.to_owned());
    let path = Cow::Owned(reader.bytes()?.to_vec());
    let content_length = reader.optional()?;
    let (start, end) = (reader.number()?, reader.number()?);
    let at = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
    let with = reader.bytes()?.to_vec();
    // Every name of a deployment has at least one character.
    let body = (!with.is_empty()).then_some(BodyEdit { at, with });
    let attempt = Attempt { authority, path, content_length, body };
    Some(DetachedAttempt { backend, token_key, attempt })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::request::body::edit::NameSyntax;
    use crate::request::path::{ModelInUrl, Target};

    fn config() -> Config {
        let document = format!(
            r#"{{
            "identity": {{"managed_identity": {{"cluster": "imds"}}}},
            "subscriptions": [{{"id": "a", "keys": ["{}"], "models": ["*"]}}],
            "backends": [
                {{"name": "eastus", "endpoint": "https://contoso-eastus.openai.azure.com"}},
                {{"name": "sweden", "endpoint": "https://contoso-sweden.openai.azure.com"}},
                {{"name": "other", "endpoint": "https://contoso-other.openai.azure.com"}}
            ],
            "models": [
                {{"name": "m", "backends": [{{"backend": "eastus", "deployment": "m-1"}}, {{"backend": "sweden"}}]}},
                {{"name": "n", "backends": [{{"backend": "other"}}]}}
            ]}}"#,
            crate::base::digest::Digest::of(b"key")
        );
        Config::from_json(document.as_bytes()).unwrap()
    }

    fn plan(url: Option<ModelInUrl>, body: Option<ModelInBody>, path: &str) -> AttemptPlan {
        let model = Arc::clone(&config().models["m"]);
        AttemptPlan {
            order: model.placements.iter().map(|one| Arc::clone(&one.backend)).collect(),
            model,
            path: Target::parse(path.as_bytes()).unwrap().write(url),
            content_length: body.as_ref().map(|_| 100),
            body,
        }
    }

    #[test]
    fn an_attempt_is_written_for_its_backend() {
        const URL: &str = "/openai/deployments/m/chat/completions?api-version=1";
        let at = |at, syntax| Some(ModelInBody { at, syntax });
        let segment = Some(ModelInUrl::Segment(2));
        let rows = [
            (
                "in the path",
                plan(segment, None, URL),
                "eastus",
                ("/openai/deployments/m-1/chat/completions?api-version=1", None, None),
            ),
            ("in the path, the same name", plan(segment, None, URL), "sweden", (URL, None, None)),
            (
                "in the query",
                plan(Some(ModelInUrl::Parameter), None, "/openai/v1/realtime?model=m&x=1"),
                "eastus",
                ("/openai/v1/realtime?model=m-1&x=1", None, None),
            ),
            (
                "in JSON",
                plan(None, at(9..12, NameSyntax::Quoted), "/openai/v1/embeddings"),
                "eastus",
                ("/openai/v1/embeddings", Some(102), Some("\"m-1\"")),
            ),
            (
                "in a form",
                plan(None, at(9..10, NameSyntax::Plain), "/openai/v1/audio/speech"),
                "eastus",
                ("/openai/v1/audio/speech", Some(102), Some("m-1")),
            ),
        ];
        for (name, plan, backend, (path, content_length, with)) in rows {
            let attempt = plan.attempt(backend).unwrap();
            assert_eq!(attempt.authority, format!("contoso-{backend}.openai.azure.com"), "{name}");
            assert_eq!(attempt.path, path.as_bytes(), "{name}");
            assert_eq!(attempt.content_length, content_length, "{name}");
            assert_eq!(
                attempt.body.map(|edit| edit.with).as_deref(),
                with.map(str::as_bytes),
                "{name}"
            );
        }
        assert_eq!(
            plan(None, None, "/").attempt("other").err(),
            Some(RoutingError::UnknownBackend)
        );
        assert_eq!(
            plan(None, None, "/").attempt("spare").err(),
            Some(RoutingError::UnknownBackend)
        );
    }

    #[test]
    fn a_later_attempt_edits_the_body_as_the_gateway_stage_forwarded_it() {
        let body = ModelInBody { at: 9..12, syntax: NameSyntax::Quoted };
        let forwarded = plan(None, Some(body), "/").forwarded();
        let attempt = forwarded.attempt("sweden").unwrap();
        assert_eq!(attempt.body, Some(BodyEdit { at: 9..14, with: b"\"m\"".to_vec() }));
        assert_eq!(attempt.content_length, Some(100));
        assert_eq!(forwarded.attempt("eastus").unwrap().content_length, Some(102));
    }

    #[test]
    fn a_detached_plan_survives_the_way_between_two_modules() {
        let body = ModelInBody { at: 9..12, syntax: NameSyntax::Quoted };
        for plan in [
            plan(Some(ModelInUrl::Segment(0)), None, "/m?x"),
            plan(None, Some(body), "/openai/v1/embeddings"),
        ] {
            let key = |backend: &Backend| format!("token of {}", backend.name);
            let detached = DetachedPlan::of(&plan, Duration::from_secs(7), key).unwrap();
            assert_eq!(DetachedPlan::from_bytes(&detached.to_bytes()), Some(detached.clone()));
            let (number, attempt) = detached.attempt("sweden").unwrap();
            assert_eq!((number, attempt.token_key.as_str()), (2, "token of sweden"));
            assert_eq!(attempt.attempt, plan.attempt("sweden").unwrap());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_detached_plan_panic(bytes in any::<Vec<u8>>()) {
            let _ = DetachedPlan::from_bytes(&bytes);
        }
    }
}
