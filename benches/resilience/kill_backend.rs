//! Backends that die and come back.

use std::time::{Duration, Instant};

use crate::Scenario;
use crate::backend::{Backend, listed};
use crate::load::{Load, Shot, other_than};
use crate::process::{Signpost, Start};
use crate::report::Report;

/// 3 backends, 2000 requests a second, `interval` 200 ms, `fall` and `rise` 2. One is killed by `kill -9`, so
/// that who connects is refused; then it is started again; then the next.
///
/// A visitor that is sent to a dead backend is lost, for nobody retries. The second failed probe is over at the
/// latest `fall` × `interval` × 1.1 (the jitter) after the death, 440 ms; from 500 ms on nobody may be sent
/// there. Back again, the second good probe comes `rise` × `interval` × 1.1 after, with 200 ms for a probe's
/// own time and the scheduler's: then its first visitor must have come. With a slow start it gets a tenth more
/// of its weight at each of ten steps; at none of them more than 1.1 of the share that is due.
pub const SCENARIO: Scenario = Scenario {
    name: "kill-backend",
    shows: "kill -9 of one backend of three at 2000 requests/s, and its return",
    seconds: 120,
    run,
};

const INTERVAL: Duration = Duration::from_millis(200);
const RISE: u32 = 2;
/// How long after its death a backend may still be sent visitors.
pub const GONE: Duration = Duration::from_millis(500);
const RAMP: Duration = Duration::from_secs(5);
const STEPS: u32 = 10;

/// Until when a backend that is back must be used.
pub fn back_within() -> Duration {
    (RISE * INTERVAL).mul_f64(1.1) + Duration::from_millis(200)
}

/// A dispatcher that probes these backends as this family of scenarios does.
pub fn start(backends: &[Backend], more: &str) -> Signpost {
    let listed = listed(backends.iter().map(|backend| backend.address));
    let signpost = Start::with(&format!(
        "[log]\naccess = false\n[pools.p]\n{more}\nbackends = [{listed}]\n\
         [pools.p.health]\nkind = 'http'\ninterval = '{}ms'\nrise = {RISE}\nfall = 2\n",
        INTERVAL.as_millis()
    ))
    .go();
    for number in 0..backends.len() {
        assert!(state(&signpost, number, "up", Duration::from_secs(5)), "backend {number} is up");
    }
    signpost
}

/// Waits until a backend is in a state.
pub fn state(signpost: &Signpost, backend: usize, state: &str, within: Duration) -> bool {
    let backend = format!("b{backend}");
    let labels = [("pool", "p"), ("backend", backend.as_str()), ("state", state)];
    signpost.metric_becomes("signpost_backend_state", &labels, 1.0, within).is_some()
}

/// How long after `from` the last of these began, in milliseconds; 0 where there is none.
pub fn last_after<'a>(shots: impl Iterator<Item = &'a Shot>, from: Instant) -> f64 {
    shots.map(|shot| (shot.begun - from).as_secs_f64() * 1000.0).fold(0.0, f64::max)
}

/// How long after `from` the first of these began, in milliseconds; infinite where there is none.
pub fn first_after<'a>(shots: impl Iterator<Item = &'a Shot>, from: Instant) -> f64 {
    shots.map(|shot| (shot.begun - from).as_secs_f64() * 1000.0).fold(f64::INFINITY, f64::min)
}

fn run(report: &mut Report) {
    let mut backends = Backend::several(3);
    killed(report, &mut backends);
    slow_start(report, &mut backends);
}

fn killed(report: &mut Report, backends: &mut [Backend]) {
    let signpost = start(backends, "slow_start = '0s'");
    let load = Load::on(signpost.traffic).start();
    std::thread::sleep(Duration::from_millis(500));
    let mut rounds = Vec::new();
    for (number, backend) in backends.iter_mut().enumerate() {
        let killed = backend.kill();
        let seen_down = state(&signpost, number, "down", Duration::from_secs(5));
        std::thread::sleep(Duration::from_secs(2));
        let back = backend.back();
        let seen_up = state(&signpost, number, "up", Duration::from_secs(5));
        std::thread::sleep(Duration::from_secs(1));
        rounds.push((backend.port(), killed, back, seen_down && seen_up));
    }
    let shots = load.stop();
    let (failed, words) = other_than(&shots, 302);
    report.note("requests under way meanwhile", &shots.len().to_string());
    report.exactly(&format!("requests that got no redirect{words}"), failed, 0);
    for (number, &(port, killed, back, seen)) in rounds.iter().enumerate() {
        let to_it = || shots.iter().filter(|shot| shot.port() == Some(port));
        let dead = to_it().filter(|shot| shot.begun >= killed && shot.begun < back);
        let late = to_it().filter(|shot| shot.begun >= killed + GONE && shot.begun < back).count();
        let last = last_after(dead, killed);
        report.exactly(
            &format!(
                "kill {number}: requests begun over 500 ms later and sent there (the last after {last:.0} ms)"
            ),
            late,
            0,
        );
        let first = first_after(to_it().filter(|shot| shot.begun >= back), back);
        let bound = back_within().as_secs_f64() * 1000.0;
        report.at_most(&format!("kill {number}: first visitor after its return"), first, bound, "ms");
        report.holds(&format!("kill {number}: signpost_backend_state said down and up"), seen);
        let name = format!("b{number}");
        let logged = signpost.log.has(&[&name, "down"]) && signpost.log.has(&[&name, "up"]);
        report.holds(&format!("kill {number}: so did the log"), logged);
    }
}

fn slow_start(report: &mut Report, backends: &mut [Backend]) {
    let signpost = start(backends, &format!("slow_start = '{}s'", RAMP.as_secs()));
    let port = backends[0].port();
    let load = Load::on(signpost.traffic).start();
    backends[0].kill();
    assert!(state(&signpost, 0, "down", Duration::from_secs(5)));
    std::thread::sleep(Duration::from_millis(300));
    let back = backends[0].back();
    // The steps as an operator sees them.
    let labels = [("pool", "p"), ("backend", "b0")];
    let mut weights: Vec<f64> = Vec::new();
    while back.elapsed() < RAMP + Duration::from_secs(3) {
        let weight = signpost.metric("signpost_backend_weight", &labels);
        if weights.last() != Some(&weight) {
            weights.push(weight);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let shots = load.stop();
    let (failed, words) = other_than(&shots, 302);
    report.exactly(&format!("slow start: requests that got no redirect{words}"), failed, 0);
    let Some(first) = shots.iter().find(|shot| shot.begun >= back && shot.port() == Some(port)) else {
        report.holds("slow start: it comes back", false);
        return;
    };
    // How much of a step's due share it got. Windows end a little before the step does: the first visitor comes
    // a little after the first step began.
    let step = RAMP / STEPS;
    let of_due = |number: u32| {
        let (from, to) = (first.begun + step * number, first.begun + step * (number + 1));
        let to = to - Duration::from_millis(30);
        let all = shots.iter().filter(|shot| shot.begun >= from && shot.begun < to);
        let to_it = all.clone().filter(|shot| shot.port() == Some(port)).count() as f64;
        let weight = f64::from((number + 1).min(STEPS)) / f64::from(STEPS);
        to_it / all.count() as f64 / (weight / (2.0 + weight))
    };
    let ramp: Vec<f64> = (0..STEPS).map(of_due).collect();
    let most = ramp.iter().copied().fold(0.0, f64::max);
    report.at_most("slow start: most that a step got of its due share", most, 1.1, "");
    report.at_least("slow start: what it got of its whole share after the ramp", of_due(STEPS + 1), 0.9, "");
    report.at_least(
        "slow start: steps to be read from signpost_backend_weight",
        weights.len() as f64,
        9.0,
        "",
    );
}
