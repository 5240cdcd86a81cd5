//! How unevenly each strategy of each pool spreads visitors and load: worked out by `compare`, shown at a scrape.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::thread_counters::CounterId;
use crate::fleet::Role;
use crate::strategy::StrategyKind;
use crate::util::enum_all;
use crate::util::fairness::{Imbalance, Measure};

enum_all! {
    /// How a load is known.
    #[derive(Hash)]
    pub enum LoadSource {
        /// By what backends report, carried on from one report to the next.
        Reported = "reported",
        /// By what a shadow would have sent where: nobody has seen this load.
        Modeled = "modeled",
    }
}

/// The figures of one strategy in one role.
#[derive(Clone, Debug)]
pub struct StrategyFigures {
    /// The pool's name.
    pub pool: Box<str>,
    /// The strategy.
    pub strategy: StrategyKind,
    /// What it is for now.
    pub role: Role,
    /// Of what it sent or picked lately, per weight; `None` where that is nothing.
    pub dispatches: Option<Imbalance>,
    /// Of the load it makes, where that is known.
    pub load: Option<LoadFigures>,
}

/// How even the load of a strategy is.
#[derive(Clone, Debug)]
pub struct LoadFigures {
    /// How that is known.
    pub source: LoadSource,
    /// Now; `None` where there is no load, or where it is not this strategy's yet.
    pub now: Option<Imbalance>,
    /// Over time.
    pub so_far: Integral,
}

/// Measures over time: each is the sum of what it was times how long it was so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Integral {
    /// In seconds, in the order of [`Measure::ALL`].
    pub sums: [f64; Measure::ALL.len()],
    /// For how long, in seconds.
    pub observed: f64,
}

impl Integral {
    /// It was so for that long.
    pub fn add(&mut self, imbalance: &Imbalance, lasted: Duration) {
        for (sum, measure) in self.sums.iter_mut().zip(Measure::ALL) {
            *sum += imbalance.get(measure) * lasted.as_secs_f64();
        }
        self.observed += lasted.as_secs_f64();
    }

    /// The mean of a measure; `None` where nothing was observed.
    pub fn mean(&self, measure: Measure) -> Option<f64> {
        (self.observed > 0.0).then(|| self.sums[measure as usize] / self.observed)
    }
}

impl Integral {
    /// The mean of all measures; `None` where nothing was observed.
    pub fn mean_of_all(&self) -> Option<Imbalance> {
        Some(Imbalance {
            highest_over_mean: self.mean(Measure::HighestOverMean)?,
            variation: self.mean(Measure::Variation)?,
            jain: self.mean(Measure::Jain)?,
        })
    }
}

/// What is shown of all of them. Written once a second, read at scrapes.
#[derive(Debug, Default)]
pub struct Imbalances {
    figures: Mutex<Vec<StrategyFigures>>,
    /// Pinned requests that reached draining backends in the last minute or so, by where the pool's first strategy counts each.
    pinned: Mutex<HashMap<CounterId, f64>>,
}

impl Imbalances {
    /// Shows these from now on.
    pub fn publish(&self, figures: Vec<StrategyFigures>, pinned: HashMap<CounterId, f64>) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = pinned;
    }

    /// What was published last.
    pub fn shown(&self) -> Vec<StrategyFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many reached a backend; `None` if it was not draining at the last look.
    pub(super) fn pinned(&self, key: CounterId) -> Option<f64> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }
}
