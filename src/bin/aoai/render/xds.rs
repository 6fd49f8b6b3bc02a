//! Files for an Envoy that follows them (file-based xDS): keys, backends and modules are replaced without a restart.
//!
//! Source: Envoy's documentation, "xDS configuration API overview". Envoy reads a file again when something is moved
//! into its directory, and only then: each file is written under another name and renamed.

use std::io;
use std::path::{Path, PathBuf};

use super::config_source::{file_of, source};
use super::destinations::Destinations;
use super::envoy;
use super::filter::{local, Delivery, Filters, Source};
use super::options::Options;
use super::pools::Pool;
use super::yaml::{indented, item};
use crate::document::Document;

/// The types of what the files have.
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// The name of the bootstrap's file.
pub(super) const BOOTSTRAP: &str = "bootstrap.yaml";

const CLUSTERS: &str = "cds.yaml";
const LISTENERS: &str = "lds.yaml";

/// The files of a document, in the order in which they are to be written: what can be referred to comes first.
pub(super) fn files(
    document: &Document,
    options: &Options,
    at: &Path,
    pools: &[Pool<'_>],
    destinations: &Destinations<'_>,
) -> Vec<(String, String)> {
    let delivery = Delivery::Discovered(Source::Files(at));
    let filters = Filters { document, code: local(&options.wasm), delivery };
    let (listeners, clusters) = envoy::resources(options, pools, destinations, &filters);
    let mut files = vec![(CLUSTERS.to_owned(), resources(CLUSTER, &clusters))];
    for (name, config) in filters.discovered() {
        let item = format!("- name: {name}\n  typed_config:\n{}", indented(&config, 4));
        files.push((file_of(name), resources(EXTENSION, &[item])));
    }
    files.push((LISTENERS.to_owned(), resources(LISTENER, &listeners)));
    files.push((BOOTSTRAP.to_owned(), bootstrap(document, options, at, destinations)));
    files
}

fn bootstrap(
    document: &Document,
    options: &Options,
    at: &Path,
    destinations: &Destinations<'_>,
) -> String {
    let dynamic = [("cds", CLUSTERS), ("lds", LISTENERS)]
        .map(|(name, file)| format!("  {name}_config: {}\n", source(at, file)))
        .concat();
    format!(
        "\
# Envoy with aoai-filter, rendered by `aoai render envoy --xds`: what changes with the document is in the files that it
# refers to, which Envoy follows. What is here takes effect when Envoy starts.
node: {{id: aoai, cluster: aoai}}
{}
dynamic_resources:
{dynamic}",
        envoy::process(document, options, destinations)
    )
}

/// A file with resources of one type.
fn resources(kind: &str, items: &[String]) -> String {
    let mut text = "# Rendered by `aoai render envoy --xds`.\nresources:\n".to_owned();
    for one in items {
        let (comments, value) = item(one);
        text += &format!("{comments}- \"@type\": {kind}\n{}", indented(&value, 2));
    }
    text
}

/// Writes files into a directory that may not be there yet. A file that has not changed stays as it is, and no
/// reader ever sees a part of one.
pub(super) fn write(directory: &Path, files: &[(String, String)]) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { path, source }
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    for (name, text) in files {
        let path = directory.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        let unfinished = directory.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&unfinished, text).map_err(failed(&unfinished))?;
        std::fs::rename(&unfinished, &path).map_err(failed(&path))?;
    }
    Ok(())
}

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", .path.display())]
pub(super) struct WriteError {
    path: PathBuf,
    source: io::Error,
}
