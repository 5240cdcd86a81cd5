//! What is said of it: a table, and the bounds.

use std::fmt::Write;

use crate::Args;
use crate::clients;
use crate::fleet::PER_CAPACITY;
use crate::report::Report;
use crate::round::{Sample, WARM_UP};
use crate::rows::{LEAST_LOAD, ROUND_ROBIN, Row};

/// The most that `least_load` may have of the excess of the weighted round robin.
const MOST: f64 = 0.5;

/// Each row with what it had in each round.
pub struct Results<'a>(Vec<(&'a Row, Vec<Sample>)>);

impl<'a> Results<'a> {
    pub fn new(rows: &[&'a Row]) -> Self {
        Self(rows.iter().map(|row| (*row, Vec::new())).collect())
    }

    /// A round's samples, in the order of the rows.
    pub fn add(&mut self, samples: Vec<Sample>) {
        for ((_, all), sample) in self.0.iter_mut().zip(samples) {
            all.push(sample);
        }
    }

    /// How far the highest utilization was over the average, on average over time and rounds.
    fn excess(&self, name: &str) -> Option<f64> {
        let (_, samples) = self.0.iter().find(|(row, _)| row.name == name)?;
        Some(mean(samples, |sample| sample.highest_over_mean) - 1.0)
    }

    /// A row's excess as a share of the weighted round robin's.
    fn share(&self, name: &str) -> Option<f64> {
        Some(self.excess(name)? / self.excess(ROUND_ROBIN)?)
    }

    /// Holds the bounds; how many were missed.
    pub fn check(&self) -> u32 {
        let mut report = Report::new("balance", Default::default());
        for (row, samples) in &self.0 {
            let lost: usize = samples.iter().map(|sample| sample.lost).sum();
            report.exactly(&format!("{}: visitors who had no session", row.name), lost, 0);
        }
        if let Some(share) = self.share(LEAST_LOAD) {
            report.at_most("least_load: excess, of weighted round robin's", share, MOST, "");
        }
        report.missed
    }

    /// How it was measured, and the table.
    pub fn markdown(&self, args: &Args) -> String {
        let Args { rounds, seconds, speed, .. } = args;
        let time = format!(
            "{rounds} rounds of {:.0} s each, behind {:.0} s that are not counted; {speed} times as fast as is said here, so \
             that a round is {:.0} s long in the time of the table",
            seconds.as_secs_f64(),
            WARM_UP.as_secs_f64() / speed,
            seconds.as_secs_f64() * speed,
        );
        let (each, lengths, shape) = (clients::RATE, clients::MEAN.as_secs_f64(), clients::SHAPE);
        let who = format!("{each}/s (Poisson), sessions of {lengths} s on average (Pareto, shape {shape})");
        let waited = self.0.iter().flat_map(|(_, samples)| samples).map(|sample| sample.waited);
        let waited = format!(
            "99 % had their session within {:.0} ms in every row and round",
            waited.fold(0.0, f64::max)
        );
        let capacity = format!("{PER_CAPACITY} sessions for each 1 of it");
        let facts = [("time", time), ("visitors", format!("{who}; {waited}")), ("capacity", capacity)];
        facts.map(|(name, what)| format!("- {name}: {what}\n")).concat() + "\n" + &self.table()
    }

    fn table(&self) -> String {
        let mut text = "| | highest over average utilization | least and most of a round | excess, of weighted round robin's | variation | utilization | visitors of a round |\n\
             | --- | --: | --: | --: | --: | --: | --: |\n"
            .to_owned();
        for (row, samples) in &self.0 {
            let highest = mean(samples, |sample| sample.highest_over_mean);
            let each = || samples.iter().map(|sample| sample.highest_over_mean);
            let (least, most) = (each().fold(f64::MAX, f64::min), each().fold(f64::MIN, f64::max));
            let share = self.share(row.name).map_or("–".to_owned(), |share| format!("{share:.2}"));
            let _ = writeln!(
                text,
                "| {} | {highest:.3} | {least:.3}–{most:.3} | {share} | {:.3} | {:.2} | {:.0} |",
                row.what,
                mean(samples, |sample| sample.variation),
                mean(samples, |sample| sample.utilization),
                mean(samples, |sample| sample.held as f64),
            );
        }
        text
    }
}

fn mean(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    samples.iter().map(of).sum::<f64>() / samples.len() as f64
}
