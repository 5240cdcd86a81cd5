//! Learns how a pool's load goes between reports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rates::{DriftFit, RateFit, Rates, Unit, VarianceFit};
use super::snapshot::ModelSnapshot;
use super::{Estimate, Estimates, LocalTrafficRatio, Report};
use crate::util::clock::Moment;

/// Makes estimates of reports: one for each pool, and the one writer of its estimates.
///
/// What it learns is in `rates`: `RateFit`, `DriftFit` and `VarianceFit`; each fades, so that it follows the time of day. Reports that
/// were lost merely make an interval longer. Cost: O(1) for a report, some hundred bytes for a backend.
#[derive(Debug)]
pub struct LoadModel {
    backends: Vec<BackendModel>,
    loads: Estimates,
    expires: Duration,
    /// When anything was last learnt.
    at: Moment,
    /// Of all backends together.
    flow: RateFit,
    pull: DriftFit,
    chance: VarianceFit,
    /// What reported rates come to in visitors of all dispatchers, and our own in the same times.
    arrivals: f64,
    own: f64,
    local_traffic_ratio: Arc<LocalTrafficRatio>,
    /// The sum of the capacities that were told, and how many there were.
    capacities: (f64, f64),
}

/// What is known of one backend.
#[derive(Debug, Default)]
struct BackendModel {
    estimate: Arc<Estimate>,
    last: Option<Last>,
    capacity: Option<f64>,
    flow: RateFit,
    /// Seconds from one report to the next. Its own: one that reports whenever something moves is no reason to take what
    /// others said seconds ago for outdated.
    interval: Option<f64>,
}

/// The last report.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Moment,
    unit: Unit,
    level: f64,
    /// How many visitors we had sent there.
    count: u64,
}

/// What was learnt longer ago than this weighs less than 1/e of what is learnt now; where reports are rare, than
/// [`MEMORY_REPORTS`] of them.
const MEMORY: f64 = 600.0;
const MEMORY_REPORTS: f64 = 30.0;
/// How fast the interval between reports is followed. A report counts by the time since the one before, so that a burst of
/// them leaves the interval as it is.
const INTERVAL_STEP: f64 = 0.1;
/// So many intervals without a report are a gap.
const LONGEST_GAP: f64 = 3.0;

impl LoadModel {
    /// For so many backends, of whom nothing is known yet. A report is good for `expires`.
    pub fn new(backends: usize, expires: Duration) -> Self {
        Self::of((0..backends).map(|_| BackendModel::default()).collect(), expires)
    }

    fn of(backends: Vec<BackendModel>, expires: Duration) -> Self {
        let told = backends.iter().filter_map(|known| known.capacity);
        Self {
            capacities: told.fold((0.0, 0.0), |(sum, count), capacity| (sum + capacity, count + 1.0)),
            loads: backends.iter().map(|known| Arc::clone(&known.estimate)).collect(),
            backends,
            expires,
            at: Moment::default(),
            flow: RateFit::default(),
            pull: DriftFit::default(),
            chance: VarianceFit::default(),
            arrivals: 0.0,
            own: 0.0,
            local_traffic_ratio: Arc::default(),
        }
    }

    /// For another roster: `places` has, for each of its backends, the place it had before, if any. What was learnt of
    /// the pool and of those who stay is kept.
    pub fn rearranged(self, places: impl IntoIterator<Item = Option<usize>>, expires: Duration) -> Self {
        let mut before: Vec<Option<BackendModel>> = self.backends.into_iter().map(Some).collect();
        let mut take = |place: usize| before.get_mut(place)?.take();
        let backends = places.into_iter().map(|place| place.and_then(&mut take).unwrap_or_default());
        let Self { loads, backends, expires, capacities, .. } = Self::of(backends.collect(), expires);
        Self { loads, backends, expires, capacities, ..self }
    }

    /// The estimates that it writes.
    pub fn loads(&self) -> &Estimates {
        &self.loads
    }

    /// The same, with reports that are good for so long from now on.
    pub fn good_for(self, expires: Duration) -> Self {
        Self { expires, ..self }
    }

    /// The share of all visitors that this dispatcher sends. Reported rates show it; else it is told by how many sessions
    /// come with one of our own, which are fewer where others send theirs elsewhere at the same time.
    pub fn local_traffic_ratio(&self) -> &Arc<LocalTrafficRatio> {
        &self.local_traffic_ratio
    }

    fn learnt_share(&self, unit: Unit) -> Option<f64> {
        if self.arrivals > 0.0 {
            return Some((self.own / self.arrivals).min(1.0));
        }
        // What a dispatch adds to anything else says nothing of other dispatchers.
        let rates =
            (unit == Unit::Sessions).then(|| self.rates(unit, &BackendModel::default(), 1.0)).flatten()?;
        Some((1.0 / rates.gain).min(1.0))
    }

    /// Takes a report that came now. A place that is none is left out.
    pub fn report(&mut self, backend: usize, report: &Report, now: Moment) {
        let Some(known) = self.backends.get_mut(backend) else { return };
        if let Some(capacity) = report.capacity() {
            let before = known.capacity.replace(capacity);
            self.capacities.0 += capacity - before.unwrap_or(0.0);
            self.capacities.1 += f64::from(u8::from(before.is_none()));
        }
        let (unit, level) = measure(report, known.capacity);
        let mut reported = Last { at: now, unit, level, count: known.estimate.count() };
        let last = known.last.filter(|last| last.unit == unit && last.at < now);
        if let Some(last) = last {
            let rates = self.rates_of(backend, unit);
            reported.level = rates.forward(level, last.dispatches_to(&reported), report.age().as_secs_f64());
            self.learn(backend, &last, &reported, report.rate());
        }
        self.backends[backend].last = Some(reported);
        let rates = self.rates_of(backend, unit);
        let known = &self.backends[backend];
        known.estimate.basis.write(&ModelSnapshot {
            at: now,
            expires: now + self.expires.saturating_sub(report.age()),
            level: reported.level,
            counted: known.estimate.sent.worth.load(Ordering::Relaxed),
            gain: rates.gain,
            decay: rates.decay,
            spread: self.chance.spread() * rates.visitor,
            capacity: self.capacity(backend, unit),
        });
        self.local_traffic_ratio.set(self.learnt_share(unit));
    }

    /// Learns from what became of the last report until the next.
    fn learn(&mut self, backend: usize, last: &Last, next: &Last, rate: Option<f64>) {
        let known = &mut self.backends[backend];
        let Some(basis) = known.estimate.basis.read() else { return };
        let seconds = next.at.since(last.at).as_secs_f64();
        let interval = known.interval.map_or(seconds, |interval| {
            // A few reports that were lost in a row are no other interval.
            let seconds = seconds.min(LONGEST_GAP * interval);
            interval + INTERVAL_STEP * (seconds / interval) * (seconds - interval)
        });
        known.interval = Some(interval);
        let memory = MEMORY.max(MEMORY_REPORTS * interval);
        let faded = (-next.at.since(self.at).as_secs_f64() / memory).exp();
        self.at = next.at;
        self.flow.fade(faded);
        self.pull.fade(faded);
        self.chance.fade(faded);
        self.arrivals *= faded;
        self.own *= faded;
        known.flow.fade((-seconds / memory).exp());

        let sent = next.count.wrapping_sub(last.count) as f64;
        if let Some(rate) = rate {
            self.arrivals += rate * seconds;
            self.own += sent;
        }
        // Between two reports so far apart the level may have been anything.
        if next.at > basis.expires && seconds > LONGEST_GAP * interval {
            return;
        }
        let (age, left) = (basis.age(next.at), basis.left(next.at));
        let forecast = left * (basis.level + basis.gain * known.estimate.worth_since(&basis));
        // What the forecast's own course comes to, summed over the time.
        let course = if age > 1e-3 {
            (basis.level + basis.gain * sent - forecast) / basis.decay
        } else {
            (basis.level + basis.gain * sent / 2.0) * seconds
        };
        // A visitor: the least that one can be wrong by.
        let visitor = if last.unit == Unit::Sessions { 1.0 } else { basis.gain };
        let variance = visitor * forecast * (1.0 - left * left) / 2.0 + visitor * visitor;
        let moved = next.level - last.level;
        let weight = self.chance.note(next.level - forecast, variance);
        // A forecast by no rates at all says nothing of where levels are drawn to.
        if basis.decay > 0.0 {
            self.pull.note(basis.gain / basis.decay * sent - course, moved, weight);
        }
        let flow = RateFit { level_seconds: (last.level + next.level) / 2.0 * seconds, dispatches: sent };
        self.flow.add(flow);
        known.flow.add(flow);
    }

    fn rates_of(&self, backend: usize, unit: Unit) -> Rates {
        self.rates(unit, &self.backends[backend], self.chance.doubt()).unwrap_or_default()
    }

    /// How levels go at such a backend; `None` before anything is known.
    fn rates(&self, unit: Unit, known: &BackendModel, doubt: f64) -> Option<Rates> {
        // Who has reported once so far will report before that is outdated.
        let interval = known.interval.unwrap_or(self.expires.as_secs_f64() / 3.0);
        let stay = known.flow.stay(&self.flow)?;
        Rates::new(unit, self.flow.mean_stay()?, stay, &self.pull, interval, doubt)
    }

    /// The level at which a backend is full; 0 where that can't be told. Who did not say counts as an average one of
    /// those who did.
    fn capacity(&self, backend: usize, unit: Unit) -> f64 {
        match unit {
            Unit::Utilization => 1.0,
            Unit::Rate => 0.0,
            Unit::Sessions => self.backends[backend].capacity.unwrap_or_else(|| {
                let (sum, count) = self.capacities;
                if count > 0.0 { sum / count } else { 0.0 }
            }),
        }
    }
}

/// The one figure of a report that says most of how full a backend is.
fn measure(report: &Report, capacity: Option<f64>) -> (Unit, f64) {
    match (report.sessions(), report.utilization(), report.rate()) {
        (Some(sessions), _, _) if capacity.is_some() => (Unit::Sessions, sessions),
        (_, Some(utilization), _) => (Unit::Utilization, utilization),
        (Some(sessions), None, _) => (Unit::Sessions, sessions),
        (None, None, rate) => (Unit::Rate, rate.unwrap_or_default()),
    }
}

impl Last {
    /// Our dispatches a second from this report to a later one.
    fn dispatches_to(&self, next: &Self) -> f64 {
        next.count.wrapping_sub(self.count) as f64 / next.at.since(self.at).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::estimate::RawReport;

    const EXPIRES: Duration = Duration::from_secs(60);

    fn report(claim: RawReport) -> Report {
        Report::new(claim, EXPIRES).unwrap()
    }

    /// Backends that really hold sessions, as many as flow in and out on average: each tenth of a second some come, ours
    /// and others', and a share goes.
    struct Truth {
        model: LoadModel,
        now: Moment,
        /// The level of each.
        levels: Vec<f64>,
        /// How much a visitor raises it.
        sizes: Vec<f64>,
        leaving: f64,
        /// Visitors that come with each of ours.
        visitors: f64,
        step: u64,
    }

    const STEP: f64 = 0.1;

    impl Truth {
        fn new(sizes: &[f64], visitors: f64) -> Self {
            let (model, levels) = (LoadModel::new(sizes.len(), EXPIRES), vec![0.0; sizes.len()]);
            Self { model, now: Moment(1), levels, sizes: sizes.to_vec(), leaving: 0.05, visitors, step: 0 }
        }

        /// Runs so many seconds; each backend reports every five, in turn. Dispatches vary by time and backend.
        fn run(&mut self, seconds: u64, claim: impl Fn(f64) -> RawReport) {
            (0..seconds * 10).for_each(|_| self.run_step(&claim));
        }

        fn run_step(&mut self, claim: impl Fn(f64) -> RawReport) {
            self.step += 1;
            self.now = self.now + Duration::from_millis(100);
            for (backend, level) in self.levels.iter_mut().enumerate() {
                let some = (self.step / 50 * 7 + backend as u64 * 3) % 5;
                for _ in 0..some {
                    self.model.loads()[backend].dispatched(self.now);
                }
                *level += some as f64 * self.visitors * self.sizes[backend];
                *level *= 1.0 - self.leaving * STEP;
                if self.step % 50 == backend as u64 * 50 / self.sizes.len() as u64 {
                    self.model.report(backend, &report(claim(*level)), self.now);
                }
            }
        }

        /// What was learnt of a backend, whether it is doubted or not.
        fn learnt(&self, backend: usize, unit: Unit) -> Rates {
            self.model.rates(unit, &self.model.backends[backend], 1.0).unwrap()
        }

        /// The most that an estimate is off now, as a share of the level.
        fn off(&self) -> f64 {
            let loads = self.model.loads().iter().zip(&self.levels);
            loads
                .map(|(load, level)| (load.load(self.now).unwrap().level / level - 1.0).abs())
                .fold(0.0, f64::max)
        }
    }

    fn sessions(level: f64) -> RawReport {
        RawReport { sessions: Some(level), ..RawReport::default() }
    }

    #[test]
    fn it_learns_how_fast_sessions_end() {
        let mut truth = Truth::new(&[1.0; 4], 1.0);
        truth.run(600, sessions);
        let rates = truth.learnt(0, Unit::Sessions);
        assert!((rates.decay - 0.05).abs() < 0.0075 && (rates.gain - 1.0).abs() < 0.15, "{rates:?}");
        assert!(truth.model.local_traffic_ratio().get().unwrap() > 0.85);
        let mut worst = 0.0f64;
        for _ in 0..20 {
            truth.run(1, sessions);
            worst = worst.max(truth.off());
        }
        assert!(worst < 0.2, "{worst}");
    }

    #[test]
    fn it_learns_what_others_send() {
        let mut truth = Truth::new(&[1.0; 4], 4.0);
        truth.run(600, sessions);
        let share = truth.model.local_traffic_ratio().get().unwrap();
        assert!((share - 0.25).abs() < 0.025, "{share}");
        truth.run(3, sessions);
        assert!(truth.off() < 0.12, "{}", truth.off());
    }

    #[test]
    fn it_learns_what_a_visitor_is_of_a_utilization() {
        let mut truth = Truth::new(&[0.001, 0.001, 0.002, 0.004], 1.0);
        truth.run(900, utilization);
        for (backend, size) in truth.sizes.iter().enumerate() {
            let gain = truth.learnt(backend, Unit::Utilization).gain;
            assert!((gain / size - 1.0).abs() < 0.2, "{gain} for {size}");
        }
        truth.run(3, utilization);
        assert!(truth.off() < 0.12, "{}", truth.off());
    }

    #[test]
    fn rates_tell_the_share_of_several_dispatchers() {
        let mut truth = Truth::new(&[1.0; 2], 3.0);
        truth.run(300, |level| RawReport { sessions: Some(level), rate: Some(60.0), ..RawReport::default() });
        let share = truth.model.local_traffic_ratio().get().unwrap();
        assert!((share - 20.0 / 60.0).abs() < 0.01, "{share}");
    }

    #[test]
    fn an_old_report_is_brought_up_to_now() {
        let mut truth = Truth::new(&[1.0; 2], 1.0);
        truth.run(600, sessions);
        let before = truth.levels[0];
        truth.run(2, sessions);
        let late = RawReport { age: 2.0, ..sessions(before) };
        truth.model.report(0, &report(late), truth.now);
        assert!(truth.off() < 0.12, "{}", truth.off());
    }

    #[test]
    fn one_who_began_anew_does_not_spoil_what_was_learnt() {
        let mut truth = Truth::new(&[1.0; 4], 1.0);
        truth.run(600, sessions);
        truth.levels[2] = 0.0;
        truth.run(10, sessions);
        let rates = truth.learnt(0, Unit::Sessions);
        assert!((rates.decay - 0.05).abs() < 0.01, "{rates:?}");
    }

    #[test]
    fn who_stays_keeps_what_was_learnt() {
        let mut truth = Truth::new(&[1.0; 3], 1.0);
        truth.run(300, sessions);
        let (before, loads) = (truth.model.rates_of(2, Unit::Sessions), truth.model.loads().clone());
        let model = std::mem::replace(&mut truth.model, LoadModel::new(0, EXPIRES));
        let model = model.rearranged([Some(2), None, Some(7)], EXPIRES);
        assert_eq!(model.rates_of(0, Unit::Sessions), before);
        assert!(Arc::ptr_eq(&model.loads()[0], &loads[2]));
        assert_eq!(model.loads()[0].load(truth.now), loads[2].load(truth.now));
        assert!(model.loads()[1].load(truth.now).is_none() && model.loads()[2].load(truth.now).is_none());
    }

    fn utilization(level: f64) -> RawReport {
        RawReport { utilization: Some(level), ..RawReport::default() }
    }

    #[test]
    fn what_is_in_use_without_visitors_is_not_laid_to_the_first_who_comes() {
        let mut truth = Truth::new(&[0.001; 2], 1.0);
        truth.run(600, utilization);
        // A night: a twentieth is in use, and nobody comes.
        for minute in 0..600 {
            let now = truth.now + Duration::from_secs(60 * minute);
            (0..2).for_each(|backend| truth.model.report(backend, &report(utilization(0.05)), now));
        }
        let now = truth.now + Duration::from_secs(60 * 599 + 1);
        truth.model.loads()[0].dispatched(now);
        let level = truth.model.loads()[0].load(now).unwrap().level;
        assert!(level <= 1.06, "one visitor is no more than all of a backend: {level}");
    }

    #[test]
    fn days_of_idle_reports_leave_it_able_to_learn() {
        let mut truth = Truth::new(&[0.001; 2], 1.0);
        truth.run(300, utilization);
        for report_number in 0..20_000 {
            let now = truth.now + Duration::from_secs(60 * report_number);
            truth.model.loads()[0].dispatched(now);
            truth.model.report(0, &report(utilization(0.0)), now);
        }
        truth.now = truth.now + Duration::from_secs(60 * 20_000);
        truth.run(3000, utilization);
        let gain = truth.model.rates_of(1, Unit::Utilization).gain;
        assert!((gain / 0.001 - 1.0).abs() < 0.2, "{gain}");
    }

    #[test]
    fn one_that_pushes_without_pause_leaves_others_their_estimates() {
        let mut truth = Truth::new(&[0.001; 4], 1.0);
        truth.run(300, utilization);
        for _ in 0..100 {
            for millis in 0..100 {
                let now = truth.now + Duration::from_millis(millis);
                truth.model.report(0, &report(utilization(truth.levels[0])), now);
            }
            truth.run(1, utilization);
        }
        assert!(truth.model.loads().iter().all(|load| load.load(truth.now).is_some()));
        let rates = truth.model.rates_of(1, Unit::Utilization);
        assert!((rates.gain / 0.001 - 1.0).abs() < 0.5 && (rates.decay - 0.05).abs() < 0.03, "{rates:?}");
    }

    /// Of ten redirects one is followed: HEAD by bots, say.
    #[test]
    fn redirects_that_are_not_followed_leave_the_estimate_as_it_is() {
        let mut truth = Truth::new(&[1.0; 4], 0.1);
        truth.run(1200, sessions);
        let rates = truth.learnt(0, Unit::Sessions);
        assert!((rates.decay - 0.05).abs() < 0.02 && (rates.gain - 0.1).abs() < 0.05, "{rates:?}");
        let mut worst = 0.0f64;
        for _ in 0..20 {
            truth.run(1, sessions);
            worst = worst.max(truth.off());
        }
        assert!(worst < 0.3, "{worst}");
    }

    #[test]
    fn load_is_known_until_the_report_expires_however_few_dispatches_arrive() {
        for arriving in [0.0, 1e-6, 0.01, 0.1, 1.0] {
            for claim in [sessions, utilization] {
                let mut truth = Truth::new(&[0.01; 2], arriving);
                for second in 0..600 {
                    truth.run(1, claim);
                    let knows = |load: &Arc<Estimate>| load.load(truth.now).is_some();
                    assert!(second < 10 || truth.model.loads().iter().all(knows), "{arriving}, {second}");
                }
                let later = truth.now + (EXPIRES - Duration::from_secs(10));
                assert!(truth.model.loads().iter().all(|load| load.load(later).is_some()), "{arriving}");
                let expired = truth.now + (EXPIRES + Duration::from_secs(1));
                assert!(truth.model.loads().iter().all(|load| load.load(expired).is_none()), "{arriving}");
            }
        }
    }

    /// Bots that are pinned to one backend: what they are there is laid to nobody else.
    #[test]
    fn redirects_that_are_not_followed_to_one_backend_count_there_alone() {
        let mut truth = Truth::new(&[1.0; 4], 1.0);
        for _ in 0..12_000 {
            (0..5).for_each(|_| truth.model.loads()[2].dispatched(truth.now));
            truth.run_step(sessions);
        }
        let [bots, others] = [2, 0].map(|backend| truth.learnt(backend, Unit::Sessions).gain);
        assert!((others - 1.0).abs() < 0.4 && bots < 0.5 * others, "{bots} {others}");
        truth.run(3, sessions);
    }

    #[test]
    fn a_quiet_pool_keeps_its_reported_level() {
        let mut truth = Truth::new(&[1.0; 2], 1.0);
        truth.run(600, sessions);
        // Ten hours of five sessions that nobody was sent for.
        for minute in 0..600 {
            let now = truth.now + Duration::from_secs(60 * minute);
            (0..2).for_each(|backend| truth.model.report(backend, &report(sessions(5.0)), now));
        }
        let now = truth.now + Duration::from_secs(60 * 599 + 30);
        let level = |model: &LoadModel| model.loads()[0].load(now).unwrap().level;
        assert!((level(&truth.model) - 5.0).abs() < 0.5, "{}", level(&truth.model));
        truth.model.loads()[0].dispatched(now);
        assert!((level(&truth.model) - 6.0).abs() < 0.5, "{}", level(&truth.model));
    }

    #[test]
    fn a_burst_of_reports_does_not_shorten_the_interval() {
        let mut truth = Truth::new(&[1.0; 2], 1.0);
        truth.run(600, sessions);
        let before = truth.model.backends[0].interval.unwrap();
        for _ in 0..1000 {
            truth.now = truth.now + Duration::from_micros(10);
            truth.model.report(0, &report(sessions(truth.levels[0])), truth.now);
        }
        let after = truth.model.backends[0].interval.unwrap();
        assert!((after / before - 1.0).abs() < 0.05, "{before} {after}");
        truth.run(600, sessions);
        truth.run(4, sessions);
        assert!(truth.off() < 0.2, "{}", truth.off());
    }

    #[test]
    fn what_happened_while_reports_had_expired_is_not_learned() {
        let mut truth = Truth::new(&[1.0; 2], 1.0);
        truth.run(600, sessions);
        let before = truth.learnt(0, Unit::Sessions);
        truth.now = truth.now + 3 * EXPIRES;
        truth.model.loads()[0].dispatched(truth.now);
        truth.model.report(0, &report(sessions(10_000.0)), truth.now);
        let after = truth.learnt(0, Unit::Sessions);
        assert!((after.gain / before.gain - 1.0).abs() < 0.2, "{before:?} {after:?}");
        assert!((after.decay / before.decay - 1.0).abs() < 0.2, "{before:?} {after:?}");
    }

    #[test]
    fn a_capacity_that_was_told_once_stays_and_who_told_none_counts_as_average() {
        let mut model = LoadModel::new(3, EXPIRES);
        let told = |capacity| RawReport { capacity: Some(capacity), ..sessions(1.0) };
        let now = Moment(1);
        model.report(2, &report(sessions(1.0)), now);
        assert_eq!(model.loads()[2].load(now).unwrap().capacity, None);
        model.report(0, &report(told(10.0)), now);
        model.report(1, &report(told(30.0)), now);
        model.report(0, &report(sessions(5.0)), now + Duration::from_secs(1));
        model.report(2, &report(sessions(1.0)), now + Duration::from_secs(1));
        let capacity = |backend: usize| model.loads()[backend].load(now).unwrap().capacity;
        assert_eq!([0, 1, 2].map(capacity), [Some(10.0), Some(30.0), Some(20.0)]);
    }

    proptest! {
        /// Whatever backends say and whenever, nothing that is read is below nothing, or no number.
        #[test]
        fn whatever_is_reported_an_estimate_is_a_number(
            steps in prop::collection::vec(
                (0usize..3, prop::option::of(0.0..1e9), prop::option::of(0.0..100.0), prop::option::of(1e-6..1e9),
                 prop::option::of(0.0..1e9), 0.0..60.0, 0u64..100_000_000_000, 0u32..200),
                1..60,
            )
        ) {
            let mut model = LoadModel::new(3, EXPIRES);
            let mut now = Moment(0);
            for (backend, sessions, utilization, capacity, rate, age, later, dispatches) in steps {
                for _ in 0..dispatches {
                    model.loads()[backend].dispatched(now);
                }
                now = Moment(now.0 + later);
                let claim = RawReport { sessions, utilization, capacity, rate, age };
                if let Ok(report) = Report::new(claim, EXPIRES) {
                    model.report(backend, &report, now);
                }
                for load in model.loads().iter().filter_map(|estimate| estimate.load(now)) {
                    prop_assert!(load.level.is_finite() && load.level >= 0.0, "{load:?}");
                    prop_assert!(load.deviation.is_finite() && load.deviation >= 0.0, "{load:?}");
                    prop_assert!(load.likely_most(1.0).is_finite());
                }
                prop_assert!(model.local_traffic_ratio().get().is_none_or(|share| (0.0..=1.0).contains(&share)));
            }
        }
    }
}
