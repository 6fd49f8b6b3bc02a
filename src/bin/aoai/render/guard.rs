//! What makes a route depend on the filters of its listener, where the two are apart and one may be missing.
//!
//! A filter before the gateway stage marks the request, which no caller can do, and the routes to backends match
//! marked requests only.

use super::filter::OFF;

/// The name of the filter, by which a virtual host enables it.
pub(super) const FILTER: &str = "aoai-guard";

/// What a route matches besides the header, as the end of its match.
pub(super) const MATCH: &str =
    ", dynamic_metadata: [{filter: aoai.guard, path: [{key: passed}], value: {bool_match: true}}]";

/// The filter as an item of a list; a virtual host enables it.
pub(super) fn filter() -> String {
    format!(
        "\
# Marks what has passed the filters: routes lead to backends only then.
- name: {FILTER}
{OFF}  \
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
    metadata: [{{metadata_namespace: aoai.guard, value: {{passed: true}}}}]
"
    )
}
