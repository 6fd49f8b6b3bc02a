//! A token for an identity, requested as the module does.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aoai_filter::base::claims::Claims;
use aoai_filter::base::error_body::ErrorBody;
use aoai_filter::base::secret::Secret;
use aoai_filter::config::{host_and_port, Application, ClientCredential, Credential, Identity};
use aoai_filter::identity::fetch::{Progress, Step as Stage};
use aoai_filter::identity::token::Token;
use aoai_filter::identity::{CalloutResponse, Failure, Request};
use aoai_filter::response::diagnosis::Diagnosis;
use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};

use super::context::Context;
use super::http::{self, Response};
use super::network::{self, Place};
use super::report::{Step, Verdict};
use super::tls;
use super::transport_error::TransportError;

/// The Instance Metadata Service.
const IMDS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// The path of the token that the webhook of AKS projects, in its versions since 1.6 and before.
const TOKEN_FILES: [&str; 2] = [
    "/var/run/secrets/azure/wi/token/azure-identity-token",
    "/var/run/secrets/azure/tokens/azure-identity-token",
];

/// The name of what an application sends to Entra ID: its client assertion or its client secret (RFC
/// 7521).
const fn credential_name(kind: ClientCredential) -> &'static str {
    match kind {
        ClientCredential::Assertion => "projected token",
        ClientCredential::Secret => "client secret",
    }
}

/// The steps done so far.
#[derive(Default)]
struct Notes {
    steps: Vec<Step>,
    /// What was sent and must not be printed.
    secrets: Vec<Secret>,
}

/// A token and its claims.
pub(super) struct SignedIn {
    pub(super) token: Token,
    pub(super) claims: Option<Claims>,
}

/// Gets a token, and reports each step.
pub(super) fn sign_in(
    credential: &Credential,
    context: &Context<'_>,
) -> (Vec<Step>, Option<SignedIn>) {
    let mut notes = Notes::default();
    let subject = format!("identity {}", credential.name);
    let (stage, request) = credential.begin();
    let place = match &credential.identity {
        Identity::Managed { cluster, .. } => {
            Some(context.override_of(cluster).unwrap_or(Place { address: IMDS, tls: false }))
        }
        Identity::AppService { cluster, authority, .. } => {
            app_service(cluster, authority, &subject, context, &mut notes)
        }
        Identity::Application(application) => entra(application, &subject, context, &mut notes),
    };
    let ready = match &credential.identity {
        Identity::AppService { .. } => header(&subject, &mut notes).map(|header| (request, header)),
        Identity::Application(application) => {
            token_request(credential, application, stage, &subject, context, &mut notes)
                .map(|request| (request, None))
        }
        Identity::Managed { .. } => Some((request, None)),
    };
    let (Some(place), Some((request, header))) = (place, ready) else {
        notes.steps.push(Step::new(
            Verdict::Skip,
            &subject,
            "token",
            "skipped: a previous step failed",
        ));
        return (notes.steps, None);
    };
    let header = header.as_ref().map(|value| ("x-identity-header", value));
    let response = http::send(
        &request,
        header,
        place,
        http::LONGEST_BODY,
        &context.root_certificates,
        context.options.timeout,
    )
    .map(|response| response.without(&notes.secrets));
    let (step, token) = read(credential, &subject, place, response, context);
    notes.steps.push(step);
    (notes.steps, token)
}

/// The address of an app's endpoint, which its platform chooses.
fn app_service(
    cluster: &str,
    authority: &str,
    subject: &str,
    context: &Context<'_>,
    notes: &mut Notes,
) -> Option<Place> {
    if let Some(place) = context.override_of(cluster) {
        return Some(place);
    }
    let known = std::env::var("IDENTITY_ENDPOINT").unwrap_or_default();
    let theirs = known.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    if let Some(theirs) = theirs.filter(|theirs| *theirs != authority) {
        let text = format!(
            "app_service.endpoint leads to {authority}, but IDENTITY_ENDPOINT of the platform leads to \
             {theirs}: set app_service.endpoint to the value of IDENTITY_ENDPOINT"
        );
        notes.steps.push(Step::new(Verdict::Warn, subject, "endpoint", text));
    }
    let (host, port) = host_and_port(authority, 80)?;
    match network::addresses(host, port, context.options.timeout) {
        Ok(found) => found.first().map(|address| Place { address: *address, tls: false }),
        Err(error) => {
            let text = format!("{host} does not resolve: {error}");
            notes.steps.push(Step::new(Verdict::Fail, subject, "dns", text));
            None
        }
    }
}

/// The platform's secret, which Envoy adds to requests. The outer `None` is a failure.
fn header(subject: &str, notes: &mut Notes) -> Option<Option<Secret>> {
    let value = std::env::var("IDENTITY_HEADER").unwrap_or_default();
    if value.is_empty() {
        let text = "IDENTITY_HEADER is not set. The platform sets it for an app with a managed \
                    identity, and Envoy reads it from its environment: check that the app has a \
                    managed identity, and run aoai doctor in the same environment";
        notes.steps.push(Step::new(Verdict::Fail, subject, "header", text));
        return None;
    }
    let secret = Secret::new(value);
    notes.secrets.push(secret.clone());
    Some(Some(secret))
}

/// DNS and TLS of Entra ID.
fn entra(
    application: &Application,
    subject: &str,
    context: &Context<'_>,
    notes: &mut Notes,
) -> Option<Place> {
    let (host, port) = host_and_port(&application.authority, 443)?;
    let overridden = context.override_of(&application.cluster);
    let (steps, place) = reach(subject, host, port, overridden, context);
    notes.steps.extend(steps);
    place
}

/// Resolves a host name and verifies its certificate. An option may set another address.
pub(super) fn reach(
    subject: &str,
    host: &str,
    port: u16,
    overridden: Option<Place>,
    context: &Context<'_>,
) -> (Vec<Step>, Option<Place>) {
    let timeout = context.options.timeout;
    let skip = |what: &str, text: String| Step::new(Verdict::Skip, subject, what, text);
    let (dns, place) = match overridden {
        Some(place) => {
            let text = format!("skipped: an option sets the address {} for {host}", place.address);
            (skip("dns", text), Some(place))
        }
        None => {
            let (step, address) = network::look_up(subject, host, port, timeout);
            (step, address.map(|address| Place { address, tls: true }))
        }
    };
    let tls = match place {
        None => skip("tls", "skipped: no address".to_owned()),
        Some(Place { tls: false, .. }) => {
            skip("tls", "skipped: an option sets an address without TLS".to_owned())
        }
        Some(place) => {
            tls::handshake(subject, host, place.address, &context.root_certificates, timeout)
        }
    };
    let place = place.filter(|_| tls.verdict != Verdict::Fail);
    (vec![dns, tls], place)
}

/// Reads the client assertion or client secret from its file, and makes the request for a token.
fn token_request(
    credential: &Credential,
    application: &Application,
    stage: Stage,
    subject: &str,
    context: &Context<'_>,
    notes: &mut Notes,
) -> Option<Request> {
    let name = credential_name(application.credential);
    let step = |verdict, text: String| Step::new(verdict, subject, name, text);
    let Some(file) = credential_file(application) else {
        let text = "its file is not known; expected client_secret.secret_file in the document";
        notes.steps.push(step(Verdict::Fail, text.to_owned()));
        return None;
    };
    let body = match contents(&file) {
        Ok(body) => body,
        Err(error) => {
            let advice = match application.credential {
                ClientCredential::Assertion => {
                    ". AKS creates it in pods that have the label azure.workload.identity/use: \"true\" \
                     and a service account; if it has another path, set workload_identity.token_file"
                }
                ClientCredential::Secret => "",
            };
            let text = format!("cannot read {}: {error}{advice}", file.display());
            notes.steps.push(step(Verdict::Fail, text));
            return None;
        }
    };
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    // An endpoint that repeats the form has it percent-encoded.
    let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
    notes.secrets.extend([Secret::new(text.clone()), Secret::new(encoded)]);
    let reply = CalloutResponse::Response { status: 200, retry_after: None, body };
    match credential.proceed(stage, &reply, context.now, 0) {
        Progress::Ask(request) => {
            let claims = match application.credential {
                ClientCredential::Assertion => Claims::of(&text).unwrap_or_default(),
                ClientCredential::Secret => Claims::default(),
            };
            let facts = claims_text(&[
                ("issuer", &claims.issuer),
                ("subject", &claims.subject),
                ("audience", &claims.audience),
                ("expires in", &claims.expires_at.map(|at| left(at, context.now))),
            ]);
            let text = format!("{}{facts}", file.display());
            notes.steps.push(
                step(Verdict::Ok, text).with("issuer", claims.issuer).with("sub", claims.subject),
            );
            Some(request)
        }
        Progress::Done(outcome) => {
            let why = outcome.err().map(|failure| failure.detail().to_owned()).unwrap_or_default();
            notes.steps.push(step(Verdict::Fail, format!("{}: {why}", file.display())));
            None
        }
    }
}

/// The file of the client assertion or client secret: the document's, or else that of AKS.
fn credential_file(application: &Application) -> Option<PathBuf> {
    match (&application.credential_file, application.credential) {
        (Some(file), _) => Some(PathBuf::from(file)),
        (None, ClientCredential::Secret) => None,
        (None, ClientCredential::Assertion) => {
            let named = std::env::var_os("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from);
            let usual = || TOKEN_FILES.iter().map(PathBuf::from).find(|file| file.exists());
            named.or_else(usual).or_else(|| TOKEN_FILES.first().map(PathBuf::from))
        }
    }
}

fn contents(file: &Path) -> io::Result<Vec<u8>> {
    /// More than the module accepts.
    const LONGEST: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    File::open(file)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the endpoint's response as the module does.
fn read(
    credential: &Credential,
    subject: &str,
    place: Place,
    response: Result<Response, TransportError>,
    context: &Context<'_>,
) -> (Step, Option<SignedIn>) {
    let step = |verdict, text: String| {
        Step::new(verdict, subject, "token", text)
            .with("audience_asked", credential.audience.as_str())
    };
    let response = match response {
        Ok(response) => response,
        Err(error) => {
            let text = format!(
                "{} {}{}",
                place.address,
                error.with_file(&context.options.ca),
                advice(&credential.identity)
            );
            return (step(Verdict::Fail, text), None);
        }
    };
    let (status, error) = (response.status, ErrorBody::read(&response.body));
    match credential.proceed(Stage::Token, &response.into_reply(), context.now, 0) {
        Progress::Done(Ok(token)) => {
            let claims = Claims::of(token.secret.expose());
            let (verdict, text) = describe(credential, &token, claims.as_ref(), context.now);
            let known = claims.clone().unwrap_or_default();
            let step = step(verdict, text)
                .with("audience", known.audience)
                .with("tenant", known.tenant)
                .with("principal", known.principal)
                .with("application", known.application)
                .with("identity", known.resource_id)
                .with("expires_in", seconds(token.expires_at, context.now));
            (step, Some(SignedIn { token, claims }))
        }
        Progress::Done(Err(failure)) => {
            let found = Diagnosis::of_refusal(&error).filter(|_| status != 200);
            let slug = found.map(|found| found.slug);
            let text = refusal(&failure, found, place, &credential.identity);
            (step(Verdict::Fail, text).with("status", status).with("diagnosis", slug), None)
        }
        // The module sends no more than two requests.
        Progress::Ask(_) => (
            step(Verdict::Fail, "unexpected response: it asks for a third request".to_owned()),
            None,
        ),
    }
}

/// An error of the endpoint, with its cause and its remedy where they are known.
fn refusal(
    failure: &Failure,
    found: Option<&Diagnosis>,
    place: Place,
    identity: &Identity,
) -> String {
    let address = place.address;
    match found {
        Some(Diagnosis { slug, cause, remedy, .. }) => {
            format!("{address} {failure}. {slug}: {cause}. {remedy}")
        }
        None => {
            // With these statuses it is an identity endpoint, so that its address is not the cause.
            let is_known = matches!(failure.status(), Some(200 | 410 | 429 | 500..));
            format!("{address} {failure}{}", if is_known { "" } else { advice(identity) })
        }
    }
}

/// What to check where the response of an identity's endpoint does not contain the cause.
fn advice(identity: &Identity) -> &'static str {
    match identity {
        Identity::Managed { .. } => {
            ". Check that this machine is in Azure and has a managed identity, and that no network \
             policy blocks the Instance Metadata Service for pods"
        }
        Identity::AppService { .. } => {
            ". IDENTITY_ENDPOINT and IDENTITY_HEADER must be the current values: the platform changes \
             them whenever the app starts"
        }
        Identity::Application(_) => "",
    }
}

/// The claims of a token, and what of them looks wrong.
fn describe(
    credential: &Credential,
    token: &Token,
    claims: Option<&Claims>,
    now: SystemTime,
) -> (Verdict, String) {
    let requested = &credential.audience;
    let expires = left(token.expires_at, now);
    let Some(claims) = claims else {
        // Only the resource needs to be able to read a token.
        return (Verdict::Ok, format!("expires in {expires}; its claims cannot be read"));
    };
    let facts = claims_text(&[
        ("tenant", &claims.tenant),
        ("principal", &claims.principal),
        ("application", &claims.application),
        ("identity", &claims.resource_id),
    ]);
    let audience = claims.audience.as_deref().unwrap_or("no audience");
    let text = format!("for {audience}, expires in {expires}{facts}");
    // The audience of v2 tokens is a GUID, which cannot be compared.
    let is_url = audience.contains("://");
    let warning = if is_url && audience.trim_end_matches('/') != requested.trim_end_matches('/') {
        Some(format!("the requested audience is {requested}: check the field audience"))
    } else if claims.expires_at.is_some_and(|at| at <= now) {
        Some(
            "it has expired already, according to the clock of this machine: check the clock"
                .to_owned(),
        )
    } else {
        None
    };
    match warning {
        Some(warning) => (Verdict::Warn, format!("{text}; {warning}")),
        None => (Verdict::Ok, text),
    }
}

/// `, name value` for each that is known.
fn claims_text(facts: &[(&str, &Option<String>)]) -> String {
    let known = facts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    known.map(|(name, value)| format!(", {name} {value}")).collect()
}

fn seconds(at: SystemTime, now: SystemTime) -> u64 {
    at.duration_since(now).unwrap_or_default().as_secs()
}

fn left(at: SystemTime, now: SystemTime) -> String {
    humantime::format_duration(Duration::from_secs(seconds(at, now))).to_string()
}
