//! A round: every row with a fleet and visitors of its own, side by side, for the same time and with the same visits.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signpost::util::fairness::Imbalance;

use crate::Args;
use crate::clients::{self, Tally};
use crate::fleet::{CAPACITIES, Fleet, PER_CAPACITY, Sessions};
use crate::report::quantile;
use crate::rows::{Dispatcher, Row};

/// What is cut off before anything is measured. A fleet begins empty, and after this time has five sixths of the sessions
/// that it would have after a very long one.
pub const WARM_UP: Duration = Duration::from_secs(120);

/// What one row had in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Means over time of how uneven utilizations were.
    pub highest_over_mean: f64,
    pub variation: f64,
    /// Of all capacity, over time.
    pub utilization: f64,
    pub held: usize,
    pub lost: usize,
    /// Milliseconds from when a visitor was due to when its session had begun, that 99 of 100 did not exceed.
    pub waited: f64,
}

/// All rows, in their order.
pub fn play(rows: &[&Row], seed: u64, args: &Args) -> Vec<Sample> {
    let mut sides: Vec<_> = rows.iter().map(|row| Side::start(row, args.speed)).collect();
    let warm_up = WARM_UP.div_f64(args.speed);
    let time = warm_up + args.seconds;
    let visits: Arc<[_]> = clients::visits(seed, args.speed, time).into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = Instant::now();
    runtime.block_on(async {
        for side in &sides {
            let (tally, backends) = (Arc::clone(&side.tally), Arc::clone(&side.backends));
            tokio::spawn(clients::come(Arc::clone(&visits), start, side.dispatcher.address, backends, tally));
        }
        tokio::time::sleep_until((start + time).into()).await;
    });
    let samples = sides.iter_mut().map(|side| side.sample(start + warm_up)).collect();
    drop(runtime);
    samples
}

struct Side<'a> {
    row: &'a Row,
    fleet: Fleet,
    backends: Arc<[SocketAddr]>,
    dispatcher: Dispatcher,
    tally: Arc<Mutex<Tally>>,
}

impl<'a> Side<'a> {
    fn start(row: &'a Row, speed: f64) -> Self {
        let fleet = Fleet::start();
        let dispatcher = row.start(&fleet, speed);
        Self { row, backends: fleet.visitors.clone().into(), fleet, dispatcher, tally: Arc::default() }
    }

    fn sample(&mut self, since: Instant) -> Sample {
        let name = self.row.name;
        assert!(self.dispatcher.lives(), "{name}: its dispatcher has ended");
        let mut tally = self.tally.lock().unwrap();
        if let Some(why) = &tally.why {
            eprintln!("{name}: visitors were lost, for example: {why}");
        }
        let sessions = self.fleet.sessions_since(since);
        let each: Vec<_> = sessions.iter().filter_map(imbalance).collect();
        let mean = |of: fn(&Imbalance) -> f64| each.iter().map(of).sum::<f64>() / each.len() as f64;
        Sample {
            highest_over_mean: mean(|each| each.highest_over_mean),
            variation: mean(|each| each.variation),
            utilization: sessions.iter().map(utilization).sum::<f64>() / sessions.len() as f64,
            held: tally.held,
            lost: tally.lost,
            waited: quantile(&mut tally.waited, 0.99),
        }
    }
}

fn imbalance(sessions: &Sessions) -> Option<Imbalance> {
    let levels = sessions.iter().zip(CAPACITIES).map(|(sessions, capacity)| {
        (f64::from(*sessions) / f64::from(capacity * PER_CAPACITY), f64::from(capacity))
    });
    Imbalance::of(levels)
}

fn utilization(sessions: &Sessions) -> f64 {
    let capacity = CAPACITIES.iter().sum::<u32>() * PER_CAPACITY;
    f64::from(sessions.iter().sum::<u32>()) / f64::from(capacity)
}
