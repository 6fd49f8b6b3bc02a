//! The configuration document, parsed once into a model that cannot be invalid.
//!
//! [`Config::from_plugin`] reads what Envoy hands the module; the command-line tool reads YAML of the
//! same shape through [`Config::from_node`]. Either every problem of the document comes back, or a
//! [`Config`] in which every name resolves.

mod affinity;
mod authority;
mod backend;
mod cloud;
mod credential;
mod document;
mod endpoint;
mod failover;
mod identity;
mod listener;
mod model;
mod names;
mod node;
mod problem;
mod protobuf;
mod reader;
mod subscription;
mod time;

#[cfg(test)]
mod tests;

pub use authority::host_and_port;
pub use cloud::Cloud;
pub use endpoint::{Endpoint, EndpointError};
pub use node::{Node, NodeError};
pub use problem::{Problem, Problems};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::placement::Turns;

/// A whole, valid configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// With what the proxy signs in to Azure: never empty.
    pub credentials: Vec<Credential>,
    /// How long a request waits for a token when none is ready.
    pub token_wait: Duration,
    /// Where callers reach the gateway. The module itself has no use for it.
    pub listener: Listener,
    /// When a backend is left alone, and how long a request tries others.
    pub failover: Failover,
    /// Who may call, by the digest of the key that they present.
    pub subscriptions: BTreeMap<Digest, Arc<Subscription>>,
    /// Azure OpenAI resources, in the document's order.
    pub backends: Vec<Arc<Backend>>,
    /// What callers ask for, by name.
    pub models: BTreeMap<String, Arc<Model>>,
    /// What draws requests to a backend, be it for one model or another: each once.
    pub affinities: Vec<Affinity>,
}

impl Config {
    /// Reads a configuration as Envoy hands it to a plugin: JSON, from a
    /// `google.protobuf.StringValue`, or a `google.protobuf.Struct` in its wire format.
    ///
    /// # Errors
    /// As [`Config::from_json`].
    pub fn from_plugin(bytes: &[u8]) -> Result<Self, Problems> {
        match protobuf::read_struct(bytes) {
            Some(node) if !bytes.is_empty() => Self::from_node(&node),
            _ => Self::from_json(bytes),
        }
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// Every [`Problem`] of the document at once, or the one place where it is not JSON.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Problems> {
        if bytes.trim_ascii().is_empty() {
            return Err(Problem::new("", "empty; expected the configuration as JSON").into());
        }
        let node = Node::from_json(bytes).map_err(|error| {
            Problem::of_syntax(error.line, error.column, &format!("not JSON: {}", error.what))
        })?;
        Self::from_node(&node)
    }

    /// Reads a configuration from a tree, whatever syntax it had.
    ///
    /// # Errors
    /// Every [`Problem`] of the document at once.
    pub fn from_node(node: &Node) -> Result<Self, Problems> {
        let mut reader = reader::Reader::default();
        let config = document::config(&mut reader, node);
        reader.finish(config)
    }
}

/// With what the proxy signs in to some of its backends: who it is, and for what it asks a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its name in the document, in metrics and in logs: `default`, or a name of `identities`.
    pub name: String,
    /// Who the proxy is.
    pub identity: Identity,
    /// What tokens are asked for, such as `https://cognitiveservices.azure.com`.
    pub audience: String,
}

/// How the proxy proves who it is. Exactly one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The managed identity of the machine, asked from IMDS or what speaks its protocol.
    Managed {
        /// The Envoy cluster that reaches the endpoint.
        cluster: String,
        /// Which of the machine's identities.
        selector: IdentitySelector,
    },
    /// The managed identity of an App Service, a function app or a container app. Envoy adds the
    /// header `X-IDENTITY-HEADER` on the way.
    AppService {
        /// The Envoy cluster that reaches the endpoint.
        cluster: String,
        /// The host and port of the endpoint.
        authority: String,
        /// Its path.
        path: String,
        /// Which of the app's identities.
        selector: IdentitySelector,
    },
    /// An application of Entra ID that proves who it is by itself.
    Application(Application),
}

/// An application of Entra ID (a service principal) and its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// The Envoy cluster that reaches Entra ID.
    pub cluster: String,
    /// Entra ID's host.
    pub authority: String,
    /// The tenant: a GUID, or a domain.
    pub tenant: String,
    /// The application's id.
    pub client_id: String,
    /// What it proves itself by.
    pub proof: Proof,
    /// The Envoy cluster that serves the proof, which Envoy reads from a file.
    pub proof_cluster: String,
    /// Where that file is, for the bootstrap that the tool renders.
    pub proof_file: Option<String>,
}

/// What an application proves itself by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A token of a service account, which the application has a federated credential for.
    FederatedToken,
    /// A client secret.
    ClientSecret,
}

impl Identity {
    /// The Envoy clusters that it needs.
    pub fn clusters(&self) -> Vec<&str> {
        match self {
            Self::Managed { cluster, .. } | Self::AppService { cluster, .. } => vec![cluster],
            Self::Application(application) => {
                vec![&application.cluster, &application.proof_cluster]
            }
        }
    }
}

/// Which managed identity is meant, where a machine has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySelector {
    /// The one that Azure gave to the machine itself.
    SystemAssigned,
    /// A user-assigned identity by its application id.
    ClientId(String),
    /// A user-assigned identity by its principal's object id.
    ObjectId(String),
    /// A user-assigned identity by its ARM resource id.
    ResourceId(String),
}

/// Where callers reach the gateway, in the bootstrap that the tool renders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address that it listens at; by default this machine's own, which others cannot reach.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// With what it proves who it is; without, keys travel in the clear.
    pub tls: Option<TlsFiles>,
    /// How many bytes of a body it holds back: for a model at the body's end, and for a retry.
    pub body_limit: u32,
}

/// PEM files on the proxy's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The path of the certificate and its chain.
    pub certificate: String,
    /// The path of its private key.
    pub key: String,
}

/// When a backend is left alone, and how long a request tries others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// How long a 429 without a hint cools a backend; each further one in a row doubles it.
    pub cooldown: Duration,
    /// The most that any cooldown lasts, grown or hinted: never less than `cooldown`.
    pub longest_cooldown: Duration,
    /// How many 5xx or connection failures in a row cool a backend.
    pub failures_in_a_row: u32,
    /// No further attempt starts later than this after a backend first had the whole request.
    pub retry_within: Duration,
}

/// A consumer and what it may do.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The name that shows in metrics and logs.
    pub id: String,
    /// The models that it may ask for.
    pub models: ModelScope,
    /// The kinds of operation that it may call.
    pub operations: OperationScope,
    /// Whether an operator has switched it off.
    pub suspended: bool,
    /// When it begins to be valid.
    pub not_before: Option<SystemTime>,
    /// When it is no longer valid.
    pub expires_at: Option<SystemTime>,
    /// Where its requests that name no model go: the first backend, in the document's order, that
    /// serves a model of its scope.
    pub home: Arc<Backend>,
}

/// Which models a subscription may ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum ModelScope {
    /// `["*"]`: all of the document's models.
    All,
    /// These, sorted by name.
    Only(Vec<String>),
}

/// Which kinds of operation a subscription may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationScope {
    /// Chat completions, embeddings and whatever else leaves nothing behind.
    pub inference: bool,
    /// What reads or changes what other callers may have stored on the Azure resource.
    pub resources: bool,
}

/// An Azure OpenAI resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name in this document, in metrics and in `x-aoai-backend`.
    pub name: String,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// The Envoy cluster that reaches it.
    pub cluster: String,
    /// With what the proxy signs in to it: the position in [`Config::credentials`].
    pub credential: usize,
}

/// What callers ask for, and who serves it.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that callers use.
    pub name: String,
    /// What draws its requests to one of those that serve it.
    pub affinity: Option<Affinity>,
    /// Who serves it: never empty, ordered by priority and then as the document has them.
    pub placements: Vec<Placement>,
    /// Counts its requests, for weights.
    pub turns: Turns,
}

/// What requests have in common that prefer the same backend, such as one that has their prompt's
/// beginning in its cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// The value of this field of a JSON body, one of [`crate::body::AFFINITY_FIELDS`].
    Body(&'static str),
    /// The value of this header; its name is in lower case.
    Header(String),
}

/// A model's place on one backend.
#[derive(Debug, PartialEq, Eq)]
pub struct Placement {
    /// The resource.
    pub backend: Arc<Backend>,
    /// The deployment's name there.
    pub deployment: String,
    /// Lower numbers are used first.
    pub priority: u32,
    /// The share of requests within a priority, at least 1.
    pub weight: u32,
}
