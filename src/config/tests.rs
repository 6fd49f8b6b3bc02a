//! The document as a whole: its configuration, and the problem that each mistake is reported as.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::base::digest::Digest;
use crate::base::rendezvous::affinity;
use crate::base::round_robin::RoundRobin;

/// A document in which every field has a value.
const WHOLE: &str = r#"
identity:
  managed_identity:
    cluster: azure_identity
    client_id: 3F0C0000-0000-0000-0000-00000000000a
audience: https://ai.azure.com
token_wait: 2m
listener:
  address: "::"
  port: 8443
  tls: {certificate: /etc/tls/tls.crt, key: /etc/tls/tls.key}
  body_limit: 512KiB
  request_buffer: 32MiB
  max_connections: 500
  heap_limit: 2048MiB
  monitoring: {address: 10.0.0.5, port: 9100}
  access_log: none
failover:
  cooldown: 2s
  longest_cooldown: 90s
  failures_in_a_row: 5
  retry_within: 1500ms
metering:
  streams: reported
limits:
  store: ratelimit
  endpoint: https://limits.internal:8081
  cluster: counters
  on_error: allow
istio:
  name: ai
  attach: gateway
  namespace: ingress
  selector: {app: gateway, example.com/tier: "1"}
  gateway: own
  port: 443
  target_port: 9443
  hosts: [AI.example.com, ai.internal]
  tls_secret: ai-certificate
  module: oci://r.example.com/aoai@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  revision: canary
envoy_gateway:
  name: ai
  namespace: ingress
  class: internal
  port: 444
  hosts: [AI.example.com]
  tls_secret: ai-certificate
  module: /aoai.wasm
subscriptions:
- id: search-team
  keys:
  - sha256:1111111111111111111111111111111111111111111111111111111111111111
  - sha256:2222222222222222222222222222222222222222222222222222222222222222
  models: [gpt-4o, embeddings]
  operations: [resources]
  limits:
    requests_per_minute: 600
    tokens_per_minute: 50000
    models:
      gpt-4o: {tokens_per_minute: 20000}
    quota: {tokens: 20000000, period: month}
  state: suspended
  not_before: 2026-01-01T00:00:00Z
  expires_at: 2027-01-01T00:00:00Z
- id: platform
  keys: ["sha256:3333333333333333333333333333333333333333333333333333333333333333"]
  models: ["*"]
  operations: ["*"]
  state: active
backends:
- name: spare
  endpoint: https://contoso-spare.openai.azure.com
- name: eastus
  endpoint: https://contoso-eastus.openai.azure.com
  cluster: outbound|443||eastus
  custom_domain: false
- name: sweden
  endpoint: https://ai.contoso.example:8443
  custom_domain: true
models:
- name: gpt-4o
  affinity: {header: X-Session-Id}
  backends:
  - {backend: sweden, priority: 1}
  - {backend: eastus, deployment: gpt-4o-2024-11-20, priority: 0, weight: 3}
- name: embeddings
  backends: [{backend: sweden}]
"#;

/// What is left of it when everything optional is left out.
const LEAST: &str = r#"
identity: {managed_identity: {cluster: imds}}
subscriptions:
- id: all
  keys: ["sha256:4444444444444444444444444444444444444444444444444444444444444444"]
  models: ["*"]
backends: [{name: eastus, endpoint: "https://contoso.openai.azure.com"}]
models: [{name: gpt-4o, backends: [{backend: eastus}]}]
"#;

fn read(yaml: &str) -> Result<Config, String> {
    let node: Node = serde_yaml_ng::from_str(yaml).unwrap();
    Config::from_node(&node).map_err(|problems| problems.to_string())
}

fn digest(digit: &str) -> Digest {
    format!("sha256:{}", digit.repeat(64)).parse().unwrap()
}

#[test]
fn a_whole_document_reads() {
    let config = read(WHOLE).unwrap();
    assert_eq!(
        config.credentials[0].identity,
        Identity::Managed {
            cluster: "azure_identity".into(),
            selector: IdentitySelector::ClientId("3f0c0000-0000-0000-0000-00000000000a".into()),
        }
    );
    assert_eq!(config.credentials[0].audience, "https://ai.azure.com");
    assert_eq!(config.token_wait, Duration::from_secs(120));
    let tls = TlsFiles { certificate: "/etc/tls/tls.crt".into(), key: "/etc/tls/tls.key".into() };
    assert_eq!(
        config.listener,
        Listener {
            address: Ipv6Addr::UNSPECIFIED.into(),
            port: 8443,
            tls: Some(tls),
            body_limit: 524_288,
            request_buffer: 33_554_432,
            max_connections: 500,
            heap_limit: 2_147_483_648,
            monitoring: Some(Monitoring { address: [10, 0, 0, 5].into(), port: 9100 }),
            access_log: AccessLog::None,
        }
    );
    assert_eq!(
        config.failover,
        Failover {
            cooldown: Duration::from_secs(2),
            longest_cooldown: Duration::from_secs(90),
            failures_in_a_row: 5,
            retry_within: Duration::from_millis(1500),
        }
    );
    assert_eq!(config.metering, Metering { streams: Streams::Reported });
    let endpoint = StoreEndpoint { authority: "limits.internal:8081".into(), tls: true };
    let store = SharedStore { cluster: "counters".into(), endpoint, on_error: OnStoreError::Allow };
    assert_eq!(config.limit_store, LimitStore::Shared(store));

    let istio = Istio {
        name: "ai".into(),
        attach: Attach::Gateway {
            target_port: 9443,
            resource: GatewayResource::Own { tls_secret: Some("ai-certificate".into()) },
        },
        namespace: "ingress".into(),
        selector: vec![("app".into(), "gateway".into()), ("example.com/tier".into(), "1".into())],
        port: 443,
        hosts: vec!["ai.example.com".into(), "ai.internal".into()],
        module: ModuleSource::Image(format!("oci://r.example.com/aoai@sha256:{}", "a".repeat(64))),
        revision: Some("canary".into()),
    };
    assert_eq!(config.istio, Some(istio));
    let envoy_gateway = EnvoyGateway {
        name: "ai".into(),
        namespace: "ingress".into(),
        gateway: ApiGateway::Own {
            class: "internal".into(),
            port: 444,
            tls_secret: Some("ai-certificate".into()),
        },
        hosts: vec!["ai.example.com".into()],
        module: ModuleSource::File("/aoai.wasm".into()),
    };
    assert_eq!(config.envoy_gateway, Some(envoy_gateway));

    let backend = |position, name: &str, endpoint: &str, cluster: &str| {
        Arc::new(Backend {
            name: name.into(),
            endpoint: Endpoint::parse_custom_domain(endpoint).unwrap(),
            position,
            cluster: cluster.into(),
            credential: 0,
        })
    };
    let spare = backend(0, "spare", "https://contoso-spare.openai.azure.com", "aoai_spare");
    let eastus =
        backend(1, "eastus", "https://contoso-eastus.openai.azure.com", "outbound|443||eastus");
    let sweden = backend(2, "sweden", "https://ai.contoso.example:8443", "aoai_sweden");
    assert_eq!(config.backends, [spare, eastus.clone(), sweden.clone()]);

    let model = |name: &str, placements| {
        let affinity = (name == "gpt-4o").then(|| Affinity::Header("x-session-id".into()));
        Arc::new(Model {
            name: name.into(),
            affinity,
            placements,
            round_robin: RoundRobin::default(),
        })
    };
    let placement = |backend: &Arc<Backend>, deployment: &str, priority, weight| Placement {
        backend: Arc::clone(backend),
        deployment: deployment.into(),
        priority,
        weight,
    };
    let gpt =
        vec![placement(&eastus, "gpt-4o-2024-11-20", 0, 3), placement(&sweden, "gpt-4o", 1, 1)];
    let embeddings = vec![placement(&sweden, "embeddings", 0, 1)];
    assert_eq!(
        config.models,
        BTreeMap::from([
            ("gpt-4o".to_owned(), model("gpt-4o", gpt)),
            ("embeddings".to_owned(), model("embeddings", embeddings)),
        ])
    );

    assert_eq!(config.affinities, [Affinity::Header("x-session-id".into())]);

    let default_backend = |id| {
        let backends = [&eastus, &sweden];
        let drawn = |backend: &&&Arc<Backend>| affinity(id, &backend.name);
        Arc::clone(backends.iter().max_by_key(drawn).unwrap())
    };
    let search = Arc::new(Subscription {
        id: "search-team".into(),
        models: ModelScope::Only(vec!["embeddings".into(), "gpt-4o".into()]),
        operations: OperationScope { inference: false, resources: true },
        limits: Limits {
            all: Rates { requests_per_minute: Some(600), tokens_per_minute: Some(50_000) },
            models: BTreeMap::from([(
                "gpt-4o".to_owned(),
                Rates { requests_per_minute: Some(600), tokens_per_minute: Some(20_000) },
            )]),
            quota: Some(Quota { tokens: 20_000_000, period: Period::Month }),
        },
        suspended: true,
        not_before: Some(UNIX_EPOCH + Duration::from_secs(1_767_225_600)),
        expires_at: Some(UNIX_EPOCH + Duration::from_secs(1_798_761_600)),
        default_backend: default_backend("search-team"),
    });
    let platform = Arc::new(Subscription {
        id: "platform".into(),
        models: ModelScope::All,
        operations: OperationScope { inference: true, resources: true },
        limits: Limits::default(),
        suspended: false,
        not_before: None,
        expires_at: None,
        default_backend: default_backend("platform"),
    });
    assert_eq!(
        config.subscriptions,
        BTreeMap::from([
            (digest("1"), Arc::clone(&search)),
            (digest("2"), search),
            (digest("3"), platform),
        ])
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = read(LEAST).unwrap();
    let identity =
        Identity::Managed { cluster: "imds".into(), selector: IdentitySelector::SystemAssigned };
    let audience = "https://cognitiveservices.azure.com".into();
    assert_eq!(config.credentials, [Credential { name: "default".into(), identity, audience }]);
    assert_eq!(config.token_wait, Duration::from_secs(5));
    assert_eq!(
        config.listener,
        Listener {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 10_000,
            tls: None,
            body_limit: 10_485_760,
            request_buffer: 134_217_728,
            max_connections: 10_000,
            heap_limit: 1_073_741_824,
            monitoring: None,
            access_log: AccessLog::Json,
        }
    );
    assert_eq!(
        config.failover,
        Failover {
            cooldown: Duration::from_secs(10),
            longest_cooldown: Duration::from_secs(120),
            failures_in_a_row: 3,
            retry_within: Duration::from_secs(10),
        }
    );
    assert_eq!(config.metering, Metering { streams: Streams::Exact });
    assert_eq!(config.backends[0].cluster, "aoai_eastus");
    let placement = &config.models["gpt-4o"].placements[0];
    assert_eq!((&*placement.deployment, placement.priority, placement.weight), ("gpt-4o", 0, 1));
    let subscription = &config.subscriptions[&digest("4")];
    assert_eq!(subscription.operations, OperationScope { inference: true, resources: false });
    assert!(!subscription.suspended);
    assert_eq!((subscription.not_before, subscription.expires_at), (None, None));
}

#[test]
fn placements_of_a_priority_keep_the_order_of_the_document() {
    let mut document = String::from(
        "identity: {managed_identity: {cluster: imds}}\n\
         subscriptions: [{id: a, keys: ['sha256:1111111111111111111111111111111111111111111111111111111111111111'], models: ['*']}]\n\
         backends:\n",
    );
    for name in ["a", "b", "c", "d"] {
        writeln!(document, "- {{name: {name}, endpoint: 'https://{name}0.openai.azure.com'}}")
            .unwrap();
    }
    document += "models: [{name: m, backends: [{backend: d, priority: 2}, {backend: c}, {backend: a, priority: 2}, {backend: b}]}]";
    let config = read(&document).unwrap();
    let order: Vec<_> = config.models["m"].placements.iter().map(|p| &*p.backend.name).collect();
    assert_eq!(order, ["c", "b", "d", "a"]);
}

#[test]
fn the_default_backend_is_one_of_the_scope_in_any_order_of_the_document() {
    let turned = WHOLE.replace(
        "[{backend: sweden}]",
        "[{backend: eastus}, {backend: sweden}, {backend: spare, deployment: e}]",
    );
    for (scope, backends) in [
        ("[gpt-4o]", &["eastus", "sweden"][..]),
        ("[embeddings]", &["eastus", "sweden", "spare"]),
        (r#"["*"]"#, &["eastus", "sweden", "spare"]),
    ] {
        let config = read(&turned.replace("[gpt-4o, embeddings]", scope)).unwrap();
        let subscription = &config.subscriptions[&digest("1")];
        let drawn = |backend: &&&str| affinity(&subscription.id, backend);
        let most = backends.iter().max_by_key(drawn).copied();
        assert_eq!(Some(subscription.default_backend.name.as_str()), most, "{scope}");
    }
}

#[test]
fn every_form_of_identity_reads() {
    const GUID: &str = "00000000-0000-0000-0000-00000000000f";
    const ARM: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/me";
    for (field, expected) in [
        (format!("client_id: {GUID}"), IdentitySelector::ClientId(GUID.into())),
        (format!("object_id: {GUID}"), IdentitySelector::ObjectId(GUID.into())),
        (format!("resource_id: {ARM}"), IdentitySelector::ResourceId(ARM.into())),
    ] {
        let config =
            read(&LEAST.replace("cluster: imds", &format!("cluster: imds, {field}"))).unwrap();
        let expected = Identity::Managed { cluster: "imds".into(), selector: expected };
        assert_eq!(config.credentials[0].identity, expected, "{field}");
    }
}

/// The problems of the whole document with one part of it replaced.
fn assert_says(rows: &[(&str, &str, &str, &str)]) {
    for (name, part, instead, expected) in rows {
        assert_eq!(WHOLE.matches(part).count(), 1, "{name}: {part:?} is not there once");
        let problems = read(&WHOLE.replace(part, instead)).expect_err(name);
        assert_eq!(problems, *expected, "{name}");
    }
}

#[test]
fn mistakes_of_form_are_reported() {
    assert_says(&[
        ("unknown field near another", "audience:", "audiance:", r#"audiance: unknown field; did you mean "audience"?"#),
        ("unknown field", "audience:", "proxy:", "proxy: unknown field; expected cloud, identity, identities, audience, token_wait, listener, failover, metering, limits, subscriptions or another of the document's"),
        ("unknown field within", "custom_domain: false", "port: 443", "backends[1].port: unknown field; expected name, endpoint, cluster, custom_domain or identity"),
        ("unknown field of a placement", "weight: 3", "wieght: 3", r#"models[0].backends[1].wieght: unknown field; did you mean "weight"?"#),
        ("field of odd characters", "audience:", "\"a\\nb.c\":", "[\"a\\nb.c\"]: unknown field; expected cloud, identity, identities, audience, token_wait, listener, failover, metering, limits, subscriptions or another of the document's"),
        ("merge key", "state: active", "<<: {state: active}", r#"subscriptions[1]["<<"]: unknown field; expected id, keys, models, operations, limits, state, not_before or expires_at"#),
        ("duplicate field", "state: active", "state: active\n  state: active", "subscriptions[1].state: given twice; keep one"),
        ("field three times", "token_wait: 2m", "token_wait: 2m\ntoken_wait: 3m\ntoken_wait: 4m", "token_wait: given twice; keep one\ntoken_wait: given twice; keep one"),
        ("missing field", "- name: spare\n  endpoint", "- endpoint", "backends[0].name: missing; expected 1 to 63 of a-z, 0-9, - and _, with a letter or digit at both ends"),
        ("number for a string", "name: spare", "name: 1", "backends[0].name: found a number; expected a string; put it in quotes"),
        ("boolean for a string", "name: spare", "name: true", "backends[0].name: found a boolean; expected a string; put it in quotes"),
        ("nothing for a string", "name: spare", "name:", "backends[0].name: found null; expected a string; give it a value or leave the field out"),
        ("nothing for a list", "operations: [resources]", "operations:", "subscriptions[0].operations: found null; expected a list; give it a value or leave the field out"),
        ("string for a list", "models: [gpt-4o, embeddings]", "models: gpt-4o", "subscriptions[0].models: found a string; expected a list"),
        ("string for an object", "[{backend: sweden}]", "[sweden]", "models[1].backends[0]: found a string; expected an object"),
        ("string for a boolean", "custom_domain: false", "custom_domain: \"no\"", "backends[1].custom_domain: found a string; expected true or false"),
        ("empty list", "[{backend: sweden}]", "[]", "models[1].backends: found an empty list; expected at least one backend"),
        ("no operations", "operations: [resources]", "operations: []", "subscriptions[0].operations: found an empty list; expected at least one operation"),
        ("no models", "models: [gpt-4o, embeddings]", "models: []", "subscriptions[0].models: found an empty list; expected at least one model"),
        ("models left out", "  models: [gpt-4o, embeddings]\n", "", "subscriptions[0].models: missing; expected the models that it may use, or [\"*\"] for all"),
    ]);
}

#[test]
fn a_document_of_another_kind_is_reported() {
    const MISSING: &str = "identity: missing; expected how the proxy signs in to Azure\n\
         backends: missing; expected the Azure OpenAI resources\n\
         models: missing; expected the models that callers may use\n\
         subscriptions: missing; expected the callers and their keys";
    for (name, yaml, expected) in [
        ("list", "[]", "document: found a list; expected an object"),
        ("text", "hello", "document: found a string; expected an object"),
        (
            "null",
            "~",
            "document: found null; expected an object; give it a value or leave the field out",
        ),
        ("empty object", "{}", MISSING),
    ] {
        assert_eq!(read(yaml).unwrap_err(), expected, "{name}");
    }
    let empty_lists =
        LEAST.lines().take(2).collect::<String>() + "\nbackends: []\nmodels: []\nsubscriptions: []";
    assert_eq!(
        read(&empty_lists).unwrap_err(),
        "backends: found an empty list; expected at least one backend\n\
         models: found an empty list; expected at least one model\n\
         subscriptions: found an empty list; expected at least one subscription"
    );
}

#[test]
fn what_is_not_json_says_where() {
    for (name, json, expected) in [
        ("nothing", "", "document: empty; expected the configuration as JSON"),
        ("white space", " \n", "document: empty; expected the configuration as JSON"),
        ("YAML", "identity:\n", "line 1, column 1: not JSON: expected value"),
        ("cut off", "{\"identity\": {", "line 1, column 14: not JSON: EOF while parsing an object"),
        ("second document", "{}\n{}", "line 2, column 1: not JSON: trailing characters"),
    ] {
        let problems = Config::from_json(json.as_bytes()).unwrap_err();
        assert_eq!(problems.to_string(), expected, "{name}");
        assert_eq!(problems.count(), 1, "{name}");
    }
}

/// What the cluster of an identity has to be.
const IDENTITY_CLUSTER: &str =
    "expected the name of an Envoy cluster, without spaces, and not beginning with aoai_ or aoai/, \
     because the route leads requests of callers to such clusters";

#[test]
fn mistakes_of_the_identity_are_reported() {
    const CLIENT: &str = "client_id: 3F0C0000-0000-0000-0000-00000000000a";
    const IDENTITY: &str = "managed_identity:\n    cluster: azure_identity\n    client_id: 3F0C0000-0000-0000-0000-00000000000a";
    const GUID: &str =
        "that is not a GUID; expected one such as 00000000-0000-0000-0000-000000000000";
    assert_says(&[
        ("no kind", IDENTITY, "{}", "identity: found 0 kinds of identity; expected exactly one of: managed_identity, app_service, workload_identity, client_secret"),
        ("unknown kind", IDENTITY, "api_key: 5ecre7", "identity.api_key: unknown field; expected managed_identity, app_service, workload_identity, client_secret, cloud or audience"),
        ("secret kind", IDENTITY, "client_secret: 5ecre7", "identity.client_secret: found a string; expected an object"),
        ("mistyped kind", "managed_identity:", "managed_idenity:", r#"identity.managed_idenity: unknown field; did you mean "managed_identity"?"#),
        ("two kinds", "  managed_identity:", "  app_service: {}\n  managed_identity:", "identity: found 2 kinds of identity; expected exactly one of: managed_identity, app_service, workload_identity, client_secret"),
        ("one kind twice",
            "  managed_identity:",
            "  managed_identity: {cluster: a}\n  managed_identity:",
            "identity.managed_identity: given twice; keep one",
        ),
        ("no object", IDENTITY, "managed_identity", "identity: found a string; expected an object"),
        ("no cluster", "    cluster: azure_identity\n", "", "identity.managed_identity.cluster: missing; expected the Envoy cluster of the endpoint"),
        ("empty cluster", "cluster: azure_identity", "cluster: ''", &format!("identity.managed_identity.cluster: found \"\"; {IDENTITY_CLUSTER}")),
        ("cluster like a backend's", "cluster: azure_identity", "cluster: aoai_identity", &format!("identity.managed_identity.cluster: found \"aoai_identity\"; {IDENTITY_CLUSTER}")),
        ("cluster like a pool", "cluster: azure_identity", "cluster: aoai/identity", &format!("identity.managed_identity.cluster: found \"aoai/identity\"; {IDENTITY_CLUSTER}")),
        ("two selectors", CLIENT, "client_id: 3f0c0000-0000-0000-0000-00000000000a\n    resource_id: /subscriptions/x", "identity.managed_identity: found client_id and resource_id; expected at most one of them, to name one identity"),
        ("client id of another form", CLIENT, "client_id: \"{3f0c0000-0000-0000-0000-00000000000a}\"", &format!("identity.managed_identity.client_id: found a string of 38 characters {GUID}")),
        (
            "client id and more",
            CLIENT,
            "client_id: 3f0c0000-0000-0000-0000-00000000000a0",
            &format!("identity.managed_identity.client_id: found a string of 37 characters {GUID}"),
        ),
        (
            "short client id",
            CLIENT,
            "client_id: 3f0c0000-0000-0000-0000-00000000000",
            &format!("identity.managed_identity.client_id: found a string of 35 characters {GUID}"),
        ),
        ("client id with another letter", CLIENT, "client_id: 3f0c0000-0000-0000-0000-00000000000g", &format!("identity.managed_identity.client_id: found a string of 36 characters {GUID}")),
        ("object id without hyphens", CLIENT, "object_id: 3f0c0000000000000000000000000000000a", &format!("identity.managed_identity.object_id: found a string of 36 characters {GUID}")),
        ("resource id", CLIENT, "resource_id: resourceGroups/x", r#"identity.managed_identity.resource_id: found "resourceGroups/x"; expected an ARM resource id such as /subscriptions/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME"#),
    ]);
}

/// The least document with other identities, and a backend of its own for each of these names.
fn with_identities(identities: &str, backends: &[(&str, &str)]) -> String {
    let backends = backends.iter().enumerate().map(|(index, (host, identity))| {
        let identity =
            if identity.is_empty() { String::new() } else { format!(", identity: {identity}") };
        format!("- {{name: b{index}, endpoint: \"https://{host}\"{identity}}}\n")
    });
    let backends: String = backends.collect();
    let digest = "1".repeat(64);
    format!(
        "{identities}\nbackends:\n{backends}models: [{{name: m, backends: [{{backend: b0}}]}}]\n\
         subscriptions: [{{id: s, keys: [\"sha256:{digest}\"], models: [m]}}]\n"
    )
}

#[test]
fn every_kind_of_identity_reads() {
    const GUID: &str = "00000000-0000-0000-0000-00000000000f";
    let app_service = |authority: &str, path: &str, selector| Identity::AppService {
        cluster: "c".into(),
        authority: authority.into(),
        path: path.into(),
        selector,
    };
    let application = |authority: &str, tenant: &str, credential, file: Option<&str>| {
        Identity::Application(Application {
            cluster: "c".into(),
            authority: authority.into(),
            tenant: tenant.into(),
            client_id: GUID.into(),
            credential,
            credential_cluster: "p".into(),
            credential_file: file.map(str::to_owned),
        })
    };
    let selected = IdentitySelector::ClientId(GUID.into());
    for (text, expected) in [
        (
            "app_service: {cluster: c}".to_owned(),
            app_service("localhost:42356", "/msi/token", IdentitySelector::SystemAssigned),
        ),
        (
            format!("app_service: {{cluster: c, endpoint: 'http://172.16.0.5:8081/msi/token/', client_id: {GUID}}}"),
            app_service("172.16.0.5:8081", "/msi/token/", selected),
        ),
        (
            format!("workload_identity: {{tenant: {GUID}, client_id: {GUID}, cluster: c, token_cluster: p}}"),
            application("login.microsoftonline.com", GUID, ClientCredential::Assertion, None),
        ),
        (
            format!("workload_identity: {{tenant: Contoso.onmicrosoft.com, client_id: {GUID}, cluster: c, token_cluster: p, token_file: /t}}\n  cloud: us_government"),
            application("login.microsoftonline.us", "contoso.onmicrosoft.com", ClientCredential::Assertion, Some("/t")),
        ),
        (
            format!("client_secret: {{tenant: {GUID}, client_id: {GUID}, cluster: c, secret_cluster: p, secret_file: /s, authority: 'https://login.example.com:8443/'}}\n  cloud: china"),
            application("login.example.com:8443", GUID, ClientCredential::Secret, Some("/s")),
        ),
    ] {
        let end = if text.contains("us_gov") { "us" } else if text.contains("china") { "cn" } else { "com" };
        let document =
            with_identities(&format!("identity:\n  {text}"), &[(&format!("contoso.openai.azure.{end}"), "")]);
        let config = read(&document).unwrap_or_else(|problems| panic!("{text}: {problems}"));
        assert_eq!(config.credentials[0].identity, expected, "{text}");
        assert_eq!(config.credentials[0].audience, format!("https://cognitiveservices.azure.{end}"));
    }
}

#[test]
fn backends_sign_in_with_the_identity_that_they_name() {
    let identities = "cloud: china\n\
        identity: {managed_identity: {cluster: imds}}\n\
        identities:\n  gov: {cloud: us_government, managed_identity: {cluster: gov}}\n  \
        foundry: {audience: 'https://ai.azure.cn', managed_identity: {cluster: imds}}";
    let backends = [
        ("contoso-a.openai.azure.cn", ""),
        ("contoso-b.openai.azure.us", "gov"),
        ("contoso-c.openai.azure.cn", "foundry"),
        ("contoso-d.openai.azure.cn", "default"),
    ];
    let config = read(&with_identities(identities, &backends)).unwrap();
    let signs_in = config.backends.iter().map(|backend| {
        let credential = &config.credentials[backend.credential];
        (credential.name.as_str(), credential.audience.as_str())
    });
    assert_eq!(
        signs_in.collect::<Vec<_>>(),
        [
            ("default", "https://cognitiveservices.azure.cn"),
            ("gov", "https://cognitiveservices.azure.us"),
            ("foundry", "https://ai.azure.cn"),
            ("default", "https://cognitiveservices.azure.cn"),
        ]
    );
    let slots: BTreeSet<_> = config.credentials.iter().map(Credential::slot).collect();
    assert_eq!(slots.len(), 3, "a token for each identity and audience");
}

#[test]
fn mistakes_of_identities_are_reported() {
    const IMDS: &str = "{managed_identity: {cluster: imds}}";
    const COM: &str = "contoso.openai.azure.com";
    let default = format!("identity: {IMDS}");
    let wi = |more: &str| {
        format!(
            "identity: {{workload_identity: {{tenant: contoso.com, client_id: \
             00000000-0000-0000-0000-00000000000f, cluster: c, token_cluster: p{more}}}}}"
        )
    };
    let wrong_tenant = wi("").replace("contoso.com", "s3cr3t~value");
    let rows: &[(&str, String, (&str, &str), &str)] = &[
        ("no identity", String::new(), (COM, ""), "identity: missing; expected how the proxy signs in to Azure"),
        ("unknown identity", format!("{default}\nidentities: {{gov: {IMDS}}}"), (COM, "guv"), r#"backends[0].identity: "guv" is not one of the document's identities; did you mean "gov"?"#),
        ("identity of none", default.clone(), (COM, "gov"), r#"backends[0].identity: found "gov", but the document has no identities"#),
        ("no default", format!("identities: {{gov: {IMDS}}}"), (COM, ""), "backends[0].identity: missing; expected the name of one of the document's identities, because there is no default one (the field identity)"),
        ("taken name", format!("{default}\nidentities: {{default: {IMDS}}}"), (COM, ""), "identities.default: found the name of the field identity; expected another one"),
        ("name of another form", format!("{default}\nidentities: {{Gov: {IMDS}}}"), (COM, ""), "identities.Gov: found this name; expected 1 to 63 of a-z, 0-9, - and _, with a letter or digit at both ends"),
        ("none at all", format!("{default}\nidentities: {{}}"), (COM, ""), "identities: found no identity; expected at least one, by its name"),
        ("no object", format!("{default}\nidentities: [gov]"), (COM, ""), "identities: found a list; expected an object"),
        ("unknown cloud", format!("cloud: gov\n{default}"), (COM, ""), r#"cloud: found "gov"; expected public, us_government or china"#),
        ("endpoint of another cloud", default.clone(), ("contoso.openai.azure.us", ""), r#"backends[0].endpoint: "contoso.openai.azure.us" is in Azure Government, and its token is for "https://cognitiveservices.azure.com", the audience of Azure's public cloud: it would be refused with 401; expected cloud: us_government for the identity that this backend signs in with"#),
        ("public endpoint of another cloud's identity", format!("{default}\nidentities: {{cn: {{cloud: china, managed_identity: {{cluster: i}}}}}}"), (COM, "cn"), r#"backends[0].endpoint: "contoso.openai.azure.com" is in Azure's public cloud, and its token is for "https://cognitiveservices.azure.cn", the audience of Azure in China: it would be refused with 401; expected cloud: public for the identity that this backend signs in with"#),
        ("authority of another cloud", wi(", authority: 'https://login.microsoftonline.us'"), (COM, ""), r#"identity: "login.microsoftonline.us" gives tokens for Azure Government, and the audience "https://cognitiveservices.azure.com" belongs to Azure's public cloud; expected both of one cloud: cloud: us_government or cloud: public sets both"#),
        ("authority with a path", wi(", authority: 'https://login.microsoftonline.com/common'"), (COM, ""), r#"identity.workload_identity.authority: found "https://login.microsoftonline.com/common"; expected an https URL without a path, such as https://login.microsoftonline.com"#),
        ("authority without TLS", wi(", authority: 'http://localhost'"), (COM, ""), r#"identity.workload_identity.authority: found "http://localhost"; expected an https URL without a path, such as https://login.microsoftonline.com"#),
        ("one cluster for both", wi("").replace("token_cluster: p", "token_cluster: c"), (COM, ""), "identity.workload_identity.token_cluster: found the cluster of Entra ID again; expected one of its own"),
        ("a secret for a tenant", wrong_tenant, (COM, ""), "identity.workload_identity.tenant: found a string of 12 characters that is not a tenant; expected its GUID, or a domain such as contoso.onmicrosoft.com"),
        ("no token cluster", wi("").replace(", token_cluster: p", ""), (COM, ""), "identity.workload_identity.token_cluster: missing; expected the Envoy cluster of a listener that serves the projected service account token"),
        ("a secret in the document", wi("").replace("workload_identity", "client_secret").replace("token_cluster: p", "secret: s3cr3t"), (COM, ""), "identity.client_secret.secret: unknown field; expected tenant, client_id, cluster, authority, secret_cluster or secret_file\nidentity.client_secret.secret_cluster: missing; expected the Envoy cluster of a listener that serves the client secret"),
        ("App Service without http", "identity: {app_service: {cluster: c, endpoint: 'https://x/msi'}}".to_owned(), (COM, ""), r#"identity.app_service.endpoint: found "https://x/msi"; expected what the platform puts into IDENTITY_ENDPOINT, such as http://localhost:42356/msi/token"#),
        ("App Service far away", "identity: {app_service: {cluster: c, endpoint: 'http://8.8.8.8/msi'}}".to_owned(), (COM, ""), r#"identity.app_service.endpoint: found "http://8.8.8.8/msi"; expected what the platform puts into IDENTITY_ENDPOINT, such as http://localhost:42356/msi/token"#),
        ("App Service of another domain", "identity: {app_service: {cluster: c, endpoint: 'http://msi.example.com/msi'}}".to_owned(), (COM, ""), r#"identity.app_service.endpoint: found "http://msi.example.com/msi"; expected what the platform puts into IDENTITY_ENDPOINT, such as http://localhost:42356/msi/token"#),
        ("App Service without a path", "identity: {app_service: {cluster: c, endpoint: 'http://x'}}".to_owned(), (COM, ""), r#"identity.app_service.endpoint: found "http://x"; expected what the platform puts into IDENTITY_ENDPOINT, such as http://localhost:42356/msi/token"#),
        ("App Service with a port that is none", "identity: {app_service: {cluster: c, endpoint: 'http://x:y/z'}}".to_owned(), (COM, ""), r#"identity.app_service.endpoint: found "http://x:y/z"; expected what the platform puts into IDENTITY_ENDPOINT, such as http://localhost:42356/msi/token"#),
        ("authority with two ports", wi(", authority: 'https://a:1:2'"), (COM, ""), r#"identity.workload_identity.authority: found "https://a:1:2"; expected an https URL without a path, such as https://login.microsoftonline.com"#),
        ("a token that callers could reach", wi("").replace("token_cluster: p", "token_cluster: aoai_b0"), (COM, ""), &format!("identity.workload_identity.token_cluster: found \"aoai_b0\"; {IDENTITY_CLUSTER}")),
        ("a secret that callers could reach", wi("").replace("workload_identity", "client_secret").replace("token_cluster: p", "secret_cluster: aoai/b0"), (COM, ""), &format!("identity.client_secret.secret_cluster: found \"aoai/b0\"; {IDENTITY_CLUSTER}")),
        ("an Entra ID that callers could reach", wi("").replace("cluster: c", "cluster: aoai_entra"), (COM, ""), &format!("identity.workload_identity.cluster: found \"aoai_entra\"; {IDENTITY_CLUSTER}")),
        ("an App Service that callers could reach", "identity: {app_service: {cluster: aoai_msi}}".to_owned(), (COM, ""), &format!("identity.app_service.cluster: found \"aoai_msi\"; {IDENTITY_CLUSTER}")),
        ("a backend at the service account token", wi(""), (COM, "default, cluster: p"), "backends[0].cluster: \"p\" is also the cluster of the identity; expected one of its own, because a cluster reaches one resource"),
        ("a backend at a named identity", format!("{default}\nidentities: {{gov: {{managed_identity: {{cluster: g}}}}}}"), (COM, "gov, cluster: g"), "backends[0].cluster: \"g\" is also the cluster of identities.gov; expected one of its own, because a cluster reaches one resource"),
        ("a named identity that callers could reach", format!("{default}\nidentities: {{gov: {{managed_identity: {{cluster: aoai_b0}}}}}}"), (COM, ""), &format!("identities.gov.managed_identity.cluster: found \"aoai_b0\"; {IDENTITY_CLUSTER}")),
    ];
    for (name, identities, backend, expected) in rows {
        let problems = read(&with_identities(identities, &[*backend])).expect_err(name);
        assert_eq!(problems, *expected, "{name}");
    }
}

#[test]
fn mistakes_of_audience_and_wait_are_reported() {
    const AUDIENCE: &str = "audience: https://ai.azure.com";
    const UNIT: &str = "expected one whole number and its unit, such as 500ms, 5s or 2m";
    const URL: &str = "expected an https URL such as https://cognitiveservices.azure.com";
    assert_says(&[
        ("scope", AUDIENCE, "audience: https://ai.azure.com/.default", r#"audience: "https://ai.azure.com/.default" is a scope; expected the audience, "https://ai.azure.com": the filter adds /.default where an endpoint requires it"#),
        ("slash at the end", AUDIENCE, "audience: https://ai.azure.com/", r#"audience: "https://ai.azure.com/" ends with a slash, which Azure takes for another audience; expected "https://ai.azure.com""#),
        ("http", AUDIENCE, "audience: http://ai.azure.com", &format!(r#"audience: found "http://ai.azure.com"; {URL}"#)),
        ("no host", AUDIENCE, "audience: https://", &format!(r#"audience: found "https://"; {URL}"#)),
        ("empty host", AUDIENCE, "audience: https:///x", &format!(r#"audience: found "https:///x"; {URL}"#)),
        ("space", AUDIENCE, "audience: 'https://ai.azure.com '", &format!(r#"audience: found "https://ai.azure.com "; {URL}"#)),
        ("query", AUDIENCE, "audience: https://ai.azure.com?x", &format!(r#"audience: found "https://ai.azure.com?x"; {URL}"#)),
        ("no unit", "token_wait: 2m", "token_wait: 5", "token_wait: found a number without a unit; expected a duration such as 500ms, 5s or 2m"),
        ("two units", "token_wait: 2m", "token_wait: 1m30s", &format!(r#"token_wait: found "1m30s"; {UNIT}"#)),
        ("another unit", "token_wait: 2m", "token_wait: 1h", &format!(r#"token_wait: found "1h"; {UNIT}"#)),
        ("too long", "token_wait: 2m", "token_wait: 300001ms", r#"token_wait: found "300001ms"; expected at most 300s"#),
        ("not a string", "token_wait: 2m", "token_wait: [5s]", "token_wait: found a list; expected a string"),
    ]);
    for wait in ["0s", "300000ms", "5m"] {
        assert!(
            read(&WHOLE.replace("token_wait: 2m", &format!("token_wait: {wait}"))).is_ok(),
            "{wait}"
        );
    }
}

#[test]
fn mistakes_of_the_listener_are_reported() {
    const ADDRESS: &str = "expected an IP address: 127.0.0.1 for this machine alone, 0.0.0.0 or \"::\" for all of its addresses";
    const SIZE: &str = "expected a size from 64KiB to 1024MiB, such as 256MiB";
    const KEY: &str = ", key: /etc/tls/tls.key";
    const PATH: &str = "that is not a path; expected the path of a file";
    assert_says(&[
        ("host name", "address: \"::\"", "address: localhost", &format!(r#"listener.address: found "localhost"; {ADDRESS}"#)),
        ("address and port", "address: \"::\"", "address: '0.0.0.0:80'", &format!(r#"listener.address: found "0.0.0.0:80"; {ADDRESS}"#)),
        ("empty address", "address: \"::\"", "address: ''", &format!(r#"listener.address: found ""; {ADDRESS}"#)),
        ("no port", "port: 8443\n", "port: 0\n", "listener.port: found 0; expected a whole number from 1 to 65535"),
        ("large port", "port: 8443\n", "port: 65536\n", "listener.port: found 65536; expected a whole number from 1 to 65535"),
        ("unknown field", "port: 8443\n", "ports: 8443\n", r#"listener.ports: unknown field; did you mean "port"?"#),
        ("unknown field of tls", KEY, ", keys: /etc/tls/tls.key, key: k", r#"listener.tls.keys: unknown field; did you mean "key"?"#),
        ("no key", KEY, "", "listener.tls.key: missing; expected the path of its private key, a PEM file"),
        ("no certificate", "certificate: /etc/tls/tls.crt, ", "", "listener.tls.certificate: missing; expected the path of its chain, a PEM file"),
        ("the key itself", KEY, r#", key: "-----BEGIN PRIVATE KEY-----\n5ecre7\n""#, &format!("listener.tls.key: found a string of 35 characters {PATH}")),
        ("empty path", "certificate: /etc/tls/tls.crt", "certificate: ''", &format!("listener.tls.certificate: found an empty string {PATH}")),
        ("size without a unit", "512KiB", "524288", &format!("listener.body_limit: found a number without a unit; {SIZE}")),
        ("size of another unit", "512KiB", "512KB", &format!(r#"listener.body_limit: found "512KB"; {SIZE}"#)),
        ("small size", "512KiB", "63KiB", &format!(r#"listener.body_limit: found "63KiB"; {SIZE}"#)),
        ("large size", "512KiB", "1025MiB", &format!(r#"listener.body_limit: found "1025MiB"; {SIZE}"#)),
        ("small buffer", "request_buffer: 32MiB", "request_buffer: 1023KiB", "listener.request_buffer: found 1023KiB; expected at least 1MiB, twice body_limit: a subscription may use as much as it leaves free"),
        ("no connections", "max_connections: 500", "max_connections: 0", "listener.max_connections: found 0; expected a whole number from 1 to 1000000"),
        ("a host name", "address: 10.0.0.5", "address: localhost", "listener.monitoring.address: found \"localhost\"; expected an IP address: 127.0.0.1 for this machine alone, 0.0.0.0 or \"::\" for all of its addresses"),
        ("no port", "port: 9100", "port: 0", "listener.monitoring.port: found 0; expected a whole number from 1 to 65535"),
        ("the same port", "port: 9100", "port: 8443", "listener.monitoring.port: found 8443; expected another port than that of the listener"),
        ("a path", "port: 9100", "path: /metrics", "listener.monitoring.path: unknown field; expected address or port"),
        ("a format that is not there", "access_log: none", "access_log: text", "listener.access_log: found \"text\"; expected json or none"),
        ("small heap", "2048MiB", "127MiB", "listener.heap_limit: found \"127MiB\"; expected a size from 128MiB to 1048576MiB, such as 256MiB"),
        ("no object", "listener:", "listener: off\nlistner:", "listner: unknown field; did you mean \"listener\"?\nlistener: found a string; expected an object"),
    ]);
    for size in ["64KiB", "1024MiB"] {
        let document = WHOLE.replace("512KiB", size).replace("  request_buffer: 32MiB\n", "");
        let listener = read(&document).unwrap().listener;
        let expected = (2 * u64::from(listener.body_limit)).max(128 << 20);
        assert_eq!(listener.request_buffer, expected, "{size}: room for one body at least");
    }
}

/// A document whose section `istio` has these fields, and what is read from it.
fn in_mesh(fields: &str) -> Result<Istio, String> {
    read(&format!("{LEAST}istio: {{{fields}}}")).map(|config| config.istio.unwrap())
}

#[test]
fn a_mesh_has_defaults() {
    let own = |tls_secret: Option<&str>| GatewayResource::Own {
        tls_secret: tls_secret.map(str::to_owned),
    };
    let gateway = |target_port, resource| Attach::Gateway { target_port, resource };
    for (fields, attach, port) in [
        ("", gateway(80, own(None)), 80),
        ("tls_secret: a", gateway(443, own(Some("a"))), 443),
        ("port: 8080", gateway(8080, own(None)), 8080),
        ("port: 80, target_port: 8080", gateway(8080, own(None)), 80),
        ("gateway: existing, hosts: [a]", gateway(80, GatewayResource::Existing), 80),
        ("attach: sidecar, namespace: a, selector: {a: b}, hosts: [a]", Attach::Sidecar, 80),
    ] {
        let found = in_mesh(&format!("module: /aoai.wasm, {fields}")).unwrap();
        assert_eq!((found.attach, found.port), (attach, port), "{fields}");
    }
    let found = in_mesh("module: /aoai.wasm").unwrap();
    assert_eq!((&*found.name, &*found.namespace), ("aoai", "istio-system"));
    assert_eq!(found.selector, [("istio".to_owned(), "ingressgateway".to_owned())]);
    assert_eq!((found.hosts, found.revision), (Vec::<String>::new(), None));
    assert_eq!(found.module, ModuleSource::File("/aoai.wasm".into()));
}

#[test]
fn mistakes_of_a_mesh_are_reported() {
    const MODULE: &str =
        "expected where the proxies get the module from: the path of a file in their container, \
                          or oci://REGISTRY/REPOSITORY@sha256:DIGEST";
    const NAME: &str = "expected a name of Kubernetes: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";
    const SIDECAR: &str = "expected only with attach: gateway; a sidecar has no Gateway";
    let sidecar = "attach: sidecar, namespace: a, selector: {a: b}, hosts: [a]";
    let short = format!("oci://r/a@sha256:{}", "a".repeat(63));
    for (fields, expected) in [
        ("port: 80", format!("istio.module: missing; {MODULE}")),
        ("module: aoai.wasm", format!("istio.module: found \"aoai.wasm\"; {MODULE}")),
        ("module: 'oci://r/a:1.0'", format!("istio.module: found \"oci://r/a:1.0\"; {MODULE}")),
        (&format!("module: '{short}'"), format!("istio.module: found {short:?}; {MODULE}")),
        ("module: /a, attach: node", "istio.attach: found \"node\"; expected gateway or sidecar".into()),
        ("module: /a, namespace: A", format!("istio.namespace: found \"A\"; {NAME}")),
        ("module: /a, revision: 1-", format!("istio.revision: found \"1-\"; {NAME}")),
        (
            &format!("module: /a, name: {}", "a".repeat(41)),
            format!("istio.name: found {:?}; expected 1 to 40 of a-z, 0-9 and -, with a letter or digit at both ends", "a".repeat(41)),
        ),
        ("module: /a, selector: {}", "istio.selector: found no label; expected at least one, or all pods of the namespace are meant".into()),
        ("module: /a, selector: [a]", "istio.selector: found a list; expected labels and their values".into()),
        ("module: /a, selector: {a: 1}", "istio.selector.a: found a number; expected a string; put it in quotes".into()),
        ("module: /a, selector: {a: 'b c'}", "istio.selector.a: found \"b c\"; expected the value of a label: letters, digits, -, _ and .".into()),
        ("module: /a, hosts: []", "istio.hosts: found an empty list; expected at least one host".into()),
        ("module: /a, hosts: ['a:80']", "istio.hosts[0]: found \"a:80\"; expected a host name without a port, such as ai.example.com".into()),
        ("module: /a, hosts: [a, A]", "istio.hosts[1]: given twice; keep one".into()),
        ("module: /a, gateway: existing", "istio.hosts: missing; expected the hosts of the existing Gateway that callers use".into()),
        ("module: /a, gateway: existing, hosts: [a], tls_secret: a", "istio.tls_secret: expected only with gateway: own; an existing one has its own certificate".into()),
        (&format!("module: /a, {sidecar}, target_port: 1"), format!("istio.target_port: {SIDECAR}")),
        (&format!("module: /a, {sidecar}, gateway: own"), format!("istio.gateway: {SIDECAR}")),
        (
            "module: /a, attach: sidecar",
            "istio.namespace: missing; expected the namespace of the workloads whose sidecars call Azure OpenAI\n\
             istio.selector: missing; expected the labels of those workloads\n\
             istio.hosts: missing; expected the hosts that those workloads call".into(),
        ),
    ] {
        assert_eq!(in_mesh(fields), Err(expected), "{fields}");
    }
}

/// A document whose section `envoy_gateway` has these fields, and what is read from it.
fn at_envoy_gateway(fields: &str) -> Result<EnvoyGateway, String> {
    let document = format!("{LEAST}envoy_gateway: {{{fields}}}");
    read(&document).map(|config| config.envoy_gateway.unwrap())
}

#[test]
fn envoy_gateway_has_defaults() {
    let own = |port, tls_secret: Option<&str>| ApiGateway::Own {
        class: "eg".into(),
        port,
        tls_secret: tls_secret.map(str::to_owned),
    };
    let existing = |first_listener: &str| ApiGateway::Existing {
        name: "shop".into(),
        listener: "https".into(),
        first_listener: first_listener.into(),
    };
    for (fields, gateway) in [
        ("", own(80, None)),
        ("tls_secret: a", own(443, Some("a"))),
        ("tls_secret: a, port: 80", own(80, Some("a"))),
        ("gateway: shop, listener: https, hosts: [a]", existing("https")),
        ("gateway: shop, listener: https, first_listener: shop, hosts: [a]", existing("shop")),
    ] {
        let found = at_envoy_gateway(&format!("module: /aoai.wasm, {fields}")).unwrap();
        assert_eq!(found.gateway, gateway, "{fields}");
        assert_eq!((&*found.name, &*found.namespace), ("aoai", "default"), "{fields}");
    }
}

#[test]
fn mistakes_of_envoy_gateway_are_reported() {
    const HOSTS: &str =
        "envoy_gateway.hosts: missing; expected the hosts of the existing Gateway that callers use";
    const LISTENER: &str = "envoy_gateway.listener: missing; expected the name of the listener of the existing Gateway that callers use";
    let not_own = |field: &str| {
        format!("envoy_gateway.{field}: expected only without gateway; an existing one has its own")
    };
    let existing = "module: /a, gateway: shop, listener: http, hosts: [a]";
    for (fields, expected) in [
        ("module: /a, gateway: shop", format!("{HOSTS}\n{LISTENER}")),
        (
            "module: /a, listener: http",
            "envoy_gateway.listener: expected only with gateway, the name of an existing one"
                .to_owned(),
        ),
        (
            "module: /a, first_listener: http",
            "envoy_gateway.first_listener: expected only with gateway, the name of an existing one"
                .to_owned(),
        ),
        (&format!("{existing}, class: eg"), not_own("class")),
        (&format!("{existing}, port: 80"), not_own("port")),
        (&format!("{existing}, tls_secret: a"), not_own("tls_secret")),
        (
            "module: /a, hosts: []",
            "envoy_gateway.hosts: found an empty list; expected at least one host".to_owned(),
        ),
        (
            "module: /a, gatway: shop",
            "envoy_gateway.gatway: unknown field; did you mean \"gateway\"?".to_owned(),
        ),
    ] {
        assert_eq!(at_envoy_gateway(fields), Err(expected), "{fields}");
    }
}

#[test]
fn mistakes_of_metering_are_reported() {
    assert_says(&[
        (
            "unknown value",
            "streams: reported",
            "streams: no",
            r#"metering.streams: found "no"; expected exact or reported"#,
        ),
        (
            "unknown field",
            "streams: reported",
            "stream: exact",
            r#"metering.stream: unknown field; did you mean "streams"?"#,
        ),
    ]);
    assert!(read(&WHOLE.replace("streams: reported", "streams: exact")).is_ok());
}

#[test]
fn mistakes_of_failover_are_reported() {
    assert_says(&[
        ("short cooldown", "cooldown: 2s", "cooldown: 999ms", r#"failover.cooldown: found "999ms"; expected at least 1s"#),
        ("longer than the longest", "cooldown: 2s", "cooldown: 91s", "failover.cooldown: longer than longest_cooldown, which is 90000ms; expected at most that"),
        ("unknown field", "longest_cooldown: 90s", "cooldown_cap: 90s", "failover.cooldown_cap: unknown field; expected cooldown, longest_cooldown, failures_in_a_row or retry_within"),
        ("short longest cooldown", "longest_cooldown: 90s", "longest_cooldown: 0s", r#"failover.longest_cooldown: found "0s"; expected at least 1s"#),
        ("long longest cooldown", "longest_cooldown: 90s", "longest_cooldown: 61m", r#"failover.longest_cooldown: found "61m"; expected at most 3600s"#),
        ("no failures", "failures_in_a_row: 5", "failures_in_a_row: 0", "failover.failures_in_a_row: found 0; expected a whole number from 1 to 100"),
        ("long retries", "retry_within: 1500ms", "retry_within: 6m", r#"failover.retry_within: found "6m"; expected at most 300s"#),
        ("number", "retry_within: 1500ms", "retry_within: 10", "failover.retry_within: found a number without a unit; expected a duration such as 500ms, 5s or 2m"),
    ]);
    for (part, instead) in [
        ("retry_within: 1500ms", "retry_within: 0s"),
        ("retry_within: 1500ms", "retry_within: 5m"),
        ("cooldown: 2s\n", "cooldown: 90s\n"),
        ("longest_cooldown: 90s", "longest_cooldown: 60m"),
    ] {
        assert!(read(&WHOLE.replace(part, instead)).is_ok(), "{instead}");
    }
    let default =
        WHOLE.replace("  longest_cooldown: 90s\n", "").replace("cooldown: 2s", "cooldown: 3m");
    assert_eq!(
        read(&default).unwrap_err(),
        "failover.cooldown: longer than longest_cooldown, which is 120000ms; expected at most that"
    );
}

#[test]
fn mistakes_of_limits_are_reported() {
    const FIELDS: &str = "expected requests_per_minute, tokens_per_minute, models or quota";
    assert_says(&[
        ("unknown store", "store: ratelimit", "store: redis", "limits.store: \"redis\" is not a store of limits; expected local or ratelimit"),
        ("identity's form", "cluster: counters", "cluster: aoai_limits", "limits.cluster: found \"aoai_limits\"; expected the name of an Envoy cluster, without spaces, and not beginning with aoai_ or aoai/, because the route leads requests of callers to such clusters"),
        ("no scheme", "https://limits.internal:8081", "limits.internal:8081", "limits.endpoint: found \"limits.internal:8081\"; expected the URL of the service, http://HOST:PORT or https://HOST:PORT, without a path"),
        ("a path", "https://limits.internal:8081", "https://limits.internal/v1", "limits.endpoint: found \"https://limits.internal/v1\"; expected the URL of the service, http://HOST:PORT or https://HOST:PORT, without a path"),
        ("unknown answer", "on_error: allow", "on_error: open", "limits.on_error: found \"open\"; expected deny or allow"),
        ("unknown field", "on_error: allow", "on_errors: allow", "limits.on_errors: unknown field; did you mean \"on_error\"?"),
        ("nothing", "requests_per_minute: 600", "requests_per_minute: 0", "subscriptions[0].limits.requests_per_minute: found 0; expected a whole number from 1 to 4294967295"),
        ("too much", "tokens_per_minute: 50000", "tokens_per_minute: 4294967296", "subscriptions[0].limits.tokens_per_minute: found 4294967296; expected a whole number from 1 to 4294967295"),
        ("unknown limit", "requests_per_minute: 600", "requests_per_second: 10", &format!("subscriptions[0].limits.requests_per_second: unknown field; {FIELDS}")),
        ("unknown model", "gpt-4o: {tokens", "gpt-4: {tokens", "subscriptions[0].limits.models[\"gpt-4\"]: \"gpt-4\" is not one of the document's models; did you mean \"gpt-4o\"?"),
        ("no models", "models:\n      gpt-4o: {tokens_per_minute: 20000}", "models: [gpt-4o]", "subscriptions[0].limits.models: found a list; expected an object: names of models, each with its limits"),
        ("unknown period", "period: month", "period: quarter", "subscriptions[0].limits.quota.period: \"quarter\" is not a period; expected hour, day, week, month or year"),
        ("no period", ", period: month", "", "subscriptions[0].limits.quota.period: missing; expected hour, day, week, month or year"),
        ("no tokens", "tokens: 20000000, ", "", "subscriptions[0].limits.quota.tokens: missing; expected a number of tokens"),
        ("a quota that is forgotten", "  store: ratelimit\n  endpoint: https://limits.internal:8081\n  cluster: counters\n  on_error: allow\n", "  store: local\n", "subscriptions[0].limits.quota: a quota outlives the proxy; expected limits.store: ratelimit, whose counters do too"),
        ("what a local store needs not", "  store: ratelimit\n", "", "limits.endpoint: expected only with store: ratelimit; local counters are in the proxy itself\nlimits.cluster: expected only with store: ratelimit; local counters are in the proxy itself\nlimits.on_error: expected only with store: ratelimit; local counters are in the proxy itself\nsubscriptions[0].limits.quota: a quota outlives the proxy; expected limits.store: ratelimit, whose counters do too"),
    ]);
    // As Envoy's YAML has it.
    let large = |text: &str| read(&WHOLE.replace("tokens: 20000000,", &format!("tokens: {text},")));
    assert_eq!(large("4000000000").unwrap(), large("\"4000000000\"").unwrap());
    for text in ["\"20000000\"", "\"5000000000\"", "\"4e9\"", "\"\""] {
        let found = large(text).unwrap_err().to_string();
        let problem =
            "subscriptions[0].limits.quota.tokens: found a string; expected a whole number";
        assert!(found.starts_with(problem), "{text} {found}");
    }
    let more = "  endpoint: https://limits.internal:8081\n  cluster: counters\n  on_error: allow\n";
    let least = WHOLE.replace(more, "");
    let endpoint = StoreEndpoint { authority: "localhost:8081".into(), tls: false };
    let store =
        SharedStore { cluster: "aoai-limits".into(), endpoint, on_error: OnStoreError::Deny };
    assert_eq!(read(&least).unwrap().limit_store, LimitStore::Shared(store));
    assert_eq!(read(LEAST).unwrap().limit_store, LimitStore::Local);
}

#[test]
fn mistakes_of_backends_are_reported() {
    const NAME: &str = "expected 1 to 63 of a-z, 0-9, - and _, with a letter or digit at both ends";
    const CLUSTER: &str =
        "expected the name of an Envoy cluster, without spaces, and not beginning with aoai/, which is reserved for pools";
    let long = format!("name: {}", "x".repeat(64));
    let long_says = format!("backends[0].name: found \"{}\"; {NAME}", "x".repeat(64));
    assert_says(&[
        ("upper case", "name: spare", "name: Spare", &format!(r#"backends[0].name: found "Spare"; {NAME}"#)),
        ("dot", "name: spare", "name: a.b", &format!(r#"backends[0].name: found "a.b"; {NAME}"#)),
        ("separator of pools", "name: spare", "name: a>b", &format!(r#"backends[0].name: found "a>b"; {NAME}"#)),
        ("slash", "name: spare", "name: a/b", &format!(r#"backends[0].name: found "a/b"; {NAME}"#)),
        ("hyphen at the end", "name: spare", "name: a-", &format!(r#"backends[0].name: found "a-"; {NAME}"#)),
        ("empty", "name: spare", "name: ''", &format!(r#"backends[0].name: found ""; {NAME}"#)),
        ("too long", "name: spare", &long, &long_says),
        ("same name", "name: spare", "name: sweden", "backends[2].name: \"sweden\" is taken by backends[0].name; names are unique\nbackends[2].cluster: \"aoai_sweden\" is also the cluster of backends[0]; expected one of its own, because a cluster reaches one resource"),
        ("identity's cluster", "cluster: outbound|443||eastus", "cluster: azure_identity", "backends[1].cluster: \"azure_identity\" is also the cluster of the identity; expected one of its own, because a cluster reaches one resource"),
        ("same cluster", "cluster: outbound|443||eastus", "cluster: aoai_spare", "backends[1].cluster: \"aoai_spare\" is also the cluster of backends[0]; expected one of its own, because a cluster reaches one resource"),
        ("cluster with a space", "cluster: outbound|443||eastus", "cluster: aoai eastus", &format!(r#"backends[1].cluster: found "aoai eastus"; {CLUSTER}"#)),
        ("cluster like a pool", "cluster: outbound|443||eastus", "cluster: aoai/eastus", &format!(r#"backends[1].cluster: found "aoai/eastus"; {CLUSTER}"#)),
        ("cluster of the identity", "cluster: outbound|443||eastus", "cluster: azure_identity", "backends[1].cluster: \"azure_identity\" is also the cluster of the identity; expected one of its own, because a cluster reaches one resource"),
        ("cluster with a new line", "cluster: outbound|443||eastus", r#"cluster: "a\r\nx: y""#, &format!(r#"backends[1].cluster: found "a\r\nx: y"; {CLUSTER}"#)),
        ("no endpoint", "  endpoint: https://contoso-spare.openai.azure.com\n", "", "backends[0].endpoint: missing; expected the resource's URL, https://NAME.openai.azure.com"),
        ("http", "https://contoso-spare", "http://contoso-spare", r#"backends[0].endpoint: "http" is not the scheme of "contoso-spare.openai.azure.com"; expected https, because tokens travel over TLS only"#),
        ("own domain", "custom_domain: true", "custom_domain: false", r#"backends[2].endpoint: "ai.contoso.example" is not a custom subdomain of Azure OpenAI; expected one such as https://NAME.openai.azure.com, or custom_domain: true on this backend if it is a name of yours for such a resource"#),
        ("regional in spite of custom_domain", "https://ai.contoso.example:8443", "https://westeurope.api.cognitive.microsoft.com", r#"backends[2].endpoint: "westeurope.api.cognitive.microsoft.com" is a regional endpoint; it accepts API keys only, and would respond to the proxy's Entra ID token with 400 "Resource Id is badly formed: NA"; expected the resource's own endpoint, which looks like https://NAME.openai.azure.com: Azure portal → the Azure OpenAI resource → Resource Management → Keys and Endpoint; a resource that shows a regional endpoint there needs a custom subdomain first, which cannot be changed later: Overview → Generate Custom Domain Name, or az cognitiveservices account update --name RESOURCE --resource-group GROUP --custom-domain NAME"#),
    ]);
}

#[test]
fn mistakes_of_models_are_reported() {
    const NAME: &str = "expected 1 to 128 of A-Z, a-z, 0-9 and ._:/@+-, and no empty, . or .. part between slashes";
    const DEPLOYMENT: &str = "expected 1 to 64 of A-Z, a-z, 0-9 and ._-, but not . or ..";
    const PLACEMENT: &str =
        "{backend: eastus, deployment: gpt-4o-2024-11-20, priority: 0, weight: 3}";
    let name_row = |name: &str| {
        let instead = format!("- name: 'e'\n  backends: [{{backend: eastus}}]\n- name: \"{name}\"\n  backends: [{{backend: sweden, deployment: e}}]");
        (instead, format!("models[2].name: found \"{name}\"; {NAME}\nsubscriptions[0].models[1]: \"embeddings\" is not one of the document's models; "))
    };
    for name in [
        "",
        ".",
        "..",
        "/a",
        "a/",
        "a//b",
        "a/../b",
        "a b",
        "a*",
        "é",
        "a%2f",
        "a?b",
        &"x".repeat(129),
    ] {
        let (instead, says) = name_row(name);
        let part = "- name: embeddings\n  backends: [{backend: sweden}]";
        let problems = read(&WHOLE.replace(part, &instead)).unwrap_err();
        let shown =
            if name.len() > 80 { says.replace(name, &("x".repeat(80) + "…")) } else { says };
        assert!(problems.starts_with(&shown), "{name}: {problems}");
    }
    for name in ["a", "...", "meta-llama/Llama-3.1:8b@v1+x", &"x".repeat(128)] {
        let document = LEAST.replace(
            "name: gpt-4o, backends: [{",
            &format!("name: '{name}', backends: [{{deployment: d, "),
        );
        assert!(read(&document).unwrap().models.contains_key(name), "{name}");
    }
    assert_says(&[
        ("same name", "- name: embeddings\n", "- name: embeddings\n  backends: [{backend: sweden}]\n- name: gpt-4o\n", "models[2].name: \"gpt-4o\" is taken by models[0].name; names are unique"),
        ("unknown backend", "[{backend: sweden}]", "[{backend: swedne}]", r#"models[1].backends[0].backend: "swedne" is not one of the document's backends; did you mean "sweden"?"#),
        ("quite unknown backend", "[{backend: sweden}]", "[{backend: japan}]", r#"models[1].backends[0].backend: "japan" is not one of the document's backends; expected eastus, spare or sweden"#),
        ("backend left out", "[{backend: sweden}]", "[{deployment: x}]", "models[1].backends[0].backend: missing; expected the name of a backend"),
        ("same backend", "[{backend: sweden}]", "[{backend: sweden}, {backend: sweden, deployment: other}]", "models[1].backends[1]: the same backend as backends[0] of this model; expected each at most once"),
        ("backends left out", "  backends: [{backend: sweden}]", "", "models[1].backends: missing; expected the backends that serve it"),
        ("empty deployment", PLACEMENT, "{backend: eastus, deployment: ''}", &format!(r#"models[0].backends[1].deployment: found ""; {DEPLOYMENT}"#)),
        ("deployment with a slash", PLACEMENT, "{backend: eastus, deployment: a/b}", &format!(r#"models[0].backends[1].deployment: found "a/b"; {DEPLOYMENT}"#)),
        ("deployment that is a step up", PLACEMENT, "{backend: eastus, deployment: ..}", &format!(r#"models[0].backends[1].deployment: found ".."; {DEPLOYMENT}"#)),
        ("long deployment", PLACEMENT, "{backend: eastus, deployment: ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd}", &format!(r#"models[0].backends[1].deployment: found "ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"; {DEPLOYMENT}"#)),
        ("deployment by the model's name", "- name: embeddings\n", "- name: embeddings\n  backends: [{backend: sweden}]\n- name: a/b\n", &format!(r#"models[2].backends[0].deployment: missing, and the model's name "a/b" cannot be a deployment's; {DEPLOYMENT}"#)),
        ("negative priority", PLACEMENT, "{backend: eastus, priority: -1}", "models[0].backends[1].priority: found -1; expected a whole number from 0 to 127"),
        ("large priority", PLACEMENT, "{backend: eastus, priority: 128}", "models[0].backends[1].priority: found 128; expected a whole number from 0 to 127"),
        ("priority with a fraction", PLACEMENT, "{backend: eastus, priority: 1.5}", "models[0].backends[1].priority: found a number with a fraction, or far too large; expected a whole number from 0 to 127"),
        ("no weight", PLACEMENT, "{backend: eastus, weight: 0}", "models[0].backends[1].weight: found 0; expected a whole number from 1 to 1000"),
        ("large weight", PLACEMENT, "{backend: eastus, weight: 5000000000}", "models[0].backends[1].weight: found 5000000000; expected a whole number from 1 to 1000"),
        ("weight in quotes", PLACEMENT, "{backend: eastus, weight: '3'}", "models[0].backends[1].weight: found a string; expected a whole number from 1 to 1000"),
    ]);
    for placement in ["priority: 127, weight: 1000", "priority: 0.0, weight: 1.0"] {
        let instead = format!("{{backend: eastus, {placement}}}");
        assert!(read(&WHOLE.replace(PLACEMENT, &instead)).is_ok(), "{placement}");
    }
}

#[test]
fn an_affinity_is_one_place_of_a_request() {
    const AFFINITY: &str = "{header: X-Session-Id}";
    for (text, expected) in [
        ("{body: prompt_cache_key}", Affinity::Body("prompt_cache_key")),
        ("{body: user}", Affinity::Body("user")),
        ("{header: X-Conversation}", Affinity::Header("x-conversation".into())),
        ("{header: x_a.b~1}", Affinity::Header("x_a.b~1".into())),
        ("{header: user-agent}", Affinity::Header("user-agent".into())),
    ] {
        let config = read(&WHOLE.replace(AFFINITY, text)).unwrap();
        assert_eq!(config.models["gpt-4o"].affinity.as_ref(), Some(&expected), "{text}");
        assert_eq!(config.affinities, [expected], "{text}");
    }
    const HEADER: &str =
        "expected the name of a header that callers send, and none of those that hold keys \
         or that the filter removes";
    let header = |name: &str| {
        let found = format!(r#"models[0].affinity.header: found "{name}"; {HEADER}"#);
        (format!("{{header: '{name}'}}"), found)
    };
    for name in [
        "",
        ":authority",
        "a b",
        "a:",
        "é",
        "api-key",
        "API-Key",
        "ocp-apim-subscription-key",
        "authorization",
        "x-aoai-cluster",
        "X-Aoai-Any",
        "x-envoy-retry-on",
    ] {
        let (instead, says) = header(name);
        assert_says(&[(name, AFFINITY, &instead, &says)]);
    }
    assert_says(&[
        ("another field", AFFINITY, "{body: model}", r#"models[0].affinity.body: found "model"; expected prompt_cache_key or user"#),
        ("nested", AFFINITY, "{body: metadata.user}", r#"models[0].affinity.body: found "metadata.user"; expected prompt_cache_key or user"#),
        ("both", AFFINITY, "{body: user, header: x-a}", "models[0].affinity: expected exactly one of body and header"),
        ("neither", AFFINITY, "{}", "models[0].affinity: expected exactly one of body and header"),
        ("no object", AFFINITY, "user", "models[0].affinity: found a string; expected an object"),
        ("another place", AFFINITY, "{query: user}", "models[0].affinity.query: unknown field; expected body or header\nmodels[0].affinity: expected exactly one of body and header"),
    ]);
}

#[test]
fn affinities_of_pools_are_known_each_once() {
    let models = "models:\n\
        - {name: a, affinity: {body: user}, backends: [{backend: eastus}, {backend: sweden}]}\n\
        - {name: b, affinity: {header: x-a}, backends: [{backend: eastus}, {backend: sweden}]}\n\
        - {name: c, affinity: {body: user}, backends: [{backend: spare}, {backend: sweden}]}\n\
        - {name: gpt-4o, affinity: {header: x-b}, backends: [{backend: eastus}]}\n\
        - {name: embeddings, backends: [{backend: sweden}]}\n";
    let document = WHOLE.split_once("models:\n- name").unwrap().0.to_owned() + models;
    let config = read(&document).unwrap();
    assert_eq!(config.affinities, [Affinity::Body("user"), Affinity::Header("x-a".into())]);
}

#[test]
fn mistakes_of_subscriptions_are_reported() {
    const ID: &str = "expected 1 to 64 of A-Z, a-z, 0-9, - and _, starting with a letter or digit";
    const TIME: &str = "expected an RFC 3339 time in UTC, with its Z, such as 2026-01-01T00:00:00Z";
    assert_says(&[
        ("empty id", "id: platform", "id: ''", &format!("subscriptions[1].id: found an empty string; {ID}")),
        ("id with a dot", "id: platform", "id: a.b", &format!("subscriptions[1].id: found a string of 3 characters; {ID}")),
        ("id that starts with a hyphen", "id: platform", "id: -a", &format!("subscriptions[1].id: found a string of 2 characters; {ID}")),
        ("long id", "id: platform", "id: iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii", &format!("subscriptions[1].id: found a string of 65 characters; {ID}")),
        ("same id", "id: platform", "id: search-team", "subscriptions[1].id: same as subscriptions[0].id; names are unique"),
        ("unknown model", "[gpt-4o, embeddings]", "[gpt4o]", r#"subscriptions[0].models[0]: "gpt4o" is not one of the document's models; did you mean "gpt-4o"?"#),
        ("quite unknown model", "[gpt-4o, embeddings]", "[gpt-4o, whisper]", r#"subscriptions[0].models[1]: "whisper" is not one of the document's models; expected embeddings or gpt-4o"#),
        ("model twice", "[gpt-4o, embeddings]", "[gpt-4o, embeddings, gpt-4o]", "subscriptions[0].models[2]: same as [0] of this list; expected each once"),
        ("star beside a model", "[gpt-4o, embeddings]", "['*', gpt-4o]", "subscriptions[0].models: found \"*\" beside names; expected [\"*\"] alone, which is every model"),
        ("star twice", "[gpt-4o, embeddings]", "['*', '*']", "subscriptions[0].models[1]: same as [0] of this list; expected each once"),
        ("number as a model", "[gpt-4o, embeddings]", "[4]", "subscriptions[0].models[0]: found a number; expected a string; put it in quotes"),
        ("unknown operation", "operations: [resources]", "operations: [resource]", r#"subscriptions[0].operations[0]: "resource" is not a kind of operation; did you mean "resources"?"#),
        ("quite unknown operation", "operations: [resources]", "operations: [chat]", r#"subscriptions[0].operations[0]: "chat" is not a kind of operation; expected inference or resources"#),
        ("operation twice", "operations: [resources]", "operations: [resources, resources]", "subscriptions[0].operations[1]: same as [0] of this list; expected each once"),
        ("star beside an operation", "operations: [resources]", "operations: [inference, '*']", "subscriptions[0].operations: found \"*\" beside names; expected [\"*\"] alone, which is every operation"),
        ("unknown state", "state: active", "state: disabled", r#"subscriptions[1].state: found "disabled"; expected active or suspended"#),
        ("date alone", "not_before: 2026-01-01T00:00:00Z", "not_before: 2026-01-01", &format!(r#"subscriptions[0].not_before: found "2026-01-01"; {TIME}"#)),
        ("offset", "not_before: 2026-01-01T00:00:00Z", "not_before: 2026-01-01T00:00:00+01:00", &format!(r#"subscriptions[0].not_before: found "2026-01-01T00:00:00+01:00"; {TIME}"#)),
        ("no zone", "not_before: 2026-01-01T00:00:00Z", "not_before: 2026-01-01T00:00:00", &format!(r#"subscriptions[0].not_before: found "2026-01-01T00:00:00"; {TIME}"#)),
        ("space for T", "not_before: 2026-01-01T00:00:00Z", "not_before: 2026-01-01 00:00:00Z", &format!(r#"subscriptions[0].not_before: found "2026-01-01 00:00:00Z"; {TIME}"#)),
        ("no day", "not_before: 2026-01-01T00:00:00Z", "not_before: 2026-02-30T00:00:00Z", &format!(r#"subscriptions[0].not_before: found "2026-02-30T00:00:00Z"; {TIME}"#)),
        ("seconds", "expires_at: 2027-01-01T00:00:00Z", "expires_at: 1798761600", "subscriptions[0].expires_at: found a number; expected a string; put it in quotes"),
        ("ends before it begins", "expires_at: 2027-01-01T00:00:00Z", "expires_at: 2025-01-01T00:00:00Z", "subscriptions[0].expires_at: not after not_before; expected a later time, or it is never valid"),
        ("ends as it begins", "expires_at: 2027-01-01T00:00:00Z", "expires_at: 2026-01-01T00:00:00Z", "subscriptions[0].expires_at: not after not_before; expected a later time, or it is never valid"),
    ]);
}

#[test]
fn mistakes_of_keys_are_reported_without_them() {
    const SECOND: &str =
        "- sha256:2222222222222222222222222222222222222222222222222222222222222222";
    const KEY: &str = "if it is the key itself, put its digest here, made with: aoai key digest";
    const PRINTS: &str = "expected what this prints: aoai key digest";
    const LIST: &str =
        "keys: [\"sha256:3333333333333333333333333333333333333333333333333333333333333333\"]";
    let rows = [
        ("the key itself", SECOND, "- aoai_5ecre7", format!("subscriptions[0].keys[1]: found a string of 11 characters that is not a digest: it has no sha256: in front; {KEY}")),
        ("one character", SECOND, "- k", format!("subscriptions[0].keys[1]: found a string of 1 character that is not a digest: it has no sha256: in front; {KEY}")),
        ("empty", SECOND, "- ''", format!("subscriptions[0].keys[1]: found an empty string that is not a digest: it has no sha256: in front; {KEY}")),
        ("key behind the prefix", SECOND, "- sha256:5ecre7", format!("subscriptions[0].keys[1]: found a string of 13 characters that is not a digest: it has something else than hex digits after sha256:; {PRINTS}")),
        ("short", SECOND, "- sha256:22", format!("subscriptions[0].keys[1]: found a string of 9 characters that is not a digest: it has 2 hex digits after sha256:, not 64; {PRINTS}")),
        ("of an empty key", SECOND, "- sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "subscriptions[0].keys[1]: it is the digest of an empty key; expected the digest of a key".into()),
        ("a number", SECOND, "- 5374123", "subscriptions[0].keys[1]: found a number; expected a digest, sha256: and 64 hex digits".into()),
        ("an object", SECOND, "- {5ecre7: 5ecre7}", "subscriptions[0].keys[1]: found an object; expected a digest, sha256: and 64 hex digits".into()),
        ("no list", LIST, "keys: 5ecre7", "subscriptions[1].keys: found a string; expected a list".into()),
        ("a number for the list", LIST, "keys: 5374123", "subscriptions[1].keys: found a number; expected a list".into()),
        ("an object for the list", LIST, "keys: {5ecre7: 5ecre7}", "subscriptions[1].keys: found an object; expected a list".into()),
        ("none", LIST, "keys: []", "subscriptions[1].keys: found an empty list; expected at least one key".into()),
        ("left out", LIST, "", "subscriptions[1].keys: missing; expected one or two digests of keys, made with: aoai key digest".into()),
        ("three", SECOND, "- sha256:2222222222222222222222222222222222222222222222222222222222222222\n  - sha256:5555555555555555555555555555555555555555555555555555555555555555", "subscriptions[0].keys: found 3 keys; expected one or two, the primary and the secondary".into()),
        ("twice within", SECOND, "- sha256:1111111111111111111111111111111111111111111111111111111111111111", "subscriptions[0].keys[1]: same as subscriptions[0].keys[0]; expected a key of its own".into()),
        ("twice across", LIST, "keys: ['sha256:2222222222222222222222222222222222222222222222222222222222222222']", "subscriptions[1].keys[0]: same as subscriptions[0].keys[1]; expected a key of its own".into()),
    ];
    for (name, part, instead, expected) in &rows {
        assert!(!expected.contains("5ecre7") && !expected.contains("5374123"), "{name}");
        assert_says(&[(name, part, instead, expected)]);
    }
}

#[test]
fn a_key_in_the_place_of_an_id_is_not_repeated() {
    let pasted = |key: &str| WHOLE.replace("id: platform", &format!("id: {key}"));
    let own = Digest::of(b"aoai-5ecre7").to_string();
    let with_digest = |place: char| {
        pasted("aoai-5ecre7").replace(&format!("sha256:{}", place.to_string().repeat(64)), &own)
    };
    let rows = [
        (pasted("aoai.5ecre7"), "found a string of 11 characters; expected 1 to 64 of A-Z, a-z, 0-9, - and _, starting with a letter or digit"),
        (with_digest('3'), "found the key of subscriptions[1].keys[0]; expected 1 to 64 of A-Z, a-z, 0-9, - and _, starting with a letter or digit"),
        (with_digest('2'), "found the key of subscriptions[0].keys[1]; expected 1 to 64 of A-Z, a-z, 0-9, - and _, starting with a letter or digit"),
        (pasted("aoai-5ecre7").replace("id: search-team", "id: aoai-5ecre7"), "same as subscriptions[0].id; names are unique"),
    ];
    for (document, expected) in rows {
        assert_eq!(read(&document).unwrap_err(), format!("subscriptions[1].id: {expected}"));
    }
}

#[test]
fn upper_case_digits_are_the_same_digest() {
    let upper = format!("sha256:{}", "A".repeat(64));
    let lower = upper.replace('A', "a");
    let document = WHOLE
        .replace(&format!("sha256:{}", "1".repeat(64)), &upper)
        .replace(&format!("sha256:{}", "3".repeat(64)), &lower);
    assert_eq!(
        read(&document).unwrap_err(),
        "subscriptions[1].keys[0]: same as subscriptions[0].keys[0]; expected a key of its own"
    );
}

#[test]
fn every_problem_comes_at_once() {
    let document = WHOLE
        .replace("cluster: azure_identity", "clutser: azure_identity")
        .replace("token_wait: 2m", "token_wait: soon")
        .replace("name: sweden", "name: Sweden")
        .replace("priority: 1}", "priority: high}")
        .replace("state: suspended", "state: off");
    assert_eq!(
        read(&document).unwrap_err(),
        "identity.managed_identity.clutser: unknown field; did you mean \"cluster\"?\n\
         identity.managed_identity.cluster: missing; expected the Envoy cluster of the endpoint\n\
         token_wait: found \"soon\"; expected one whole number and its unit, such as 500ms, 5s or 2m\n\
         backends[2].name: found \"Sweden\"; expected 1 to 63 of a-z, 0-9, - and _, with a letter or digit at both ends\n\
         models[0].backends[0].backend: \"sweden\" is not one of the document's backends; did you mean \"Sweden\"?\n\
         models[0].backends[0].priority: found a string; expected a whole number from 0 to 127\n\
         models[1].backends[0].backend: \"sweden\" is not one of the document's backends; did you mean \"Sweden\"?\n\
         subscriptions[0].state: found \"off\"; expected active or suspended"
    );
}

#[test]
fn a_list_that_is_not_there_is_one_problem() {
    let (document, backends) = LEAST.split_once("backends:").unwrap();
    let (_, models) = backends.split_once("\nmodels:").unwrap();
    assert_eq!(
        read(&format!("{document}models:{models}")).unwrap_err(),
        "backends: missing; expected the Azure OpenAI resources"
    );
    let one = LEAST.replace("models: [\"*\"]", "models: [gpt-4o]");
    assert_eq!(
        read(one.split_once("\nmodels:").unwrap().0).unwrap_err(),
        "models: missing; expected the models that callers may use"
    );
}

#[test]
fn a_wrong_item_is_still_known_by_its_name() {
    let document = WHOLE
        .replace("https://contoso-eastus.openai.azure.com", "https://contoso-eastus")
        .replace("[{backend: sweden}]", "[]");
    assert_eq!(
        read(&document).unwrap_err(),
        "backends[1].endpoint: \"contoso-eastus\" is not a custom subdomain of Azure OpenAI; expected one such as https://NAME.openai.azure.com, or custom_domain: true on this backend if it is a name of yours for such a resource\n\
         models[1].backends: found an empty list; expected at least one backend"
    );
}

/// A document of many subscriptions, and what goes wrong with each.
fn many(count: usize, model: &str) -> String {
    let mut document = String::from("{\"subscriptions\": [");
    for index in 0..count {
        let comma = if index == 0 { "" } else { "," };
        let key = Digest::of(&index.to_le_bytes());
        write!(
            document,
            r#"{comma}{{"id": "s{index}", "keys": ["{key}"], "models": ["{model}"]}}"#
        )
        .unwrap();
    }
    document += r#"], "identity": {"managed_identity": {"cluster": "imds"}},
        "backends": [{"name": "a", "endpoint": "https://a0.openai.azure.com"}], "models": ["#;
    for index in 0..1000 {
        write!(document, r#"{{"name": "gpt-{index}", "backends": [{{"backend": "a"}}]}},"#)
            .unwrap();
    }
    document + r#"{"name": "gpt", "backends": [{"backend": "a"}]}]}"#
}

/// What compared all with all would take minutes here.
#[test]
fn ten_thousand_subscriptions_are_read_and_so_are_their_problems() {
    let (right, wrong) = (many(10_000, "gpt"), many(10_000, "gpt-x-x"));
    assert_eq!(Config::from_json(right.as_bytes()).unwrap().subscriptions.len(), 10_000);
    assert_eq!(Config::from_json(wrong.as_bytes()).unwrap_err().count(), 10_000);
}

/// The document as Envoy hands it over from a `google.protobuf.Struct`: all numbers are doubles.
fn with_doubles(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) => *value = number.as_f64().into(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(with_doubles),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(with_doubles),
        _ => {}
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(Config::from_json(&bytes).is_err());
    }

    /// Cuts, swaps and repeats pieces of a right document, to get past its syntax.
    #[test]
    fn no_broken_document_panics(from in 0..WHOLE.len(), length in 0_usize..80, to in 0..WHOLE.len()) {
        let piece = WHOLE.get(from..from + length).unwrap_or_default();
        let mut document = WHOLE.to_owned();
        document.insert_str(to, piece);
        for document in [document, WHOLE.replacen(piece, "", 1)] {
            if let Ok(node) = serde_yaml_ng::from_str::<Node>(&document) {
                if let Err(problems) = Config::from_node(&node) {
                    let lines = problems.to_string().lines().count();
                    prop_assert_eq!(lines, problems.count());
                }
            }
        }
    }

    #[test]
    fn a_configuration_is_the_same_in_every_form(
        priorities in proptest::collection::vec((0_u32..=127, 1_u32..=1000), 1..6),
        wait in 0_u32..=300,
        suspended in any::<bool>(),
    ) {
        let backends: Vec<_> = (0..priorities.len()).map(|n| serde_json::json!({
            "name": format!("b{n}"), "endpoint": format!("https://contoso-{n}.openai.azure.com"),
        })).collect();
        let placements: Vec<_> = priorities.iter().enumerate().map(|(n, (priority, weight))| {
            serde_json::json!({"backend": format!("b{n}"), "priority": priority, "weight": weight})
        }).collect();
        let mut document = serde_json::json!({
            "identity": {"managed_identity": {"cluster": "imds"}},
            "token_wait": format!("{wait}s"),
            "subscriptions": [{
                "id": "a", "keys": [Digest::of(b"key").to_string()], "models": ["m"],
                "state": if suspended { "suspended" } else { "active" },
            }],
            "backends": backends,
            "models": [{"name": "m", "backends": placements}],
        });
        let json = document.to_string();
        let config = Config::from_json(json.as_bytes()).unwrap();
        let found: Vec<_> = config.models["m"].placements.iter().map(|p| (p.priority, p.weight)).collect();
        let mut sorted = priorities.clone();
        sorted.sort_by_key(|(priority, _)| *priority);
        prop_assert_eq!(found, sorted);
        prop_assert_eq!(config.token_wait, Duration::from_secs(wait.into()));
        prop_assert_eq!(config.subscriptions[&Digest::of(b"key")].suspended, suspended);

        let yaml = serde_yaml_ng::to_string(&document).unwrap();
        prop_assert_eq!(&read(&yaml).unwrap(), &config);
        prop_assert_eq!(&read(&json).unwrap(), &config);
        with_doubles(&mut document);
        prop_assert!(document.to_string().contains(".0"));
        prop_assert_eq!(&Config::from_json(document.to_string().as_bytes()).unwrap(), &config);
    }
}
