//! Files as Envoy's config sources (file-based xDS).
//!
//! Source: `config.core.v3.PathConfigSource` in Envoy's API reference. Envoy reads a file again when something is moved
//! into its directory, and only then.

use std::path::Path;

use super::yaml::scalar;

/// The file of a filter's configuration.
pub(super) fn file_of(filter: &str) -> String {
    format!("ecds-{filter}.yaml")
}

/// The config source of a filter's configuration.
pub(super) fn filter_source(at: &Path, filter: &str) -> String {
    source(at, &file_of(filter))
}

/// A config source: a file of the directory.
pub(super) fn source(at: &Path, file: &str) -> String {
    let path = scalar(&at.join(file).to_string_lossy());
    let folder = scalar(&at.to_string_lossy());
    format!("{{path_config_source: {{path: {path}, watched_directory: {{path: {folder}}}}}, resource_api_version: V3}}")
}
