//! Requests for a model on several backends: who is chosen, and who is when time has passed.

use super::*;
use crate::config::Failover;
use crate::health::Outcome;

/// `m` is on aa and bb alike and then on cc; `single` on aa alone.
fn config() -> Config {
    let document = format!(
        r#"{{
        "identity": {{"managed_identity": {{"cluster": "azure_identity"}}}},
        "subscriptions": [{{"id": "team", "keys": ["{}"], "models": ["*"]}}],
        "backends": [
            {{"name": "aa", "endpoint": "https://contoso-aa.openai.azure.com"}},
            {{"name": "bb", "endpoint": "https://contoso-bb.openai.azure.com"}},
            {{"name": "cc", "endpoint": "https://contoso-cc.openai.azure.com"}}
        ],
        "models": [
            {{"name": "m", "backends": [
                {{"backend": "aa", "deployment": "in-aa"}}, {{"backend": "bb"}},
                {{"backend": "cc", "priority": 1}}
            ]}},
            {{"name": "single", "backends": [{{"backend": "aa"}}]}}
        ]}}"#,
        Digest::of(KEY.as_bytes())
    );
    Config::from_json(document.as_bytes()).expect("a valid configuration")
}

fn dispatch(config: &Config, health: &Health, model: &str) -> Dispatch {
    let path = format!("/openai/deployments/{model}/chat/completions?api-key=k-team");
    let pairs = [(":method", "POST"), (":path", path.as_str())]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    match admit(config, health, &Head::read(&pairs), false, now()) {
        Ok(Step::Send(dispatch)) => dispatch,
        other => panic!("{other:?}"),
    }
}

/// The memory of backends that are left alone for so many seconds.
fn cooling(rows: &[(&str, u64)]) -> Health {
    cooling_for("m", rows)
}

fn cooling_for(model: &str, rows: &[(&str, u64)]) -> Health {
    rows.iter().fold(Health::default(), |health, &(backend, seconds)| {
        let outcome = Outcome::Throttled(Some(Duration::from_secs(seconds)));
        health.record(backend, model, outcome, now(), &Failover::default(), 0).expect("a change")
    })
}

#[test]
fn a_pools_request_leaves_in_terms_of_its_model() {
    let config = config();
    let dispatch = dispatch(&config, &cooling(&[("bb", 5)]), "m");
    assert_eq!(dispatch.cluster, "aoai/aa>cc");
    assert_eq!(dispatch.path.as_deref(), Some(&b"/openai/deployments/m/chat/completions"[..]));
    let recipe = dispatch.recipe.expect("a pool's");
    assert_eq!(
        (recipe.model.as_str(), recipe.tries, recipe.rename),
        ("m", 2, Some(Rename::Segment(2)))
    );
    assert_eq!(Some(recipe.path), dispatch.path);
}

#[test]
fn who_has_waited_chooses_by_what_is_known_then() {
    let config = config();
    let soon = now() + Duration::from_secs(5);
    let probed = |backend| cooling(&[(backend, 5)]).probe(backend, "m", soon);
    // What is known at first and then, and where a request goes that would have gone to aa.
    let rows: &[(&str, Health, Health, &str, bool)] = &[
        ("nothing has happened", Health::default(), Health::default(), "aoai/aa>bb>cc", false),
        ("another one cools", Health::default(), cooling(&[("bb", 60)]), "aoai/aa>cc", false),
        ("it cools", Health::default(), cooling(&[("aa", 60)]), "aoai/bb>cc", false),
        ("both", Health::default(), cooling(&[("aa", 60), ("bb", 60)]), "aoai/cc", false),
        ("it has cooled", cooling(&[("bb", 60)]), cooling(&[("aa", 5)]), "aoai/aa>bb>cc", true),
        ("and somebody tries it", cooling(&[("bb", 60)]), probed("aa"), "aoai/bb>cc", false),
    ];
    for (name, before, after, cluster, probes) in rows {
        let mut dispatch = dispatch(&config, before, "m");
        while dispatch.backend.name != "aa" {
            dispatch = self::dispatch(&config, before, "m");
        }
        dispatch.choose_again(&config, after, soon).expect(name);
        assert_eq!(dispatch.cluster, *cluster, "{name}");
        assert_eq!(dispatch.probes(), probes.then_some("m"), "{name}");
        assert!(dispatch.cluster.starts_with(&format!("aoai/{}", dispatch.backend.name)), "{name}");
        let tries = dispatch.cluster.split('>').count() as u64;
        assert_eq!(dispatch.recipe.map(|recipe| recipe.tries), Some(tries), "{name}");
    }
}

#[test]
fn who_has_waited_in_vain_is_told_for_how_long() {
    let config = config();
    let mut dispatch = dispatch(&config, &Health::default(), "m");
    let health = cooling(&[("aa", 60), ("bb", 30), ("cc", 90)]);
    let later = now() + Duration::from_secs(10);
    let answer = dispatch.choose_again(&config, &health, later).expect_err("all cool");
    assert_eq!(
        (answer.reason, answer.retry_after),
        (Reason::AllBackendsThrottled, Some(Duration::from_secs(20)))
    );
}

#[test]
fn choosing_again_takes_nobody_elses_turn() {
    let config = config();
    let health = Health::default();
    let mut shares = [0, 0];
    for round in 0..20 {
        let mut dispatch = dispatch(&config, &health, "m");
        let before = dispatch.clone();
        for _ in 0..round % 3 {
            dispatch.choose_again(&config, &health, now()).expect("all are well");
        }
        assert_eq!(dispatch, before);
        shares[usize::from(dispatch.backend.name == "bb")] += 1;
    }
    assert_eq!(shares, [10, 10]);
}

#[test]
fn where_there_is_no_pool_there_is_nothing_to_choose() {
    let config = config();
    let before = dispatch(&config, &Health::default(), "single");
    // From a configuration in which it had a pool.
    let health = cooling_for("single", &[("aa", 60)]);
    let mut dispatch = dispatch(&config, &health, "single");
    assert_eq!(dispatch.probes(), None);
    dispatch.choose_again(&config, &health, now()).expect("no choice");
    assert_eq!((&dispatch.cluster, &dispatch.backend), (&before.cluster, &before.backend));
    assert_eq!(dispatch.cluster, "aoai_aa");
}
