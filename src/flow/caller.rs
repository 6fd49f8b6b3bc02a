//! Whose request it is and for which model, as metrics and access logs have it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::host::Host;
use super::measure::Labels;
use super::store::{self, Value};
use crate::base::digest::Digest;
use crate::config::{Model, Subscription};

/// How many pairs of a subscription and a model have metrics of their own. Each has some ten series in Envoy,
/// of about 1 KiB together for each backend.
pub const MOST_PAIRS: usize = 2000;

/// Where the pairs are stored that have metrics of their own.
const KEY: &str = "aoai-filter/series";

/// Who has sent a request, and for which model, as far as that is known.
#[derive(Debug, Default, Clone)]
pub struct Caller {
    /// The subscription.
    pub subscription: Option<Arc<Subscription>>,
    /// The model, where the request names one.
    pub model: Option<Arc<Model>>,
}

/// Which pairs of a subscription and a model have metrics of their own: those that came first, the same for
/// all workers.
#[derive(Debug, Default)]
pub struct Series {
    /// By subscription and model: whether the pair has.
    known: RefCell<BTreeMap<String, BTreeMap<String, bool>>>,
}

/// The digests of pairs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Pairs(BTreeSet<u64>);

impl Value for Pairs {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let chunks = bytes.chunks_exact(size_of::<u64>());
        chunks
            .map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?)))
            .collect::<Option<_>>()
            .map(Self)
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|pair| pair.to_le_bytes()).collect()
    }
}

impl Series {
    /// Where nothing was counted.
    pub fn new(host: &dyn Host) -> Self {
        store::prepare::<Pairs>(host, KEY);
        Self::default()
    }

    /// The labels of a request.
    pub fn labels<'a>(&self, host: &dyn Host, caller: &'a Caller) -> Labels<'a> {
        let Some(subscription) = &caller.subscription else {
            return Labels::NONE;
        };
        let model = caller.model.as_ref().map_or(Labels::NONE.model, |model| model.name.as_str());
        let labels = Labels { subscription: &subscription.id, model };
        if self.has(host, labels) {
            labels
        } else {
            Labels::OTHER
        }
    }

    fn has(&self, host: &dyn Host, labels: Labels<'_>) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some(has) = known.get(labels.subscription).and_then(|of| of.get(labels.model)) {
            return *has;
        }
        let text = format!("{}\n{}", labels.subscription, labels.model);
        let pair = Digest::of(text.as_bytes()).leading();
        let add = |pairs: &Pairs| {
            let mut pairs = pairs.clone();
            let is_new = pairs.0.len() < MOST_PAIRS && pairs.0.insert(pair);
            is_new.then_some(pairs)
        };
        let is_added = store::change(host, KEY, &add).is_some();
        // Where it was not added, another worker may have done so before.
        let has = is_added || store::load::<Pairs>(host, KEY).0.contains(&pair);
        let of = known.entry(labels.subscription.to_owned()).or_default();
        of.insert(labels.model.to_owned(), has);
        has
    }
}
