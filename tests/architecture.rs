//! The rules for imports between rooms, checked in the code's own paths.
//!
//! 1. base < config < request < {access, routing, identity, response} < reply < flow < telemetry <
//!    {host, bin}: imports point left only; the four in braces do not import each other.
//! 2. No cycles between files.
//! 3. Only `host` names proxy_wasm, nothing imports `host`, and `bin` imports no flow.
//! 4. `host` decides nothing: no header of ours, no duration, no reason of a local reply.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A room and its layer.
const LAYERS: [(&str, u8); 12] = [
    ("base", 0),
    ("config", 1),
    ("request", 2),
    ("access", 3),
    ("routing", 3),
    ("identity", 3),
    ("response", 3),
    ("reply", 4),
    ("flow", 5),
    ("telemetry", 6),
    ("host", 7),
    ("bin", 7),
];

/// What the edge may be long at most: policy belongs elsewhere.
const LONGEST_EDGE: usize = 900;

/// A source file without its tests.
struct Source {
    /// Its module, such as `routing::pool`; `bin::…` for the tool's files.
    module: Vec<String>,
    path: PathBuf,
    /// Without comments and tests.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.retain(|path| !path.ends_with("tests.rs"));
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let mut module: Vec<String> =
                relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if matches!(module.last().unwrap().as_str(), "mod" | "main" | "lib") {
                module.pop();
            }
            Source { module, code: code(&text), path }
        })
        .collect()
}

/// The code without comments and without what is compiled for tests only, which is last.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line.split(" // ").next().unwrap(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate`, `super`, `self` or the library's name, with braces expanded, as
/// absolute paths.
fn paths(source: &Source) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for start in ["crate::", "super::", "self::", "aoai_filter::"] {
        for (at, _) in source.code.match_indices(start) {
            let before = source.code[..at].chars().next_back();
            if before.is_some_and(|c| is_word(c) || c == ':') {
                continue;
            }
            for path in expand(&source.code[at..]) {
                found.insert(absolute(&source.module, &path));
            }
        }
    }
    // A module below, named without a prefix: `use table::BACKENDS;`, `check::run(…)`.
    let declared = source.code.lines().filter_map(|line| {
        let line = line.trim_start().strip_suffix(';')?;
        line.rsplit_once("mod ").map(|(_, name)| name)
    });
    for name in declared {
        let path = format!("{name}::");
        let is_named = source.code.match_indices(&path).any(|(at, _)| {
            let before = source.code[..at].chars().next_back();
            !before.is_some_and(|c| is_word(c) || c == ':')
        });
        if is_named {
            found.insert(source.module.iter().cloned().chain([name.to_owned()]).collect());
        }
    }
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(text: &str) -> Vec<Vec<String>> {
    let end =
        text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let (path, rest) = text.split_at(end);
    let parts = || path.split("::").filter(|part| !part.is_empty()).map(str::to_owned);
    let Some(group) = rest.strip_prefix('{').filter(|_| path.ends_with("::")) else {
        return vec![parts().collect()];
    };
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        if depth == 0 && matches!(c, ',' | '}') {
            for tail in expand(group[start..at].trim()) {
                all.push(parts().chain(tail).collect());
            }
            start = at + 1;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    all
}

fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let mut base = match path[0].as_str() {
        "crate" if module.first().is_some_and(|first| first == "bin") => {
            vec!["bin".to_owned(), "aoai".to_owned()]
        }
        "crate" | "aoai_filter" => Vec::new(),
        _ => module.to_vec(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "aoai_filter" | "self" => {}
            "super" => drop(base.pop()),
            part => base.push(part.to_owned()),
        }
    }
    base
}

/// For each file, the files that it imports from.
fn imports(sources: &[Source]) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let modules: BTreeSet<&Vec<String>> = sources.iter().map(|source| &source.module).collect();
    let file_of = |path: &[String]| {
        (1..=path.len())
            .rev()
            .map(|length| path[..length].to_vec())
            .find(|one| modules.contains(one))
    };
    sources
        .iter()
        .map(|source| {
            let found = paths(source).into_iter().filter_map(|path| file_of(&path));
            let others = found.filter(|file| *file != source.module).collect();
            (source.module.clone(), others)
        })
        .collect()
}

fn layer(module: &[String]) -> Option<u8> {
    let room = module.first()?;
    LAYERS.iter().find(|(name, _)| name == room).map(|(_, layer)| *layer)
}

#[test]
fn imports_point_to_lower_layers_only() {
    let imports = imports(&sources());
    assert!(imports.len() > 60, "the sources are found");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (file, others) in imports.iter().filter(|(file, _)| !file.is_empty()) {
        let own = layer(file).unwrap_or_else(|| panic!("{} is in no room", file.join("::")));
        for other in others.iter().filter(|other| other[0] != file[0]) {
            checked += 1;
            if layer(other).is_none_or(|layer| layer >= own) {
                wrong.push(format!("{} imports {}", file.join("::"), other.join("::")));
            }
        }
    }
    assert!(checked > 100, "the imports are found: {checked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_imports_itself_through_others() {
    let imports = imports(&sources());
    let mut cyclic = Vec::new();
    for file in imports.keys() {
        // Breadth first, with the way to each file.
        let mut reached: BTreeMap<&Vec<String>, Vec<String>> = BTreeMap::new();
        let mut next = vec![(file, file.join("::"))];
        while let Some((one, way)) = next.pop() {
            for other in imports.get(one).into_iter().flatten() {
                let way = format!("{way} → {}", other.join("::"));
                if other == file {
                    cyclic.push(way);
                } else if reached.insert(other, Vec::new()).is_none() {
                    next.push((other, way));
                }
            }
        }
    }
    assert!(cyclic.is_empty(), "{}", cyclic.join("\n"));
}

#[test]
fn the_edge_is_alone_with_proxy_wasm_and_the_tool_without_flows() {
    let mut wrong = Vec::new();
    for Source { module, path, code } in &sources() {
        let room = module.first().map_or("", String::as_str);
        if room != "host" && code.contains("proxy_wasm") {
            wrong.push(format!("{} names proxy_wasm", path.display()));
        }
        if room != "host" && code.contains("crate::host") {
            wrong.push(format!("{} imports host", path.display()));
        }
        if room == "bin" && code.contains("aoai_filter::flow") {
            wrong.push(format!("{} imports a flow", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_edge_decides_nothing_and_is_small() {
    let sources = sources();
    let edge: Vec<_> = sources
        .iter()
        .filter(|source| source.module.first().is_some_and(|one| one == "host"))
        .collect();
    assert!(!edge.is_empty());
    let mut wrong = Vec::new();
    let mut lines = 0;
    for Source { path, code, .. } in edge {
        lines += std::fs::read_to_string(path).unwrap().lines().count();
        for policy in
            ["x-aoai-", "x-envoy-", "api-key", "authorization", "Duration::from_", "Reason::"]
        {
            if code.contains(policy) {
                wrong.push(format!("{} has {policy}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(lines < LONGEST_EDGE, "the edge has {lines} lines");
}
