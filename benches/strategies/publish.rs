//! Requests under way while fleets are published.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signpost::strategy::StrategyKind;

use crate::build;
use crate::load::{Load, Shot, other_than};
use crate::process::{Signpost, Start};
use crate::table::{Bound, Table, ratios};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);
/// Changes a second.
const CHANGES: u32 = 50;
/// Requests a second: an open loop, far from saturation, so that whoever waits waits for something else than a request.
const RATE: f64 = 1000.0;

/// The real binary with ten thousand backends, asked at a fixed rate, while one backend's weight is changed fifty times a
/// second through the API and while it is not.
pub fn run(table: &mut Table) {
    let settings = format!("[log]\naccess = false\n{}", build::settings(StrategyKind::RoundRobin, 1));
    let signpost = Arc::new(Start::with(&settings).go());
    // To warm up, and to be read by nobody.
    Load::on(signpost.traffic).rate(RATE).run(Duration::from_secs(1));
    let [mut quiet, mut publishing] = [const { Vec::new() }; 2];
    let mut changes = Vec::new();
    for _ in 0..ROUNDS {
        quiet.push(round(&signpost).0);
        let stop = Arc::new(AtomicBool::new(false));
        let changing = {
            let (signpost, stop) = (Arc::clone(&signpost), Arc::clone(&stop));
            std::thread::spawn(move || change(&signpost, &stop))
        };
        let (shots, took) = round(&signpost);
        stop.store(true, Ordering::Relaxed);
        changes.push(f64::from(changing.join().unwrap()) / took.as_secs_f64());
        publishing.push(shots);
    }
    table.note(&format!("10000 backends, {RATE} requests a second in an open loop, from when each was due"));
    table.row("changes a second", "", &changes, Bound::AtLeast(0.9 * f64::from(CHANGES)));
    for (share, bound) in [(0.5, Bound::None), (0.99, Bound::AtMost(1.5)), (0.999, Bound::None)] {
        let of = |rounds: &[Vec<f64>]| rounds.iter().map(|round| quantile(round, share)).collect::<Vec<_>>();
        let (quiet, publishing) = (of(&quiet), of(&publishing));
        let name = format!("p{}", share * 100.0);
        table.row(&format!("{name} without"), "ms", &quiet, Bound::None);
        table.row(&format!("{name} with"), "ms", &publishing, Bound::None);
        table.row(&format!("{name} with against without"), "", &ratios(&publishing, &quiet), bound);
    }
}

/// What each request of a round took, in order of that, in milliseconds; and how long the round was.
fn round(signpost: &Signpost) -> (Vec<f64>, Duration) {
    let begin = Instant::now();
    let shots = Load::on(signpost.traffic).rate(RATE).run(ROUND);
    let (others, words) = other_than(&shots, 302);
    assert_eq!(others, 0, "answers that were no redirect{words}");
    let mut took: Vec<_> = shots.iter().map(Shot::milliseconds).collect();
    took.sort_by(f64::total_cmp);
    (took, begin.elapsed())
}

/// Changes a weight, over and over, until it is told to stop; how often.
fn change(signpost: &Signpost, stop: &AtomicBool) -> u32 {
    let begin = Instant::now();
    for count in 1.. {
        if stop.load(Ordering::Relaxed) {
            return count - 1;
        }
        let body = format!("{{\"weight\":{}}}", 1 + count % 12);
        let answer = signpost.ask("PATCH", "/api/v1/pools/p/backends/b77", &[], &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        std::thread::sleep(
            (begin + Duration::from_secs(1) / CHANGES * count).saturating_duration_since(Instant::now()),
        );
    }
    0
}

/// The value that this share of sorted values does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1)]
}
