//! The EnvoyPatchPolicy: changes of what Envoy Gateway has its proxies do, by JSON Patch (RFC 6902).

use aoai_filter::config::{ApiGateway, Config, EnvoyGateway};

use super::resources::{metadata, LISTENER};
use crate::render::clusters::clusters;
use crate::render::destinations::Destinations;
use crate::render::filter::Filters;
use crate::render::listener::VirtualHost;
use crate::render::options::Addresses;
use crate::render::pools::Pool;
use crate::render::yaml::{indented, item, scalar};
use crate::render::{client_credential, guard, ratelimit};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENERS: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

/// Every HTTP connection manager of a listener: one without TLS, or one for each certificate.
const MANAGERS: &str =
    "$..filters[?(@.name == 'envoy.filters.network.http_connection_manager')].typed_config";

/// What the policy is made from.
pub(super) struct Policy<'a> {
    pub(super) section: &'a EnvoyGateway,
    pub(super) config: &'a Config,
    pub(super) pools: &'a [Pool<'a>],
    pub(super) filters: &'a Filters<'a>,
}

impl Policy<'_> {
    /// The resource.
    pub(super) fn resource(
        &self,
        destinations: &Destinations<'_>,
        addresses: &Addresses,
    ) -> String {
        let metadata = metadata(self.section);
        let (gateway, listener, first_listener) = self.gateway();
        let named = |listener: &str| format!("{}/{gateway}/{listener}", self.section.namespace);
        let gateway = scalar(gateway);
        let clusters = clusters(destinations, addresses, self.filters);
        let added = client_credential::listeners(&destinations.sign_ins);
        let patches: String = added
            .iter()
            .map(|one| add_resource(LISTENERS, one))
            .chain(clusters.iter().map(|one| add_resource(CLUSTER, one)))
            .chain(self.listener(&named(first_listener)))
            .chain([self.host(&named(listener))])
            .collect();
        format!(
            "\
# Where requests can go, the filter, and its routes. Envoy Gateway does not look into the document: what rendered this
# has checked it. A proxy that gets a document with problems nevertheless keeps its old one; one that starts with it
# replies 500. Its log has the reason.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
{metadata}spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: {gateway}}}
  type: JSONPatch
  jsonPatches:
{}",
            indented(&patches, 2)
        )
    }

    /// The Gateway, its listener, and the first at the same port.
    fn gateway(&self) -> (&str, &str, &str) {
        match &self.section.gateway {
            ApiGateway::Own { .. } => (&self.section.name, LISTENER, LISTENER),
            ApiGateway::Existing { name, listener, first_listener } => {
                (name, listener, first_listener)
            }
        }
    }

    /// The patches of the listener: each of the filters gets before those that are there.
    fn listener(&self, listener: &str) -> Vec<String> {
        let limit = self.config.listener.body_limit;
        let add = |place: Place<'_>, text: &str| add(LISTENERS, listener, place, text);
        let first = Place { within: Some(MANAGERS), path: "/http_filters/0" };
        let buffer = format!(
            "\
# How much of a body Envoy buffers: until its model is known, and for another attempt.
- {limit}
"
        );
        let mut all = vec![
            add(Place { within: None, path: "/per_connection_buffer_limit_bytes" }, &buffer),
            add(
                Place { within: Some(MANAGERS), path: "/upgrade_configs/-" },
                "- upgrade_type: websocket\n",
            ),
        ];
        let limits = ratelimit::filter(self.config, true);
        if !limits.is_empty() {
            all.push(add(first, &limits));
        }
        let filter =
            format!("# Requests for other hosts pass it by.\n{}", self.filters.gateway(true));
        all.extend([add(first, &filter), add(first, &guard::filter())]);
        all
    }

    fn host(&self, routes: &str) -> String {
        let host = VirtualHost {
            config: self.config,
            pools: self.pools,
            hosts: &self.section.hosts,
            enables: &[guard::FILTER, self.filters.gateway_name()],
            is_mesh: true,
        };
        add(ROUTES, routes, Place { within: None, path: "/virtual_hosts/-" }, &host.item())
    }
}

/// A patch that adds a whole resource, which an item has.
fn add_resource(kind: &str, added: &str) -> String {
    let name = added.lines().find_map(|line| line.strip_prefix("- name: ")).unwrap_or_default();
    add(kind, name, Place { within: None, path: "" }, added)
}

/// Where a patch adds something.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The parts of the resource that are meant, by a JSONPath; none: the resource.
    within: Option<&'a str>,
    /// Where in there, by a JSON pointer; empty: the resource is added.
    path: &'a str,
}

/// A patch that adds an item. Comments above the item are above the patch.
fn add(kind: &str, name: &str, place: Place<'_>, added: &str) -> String {
    let (comments, value) = item(added);
    let value = indented(&value, 6);
    let within = place.within.map(|path| format!("    jsonPath: {}\n", scalar(path)));
    let within = within.unwrap_or_default();
    let path = scalar(place.path);
    format!(
        "\
{comments}- type: type.googleapis.com/{kind}
  name: {name}
  operation:
    op: add
{within}    path: {path}
    value:
{value}"
    )
}
