//! Settings that change under load.

use std::time::{Duration, Instant};

use crate::Scenario;
use crate::backend::Local;
use crate::load::{Load, other_than};
use crate::process::Start;
use crate::report::Report;

/// 100 reloads in 20 seconds by the API, each acknowledged, while visitors come and backends come and go; 50
/// reloads of broken settings among them. A redirect must lead to a backend that was in the settings at some
/// moment while its request was under way: one that began after an acknowledgement may not lead to what that
/// reload removed. Nothing is allowed to fail, since a reload touches no socket.
pub const SCENARIO: Scenario = Scenario {
    name: "reload",
    shows: "100 reloads in 20 s under load, 50 broken ones among them",
    seconds: 90,
    run,
};

const GOOD: u32 = 100;
const BROKEN: u32 = 50;
const BACKENDS: usize = 6;

/// One reload, or the start as the first of them.
struct Step {
    asked: Instant,
    acknowledged: Instant,
    /// The ports that are served from then on.
    ports: Vec<u16>,
}

fn run(report: &mut Report) {
    let backends: Vec<_> = std::iter::repeat_with(Local::good).take(BACKENDS).collect();
    // Which backends are in the settings after reload `turn`: from one to five of the six, each time others.
    let among = |turn: u32| -> Vec<usize> {
        (0..BACKENDS)
            .filter(|number| (turn as usize * 7 + number * 5) % (3 + turn as usize % 4) < 2)
            .collect()
    };
    let settings = |among: &[usize]| {
        let listed: Vec<_> = among
            .iter()
            .map(|&number| format!("{{ id = 'b{number}', url = 'http://{}' }}", backends[number].address))
            .collect();
        format!(
            "[server]\nwatch_interval = '0s'\n[log]\naccess = false\n[pools.p]\nbackends = [{}]\n",
            listed.join(", ")
        )
    };
    let ports = |among: &[usize]| among.iter().map(|&number| backends[number].address.port()).collect();

    let first = vec![0, 1, 2];
    let signpost = Start::with(&settings(&first)).go();
    let now = Instant::now();
    let mut steps = vec![Step { asked: now, acknowledged: now, ports: ports(&first) }];
    let load = Load::on(signpost.traffic).start();

    let started = Instant::now();
    let (mut good, mut broken, mut refused) = (0, 0, 0);
    for turn in 0..GOOD + BROKEN {
        // Spread over 20 s.
        let due = started + Duration::from_millis(u64::from(turn) * 20_000 / u64::from(GOOD + BROKEN));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if turn % 3 == 2 {
            // Would remove every backend but one, if it were not broken elsewhere.
            let text = settings(&[turn as usize % BACKENDS]);
            signpost.write_settings(&match turn % 2 {
                0 => text + "strategy = 'no_such_strategy'\n",
                _ => text + "[[[",
            });
            let answer = signpost.ask("POST", "/api/v1/reload", &[], "");
            broken += 1;
            refused += u32::from(answer.status == 422);
            continue;
        }
        let mut among = among(turn);
        if among.is_empty() {
            among.push(turn as usize % BACKENDS);
        }
        signpost.write_settings(&settings(&among));
        let asked = Instant::now();
        let answer = signpost.ask("POST", "/api/v1/reload", &[], "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        good += 1;
        steps.push(Step { asked, acknowledged: Instant::now(), ports: ports(&among) });
    }
    let took = started.elapsed();
    std::thread::sleep(Duration::from_millis(200));
    let shots = load.stop();

    let (failed, words) = other_than(&shots, 302);
    report.note("requests under way meanwhile", &shots.len().to_string());
    report.exactly(&format!("requests that got no redirect{words}"), failed, 0);
    let astray = shots.iter().filter(|shot| {
        // The settings in effect when it began, and all that were asked for until it ended.
        let at = steps.partition_point(|step| step.acknowledged <= shot.begun).max(1) - 1;
        let until = steps.partition_point(|step| step.asked <= shot.ended);
        shot.port().is_some_and(|port| !steps[at..until].iter().any(|step| step.ports.contains(&port)))
    });
    report.exactly("requests sent to a backend that was removed before they began", astray.count(), 0);
    report.exactly("reloads acknowledged", good, GOOD);
    report.at_most("in", took.as_secs_f64(), 21.0, "s");
    report.exactly("broken reloads turned down", refused, broken);
    let counted = |result| signpost.metric("signpost_config_reloads_total", &[("result", result)]);
    report.exactly("reloads counted as success", counted("success"), f64::from(GOOD));
    report.exactly("reloads counted as error", counted("error"), f64::from(BROKEN));
    report.holds("the log says what was wrong", signpost.log.has(&["wrong settings", "no_such_strategy"]));
    report.holds("the log says what was reloaded", signpost.log.has(&["settings reloaded", "the API"]));
}
