//! What came of runs.

use serde::Serialize;

use crate::util::fairness::Imbalance;

/// What came of one run.
#[derive(Clone, Debug, Serialize)]
pub struct SimulationOutcome {
    /// How uneven the load was, as a mean over time: utilizations, which are sessions over capacity.
    pub load: Option<Imbalance>,
    /// How uneven dispatches were, per weight. Something else than the load.
    pub dispatches: Option<Imbalance>,
    /// Dispatches while it was measured, by backend.
    pub backends: Vec<u64>,
    /// Visitors, warm-up included.
    pub picks: u64,
    /// Visitors who were sent to a backend that had died, or to nobody, while it was measured.
    pub lost: u64,
    /// Reports that made no sense.
    pub refused: u64,
    /// The load over time.
    #[serde(skip)]
    pub points: Vec<Point>,
}

/// Utilizations at one time.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Seconds since the beginning.
    pub at: f64,
    /// Of the backend that is fullest.
    pub highest: f64,
    /// Of the one that is emptiest.
    pub lowest: f64,
    /// All load over all capacity.
    pub mean: f64,
}

/// Sums of the figures of imbalances.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunFigures {
    highest_over_mean: f64,
    variation: f64,
    jain: f64,
    count: f64,
}

impl RunFigures {
    pub(super) fn add(&mut self, imbalance: &Imbalance) {
        self.highest_over_mean += imbalance.highest_over_mean;
        self.variation += imbalance.variation;
        self.jain += imbalance.jain;
        self.count += 1.0;
    }

    /// The mean of each; `None` of nothing.
    pub(super) fn mean(&self) -> Option<Imbalance> {
        (self.count > 0.0).then(|| Imbalance {
            highest_over_mean: self.highest_over_mean / self.count,
            variation: self.variation / self.count,
            jain: self.jain / self.count,
        })
    }
}

/// What came of all runs of one strategy.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Its name.
    pub strategy: &'static str,
    /// How uneven the load was, over all seeds.
    pub load: Option<Spread>,
    /// How uneven dispatches were, over all seeds.
    pub dispatches: Option<Spread>,
    /// Visitors who found nobody.
    pub lost: u64,
    /// One for each seed.
    pub runs: Vec<SimulationOutcome>,
}

/// A figure over several seeds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The mean of each figure.
    pub mean: Imbalance,
    /// The lowest [`Imbalance::highest_over_mean`] of a seed.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
}

impl Compared {
    pub(super) fn new(strategy: &'static str, runs: Vec<SimulationOutcome>) -> Self {
        Self {
            strategy,
            load: Spread::of(runs.iter().filter_map(|run| run.load)),
            dispatches: Spread::of(runs.iter().filter_map(|run| run.dispatches)),
            lost: runs.iter().map(|run| run.lost).sum(),
            runs,
        }
    }
}

impl Spread {
    fn of(imbalances: impl Iterator<Item = Imbalance> + Clone) -> Option<Self> {
        let mut figures = RunFigures::default();
        imbalances.clone().for_each(|imbalance| figures.add(&imbalance));
        let highest_over_mean = imbalances.map(|imbalance| imbalance.highest_over_mean);
        Some(Self {
            mean: figures.mean()?,
            lowest: highest_over_mean.clone().fold(f64::INFINITY, f64::min),
            highest: highest_over_mean.fold(0.0, f64::max),
        })
    }
}
