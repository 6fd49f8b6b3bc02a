//! Which operation of the data plane a request is, and where it names its model.
//!
//! The paths are those of Microsoft's data-plane reference, dated (`/openai/deployments/{name}/…`,
//! `/openai/…`) and v1 (`/openai/v1/…`), and those that a Foundry resource serves besides: of azure-ai-inference
//! (`/models/…`) and of Claude (`/anthropic/v1/…`). What is not in the tables below is still passed on where it is
//! below `/openai` or `/anthropic`, but as [`Class::Resources`]: a path that is not known yet has to be granted
//! explicitly.

use std::borrow::Cow;

use super::path::{Parameter, Query};

/// What an operation may touch, which is what a subscription is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Leaves nothing behind that another caller could read.
    Inference,
    /// Reads or changes what callers have stored on the Azure resource, or is not known yet.
    Resources,
}

/// Where a request names its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSource {
    /// In this segment of the path.
    Segment(usize),
    /// In the query, as realtime does: `model=` (v1) or `deployment=` (dated).
    Query,
    /// In the body's `model`.
    Body,
    /// In the body's `model`, if it has one: a run of a thread may override its assistant's. The request
    /// concerns what is stored on the resource, so the model must be there.
    BodyIfAny,
    /// Nowhere: it concerns the resource as a whole.
    Nowhere,
}

/// A request for what there is to know of models. The configuration answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    /// In which form.
    pub form: ModelForm,
    /// The segment of the path with the one model that is asked for; `None` for all.
    pub model: Option<usize>,
}

/// How the data plane describes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelForm {
    /// As OpenAI does, in v1.
    V1,
    /// Azure's own, in dated versions.
    Dated,
}

/// What tokens an operation uses, and how far they can be estimated where its response does not tell.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// None, or not at the time of the request.
    #[default]
    None,
    /// Of texts: of the request, and of the response.
    Texts,
    /// The same, and a streamed response tells them only where `stream_options` ask for it.
    TextsIfAsked,
    /// Of the request's text alone.
    Input,
    /// Of sound and images, if any at all.
    Media,
    /// Of the responses within a session (realtime).
    Session,
}

/// An operation of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What it may touch.
    pub class: Class,
    /// Where its model stands.
    pub model: ModelSource,
    /// Whether it makes or needs something that only one Azure resource has.
    pub is_stateful: bool,
    /// Whether its body can have `data_sources` (On Your Data): what the resource's own identity reads.
    pub takes_data_sources: bool,
    /// What it asks for, where it asks for models.
    pub listing: Option<Listing>,
    /// What tokens it uses.
    pub tokens: TokenUse,
    /// What it is called, by the end of its path: one of a few names, whatever the caller sends.
    pub name: &'static str,
}

/// The name of an operation that has none of its own.
const OTHER: &str = "other";

/// The segment that holds the deployment in `/openai/deployments/{name}/…`.
const DEPLOYMENT: usize = 2;

/// The query parameter by which a second connection joins a realtime session that exists.
const CALL: &str = "call_id";

/// The first dated API version that knows `stream_options`; older ones refuse it with a 400.
const STREAM_OPTIONS_SINCE: &str = "2024-08-01";

impl Operation {
    /// Finds the operation of a method, a decoded path and a query; `None` outside the data plane.
    ///
    /// Fixed segments are compared in lower case: Azure's front does not care, so the scope must not.
    pub fn find(method: &str, segments: &[Cow<'_, str>], query: Query<'_>) -> Option<Self> {
        let is_lower = |segment: &str| !segment.bytes().any(|byte| byte.is_ascii_uppercase());
        if !segments.iter().all(|segment| is_lower(segment)) {
            let lower: Vec<Cow<'_, str>> =
                segments.iter().map(|segment| segment.to_ascii_lowercase().into()).collect();
            return Self::find(method, &lower, query);
        }
        let path: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
        match path.as_slice() {
            ["openai", "deployments", _, operation @ ..] => {
                let is_inference = method == "POST" && is_stateless(operation);
                let class = if is_inference { Class::Inference } else { Class::Resources };
                let tokens = match is_inference {
                    true => tokens(operation, knows_stream_options(query)),
                    false => TokenUse::None,
                };
                Some(Self {
                    class,
                    model: ModelSource::Segment(DEPLOYMENT),
                    is_stateful: !is_inference,
                    takes_data_sources: is_inference && is_chat(operation),
                    listing: None,
                    tokens,
                    name: name(operation),
                })
            }
            ["openai", beside @ ..] => {
                let (operation, knows_stream_options) = match beside {
                    ["v1", operation @ ..] => (operation, true),
                    operation => (operation, knows_stream_options(query)),
                };
                let listing = Listing::find(method, &path);
                let found =
                    Self::beside_deployments(method, operation, query, knows_stream_options);
                Some(Self { listing, ..found })
            }
            ["models", operation @ ..] => Self::of_models(method, operation),
            ["anthropic", operation @ ..] => Some(Self::of_claude(method, operation)),
            _ => None,
        }
    }

    /// Of azure-ai-inference. Alone, `/models` is a mistake in a base URL of OpenAI's clients.
    fn of_models(method: &str, operation: &[&str]) -> Option<Self> {
        let tokens = match (method, operation) {
            // Whether a stream tells its usage is up to the caller: other extra parameters than it sends could
            // be refused.
            ("POST", ["chat", "completions"]) => TokenUse::Texts,
            ("POST", ["embeddings"]) => TokenUse::Input,
            ("POST", ["images", "embeddings"]) => TokenUse::Media,
            ("GET", ["info"]) => return Some(Self::of_resource()),
            _ => return None,
        };
        let takes_data_sources = is_chat(operation);
        Some(Self { takes_data_sources, ..Self::inference(name(operation), tokens) })
    }

    /// Of Claude, by the Messages API.
    fn of_claude(method: &str, operation: &[&str]) -> Self {
        match (method, operation) {
            ("POST", ["v1", "messages"]) => Self::inference("messages", TokenUse::Texts),
            ("POST", ["v1", "messages", "count_tokens"]) => {
                Self::inference("messages/count_tokens", TokenUse::None)
            }
            _ => Self::of_resource(),
        }
    }

    /// Inference with the model in its body, which leaves nothing behind.
    fn inference(name: &'static str, tokens: TokenUse) -> Self {
        Self {
            class: Class::Inference,
            model: ModelSource::Body,
            is_stateful: false,
            takes_data_sources: false,
            listing: None,
            tokens,
            name,
        }
    }

    /// What concerns the resource as a whole, or is not known yet.
    fn of_resource() -> Self {
        Self {
            class: Class::Resources,
            model: ModelSource::Nowhere,
            is_stateful: true,
            ..Self::inference(OTHER, TokenUse::None)
        }
    }

    fn beside_deployments(
        method: &str,
        operation: &[&str],
        query: Query<'_>,
        knows_stream_options: bool,
    ) -> Self {
        use Class::{Inference, Resources};
        use ModelSource::{Body, BodyIfAny, Nowhere};
        let (class, model) = match (method, operation) {
            ("POST", operation) if is_of_responses(operation) || is_stateless(operation) => {
                (Inference, Body)
            }
            ("GET", ["realtime"]) => realtime(query),
            ("GET" | "HEAD", ["models"] | ["models", _]) => (Inference, Nowhere),
            ("POST", operation) if may_name_model(operation) => (Resources, BodyIfAny),
            _ => (Resources, Nowhere),
        };
        // A response is stored unless the request contains `store: false`, and the next one may refer to it.
        let is_stateful = class == Resources || is_of_responses(operation);
        let takes_data_sources = class == Inference && is_chat(operation);
        let tokens = match (class, model) {
            (Inference, Body) => tokens(operation, knows_stream_options),
            (Inference, ModelSource::Query) => TokenUse::Session,
            _ => TokenUse::None,
        };
        let name = name(operation);
        Self { class, model, is_stateful, takes_data_sources, listing: None, tokens, name }
    }
}

/// What a client's base URL lacks, judged by a path outside the data plane: what has to stand before the path.
pub fn missing_prefix(segments: &[Cow<'_, str>]) -> Option<&'static str> {
    let path: Vec<String> = segments.iter().map(|one| one.to_ascii_lowercase()).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["v1", "messages", ..] => Some("/anthropic"),
        ["v1", _, ..] | ["deployments", _, ..] => Some("/openai"),
        ["chat", "completions"]
        | ["completions" | "responses" | "embeddings" | "moderations" | "models" | "files"
        | "realtime", ..]
        | ["audio" | "images", _, ..] => Some("/openai/v1"),
        _ => None,
    }
}

impl Listing {
    fn find(method: &str, path: &[&str]) -> Option<Self> {
        let (form, model) = match (method, path) {
            ("GET", ["openai", "v1", "models"]) => (ModelForm::V1, None),
            ("GET", ["openai", "v1", "models", _]) => (ModelForm::V1, Some(3)),
            ("GET", ["openai", "models"]) => (ModelForm::Dated, None),
            ("GET", ["openai", "models", _]) => (ModelForm::Dated, Some(2)),
            _ => return None,
        };
        Some(Self { form, model })
    }
}

/// The tokens of an operation that is inference, and is not realtime.
fn tokens(operation: &[&str], knows_stream_options: bool) -> TokenUse {
    match operation {
        ["chat", "completions"] | ["completions"] if knows_stream_options => TokenUse::TextsIfAsked,
        ["chat", "completions"] | ["completions"] | ["responses"] | ["responses", "compact"] => {
            TokenUse::Texts
        }
        ["embeddings"] => TokenUse::Input,
        ["audio" | "images", ..] => TokenUse::Media,
        _ => TokenUse::None,
    }
}

/// What an operation is called that may be inference.
fn name(operation: &[&str]) -> &'static str {
    match operation {
        ["chat", "completions"] => "chat/completions",
        ["completions"] => "completions",
        ["embeddings"] => "embeddings",
        ["responses"] => "responses",
        ["responses", "compact"] => "responses/compact",
        ["responses", "input_tokens"] => "responses/input_tokens",
        ["audio", "transcriptions"] => "audio/transcriptions",
        ["audio", "translations"] => "audio/translations",
        ["audio", "speech"] => "audio/speech",
        ["images", "generations"] => "images/generations",
        ["images", "edits"] => "images/edits",
        ["images", "variations"] => "images/variations",
        ["images", "embeddings"] => "images/embeddings",
        ["moderations"] => "moderations",
        ["realtime"] => "realtime",
        ["models"] | ["models", _] => "models",
        _ => OTHER,
    }
}

/// Whether the API version of a query, a date and perhaps `-preview`, knows `stream_options`.
fn knows_stream_options(query: Query<'_>) -> bool {
    let mut versions = query.parameters().filter(|parameter| parameter.is_named("api-version"));
    let (Some(version), None) = (versions.next(), versions.next()) else {
        return false;
    };
    let version = version.value();
    let Some((date, _)) = version.split_at_checked(STREAM_OPTIONS_SINCE.len()) else {
        return false;
    };
    let is_date = date.iter().enumerate().all(|(at, byte)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    is_date && date >= STREAM_OPTIONS_SINCE.as_bytes()
}

/// Opening a realtime session is inference. Joining one is not: it is somebody's, and has its model.
fn realtime(query: Query<'_>) -> (Class, ModelSource) {
    let joins = query.parameters().any(|parameter| parameter.is_like(CALL));
    match joins {
        false => (Class::Inference, ModelSource::Query),
        true if query.parameters().any(Parameter::is_like_model) => {
            (Class::Resources, ModelSource::Query)
        }
        true => (Class::Resources, ModelSource::Nowhere),
    }
}

/// Creating a response, and what takes the same body: all go where the response before is stored.
fn is_of_responses(operation: &[&str]) -> bool {
    matches!(operation, ["responses"] | ["responses", "compact" | "input_tokens"])
}

/// Since api-version 2024-02-15-preview; before, On Your Data had a path of its own
/// (`extensions/chat/completions`), which is [`Class::Resources`].
fn is_chat(operation: &[&str]) -> bool {
    matches!(operation, ["chat", "completions"])
}

/// Creating one of these leaves nothing behind on the resource.
fn is_stateless(operation: &[&str]) -> bool {
    matches!(
        operation,
        ["chat", "completions"]
            | ["completions"]
            | ["embeddings"]
            | ["audio", "transcriptions" | "translations" | "speech"]
            | ["images", "generations" | "edits" | "variations"]
            | ["moderations"]
    )
}

/// Creating one of these stores something on the resource, or refers to something there, and may name a
/// model. The last two are Azure's own previews.
fn may_name_model(operation: &[&str]) -> bool {
    matches!(
        operation,
        ["assistants"]
            | ["assistants", _]
            | ["threads", "runs"]
            | ["threads", _, "runs"]
            | ["fine_tuning", "jobs"]
            | ["videos"]
            | ["realtime", "sessions"]
            | ["realtime", "calls", _, "accept"]
            | ["realtimeapi", "sessions"]
            | ["video", "generations", "jobs"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::path::Target;

    #[test]
    fn what_may_be_stored_stays_and_so_does_a_response() {
        let rows = [
            ("POST", "/openai/deployments/m/chat/completions", false),
            ("GET", "/openai/deployments/m/anything", true),
            ("POST", "/openai/v1/embeddings", false),
            ("POST", "/openai/v1/responses", true),
            ("GET", "/openai/v1/responses/r", true),
            ("POST", "/openai/v1/responses/compact", true),
            ("POST", "/openai/v1/responses/input_tokens", true),
            ("POST", "/openai/v1/moderations", false),
            ("GET", "/openai/v1/realtime", false),
            ("GET", "/openai/v1/realtime?call_id=c", true),
            ("POST", "/openai/threads/runs", true),
            ("POST", "/models/chat/completions", false),
            ("POST", "/models/embeddings", false),
            ("GET", "/models/info", true),
            ("POST", "/anthropic/v1/messages", false),
            ("POST", "/anthropic/v1/messages/count_tokens", false),
            ("POST", "/anthropic/v1/messages/batches", true),
            ("GET", "/anthropic/v1/messages", true),
        ];
        for (method, path, stays) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let operation = Operation::find(method, target.segments(), target.query());
            assert_eq!(
                operation.map(|operation| operation.is_stateful),
                Some(stays),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn only_what_reads_models_is_a_listing() {
        let listing = |form, model| Some(Listing { form, model });
        let rows = [
            ("GET", "/openai/v1/models", listing(ModelForm::V1, None)),
            ("GET", "/OpenAI/V1/Models/GPT", listing(ModelForm::V1, Some(3))),
            ("GET", "/openai/models?api-version=2024-10-21", listing(ModelForm::Dated, None)),
            ("GET", "/openai/models/m", listing(ModelForm::Dated, Some(2))),
            ("HEAD", "/openai/v1/models", None),
            ("DELETE", "/openai/v1/models/m", None),
            ("GET", "/openai/v1/models/m/x", None),
            ("GET", "/openai/deployments/models", None),
            ("POST", "/openai/models", None),
        ];
        for (method, path, expected) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let operation = Operation::find(method, target.segments(), target.query()).unwrap();
            assert_eq!(operation.listing, expected, "{method} {path}");
        }
    }

    #[test]
    fn every_operation_that_uses_tokens_is_known_as_such() {
        let rows = [
            ("POST", "/openai/v1/chat/completions", TokenUse::TextsIfAsked),
            ("POST", "/openai/v1/completions", TokenUse::TextsIfAsked),
            ("POST", "/openai/v1/responses", TokenUse::Texts),
            ("POST", "/openai/v1/responses/compact", TokenUse::Texts),
            ("POST", "/openai/v1/responses/input_tokens", TokenUse::None),
            ("POST", "/openai/v1/embeddings", TokenUse::Input),
            ("POST", "/openai/v1/moderations", TokenUse::None),
            ("POST", "/openai/v1/audio/transcriptions", TokenUse::Media),
            ("POST", "/openai/deployments/m/images/generations", TokenUse::Media),
            ("GET", "/openai/v1/realtime?model=m", TokenUse::Session),
            ("GET", "/openai/v1/realtime?call_id=c", TokenUse::None),
            ("GET", "/openai/v1/models", TokenUse::None),
            ("POST", "/openai/v1/batches", TokenUse::None),
            ("POST", "/models/chat/completions", TokenUse::Texts),
            ("POST", "/models/embeddings", TokenUse::Input),
            ("POST", "/models/images/embeddings", TokenUse::Media),
            ("POST", "/anthropic/v1/messages", TokenUse::Texts),
            ("POST", "/Anthropic/v1/Messages", TokenUse::Texts),
            ("POST", "/anthropic/v1/messages/count_tokens", TokenUse::None),
            ("POST", "/anthropic/v1/messages/batches", TokenUse::None),
            (
                "GET",
                "/openai/deployments/m/chat/completions?api-version=2024-10-21",
                TokenUse::None,
            ),
        ];
        for (method, path, expected) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let found = Operation::find(method, target.segments(), target.query()).unwrap();
            assert_eq!(found.tokens, expected, "{method} {path}");
        }
    }

    #[test]
    fn a_path_without_its_beginning_is_no_operation_and_shows_what_is_missing() {
        let rows = [
            ("/v1/chat/completions", Some("/openai")),
            ("/chat/completions", Some("/openai/v1")),
            ("/responses/r/input_items", Some("/openai/v1")),
            ("/Models", Some("/openai/v1")),
            ("/models/gpt-4o", Some("/openai/v1")),
            ("/audio/speech", Some("/openai/v1")),
            ("/deployments/m/chat/completions", Some("/openai")),
            ("/v1/messages", Some("/anthropic")),
            ("/v1/messages/count_tokens", Some("/anthropic")),
            ("/", None),
            ("/v1", None),
            ("/healthz", None),
        ];
        for (path, expected) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            for method in ["GET", "POST"] {
                let found = Operation::find(method, target.segments(), target.query());
                assert_eq!(found, None, "{method} {path}");
            }
            assert_eq!(missing_prefix(target.segments()), expected, "{path}");
        }
    }

    #[test]
    fn an_operation_has_one_of_a_few_names() {
        let rows = [
            ("POST", "/openai/deployments/m/chat/completions", "chat/completions"),
            ("POST", "/OpenAI/v1/Chat/Completions", "chat/completions"),
            ("POST", "/models/chat/completions", "chat/completions"),
            ("POST", "/openai/v1/responses", "responses"),
            ("GET", "/openai/v1/responses/r", OTHER),
            ("GET", "/openai/v1/realtime?model=m", "realtime"),
            ("GET", "/openai/v1/models/m", "models"),
            ("POST", "/anthropic/v1/messages", "messages"),
            ("POST", "/anthropic/v1/messages/batches", OTHER),
            ("POST", "/openai/v1/\u{22}\u{e9}", OTHER),
        ];
        for (method, path, expected) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let found = Operation::find(method, target.segments(), target.query()).unwrap();
            assert_eq!(found.name, expected, "{method} {path}");
        }
    }

    #[test]
    fn only_what_creates_a_chat_completion_can_have_data_sources() {
        let rows = [
            ("POST", "/openai/v1/chat/completions", true),
            ("POST", "/openai/chat/completions", true),
            ("POST", "/openai/deployments/m/chat/completions", true),
            ("POST", "/models/chat/completions", true),
            ("POST", "/models/embeddings", false),
            ("POST", "/OpenAI/Deployments/m/Chat/Completions", true),
            ("GET", "/openai/v1/chat/completions", false),
            ("POST", "/openai/v1/chat/completions/c_1", false),
            ("POST", "/openai/deployments/m/completions", false),
            ("POST", "/openai/deployments/m/embeddings", false),
            ("POST", "/openai/v1/responses", false),
            // Not inference, and granted by its path.
            ("POST", "/openai/deployments/m/extensions/chat/completions", false),
        ];
        for (method, path, expected) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let operation = Operation::find(method, target.segments(), target.query()).unwrap();
            assert_eq!(operation.takes_data_sources, expected, "{method} {path}");
        }
    }

    #[test]
    fn stream_options_are_known_since_a_version() {
        let rows = [
            ("2024-07-01-preview", false),
            ("2024-06-01", false),
            ("2024-08-01-preview", true),
            ("2024-10-21", true),
            ("2025-04-01-preview", true),
            ("2024-10-21&api-version=2024-02-01", false),
            ("preview", false),
            ("latest-of-all", false),
            ("2024", false),
            ("", false),
        ];
        for (version, is_known) in rows {
            for path in ["deployments/m/chat/completions", "deployments/m/completions"] {
                let path = format!("/openai/{path}?api-version={version}");
                let target = Target::parse(path.as_bytes()).unwrap();
                let found = Operation::find("POST", target.segments(), target.query()).unwrap();
                assert_eq!(found.tokens == TokenUse::TextsIfAsked, is_known, "{path}");
            }
        }
    }

    #[test]
    fn every_path_of_the_data_plane_has_its_class_and_its_models_place() {
        use Class::*;
        use ModelSource::*;
        let dated = |class| Some((class, Segment(2)));
        let rows = [
            ("POST", "/openai/deployments/m/chat/completions", dated(Inference)),
            ("POST", "/openai/deployments/m/completions", dated(Inference)),
            ("POST", "/openai/deployments/m/embeddings", dated(Inference)),
            ("POST", "/openai/deployments/m/audio/transcriptions", dated(Inference)),
            ("POST", "/openai/deployments/m/audio/translations", dated(Inference)),
            ("POST", "/openai/deployments/m/audio/speech", dated(Inference)),
            ("POST", "/openai/deployments/m/images/generations", dated(Inference)),
            ("POST", "/openai/deployments/m/images/edits", dated(Inference)),
            ("POST", "/OpenAI/Deployments/m/Chat/Completions", dated(Inference)),
            ("GET", "/openai/deployments/m/chat/completions", dated(Resources)),
            ("POST", "/openai/deployments/m/extensions/chat/completions", dated(Resources)),
            ("GET", "/openai/deployments/m", dated(Resources)),
            ("GET", "/openai/deployments", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/chat/completions", Some((Inference, Body))),
            ("POST", "/openai/v1/completions", Some((Inference, Body))),
            ("POST", "/openai/v1/embeddings", Some((Inference, Body))),
            ("POST", "/openai/v1/audio/transcriptions", Some((Inference, Body))),
            ("POST", "/openai/v1/images/generations", Some((Inference, Body))),
            ("POST", "/openai/v1/responses", Some((Inference, Body))),
            ("POST", "/openai/responses", Some((Inference, Body))),
            ("GET", "/openai/v1/responses/resp_1", Some((Resources, Nowhere))),
            ("DELETE", "/openai/v1/responses/resp_1", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/responses/resp_1/cancel", Some((Resources, Nowhere))),
            ("GET", "/openai/v1/chat/completions", Some((Resources, Nowhere))),
            ("GET", "/openai/v1/chat/completions/c_1", Some((Resources, Nowhere))),
            ("GET", "/openai/v1/realtime", Some((Inference, Query))),
            ("GET", "/openai/realtime", Some((Inference, Query))),
            ("GET", "/openai/v1/realtime?call_id=c", Some((Resources, Nowhere))),
            ("GET", "/openai/v1/realtime?Call%5Fid=c", Some((Resources, Nowhere))),
            ("GET", "/openai/v1/realtime?+call_id%5b%5d=c", Some((Resources, Nowhere))),
            ("GET", "/openai/v1/realtime?model=m&call_id=c", Some((Resources, Query))),
            ("GET", "/openai/v1/realtime?call_id=&model[]=m", Some((Resources, Query))),
            ("POST", "/openai/v1/realtime/client_secrets", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/realtime/calls/c_1/accept", Some((Resources, BodyIfAny))),
            ("POST", "/openai/realtimeapi/sessions", Some((Resources, BodyIfAny))),
            ("GET", "/openai/models", Some((Inference, Nowhere))),
            ("GET", "/openai/v1/models", Some((Inference, Nowhere))),
            ("GET", "/openai/v1/models/m", Some((Inference, Nowhere))),
            ("DELETE", "/openai/v1/models/m", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/files", Some((Resources, Nowhere))),
            ("GET", "/openai/files", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/uploads", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/vector_stores", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/batches", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/fine_tuning/jobs", Some((Resources, BodyIfAny))),
            ("POST", "/openai/fine_tuning/jobs", Some((Resources, BodyIfAny))),
            ("GET", "/openai/v1/fine_tuning/jobs", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/videos", Some((Resources, BodyIfAny))),
            ("POST", "/openai/v1/video/generations/jobs", Some((Resources, BodyIfAny))),
            ("POST", "/openai/v1/moderations", Some((Inference, Body))),
            ("POST", "/openai/v1/responses/compact", Some((Inference, Body))),
            ("POST", "/openai/responses/input_tokens", Some((Inference, Body))),
            ("POST", "/openai/v1/evals", Some((Resources, Nowhere))),
            ("POST", "/openai/assistants", Some((Resources, BodyIfAny))),
            ("POST", "/openai/assistants/a_1", Some((Resources, BodyIfAny))),
            ("DELETE", "/openai/assistants/a_1", Some((Resources, Nowhere))),
            ("POST", "/openai/threads", Some((Resources, Nowhere))),
            ("POST", "/openai/threads/runs", Some((Resources, BodyIfAny))),
            ("POST", "/openai/threads/t_1/runs", Some((Resources, BodyIfAny))),
            ("POST", "/openai/threads/t_1/messages", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/something/new", Some((Resources, Nowhere))),
            ("GET", "/openai", Some((Resources, Nowhere))),
            ("GET", "/", None),
            ("GET", "/metadata/identity/oauth2/token", None),
            ("POST", "/v1/chat/completions", None),
            ("POST", "/x/openai/v1/chat/completions", None),
        ];
        for (method, path, expected) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let found = Operation::find(method, target.segments(), target.query());
            let found = found.map(|operation| (operation.class, operation.model));
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
