//! What Envoy Gateway needs: an EnvoyPatchPolicy, an EnvoyProxy, and a Gateway where there is none.
//!
//! Source of the shapes: the API references of Envoy Gateway 1.9 and the Gateway API, and what Envoy Gateway does
//! with them.

mod policy;
mod resources;

use aoai_filter::config::{EnvoyGateway, ModuleSource};

use self::policy::Policy;
use super::destinations::Destinations;
use super::filter::{local, Delivery, Filters};
use super::options::Addresses;
use super::pools::Pool;
use crate::document::Document;

/// The resources of a document, as a stream of YAML documents.
pub(super) fn render(
    document: &Document,
    section: &EnvoyGateway,
    addresses: &Addresses,
    pools: &[Pool<'_>],
    destinations: &Destinations<'_>,
) -> String {
    let code = match &section.module {
        ModuleSource::File(path) => local(path),
        ModuleSource::Image(_) => local(resources::MODULE),
    };
    let filters = Filters { document, code, delivery: Delivery::Apart };
    let policy = Policy { section, config: &document.config, pools, filters: &filters };
    let mut all = vec![HEAD.to_owned() + &resources::proxy(section, destinations)];
    all.extend(resources::gateway(section));
    all.push(policy.resource(destinations, addresses));
    all.join("---\n")
}

const HEAD: &str = "\
# Azure OpenAI by Envoy Gateway, rendered by `aoai render envoy-gateway` from the document that is contained below. To
# change it, change the document, render again, and apply: kubectl apply --server-side -f FILE
# Envoy Gateway applies an EnvoyPatchPolicy where its own configuration has extensionApis.enableEnvoyPatchPolicy: true.
";
