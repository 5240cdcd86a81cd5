//! One run: visitors, backends and dispatchers on virtual time. Whatever picks, learns and estimates here is the code
//! that serves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU16;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::draw::{Lengths, exponential};
use super::outcome::{Point, RunFigures, SimulationOutcome};
use super::recorded::{Recorded, RecordedSession};
use super::scenario::{Figure, ReportRecipient, Scenario};
use crate::estimate::{LoadModel, RawReport, Report};
use crate::strategy::{
    PickContext, Strategy, StrategyConfig, StrategyKind, StrategyState, WeightedBackend, Weights, hash,
};
use crate::util::clock::Moment;
use crate::util::fairness::Imbalance;

/// How often the load is looked at while it is measured.
const LOOKS: u32 = 20_000;
/// Points of a chart.
const POINTS: u32 = 300;
/// Progress is told after so many visitors.
const TELLS: u64 = 50_000;

/// A run in progress.
pub(super) struct Simulation<'a> {
    scenario: &'a Scenario,
    kind: StrategyKind,
    rules: StrategyConfig,
    backends: Vec<SimulatedBackend>,
    dispatchers: Vec<SimulatedDispatcher>,
    departures: BinaryHeap<Reverse<Departure>>,
    events: BinaryHeap<Reverse<Scheduled>>,
    /// Of events so far: those of one moment happen in the order in which they were made.
    made: u64,
    visitors: Visitors<'a>,
    /// Of reports: when they are sent, and whether they are lost.
    chance: SmallRng,
    /// Which dispatcher a visitor comes to, and who the visitor is.
    who: SmallRng,
    /// Which redirects are not followed.
    unfollowed: SmallRng,
    measured: Measured,
}

/// Chances of one run are drawn from streams of their own, so that strategies that are compared have the same visitors.
#[derive(Clone, Copy)]
enum RandomStream {
    Visitors,
    ReportModel,
    Who,
    Unfollowed,
    SimulatedDispatcher(usize),
}

fn stream(seed: u64, stream: RandomStream) -> SmallRng {
    let number = match stream {
        RandomStream::Visitors => 0,
        RandomStream::ReportModel => 1,
        RandomStream::Who => 2,
        RandomStream::SimulatedDispatcher(index) => 3 + index as u64,
        RandomStream::Unfollowed => u64::MAX,
    };
    // The generator's own seeding spreads neighboring numbers.
    SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number))
}

/// A server that holds sessions.
struct SimulatedBackend {
    capacity: f64,
    weight: NonZeroU16,
    sessions: u64,
    /// Visitors who came so far, and when last a report was made of them.
    came: u64,
    told: (Moment, u64),
    life: Life,
    /// Whether dispatchers take it for alive.
    is_known: bool,
}

/// Whether a backend is there. Each life has a number, by which sessions of an earlier one are told.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Life {
    is_up: bool,
    number: u32,
}

/// Who sends visitors, as far as a strategy has to do with it.
struct SimulatedDispatcher {
    model: LoadModel,
    memory: StrategyState,
    /// None where nobody is known to be alive.
    strategy: Option<Strategy>,
    rng: SmallRng,
}

/// A session's end.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Departure {
    at: Moment,
    backend: u32,
    life: u32,
}

/// What happens beside visitors.
struct Scheduled {
    at: Moment,
    number: u64,
    event: SimulationEvent,
}

enum SimulationEvent {
    /// A backend makes a report; `None`: for all dispatchers.
    Make {
        backend: usize,
        dispatcher: Option<usize>,
    },
    /// It arrives.
    Arrive {
        backend: usize,
        dispatcher: Option<usize>,
        claim: RawReport,
    },
    Joins(usize),
    Dies(usize),
    /// Dispatchers learn who is alive.
    Noticed(usize),
    Look,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Visitors to come.
struct Visitors<'a> {
    rng: SmallRng,
    recorded: Option<&'a [RecordedSession]>,
    /// How many came.
    count: usize,
    rate: f64,
    lengths: Option<Lengths>,
    next: Option<Moment>,
}

impl Visitors<'_> {
    /// Goes on to the next visitor.
    fn advance(&mut self, now: Moment) {
        self.next = match self.recorded {
            Some(recorded) => recorded.get(self.count).map(|arrival| Moment::default() + arrival.at),
            None => Some(now + seconds(exponential(&mut self.rng, 1.0 / self.rate))),
        };
    }

    /// The length of the session of the visitor who comes now.
    fn length(&mut self) -> Duration {
        let told = self.recorded.and_then(|recorded| recorded.get(self.count)?.stays);
        self.count += 1;
        let drawn = self.lengths.map(|lengths| lengths.draw(&mut self.rng));
        seconds(told.or(drawn).unwrap_or_default())
    }
}

/// A length of time, at most a thousand years.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.min(3e10))
}

/// What was seen so far.
#[derive(Default)]
struct Measured {
    looks: u32,
    sums: RunFigures,
    /// Dispatches to each backend, and of all to one that had died.
    dispatched: Vec<u64>,
    lost: u64,
    refused: u64,
    picks: u64,
    points: Vec<Point>,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        recorded: Option<&'a Recorded>,
        kind: StrategyKind,
        seed: u64,
    ) -> Self {
        let backend = |(described, weight): (&super::scenario::Backends, u16)| {
            let is_up = described.joins.is_none();
            SimulatedBackend {
                capacity: described.capacity,
                weight: NonZeroU16::new(weight).unwrap_or(NonZeroU16::MIN),
                sessions: 0,
                came: 0,
                told: (Moment::default(), 0),
                life: Life { is_up, number: 0 },
                is_known: is_up,
            }
        };
        let backends: Vec<SimulatedBackend> = scenario.each_backend().map(backend).collect();
        let rules = StrategyConfig {
            names: (0..backends.len()).map(|index| hash(&index.to_le_bytes())).collect(),
            balance_factor: scenario.strategies.balance_factor,
            max_utilization: scenario.strategies.max_utilization,
        };
        let dispatcher = |index| {
            let model = LoadModel::new(backends.len(), scenario.report_max_age());
            let rng = stream(seed, RandomStream::SimulatedDispatcher(index));
            // A draw of its own, so that strategies without turns draw what they did.
            let begin = rng.clone().next_u32();
            let mut memory = StrategyState::from_turn(begin.into()).with_loads(model.loads().clone());
            if kind.is_metered(&rules) {
                memory.meters = memory.meters.of_roster(&rules.names);
            }
            SimulatedDispatcher { memory, model, strategy: None, rng }
        };
        let mut engine = Self {
            scenario,
            kind,
            dispatchers: (0..scenario.dispatchers).map(dispatcher).collect(),
            rules,
            departures: BinaryHeap::new(),
            events: BinaryHeap::new(),
            made: 0,
            visitors: Visitors {
                rng: stream(seed, RandomStream::Visitors),
                recorded: recorded.map(|recorded| &**recorded),
                count: 0,
                rate: scenario.arrivals.rate,
                lengths: scenario.lengths(),
                next: None,
            },
            chance: stream(seed, RandomStream::ReportModel),
            who: stream(seed, RandomStream::Who),
            unfollowed: stream(seed, RandomStream::Unfollowed),
            measured: Measured { dispatched: vec![0; backends.len()], ..Measured::default() },
            backends,
        };
        engine.schedule_all();
        engine.build();
        engine
    }

    /// Schedules what is known from the beginning. Backends report at times of their own, as probes are spread.
    fn schedule_all(&mut self) {
        let interval = self.scenario.reports.interval;
        for (backend, (described, _)) in self.scenario.each_backend().enumerate() {
            for (time, event) in [
                (described.joins, SimulationEvent::Joins(backend)),
                (described.dies, SimulationEvent::Dies(backend)),
            ] {
                if let Some(time) = time {
                    self.schedule(Moment::default() + time, event);
                }
            }
            let asking: Vec<Option<usize>> = match self.scenario.reports.to {
                ReportRecipient::All => vec![None],
                ReportRecipient::Each => (0..self.dispatchers.len()).map(Some).collect(),
            };
            for dispatcher in asking {
                let first = interval.mul_f64(self.chance.random());
                self.schedule(Moment::default() + first, SimulationEvent::Make { backend, dispatcher });
            }
        }
        self.schedule(Moment::default() + self.scenario.warm_up, SimulationEvent::Look);
        self.visitors.advance(Moment::default());
    }

    fn schedule(&mut self, at: Moment, event: SimulationEvent) {
        self.made += 1;
        self.events.push(Reverse(Scheduled { at, number: self.made, event }));
    }

    /// Runs to the end. `tell` is told now and then how many visitors have come since it was last told.
    pub(super) fn run(mut self, tell: &dyn Fn(u64)) -> SimulationOutcome {
        let end = Moment::default() + self.scenario.warm_up + self.scenario.measured;
        loop {
            let departs = self.departures.peek().map(|next| next.0.at);
            let happens = self.events.peek().map(|next| next.0.at);
            let Some(now) = [self.visitors.next, departs, happens].into_iter().flatten().min() else { break };
            // Recorded visitors end before the time does.
            if now > end || self.visitors.next.is_none() {
                break;
            }
            if happens == Some(now) {
                if let Some(Reverse(next)) = self.events.pop() {
                    self.happens(next.event, now);
                }
            } else if departs == Some(now) {
                if let Some(Reverse(departure)) = self.departures.pop() {
                    let backend = &mut self.backends[departure.backend as usize];
                    // Those of an earlier life are gone already.
                    backend.sessions -= u64::from(backend.life.number == departure.life);
                }
            } else {
                self.visitor(now);
                if self.measured.picks.is_multiple_of(TELLS) {
                    tell(TELLS);
                }
            }
        }
        tell(self.measured.picks % TELLS);
        self.outcome()
    }

    /// A visitor comes.
    fn visitor(&mut self, now: Moment) {
        let stays = self.visitors.length();
        self.visitors.advance(now);
        let several = self.dispatchers.len();
        let dispatcher = if several > 1 { self.who.random_range(..several) } else { 0 };
        // Visitor number n is known by a number that says nothing of n.
        let key = match self.scenario.arrivals.visitors {
            0 => self.who.next_u64(),
            visitors => hash(&self.who.random_range(..visitors).to_le_bytes()),
        };
        let dispatcher = &mut self.dispatchers[dispatcher];
        let measures = now >= Moment::default() + self.scenario.warm_up;
        let share = self.scenario.arrivals.unfollowed;
        let arrives = share == 0.0 || !self.unfollowed.random_bool(share);
        self.measured.picks += 1;
        let Some(strategy) = &dispatcher.strategy else {
            self.measured.lost += u64::from(measures && arrives);
            return;
        };
        let picked = strategy.pick(&mut PickContext::new(&mut dispatcher.rng, key, now));
        strategy.sent(picked, now);
        dispatcher.model.loads()[picked].dispatched(now);
        let backend = &mut self.backends[picked];
        if measures {
            self.measured.dispatched[picked] += 1;
        }
        if !arrives {
            return;
        }
        if !backend.life.is_up {
            self.measured.lost += u64::from(measures);
            return;
        }
        backend.sessions += 1;
        backend.came += 1;
        let departure = Departure { at: now + stays, backend: picked as u32, life: backend.life.number };
        self.departures.push(Reverse(departure));
    }

    fn happens(&mut self, event: SimulationEvent, now: Moment) {
        match event {
            SimulationEvent::Make { backend, dispatcher } => self.make_report(backend, dispatcher, now),
            SimulationEvent::Arrive { backend, dispatcher, claim } => {
                let Ok(report) = Report::new(claim, self.scenario.report_max_age()) else {
                    self.measured.refused += 1;
                    return;
                };
                let told = match dispatcher {
                    Some(dispatcher) => &mut self.dispatchers[dispatcher..=dispatcher],
                    None => &mut self.dispatchers[..],
                };
                for dispatcher in told {
                    dispatcher.model.report(backend, &report, now);
                }
            }
            SimulationEvent::Joins(backend) | SimulationEvent::Dies(backend) => {
                let is_up = matches!(event, SimulationEvent::Joins(_));
                let backend_of = &mut self.backends[backend];
                backend_of.life = Life { is_up, number: backend_of.life.number + 1 };
                backend_of.sessions = 0;
                self.schedule(now + self.scenario.detection, SimulationEvent::Noticed(backend));
            }
            SimulationEvent::Noticed(backend) => {
                self.backends[backend].is_known = self.backends[backend].life.is_up;
                self.build();
            }
            SimulationEvent::Look => self.look(now),
        }
    }

    /// A backend says how it is, and the next report is made ready.
    fn make_report(&mut self, backend: usize, dispatcher: Option<usize>, now: Moment) {
        let reports = &self.scenario.reports;
        if reports.stop.is_some_and(|stop| now >= Moment::default() + stop) {
            return;
        }
        let from = &mut self.backends[backend];
        let since = now.since(from.told.0).as_secs_f64();
        let rate = (from.came - from.told.1) as f64 / since.max(1e-9);
        // With several who ask, what came since the last time that anybody asked.
        from.told = (now, from.came);
        let (is_up, sessions, capacity) = (from.life.is_up, from.sessions as f64, from.capacity);
        let is_lost = reports.loss > 0.0 && self.chance.random_bool(reports.loss);
        if is_up && !is_lost {
            let says = |figure| reports.of.contains(&figure);
            let claim = RawReport {
                sessions: says(Figure::Sessions).then_some(sessions),
                capacity: says(Figure::Capacity).then_some(capacity),
                utilization: says(Figure::Utilization).then_some(sessions / capacity),
                rate: says(Figure::Rate).then_some(rate),
                age: if reports.dated { reports.delay.as_secs_f64() } else { 0.0 },
            };
            let event = SimulationEvent::Arrive { backend, dispatcher, claim };
            if reports.delay.is_zero() {
                self.happens(event, now)
            } else {
                self.schedule(now + reports.delay, event)
            }
        }
        self.schedule(now + reports.interval, SimulationEvent::Make { backend, dispatcher });
    }

    /// Builds all strategies anew, for those who are known to be alive.
    fn build(&mut self) {
        let share = |(backend, of): (usize, &SimulatedBackend)| WeightedBackend {
            backend: backend as u16,
            weight: of.weight,
        };
        let known = self.backends.iter().enumerate().filter(|(_, backend)| backend.is_known);
        let shares: Vec<WeightedBackend> = known.map(share).collect();
        for dispatcher in &mut self.dispatchers {
            let weights = Weights::new(&shares);
            dispatcher.strategy =
                weights.map(|weights| Strategy::build(self.kind, &self.rules, weights, &dispatcher.memory));
        }
    }

    /// Looks at the load of those who are alive.
    fn look(&mut self, now: Moment) {
        let up = self.backends.iter().filter(|backend| backend.life.is_up);
        let levels = up.map(|backend| (backend.sessions as f64 / backend.capacity, backend.capacity));
        if let Some(imbalance) = Imbalance::of(levels.clone()) {
            self.measured.sums.add(&imbalance);
        }
        if self.measured.looks.is_multiple_of(LOOKS / POINTS) {
            let (sessions, capacity) =
                levels.clone().fold((0.0, 0.0), |(all, sum), (level, size)| (all + level * size, sum + size));
            let lowest = levels.clone().map(|(level, _)| level).fold(f64::INFINITY, f64::min);
            self.measured.points.push(Point {
                at: now.since(Moment::default()).as_secs_f64(),
                highest: levels.map(|(level, _)| level).fold(0.0, f64::max),
                lowest: if lowest.is_finite() { lowest } else { 0.0 },
                mean: if capacity > 0.0 { sessions / capacity } else { 0.0 },
            });
        }
        self.measured.looks += 1;
        self.schedule(now + self.scenario.measured / LOOKS, SimulationEvent::Look);
    }

    fn outcome(self) -> SimulationOutcome {
        let Measured { sums, dispatched, lost, refused, picks, points, .. } = self.measured;
        let levels = self.backends.iter().zip(&dispatched).map(|(backend, &count)| {
            let weight = f64::from(backend.weight.get());
            (count as f64 / weight, weight)
        });
        SimulationOutcome {
            load: sums.mean(),
            dispatches: Imbalance::of(levels),
            backends: dispatched.clone(),
            picks,
            lost,
            refused,
            points,
        }
    }
}
