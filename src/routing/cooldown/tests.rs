use std::time::UNIX_EPOCH;

use super::*;
use Availability::{Cooldown, Probe, Ready};
use Outcome::{Failed, Inconclusive, Misconfigured, Served, Throttled};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn policy() -> Failover {
    Failover {
        cooldown: Duration::from_secs(10),
        longest_cooldown: Duration::from_secs(120),
        failures_in_a_row: 3,
        retry_within: Duration::from_secs(10),
    }
}

fn throttled(seconds: u64) -> Outcome {
    Throttled(Some(Duration::from_secs(seconds)))
}

/// What one subscription's attempt tells that began at this second.
fn of(subscription: u64, began: u64) -> Evidence {
    Evidence { subscription, is_confirmed: true, began: at(began) }
}

/// A failure that no other backend has made good.
fn alone(subscription: u64, began: u64) -> Evidence {
    Evidence { is_confirmed: false, ..of(subscription, began) }
}

/// The memory after an attempt at eastus for m.
fn after(cooldowns: Cooldowns, outcome: Outcome, evidence: Evidence, now: u64) -> Cooldowns {
    let next = cooldowns.record(("eastus", "m"), outcome, evidence, at(now), &policy(), 0);
    let cooldowns = next.unwrap_or(cooldowns);
    assert_eq!(Cooldowns::from_bytes(&cooldowns.to_bytes()).as_ref(), Some(&cooldowns));
    cooldowns
}

/// Plays attempts of one subscription on one backend, each at its time.
fn played(attempts: &[(u64, Outcome)]) -> Cooldowns {
    attempts.iter().fold(Cooldowns::default(), |cooldowns, &(now, outcome)| {
        // A response in a cooldown is to a request that was sent before it, unless a test says otherwise.
        after(cooldowns, outcome, of(1, 0), now)
    })
}

fn available(cooldowns: &Cooldowns, now: u64) -> Availability {
    cooldowns.availability("eastus", "m", true, at(now))
}

fn probed(cooldowns: &Cooldowns, is_whole: bool, now: u64) -> Option<Cooldowns> {
    cooldowns.claim("eastus", "m", Claim::Probe, is_whole, at(now))
}

fn cooldown(until: u64) -> Availability {
    Cooldown(at(until))
}

#[test]
fn a_429_or_failures_in_a_row_start_a_cooldown() {
    let rows: &[(&str, &[(u64, Outcome)], u64, Availability)] = &[
        ("nothing", &[], 0, Ready),
        ("a response", &[(0, Served)], 0, Ready),
        ("retry-after is followed", &[(0, throttled(7))], 6, cooldown(7)),
        ("and then one may try", &[(0, throttled(7))], 7, Probe),
        ("a long retry-after is capped", &[(0, throttled(3599))], 0, cooldown(120)),
        ("no retry-after: the default", &[(0, Throttled(None))], 0, cooldown(10)),
        ("which doubles", &[(0, Throttled(None)), (10, Throttled(None))], 10, cooldown(30)),
        (
            "up to the cap",
            &[
                (0, Throttled(None)),
                (10, Throttled(None)),
                (30, Throttled(None)),
                (70, Throttled(None)),
                (150, Throttled(None)),
                (270, Throttled(None)),
            ],
            270,
            cooldown(390),
        ),
        ("a response ends it", &[(0, Throttled(None)), (10, Served)], 10, Ready),
        (
            "and the doubling",
            &[(0, Throttled(None)), (10, Served), (20, Throttled(None))],
            20,
            cooldown(30),
        ),
        (
            "late 429s of a burst do not double",
            &[(0, Throttled(None)), (1, Throttled(None)), (2, Throttled(None))],
            2,
            cooldown(12),
        ),
        (
            "a response to an earlier request does not end it",
            &[(0, throttled(60)), (1, Served)],
            1,
            cooldown(60),
        ),
        (
            "failures of a burst are one",
            &[(0, Failed), (1, Failed), (2, Failed), (3, Failed), (4, Failed), (5, Failed)],
            5,
            cooldown(12),
        ),
        ("nor shorten", &[(0, throttled(60)), (1, throttled(2))], 2, cooldown(60)),
        ("one failure is nothing yet", &[(0, Failed)], 0, Ready),
        ("two neither", &[(0, Failed), (1, Failed)], 1, Ready),
        ("three in a row are", &[(0, Failed), (1, Failed), (2, Failed)], 2, cooldown(12)),
        ("in a row", &[(0, Failed), (1, Failed), (2, Served), (3, Failed)], 3, Ready),
        (
            "a fourth one doubles",
            &[(0, Failed), (1, Failed), (2, Failed), (12, Failed)],
            12,
            cooldown(32),
        ),
    ];
    for (name, attempts, now, expected) in rows {
        let found = available(&played(attempts), *now);
        assert_eq!(found, *expected, "{name}");
    }
}

#[test]
fn a_request_that_is_larger_than_the_quota_says_nothing_of_the_backend() {
    let of = |seconds| Outcome::of_status(429, || Some(Duration::from_secs(seconds)));
    assert_eq!(of(3599), throttled(3599));
    assert_eq!((of(3600), of(86_400)), (Inconclusive, Inconclusive));
    assert_eq!(Outcome::of_status(429, || None), Throttled(None));
}

#[test]
fn a_clients_error_says_nothing_of_the_backend() {
    for status in [400, 401, 404, 408, 422, 499] {
        assert_eq!(Outcome::of_status(status, || None), Inconclusive, "{status}");
    }
    for failures in 1..5 {
        let mut cooldowns = Cooldowns::default();
        for _ in 0..failures {
            cooldowns = after(cooldowns, Failed, of(1, 0), 0);
            cooldowns = after(cooldowns, Inconclusive, of(2, 0), 0);
        }
        assert_eq!(available(&cooldowns, 0) == Ready, failures < 3, "{failures}");
    }
}

#[test]
fn failures_of_one_subscription_alone_do_not_count() {
    let all = |subscriptions: &[u64]| {
        subscriptions.iter().fold(Cooldowns::default(), |cooldowns, &subscription| {
            after(cooldowns, Failed, alone(subscription, 0), 0)
        })
    };
    let rows: &[(&[u64], Availability)] = &[
        (&[1, 1, 1, 1, 1, 1, 1], Ready),
        (&[1, 2], Ready),
        (&[1, 2, 1], Ready),
        (&[1, 1, 2], cooldown(10)),
        (&[1, 2, 3, 4], cooldown(10)),
        (&[1, 1, 1, 1, 1, 1, 1, 2], cooldown(10)),
    ];
    for (subscriptions, expected) in rows {
        assert_eq!(available(&all(subscriptions), 0), *expected, "{subscriptions:?}");
    }
    assert!(all(&[1, 1, 2]).binds("eastus", "m", 3, at(0)), "two have met them");
    assert!(after(all(&[1, 1]), Served, of(1, 1), 1).is_empty());
}

#[test]
fn the_evidence_of_one_subscription_binds_that_one_until_another_confirms_it() {
    let misconfigured =
        Misconfigured(Misconfiguration { diagnosis: "role_missing", is_of_model: true });
    for outcome in [throttled(60), misconfigured] {
        let cooldowns = after(Cooldowns::default(), outcome, of(1, 0), 0);
        let binds = |cooldowns: &Cooldowns, subscription| {
            cooldowns.binds("eastus", "m", subscription, at(1))
        };
        assert_eq!((binds(&cooldowns, 1), binds(&cooldowns, 2)), (true, false));
        let again = after(cooldowns.clone(), outcome, of(1, 0), 1);
        assert!(!binds(&again, 2), "however often it says so");
        let confirmed = after(cooldowns, outcome, of(2, 0), 1);
        assert!(binds(&confirmed, 1) && binds(&confirmed, 2) && binds(&confirmed, 3));
    }
}

#[test]
fn what_a_backend_served_in_a_cooldown_ends_it_if_it_was_sent_in_it() {
    let cooldowns = played(&[(5, throttled(60))]);
    for (began, expected) in [(4, cooldown(65)), (5, cooldown(65)), (6, Ready)] {
        let found = after(cooldowns.clone(), Served, of(2, began), 7);
        assert_eq!(available(&found, 7), expected, "{began}");
    }
}

#[test]
fn a_backend_in_cooldown_may_be_asked_about_once_a_second() {
    let cooldowns = played(&[(0, throttled(60))]);
    let trickled = |cooldowns: &Cooldowns, now| {
        cooldowns.claim("eastus", "m", Claim::Trickle, false, at(0) + Duration::from_millis(now))
    };
    assert_eq!(trickled(&cooldowns, 999), None);
    let next = trickled(&cooldowns, 1000).unwrap();
    assert_eq!(available(&next, 1), cooldown(60), "it stays in cooldown");
    assert_eq!(trickled(&next, 1999), None);
    assert!(trickled(&next, 2000).is_some());
    let back = next.claim("eastus", "m", Claim::Trickle, false, at(0) - Duration::from_secs(9));
    assert!(back.is_some(), "a clock that is set back holds nobody up");
    assert_eq!(trickled(&Cooldowns::default(), 5000), None, "there is no cooldown");
}

#[test]
fn a_probe_that_fails_everywhere_is_given_back() {
    let probing = probed(&played(&[(0, throttled(7))]), true, 7).unwrap();
    assert_eq!(available(&after(probing, Failed, alone(1, 7), 8), 8), Probe);
}

#[test]
fn one_request_probes_a_backend_after_its_cooldown() {
    let cooldowns = played(&[(0, throttled(7))]);
    assert_eq!(available(&cooldowns, 7), Probe);
    let probing = probed(&cooldowns, true, 7).unwrap();
    assert_eq!(available(&probing, 7), cooldown(8), "others look again in a second");
    assert_eq!(available(&probing, 30), cooldown(31), "the probe lasts until it is answered");
    assert_eq!(probed(&probing, true, 30), None);
    assert_eq!(available(&probing, 67), Probe, "or lost");
    assert_eq!(after(probing.clone(), Served, of(1, 7), 19), Cooldowns::default());
    let availability = |outcome| available(&after(probing.clone(), outcome, of(1, 7), 8), 8);
    assert_eq!(availability(throttled(3)), cooldown(11));
    assert_eq!(availability(Failed), cooldown(18));
    let given = probing.give_back("eastus", "m", at(8)).unwrap();
    assert_eq!(available(&given, 8), Probe, "it was given up");
    let failed = after(given, Failed, of(1, 7), 8);
    assert_eq!(available(&failed, 8), cooldown(18), "or rather had failed");
    assert_eq!(cooldowns.give_back("eastus", "m", at(3)), None, "there was no probe");
}

#[test]
fn a_probe_whose_request_is_not_complete_keeps_no_other_from_probing() {
    let cooldowns = played(&[(0, throttled(7))]);
    let stalled = probed(&cooldowns, false, 7).unwrap();
    assert_eq!(stalled.availability("eastus", "m", false, at(7)), cooldown(8));
    assert_eq!(stalled.availability("eastus", "m", true, at(7)), Probe, "one that is complete");
    assert_eq!(stalled.availability("eastus", "m", false, at(8)), Probe, "or a second later");
    let complete = stalled.complete_probe("eastus", "m", at(7)).unwrap();
    assert_eq!(available(&complete, 30), cooldown(31), "the backend has it all");
    assert_eq!(Cooldowns::from_bytes(&stalled.to_bytes()).as_ref(), Some(&stalled));
    assert_eq!(Cooldowns::from_bytes(&complete.to_bytes()).as_ref(), Some(&complete));
}

#[test]
fn a_misconfiguration_has_growing_pauses_and_concerns_what_it_says() {
    for (is_of_model, other_model) in [(true, Ready), (false, cooldown(10))] {
        let found = Misconfigured(Misconfiguration { diagnosis: "d", is_of_model });
        let mut cooldowns = after(Cooldowns::default(), found, of(1, 0), 0);
        assert_eq!(cooldowns.availability("eastus", "other", true, at(0)), other_model);
        assert_eq!(cooldowns.availability("sweden", "m", true, at(0)), Ready);
        let concerned = is_of_model.then_some("m");
        let cause = Cause::Misconfigured("d".to_owned());
        assert_eq!(cooldowns.unended().collect::<Vec<_>>(), [("eastus", concerned, &cause)]);
        for (now, until) in [(10, 30), (30, 70), (70, 150), (150, 270), (270, 390)] {
            cooldowns = probed(&cooldowns, true, now).unwrap();
            cooldowns = after(cooldowns, found, of(1, now), now);
            assert_eq!(available(&cooldowns, now), cooldown(until), "{is_of_model}");
        }
        assert_eq!(
            cooldowns.cause("eastus", "m", at(271)),
            Some(&Cause::Misconfigured("d".to_owned()))
        );
        let throttled = after(cooldowns, throttled(9), of(1, 270), 271);
        let served = after(throttled, Served, of(1, 391), 391);
        assert!(served.is_empty(), "{served:?}");
    }
}

#[test]
fn a_pair_of_backend_and_model_is_on_its_own() {
    let cooldowns = played(&[(0, throttled(7))]);
    assert_eq!(cooldowns.availability("eastus", "other", true, at(1)), Ready);
    assert_eq!(cooldowns.availability("sweden", "m", true, at(1)), Ready);
    assert_eq!(
        (
            cooldowns.models_in_cooldown("eastus", at(1)),
            cooldowns.models_in_cooldown("sweden", at(1))
        ),
        (1, 0)
    );
    assert_eq!(cooldowns.models_in_cooldown("eastus", at(7)), 0);
}

#[test]
fn what_a_configuration_lacks_is_forgotten_once_it_is_over() {
    let document = format!(
        r#"{{
        "identity": {{"managed_identity": {{"cluster": "imds"}}}},
        "subscriptions": [{{"id": "a", "keys": ["{}"], "models": ["*"]}}],
        "backends": [
            {{"name": "eastus", "endpoint": "https://contoso-eastus.openai.azure.com"}},
            {{"name": "sweden", "endpoint": "https://contoso-sweden.openai.azure.com"}},
            {{"name": "france", "endpoint": "https://contoso-france.openai.azure.com"}}
        ],
        "models": [
            {{"name": "m", "backends": [{{"backend": "eastus"}}, {{"backend": "sweden"}}]}},
            {{"name": "single", "backends": [{{"backend": "eastus"}}]}}
        ]}}"#,
        crate::base::digest::Digest::of(b"key")
    );
    let config = Config::from_json(document.as_bytes()).unwrap();
    let recorded = |backend, model, outcome| {
        Cooldowns::default()
            .record((backend, model), outcome, of(1, 0), at(0), &policy(), 0)
            .unwrap()
    };
    let forgotten = |backend, model, outcome, seconds| {
        let cooldowns = recorded(backend, model, outcome);
        cooldowns.forget(&config, at(seconds)) == Some(Cooldowns::default())
    };
    let whole = Misconfigured(Misconfiguration { diagnosis: "d", is_of_model: false });
    let rows = [
        ("a pool's", "eastus", "m", throttled(7), 9, false),
        ("a model that is gone", "eastus", "other", throttled(7), 9, true),
        ("a running cooldown", "eastus", "other", throttled(7), 5, false),
        ("and had failed once", "eastus", "other", Failed, 0, true),
        ("a backend that is gone", "spare", "m", throttled(7), 9, true),
        ("a backend of other models", "france", "m", throttled(7), 9, true),
        ("a model that has no pool", "eastus", "single", throttled(7), 9, false),
        ("a misconfigured backend", "eastus", "", whole, 99, false),
        ("a misconfigured backend that is gone", "spare", "", whole, 99, true),
    ];
    for (name, backend, model, outcome, seconds, expected) in rows {
        assert_eq!(forgotten(backend, model, outcome, seconds), expected, "{name}");
    }
    let both = recorded("spare", "m", Failed);
    let both = after(both, throttled(7), of(1, 0), 0);
    let kept = both.forget(&config, at(9)).unwrap();
    assert_eq!(available(&kept, 9), Probe, "only the others are forgotten");
    assert_eq!(kept.forget(&config, at(9)), None);
}

#[test]
fn cooldowns_spread_over_a_tenth() {
    let until = |random| {
        let pair = ("eastus", "m");
        let cooldowns = Cooldowns::default();
        let next = cooldowns.record(pair, throttled(100), of(1, 0), at(0), &policy(), random);
        next.map(|cooldowns| available(&cooldowns, 0))
    };
    assert_eq!(until(0), Some(cooldown(100)));
    assert_eq!(until(500), Some(cooldown(105)));
}

#[test]
fn bytes_of_another_version_are_no_cooldowns() {
    let bytes = played(&[(0, throttled(7))]).to_bytes();
    let mut other = bytes.clone();
    other[0] = 3;
    let rows = [b"".as_slice(), b"3\na b 1 1 0 0 cooldown 1", &other, &bytes[..bytes.len() - 1]];
    for row in rows {
        assert_eq!(Cooldowns::from_bytes(row), None, "{row:?}");
    }
}
