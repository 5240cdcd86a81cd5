//! Nobody is left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Scenario;
use crate::backend::Backend;
use crate::kill_backend::{GONE, back_within, first_after, last_after, start, state};
use crate::load::{Got, Load, Shot, other_than};
use crate::process::Signpost;
use crate::report::Report;

/// All three backends are killed. With `panic_threshold = 1.0` the dispatcher believes that it is the one who
/// sees wrong and goes on sending visitors to all; with 0 it answers 503, and `Retry-After` is spread over 2 to
/// 8 seconds, so that clients don't come back as one wave. Either shows in the metrics. Once they are back,
/// visitors are sent there again within the same time as for one (see kill-backend).
pub const SCENARIO: Scenario = Scenario {
    name: "all-down",
    shows: "every backend dead, with and without failing open",
    seconds: 60,
    run,
};

fn run(report: &mut Report) {
    let mut backends = Backend::several(3);
    let open = play(report, &mut backends, 1.0);
    let (failed, words) = other_than(&open, 302);
    report.exactly(&format!("failing open: requests that got no redirect{words}"), failed, 0);
    play(report, &mut backends, 0.0);
}

/// Kills all, brings all back; what was asked meanwhile.
fn play(report: &mut Report, backends: &mut [Backend], threshold: f64) -> Vec<Shot> {
    let opens = threshold > 0.0;
    let how = if opens { "failing open" } else { "never open" };
    let signpost = start(backends, &format!("slow_start = '0s'\npanic_threshold = {threshold:.1}"));
    let load = Load::on(signpost.traffic).start();
    std::thread::sleep(Duration::from_millis(300));
    let killed: Vec<_> = backends.iter_mut().map(Backend::kill).collect();
    let killed = killed[killed.len() - 1];
    let seen = (0..backends.len()).all(|number| state(&signpost, number, "down", Duration::from_secs(5)));
    report.holds(&format!("{how}: signpost_backend_state says that all are down"), seen);
    std::thread::sleep((killed + Duration::from_secs(3)).saturating_duration_since(Instant::now()));
    let shown = fail_open(&signpost);
    report.exactly(&format!("{how}: signpost_pool_fail_open"), shown, f64::from(u8::from(opens)));
    let all_dead = Instant::now();
    let back: Vec<_> = backends.iter_mut().map(Backend::back).collect();
    std::thread::sleep(Duration::from_secs(2));
    let up = (0..backends.len()).all(|number| state(&signpost, number, "up", Duration::from_secs(5)));
    report.holds(&format!("{how}: signpost_backend_state says that all are back"), up);
    report.exactly(&format!("{how}: signpost_pool_fail_open then"), fail_open(&signpost), 0.0);
    let shots = load.stop();

    let dead: Vec<_> =
        shots.iter().filter(|shot| shot.begun >= killed + GONE && shot.ended < all_dead).cloned().collect();
    if opens {
        let mut of_port = BTreeMap::<u16, usize>::new();
        for port in dead.iter().filter_map(Shot::port) {
            *of_port.entry(port).or_default() += 1;
        }
        let least = backends.iter().map(|backend| of_port.get(&backend.port()).copied().unwrap_or(0)).min();
        let share = 100.0 * least.unwrap_or(0) as f64 / dead.len() as f64;
        report.at_least("failing open: share of the backend that got least", share, 30.0, "%");
    } else {
        waits(report, &dead);
        let bound = back_within().as_secs_f64() * 1000.0;
        let last_back = back[back.len() - 1];
        let refused = shots.iter().filter(|shot| shot.status() == Some(503) && shot.begun >= last_back);
        let last = last_after(refused, last_back);
        report.at_most("never open: last 503 after they are back", last, bound, "ms");
        let first = backends.iter().zip(&back).map(|(backend, &back)| {
            let to_it = shots.iter().filter(|shot| shot.begun >= back && shot.port() == Some(backend.port()));
            first_after(to_it, back)
        });
        let slowest = first.fold(0.0, f64::max);
        report.at_most("never open: slowest first visitor of one that is back", slowest, bound, "ms");
    }
    let line = if opens { "failing open" } else { "no backend is eligible" };
    report.holds(&format!("{how}: the log says so"), signpost.log.has(&["ERROR", line]));
    shots
}

fn fail_open(signpost: &Signpost) -> f64 {
    signpost.metric("signpost_pool_fail_open", &[("pool", "p")])
}

/// Every answer is a 503, and says one of 2 to 8 seconds, each as often as any other.
fn waits(report: &mut Report, dead: &[Shot]) {
    let (failed, words) = other_than(dead, 503);
    report.exactly(&format!("never open: of {} answers no 503{words}", dead.len()), failed, 0);
    let mut times = BTreeMap::<Option<u64>, usize>::new();
    for shot in dead {
        let Got::Answer { retry_after, .. } = shot.got else { continue };
        *times.entry(retry_after).or_default() += 1;
    }
    let seconds: Vec<_> = times.keys().copied().collect();
    let expected: Vec<_> = (2..=8).map(Some).collect();
    report.holds("never open: Retry-After is 2, 3, 4, 5, 6, 7 or 8, and each occurs", seconds == expected);
    let most = times.values().max().copied().unwrap_or(0) as f64;
    // A seventh is 14.3 %; of some thousand answers none is off by more than a fifth of that.
    report.at_most("never open: share of the most frequent one", 100.0 * most / dead.len() as f64, 18.0, "%");
}
