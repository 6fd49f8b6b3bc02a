//! The patches of the EnvoyFilters, as items of lists.

use aoai_filter::config::{Attach, Config, GatewayResource, Istio};

use crate::render::filter::Filters;
use crate::render::listener::{VirtualHost, EARLY};
use crate::render::pools::Pool;
use crate::render::ratelimit;
use crate::render::yaml::{indented, item};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// What tells Istio's proxies not to choose a protocol by ALPN for a cluster: Azure is no proxy of theirs.
const NO_ALPN: &str = "  metadata: {filter_metadata: {istio: {alpn_override: \"false\"}}}\n";

/// What patches are made from.
pub(super) struct Patches<'a> {
    pub(super) istio: &'a Istio,
    pub(super) config: &'a Config,
    pub(super) pools: &'a [Pool<'a>],
    pub(super) filters: &'a Filters<'a>,
}

impl Patches<'_> {
    /// Those that add internal listeners and clusters.
    pub(super) fn destinations(&self, listeners: &[String], clusters: &[String]) -> String {
        let context = self.context();
        let add =
            |what: &str, item: &str| patch(what, &format!("context: {context}"), "ADD", Some(item));
        let listeners = listeners.iter().map(|one| add("LISTENER", one));
        let clusters = clusters.iter().map(|one| add("CLUSTER", &(one.clone() + NO_ALPN)));
        listeners.chain(clusters).collect()
    }

    /// Those that add the filter and its routes.
    pub(super) fn gateway(&self) -> String {
        let extensions = self.filters.discovered().map(|(name, config)| {
            let item = format!("- name: {name}\n  typed_config:\n{}", indented(&config, 4));
            let comment = match name == self.filters.gateway_name() {
                true => "# The gateway stage, with the document.\n",
                false => "# The backend stage, which the pools have.\n",
            };
            comment.to_owned()
                + &patch(
                    "EXTENSION_CONFIG",
                    &format!("context: {}", self.context()),
                    "ADD",
                    Some(&item),
                )
        });
        let [backend, gateway] = &extensions;
        let backend = if self.pools.is_empty() { "" } else { backend.as_str() };
        [backend, gateway, &self.manager(), &self.listener(), &self.http_filters(), &self.hosts()]
            .concat()
    }

    /// On every port: were the port above another than the one of the routes below, callers could choose a cluster
    /// there.
    fn manager(&self) -> String {
        let early = indented(EARLY, 4);
        let item = format!(
            "\
# On every port.
- typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
{early}"
        );
        let context = self.context();
        let found = format!(
            "context: {context}, listener: {{filterChain: {{filter: {{name: {MANAGER}}}}}}}"
        );
        patch("NETWORK_FILTER", &found, "MERGE", Some(&item))
    }

    fn listener(&self) -> String {
        let limit = self.config.listener.body_limit;
        let item = format!(
            "\
# How much of a body Envoy buffers: until its model is known, and for another attempt.
- per_connection_buffer_limit_bytes: {limit}
"
        );
        patch("LISTENER", &self.in_listener(""), "MERGE", Some(&item))
    }

    /// Before the router: off, and on for the virtual host below.
    fn http_filters(&self) -> String {
        let router = "envoy.filters.http.router";
        let found = self.in_listener(&format!(
            "filterChain: {{filter: {{name: {MANAGER}, subFilter: {{name: {router}}}}}}}"
        ));
        let insert = |item: &str| patch("HTTP_FILTER", &found, "INSERT_BEFORE", Some(item));
        let mut text = insert(&format!(
            "# Requests for other hosts pass it by.\n{}",
            self.filters.gateway(true)
        ));
        let limits = ratelimit::filter(self.config, true);
        if !limits.is_empty() {
            text += &insert(&limits);
        }
        text
    }

    /// The virtual host, and those that are in its place without it.
    fn hosts(&self) -> String {
        let Istio { port, hosts, .. } = self.istio;
        let replaced: Vec<_> = match &self.istio.attach {
            Attach::Gateway { .. } if hosts.is_empty() => vec![format!("blackhole:{port}")],
            Attach::Gateway { .. } => Vec::new(),
            Attach::Sidecar => hosts.iter().map(|host| format!("{host}:{port}")).collect(),
        };
        let removed = replaced.iter().map(|name| {
            let found = self.in_routes(&format!(", vhost: {{name: \"{name}\"}}"));
            "# In its place: the virtual host below.\n".to_owned()
                + &patch("VIRTUAL_HOST", &found, "REMOVE", None)
        });
        let host = VirtualHost {
            config: self.config,
            pools: self.pools,
            hosts,
            enables: &[self.filters.gateway_name()],
            is_mesh: true,
        };
        removed.collect::<String>()
            + &patch("VIRTUAL_HOST", &self.in_routes(""), "ADD", Some(&host.item()))
    }

    fn context(&self) -> &'static str {
        match self.istio.attach {
            Attach::Gateway { .. } => "GATEWAY",
            Attach::Sidecar => "SIDECAR_OUTBOUND",
        }
    }

    /// Matches the listener of the port, and what is within.
    fn in_listener(&self, within: &str) -> String {
        let port = match self.istio.attach {
            Attach::Gateway { target_port, .. } => target_port,
            Attach::Sidecar => self.istio.port,
        };
        let comma = if within.is_empty() { "" } else { ", " };
        let context = self.context();
        format!("context: {context}, listener: {{portNumber: {port}{comma}{within}}}")
    }

    /// Matches the routes of the port: where our own Gateway has a certificate, those of that Gateway alone.
    fn in_routes(&self, within: &str) -> String {
        let Istio { name, port, namespace, .. } = self.istio;
        let gateway = match &self.istio.attach {
            Attach::Gateway { resource: GatewayResource::Own { tls_secret: Some(_) }, .. } => {
                format!(", gateway: {namespace}/{name}")
            }
            _ => String::new(),
        };
        let context = self.context();
        format!("context: {context}, routeConfiguration: {{portNumber: {port}{gateway}{within}}}")
    }
}

/// A patch. Comments above an item are above its patch.
fn patch(what: &str, found: &str, operation: &str, added: Option<&str>) -> String {
    let (comments, value) = added.map(item).unwrap_or_default();
    let value = match value {
        none if none.is_empty() => none,
        some => format!("    value:\n{}", indented(&some, 6)),
    };
    format!(
        "\
{comments}- applyTo: {what}
  match: {{{found}}}
  patch:
    operation: {operation}
{value}"
    )
}
