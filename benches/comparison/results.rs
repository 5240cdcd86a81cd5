//! All that was measured, and what is worked out of it.

use std::collections::BTreeMap;

use crate::calls::Calls;
use crate::memory::ListenerProtocol;
use crate::rows::{ROWS, Sample};
use crate::servers::Kind;

/// What a run found out. Rows go by their name.
#[derive(Default)]
pub struct Results {
    /// A sample for each round.
    pub samples: BTreeMap<(&'static str, Kind), Vec<Sample>>,
    /// Calls, and how many answers they were for.
    pub calls: BTreeMap<(&'static str, Kind), (Calls, u64)>,
    /// Bytes of each waiting connection.
    pub memory: BTreeMap<(Kind, ListenerProtocol), f64>,
    /// What the reader must know besides.
    pub notes: Vec<String>,
}

impl Results {
    pub fn add(&mut self, row: &'static str, kind: Kind, sample: Sample) {
        self.samples.entry((row, kind)).or_default().push(sample);
    }

    /// Says something, once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The names of the rows that were measured, in their order.
    pub fn rows(&self) -> impl Iterator<Item = &'static str> {
        let measured = |name: &&str| self.samples.keys().any(|(row, _)| row == name);
        ROWS.iter().map(|row| row.name).filter(measured)
    }

    /// A figure of each round.
    pub fn figures(&self, row: &'static str, kind: Kind, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.get(&(row, kind)).into_iter().flatten().map(figure).collect()
    }

    /// The median of a figure over the rounds.
    pub fn median(&self, row: &'static str, kind: Kind, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.figures(row, kind, figure))
    }

    /// The median of the rounds' ratios of processor time: of what was measured within seconds, not minutes.
    pub fn ratio(&self, of: (&'static str, Kind), to: (&'static str, Kind)) -> Option<f64> {
        let used = |(row, kind)| self.figures(row, kind, |sample| sample.processor);
        let pairs = used(of).into_iter().zip(used(to));
        median(pairs.filter(|(_, to)| *to > 0.0).map(|(of, to)| of / to).collect())
    }

    /// The peer that takes least processor time in a row.
    pub fn best_peer(&self, row: &'static str) -> Option<Kind> {
        let used = |kind| self.median(row, kind, |sample| sample.processor);
        let peers = [Kind::Nginx, Kind::Haproxy].into_iter().filter_map(|kind| Some((kind, used(kind)?)));
        peers.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(kind, _)| kind)
    }

    /// System calls for each answer.
    pub fn calls_per_answer(&self, row: &'static str, kind: Kind) -> Option<f64> {
        let (calls, answers) = self.calls.get(&(row, kind))?;
        (*answers > 0).then(|| calls.values().sum::<u64>() as f64 / *answers as f64)
    }

    /// How many requests of a server did not get the right answer, in all rows.
    pub fn failed(&self, kind: Kind) -> u64 {
        let of = self.samples.iter().filter(|((_, by), _)| *by == kind);
        of.flat_map(|(_, samples)| samples).map(|sample| sample.failed).sum()
    }
}

/// The middle one of the values, or the mean of the two there.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}
