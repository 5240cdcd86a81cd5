//! `signpost simulate`: what it prints and writes.

use serde_json::Value;

use crate::browser::Browser;
use crate::harness::{run, stderr};

#[test]
fn it_prints_a_table_and_writes_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let [scenario, json, html] =
        ["s.toml", "out.json", "out.html"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    std::fs::write(&scenario, "warm_up = '10s'\nmeasured = '60s'\ndispatchers = 2\n").unwrap();
    let again = || {
        let args = ["simulate", "--scenario", &scenario, "--seed", "3", "--seeds", "2"];
        let output = run(args.into_iter().chain(["--json", &json, "--html", &html]));
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "no bar where nobody watches");
        let read = |path| std::fs::read_to_string(path).unwrap();
        (String::from_utf8(output.stdout).unwrap(), read(&json), read(&html))
    };
    let (table, text, page) = again();
    assert_eq!(again(), (table.clone(), text.clone(), page.clone()), "the same bytes");

    let came: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(came["scenario"]["dispatchers"], 2);
    let strategies = came["strategies"].as_array().unwrap();
    assert_eq!(table.lines().count(), 2 + strategies.len());
    for of in strategies {
        let name = of["strategy"].as_str().unwrap();
        let highest = of["load"]["mean"]["highest_over_mean"].as_f64().unwrap();
        assert!(highest >= 1.0 && of["runs"].as_array().unwrap().len() == 2, "{name}: {of}");
        assert!(table.contains(&format!("| {name} ")) && table.contains(&format!("{highest:.4}")), "{table}");
        assert!(page.contains(&format!("<h2>{name}</h2>")));
    }
}

#[test]
fn page_is_readable_on_a_phone() {
    let folder = tempfile::tempdir().unwrap();
    let [scenario, html] = ["s.toml", "out.html"].map(|name| folder.path().join(name));
    std::fs::write(&scenario, "warm_up = '10s'\nmeasured = '60s'\n").unwrap();
    let output = run([
        "simulate".as_ref(),
        "--scenario".as_ref(),
        scenario.as_os_str(),
        "--seeds".as_ref(),
        "1".as_ref(),
        "--html".as_ref(),
        html.as_os_str(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let Some(browser) = Browser::start() else { return };
    for width in [390, 1280] {
        browser.resize(width);
        browser.open(&format!("file://{}", html.display()));
        let number = |script: &str| browser.run(&format!("return {script}")).as_f64().unwrap();
        assert!(number("document.documentElement.scrollWidth") <= f64::from(width));
        // No text is smaller than 12 pixels, those of charts included, and none is cut off or covered by another.
        let smallest = "Math.min(...[...document.querySelectorAll('td, h2, p, figure span')].map((one) => \
             parseFloat(getComputedStyle(one).fontSize) * (one.closest('svg') ? 0 : 1)))";
        assert!(number(smallest) >= 12.0);
        assert_eq!(number("document.querySelectorAll('svg text').length"), 0.0);
        let outside = "[...document.querySelectorAll('td, figure span')].filter((one) => { \
             const box = one.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; }).length";
        assert_eq!(number(outside), 0.0, "{width}");
        // Each level of the scale stands beside its line.
        let apart = "Math.max(...[...document.querySelectorAll('figure')].flatMap((figure) => { \
             const lines = [...figure.querySelectorAll('.grid')].reverse(); \
             return [...figure.querySelectorAll('.levels span')].map((span, index) => \
               Math.abs(span.getBoundingClientRect().top - lines[index].getBoundingClientRect().top)); }))";
        assert!(number(apart) <= 1.5, "{}", number(apart));
    }
}

#[test]
fn only_the_strategies_that_were_named() {
    let output = run(["simulate", "--seeds", "1", "--strategy", "random", "--strategy", "least_load"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = table.lines().skip(2).map(|line| line.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(names, ["random", "least_load"]);
}

#[test]
fn mistakes_are_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[reports]\nintervall = '5s'\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (args, told) in [
        (vec!["--scenario", path], "intervall"),
        (vec!["--scenario", "/nowhere.toml"], "/nowhere.toml"),
        (vec!["--strategy", "leastconn"], "least_load"),
        (vec!["--seeds", "0"], "--seeds"),
    ] {
        let output = run(["simulate"].into_iter().chain(args.iter().copied()));
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(told), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}
