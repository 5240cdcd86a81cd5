//! What it costs to have three strategies run beside the one that sends visitors: the processor time of a request with and
//! without, of two dispatchers before one fleet, in turn.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::load::{Load, other_than};
use crate::process::Signpost;
use crate::report::{Report, quantile};
use crate::rows::signpost;

/// Not more than this of the processor time of a request without shadows.
const MOST: f64 = 1.1;

/// The strategies beside `round_robin`.
const SHADOWS: [&str; 3] = ["random", "consistent_hash", "least_load"];

const ROUNDS: usize = 15;
const TIME: Duration = Duration::from_secs(1);

/// How visitors come: by a connection each, and on kept ones, where the strategies are most of what is left.
const WAYS: [(&str, f64, usize); 2] = [("one-shot", 4000.0, 1), ("keep-alive", 16_000.0, 10_000)];

/// What a way costs: medians over the rounds.
struct Cost {
    way: &'static str,
    /// Processor µs of a request, without and with shadows.
    each: [f64; 2],
    /// Of the rounds' ratios.
    ratio: f64,
    /// Requests that got no redirect.
    lost: usize,
}

/// Measures it; the table, and how many bounds were missed.
pub fn play() -> (String, u32) {
    let fleet = Fleet::start();
    let shadow = format!("shadow = {SHADOWS:?}");
    let servers = ["", &shadow].map(|more| signpost("round_robin", more, Duration::from_secs(1), &fleet));
    let costs = WAYS.map(|(way, rate, stays)| measure(way, rate, stays, &servers));
    let mut report = Report::new("shadow", Default::default());
    for strategy in SHADOWS {
        let compared = |result| {
            servers[1]
                .metric("signpost_shadow_comparisons_total", &[("strategy", strategy), ("result", result)])
        };
        report
            .holds(&format!("{strategy} picked beside it"), compared("agreed") + compared("disagreed") > 0.0);
    }
    for Cost { way, ratio, lost, .. } in &costs {
        report.exactly(&format!("{way}: requests that got no redirect"), *lost, 0);
        report.at_most(
            &format!("{way}: processor time of a request, of that without shadows"),
            *ratio,
            MOST,
            "",
        );
    }
    let rows = costs.map(|Cost { way, each: [without, with], ratio, .. }| {
        format!("| {way} | {without:.2} | {with:.2} | {ratio:.3} |\n")
    });
    let head = format!(
        "\n| processor µs of a request | `round_robin` alone | beside it {} | |\n| --- | --: | --: | --: |\n",
        SHADOWS.map(|name| format!("`{name}`")).join(", ")
    );
    (head + &rows.concat(), report.missed)
}

fn measure(way: &'static str, rate: f64, stays: usize, servers: &[Signpost; 2]) -> Cost {
    let (mut figures, mut lost) = ([Vec::new(), Vec::new()], 0);
    for round in 0..ROUNDS {
        // Another one is first each time.
        for side in [round % 2, 1 - round % 2] {
            let mut load = Load::on(servers[side].traffic).rate(rate);
            load.per_connection = stays;
            let before = servers[side].process.processor_time();
            let shots = load.run(TIME);
            let used = servers[side].process.processor_time() - before;
            let (others, words) = other_than(&shots, 302);
            if others > 0 {
                eprintln!("{way}, round {round}: {others} requests got no redirect{words}");
            }
            lost += others;
            figures[side].push(used.as_secs_f64() * 1e6 / shots.len() as f64);
        }
    }
    let mut ratios: Vec<_> =
        figures[1].iter().zip(&figures[0]).map(|(with, without)| with / without).collect();
    Cost {
        way,
        each: figures.map(|mut each| quantile(&mut each, 0.5)),
        ratio: quantile(&mut ratios, 0.5),
        lost,
    }
}
