//! A backend: the way to it, and a call of each of its deployments.

use aoai_filter::config::{Backend, Config, Credential};
use aoai_filter::diagnosis::{Concern, Diagnosis, Said};
use aoai_filter::identity::secret::Secret;
use aoai_filter::identity::Request;

use super::http::{self, Answer};
use super::network::Place;
use super::report::{Step, Verdict};
use super::sign_in::{reach, SignedIn};
use super::Site;

/// The newest version of the data plane that is not a preview.
const API_VERSION: &str = "2024-10-21";

/// What Azure says of a chat completion that has no messages, or whose model is of another kind: it has
/// come as far as the model. Sources: the answers of the service, and those of OpenAI's.
const ARRIVED: [&str; 4] = [
    "'messages'",
    "OperationNotSupported",
    "does not work with the specified model",
    "missing_required",
];

/// Examines a backend. Without a token only the way to it is.
pub(super) fn examine(
    backend: &Backend,
    config: &Config,
    credential: Option<&Credential>,
    signed_in: Option<&SignedIn>,
    site: &Site<'_>,
) -> Vec<Step> {
    let subject = format!("backend {}", backend.name);
    let (host, port) = (backend.endpoint.host(), backend.endpoint.port());
    let (mut steps, place) = reach(&subject, host, port, site.resolved(&backend.name), site);
    let deployments = deployments(backend, config);
    if deployments.is_empty() {
        let text = "no model is served by this backend, so nothing is called";
        steps.push(Step::new(Verdict::Warn, &subject, "deployments", text));
    }
    for (deployment, models) in deployments {
        let what = format!("deployment {deployment}");
        let step = match (place, signed_in, credential) {
            (None, _, _) => Step::new(Verdict::Skip, &subject, what, "for want of a connection"),
            (Some(place), Some(signed_in), Some(credential)) => {
                let call = Call { backend, deployment, credential, signed_in };
                call.make(&subject, what, place, site)
            }
            _ => Step::new(Verdict::Skip, &subject, what, "for want of a token"),
        };
        steps.push(step.with("deployment", deployment).with("models", models));
    }
    steps
}

/// The deployments on a backend, and for which models they are.
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

/// A call that proves all but the model itself, and costs nothing.
struct Call<'a> {
    backend: &'a Backend,
    deployment: &'a str,
    credential: &'a Credential,
    signed_in: &'a SignedIn,
}

impl Call<'_> {
    fn make(&self, subject: &str, what: String, place: Place, site: &Site<'_>) -> Step {
        let answer = http::send(
            &self.request(),
            Some(("authorization", &self.authorization())),
            place,
            &site.trust,
            site.options.timeout,
        );
        match answer {
            Ok(answer) => {
                let token = self.signed_in.token.secret.clone();
                self.read(subject, what, &answer.without(&[token]))
            }
            Err(trouble) => {
                let trouble = trouble.with_file(&site.options.ca);
                Step::new(Verdict::Fail, subject, what, format!("{} {trouble}", place.address))
            }
        }
    }

    /// A chat completion without anything in it: whichever model it is, there is nothing to generate.
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

    fn read(&self, subject: &str, what: String, answer: &Answer) -> Step {
        let (status, said) = (answer.status, Said::read(&answer.body));
        let found = Diagnosis::of_answer(status, &said);
        let (verdict, text) = match found {
            Some(diagnosis) => {
                let concern = Concern {
                    diagnosis,
                    status,
                    said: &said,
                    backend: &self.backend.name,
                    resource: self.backend.endpoint.host(),
                    audience: &self.credential.audience,
                    claims: self.signed_in.claims.as_ref(),
                };
                let verdict = if diagnosis.is_mistake { Verdict::Fail } else { Verdict::Warn };
                (verdict, concern.to_string())
            }
            None => judge(status, &said),
        };
        Step::new(verdict, subject, what, text)
            .with("status", status)
            .with("diagnosis", found.map(|found| found.slug))
    }
}

/// What an answer means that the table does not know.
fn judge(status: u16, said: &Said) -> (Verdict, String) {
    let has_arrived = ARRIVED.iter().any(|text| said.message.contains(text) || said.code == *text);
    let excerpt = excerpt(said);
    match status {
        200..=299 => (Verdict::Ok, format!("answers {status}")),
        400 | 422 if has_arrived => {
            (Verdict::Ok, format!("answers {status} to a call without content, as it should"))
        }
        429 => (
            Verdict::Warn,
            "answers 429: throttled for the moment, and otherwise right".to_owned(),
        ),
        400 | 422 => (
            Verdict::Warn,
            format!(
                "answers {status}, and nothing that the doctor knows{excerpt}. Network and token are \
                 right, it seems: make a real call to be sure"
            ),
        ),
        500..=599 => (
            Verdict::Fail,
            format!("answers {status}{excerpt}: the resource, or what is before it, has trouble"),
        ),
        _ => (
            Verdict::Fail,
            format!(
                "answers {status}, which is no answer of an Azure OpenAI resource that the doctor \
                 knows{excerpt}. Something else may answer in its place"
            ),
        ),
    }
}

/// What an error says, where it has the shape of one, on one line. Any other body may be anybody's.
fn excerpt(said: &Said) -> String {
    const LONGEST: usize = 200;
    if said.code.is_empty() {
        return String::new();
    }
    let text = format!(" ({}: {}", said.code, said.message);
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST);
    line.chain([')']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_content_arrives_whatever_the_model() {
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
            assert_eq!(judge(status, &Said::read(body.as_bytes())).0, expected, "{status} {body}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        let said =
            |code: &str, message: &str| Said { code: code.to_owned(), message: message.to_owned() };
        assert_eq!(excerpt(&said("", "<html>")), "");
        assert_eq!(excerpt(&said("x", "a\nb")), " (x: a b)");
        assert_eq!(excerpt(&said("x", &"a".repeat(1000))).len(), 201);
    }
}
