//! The resources besides the EnvoyPatchPolicy.

use aoai_filter::config::{ApiGateway, EnvoyGateway, ModuleSource};

use crate::render::client_credential;
use crate::render::destinations::Destinations;
use crate::render::envoy::STATS_TAGS;
use crate::render::sign_in::To;
use crate::render::yaml::{indented, scalar};

/// Where the image of the module is mounted in the proxies' container.
const MOUNT: &str = "/aoai-filter";

/// The module in there.
pub(super) const MODULE: &str = "/aoai-filter/plugin.wasm";

/// The listener of the own Gateway.
pub(super) const LISTENER: &str = "aoai";

/// What the proxies' pods and their bootstrap need.
pub(super) fn proxy(section: &EnvoyGateway, destinations: &Destinations<'_>) -> String {
    let comment = match &section.gateway {
        ApiGateway::Own { .. } => PROXY.to_owned(),
        ApiGateway::Existing { name, .. } => {
            let (namespace, proxy) = (&section.namespace, &section.name);
            format!(
                "\
{PROXY}# Where the Gateway {name} has an EnvoyProxy already, copy the spec into that one. Where it has none:
#   kubectl patch gateway {name} -n {namespace} --type merge -p \\
#     '{{\"spec\": {{\"infrastructure\": {{\"parametersRef\": {{\"group\": \"gateway.envoyproxy.io\", \"kind\": \"EnvoyProxy\", \"name\": \"{proxy}\"}}}}}}}}'
"
            )
        }
    };
    let metadata = metadata(section);
    let bootstrap = STATS_TAGS.to_owned() + client_credential::extension(&destinations.sign_ins);
    let bootstrap = indented(bootstrap.trim_start_matches('\n'), 6);
    let signs_in = destinations.sign_ins.iter().any(|one| matches!(one.to, To::File(_)));
    let kubernetes = pods(section, signs_in);
    format!(
        "\
{comment}apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
{metadata}spec:
  bootstrap:
    type: Merge
    value: |
{bootstrap}{DRAIN}{kubernetes}"
    )
}

/// How long requests that have begun go on. Envoy's HTTP connection managers have no timeout for streams, and Envoy
/// Gateway's default is a minute.
const DRAIN: &str = "  \
  # A new document replaces the proxies' listener. For so long what it has begun goes on, and no longer.
  shutdown: {drainTimeout: 900s}
";

const PROXY: &str = "\
# What the proxies' pods and their bootstrap need: the module, labels for the metrics.
";

/// The pods: with the image of the module, and as a service account that an application trusts.
fn pods(section: &EnvoyGateway, signs_in: bool) -> String {
    let (mut pod, mut container, mut account) = (String::new(), String::new(), String::new());
    if signs_in {
        let name = scalar(&section.name);
        pod += "          labels: {azure.workload.identity/use: \"true\"}\n";
        account = format!(
            "      \
      # The application has a federated credential for it, in the namespace where the proxies run: by default
      # system:serviceaccount:envoy-gateway-system:{name}.
      envoyServiceAccount: {{name: {name}}}
"
        );
    }
    if let ModuleSource::Image(image) = &section.module {
        let image = scalar(image.trim_start_matches("oci://"));
        pod +=
            &format!("          volumes: [{{name: aoai-filter, image: {{reference: {image}}}}}]\n");
        container = format!(
            "        \
        container:
          volumeMounts: [{{name: aoai-filter, mountPath: {MOUNT}, readOnly: true}}]
"
        );
    }
    if pod.is_empty() {
        return String::new();
    }
    format!(
        "  \
  provider:
    type: Kubernetes
    kubernetes:
{account}      envoyDeployment:
        pod:
{pod}{container}"
    )
}

/// The Gateway, unless one is there.
pub(super) fn gateway(section: &EnvoyGateway) -> Option<String> {
    let ApiGateway::Own { class, port, tls_secret } = &section.gateway else {
        return None;
    };
    let metadata = metadata(section);
    let (class, proxy) = (scalar(class), scalar(&section.name));
    let (protocol, tls) = match tls_secret {
        Some(secret) => {
            let secret = scalar(secret);
            let tls =
                format!("    tls: {{mode: Terminate, certificateRefs: [{{name: {secret}}}]}}\n");
            ("HTTPS", tls)
        }
        None => ("HTTP", String::new()),
    };
    Some(format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
{metadata}spec:
  gatewayClassName: {class}
  infrastructure:
    parametersRef: {{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: {proxy}}}
  listeners:
  - name: {LISTENER}
    port: {port}
    protocol: {protocol}
{tls}"
    ))
}

/// The metadata of each resource.
pub(super) fn metadata(section: &EnvoyGateway) -> String {
    let (name, namespace) = (scalar(&section.name), scalar(&section.namespace));
    format!("metadata:\n  name: {name}\n  namespace: {namespace}\n")
}
