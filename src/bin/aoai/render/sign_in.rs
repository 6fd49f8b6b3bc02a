//! The clusters of the document's identities, each once.

use std::fmt;

use aoai_filter::config::{
    Application, ClientCredential, Config, Credential, Identity, Problem, Problems,
};

/// Where the webhook of AKS puts the projected token, since its version 1.6.
const TOKEN_FILE: &str = "/var/run/secrets/azure/wi/token/azure-identity-token";

/// The problem of a client secret whose file the document does not name.
const MISSING: &str =
    "missing; expected the path of the file that contains the client secret, which Envoy serves to the filter";

/// A cluster of one or more identities.
pub(crate) struct SignIn<'c> {
    pub(crate) cluster: &'c str,
    pub(crate) to: To<'c>,
    /// The path of the first identity that uses it.
    user: String,
}

/// The endpoint of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To<'c> {
    /// The Instance Metadata Service, or an endpoint with its protocol.
    Metadata,
    /// The platform of an app, by its authority.
    AppService(&'c str),
    /// Entra ID, by its authority.
    Entra(&'c str),
    /// A file, which an internal listener of Envoy serves.
    File(&'c str),
}

/// For problems. A file's path is not shown: it may be the secret itself by mistake.
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

/// The clusters of all identities that backends use. Identities may share a cluster, if it leads to the
/// same endpoint.
pub(crate) fn sign_ins(config: &Config) -> Result<Vec<SignIn<'_>>, Problems> {
    let mut found: Vec<SignIn<'_>> = Vec::new();
    let mut problems = Vec::new();
    for (position, credential) in config.credentials.iter().enumerate() {
        if config.backends.iter().all(|backend| backend.credential != position) {
            continue;
        }
        let user = user(credential);
        for Need { field, cluster, to } in needs(&credential.identity) {
            let problem = match (to, found.iter().find(|other| other.cluster == cluster)) {
                (None, _) => MISSING.to_owned(),
                (Some(to), Some(other)) if other.to != to => other.contradicts(to),
                (Some(_), Some(_)) => continue,
                (Some(to), None) => {
                    found.push(SignIn { cluster, to, user: user.clone() });
                    continue;
                }
            };
            problems.push(Problem::new(format!("{user}.{field}"), problem));
        }
    }
    match Problems::from_list(problems) {
        Some(problems) => Err(problems),
        None => Ok(found),
    }
}

impl SignIn<'_> {
    /// The problem of another identity, whose cluster of this name leads to another endpoint.
    fn contradicts(&self, here: To<'_>) -> String {
        let Self { cluster, to: there, user } = self;
        let here = match (there, here) {
            (To::File(_), To::File(_)) => "another file".to_owned(),
            _ => here.to_string(),
        };
        format!(
            "{cluster:?} is also a cluster of {user}, where it leads to {there}; here it leads to \
             {here}; expected another cluster"
        )
    }
}

/// The path of an identity in the document.
fn user(credential: &Credential) -> String {
    match credential.name.as_str() {
        "default" => "identity".to_owned(),
        name if name.contains('-') => format!("identities[{name:?}]"),
        name => format!("identities.{name}"),
    }
}

/// A cluster that an identity uses.
struct Need<'c> {
    /// The field of the document for problems with this cluster.
    field: &'static str,
    cluster: &'c str,
    /// Its endpoint; `None` where the document does not name the file.
    to: Option<To<'c>>,
}

fn needs(identity: &Identity) -> Vec<Need<'_>> {
    let need = |field, cluster, to| Need { field, cluster, to };
    match identity {
        Identity::Managed { cluster, .. } => {
            vec![need("managed_identity.cluster", cluster, Some(To::Metadata))]
        }
        Identity::AppService { cluster, authority, .. } => {
            vec![need("app_service.cluster", cluster, Some(To::AppService(authority)))]
        }
        Identity::Application(application) => {
            let Application { cluster, authority, credential_cluster, credential_file, .. } =
                application;
            let file = credential_file.as_deref();
            let (entra, credential, file) = match application.credential {
                ClientCredential::Assertion => (
                    "workload_identity.cluster",
                    "workload_identity.token_cluster",
                    Some(file.unwrap_or(TOKEN_FILE)),
                ),
                ClientCredential::Secret if file.is_none() => {
                    ("client_secret.cluster", "client_secret.secret_file", None)
                }
                ClientCredential::Secret => {
                    ("client_secret.cluster", "client_secret.secret_cluster", file)
                }
            };
            vec![
                need(entra, cluster, Some(To::Entra(authority))),
                need(credential, credential_cluster, file.map(To::File)),
            ]
        }
    }
}
