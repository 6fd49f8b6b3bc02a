//! Which operation of the Azure OpenAI data plane a request is, and where it names its model.
//!
//! The paths are those of Microsoft's data-plane reference, dated (`/openai/deployments/{name}/…`,
//! `/openai/…`) and v1 (`/openai/v1/…`). What is not in the table below is still passed on, but as
//! [`Class::Resources`]: a path that nobody has looked at yet is granted by name only.

use std::borrow::Cow;

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
    /// In the body's `model`, if it has one: a run of a thread may override its assistant's.
    BodyIfAny,
    /// Nowhere: it concerns the resource as a whole.
    Nowhere,
}

/// An operation of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What it may touch.
    pub class: Class,
    /// Where its model stands.
    pub model: ModelSource,
    /// Whether it makes or needs something that only one Azure resource has.
    pub stays: bool,
}

/// The segment that holds the deployment in `/openai/deployments/{name}/…`.
const DEPLOYMENT: usize = 2;

impl Operation {
    /// Finds the operation of a method and a decoded path; `None` outside the data plane.
    ///
    /// Fixed segments are compared in lower case: Azure's front does not care, so the scope must not.
    pub fn find(method: &str, segments: &[Cow<'_, str>]) -> Option<Self> {
        let is_lower = |segment: &str| !segment.bytes().any(|byte| byte.is_ascii_uppercase());
        if !segments.iter().all(|segment| is_lower(segment)) {
            let lower: Vec<Cow<'_, str>> =
                segments.iter().map(|segment| segment.to_ascii_lowercase().into()).collect();
            return Self::find(method, &lower);
        }
        let path: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
        match path.as_slice() {
            ["openai", "deployments", _, operation @ ..] => {
                let is_inference = method == "POST" && is_stateless(operation);
                let class = if is_inference { Class::Inference } else { Class::Resources };
                let model = ModelSource::Segment(DEPLOYMENT);
                Some(Self { class, model, stays: !is_inference })
            }
            ["openai", "v1", operation @ ..] | ["openai", operation @ ..] => {
                Some(Self::beside_deployments(method, operation))
            }
            _ => None,
        }
    }

    fn beside_deployments(method: &str, operation: &[&str]) -> Self {
        use Class::{Inference, Resources};
        use ModelSource::{Body, BodyIfAny, Nowhere, Query};
        let (class, model) = match (method, operation) {
            ("POST", ["responses"]) => (Inference, Body),
            ("POST", operation) if is_stateless(operation) => (Inference, Body),
            ("GET", ["realtime"]) => (Inference, Query),
            ("GET" | "HEAD", ["models"] | ["models", _]) => (Inference, Nowhere),
            ("POST", ["assistants"] | ["assistants", _]) => (Resources, BodyIfAny),
            ("POST", ["threads", "runs"] | ["threads", _, "runs"]) => (Resources, BodyIfAny),
            _ => (Resources, Nowhere),
        };
        // A response is stored unless its caller says otherwise, and the next one may refer to it.
        let stays = class == Resources || operation == ["responses"];
        Self { class, model, stays }
    }
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
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    #[test]
    fn what_may_be_stored_stays_and_so_does_a_response() {
        let rows = [
            ("POST", "/openai/deployments/m/chat/completions", false),
            ("GET", "/openai/deployments/m/anything", true),
            ("POST", "/openai/v1/embeddings", false),
            ("POST", "/openai/v1/responses", true),
            ("GET", "/openai/v1/responses/r", true),
            ("GET", "/openai/v1/realtime", false),
            ("POST", "/openai/threads/runs", true),
        ];
        for (method, path, stays) in rows {
            let target = Target::parse(path.as_bytes()).unwrap();
            let operation = Operation::find(method, target.segments());
            assert_eq!(operation.map(|operation| operation.stays), Some(stays), "{method} {path}");
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
            ("POST", "/openai/v1/realtime/client_secrets", Some((Resources, Nowhere))),
            ("GET", "/openai/models", Some((Inference, Nowhere))),
            ("GET", "/openai/v1/models", Some((Inference, Nowhere))),
            ("GET", "/openai/v1/models/m", Some((Inference, Nowhere))),
            ("DELETE", "/openai/v1/models/m", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/files", Some((Resources, Nowhere))),
            ("GET", "/openai/files", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/uploads", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/vector_stores", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/batches", Some((Resources, Nowhere))),
            ("POST", "/openai/v1/fine_tuning/jobs", Some((Resources, Nowhere))),
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
            let found = Operation::find(method, target.segments());
            let found = found.map(|operation| (operation.class, operation.model));
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
