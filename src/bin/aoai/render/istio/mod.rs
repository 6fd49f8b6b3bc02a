//! What an Istio mesh needs: a Gateway or a ServiceEntry, and EnvoyFilters.
//!
//! Source of the shapes: Istio's API reference, and what istiod 1.31 does with them.

mod patches;
mod resources;

use aoai_filter::config::{Istio, ModuleSource};

use self::patches::Patches;
use super::client_credential;
use super::clusters::clusters;
use super::destinations::Destinations;
use super::filter::{local, Delivery, Filters, Source};
use super::options::Addresses;
use super::pools::Pool;
use super::yaml::scalar;
use crate::document::Document;

/// Where a proxy of Istio's gets the filters from: from istiod, as its other configuration, and as late as the
/// proxy's agent takes to fetch the module.
const ADS: &str = "{ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}";

/// How long the agent may take to fetch an image.
const FETCH_TIMEOUT: &str = "60s";

/// The resources of a document, as a stream of YAML documents.
pub(super) fn render(
    document: &Document,
    istio: &Istio,
    addresses: &Addresses,
    pools: &[Pool<'_>],
    destinations: &Destinations<'_>,
) -> String {
    let code = match &istio.module {
        ModuleSource::File(path) => local(path),
        ModuleSource::Image(image) => {
            let image = scalar(image);
            format!("{{remote: {{http_uri: {{uri: {image}, timeout: {FETCH_TIMEOUT}}}}}}}")
        }
    };
    let filters = Filters { document, code, delivery: Delivery::Discovered(Source::Stream(ADS)) };
    let patches = Patches { istio, config: &document.config, pools, filters: &filters };
    let listeners = client_credential::listeners(&destinations.sign_ins);
    let clusters = clusters(destinations, addresses, &filters);
    let clusters = patches.destinations(&listeners, &clusters);
    let mut all = vec![HEAD.to_owned()];
    all.extend(resources::entry(istio));
    all.push(CLUSTERS.to_owned() + &resources::envoy_filter(istio, "-clusters", &clusters));
    all.push(GATEWAY.to_owned() + &resources::envoy_filter(istio, "", &patches.gateway()));
    all.push(resources::bootstrap(istio));
    all.join("---\n")
}

const HEAD: &str = "\
# Azure OpenAI in an Istio mesh, rendered by `aoai render istio` from the document that is contained below. To change
# it, change the document, render again, and apply: kubectl apply --server-side -f FILE
# Where backends are added or removed, see the option --clusters-of.
";

const CLUSTERS: &str = "\
# Where requests can go. Nothing leads there but the routes below.
";

const GATEWAY: &str = "\
# The filter and its routes. Istio does not look into the document: what rendered this has checked it. A proxy that gets
# a document with problems nevertheless keeps its old one; one that starts with it replies 500. Its log has the reason.
";
