//! Health checks: who is probed when, and what becomes of the results.
//!
//! Each target has a task of its own that probes, counts, and tells the controller when a `verdict` changes. It all
//! runs on the control runtime, away from the workers. How often, how long and how many in a row are settings; how
//! many probes run at once is bounded over all pools, and their times are spread, so that thousands of backends
//! make no bursts. What an answer says of the backend's load goes to the controller as well, and so do the lines of agents,
//! which are asked at the same pace.

mod agent;
mod error_text;
mod probe;
mod redirect_loop;
mod reports;
mod resolver;
mod tls;
mod verdict;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{RngExt as _, make_rng};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::control::{Event, ProbeTarget};
use crate::fleet::{Check, CheckResult, HealthState};
use crate::metrics::Counter;
pub use redirect_loop::{EntryPoints, Listening};

use probe::{ProbeClient, ProbeError, ProbeSuccess, Stage};
use reports::ReportSink;
use resolver::Resolver;
use verdict::{Verdict, VerdictProgress};

/// Probes what the controller says is to be probed.
pub struct Prober {
    shared: Rc<HealthContext>,
    running: HashMap<(Arc<str>, Arc<str>), ProbeTasks>,
}

/// What all probes share.
struct HealthContext {
    tools: ProbeClient,
    places: Semaphore,
    events: mpsc::Sender<Event>,
    counter: Counter,
}

/// A target that is probed, or whose agent is asked. Its tasks end with this.
struct ProbeTasks {
    target: Arc<ProbeTarget>,
    /// What its checks come to: it outlives them, so that a reload forgets no fall.
    verdict: Rc<RefCell<Verdict>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for ProbeTasks {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// In the first round, the time from one backend to the next, on average.
const STAGGER: Duration = Duration::from_millis(1);

impl Prober {
    /// At most `at_once` probes run at one time; what they find goes to `events`. `entry` is what a redirect must not
    /// lead back to.
    pub fn new(at_once: usize, events: mpsc::Sender<Event>, counter: Counter, entry: EntryPoints) -> Self {
        let tools = ProbeClient::new(Resolver::new(), entry);
        let shared = HealthContext { tools, places: Semaphore::new(at_once), events, counter };
        Self { shared: Rc::new(shared), running: HashMap::new() }
    }

    /// Probes for as long as it is polled, inside a [`tokio::task::LocalSet`].
    pub async fn run(mut self, mut targets: watch::Receiver<Vec<Arc<ProbeTarget>>>) {
        loop {
            let now = targets.borrow_and_update().clone();
            self.take(now);
            if targets.changed().await.is_err() {
                // The controller is gone, and with it everybody who would be told.
                return std::future::pending().await;
            }
        }
    }

    /// Begins with new targets, goes on with those that stay, and ends the others.
    fn take(&mut self, targets: Vec<Arc<ProbeTarget>>) {
        self.shared.tools.forget(&targets);
        let mut before = std::mem::take(&mut self.running);
        let is_new = |target: &Arc<ProbeTarget>| !before.contains_key(&key(target));
        let spread = STAGGER * targets.iter().filter(|target| is_new(target)).count() as u32;
        for target in targets {
            let running = match before.remove(&key(&target)) {
                Some(running) if running.target == target => running,
                Some(running) if running.target.health.is_on() && running.target.is_at(&target) => {
                    self.begin(target, Rc::clone(&running.verdict), Duration::ZERO)
                }
                _ => self.begin(target, Rc::default(), spread),
            };
            self.running.insert(key(&running.target), running);
        }
    }

    fn begin(&self, target: Arc<ProbeTarget>, verdict: Rc<RefCell<Verdict>>, spread: Duration) -> ProbeTasks {
        let mut tasks = Vec::new();
        if target.health.is_on() {
            let work = probe_loop(Rc::clone(&self.shared), Arc::clone(&target), Rc::clone(&verdict), spread);
            tasks.push(tokio::task::spawn_local(work));
        }
        if target.load.as_ref().is_some_and(|load| load.asks_agents()) {
            let work = agent::listen(Rc::clone(&self.shared), Arc::clone(&target), spread);
            tasks.push(tokio::task::spawn_local(work));
        }
        ProbeTasks { target, verdict, tasks }
    }
}

fn key(target: &ProbeTarget) -> (Arc<str>, Arc<str>) {
    (Arc::clone(&target.pool), Arc::clone(&target.backend))
}

/// Probes one target again and again.
async fn probe_loop(
    shared: Rc<HealthContext>,
    target: Arc<ProbeTarget>,
    verdict: Rc<RefCell<Verdict>>,
    spread: Duration,
) {
    let rules = &*target.health;
    let mut rng: SmallRng = make_rng();
    let mut reports = ReportSink::new(Arc::clone(&target));
    let mut reported: Option<CheckOutcome> = None;
    wait_for_turn(&mut rng, spread.min(rules.interval.0)).await;
    loop {
        let began = Instant::now();
        let (result, detail) = match probe_once(&shared, &target).await {
            Ok(ProbeSuccess { heard, detail }) => {
                if let Some(heard) = heard {
                    reports.take(&shared, heard).await;
                }
                (Some(CheckResult::Ok), detail)
            }
            Err(ProbeError { is_local_error: true, text, .. }) => (None, text),
            Err(ProbeError { result, text, .. }) => (Some(result), text),
        };
        let (pool, backend) = (&*target.pool, &*target.backend);
        if let Some(result) = result {
            let now = Instant::now();
            let (health, progress) = {
                let mut verdict = verdict.borrow_mut();
                verdict.note(result == CheckResult::Ok, now, rules);
                (verdict.health(), verdict.progress(rules))
            };
            if result != CheckResult::Ok {
                tracing::debug!(pool, backend, reason = result.name(), detail, "a probe failed");
            }
            let finding = CheckOutcome { health, result, progress, detail };
            // Thousands of backends that stay as they are send the controller nothing.
            if reported.as_ref() != Some(&finding) {
                let event = Event::HealthState {
                    target: Arc::clone(&target),
                    health: finding.health,
                    check: finding.check(now),
                };
                if shared.events.send(event).await.is_err() {
                    return;
                }
                reported = Some(finding);
            }
        } else {
            tracing::warn!(pool, backend, detail, "health check failed locally; state unchanged");
        }
        let next = if verdict.borrow().is_changing() {
            // Never later than it says: how soon a failure is noticed depends on it.
            rules.interval.0.min(rules.fast_interval.0).mul_f64(rng.random_range(0.85..1.0))
        } else {
            rules.interval.0.mul_f64(rng.random_range(0.9..1.1))
        };
        tokio::time::sleep_until((began + next).into()).await;
    }
}

/// What the checks of a backend come to after one more of them.
#[derive(PartialEq)]
struct CheckOutcome {
    health: HealthState,
    result: CheckResult,
    progress: VerdictProgress,
    detail: String,
}

impl CheckOutcome {
    fn check(&self, now: Instant) -> Check {
        let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Check {
            result: self.result,
            detail: self.detail.as_str().into(),
            progress: self.progress.dated(now, unix_now),
        }
    }
}

/// Waits for some part of the time over which all who begin together are spread.
async fn wait_for_turn(rng: &mut SmallRng, spread: Duration) {
    if !spread.is_zero() {
        tokio::time::sleep(rng.random_range(Duration::ZERO..spread)).await;
    }
}

async fn probe_once(
    shared: &Rc<HealthContext>,
    target: &Arc<ProbeTarget>,
) -> Result<ProbeSuccess, ProbeError> {
    // The semaphore is never closed; waiting for a place is not the backend's fault and does not count.
    let _place = shared.places.acquire().await;
    let began = Instant::now();
    let stage = Rc::<Cell<Stage>>::default();
    let late = || {
        let text = format!("timed out after {} {}", target.health.timeout, stage.get().text());
        Err(ProbeError { result: CheckResult::Timeout, text, is_local_error: false })
    };
    // A task of its own: were it to panic, this backend would never be probed again.
    let probing = {
        let (shared, target, stage) = (Rc::clone(shared), Arc::clone(target), Rc::clone(&stage));
        async move { tokio::time::timeout(target.health.timeout.0, shared.tools.probe(&target, &stage)).await }
    };
    let outcome = match tokio::task::spawn_local(probing).await {
        Ok(in_time) => in_time.unwrap_or_else(|_| late()),
        Err(_) => {
            shared.counter.panicked();
            let text = "the health check panicked".to_owned();
            Err(ProbeError { result: CheckResult::Protocol, text, is_local_error: true })
        }
    };
    let result = outcome.as_ref().err().map_or(CheckResult::Ok, |failure| failure.result);
    shared.counter.probed(target.counters, result, began.elapsed());
    outcome
}
