//! What the stages leave beside a request for each other, as properties of it.

use proxy_wasm::hostcalls;

use crate::attempt::Recipe;
use crate::progress::Progress;

/// Where the gateway stage leaves the recipe for the attempts.
const RECIPE: &str = "aoai_recipe";

/// Where the attempts leave word of how far they have come.
const PROGRESS: &str = "aoai_progress";

/// The recipe of the request at hand.
pub(super) fn recipe() -> Option<Recipe> {
    Recipe::from_bytes(&read(RECIPE)?)
}

/// Leaves the recipe for the attempts at the request at hand.
pub(super) fn leave_recipe(recipe: &Recipe) {
    write(RECIPE, &recipe.to_bytes());
}

/// How far the attempts at the request at hand have come.
pub(super) fn load() -> Progress {
    Progress::from_bytes(&read(PROGRESS).unwrap_or_default())
}

/// Leaves word of it.
pub(super) fn store(progress: &Progress) {
    write(PROGRESS, &progress.to_bytes());
}

/// Which attempt this is, from 1; after the answer, how many there were.
pub(super) fn attempts() -> u64 {
    let count = hostcalls::get_property(vec!["upstream", "request_attempt_count"]).ok().flatten();
    count.and_then(|bytes| bytes.try_into().ok()).map_or(1, u64::from_le_bytes)
}

fn read(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_property(vec![name]).ok().flatten()
}

fn write(name: &str, bytes: &[u8]) {
    let _ = hostcalls::set_property(vec![name], Some(bytes));
}
