//! Figures of several rounds, each a row with its spread and bound; and the clock they are taken by.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A table that is printed as it grows.
pub struct Table {
    missed: u32,
}

/// What a figure must be.
#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// For the reader.
    None,
}

impl Table {
    pub fn begin() -> Self {
        println!("{:62}{:>10}  {:21}{:16}", "", "median", "lowest to highest", "bound");
        Self { missed: 0 }
    }

    pub fn part(&self, name: &str) {
        println!("{name}");
    }

    /// A line of words.
    pub fn note(&self, text: &str) {
        println!("  ({text})");
    }

    /// Says that a part can't be measured here, which counts as missed.
    pub fn skip(&mut self, why: &str) {
        self.missed += 1;
        println!("  MISSED: {why}");
    }

    /// A figure of one value for each round; its median.
    pub fn row(&mut self, what: &str, unit: &str, rounds: &[f64], bound: Bound) -> f64 {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = median(&sorted);
        let (met, words) = match bound {
            Bound::AtMost(bound) => (median <= bound, format!("at most {}", amount(bound, unit))),
            Bound::AtLeast(bound) => (median >= bound, format!("at least {}", amount(bound, unit))),
            Bound::None => (true, String::new()),
        };
        let spread = format!("{} to {}", amount(sorted[0], ""), amount(sorted[sorted.len() - 1], unit));
        let verdict = match bound {
            Bound::None => "",
            _ if met => "ok",
            _ => "MISSED",
        };
        println!("  {what:60}{:>10}  {spread:21}{words:18}{verdict}", amount(median, unit));
        self.missed += u32::from(!met);
        median
    }

    /// How many bounds were missed.
    pub fn missed(&self) -> u32 {
        self.missed
    }
}

/// The median; of an even number of values the higher of the two in the middle. Takes them sorted.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn amount(figure: f64, unit: &str) -> String {
    let digits = if figure.fract() == 0.0 || figure >= 1000.0 { 0 } else { 2 };
    format!("{figure:.digits$}{}{unit}", if unit.is_empty() { "" } else { " " })
}

/// Each figure of `of` divided by that of `by` in the same round.
pub fn ratios(of: &[f64], by: &[f64]) -> Vec<f64> {
    of.iter().zip(by).map(|(of, by)| of / by).collect()
}

/// The processor time that the calling thread has used.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What something takes of the calling thread's processor time, and what it returns.
pub fn taken<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = processor_time();
    let result = work();
    (processor_time() - begin, result)
}
