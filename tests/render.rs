//! `aoai render`: what it makes of whole documents, byte for byte.
//!
//! `make render` writes the files that are compared here, and envoy/envoy.yaml with them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot run its tool has failed; clippy knows helpers of tests only within cfg(test)"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use aoai_filter::base::digest::Digest;
use aoai_filter::config::{Config, Node};
use serde_json::json;

/// A document, the options, and the file that has what comes of them.
const RENDERED: [(&str, &[&str], &str); 9] = [
    (
        "envoy/example.yaml",
        &[
            "--resolve=eastus=127.0.0.1:18001",
            "--resolve=sweden=127.0.0.1:18002",
            "--identity=127.0.0.1:18000",
        ],
        "envoy/envoy.yaml",
    ),
    (
        "envoy/example.yaml",
        &["--parts", "--host=ai.example.com"],
        "envoy/examples/example.parts.yaml",
    ),
    ("envoy/examples/app-service.yaml", &[], "envoy/examples/app-service.envoy.yaml"),
    ("envoy/examples/workload-identity.yaml", &[], "envoy/examples/workload-identity.envoy.yaml"),
    ("envoy/examples/client-secret.yaml", &[], "envoy/examples/client-secret.envoy.yaml"),
    ("envoy/examples/several.yaml", &[], "envoy/examples/several.envoy.yaml"),
    (SHARED_LIMITS, &[], "envoy/examples/shared-limits.envoy.yaml"),
    ("tests/golden/regions.yaml", &[], "tests/golden/regions.envoy.yaml"),
    (
        "tests/golden/tls.yaml",
        &["--wasm=/etc/envoy/aoai filter.wasm", "--ca=/etc/pki/tls/cert.pem", "--admin-port=9902"],
        "tests/golden/tls.envoy.yaml",
    ),
];

/// Documents for a control plane, in a folder of its name.
const CONTROLLED: [(&str, &str); 5] = [
    ("istio", "own-gateway"),
    ("istio", "shared-gateway"),
    ("istio", "sidecar"),
    ("envoy-gateway", "own-gateway"),
    ("envoy-gateway", "existing-gateway"),
];

const SHARED_LIMITS: &str = "envoy/examples/shared-limits.yaml";

fn rendered(document: &str, options: &[&str]) -> String {
    output_of(command(document).args(options), document)
}

fn output_of(command: &mut Command, document: &str) -> String {
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{document}");
    assert!(output.status.success(), "{document}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a document on standard input renders to.
fn rendered_from(document: &str) -> String {
    let mut child = command("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn command(document: &str) -> Command {
    let mut command = render();
    command.args(["envoy", document]);
    command
}

fn render() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aoai"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("render");
    command
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default()
}

#[test]
fn what_is_rendered_is_what_the_repository_has() {
    for (document, options, file) in RENDERED {
        assert_is(file, &rendered(document, options), document);
    }
    let limits = output_of(render().args(["ratelimit", SHARED_LIMITS]), SHARED_LIMITS);
    assert_is("envoy/examples/shared-limits.ratelimit.yaml", &limits, SHARED_LIMITS);
    for (plane, name) in CONTROLLED {
        let document = format!("envoy/{plane}/{name}.yaml");
        let resources = output_of(render().args([plane, &document]), &document);
        assert_is(&format!("envoy/{plane}/{name}.{plane}.yaml"), &resources, &document);
    }
}

/// The files that a gateway in Kubernetes follows.
#[test]
fn the_files_of_the_gateway_in_kubernetes_are_what_its_document_renders_to() {
    const DOCUMENT: &str = "envoy/kubernetes/gateway.yaml";
    let directory = std::env::temp_dir().join(format!("aoai-kubernetes-{}", std::process::id()));
    let path = directory.to_str().unwrap();
    let options = ["--wasm=/module/plugin.wasm", "--xds", path, "--xds-at=/etc/aoai"];
    assert_eq!(rendered(DOCUMENT, &options), "");
    let mut names: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let files = [
        "bootstrap.yaml",
        "cds.yaml",
        "ecds-aoai.backend.yaml",
        "ecds-aoai.gateway.yaml",
        "lds.yaml",
    ];
    assert_eq!(names, files);
    for name in files {
        let found = std::fs::read_to_string(directory.join(name)).unwrap();
        assert_is(&format!("envoy/kubernetes/xds/{name}"), &found, DOCUMENT);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

fn assert_is(file: &str, found: &str, document: &str) {
    if std::env::var_os("AOAI_RENDER").is_some_and(|value| value == "write") {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), found).unwrap();
    }
    assert!(found == read(file), "{file} is not what {document} renders to: make render");
}

/// The listener's filter has the document as its author wrote it, and those of the pools have none.
#[test]
fn the_document_is_in_the_listener_as_it_is() {
    for (document, options, _) in RENDERED {
        let original: Node = serde_yaml_ng::from_str(&read(document)).unwrap();
        let bootstrap = serde_yaml_ng::from_str(&rendered(document, options)).unwrap();
        let mut found = Vec::new();
        configurations(&bootstrap, &mut found);
        assert_eq!(found, [&original], "{document}");
    }
}

/// The values of all plugin configurations in a tree.
fn configurations<'n>(node: &'n Node, found: &mut Vec<&'n Node>) {
    if let Some(value) = node.field("configuration").and_then(|one| one.field("value")) {
        found.push(value);
    }
    let items = node.as_array().unwrap_or_default().iter();
    let fields = node.as_object().unwrap_or_default().iter().map(|(_, node)| node);
    items.chain(fields).for_each(|node| configurations(node, found));
}

/// Thirty regions and a thousand subscriptions are a bootstrap that Envoy and its reviewers can read:
/// the document once, and few lines for a pool.
#[test]
fn thirty_backends_are_870_pools_of_few_bytes() {
    const BACKENDS: usize = 30;
    let backend =
        |n| json!({"name": format!("b{n}"), "endpoint": format!("https://b{n}.openai.azure.com")});
    let placement =
        |n| json!({"backend": format!("b{n}"), "deployment": "gpt-4o", "priority": n / 10});
    let model = |n| json!({"name": format!("m{n}"), "backends": (0..BACKENDS).map(placement).collect::<Vec<_>>()});
    let subscription = |n| {
        let key = Digest::of(format!("key {n}").as_bytes()).to_string();
        json!({"id": format!("s{n}"), "keys": [key], "models": ["*"]})
    };
    let document = json!({
        "identity": {"managed_identity": {"cluster": "azure_identity"}},
        "subscriptions": (0..1000).map(subscription).collect::<Vec<_>>(),
        "backends": (0..BACKENDS).map(backend).collect::<Vec<_>>(),
        "models": (0..5).map(model).collect::<Vec<_>>(),
    });
    let text = rendered_from(&document.to_string());
    assert!(text.len() < 2 << 20, "{} bytes", text.len());
    let pools = text.lines().filter(|line| line.starts_with("  - name: \"aoai/")).count();
    assert_eq!(pools, BACKENDS * (BACKENDS - 1));
}

/// Whatever cluster the gateway stage names, however few backends may be tried, and whatever cluster
/// an identity calls: it is there, once.
#[test]
fn every_cluster_that_a_request_can_be_sent_to_is_rendered() {
    for (document, options, _) in RENDERED {
        let node = serde_yaml_ng::from_str(&read(document)).unwrap();
        let config = Config::from_node(&node).unwrap();
        let bootstrap = serde_yaml_ng::from_str(&rendered(document, options)).unwrap();
        let names: Vec<_> = clusters(&bootstrap)
            .iter()
            .filter_map(|cluster| cluster.field("name").and_then(Node::as_str))
            .collect();
        let orders = config.models.values().flat_map(|model| {
            model.orders().into_iter().map(|order| model.cluster(&order)).collect::<Vec<_>>()
        });
        let identities = config.credentials.iter().flat_map(|one| one.identity.clusters());
        for wanted in orders.chain(identities.map(str::to_owned)) {
            let count = names.iter().filter(|name| **name == wanted).count();
            assert_eq!(count, 1, "{document}: {wanted}");
        }
    }
}

fn clusters(bootstrap: &Node) -> &[Node] {
    let clusters = bootstrap.field("static_resources").and_then(|one| one.field("clusters"));
    clusters.and_then(Node::as_array).unwrap_or_default()
}
