//! How fast levels rise and fall, as far as that is known.
//!
//! Between reports a level goes by `dn/dt = gain × dispatches − decay × n`. Two figures say both rates:
//!
//! - the **stay** ([`RateFit`]): for how many seconds one dispatch makes the level one higher. In the long run it is the time
//!   integral of the level over the dispatches, whatever the distribution of session lengths; where others send visitors
//!   too, each of ours stands for theirs.
//! - the **decay** ([`DriftFit`]): how much of an imbalance goes in a second. In the long run as much comes as goes, so `gain =
//!   decay × stay`, and this is the one figure left: the slope of how levels moved over how far they were from what the
//!   dispatches would keep up, by least squares.
//!
//! A gain that is too small sends all clients to the backend that looks idle, because those that went there hardly count.
//! One that is too large makes backends take turns, which does no harm. So if sessions are reported, one dispatch counts
//! as one session, unless reports show beyond [`DOUBTED_ERRORS`] standard errors that it is less: if most redirects are
//! not followed (bots), the level hardly moves with dispatches, and a gain of one would make it noise.
//!
//! Both rates stay within bounds that follow from the interval between reports ([`LEAST_PULL`], [`MOST_PULL`]): what
//! happens much faster or slower than backends report cannot be learned.

/// What a level is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Sessions,
    Utilization,
    Rate,
}

/// How a level goes between reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// How much it rises with one of our dispatches.
    pub(super) gain: f64,
    /// The share of it that goes in a second.
    pub(super) decay: f64,
    /// What one visitor is of it.
    pub(super) visitor: f64,
}

impl Default for Rates {
    /// Before anything is known: a visitor is one, whatever the unit, and stays. Where that is far too much, backends take
    /// turns.
    fn default() -> Self {
        Self { gain: 1.0, decay: 0.0, visitor: 1.0 }
    }
}

/// At least this share of an imbalance goes in an interval between reports.
const LEAST_PULL: f64 = 0.01;

/// From a report to the next, a level decays at most by this many time constants. If sessions are much shorter than the
/// interval, nothing of a report is left by then anyway; and if dispatches that never arrive make the learned sessions
/// short, reports keep their meaning.
const MOST_PULL: f64 = super::HORIZON;

/// How many standard errors of the learned decay a dispatch must be below one session to count for less.
const DOUBTED_ERRORS: f64 = 3.0;

/// What is beyond has no cause but that all else faded: levels that were 0 for days, or a night without visitors. Squares
/// of it would be 0 or infinite.
const SENSIBLE: std::ops::RangeInclusive<f64> = 1e-18..=1e18;

impl Rates {
    /// Returns the rates of a backend with this stay in a pool with that mean stay. `interval` is the time from a report to
    /// the next in seconds; `doubt` is [`VarianceFit::doubt`], or 1 for what was learned and no more. Returns `None` if the
    /// result is out of range, because there is too little to learn from.
    pub(super) fn new(
        unit: Unit,
        mean_stay: f64,
        stay: f64,
        pull: &DriftFit,
        interval: f64,
        doubt: f64,
    ) -> Option<Self> {
        let [least, most] = [LEAST_PULL, MOST_PULL].map(|pull| pull / interval);
        let decay = if unit == Unit::Sessions {
            // The decay by which a dispatch is one session.
            let one = 1.0 / mean_stay;
            let Slope { slope, error } = pull.slope(one.min(most));
            slope.max(one.min((slope + DOUBTED_ERRORS * error).max(least)))
        } else {
            pull.slope(1.0 / interval).slope.max(least)
        };
        let decay = (doubt * decay).min(most);
        // If hardly any client was sent, what is in use all the same would be attributed to those few.
        let most_gain = if unit == Unit::Utilization { 1.0 } else { f64::INFINITY };
        let gain = (decay * stay).min(most_gain);
        let rates = Self { gain, decay, visitor: if unit == Unit::Sessions { 1.0 } else { gain } };
        let make_sense = [rates.gain, rates.decay, rates.visitor].iter().all(|rate| SENSIBLE.contains(rate));
        make_sense.then_some(rates)
    }

    /// A level some seconds later, with so many dispatches a second.
    pub(super) fn forward(&self, level: f64, dispatches: f64, seconds: f64) -> f64 {
        let left = (-self.decay * seconds).exp();
        let came = if self.decay * seconds > 1e-6 { (1.0 - left) / self.decay } else { seconds };
        level * left + self.gain * dispatches * came
    }
}

/// The time integral of a level, and our dispatches meanwhile. Fades.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateFit {
    pub(super) level_seconds: f64,
    pub(super) dispatches: f64,
}

/// A backend's own stay counts as much as its pool's after so many dispatches. Its error is then a tenth, or some
/// hundredths of what leaves between reports.
const PRIOR_DISPATCHES: f64 = 100.0;

impl RateFit {
    pub(super) fn fade(&mut self, by: f64) {
        self.level_seconds *= by;
        self.dispatches *= by;
    }

    pub(super) fn add(&mut self, other: Self) {
        self.level_seconds += other.level_seconds;
        self.dispatches += other.dispatches;
    }

    /// The stay of all; `None` before anybody was sent.
    pub(super) fn mean_stay(&self) -> Option<f64> {
        (self.dispatches > 0.0 && self.level_seconds > 0.0).then(|| self.level_seconds / self.dispatches)
    }

    /// The stay at one backend of a pool with that flow.
    pub(super) fn stay(&self, pool: &Self) -> Option<f64> {
        let prior = pool.mean_stay()?;
        Some((self.level_seconds + prior * PRIOR_DISPATCHES) / (self.dispatches + PRIOR_DISPATCHES))
    }
}

/// How strongly levels are drawn to what dispatches would keep up: a least squares line through the origin, each sample
/// weighed by the inverse of its variance. Fades.
///
/// How far a level was from there has to be taken from the forecast, never from the report that ends the time: a
/// departure that is late would be on both sides, and bend the line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DriftFit {
    products: f64,
    squares: f64,
}

impl DriftFit {
    pub(super) fn fade(&mut self, by: f64) {
        self.products *= by;
        self.squares *= by;
    }

    /// Notes that a level moved by so much, which was `off` for a time, in level × seconds.
    pub(super) fn note(&mut self, off: f64, moved: f64, weight: f64) {
        self.products += weight * off * moved;
        self.squares += weight * off * off;
    }

    /// Returns the slope. One is expected before any sample, and counts as a sample of half its deviation.
    fn slope(&self, expected: f64) -> Slope {
        let squares = self.squares + 1.0 / (expected * expected);
        Slope { slope: (self.products + 1.0 / expected) / squares, error: squares.sqrt().recip() }
    }
}

/// A slope and its standard error, if forecasts are off by chance alone.
struct Slope {
    slope: f64,
    error: f64,
}

/// How far forecasts were off, over how far they should be if visitors come and go by chance and one by one. Fades.
#[derive(Clone, Copy, Debug)]
pub(super) struct VarianceFit {
    squares: f64,
    count: f64,
}

/// So many forecasts are taken to have been off by chance before the first.
const PRIOR_FORECASTS: f64 = 10.0;
/// Who is off by more standard deviations than this counts as one who is off by so many: it began anew, say.
const OUTLIER: f64 = 4.0;
/// Forecasts that are off by more than this many times the variance of chance are doubted.
const DOUBTED: f64 = 1.5;
/// How much more than by chance is believed, and how much less.
const MOST_SPREAD: f64 = 4.0;
const LEAST_SPREAD: f64 = 0.1;

impl Default for VarianceFit {
    fn default() -> Self {
        Self { squares: PRIOR_FORECASTS, count: PRIOR_FORECASTS }
    }
}

impl VarianceFit {
    pub(super) fn fade(&mut self, by: f64) {
        self.squares *= by;
        self.count *= by;
    }

    /// Notes a forecast that was off by so much, and returns what weight that sample has.
    pub(super) fn note(&mut self, off: f64, variance: f64) -> f64 {
        let square = off * off / variance;
        let most = OUTLIER * OUTLIER * self.spread();
        self.squares += square.min(most);
        self.count += 1.0;
        if square > most { (most / square).sqrt() / variance } else { 1.0 / variance }
    }

    /// The variance over that of pure chance.
    pub(super) fn spread(&self) -> f64 {
        let (squares, count) = (self.squares + 1e-3, self.count + 1e-3);
        (squares / count).clamp(LEAST_SPREAD, MOST_SPREAD)
    }

    /// By how much rates are raised above what was learnt, 1 or more. Where forecasts are off by more than chance, what was
    /// reported is to be forgotten sooner and what was sent to count for more: the harmless side to be wrong on.
    pub(super) fn doubt(&self) -> f64 {
        (self.spread() / DOUBTED).max(1.0).sqrt()
    }
}
