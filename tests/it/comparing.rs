//! Strategies beside each other on live traffic: shadows, splits, turns.

use crate::harness::{Signpost, wait_until};

fn pool(rest: &str) -> Signpost {
    Signpost::with_settings(&format!(
        "[server]
        trusted_proxies = ['127.0.0.0/8']
        [pools.site]
        strategy = 'round_robin'
        backends = ['http://127.0.0.1:9001', 'http://127.0.0.1:9002', 'http://127.0.0.1:9003']
        health.kind = 'none'
        {rest}"
    ))
}

fn picks(signpost: &Signpost, strategy: &str, role: &str) -> Vec<f64> {
    let of = |backend| {
        let labels = [("strategy", strategy), ("role", role), ("backend", backend)];
        signpost.metric("signpost_strategy_picks_total", &labels)
    };
    ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"].map(of).to_vec()
}

fn compared(signpost: &Signpost, strategy: &str, result: &str) -> f64 {
    signpost.metric("signpost_shadow_comparisons_total", &[("strategy", strategy), ("result", result)])
}

#[test]
fn a_shadow_picks_for_everybody_and_changes_nothing() {
    let signpost = pool("shadow = ['random']");
    let mut connection = signpost.connect();
    let ports: Vec<_> =
        (0..300).map(|_| connection.request("GET", "/", &[]).location()[..21].to_owned()).collect();
    let turns = |n: usize| &ports[n % 3];
    assert!(ports.iter().enumerate().all(|(n, port)| port == turns(n)), "the live one is round robin still");
    assert_eq!(picks(&signpost, "round_robin", "live"), [100.0; 3]);
    let shadow = picks(&signpost, "random", "shadow");
    assert_eq!(shadow.iter().sum::<f64>(), 300.0);
    let (agreed, disagreed) =
        (compared(&signpost, "random", "agreed"), compared(&signpost, "random", "disagreed"));
    assert_eq!(agreed + disagreed, 300.0);
    // A third of the throws on average; six standard deviations are 49.
    assert!((agreed - 100.0).abs() < 49.0, "{agreed}");
    let redirects = signpost.metrics().lines().filter(|line| line.contains("redirects_total{")).count();
    assert_eq!(redirects, 3 * 3, "a shadow sends nobody");
    for strategy in ["round_robin", "random"] {
        let timed = signpost.metric("signpost_pick_duration_seconds_count", &[("strategy", strategy)]);
        assert!((3.0..=6.0).contains(&timed), "{timed} of {strategy}: one in 61 of 600, whoever picks");
    }
}

#[test]
fn a_pin_that_a_shadow_would_break_is_counted() {
    let signpost = pool("shadow = ['random']\npin = {}");
    let mut connection = signpost.connect();
    let cookie = connection.request("GET", "/", &[]).cookie().unwrap().to_owned();
    for _ in 0..300 {
        connection.request("GET", "/", &[("Cookie", &cookie)]);
    }
    let (kept, broken) =
        (compared(&signpost, "random", "pin_kept"), compared(&signpost, "random", "pin_broken"));
    assert_eq!(kept + broken, 300.0);
    assert!((broken - 200.0).abs() < 49.0, "{broken}");
    assert_eq!(
        picks(&signpost, "round_robin", "live").iter().sum::<f64>(),
        1.0,
        "pinned visitors take no turn"
    );
}

#[test]
fn a_split_keeps_each_visitor_with_its_strategy() {
    let signpost = pool("split = { random = 0.25 }");
    let mut connection = signpost.connect();
    let mut visit = |visitor: usize| {
        let address = format!("10.1.{}.{}", visitor / 250, visitor % 250);
        connection.request("GET", "/", &[("X-Forwarded-For", &address)]);
    };
    let sent = |role, strategy| picks(&signpost, strategy, role).iter().sum::<f64>();
    (0..2000).for_each(&mut visit);
    let first = sent("split", "random");
    // 500 on average; six standard deviations are 116.
    assert!((first - 500.0).abs() < 116.0, "{first}");
    assert_eq!(first + sent("live", "round_robin"), 2000.0);
    (0..2000).for_each(&mut visit);
    assert_eq!(sent("split", "random"), 2.0 * first, "the same visitors again");
    let labels = [("strategy", "random"), ("decision", "picked"), ("backend", "127.0.0.1:9001")];
    assert!(signpost.metric("signpost_redirects_total", &labels) > 0.0);
}

#[test]
fn strategies_take_turns_and_each_is_counted_in_its_own() {
    let signpost = pool("shadow = ['random']\nrotation_interval = '10s'");
    let live = |strategy| signpost.metric("signpost_strategy_live", &[("strategy", strategy)]);
    let first = if live("random") == 1.0 { ["random", "round_robin"] } else { ["round_robin", "random"] };
    assert_eq!(live(first[1]), 0.0);
    wait_until("the other's turn", || live(first[1]) == 1.0);
    let before = picks(&signpost, first[1], "live").iter().sum::<f64>();
    for _ in 0..30 {
        signpost.get("/");
    }
    // Ten seconds are enough for thirty requests.
    assert_eq!(picks(&signpost, first[1], "live").iter().sum::<f64>(), before + 30.0);
    signpost.wait_for_log("another strategy sends visitors");
}

#[test]
fn how_evenly_a_strategy_sends_is_shown_beside_its_shadows() {
    let signpost = pool("shadow = ['random']");
    let imbalance = |strategy: &str, role: &str, measure: &str| {
        let labels = [("strategy", strategy), ("role", role), ("measure", measure)];
        crate::harness::series(&signpost.metrics(), "signpost_dispatch_imbalance", &labels)
    };
    assert_eq!(imbalance("random", "shadow", "jain"), None, "nobody came yet");
    let mut connection = signpost.connect();
    wait_until("what was sent shows", || {
        (0..30).for_each(|_| drop(connection.request("GET", "/", &[])));
        imbalance("random", "shadow", "jain").is_some()
    });
    for (role, strategy) in [("live", "round_robin"), ("shadow", "random")] {
        assert!(imbalance(strategy, role, "highest_over_mean").unwrap() >= 1.0);
        assert!(imbalance(strategy, role, "jain").unwrap() <= 1.0);
        assert!(imbalance(strategy, role, "variation").unwrap() >= 0.0);
    }
    assert!(
        imbalance("round_robin", "live", "variation") < imbalance("random", "shadow", "variation"),
        "turns are more even than dice"
    );
}
