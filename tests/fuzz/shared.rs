//! What workers and stages leave for each other as bytes. Another version may have written them.

use std::time::Duration;

use aoai_filter::attempt::Recipe;
use aoai_filter::config::Failover;
use aoai_filter::health::{Health, Outcome};
use aoai_filter::identity::cache::Slot;
use aoai_filter::progress::Progress;
use proptest::prelude::*;

use crate::mutation::like;
use crate::requests::config;
use crate::{budget, now};

const SLOTS: &[&str] = &[
    "2\ndue 1800000000000\n0\nnone\n1800000000000\n1800000000000 1800003600000 a.b.c",
    "2\nclaimed 7 1800000000000\n3\npassing 503 x: y\n1800000000000\nnone",
    "2\ndue 1800000000000\n1\nrefused 400 invalid_request: Identity not found\n1800000000000\nnone",
];

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn slots(bytes in like(SLOTS), dice in any::<u64>()) {
        let Some(slot) = Slot::from_bytes(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(Slot::from_bytes(&slot.to_bytes()), Some(slot.clone()));
        let _ = (slot.due(), slot.readiness(now()).admit(now(), now()).is_ok(), slot.renew(now()));
        if let Some(claimed) = slot.claim(dice, now(), Duration::from_secs(3)) {
            prop_assert!(claimed.claim(dice, now(), Duration::from_secs(3)).is_none(), "one at a time");
        }
    }

    #[test]
    fn recipes(
        bytes in prop_oneof![
            like(&["1\npooled\n2\n2\nnone\n/openai/deployments/pooled/chat/completions?a=b"]),
            like(&["1\npooled\n2\nnone\n9 17 1 45\n/openai/v1/chat/completions"]),
        ],
        number in 1_u64..4,
    ) {
        let Some(recipe) = Recipe::from_bytes(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(Recipe::from_bytes(&recipe.to_bytes()), Some(recipe.clone()));
        let config = config();
        for backend in ["one", "two", "three"] {
            if let Ok(attempt) = recipe.attempt(&config, backend, number, Duration::ZERO) {
                prop_assert_eq!(attempt.authority, format!("contoso-{backend}.openai.azure.com"));
                prop_assert!(attempt.path.starts_with(b"/"));
            }
        }
    }

    #[test]
    fn health(bytes in like(&troubles()), dice in any::<u64>()) {
        let Some(health) = Health::from_bytes(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(Health::from_bytes(&health.to_bytes()), Some(health.clone()));
        let _ = health.availability("one", "pooled", now());
        let _ = health.record("one", "pooled", Outcome::Failed, now(), &policy(), dice);
        let _ = health.forget(&config(), now());
    }

    #[test]
    fn progress(bytes in like(&["tried one ", "answered one 1800000000000", "answered  "])) {
        let progress = Progress::from_bytes(&bytes);
        prop_assert_eq!(Progress::from_bytes(&progress.to_bytes()), progress.clone());
        let _ = progress.waited(now());
    }
}

fn policy() -> Failover {
    Failover {
        cooldown: Duration::from_secs(1),
        longest_cooldown: Duration::from_secs(60),
        failures_in_a_row: 1,
        retry_within: Duration::from_secs(10),
    }
}

/// A memory as this version writes it.
fn troubles() -> [&'static [u8]; 1] {
    let throttled = Outcome::Throttled(None);
    let health = Health::default();
    let health = health.record("one", "pooled", throttled, now(), &policy(), 0).unwrap_or(health);
    let health =
        health.record("two", "pooled", Outcome::Failed, now(), &policy(), 0).unwrap_or(health);
    [health.to_bytes().leak()]
}
