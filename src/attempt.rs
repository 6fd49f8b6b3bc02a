//! The backend stage: what one attempt at one backend needs, and what its answer means.
//!
//! Envoy chooses the backend of each attempt, and all attempts of a request share its head. So the
//! gateway stage leaves a [`Recipe`] beside the request, in terms of the model, and every attempt is
//! made from that and never from what the attempt before it wrote.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::answer::{Answer, Reason};
use crate::config::{Config, Failover};
use crate::gateway::Splice;
use crate::health::Outcome;
use crate::hint;
use crate::target::{write_renamed, Rename, Target};

/// Changes with the format of the bytes.
const VERSION: &str = "2";

/// A request in terms of its model, from which every attempt is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The model's name.
    pub model: String,
    /// How many backends its pool tries.
    pub tries: u64,
    /// The one backend that the token in the head is for, and an empty name for none of them. Nothing
    /// where the gateway stage knows one identity, whose token is for all.
    pub token_for: Option<Box<str>>,
    /// Which part of the path or query names the model, if one does.
    pub rename: Option<Rename>,
    /// Where the body names it, if it does.
    pub body: Option<BodyPlace>,
    /// Path and query, without keys.
    pub path: Vec<u8>,
}

/// Where a body names its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyPlace {
    /// Which bytes, counted from the body's first.
    pub at: Range<usize>,
    /// Whether the name stands in quotes, as in JSON.
    pub quoted: bool,
    /// The length that the body says it has.
    pub content_length: Option<u64>,
}

/// What an attempt at a backend sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// With what it is signed in: the position in [`Config::credentials`].
    pub credential: usize,
    /// Its `:authority`.
    pub authority: String,
    /// Its path and query.
    pub path: Vec<u8>,
    /// Its `content-length`, where the request has one.
    pub content_length: Option<u64>,
    /// What is to be changed in its body.
    pub splice: Option<Splice>,
}

impl Recipe {
    /// The attempt at this backend, `number` counted from 1; `waited` is for how long backends have had
    /// the whole request by now.
    ///
    /// # Errors
    /// The model is not on this backend, or it is too late for another attempt than the first.
    pub fn attempt(
        &self,
        config: &Config,
        backend: &str,
        number: u64,
        waited: Duration,
    ) -> Result<Attempt, Answer> {
        let placement = config.models.get(&self.model).and_then(|model| model.on(backend));
        let placement = placement.ok_or_else(|| Reason::UnknownBackend.because(NOT_HERE))?;
        // Envoy goes on by itself when there was no answer, from the pool's end to its beginning too.
        if number > 1 && !self.may_move_on(number - 1, &config.failover, waited) {
            return Err(Reason::BackendFailed.because(NO_OTHER));
        }
        let deployment = placement.deployment.as_str();
        let splice = self.body.as_ref().map(|place| Splice {
            at: place.at.clone(),
            with: if place.quoted { format!("\"{deployment}\"") } else { deployment.to_owned() },
        });
        let length = self.body.as_ref().and_then(|place| place.content_length);
        let content_length = match (&splice, length) {
            (Some(splice), Some(length)) => Some(splice.length_of(length)),
            _ => None,
        };
        let target = Target::parse(&self.path)?;
        let rename = self.rename.map(|rename| (rename, deployment));
        Ok(Attempt {
            credential: placement.backend.credential,
            authority: placement.backend.endpoint.authority().to_owned(),
            path: write_renamed(&target, rename),
            content_length,
            splice,
        })
    }

    /// Whether the attempt at this backend is signed in with the backend's own identity, instead of with
    /// what the gateway stage has put there. That stage may have another configuration than the backend
    /// stage: clusters and listeners are replaced one after the other, and listeners share pools.
    pub fn signs_in_anew(&self, config: &Config, backend: &str) -> bool {
        config.credentials.len() > 1 || self.token_for.as_deref().is_some_and(|one| one != backend)
    }

    /// Whether another backend may be tried after this attempt, counted from 1: there is one, and it is
    /// not too late, from the request's last byte on. The caller has a limit of its own, and what hung
    /// for a minute may be a request that is answered by then.
    pub fn may_move_on(&self, number: u64, policy: &Failover, waited: Duration) -> bool {
        number < self.tries && waited <= policy.retry_within
    }

    /// The recipe as bytes, a line for each field.
    pub fn to_bytes(&self) -> Vec<u8> {
        let rename = match self.rename {
            None => "none".to_owned(),
            Some(Rename::Parameter) => "parameter".to_owned(),
            Some(Rename::Segment(at)) => at.to_string(),
        };
        let body = match &self.body {
            None => "none".to_owned(),
            Some(BodyPlace { at, quoted, content_length }) => {
                let length = content_length.map_or("none".to_owned(), |length| length.to_string());
                format!("{} {} {} {length}", at.start, at.end, u8::from(*quoted))
            }
        };
        let token_for = match &self.token_for {
            None => "all".to_owned(),
            Some(name) => format!("one {name}"),
        };
        let Self { model, tries, .. } = self;
        let mut bytes =
            format!("{VERSION}\n{model}\n{tries}\n{token_for}\n{rename}\n{body}\n").into_bytes();
        bytes.extend_from_slice(&self.path);
        bytes
    }

    /// Reads such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.splitn(7, |&byte| byte == b'\n');
        let mut text = || lines.next().and_then(|line| std::str::from_utf8(line).ok());
        if text()? != VERSION {
            return None;
        }
        let model = text()?.to_owned();
        let tries = text()?.parse().ok()?;
        let token_for = match text()? {
            "all" => None,
            name => Some(name.strip_prefix("one ")?.into()),
        };
        let rename = match text()? {
            "none" => None,
            "parameter" => Some(Rename::Parameter),
            at => Some(Rename::Segment(at.parse().ok()?)),
        };
        let body = match text()? {
            "none" => None,
            place => Some(read_place(place)?),
        };
        let path = lines.next()?.to_vec();
        Some(Self { model, tries, token_for, rename, body, path })
    }
}

fn read_place(line: &str) -> Option<BodyPlace> {
    let mut fields = line.split(' ');
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let quoted = fields.next()? == "1";
    let content_length = match fields.next()? {
        "none" => None,
        length => Some(length.parse().ok()?),
    };
    Some(BodyPlace { at: start..end, quoted, content_length })
}

/// Changes a part of a body that passes by in pieces.
#[derive(Debug)]
pub struct Splicer {
    splice: Splice,
    /// How many bytes have gone on.
    passed: usize,
}

/// What becomes of the piece of a body that is held now.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// It goes on as it is.
    AsIs,
    /// It waits for more.
    Wait,
    /// These of its bytes, counted from its own first, are replaced, and then all goes on.
    Spliced(Splice),
}

impl Splicer {
    /// For a body of which nothing has passed.
    pub fn new(splice: Splice) -> Self {
        Self { splice, passed: 0 }
    }

    /// Looks at the piece that is held, of so many bytes.
    pub fn pass(&mut self, held: usize) -> Pass {
        let Range { start, end } = self.splice.at;
        let until = self.passed + held;
        if until <= start || self.passed >= end {
            self.passed = until;
            return Pass::AsIs;
        }
        if until < end {
            return Pass::Wait;
        }
        let at = start.saturating_sub(self.passed)..end - self.passed;
        self.passed = until;
        Pass::Spliced(Splice { at, with: self.splice.with.clone() })
    }
}

/// What an answer's head says about the backend.
pub fn outcome<'h>(
    status: u16,
    headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    now: SystemTime,
) -> Outcome {
    match status {
        429 => Outcome::Throttled(hint::read(headers, now)),
        500.. => Outcome::Failed,
        // A client's mistakes, a content filter's refusals and missing rights will be the same
        // elsewhere or the caller's own affair.
        _ => Outcome::Answered,
    }
}

const NOT_HERE: &str = "This gateway's pool has an endpoint that says it is no backend of this model. Each \
    endpoint needs the metadata {aoai: {backend: NAME}}, and Envoy's clusters must fit the configuration.";

const NO_OTHER: &str =
    "The backend failed without an answer, and there is no other one to try in time. Try \
    again.";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn config() -> Config {
        let document = format!(
            r#"{{
            "identity": {{"managed_identity": {{"cluster": "imds"}}}},
            "failover": {{"retry_within": "10s"}},
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
            crate::digest::Digest::of(b"key")
        );
        Config::from_json(document.as_bytes()).unwrap()
    }

    fn recipe(rename: Option<Rename>, body: Option<BodyPlace>, path: &str) -> Recipe {
        let (model, path) = ("m".to_owned(), path.as_bytes().to_vec());
        Recipe { model, tries: 2, token_for: None, rename, body, path }
    }

    #[test]
    fn an_attempt_is_written_for_its_backend() {
        let url = "/openai/deployments/m/chat/completions?api-version=1";
        let place = |quoted| {
            let at = if quoted { 9..12 } else { 9..10 };
            Some(BodyPlace { at, quoted, content_length: Some(100) })
        };
        let rows = [
            (
                "in the path",
                recipe(Some(Rename::Segment(2)), None, url),
                "eastus",
                ("/openai/deployments/m-1/chat/completions?api-version=1", None, None),
            ),
            (
                "in the path, the same name",
                recipe(Some(Rename::Segment(2)), None, url),
                "sweden",
                (url, None, None),
            ),
            (
                "in the query",
                recipe(Some(Rename::Parameter), None, "/openai/v1/realtime?model=m&x=1"),
                "eastus",
                ("/openai/v1/realtime?model=m-1&x=1", None, None),
            ),
            (
                "in JSON",
                recipe(None, place(true), "/openai/v1/embeddings"),
                "eastus",
                ("/openai/v1/embeddings", Some(102), Some("\"m-1\"")),
            ),
            (
                "in a form",
                recipe(None, place(false), "/openai/v1/audio/speech"),
                "eastus",
                ("/openai/v1/audio/speech", Some(102), Some("m-1")),
            ),
        ];
        for (name, recipe, backend, (path, content_length, with)) in rows {
            let attempt = recipe.attempt(&config(), backend, 1, Duration::ZERO).unwrap();
            assert_eq!(attempt.authority, format!("contoso-{backend}.openai.azure.com"), "{name}");
            assert_eq!(attempt.path, path.as_bytes(), "{name}");
            assert_eq!(attempt.content_length, content_length, "{name}");
            assert_eq!(attempt.splice.map(|splice| splice.with).as_deref(), with, "{name}");
            assert_eq!(Recipe::from_bytes(&recipe.to_bytes()), Some(recipe), "{name}");
        }
    }

    #[test]
    fn a_token_of_one_of_several_identities_is_for_one_backend_alone() {
        let rows =
            [(None, false), (Some(""), true), (Some("eastus"), false), (Some("sweden"), true)];
        for (token_for, expected) in rows {
            let token_for = token_for.map(Into::into);
            let recipe = Recipe { token_for, ..recipe(None, None, "/openai/v1/embeddings") };
            assert_eq!(recipe.signs_in_anew(&config(), "eastus"), expected, "{recipe:?}");
            assert_eq!(Recipe::from_bytes(&recipe.to_bytes()), Some(recipe));
        }
    }

    #[test]
    fn there_is_an_end_to_moving_on() {
        let recipe = recipe(None, None, "/openai/v1/embeddings");
        let reason = |backend, number, seconds| {
            let waited = Duration::from_secs(seconds);
            recipe.attempt(&config(), backend, number, waited).err().map(|answer| answer.reason)
        };
        let rows = [
            ("the first, however late", "eastus", 1, 60, None),
            ("the second, in time", "sweden", 2, 10, None),
            ("the second, late", "sweden", 2, 11, Some(Reason::BackendFailed)),
            ("past the pool's end", "eastus", 3, 0, Some(Reason::BackendFailed)),
            ("a backend of another model", "other", 1, 0, Some(Reason::UnknownBackend)),
            ("nobody's backend", "spare", 1, 0, Some(Reason::UnknownBackend)),
        ];
        for (name, backend, number, seconds, expected) in rows {
            assert_eq!(reason(backend, number, seconds), expected, "{name}");
        }
    }

    #[test]
    fn an_answer_says_how_the_backend_is() {
        let hint = [("retry-after", &b"7"[..])];
        let rows = [
            (200, Outcome::Answered),
            (400, Outcome::Answered),
            (401, Outcome::Answered),
            (403, Outcome::Answered),
            (404, Outcome::Answered),
            (429, Outcome::Throttled(Some(Duration::from_secs(7)))),
            (500, Outcome::Failed),
            (503, Outcome::Failed),
        ];
        for (status, expected) in rows {
            assert_eq!(outcome(status, hint.into_iter(), now()), expected, "{status}");
        }
    }

    /// Sends a body through a splicer in pieces of a size, as Envoy's buffer would.
    fn spliced(body: &[u8], splice: &Splice, size: usize) -> Vec<u8> {
        let mut splicer = Splicer::new(splice.clone());
        let (mut sent, mut held) = (Vec::new(), Vec::new());
        for piece in body.chunks(size) {
            held.extend_from_slice(piece);
            match splicer.pass(held.len()) {
                Pass::Wait => continue,
                Pass::AsIs => {}
                Pass::Spliced(Splice { at, with }) => {
                    held.splice(at, with.into_bytes());
                }
            }
            sent.append(&mut held);
        }
        sent
    }

    proptest! {
        #[test]
        fn a_body_is_changed_at_its_place_however_it_is_cut(
            body in prop::collection::vec(any::<u8>(), 1..60),
            ends in (0_usize..60, 0_usize..60),
            size in 1_usize..70,
        ) {
            let (start, end) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let at = start.min(body.len() - 1)..(end + 1).min(body.len()).max(start.min(body.len() - 1) + 1);
            let splice = Splice { at: at.clone(), with: "name".to_owned() };
            let mut expected = body.clone();
            expected.splice(at, *b"name");
            prop_assert_eq!(spliced(&body, &splice, size), expected);
        }

        #[test]
        fn no_bytes_make_a_recipe_panic(bytes in any::<Vec<u8>>()) {
            let _ = Recipe::from_bytes(&bytes);
        }
    }
}
