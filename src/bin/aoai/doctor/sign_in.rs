//! A token for an identity, asked for as the module does.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use aoai_filter::config::{host_and_port, Application, Credential, Identity, Proof};
use aoai_filter::diagnosis::{Diagnosis, Said};
use aoai_filter::identity::claims::Claims;
use aoai_filter::identity::secret::Secret;
use aoai_filter::identity::token::Token;
use aoai_filter::identity::{Failure, Progress, Reply, Request, Step as Stage};
use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};

use super::http::{self, Answer};
use super::network::{self, Place};
use super::report::{Step, Verdict};
use super::trouble::Trouble;
use super::{tls, Site};

/// The Instance Metadata Service.
const IMDS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// Where the webhook of AKS projects the token to, in its versions since 1.6 and before.
const TOKEN_FILES: [&str; 2] = [
    "/var/run/secrets/azure/wi/token/azure-identity-token",
    "/var/run/secrets/azure/tokens/azure-identity-token",
];

/// What an application proves itself by, in words.
const fn proof_name(proof: Proof) -> &'static str {
    match proof {
        Proof::FederatedToken => "projected token",
        Proof::ClientSecret => "client secret",
    }
}

/// What has been done to sign in, so far.
#[derive(Default)]
struct Notes {
    steps: Vec<Step>,
    /// What is sent and must not be shown.
    secrets: Vec<Secret>,
}

/// A token, and what it says of itself.
pub(super) struct SignedIn {
    pub(super) token: Token,
    pub(super) claims: Option<Claims>,
}

/// Where all identity endpoints are instead of where they usually are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdentityEndpoint(pub(super) Place);

impl FromStr for IdentityEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (address, tls) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(address), _) => (address, false),
            (_, Some(address)) => (address, true),
            _ => return Err(EndpointError::Form),
        };
        let address: SocketAddr = address.parse().map_err(|_| EndpointError::Form)?;
        let is_link_local = matches!(address.ip(), IpAddr::V4(four) if four.is_link_local());
        if !tls && !address.ip().is_loopback() && !is_link_local {
            return Err(EndpointError::InTheClear { address });
        }
        Ok(Self(Place { address, tls }))
    }
}

/// Why an `--identity-endpoint` is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("expected http://IP:PORT or https://IP:PORT, such as http://127.0.0.1:8000")]
    Form,
    #[error(
        "{address} is neither on this machine nor link-local; there is no TLS on the way, and a token \
         comes back on it: expected an address such as 127.0.0.1:8000, or https://{address}"
    )]
    InTheClear { address: SocketAddr },
}

/// Gets a token, and tells each step on the way.
pub(super) fn sign_in(credential: &Credential, site: &Site<'_>) -> (Vec<Step>, Option<SignedIn>) {
    let mut notes = Notes::default();
    let subject = format!("identity {}", credential.name);
    let (stage, request) = credential.begin();
    let place = match &credential.identity {
        Identity::Managed { cluster, .. } => {
            Some(site.elsewhere(cluster).unwrap_or(Place { address: IMDS, tls: false }))
        }
        Identity::AppService { cluster, authority, .. } => {
            app_service(cluster, authority, &subject, site, &mut notes)
        }
        Identity::Application(application) => entra(application, &subject, site, &mut notes),
    };
    let ready = match &credential.identity {
        Identity::AppService { .. } => header(&subject, &mut notes).map(|header| (request, header)),
        Identity::Application(application) => {
            prove(credential, application, stage, &subject, site, &mut notes)
                .map(|request| (request, None))
        }
        Identity::Managed { .. } => Some((request, None)),
    };
    let (Some(place), Some((request, header))) = (place, ready) else {
        notes.steps.push(Step::new(Verdict::Skip, &subject, "token", "for want of the above"));
        return (notes.steps, None);
    };
    let header = header.as_ref().map(|value| ("x-identity-header", value));
    let answer = http::send(&request, header, place, &site.trust, site.options.timeout)
        .map(|answer| answer.without(&notes.secrets));
    let (step, token) = read(credential, &subject, place, answer, site);
    notes.steps.push(step);
    (notes.steps, token)
}

/// Where an app's endpoint is, which only its platform knows.
fn app_service(
    cluster: &str,
    authority: &str,
    subject: &str,
    site: &Site<'_>,
    notes: &mut Notes,
) -> Option<Place> {
    if let Some(place) = site.elsewhere(cluster) {
        return Some(place);
    }
    let known = std::env::var("IDENTITY_ENDPOINT").unwrap_or_default();
    let theirs = known.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    if let Some(theirs) = theirs.filter(|theirs| *theirs != authority) {
        let text = format!(
            "the document has {authority}, and the platform says {theirs} (IDENTITY_ENDPOINT): set \
             app_service.endpoint to its value"
        );
        notes.steps.push(Step::new(Verdict::Warn, subject, "endpoint", text));
    }
    let (host, port) = host_and_port(authority, 80)?;
    match network::addresses(host, port, site.options.timeout) {
        Ok(found) => found.first().map(|address| Place { address: *address, tls: false }),
        Err(error) => {
            let text = format!("{host} does not resolve: {error}");
            notes.steps.push(Step::new(Verdict::Fail, subject, "dns", text));
            None
        }
    }
}

/// The secret of the platform that Envoy adds. The outer `None` is a failure.
fn header(subject: &str, notes: &mut Notes) -> Option<Option<Secret>> {
    let value = std::env::var("IDENTITY_HEADER").unwrap_or_default();
    if value.is_empty() {
        let text = "IDENTITY_HEADER is not set: Envoy takes it from the environment that the platform \
                    gives to an app with a managed identity. Run the doctor in that environment, and \
                    see that the app has an identity";
        notes.steps.push(Step::new(Verdict::Fail, subject, "header", text));
        return None;
    }
    let secret = Secret::new(value);
    notes.secrets.push(secret.clone());
    Some(Some(secret))
}

/// The way to Entra ID.
fn entra(
    application: &Application,
    subject: &str,
    site: &Site<'_>,
    notes: &mut Notes,
) -> Option<Place> {
    let (host, port) = host_and_port(&application.authority, 443)?;
    let elsewhere = site.elsewhere(&application.cluster);
    let (steps, place) = reach(subject, host, port, elsewhere, site);
    notes.steps.extend(steps);
    place
}

/// Looks a name up and lets it prove itself, unless it is elsewhere.
pub(super) fn reach(
    subject: &str,
    host: &str,
    port: u16,
    elsewhere: Option<Place>,
    site: &Site<'_>,
) -> (Vec<Step>, Option<Place>) {
    let timeout = site.options.timeout;
    let skip = |what: &str, text: String| Step::new(Verdict::Skip, subject, what, text);
    let (dns, place) = match elsewhere {
        Some(place) => {
            let text = format!("{host} is at {} for now, by an option", place.address);
            (skip("dns", text), Some(place))
        }
        None => {
            let (step, address) = network::look_up(subject, host, port, timeout);
            (step, address.map(|address| Place { address, tls: true }))
        }
    };
    let tls = match place {
        None => skip("tls", "for want of an address".to_owned()),
        Some(Place { tls: false, .. }) => skip("tls", "there is none, by an option".to_owned()),
        Some(place) => tls::handshake(subject, host, place.address, &site.trust, timeout),
    };
    let place = place.filter(|_| tls.verdict != Verdict::Fail);
    (vec![dns, tls], place)
}

/// Reads what the application proves itself by, and makes its request of it.
fn prove(
    credential: &Credential,
    application: &Application,
    stage: Stage,
    subject: &str,
    site: &Site<'_>,
    notes: &mut Notes,
) -> Option<Request> {
    let name = proof_name(application.proof);
    let step = |verdict, text: String| Step::new(verdict, subject, name, text);
    let Some(file) = proof_file(application) else {
        let text = "no file is known for it; expected client_secret.secret_file in the document";
        notes.steps.push(step(Verdict::Fail, text.to_owned()));
        return None;
    };
    let body = match contents(&file) {
        Ok(body) => body,
        Err(error) => {
            let hint = match application.proof {
                Proof::FederatedToken => {
                    ". The pod needs the label azure.workload.identity/use: \"true\" and a service \
                     account, for AKS to project it; workload_identity.token_file says where it is, if \
                     not there"
                }
                Proof::ClientSecret => "",
            };
            let text = format!("cannot read {}: {error}{hint}", file.display());
            notes.steps.push(step(Verdict::Fail, text));
            return None;
        }
    };
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    // Whoever repeats the form that it was sent has it encoded.
    let encoded = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
    notes.secrets.extend([Secret::new(text.clone()), Secret::new(encoded)]);
    let reply = Reply::Answer { status: 200, retry_after: None, body };
    match credential.proceed(stage, &reply, site.now, 0) {
        Progress::Ask(request) => {
            let claims = match application.proof {
                Proof::FederatedToken => Claims::of(&text).unwrap_or_default(),
                Proof::ClientSecret => Claims::default(),
            };
            let facts = told(&[
                ("issuer", &claims.issuer),
                ("subject", &claims.subject),
                ("audience", &claims.audience),
                ("expires in", &claims.expires_at.map(|at| left(at, site.now))),
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

/// Where the proof is: what the document says, else where AKS puts it.
fn proof_file(application: &Application) -> Option<PathBuf> {
    match (&application.proof_file, application.proof) {
        (Some(file), _) => Some(PathBuf::from(file)),
        (None, Proof::ClientSecret) => None,
        (None, Proof::FederatedToken) => {
            let named = std::env::var_os("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from);
            let usual = || TOKEN_FILES.iter().map(PathBuf::from).find(|file| file.exists());
            named.or_else(usual).or_else(|| TOKEN_FILES.first().map(PathBuf::from))
        }
    }
}

fn contents(file: &Path) -> io::Result<Vec<u8>> {
    /// More than the module takes for one.
    const LONGEST: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    File::open(file)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads what the endpoint says as the module does.
fn read(
    credential: &Credential,
    subject: &str,
    place: Place,
    answer: Result<Answer, Trouble>,
    site: &Site<'_>,
) -> (Step, Option<SignedIn>) {
    let step = |verdict, text: String| {
        Step::new(verdict, subject, "token", text)
            .with("audience_asked", credential.audience.as_str())
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) => {
            let text = format!(
                "{} {}{}",
                place.address,
                trouble.with_file(&site.options.ca),
                hint(&credential.identity)
            );
            return (step(Verdict::Fail, text), None);
        }
    };
    let (status, said) = (answer.status, Said::read(&answer.body));
    match credential.proceed(Stage::Token, &answer.into_reply(), site.now, 0) {
        Progress::Done(Ok(token)) => {
            let claims = Claims::of(token.secret.expose());
            let (verdict, text) = describe(credential, &token, claims.as_ref(), site.now);
            let known = claims.clone().unwrap_or_default();
            let step = step(verdict, text)
                .with("audience", known.audience)
                .with("tenant", known.tenant)
                .with("principal", known.principal)
                .with("application", known.application)
                .with("identity", known.resource_id)
                .with("expires_in", seconds(token.expires_at, site.now));
            (step, Some(SignedIn { token, claims }))
        }
        Progress::Done(Err(failure)) => {
            let found = Diagnosis::of_refusal(&said).filter(|_| status != 200);
            let slug = found.map(|found| found.slug);
            let text = refusal(&failure, found, place, &credential.identity);
            (step(Verdict::Fail, text).with("status", status).with("diagnosis", slug), None)
        }
        // The module asks no more than twice.
        Progress::Ask(_) => (step(Verdict::Fail, "the answer leads nowhere".to_owned()), None),
    }
}

/// What a refusal says, what it means, and what to do.
fn refusal(
    failure: &Failure,
    found: Option<&Diagnosis>,
    place: Place,
    identity: &Identity,
) -> String {
    let address = place.address;
    match found {
        Some(Diagnosis { slug, wrong, mend, .. }) => {
            format!("{address} {failure}. {slug}: {wrong}. {mend}")
        }
        None => {
            // Whoever is in trouble, or has given a token, is the right one.
            let is_known = matches!(failure.status(), Some(200 | 410 | 429 | 500..));
            format!("{address} {failure}{}", if is_known { "" } else { hint(identity) })
        }
    }
}

/// What to look at where the endpoint of an identity gives nothing to go by.
fn hint(identity: &Identity) -> &'static str {
    match identity {
        Identity::Managed { .. } => {
            ". Is this a machine in Azure, with a managed identity? Pods may be kept from the Instance \
             Metadata Service by a network policy"
        }
        Identity::AppService { .. } => {
            ". IDENTITY_ENDPOINT and IDENTITY_HEADER have to be those of this very start of the app"
        }
        Identity::Application(_) => "",
    }
}

/// Whose a token is and for what, and what of that is odd.
fn describe(
    credential: &Credential,
    token: &Token,
    claims: Option<&Claims>,
    now: SystemTime,
) -> (Verdict, String) {
    let asked = &credential.audience;
    let expires = left(token.expires_at, now);
    let Some(claims) = claims else {
        // A token need not be readable for anybody but the resource.
        return (Verdict::Ok, format!("expires in {expires}; its claims cannot be read"));
    };
    let facts = told(&[
        ("tenant", &claims.tenant),
        ("principal", &claims.principal),
        ("application", &claims.application),
        ("identity", &claims.resource_id),
    ]);
    let audience = claims.audience.as_deref().unwrap_or("nobody");
    let text = format!("for {audience}, expires in {expires}{facts}");
    // Newer tokens have the GUID of whom the audience names.
    let is_url = audience.contains("://");
    let odd = if is_url && audience.trim_end_matches('/') != asked.trim_end_matches('/') {
        Some(format!("it was asked for {asked}: see audience"))
    } else if claims.expires_at.is_some_and(|at| at <= now) {
        Some(
            "by this machine's clock it has expired already: see that the clock is right"
                .to_owned(),
        )
    } else {
        None
    };
    match odd {
        Some(odd) => (Verdict::Warn, format!("{text}; {odd}")),
        None => (Verdict::Ok, text),
    }
}

/// `, name value` for each that is known.
fn told(facts: &[(&str, &Option<String>)]) -> String {
    let known = facts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    known.map(|(name, value)| format!(", {name} {value}")).collect()
}

fn seconds(at: SystemTime, now: SystemTime) -> u64 {
    at.duration_since(now).unwrap_or_default().as_secs()
}

fn left(at: SystemTime, now: SystemTime) -> String {
    humantime::format_duration(Duration::from_secs(seconds(at, now))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_in_the_clear_from_near_places_only() {
        let at = |address: &str, tls| {
            Ok(IdentityEndpoint(Place { address: address.parse().unwrap(), tls }))
        };
        for (text, expected) in [
            ("http://127.0.0.1:8000", at("127.0.0.1:8000", false)),
            ("http://[::1]:8000/", at("[::1]:8000", false)),
            ("http://169.254.169.254:80", at("169.254.169.254:80", false)),
            ("https://10.0.0.1:443", at("10.0.0.1:443", true)),
            (
                "http://10.0.0.1:80",
                Err(EndpointError::InTheClear { address: "10.0.0.1:80".parse().unwrap() }),
            ),
            ("http://127.0.0.1", Err(EndpointError::Form)),
            ("http://localhost:80", Err(EndpointError::Form)),
            ("http://127.0.0.1:80/metadata", Err(EndpointError::Form)),
            ("127.0.0.1:80", Err(EndpointError::Form)),
            ("", Err(EndpointError::Form)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}
