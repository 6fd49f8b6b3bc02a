//! A backend: its DNS and TLS, and a request to each of its deployments.

use aoai_filter::base::error_body::ErrorBody;
use aoai_filter::base::secret::Secret;
use aoai_filter::config::{Backend, Config, Credential};
use aoai_filter::identity::Request;
use aoai_filter::response::diagnosis::{Diagnosis, Finding, Mistake};

use super::context::Context;
use super::http::{self, Response};
use super::network::Place;
use super::report::{Step, Verdict};
use super::sign_in::{reach, SignedIn};

/// The newest version of the data plane that is not a preview.
const API_VERSION: &str = "2024-10-21";

/// What Azure's error for a chat completion without messages contains, or for a model that does not
/// support chat completions: the request has reached the model. Sources: responses of Azure and OpenAI.
const REACHED_THE_MODEL: [&str; 5] = [
    "'messages'",
    "OperationNotSupported",
    "does not work with the specified model",
    "missing_required",
    // Than that of the doctor's request: the client's own decides.
    "is enabled only for api version",
];

/// Examines a backend: without a token, only its DNS and TLS.
pub(super) fn examine(
    backend: &Backend,
    config: &Config,
    credential: Option<&Credential>,
    signed_in: Option<&SignedIn>,
    context: &Context<'_>,
) -> Vec<Step> {
    let subject = format!("backend {}", backend.name);
    let (host, port) = (backend.endpoint.host(), backend.endpoint.port());
    let (mut steps, place) = reach(&subject, host, port, context.resolved(&backend.name), context);
    let deployments = deployments(backend, config);
    if deployments.is_empty() {
        let text = "no model uses this backend, so no deployment was called";
        steps.push(Step::new(Verdict::Warn, &subject, "deployments", text));
    }
    for (deployment, models) in deployments {
        let what = format!("deployment {deployment}");
        let step = match (place, signed_in, credential) {
            (None, _, _) => Step::new(Verdict::Skip, &subject, what, "skipped: no connection"),
            (Some(place), Some(signed_in), Some(credential)) => {
                let call = Call { backend, deployment, credential, signed_in };
                call.make(&subject, what, place, context)
            }
            _ => Step::new(Verdict::Skip, &subject, what, "skipped: no token"),
        };
        steps.push(step.with("deployment", deployment).with("models", models));
    }
    steps
}

/// The deployments on a backend, with the models that use them.
fn deployments<'c>(backend: &Backend, config: &'c Config) -> Vec<(&'c str, Vec<&'c str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for model in config.models.values() {
        let here = model.placements.iter().filter(|one| one.backend.name == backend.name);
        for placement in here {
            match found.iter_mut().find(|(name, _)| *name == placement.deployment) {
                Some((_, models)) => models.push(&model.name),
                None => found.push((&placement.deployment, vec![&model.name])),
            }
        }
    }
    found
}

/// A request that tests everything except the model itself, and costs nothing.
struct Call<'a> {
    backend: &'a Backend,
    deployment: &'a str,
    credential: &'a Credential,
    signed_in: &'a SignedIn,
}

impl Call<'_> {
    fn make(&self, subject: &str, what: String, place: Place, context: &Context<'_>) -> Step {
        let response = http::send(
            &self.request(),
            Some(("authorization", &self.authorization())),
            place,
            http::LONGEST_BODY,
            &context.root_certificates,
            context.options.timeout,
        );
        match response {
            Ok(response) => {
                let token = self.signed_in.token.secret.clone();
                self.read(subject, what, &response.without(&[token]))
            }
            Err(error) => {
                let error = error.with_file(&context.options.ca);
                Step::new(Verdict::Fail, subject, what, format!("{} {error}", place.address))
            }
        }
    }

    /// A chat completion with an empty body: no model can generate anything for it.
    fn request(&self) -> Request {
        let deployment = self.deployment;
        let path =
            format!("/openai/deployments/{deployment}/chat/completions?api-version={API_VERSION}");
        Request {
            cluster: self.backend.cluster.clone(),
            headers: vec![
                (":method", "POST".to_owned()),
                (":path", path),
                (":authority", self.backend.endpoint.authority().to_owned()),
                ("content-type", "application/json".to_owned()),
            ],
            body: Some(Secret::new("{}".to_owned())),
        }
    }

    fn authorization(&self) -> Secret {
        Secret::new(format!("Bearer {}", self.signed_in.token.secret.expose()))
    }

    fn read(&self, subject: &str, what: String, response: &Response) -> Step {
        let (status, error) = (response.status, ErrorBody::read(&response.body));
        let found = match has_reached_the_model(status, &error) {
            true => None,
            false => Diagnosis::of_response(status, &error),
        };
        let (verdict, text) = match found {
            Some(diagnosis) => {
                let concern = Finding {
                    diagnosis,
                    status,
                    error: &error,
                    backend: &self.backend.name,
                    resource: self.backend.endpoint.host(),
                    audience: &self.credential.audience,
                    claims: self.signed_in.claims.as_ref(),
                };
                let verdict = match diagnosis.mistake {
                    Mistake::Nobodys => Verdict::Warn,
                    Mistake::Callers | Mistake::Backend | Mistake::Model => Verdict::Fail,
                };
                (verdict, concern.to_string())
            }
            None => judge(status, &error),
        };
        Step::new(verdict, subject, what, text)
            .with("status", status)
            .with("diagnosis", found.map(|found| found.slug))
    }
}

/// Whether an error shows that the model itself has got the request.
fn has_reached_the_model(status: u16, error: &ErrorBody) -> bool {
    matches!(status, 400 | 422)
        && REACHED_THE_MODEL.iter().any(|text| error.message.contains(text) || error.code == *text)
}

/// The verdict on a response that is not in the table of diagnoses.
fn judge(status: u16, error: &ErrorBody) -> (Verdict, String) {
    let excerpt = excerpt(error);
    match status {
        200..=299 => (Verdict::Ok, format!("responds with {status}")),
        _ if has_reached_the_model(status, error) => {
            (Verdict::Ok, format!("responds with {status} to an empty request, as expected"))
        }
        429 => (
            Verdict::Warn,
            "responds with 429: throttled at the moment, otherwise correct".to_owned(),
        ),
        400 | 422 => (
            Verdict::Warn,
            format!(
                "responds with {status} and an unknown error{excerpt}. Network and token seem to be \
                 correct: send a real request to be sure"
            ),
        ),
        500..=599 => (
            Verdict::Fail,
            format!(
                "responds with {status}{excerpt}: the resource, or a proxy in front of it, has a problem"
            ),
        ),
        _ => (
            Verdict::Fail,
            format!(
                "responds with {status}, which is not a known response of an Azure OpenAI resource\
                 {excerpt}. Another service may respond in its place"
            ),
        ),
    }
}

/// Code and message of an error, on one line. A body without an error is not shown.
fn excerpt(error: &ErrorBody) -> String {
    const LONGEST: usize = 200;
    if error.code.is_empty() {
        return String::new();
    }
    let text = format!(" ({}: {}", error.code, error.message);
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST);
    line.chain([')']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_request_reaches_every_model() {
        use Verdict::{Fail, Ok, Warn};
        let error = |code: &str, message: &str| {
            format!(r#"{{"error":{{"code":{code},"message":"{message}"}}}}"#)
        };
        for (status, body, expected) in [
            (400, error("null", "'messages' is a required property"), Ok),
            (400, error("\"missing_required_parameter\"", "Missing required parameter: 'messages'."), Ok),
            (400, error("\"OperationNotSupported\"", "The chatCompletion operation does not work with the specified model, text-embedding-3-small."), Ok),
            (200, "{}".to_owned(), Ok),
            (429, "slow down".to_owned(), Warn),
            (400, error("\"BadRequest\"", "Something new"), Warn),
            (400, "<html>".to_owned(), Warn),
            (401, error("\"401\"", "Something new"), Fail),
            (302, String::new(), Fail),
            (404, "<html>".to_owned(), Fail),
            (503, String::new(), Fail),
        ] {
            assert_eq!(judge(status, &ErrorBody::read(body.as_bytes())).0, expected, "{status} {body}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        let error = |code: &str, message: &str| ErrorBody {
            code: code.to_owned(),
            message: message.to_owned(),
        };
        assert_eq!(excerpt(&error("", "<html>")), "");
        assert_eq!(excerpt(&error("x", "a\nb")), " (x: a b)");
        assert_eq!(excerpt(&error("x", &"a".repeat(1000))).len(), 201);
    }
}
