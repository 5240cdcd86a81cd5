//! `signpost simulate`: strategies compared on virtual time, before anybody is sent anywhere.
//!
//! The strategies, estimates and load models are those that serve; visitors, backends and the way of reports are simulated.
//! All strategies have the same visitors. The same scenario and seed give the same bytes.

mod draw;
mod engine;
mod outcome;
mod page;
mod recorded;
mod scenario;
mod table;

pub use outcome::{Compared, Point, SimulationOutcome, Spread};
pub use page::page;
pub use scenario::Scenario;
pub use table::table;

use serde::Serialize;

use crate::strategy::StrategyKind;
use engine::Simulation;

/// Runs each strategy with each seed. `tell` is told of visitors as they come.
///
/// # Errors
/// Where the log that the scenario names can't be read.
pub fn compare(
    scenario: &Scenario,
    strategies: &[StrategyKind],
    seeds: impl Iterator<Item = u64> + Clone,
    tell: &dyn Fn(u64),
) -> Result<Vec<Compared>, String> {
    let recorded = scenario.recorded()?;
    let run = |kind: StrategyKind| {
        let runs =
            seeds.clone().map(|seed| Simulation::new(scenario, recorded.as_ref(), kind, seed).run(tell));
        Compared::new(kind.name(), runs.collect())
    };
    Ok(strategies.iter().map(|&kind| run(kind)).collect())
}

/// Everything that came of a comparison, as JSON.
///
/// # Errors
/// Where that can't be written, which is a mistake of the program's.
pub fn json(scenario: &Scenario, compared: &[Compared]) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct JsonResults<'a> {
        scenario: &'a Scenario,
        strategies: &'a [Compared],
    }
    serde_json::to_string_pretty(&JsonResults { scenario, strategies: compared })
}

/// How many visitors a comparison has, about.
pub fn visitors(scenario: &Scenario, strategies: usize, seeds: u64) -> u64 {
    let seconds = (scenario.warm_up + scenario.measured).as_secs_f64();
    (seconds * scenario.arrivals.rate) as u64 * strategies as u64 * seeds
}

#[cfg(test)]
mod tests;
