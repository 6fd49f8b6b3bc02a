//! What signing in needs: the clusters of the document's identities, each once.

use std::fmt;

use aoai_filter::config::{Application, Config, Credential, Identity, Problem, Problems, Proof};

/// Where the webhook of AKS puts the projected token, since its version 1.6.
const TOKEN_FILE: &str = "/var/run/secrets/azure/wi/token/azure-identity-token";

/// A cluster that an identity calls.
pub(crate) struct SignIn<'c> {
    pub(crate) cluster: &'c str,
    pub(crate) to: To<'c>,
    /// Who needs it, the first one of them.
    user: String,
}

/// What a cluster leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To<'c> {
    /// The Instance Metadata Service, or what speaks its protocol.
    Metadata,
    /// The platform of an app, by its authority.
    AppService(&'c str),
    /// Entra ID, by its authority.
    Entra(&'c str),
    /// A file, by way of a listener of Envoy's own.
    File(&'c str),
}

/// In a problem. A file's path is left out: its content may stand there by mistake.
impl fmt::Display for To<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata => f.write_str("the Instance Metadata Service"),
            Self::AppService(authority) => write!(f, "http://{authority}"),
            Self::Entra(authority) => write!(f, "https://{authority}"),
            Self::File(_) => f.write_str("a file"),
        }
    }
}

/// The clusters of all identities that backends sign in with. Identities may share a cluster, as long
/// as it leads to the same.
pub(crate) fn sign_ins(config: &Config) -> Result<Vec<SignIn<'_>>, Problems> {
    let mut found: Vec<SignIn<'_>> = Vec::new();
    let mut problems = Vec::new();
    for (position, credential) in config.credentials.iter().enumerate() {
        if config.backends.iter().all(|backend| backend.credential != position) {
            continue;
        }
        let user = user(credential);
        for (field, cluster, to) in needs(&credential.identity) {
            let at = format!("{user}.{field}");
            let Ok(to) = to else {
                problems.push(Problem::new(
                    at,
                    "missing; expected the path of the file that has the client secret, which Envoy \
                     is to serve to the filter",
                ));
                continue;
            };
            match found.iter().find(|other| other.cluster == cluster) {
                Some(other) if other.to != to => {
                    let (there, theirs) = (&other.user, other.to);
                    let another = if matches!((theirs, to), (To::File(_), To::File(_))) {
                        "another file".to_owned()
                    } else {
                        to.to_string()
                    };
                    problems.push(Problem::new(
                        at,
                        format!(
                            "{cluster:?} is also a cluster of {there}, where it leads to {theirs}, and \
                             here to {another}; expected one of its own"
                        ),
                    ));
                }
                Some(_) => {}
                None => found.push(SignIn { cluster, to, user: user.clone() }),
            }
        }
    }
    match Problems::from_list(problems) {
        Some(problems) => Err(problems),
        None => Ok(found),
    }
}

/// Where an identity stands in the document.
fn user(credential: &Credential) -> String {
    match credential.name.as_str() {
        "default" => "identity".to_owned(),
        name if name.contains('-') => format!("identities[{name:?}]"),
        name => format!("identities.{name}"),
    }
}

/// The clusters of an identity: in which field the document has what is wrong with one, its name, and
/// what it leads to. An error is a file that nobody knows.
fn needs(identity: &Identity) -> Vec<(&'static str, &str, Result<To<'_>, ()>)> {
    match identity {
        Identity::Managed { cluster, .. } => {
            vec![("managed_identity.cluster", cluster, Ok(To::Metadata))]
        }
        Identity::AppService { cluster, authority, .. } => {
            vec![("app_service.cluster", cluster, Ok(To::AppService(authority)))]
        }
        Identity::Application(application) => {
            let Application { cluster, authority, proof_cluster, proof_file, .. } = application;
            let file = proof_file.as_deref();
            let (entra, proof, file) = match (application.proof, file) {
                (Proof::FederatedToken, file) => (
                    "workload_identity.cluster",
                    "workload_identity.token_cluster",
                    Ok(To::File(file.unwrap_or(TOKEN_FILE))),
                ),
                (Proof::ClientSecret, Some(file)) => {
                    ("client_secret.cluster", "client_secret.secret_cluster", Ok(To::File(file)))
                }
                (Proof::ClientSecret, None) => {
                    ("client_secret.cluster", "client_secret.secret_file", Err(()))
                }
            };
            vec![(entra, cluster, Ok(To::Entra(authority))), (proof, proof_cluster, file)]
        }
    }
}
