//! What workers and stages leave for each other as bytes. Another version may have written them.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use aoai_filter::config::Failover;
use aoai_filter::flow::attempt::{AttemptEvent, AttemptFlow};
use aoai_filter::flow::pool_request::{PoolReference, PoolRequests};
use aoai_filter::flow::step::{HeaderChange, Then};
use aoai_filter::identity::cache::Slot;
use aoai_filter::request::body::edit::BodyEdit;
use aoai_filter::routing::cooldown::{
    Availability, Claim, Cooldowns, Evidence, Misconfiguration, Outcome,
};
use aoai_filter::routing::plan::{Attempt, DetachedAttempt, DetachedPlan};
use proptest::prelude::*;

use crate::host::{AtHand, Memory, Process};
use crate::mutation::like;
use crate::requests::config;
use crate::{budget, now};

const SLOTS: &[&str] = &[
    "2\ndue 1800000000000\n0\nnone\n1800000000000\n1800000000000 1800003600000 a.b.c",
    "2\nclaimed 7 1800000000000\n3\npassing 503 x: y\n1800000000000\nnone",
    "2\ndue 1800000000000\n1\nrefused 400 invalid_request: Identity not found\n1800000000000\nnone",
];

/// A plan as this version writes it.
fn plan() -> DetachedPlan {
    let attempt = |backend: &str, body| DetachedAttempt {
        backend: backend.to_owned(),
        token_key: format!("aoai-filter/token/{backend}"),
        attempt: Attempt {
            authority: Cow::Owned(format!("contoso-{backend}.openai.azure.com")),
            path: Cow::Borrowed(b"/openai/v1/chat/completions"),
            content_length: Some(40),
            body,
        },
    };
    let edit = BodyEdit { at: 9..17, with: b"\"deployed\"".to_vec() };
    DetachedPlan {
        model: "pooled".to_owned(),
        retry_within: Duration::from_secs(10),
        attempts: vec![attempt("one", None), attempt("two", Some(edit))],
    }
}

/// A reference as this version writes it.
fn reference(plan: Option<DetachedPlan>) -> Vec<u8> {
    let requests = PoolRequests::default();
    requests.identify(7);
    requests.reference(1, "one".to_owned(), plan).to_bytes()
}

proptest! {
    #![proptest_config(budget())]

    #[test]
    fn slots(bytes in like(SLOTS), random in any::<u64>()) {
        let Some(slot) = Slot::from_bytes(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(Slot::from_bytes(&slot.to_bytes()), Some(slot.clone()));
        let _ = (slot.due(), slot.readiness(now()).admit(now(), now()).is_ok(), slot.renew(now()));
        if let Some(claimed) = slot.claim(random, now(), Duration::from_secs(3)) {
            prop_assert!(claimed.claim(random, now(), Duration::from_secs(3)).is_none(), "one at a time");
        }
    }

    #[test]
    fn detached_plans(bytes in like(&[&plan().to_bytes()])) {
        let Some(plan) = DetachedPlan::from_bytes(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(DetachedPlan::from_bytes(&plan.to_bytes()), Some(plan.clone()));
        for (index, one) in plan.attempts.iter().enumerate() {
            let (number, _) = plan.attempt(&one.backend).expect("it is one of the plan's");
            prop_assert!((1..=index + 1).contains(&number), "the first of this name");
        }
    }

    /// An attempt by any bytes is sent as it was written, or not at all: there is no token in the store.
    #[test]
    fn references(
        bytes in like(&[&reference(None), &reference(Some(plan()))]),
        backend in prop::sample::select(&["one", "two", "three"][..]),
        size in 0_usize..60,
        status in like(&["200", "429", "503"]),
    ) {
        let read = PoolReference::from_bytes(&bytes);
        if let Some(read) = &read {
            prop_assert_eq!(PoolReference::from_bytes(&read.to_bytes()), Some(read.clone()));
        }
        let memory = Memory::new(&Process::new(), 1, AtHand {
            request_headers: vec![(":authority".to_owned(), b"contoso-one.openai.azure.com".to_vec())],
            response_headers: vec![(":status".to_owned(), status)],
            pool_reference: Some(bytes),
            upstream_backend: Some(backend.to_owned()),
            ..AtHand::default()
        });
        // Of this module, which has no such request, or of another one.
        for nonce in [7, 8] {
            let requests = Rc::<PoolRequests>::default();
            requests.identify(nonce);
            let (flow, step) =
                AttemptFlow::New(requests).on(AttemptEvent::Head { ended: false }, &memory);
            prop_assert_eq!(&step.changes.headers, &Vec::<HeaderChange>::new());
            if step.then == Then::Continue {
                let read = read.as_ref().expect("nobody's request goes nowhere");
                prop_assert!(read.plan.is_some() || read.first == backend);
            }
            let (flow, step) = flow.on(AttemptEvent::Body { size, ended: true }, &memory);
            prop_assert_eq!(step.changes.body, None);
            let (_, step) = flow.on(AttemptEvent::ResponseHead { ended: false }, &memory);
            let is_set = |change: &HeaderChange| matches!(change, HeaderChange::Set(..));
            prop_assert!(!step.changes.headers.iter().any(is_set), "no other backend can be asked");
        }
    }

    #[test]
    fn cooldowns(bytes in like(&[&troubles()]), random in any::<u64>()) {
        let Some(cooldowns) = Cooldowns::from_bytes(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(Cooldowns::from_bytes(&cooldowns.to_bytes()), Some(cooldowns.clone()));
        let availability = |cooldowns: &Cooldowns| cooldowns.availability("one", "pooled", true, now());
        if let Some(probed) = cooldowns.claim("one", "pooled", Claim::Probe, true, now()) {
            prop_assert_eq!(availability(&cooldowns), Availability::Probe);
            let is_one = matches!(availability(&probed), Availability::Cooldown(_));
            prop_assert!(is_one, "one at a time");
            let back = probed.give_back("one", "pooled", now()).expect("it was a probe");
            prop_assert_eq!(availability(&back), Availability::Probe);
        }
        if let Some(asked) = cooldowns.claim("one", "pooled", Claim::Trickle, true, now()) {
            prop_assert_eq!(asked.claim("one", "pooled", Claim::Trickle, true, now()), None, "once a second");
        }
        for outcome in [Outcome::Failed, Outcome::Throttled(None), Outcome::Served] {
            let _ = cooldowns.record(("one", "pooled"), outcome, evidence(1), now(), &policy(), random);
        }
        let _ = cooldowns.models_in_cooldown("one", now());
        if let Some(left) = cooldowns.forget(&config(), now()) {
            prop_assert_eq!(left.forget(&config(), now()), None, "twice is once");
        }
    }
}

fn evidence(subscription: u64) -> Evidence {
    Evidence { subscription, is_confirmed: true, began: now() }
}

fn policy() -> Failover {
    Failover {
        cooldown: Duration::from_secs(1),
        longest_cooldown: Duration::from_secs(60),
        failures_in_a_row: 1,
        retry_within: Duration::from_secs(10),
    }
}

/// A memory as this version writes it, with a cooldown that is over.
fn troubles() -> Vec<u8> {
    let before = now() - Duration::from_secs(10);
    let record = |cooldowns: Cooldowns, backend: &str, outcome, evidence| {
        cooldowns.record((backend, "pooled"), outcome, evidence, before, &policy(), 0).unwrap()
    };
    let cooldowns = record(Cooldowns::default(), "one", Outcome::Throttled(None), evidence(1));
    let alone = Evidence { is_confirmed: false, ..evidence(7) };
    let cooldowns = record(cooldowns, "two", Outcome::Failed, alone);
    let found = Misconfiguration { diagnosis: "role_missing", is_of_model: false };
    let cooldowns = record(cooldowns, "two", Outcome::Misconfigured(found), evidence(2));
    cooldowns.to_bytes()
}
