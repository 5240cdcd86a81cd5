//! What is promised of `least_load`, held on virtual time; and that a simulation can be repeated.

use super::*;

/// The mean of highest over mean utilization, of round robin and of `least_load`. A third of the time that `signpost
/// simulate` measures, and one seed.
fn both(changes: &str) -> [f64; 2] {
    let scenario = Scenario::parse(&format!("measured = '10m'\n{changes}")).unwrap();
    let compared =
        compare(&scenario, &[StrategyKind::RoundRobin, StrategyKind::LeastLoad], 1..=1, &|_| ()).unwrap();
    [&compared[0], &compared[1]].map(|of| of.load.unwrap().mean.highest_over_mean)
}

#[test]
fn least_load_is_nearly_even_with_reports_every_five_seconds() {
    let [round_robin, least_load] = both("");
    assert!(least_load <= 1.05, "{least_load}, round robin {round_robin}");
    let [_, told_no_capacity] = both("[reports]\nof = ['sessions']");
    assert!(told_no_capacity <= 1.05, "{told_no_capacity}");
}

#[test]
fn several_dispatchers_do_not_herd() {
    for changes in ["dispatchers = 4", "dispatchers = 4\n[reports]\nto = 'all'"] {
        let [round_robin, least_load] = both(changes);
        assert!(least_load <= 1.06, "{changes}: {least_load}, round robin {round_robin}");
    }
}

#[test]
fn reports_may_be_rare_or_often() {
    let [_, rare] = both("[reports]\ninterval = '20s'");
    assert!(rare <= 1.08, "{rare}");
    let [_, often] = both("[reports]\ninterval = '1s'");
    assert!(often <= 1.03, "{often}");
}

#[test]
fn reports_may_be_lost_late_or_end() {
    for changes in ["loss = 0.3", "delay = '2s'", "delay = '2s'\ndated = true", "stop = '5m'"] {
        let [round_robin, least_load] = both(&format!("[reports]\n{changes}"));
        assert!(least_load <= 1.02 * round_robin, "{changes}: {least_load}, round robin {round_robin}");
    }
}

#[test]
fn redirects_may_not_be_followed() {
    for (changes, most) in [
        ("", 1.0),
        ("[reports]\nof = ['utilization']", 1.0),
        ("[reports]\ninterval = '1s'", 1.0),
        ("[reports]\nloss = 0.3", 1.0),
        ("dispatchers = 4\n[reports]\nto = 'all'", 1.0),
        (
            "sessions = { mean = '1s' }\nreports.interval = '3s'\nbackends = [{ count = 3, capacity = 10 }]",
            1.02,
        ),
    ] {
        let [round_robin, least_load] = both(&format!("arrivals.unfollowed = 0.9\n{changes}"));
        assert!(least_load <= most * round_robin, "{changes}: {least_load}, round robin {round_robin}");
    }
    // As many clients as in the standard case.
    let [round_robin, least_load] = both("arrivals = { rate = 1000.0, unfollowed = 0.9 }");
    assert!(least_load <= 1.08, "{least_load}, round robin {round_robin}");
}

#[test]
fn a_utilization_is_enough() {
    let [round_robin, least_load] = both(
        "[reports]\nof = ['utilization']\n\
         [[backends]]\ncount = 5\ncapacity = 200\n[[backends]]\ncount = 5\ncapacity = 400\nweight = 1\n",
    );
    assert!(least_load <= 1.06, "{least_load}, round robin {round_robin}");
}

#[test]
fn backends_come_and_go() {
    let scenario = Scenario::parse(
        "measured = '15m'\n[[backends]]\ncount = 8\ncapacity = 1\n\
         [[backends]]\ncapacity = 4\ndies = '300s'\n[[backends]]\ncapacity = 4\njoins = '400s'\n",
    )
    .unwrap();
    let compared = compare(&scenario, &[StrategyKind::LeastLoad], 1..=2, &|_| ()).unwrap();
    let load = compared[0].load.unwrap().mean.highest_over_mean;
    assert!(load <= 1.1, "{load}");
    // Three seconds of a third of a hundred a second, for each seed, and no more.
    assert!((100..=320).contains(&compared[0].lost), "{}", compared[0].lost);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let scenario = Scenario::parse("dispatchers = 2\nmeasured = '60s'\nwarm_up = '10s'").unwrap();
    let run = |seed| {
        let compared = compare(&scenario, &StrategyKind::ALL, seed..=seed, &|_| ()).unwrap();
        json(&scenario, &compared).unwrap() + &table(&compared) + &page(&scenario, &compared)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn all_strategies_have_the_same_visitors() {
    let scenario = Scenario::parse("measured = '60s'").unwrap();
    let compared = compare(&scenario, &StrategyKind::ALL, 1..=2, &|_| ()).unwrap();
    let visitors = |of: &Compared| of.runs.iter().map(|run| run.picks).collect::<Vec<_>>();
    assert!(compared.iter().all(|of| visitors(of) == visitors(&compared[0])));
    assert!(visitors(&compared[0])[0] > 15_000);
}

#[test]
fn a_page_needs_nothing_else() {
    let scenario = Scenario::parse("measured = '60s'").unwrap();
    let compared = compare(&scenario, &StrategyKind::ALL, 1..=1, &|_| ()).unwrap();
    let page = page(&scenario, &compared);
    for kind in StrategyKind::ALL {
        assert!(page.contains(&format!("<h2>{}</h2>", kind.name())));
    }
    assert_eq!(page.matches("<svg").count(), StrategyKind::ALL.len());
    assert!(page.contains("prefers-color-scheme:dark"));
    for elsewhere in ["http:", "https:", "src=", "href=", "<script", "@import", "url(", "NaN", "inf"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let table = table(&compared);
    assert_eq!(table.lines().count(), 2 + StrategyKind::ALL.len());
    let widths: std::collections::BTreeSet<_> = table.lines().map(str::len).collect();
    assert_eq!(widths.len(), 1, "{table}");
}

#[test]
fn scenarios_that_come_with_it_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("settings/scenarios");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 4);
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "toml")) {
        let mut scenario = Scenario::read(file).unwrap_or_else(|error| panic!("{error}"));
        scenario.warm_up = std::time::Duration::from_secs(5);
        scenario.measured = std::time::Duration::from_secs(5);
        let compared = compare(&scenario, &StrategyKind::ALL, 1..=1, &|_| ()).unwrap();
        assert!(compared.iter().all(|of| of.runs[0].refused == 0), "{}", file.display());
    }
}

#[test]
fn the_standard_scenario_is_the_one_without_a_file() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("settings/scenarios/standard.toml");
    let [file, default] = [Scenario::read(&path).unwrap(), Scenario::default()];
    assert_eq!(toml::to_string(&file).unwrap(), toml::to_string(&default).unwrap());
}
