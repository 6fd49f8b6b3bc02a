//! The types of a configuration: values that cannot be invalid, because only the readers beside this file
//! make them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::endpoint::Endpoint;
use crate::base::digest::Digest;
use crate::base::round_robin::RoundRobin;

/// A whole, valid configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// What tells the document from another one: 12 hex digits of a digest of what it says.
    pub version: String,
    /// The identities with which the proxy signs in to Azure: never empty.
    pub credentials: Vec<Credential>,
    /// How long a request waits for a token when none is ready.
    pub token_wait: Duration,
    /// Where callers reach the gateway. The module itself uses the body limit only.
    pub listener: Listener,
    /// When a backend goes into cooldown, and how long a request tries others.
    pub failover: Failover,
    /// How tokens are counted.
    pub metering: Metering,
    /// Where the counters of the subscriptions' limits live.
    pub limit_store: LimitStore,
    /// The subscriptions, by the digests of their keys.
    pub subscriptions: BTreeMap<Digest, Arc<Subscription>>,
    /// Azure OpenAI resources, in the document's order.
    pub backends: Vec<Arc<Backend>>,
    /// What callers ask for, by name.
    pub models: BTreeMap<String, Arc<Model>>,
    /// The affinities of all models, each once.
    pub affinities: Vec<Affinity>,
    /// How the gateway is part of an Istio mesh, for what the tool renders.
    pub istio: Option<Istio>,
    /// How the gateway is part of what Envoy Gateway manages, for what the tool renders.
    pub envoy_gateway: Option<EnvoyGateway>,
}

/// What the proxy signs in to some of its backends with: an identity, and the audience of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its name in the document, in metrics and in logs: `default`, or a name of `identities`.
    pub name: String,
    /// The identity.
    pub identity: Identity,
    /// The audience of its tokens, such as `https://cognitiveservices.azure.com`.
    pub audience: String,
}

/// How the proxy authenticates to Azure. Exactly one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The managed identity of the machine, from IMDS or an endpoint that speaks its protocol.
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
    /// An application of Entra ID with a client credential of its own.
    Application(Application),
}

/// An application of Entra ID (a service principal) and its client credential (RFC 7521).
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
    /// What it authenticates with.
    pub credential: ClientCredential,
    /// The Envoy cluster that serves the client credential, which Envoy reads from a file.
    pub credential_cluster: String,
    /// Where that file is, for the bootstrap that the tool renders.
    pub credential_file: Option<String>,
}

/// What an application authenticates with to Entra ID (RFC 7521).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCredential {
    /// A client assertion: a service account's token, for which the application has a federated
    /// credential.
    Assertion,
    /// A client secret.
    Secret,
}

impl Identity {
    /// The Envoy clusters that it needs.
    pub fn clusters(&self) -> Vec<&str> {
        match self {
            Self::Managed { cluster, .. } | Self::AppService { cluster, .. } => vec![cluster],
            Self::Application(application) => {
                vec![&application.cluster, &application.credential_cluster]
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
    /// Its certificate and private key; without them, keys travel in clear text.
    pub tls: Option<TlsFiles>,
    /// How many bytes of a body it holds back: for a model at the body's end, and for a retry.
    pub body_limit: u32,
    /// How many bytes of bodies each worker has Envoy buffer at once.
    pub request_buffer: u64,
    /// How many connections Envoy accepts at once.
    pub max_connections: u32,
    /// How many bytes its heap may have; close to that it refuses requests.
    pub heap_limit: u64,
    /// Where metrics and readiness are shown, where they are.
    pub monitoring: Option<Monitoring>,
    /// Whether Envoy writes a line for each request.
    pub access_log: AccessLog,
}

/// What Envoy writes of each request to its standard output.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// A JSON object, on a line.
    #[default]
    Json,
    /// Nothing.
    None,
}

/// Where scrapers and probes find metrics and readiness, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Monitoring {
    /// The address; by default all of the machine's: what scrapes and probes is elsewhere.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// How the gateway is part of an Istio mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Istio {
    /// What the rendered resources are called.
    pub name: String,
    /// Which proxies it is in.
    pub attach: Attach,
    /// The namespace of those proxies, and of what is rendered.
    pub namespace: String,
    /// The labels of their pods.
    pub selector: Vec<(String, String)>,
    /// The port that callers use: of the Gateway and of its Service, or of the hosts that a sidecar's workload calls.
    pub port: u16,
    /// The hosts that callers use; none: all hosts of the port.
    pub hosts: Vec<String>,
    /// Where the proxies get the module from.
    pub module: ModuleSource,
    /// The revision of Istio's control plane that is meant, where there are several.
    pub revision: Option<String>,
}

/// Which proxies of a mesh the gateway is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attach {
    /// Those of a gateway.
    Gateway {
        /// The port at which the proxies themselves listen: the Service's `targetPort`.
        target_port: u16,
        /// The resource that has them listen.
        resource: GatewayResource,
    },
    /// The sidecars of workloads that call Azure OpenAI.
    Sidecar,
}

/// The Gateway of Istio's that has proxies listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayResource {
    /// Rendered with the rest.
    Own {
        /// The Kubernetes secret with the certificate and its key; without it, keys travel in clear text.
        tls_secret: Option<String>,
    },
    /// One that is there.
    Existing,
}

/// How the gateway is part of what Envoy Gateway manages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyGateway {
    /// What the rendered resources are called.
    pub name: String,
    /// The namespace of the Gateway, and of what is rendered.
    pub namespace: String,
    /// Whose proxies it is in.
    pub gateway: ApiGateway,
    /// The hosts that callers use; none: all hosts of the own Gateway.
    pub hosts: Vec<String>,
    /// Where the proxies get the module from.
    pub module: ModuleSource,
}

/// The Gateway of the Gateway API that has proxies listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiGateway {
    /// Rendered with the rest.
    Own {
        /// The GatewayClass, which leads to Envoy Gateway.
        class: String,
        /// The port that callers use.
        port: u16,
        /// The Kubernetes secret with the certificate and its key; without it, keys travel in clear text.
        tls_secret: Option<String>,
    },
    /// One that is there.
    Existing {
        /// Its name.
        name: String,
        /// The name of its listener.
        listener: String,
        /// The name of its first listener at the same port: Envoy Gateway calls Envoy's listener by it.
        first_listener: String,
    },
}

/// Where proxies get the module from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleSource {
    /// A file in their container, by its absolute path.
    File(String),
    /// An image in a registry, by its digest: `oci://REGISTRY/REPOSITORY@sha256:DIGEST`.
    Image(String),
}

/// PEM files on the proxy's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The path of the certificate and its chain.
    pub certificate: String,
    /// The path of its private key.
    pub key: String,
}

/// When a backend goes into cooldown, and how long a request tries others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// The cooldown after a 429 that contains no time; each further one in a row doubles it.
    pub cooldown: Duration,
    /// The longest cooldown, whether doubled or given by a 429: never less than `cooldown`.
    pub longest_cooldown: Duration,
    /// How many 5xx responses or failed connections in a row put a backend into cooldown.
    pub failures_in_a_row: u32,
    /// No further attempt starts later than this after a backend first had the whole request.
    pub retry_within: Duration,
}

/// How the tokens that requests use are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metering {
    /// Those of streamed responses.
    pub streams: Streams,
}

/// How the tokens of streamed chats and completions are counted, which Azure tells only where it is asked to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Streams {
    /// Exactly: it is asked, and what the caller has not asked for is taken out of the response.
    #[default]
    Exact,
    /// As far as the caller has asked for it, and estimated otherwise. Requests and responses stay as they
    /// are.
    Reported,
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
    /// How much it may use.
    pub limits: Limits,
    /// When it begins to be valid.
    pub not_before: Option<SystemTime>,
    /// When it is no longer valid.
    pub expires_at: Option<SystemTime>,
    /// The backend of its requests that name no model: one of those that serve a model of its scope, by
    /// rendezvous hashing of its id.
    pub default_backend: Arc<Backend>,
}

/// How much a subscription may use. What is absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of all models together but for those that have limits of their own, and of requests that name none.
    pub all: Rates,
    /// Of single models, in place of those.
    pub models: BTreeMap<String, Rates>,
    /// Of all models together, and for longer than a minute.
    pub quota: Option<Quota>,
}

/// How much may be used in a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests.
    pub requests_per_minute: Option<u32>,
    /// Tokens, of the input and of the output.
    pub tokens_per_minute: Option<u32>,
}

/// How many tokens may be used in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Tokens, of the input and of the output.
    pub tokens: u32,
    /// How long a period is.
    pub period: Period,
}

/// A period of a fixed length: periods of one kind follow each other without a gap since the beginning of
/// 1970, in UTC, as envoyproxy/ratelimit counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From minute 0 on.
    Hour,
    /// From midnight on.
    Day,
    /// Seven days, from Thursday on: 1970 began with one.
    Week,
    /// Thirty days, whatever the calendar says.
    Month,
    /// 365 days.
    Year,
}

/// Where the counters of limits live.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LimitStore {
    /// In this proxy process, for all of its workers.
    #[default]
    Local,
    /// In envoyproxy/ratelimit, for all proxies together.
    Shared(SharedStore),
}

/// A service that counts for all proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStore {
    /// The Envoy cluster that reaches it.
    pub cluster: String,
    /// Where that cluster leads, for the renderer.
    pub endpoint: StoreEndpoint,
    /// What happens to requests while it does not respond.
    pub on_error: OnStoreError,
}

/// Where a service that counts for all proxies is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEndpoint {
    /// Host and port, as a URL has them.
    pub authority: String,
    /// Whether it is reached by TLS.
    pub tls: bool,
}

/// What happens to requests while limits cannot be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreError {
    /// They are refused.
    Deny,
    /// They are let through, and counted.
    Allow,
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
    /// Its URL.
    pub endpoint: Endpoint,
    /// Its position in [`Config::backends`].
    pub position: usize,
    /// The Envoy cluster that reaches it.
    pub cluster: String,
    /// What the proxy signs in to it with: the position in [`Config::credentials`].
    pub credential: usize,
}

/// What callers ask for, and the backends that serve it.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    /// The name that callers use.
    pub name: String,
    /// What makes its requests prefer one of its backends.
    pub affinity: Option<Affinity>,
    /// The backends that serve it: never empty, ordered by priority and then as the document has them.
    pub placements: Vec<Placement>,
    /// Counts its requests, for weights.
    pub round_robin: RoundRobin,
}

/// What requests have in common that prefer the same backend, such as one that has their prompt's
/// beginning in its cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// The value of this field of a JSON body, one of [`AFFINITY_FIELDS`].
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

/// The fields of a JSON body that an affinity may use: equal for requests whose prompts begin with the
/// same text (OpenAI's API reference; `prompt_cache_key` replaces `user`).
pub const AFFINITY_FIELDS: [&str; 2] = ["prompt_cache_key", "user"];
