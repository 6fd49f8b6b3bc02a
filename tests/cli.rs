//! The command-line tool as its users meet it: what it prints where, and how it ends.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot run its tool has failed; clippy knows helpers of tests only within cfg(test)"
)]

use std::io::Write;
use std::process::{Command, Stdio};

const CONFIGURATION: &str = r#"identity: {managed_identity: {cluster: imds}}
subscriptions:
- id: search-team
  keys:
  - sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  - sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752
  models: [gpt-4o]
backends:
- name: eastus
  endpoint: https://contoso-eastus.openai.azure.com
- name: sweden
  endpoint: https://contoso-sweden.openai.azure.com
models:
- {name: gpt-4o, backends: [{backend: eastus, priority: 0}, {backend: sweden, priority: 1}]}
"#;

const OK: &str = "ok: 1 subscription, 2 backends, 1 model\n";

/// What a run of the tool left behind.
#[derive(Debug, PartialEq)]
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn aoai(arguments: &[&str], stdin: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aoai"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A tool that refuses its arguments may be gone before it reads.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Run {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(status: i32, stdout: &str, stderr: &str) -> Run {
    Run { status, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

#[test]
fn check_prints_every_problem_and_how_many() {
    let json = r#"{"identity": {"managed_identity": {"cluster": "imds"}}, "token_wait": 5}"#;
    let missing = "-:1: backends: missing; expected the Azure OpenAI resources\n\
         -:1: models: missing; expected the models that callers may use\n\
         -:1: subscriptions: missing; expected the callers and their keys\n";
    let regional = CONFIGURATION
        .replace("https://contoso-eastus.openai.azure.com", "eastus.api.cognitive.microsoft.com");
    let problem = "-:10: backends[0].endpoint: \"eastus.api.cognitive.microsoft.com\" is a regional endpoint; it accepts API keys only, and would respond to the proxy's Entra ID token with 400 \"Resource Id is badly formed: NA\"; expected the resource's own endpoint, which looks like https://NAME.openai.azure.com: Azure portal → the Azure OpenAI resource → Resource Management → Keys and Endpoint; a resource that shows a regional endpoint there needs a custom subdomain first, which cannot be changed later: Overview → Generate Custom Domain Name, or az cognitiveservices account update --name RESOURCE --resource-group GROUP --custom-domain NAME\n";
    let one = "aoai: -: 1 problem\n";
    for (name, input, expected) in [
        ("right YAML", CONFIGURATION.to_owned(), run(0, OK, "")),
        ("YAML with a byte order mark", format!("\u{feff}{CONFIGURATION}"), run(0, OK, "")),
        ("YAML with a document start", format!("---\n{CONFIGURATION}"), run(0, OK, "")),
        ("YAML that begins with a brace", "{identity: 1,\n models: # comment\n  2}".to_owned(), run(1, "-:1: identity: found a number; expected an object\n-:1: backends: missing; expected the Azure OpenAI resources\n-:2: models: found a number; expected a list\n-:1: subscriptions: missing; expected the callers and their keys\n", "aoai: -: 4 problems\n")),
        ("problems of JSON", json.to_owned(), run(1, &format!("-:1: token_wait: found a number without a unit; expected a duration such as 500ms, 5s or 2m\n{missing}"), "aoai: -: 4 problems\n")),
        ("regional endpoint", regional, run(1, problem, one)),
        ("broken JSON", "{\"identity\":\n  1,,}".to_owned(), run(1, "-:2:5: not JSON: key must be a string\n", one)),
        ("broken YAML", "identity: {\nmodels: ]".to_owned(), run(1, "-:2:9: not YAML: did not find expected node content, while parsing a flow node\n", one)),
        ("field with an alias", CONFIGURATION.replace("id: search-team", "id: &c search-team").replace("name: eastus", "name: eastus\n  cluster: *c"), run(0, OK, "")),
        ("duplicate field", format!("{CONFIGURATION}token_wait: 5s\ntoken_wait: 5s\n"), run(1, "-:16: token_wait: given twice; keep one\n", one)),
        ("two documents", format!("{CONFIGURATION}---\n{CONFIGURATION}"), run(1, "-:1:0: not YAML: deserializing from YAML containing more than one document is not supported\n", one)),
        ("nothing", String::new(), run(1, "-: document: empty; expected the configuration as JSON\n", one)),
        ("not text", "\u{0}".to_owned(), run(1, "-:1:1: not YAML: control characters are not allowed\n", one)),
    ] {
        assert_eq!(aoai(&["check", "-"], input.as_bytes()), expected, "{name}");
    }
}

#[test]
fn check_reads_files() {
    let folder = std::env::temp_dir().join(format!("aoai-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (right, wrong, absent) = (path("right.yaml"), path("wrong.yaml"), path("absent.yaml"));
    std::fs::write(&right, CONFIGURATION).unwrap();
    std::fs::write(&wrong, CONFIGURATION.replace("[gpt-4o]", "[gpt-4]")).unwrap();
    let problem = format!("{wrong}:7: subscriptions[0].models[0]: \"gpt-4\" is not one of the document's models; did you mean \"gpt-4o\"?\n");
    for (file, expected) in [
        (&right, run(0, OK, "")),
        (&wrong, run(1, &problem, &format!("aoai: {wrong}: 1 problem\n"))),
        (
            &absent,
            run(
                2,
                "",
                &format!("aoai: cannot read {absent}: No such file or directory (os error 2)\n"),
            ),
        ),
    ] {
        assert_eq!(aoai(&["check", file], b""), expected, "{file}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_new_key_has_the_digest_that_is_printed_with_it() {
    let first = aoai(&["key", "new"], b"");
    assert_eq!((first.status, &*first.stderr), (0, ""));
    let mut lines = first.stdout.lines();
    let key = lines.next().unwrap().strip_prefix("key:    ").unwrap();
    let digest = lines.next().unwrap().strip_prefix("digest: ").unwrap();
    assert_eq!(lines.next(), None);
    let random = key.strip_prefix("aoai_").unwrap();
    assert_eq!(random.len(), 64);
    assert!(random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{key}");
    let again = aoai(&["key", "digest"], format!("{key}\n").as_bytes());
    assert_eq!(again, run(0, &format!("{digest}\n"), ""));
    assert_ne!(aoai(&["key", "new"], b"").stdout, first.stdout);
}

#[test]
fn digest_takes_a_key_from_standard_input_only() {
    /// `printf %s correct-horse-battery-staple | sha256sum`
    const OF_STAPLE: &str =
        "sha256:87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590\n";
    const ARGUMENT: &str = "aoai: the key cannot be an argument, because arguments are visible in the process list and in the shell's history; pass it on standard input: printf %s \"$KEY\" | aoai key digest\n";
    const NONE: &str =
        "aoai: standard input contains no key; pass it there: printf %s \"$KEY\" | aoai key digest\n";
    const SHORT: &str =
        "aoai: this key is so short that it can be guessed from its digest; aoai key new creates a strong one\n";
    const OF_TEST: &str =
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n";
    let staple = "correct-horse-battery-staple";
    for (name, arguments, stdin, expected) in [
        ("key", &[][..], staple.to_owned(), run(0, OF_STAPLE, "")),
        ("key and a new line", &[], format!("{staple}\n"), run(0, OF_STAPLE, "")),
        ("key and a Windows new line", &[], format!("{staple}\r\n"), run(0, OF_STAPLE, "")),
        ("short key", &[], "test".to_owned(), run(0, OF_TEST, SHORT)),
        (
            "two new lines",
            &[],
            format!("{staple}\n\n"),
            run(
                2,
                "",
                "aoai: the key begins or ends with white space, which HTTP removes from headers; remove it\n",
            ),
        ),
        (
            "space before",
            &[],
            format!(" {staple}"),
            run(
                2,
                "",
                "aoai: the key begins or ends with white space, which HTTP removes from headers; remove it\n",
            ),
        ),
        (
            "two lines",
            &[],
            "a\nb\n".to_owned(),
            run(
                2,
                "",
                "aoai: the key contains characters other than printable ASCII, or more than one line\n",
            ),
        ),
        (
            "endless",
            &[],
            "x".repeat(1 << 20),
            run(
                2,
                "",
                "aoai: the key is longer than 1024 bytes; the gateway accepts no such key\n",
            ),
        ),
        ("nothing", &[], String::new(), run(2, "", NONE)),
        ("new line alone", &[], "\n".to_owned(), run(2, "", NONE)),
        ("argument", &["5ecre7"], staple.to_owned(), run(2, "", ARGUMENT)),
        ("two arguments", &["5ecre7", "5ecre7"], staple.to_owned(), run(2, "", ARGUMENT)),
        ("argument with a hyphen", &["-5ecre7"], staple.to_owned(), run(2, "", ARGUMENT)),
        ("argument like an option", &["--5ecre7"], staple.to_owned(), run(2, "", ARGUMENT)),
        ("empty argument", &[""], staple.to_owned(), run(2, "", ARGUMENT)),
    ] {
        let all = [&["key", "digest"], arguments].concat();
        assert_eq!(aoai(&all, stdin.as_bytes()), expected, "{name}");
    }
}

#[test]
fn usage_errors_end_with_2_and_print_the_usage() {
    for (arguments, says) in [
        (&[][..], "Usage: aoai <COMMAND>"),
        (&["check"], "Usage: aoai check <FILE>"),
        (&["completions"], "Usage: aoai completions <SHELL>"),
        (&["completions", "cmd"], "possible values: bash, elvish, fish, powershell, zsh"),
        (&["chekc", "-"], "'check'"),
        (&["render"], "Usage: aoai render <COMMAND>"),
        (&["render", "envoy"], "Usage: aoai render envoy <FILE>"),
        (&["render", "istio"], "Usage: aoai render istio <FILE>"),
        (&["render", "envoy-gateway"], "Usage: aoai render envoy-gateway <FILE>"),
        (&["render", "ratelimit"], "Usage: aoai render ratelimit <FILE>"),
        (&["key"], "Usage: aoai key <COMMAND>"),
        (&["key", "new", "name"], "Usage: aoai key new"),
        (&["doctor"], "Usage: aoai doctor <FILE>"),
        (&["doctor", "-", "--timeout=0s"], "expected a duration such as 500ms or 10s"),
        (&["doctor", "-", "--identity-endpoint=localhost"], "expected http://IP:PORT"),
        (&["doctor", "-", "--resolve=eastus"], "expected NAME=IP:PORT"),
        (&["explain", "--lits"], "Usage: aoai explain"),
    ] {
        let found = aoai(arguments, b"");
        assert_eq!((found.status, &*found.stdout), (2, ""), "{arguments:?}");
        assert!(found.stderr.contains(says), "{arguments:?}: {}", found.stderr);
    }
}

#[test]
fn help_has_examples_and_hides_what_is_refused() {
    for (arguments, says) in [
        (&["--help"][..], "aoai check gateway.yaml"),
        (&["check", "--help"], "Exit status: 0 when there is no problem"),
        (&["check", "--help"], "aoai check -"),
        (&["render", "--help"], "Print a complete Envoy bootstrap for a configuration"),
        (&["render", "envoy", "--help"], "aoai render envoy gateway.yaml > envoy.yaml"),
        (
            &["render", "istio", "--help"],
            "aoai render istio gateway.yaml | kubectl apply --server-side -f -",
        ),
        (
            &["render", "envoy-gateway", "--help"],
            "aoai render envoy-gateway gateway.yaml | kubectl apply --server-side -f -",
        ),
        (&["render", "ratelimit", "--help"], "aoai render ratelimit gateway.yaml >"),
        (&["doctor", "--help"], "aoai doctor gateway.yaml --json"),
        (&["doctor", "--help"], "Prints no token and no other secret"),
        (&["explain", "--help"], "aoai explain < error.txt"),
        (&["key", "--help"], "Print the digest of a key"),
        (&["key", "new", "--help"], "$ aoai key new"),
        (&["key", "digest", "--help"], "aoai key digest < key.txt"),
    ] {
        let found = aoai(arguments, b"");
        assert_eq!((found.status, &*found.stderr), (0, ""), "{arguments:?}");
        assert!(found.stdout.contains(says), "{arguments:?}: {}", found.stdout);
        assert!(!found.stdout.contains("[KEY]"), "{arguments:?}: {}", found.stdout);
    }
    let version = concat!("aoai ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(aoai(&["--version"], b""), run(0, version, ""));
}

#[test]
fn limits_of_a_service_are_rendered_where_the_document_has_one() {
    let shared = format!("limits: {{store: ratelimit, cluster: limits}}\n{CONFIGURATION}");
    let service = |input: &str| aoai(&["render", "ratelimit", "-"], input.as_bytes());
    let found = service(&shared);
    assert_eq!((found.status, &*found.stderr), (0, ""));
    assert!(found.stdout.ends_with("\ndomain: aoai\ndescriptors: []\n"), "{}", found.stdout);
    let error =
        "aoai: the document keeps its limits in the proxies: expected limits.store: ratelimit\n";
    assert_eq!(service(CONFIGURATION), run(2, "", error));
    let mistaken = shared.replace("[gpt-4o]", "[gpt-4]");
    assert_eq!(service(&mistaken).status, 1);

    let envoy = |input: &str, options: &[&str]| {
        aoai(&[&["render", "envoy", "-"], options].concat(), input.as_bytes())
    };
    let found = envoy(&shared, &["--resolve=limits=127.0.0.1:18081"]);
    assert!(found.stdout.contains("{address: 127.0.0.1, port_value: 18081}"), "{}", found.stdout);
    let taken = shared.replace("cluster: limits", "cluster: imds");
    let problem = "-:1: limits.cluster: \"imds\" is also the cluster of an identity or a backend; expected another cluster\n";
    assert_eq!(envoy(&taken, &[]), run(1, problem, "aoai: -: 1 problem\n"));
}

/// The files of a directory, each whole, and none that is not complete.
#[test]
fn files_that_envoy_follows_are_written_only_if_they_change() {
    let directory = std::env::temp_dir().join(format!("aoai-xds-{}", std::process::id()));
    let path = directory.to_str().unwrap();
    let render = |options: &[&str], input: &str| {
        aoai(&[&["render", "envoy", "-", "--xds", path], options].concat(), input.as_bytes())
    };
    let files = || {
        let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap());
        let one = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            // A file that is replaced is another one.
            (name, std::os::unix::fs::MetadataExt::ino(&entry.metadata().unwrap()))
        };
        entries.map(one).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(render(&[], CONFIGURATION), run(0, "", ""));
    let first = files();
    let names: Vec<_> = first.keys().map(String::as_str).collect();
    let expected = [
        "bootstrap.yaml",
        "cds.yaml",
        "ecds-aoai.backend.yaml",
        "ecds-aoai.gateway.yaml",
        "lds.yaml",
    ];
    assert_eq!(names, expected);
    assert_eq!(render(&[], CONFIGURATION), run(0, "", ""));
    assert_eq!(files(), first);
    let other = CONFIGURATION.replace("search-team", "support-team");
    assert_eq!(render(&[], &other), run(0, "", ""));
    let second = files();
    let changed: Vec<_> = second.iter().filter(|(name, at)| first.get(*name) != Some(at)).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    let lds = std::fs::read_to_string(directory.join("lds.yaml")).unwrap();
    assert!(lds.contains(&format!("{path}/ecds-aoai.gateway.yaml")), "{lds}");
    assert_eq!(render(&["--xds-at=/etc/aoai"], &other), run(0, "", ""));
    let lds = std::fs::read_to_string(directory.join("lds.yaml")).unwrap();
    assert!(lds.contains("path: /etc/aoai/ecds-aoai.gateway.yaml"), "{lds}");
    std::fs::remove_dir_all(&directory).unwrap();
    // A file is where the directory should be.
    std::fs::write(&directory, "").unwrap();
    let failed = render(&[], CONFIGURATION);
    assert!(failed.status == 2 && failed.stderr.starts_with("aoai: cannot write "), "{failed:?}");
    std::fs::remove_file(&directory).unwrap();
}

#[test]
fn several_documents_and_those_of_a_directory_are_checked_together() {
    let directory = std::env::temp_dir().join(format!("aoai-check-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("b.yaml"), CONFIGURATION).unwrap();
    std::fs::write(path("a.yml"), format!("{CONFIGURATION}cloud: mars\ntoken_wait: 1h\n")).unwrap();
    std::fs::write(path("notes.txt"), "no document").unwrap();
    let (a, b) = (path("a.yml"), path("b.yaml"));
    let whole = directory.to_str().unwrap();
    let found = aoai(&["check", whole], b"");
    let lines: Vec<_> = found.stdout.lines().collect();
    let [cloud, wait, ok] = lines.as_slice() else { panic!("{found:?}") };
    assert!(cloud.starts_with(&format!("{a}:15: cloud: found \"mars\"")), "{cloud}");
    assert!(wait.starts_with(&format!("{a}:16: token_wait: ")), "{wait}");
    assert!(ok.starts_with(&format!("{b}: ok: 1 subscription, ")), "{ok}");
    assert_eq!((found.status, found.stderr), (1, format!("aoai: {a}: 2 problems\n")));
    let missing = path("missing.yaml");
    let found = aoai(&["check", &b, &missing], b"");
    assert_eq!((found.status, found.stdout.lines().count()), (2, 1));
    assert!(
        found.stderr.starts_with(&format!("aoai: cannot read {missing}: ")),
        "{}",
        found.stderr
    );
    std::fs::remove_file(a).unwrap();
    std::fs::remove_file(b).unwrap();
    let empty = format!("aoai: cannot read {whole}: it has no .yaml, .yml or .json file\n");
    assert_eq!(aoai(&["check", whole], b""), run(2, "", &empty));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn shells_complete_commands_and_options() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef aoai"), ("fish", "complete -c aoai")]
    {
        let found = aoai(&["completions", shell], b"");
        assert_eq!((found.status, &*found.stderr), (0, ""), "{shell}");
        for word in [word, "envoy-gateway", "clusters-of"] {
            assert!(found.stdout.contains(word), "{shell}: {word}");
        }
    }
}

/// Three requests on two days, one of them refused, and what else a collector of logs has.
const ACCESS_LOG: &str = r#"{"time":"2026-11-26T23:59:59.999Z","subscription":"search","model":"gpt-4o","operation":"chat/completions","backend":"eastus","status":200,"reason":null,"tokens":"21","input_tokens":"9","output_tokens":"12"}
gateway-1 {"time":"2026-11-27T00:00:00.000Z","subscription":"search","model":"gpt-4o","status":200,"reason":"-","tokens":21,"input_tokens":9,"output_tokens":12}
{"time":"2026-11-27T10:00:00.000Z","subscription":null,"model":null,"status":401,"reason":"missing_key","tokens":null}

[2026-11-27 10:00:00.000][1][warning][wasm] backend eastus is in cooldown {"a": 1}
{"time":"cut"#;

#[test]
fn access_logs_are_summed_up_by_subscription_model_and_day() {
    let usage = |options: &[&str]| aoai(&[&["usage"], options].concat(), ACCESS_LOG.as_bytes());
    let others = "aoai: skipped 2 lines that no access log has\n";
    let table = "\
day         subscription  model   requests  refused  input_tokens  output_tokens  tokens
2026-11-26  search        gpt-4o         1        0             9             12      21
2026-11-27  none          none           1        1             0              0       0
2026-11-27  search        gpt-4o         1        0             9             12      21
all                                      3        1            18             24      42
";
    assert_eq!(usage(&[]), run(0, table, others));
    let csv = "\
subscription,backend,requests,refused,input_tokens,output_tokens,tokens
none,none,1,1,0,0,0
search,eastus,1,0,9,12,21
search,none,1,0,9,12,21
";
    assert_eq!(usage(&["--by", "subscription,backend", "--format=csv"]), run(0, csv, others));
    let json = usage(&["-", "--by=operation", "--format=json"]);
    let rows: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let row = |operation: &str, requests: u64, refused: u64, tokens: [u64; 3]| {
        let [input_tokens, output_tokens, tokens] = tokens;
        serde_json::json!({"operation": operation, "requests": requests, "refused": refused,
            "input_tokens": input_tokens, "output_tokens": output_tokens, "tokens": tokens})
    };
    let expected = [row("chat/completions", 1, 0, [9, 12, 21]), row("none", 2, 1, [9, 12, 21])];
    assert_eq!(rows, serde_json::json!(expected));
}

#[test]
fn a_log_without_a_line_of_ours_and_one_that_is_not_there_are_errors() {
    let nothing = "aoai: found no line of an access log (listener.access_log: json)\n";
    assert_eq!(aoai(&["usage"], b""), run(1, "", nothing));
    let others = format!("aoai: skipped 1 line that no access log has\n{nothing}");
    assert_eq!(aoai(&["usage"], b"[info] x\n"), run(1, "", &others));
    let failed = aoai(&["usage", "missing.log"], b"");
    assert!(failed.status == 2 && failed.stderr.starts_with("aoai: cannot read missing.log"));
    let failed = aoai(&["usage", "--by=team"], b"");
    assert!(failed.status == 2 && failed.stderr.contains("possible values: day, subscription"));
}

/// A document without the section, and steps between two documents.
#[test]
fn resources_of_a_control_plane_are_rendered_or_it_is_said_why_not() {
    for (plane, section, expected, first, last) in [
        (
            "istio",
            "istio",
            "which proxies of the mesh are meant, and their module",
            "aoai-clusters",
            "---",
        ),
        (
            "envoy-gateway",
            "envoy_gateway",
            "which Gateway is meant, and the module of its proxies",
            "jsonPatches",
            "RouteConfiguration",
        ),
    ] {
        let render = |options: &[&str], input: &str| {
            aoai(&[&["render", plane, "-"], options].concat(), input.as_bytes())
        };
        let problem = format!("-:1: {section}: missing; expected {expected}\n");
        assert_eq!(render(&[], CONFIGURATION), run(1, &problem, "aoai: -: 1 problem\n"));
        let document = format!("{CONFIGURATION}{section}: {{module: /aoai.wasm}}\n");
        let clusters = |run: &Run| clusters_between(&run.stdout, first, last);
        resources_have_clusters(render, &document, clusters);
    }
}

/// What is the same for every control plane.
fn resources_have_clusters(
    render: impl Fn(&[&str], &str) -> Run,
    document: &str,
    clusters: impl Fn(&Run) -> Vec<String>,
) {
    let alone = render(&[], document);
    assert_eq!((alone.status, &*alone.stderr), (0, ""));
    assert_eq!(render(&[], document), alone);
    // The clusters of another document come besides, each once.
    let both = render(&["--clusters-of", "tests/golden/regions.yaml"], document);
    let (own, all) = (clusters(&alone), clusters(&both));
    assert!(own.iter().all(|name| all.contains(name)), "{own:?} {all:?}");
    assert!(all.contains(&r#""aoai/sweden>eastus""#.to_owned()), "{all:?}");
    let unique: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(unique.len(), all.len());
    // An option may name what is in either.
    let resolved = ["--clusters-of", "tests/golden/regions.yaml", "--resolve=france=127.0.0.1:1"];
    assert_eq!(render(&resolved, document).status, 0);
    let unknown = "aoai: --resolve france: the document has neither a backend nor a cluster of an identity with this name\n";
    assert_eq!(render(&["--resolve=france=127.0.0.1:1"], document), run(2, "", unknown));
}

/// The names of clusters that an output has between these two words.
fn clusters_between(text: &str, first: &str, last: &str) -> Vec<String> {
    let (_, rest) = text.split_once(first).unwrap();
    let (rest, _) = rest.split_once(last).unwrap();
    let names = rest.lines().filter_map(|line| line.strip_prefix("        name: "));
    names.map(str::to_owned).collect()
}

#[test]
fn render_prints_a_bootstrap_or_why_there_is_none() {
    let render = |options: &[&str], input: &str| {
        aoai(&[&["render", "envoy", "-"], options].concat(), input.as_bytes())
    };
    let first = render(&[], CONFIGURATION);
    assert_eq!((first.status, &*first.stderr), (0, ""));
    assert!(first.stdout.contains("\n  - name: \"aoai/eastus>sweden\"\n"), "{}", first.stdout);
    assert_eq!(render(&[], CONFIGURATION), first);
    assert!(render(&["--listener-port=0"], CONFIGURATION).stdout.contains("port_value: 0}"));

    let parts = render(&["--parts", "--host=AI.example.com"], CONFIGURATION);
    assert!(
        parts.stdout.contains("domains: [ai.example.com, \"ai.example.com:*\", "),
        "{}",
        parts.stdout
    );
    for (options, says) in [
        (&["--parts"][..], "--host <NAME>"),
        (&["--host=ai.example.com"], "--parts"),
        (&["--parts", "--host=ai.example.com:443"], "expected a host name without a port"),
        (&["--parts", "--host=*"], "expected a host name without a port"),
    ] {
        let found = render(options, CONFIGURATION);
        assert_eq!((found.status, &*found.stdout), (2, ""), "{options:?}");
        assert!(found.stderr.contains(says), "{options:?}: {}", found.stderr);
    }

    let monitored = format!("listener: {{monitoring: {{}}}}\n{CONFIGURATION}");
    let found = render(&["--admin-port=9999"], &monitored);
    assert!(found.stdout.contains("{address: 0.0.0.0, port_value: 9090}"), "{}", found.stdout);
    assert!(found.stdout.contains("{address: 127.0.0.1, port_value: 9999}"), "{}", found.stdout);
    let error = "aoai: --admin-port 0: the document's listener.monitoring leads to the admin interface; expected its port\n";
    assert_eq!(render(&["--admin-port=0"], &monitored), run(2, "", error));
    let error =
        "aoai: --parts: an Envoy of your own has its own monitoring; remove listener.monitoring\n";
    assert_eq!(render(&["--parts", "--host=a"], &monitored), run(2, "", error));

    let mistaken = CONFIGURATION.replace("[gpt-4o]", "[gpt-4]");
    let problem = "-:7: subscriptions[0].models[0]: \"gpt-4\" is not one of the document's models; did you mean \"gpt-4o\"?\n";
    let unknown = "aoai: --resolve japan: the document has neither a backend nor a cluster of an identity with this name\n";
    let twice = "aoai: --resolve eastus: given twice; keep one\n";
    for (name, options, input, expected) in [
        ("wrong document", &[][..], &*mistaken, run(1, problem, "aoai: -: 1 problem\n")),
        ("unknown backend", &["--resolve=japan=127.0.0.1:1"], CONFIGURATION, run(2, "", unknown)),
        (
            "backend twice",
            &["--resolve=eastus=127.0.0.1:1", "--resolve=eastus=127.0.0.1:2"],
            CONFIGURATION,
            run(2, "", twice),
        ),
    ] {
        assert_eq!(render(options, input), expected, "{name}");
    }
    for (option, says) in [
        ("--resolve=eastus=10.0.0.1:80", "10.0.0.1:80 is not on this machine"),
        ("--resolve=eastus", "expected NAME=IP:PORT"),
        ("--identity=imds", "invalid socket address"),
        ("--listener-port=65536", "65536 is not in 0..=65535"),
    ] {
        let found = render(&[option], CONFIGURATION);
        assert_eq!((found.status, &*found.stdout), (2, ""), "{option}");
        assert!(found.stderr.contains(says), "{option}: {}", found.stderr);
    }
}

/// Two identities of backends, and one that no backend uses.
fn with_identities(first: &str, second: &str) -> String {
    let both = format!("identities: {{first: {{{first}}}, of-two: {{{second}}}, unused: {{client_secret: {{tenant: a.b, client_id: {GUID}, cluster: x, secret_cluster: y}}}}}}");
    let named = CONFIGURATION
        .replace("identity: {managed_identity: {cluster: imds}}", &both)
        .replace("name: eastus", "name: eastus\n  identity: first")
        .replace("name: sweden", "name: sweden\n  identity: of-two");
    assert_eq!(named.matches("\n  identity:").count(), 2);
    named
}

const GUID: &str = "00000000-0000-0000-0000-00000000000f";
const IMDS: &str = "managed_identity: {cluster: imds}";

#[test]
fn identities_that_envoy_could_not_serve_are_reported() {
    let app_service = |port: &str| {
        format!("app_service: {{cluster: app, endpoint: 'http://localhost:{port}/a'}}")
    };
    let application = |kind: &str, more: &str| {
        format!("{kind}: {{tenant: a.b, client_id: {GUID}, cluster: entra, {more}}}")
    };
    let pod = |more: &str| application("workload_identity", &format!("token_cluster: pod{more}"));
    let secret =
        |more: &str| application("client_secret", &format!("secret_cluster: secret{more}"));
    let other = "is also a cluster of identities.first, where it leads to";
    let own = "expected another cluster";
    for (first, second, problem) in [
        (IMDS.to_owned(), secret(""), "identities[\"of-two\"].client_secret.secret_file: missing; expected the path of the file that contains the client secret, which Envoy serves to the filter".to_owned()),
        (app_service("1"), app_service("2"), format!("identities[\"of-two\"].app_service.cluster: \"app\" {other} http://localhost:1; here it leads to http://localhost:2; {own}")),
        (app_service("1"), IMDS.replace("imds", "app"), format!("identities[\"of-two\"].managed_identity.cluster: \"app\" {other} http://localhost:1; here it leads to the Instance Metadata Service; {own}")),
        (pod(", token_file: /a"), pod(""), format!("identities[\"of-two\"].workload_identity.token_cluster: \"pod\" {other} a file; here it leads to another file; {own}")),
        (pod(""), secret(", secret_file: /s, authority: 'https://localhost'"), format!("identities[\"of-two\"].client_secret.cluster: \"entra\" {other} https://login.microsoftonline.com; here it leads to https://localhost; {own}")),
        (secret(", secret_file: /s"), pod("").replace("pod", "secret"), format!("identities[\"of-two\"].workload_identity.token_cluster: \"secret\" {other} a file; here it leads to another file; {own}")),
    ] {
        let document = with_identities(&first, &second);
        // By hand they might be wired in some other way.
        assert_eq!(aoai(&["check", "-"], document.as_bytes()), run(0, OK, ""), "{problem}");
        let found = aoai(&["render", "envoy", "-"], document.as_bytes());
        assert_eq!(found, run(1, &format!("-:1: {problem}\n"), "aoai: -: 1 problem\n"), "{document}");
    }
}

#[test]
fn identities_that_call_the_same_share_its_cluster() {
    let pod = format!(
        "workload_identity: {{tenant: a.b, client_id: {GUID}, cluster: entra, token_cluster: pod}}"
    );
    for (first, second, clusters) in [
        (IMDS.to_owned(), IMDS.to_owned(), "imds"),
        (pod.clone(), pod.replace("a.b", "c.d"), "entra pod"),
        (pod, IMDS.to_owned(), "entra pod imds"),
    ] {
        let found = aoai(&["render", "envoy", "-"], with_identities(&first, &second).as_bytes());
        assert_eq!((found.status, &*found.stderr), (0, ""));
        let (_, rendered) = found.stdout.split_once("\n  clusters:\n").unwrap();
        let names = rendered.lines().filter_map(|line| line.strip_prefix("  - name: "));
        let expected: Vec<_> = clusters.split(' ').collect();
        let identities: Vec<_> = names.take_while(|name| *name != "aoai_eastus").collect();
        assert_eq!(identities, expected);
    }
}

#[test]
fn options_that_fit_no_identity_are_reported() {
    let documents = [
        ("app_service: {cluster: app}", "--identity=127.0.0.1:1", "--identity: no backend uses a managed_identity; for identities of other kinds see --resolve"),
        ("app_service: {cluster: app}", "--resolve=app=https://127.0.0.1:1", "--resolve app: this endpoint does not use TLS; remove https://"),
        ("app_service: {cluster: eastus}", "--resolve=eastus=127.0.0.1:1", "--resolve eastus: both a backend and a cluster of an identity have this name; rename one"),
        (
            "workload_identity: {tenant: a.b, client_id: 00000000-0000-0000-0000-00000000000f, cluster: entra, token_cluster: pod}",
            "--resolve=pod=127.0.0.1:1",
            "--resolve pod: Envoy itself serves this cluster, from a file that the document names",
        ),
    ];
    for (identity, option, says) in documents {
        let document = with_identities(identity, identity);
        let found = aoai(&["render", "envoy", "-", option], document.as_bytes());
        assert_eq!(found, run(2, "", &format!("aoai: {says}\n")), "{option}");
    }
}

#[test]
fn explain_prints_the_cause_of_an_error_wherever_it_was_copied_from() {
    const KEY: &str = "5ecre7-key-of-somebody";
    let body = |body: &str| body.to_owned();
    for (name, input, slug) in [
        ("body", body(r#"{"error":{"code":"Request is badly formated","message":"Resource Id is badly formed: NA"}}"#), "regional_endpoint"),
        ("exception", body("openai.NotFoundError: Error code: 404 - {'error': {'code': 'DeploymentNotFound'}}"), "deployment_not_found"),
        ("response", body("HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\n\r\n{\"error\":{\"code\":\"404\",\"message\": \"Resource not found\"}}"), "unknown_path"),
        ("response with its diagnosis", body("HTTP/1.1 401 Unauthorized\nX-Aoai-Diagnosis: token_rejected\n"), "token_rejected"),
        ("line of the gateway's log", body("[warning] backend eastus responded 400, wrong_tenant: the identity belongs to …"), "wrong_tenant"),
        ("line of a log in JSON", body(r#"{"level":"error","text":"AADSTS700024: Client assertion is not …"}"#), "assertion_expired"),
        ("request with its key", format!("api-key: {KEY}\n\n429 exceeded call rate limit"), "throttled"),
        ("not UTF-8", body("\u{fffd} Principal does not have access to API/Operation."), "role_missing"),
    ] {
        let found = aoai(&["explain"], input.as_bytes());
        assert_eq!((found.status, &*found.stderr), (0, ""), "{name}");
        assert!(found.stdout.starts_with(&format!("{slug}\n  message:    ")), "{name}: {}", found.stdout);
        assert!(found.stdout.contains("\n  remedy:     "), "{name}: {}", found.stdout);
        assert!(!found.stdout.contains(KEY), "{name}");
        assert_eq!(aoai(&["explain", slug], b""), run(0, &found.stdout, ""), "{name}");
    }
}

#[test]
fn explain_reports_that_there_is_nothing_to_explain() {
    const KEY: &str = "5ecre7";
    const UNKNOWN: &str = "aoai: the error is not known; aoai explain --list prints all known errors. Paste the whole response of Azure, or the line of Envoy's log; aoai doctor looks for problems by itself\n";
    const EMPTY: &str =
        "aoai: standard input is empty; pass the error there: aoai explain < error.txt\n";
    const NO_NAME: &str = "aoai: no known error has this name; aoai explain --list prints all names. To explain a message, pass it on standard input: aoai explain < error.txt\n";
    const ARGUMENTS: &str =
        "aoai: pass the error on standard input, not as an argument: aoai explain < error.txt\n";
    const LONG: &str = "aoai: the input is longer than 1048576 bytes; pass only the error\n";
    for (name, arguments, input, expected) in [
        ("unknown", &[][..], format!("{{\"error\":\"{KEY}\"}}"), run(1, "", UNKNOWN)),
        ("nothing", &[], " \n".to_owned(), run(2, "", EMPTY)),
        ("endless", &[], "x".repeat((1 << 20) + 1), run(2, "", LONG)),
        ("unknown name", &[KEY], String::new(), run(2, "", NO_NAME)),
        ("words", &["Identity", "not", "found"], String::new(), run(2, "", ARGUMENTS)),
        ("list and name", &["--list", "role_missing"], String::new(), run(2, "", ARGUMENTS)),
    ] {
        let all = [&["explain"], arguments].concat();
        assert_eq!(aoai(&all, input.as_bytes()), expected, "{name}");
    }
}

#[test]
fn explain_lists_every_mistake() {
    let list = aoai(&["explain", "--list"], b"");
    assert_eq!((list.status, &*list.stderr), (0, ""));
    let slugs: Vec<_> = list.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    let azure = aoai_filter::response::diagnosis::Diagnosis::all().map(|row| row.slug);
    let replies = aoai_filter::reply::Reason::ALL.into_iter().map(|reason| reason.name());
    let all = azure.chain(replies).collect::<Vec<_>>().join("\n\n");
    assert!(slugs.join("\n").starts_with(&all), "{}", list.stdout);
}

/// Words of Envoy's are those of its source and of its reference ("Response Code Details"); lines of the gateway's log are
/// telemetry's own.
#[test]
fn explain_knows_local_replies_and_lines_of_the_log() {
    let line =
        |text: &str| format!("[2026-11-27 08:00:00.000][1][error][wasm] [source/x.cc:1] {text}\n");
    for (name, input, first) in [
        ("a local reply's header", "HTTP/1.1 401 Unauthorized\r\nX-Aoai-Reason: missing_key\r\n".to_owned(), "missing_key"),
        ("a local reply's body", r#"{"error":{"code":"404","type":"unknown_operation","message":"…","param":null}}"#.to_owned(), "unknown_operation"),
        ("an exception of the official client", "openai.RateLimitError: Error code: 429 - {'error': {'code': '429', 'type': 'token_limit_reached'}}".to_owned(), "token_limit_reached"),
        ("a line of the access log", r#"{"time":"2026-11-27T08:00:00Z","status":503,"reason":"all_backends_failed"}"#.to_owned(), "all_backends_failed"),
        ("with the mistake besides", "x-aoai-reason: backend_misconfigured\nx-aoai-diagnosis: role_missing\n".to_owned(), "role_missing"),
        ("no cluster", line("Envoy has no cluster aoai/eastus>sweden, which the configuration needs: requests get 500"), "envoy has no cluster"),
        ("a certificate", "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED".to_owned(), "certificate_verify_failed"),
        ("a circuit breaker", "upstream connect error or disconnect/reset before headers. reset reason: overflow".to_owned(), "upstream connect error … overflow"),
        ("a connection", "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure".to_owned(), "upstream connect error"),
        ("no address", "no healthy upstream".to_owned(), "no healthy upstream"),
        ("a timeout", "upstream request timeout".to_owned(), "upstream request timeout"),
        ("a large body", "Payload Too Large".to_owned(), "payload too large"),
        ("an old Envoy", "Protobuf message (type envoy.extensions.wasm.v3.PluginConfig reason INVALID_ARGUMENT: no such field: 'allow_on_headers_stop_iteration') has unknown fields".to_owned(), "no such field … allow_on_headers_stop_iteration"),
        ("a module that is not there", "error initializing config: Invalid path: /etc/aoai/aoai_filter.wasm".to_owned(), "invalid path:"),
        ("a refused document", line("Plugin configured to fail closed failed to load"), "plugin configured to fail closed"),
        ("a port", "cannot bind '127.0.0.1:9901': Address already in use".to_owned(), "address already in use"),
        ("a cooldown", line("backend eastus is in cooldown for model gpt-4o for 7.050 s: throttled"), "is in cooldown for model"),
        ("an unknown token error", line("no token for Azure: failed: reset. Next attempt in 7 s (identity default)"), "no token for azure"),
    ] {
        let found = aoai(&["explain"], input.as_bytes());
        assert_eq!((found.status, &*found.stderr), (0, ""), "{name}");
        assert!(found.stdout.starts_with(&format!("{first}\n  ")), "{name}: {}", found.stdout);
        assert!(found.stdout.contains("\n  remedy:     "), "{name}: {}", found.stdout);
    }
    let named = aoai(&["explain", "unknown_key"], b"");
    assert!(
        named.status == 0 && named.stdout.starts_with("unknown_key\n  cause:      no subscription")
    );
}

/// What the table of local replies says has a row for each.
#[test]
fn the_readme_has_every_local_reply_with_its_status() {
    let readme = include_str!("../envoy/clients.md");
    for reason in aoai_filter::reply::Reason::ALL {
        let (name, status) = (format!("`{}`", reason.name()), format!("| {} |", reason.status()));
        let has_row =
            |line: &str| line.starts_with("| `") && line.contains(&name) && line.contains(&status);
        assert!(readme.lines().any(has_row), "{name} {status}");
    }
}

/// What it finds at Azure, simulated Azure shows: tests/e2e/test_doctor.py.
#[test]
fn doctor_reports_why_it_cannot_begin() {
    let absent = "/nowhere/gateway.yaml";
    for (name, arguments, input, expected) in [
        (
            "absent file",
            &[absent][..],
            "",
            run(2, "", &format!("aoai: cannot read {absent}: No such file or directory (os error 2)\n")),
        ),
        (
            "unknown backend",
            &["-", "--resolve=japan=127.0.0.1:1"],
            CONFIGURATION,
            run(2, "", "aoai: --resolve japan: the document has neither a backend nor a cluster of an identity with this name\n"),
        ),
        (
            "TLS where there is none",
            &["-", "--identity-endpoint=https://127.0.0.1:1"],
            CONFIGURATION,
            run(2, "", "aoai: --identity-endpoint: the endpoint of identity default does not use TLS; use http://\n"),
        ),
        (
            "nothing",
            &["-"],
            "",
            run(1, "FAIL  configuration    document: empty; expected the configuration as JSON\nskip  other steps      skipped: the configuration has problems\n\n1 problem\n", ""),
        ),
    ] {
        let all = [&["doctor"], arguments].concat();
        assert_eq!(aoai(&all, input.as_bytes()), expected, "{name}");
    }
}

#[test]
fn errors_that_users_met_are_explained_and_none_is_unknown() {
    let rows: Vec<_> = include_str!("errors.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.splitn(3, '\t').collect::<Vec<_>>())
        .collect();
    assert!(rows.len() > 60, "{}", rows.len());
    let unexplained: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            let [name, source, text] = row.as_slice() else { panic!("{row:?}") };
            assert!(source.starts_with("https://github.com/"), "{source}");
            let found = aoai(&["explain"], text.as_bytes());
            let first = found.stdout.lines().next().unwrap_or("nothing");
            (first != *name).then(|| format!("{source}: {first} instead of {name}"))
        })
        .collect();
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}
