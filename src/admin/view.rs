//! What there is and where it stands: the one view of the fleet that API and status page show.
//!
//! Figures are types that a program reads as numbers (`Serialize`) and a person as text (`Display`).

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::AdminContext;
use super::cause::{BackoffView, Cause, LastCheckView};
use super::figures::{CountText, CountdownText, LoadView, RatioText, ShareText, rfc3339};
use crate::estimate::Load;
use crate::fleet::{
    AdminState, AgentWeight, BackendStatus, CheckResult, EffectiveState, Excluded, HealthState, PinAction,
    Pool, Priority, Role, SlowStart, StateReason, Weight,
};
use crate::metrics::{CountedFleet, LoadSource, PoolCounters, StrategyFigures};
use crate::util::fairness::{Imbalance, Measure};

/// Everything.
#[derive(Serialize)]
pub(super) struct Overview<'a> {
    pub(super) version: &'static str,
    /// Whether visitors should be sent here, as `/readyz` says it.
    pub(super) ready: bool,
    pub(super) changes: Changes,
    pub(super) pools: Vec<PoolView<'a>>,
}

/// Whether changes are taken on this listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Changes {
    /// From whoever reaches it, which is this machine alone.
    Open,
    /// With the admin token.
    Token,
    /// Not without a token, and none is set.
    Refused,
}

/// A pool.
#[derive(Serialize)]
pub(super) struct PoolView<'a> {
    pub(super) name: &'a str,
    pub(super) strategy: &'static str,
    /// Who of the backends new visitors are sent to.
    pub(super) priority: Priority,
    pub(super) fail_open: bool,
    /// All its backends' together.
    pub(super) redirects: Redirects,
    /// Whether its backends report their loads.
    pub(super) reports_load: bool,
    /// The share of its visitors that this process sends, as it is learnt from reports.
    pub(super) local_traffic_ratio: ShareText,
    pub(super) strategies: Vec<StrategyView>,
    pub(super) backends: Vec<BackendView<'a>>,
    /// Whether pinned clients still get a backend that new ones don't. Not one that is down: that ends with its grace
    /// period, which changes nothing else that is shown.
    #[serde(skip)]
    pub(super) serves_pinned: bool,
}

/// A strategy of a pool, and how it does.
#[derive(Serialize)]
pub(super) struct StrategyView {
    pub(super) name: &'static str,
    pub(super) role: Role,
    /// Visitors it sent to each backend, in the pool's order; of a shadow, whom it would have sent there.
    pub(super) dispatches: Vec<CountText>,
    /// How evenly, for the weights in effect, lately; `None` where it was nobody.
    pub(super) dispatch_imbalance: Option<Imbalance>,
    /// How even its load is now, where it has one that is its own, or a shadow's model of one.
    pub(super) load_imbalance: Option<Imbalance>,
    /// The same over all the time that it was looked at.
    pub(super) mean_load_imbalance: Option<Imbalance>,
    /// How that load is known.
    pub(super) load_source: Option<LoadSource>,
    /// Of a shadow: the part of its picks that were others than the visitor was sent to.
    pub(super) disagrees: ShareText,
    /// Of a shadow: the part of visitors with a valid pin that it would have sent elsewhere.
    pub(super) breaks_pins: ShareText,
    /// The mean of the picks that were timed, in nanoseconds.
    pub(super) pick_nanoseconds: Option<f64>,
}

/// A backend.
#[derive(Serialize)]
pub(super) struct BackendView<'a> {
    pub(super) id: &'a str,
    pub(super) url: &'a str,
    pub(super) state: EffectiveState,
    /// Since when, RFC 3339.
    pub(super) state_since: String,
    /// Why.
    pub(super) reason: StateReason,
    /// The same in words.
    pub(super) detail: String,
    /// `None` if no check has ended, or there are none.
    pub(super) last_check: Option<LastCheckView>,
    /// While it answers again and `flap_backoff` holds it back.
    pub(super) flap_backoff: Option<BackoffView>,
    pub(super) admin: AdminState,
    pub(super) health: HealthState,
    pub(super) backup: bool,
    /// Why no new visitors are sent there, where they are not.
    pub(super) excluded: Option<Excluded>,
    pub(super) weight: Weight,
    /// `weight`, or less of it in slow start.
    pub(super) weight_in_effect: f64,
    /// While in slow start: when it has its full weight, RFC 3339.
    pub(super) full_weight_at: Option<String>,
    /// Its part of the weights of those who may be picked: what of the visitors it should get.
    pub(super) weight_share: ShareText,
    /// Its part of the visitors so far: what it got.
    pub(super) dispatch_share: ShareText,
    /// What is estimated of its load now; `None` before its first report and once its last one has expired.
    pub(super) load: Option<LoadView>,
    /// What of `admin` and `weight` was set at run time.
    pub(super) set_at_run_time: Vec<&'static str>,
    /// While draining: when no pin to it can be valid any more.
    pub(super) drained_at: Option<String>,
    /// While draining: about how many pinned requests a minute reach it lately.
    pub(super) pinned_last_minute: Option<CountText>,
    pub(super) redirects: Redirects,
    /// Visitors who were sent elsewhere for want of room there.
    pub(super) overflow: CountText,
    #[serde(skip)]
    status: &'a BackendStatus,
}

/// Visitors sent to a backend, by the reason why there.
#[derive(Serialize)]
pub(super) struct Redirects {
    pub(super) pinned: CountText,
    pub(super) reassigned: CountText,
    pub(super) picked: CountText,
}

impl Redirects {
    /// In the order of `Decision::ALL`, as the registry has them.
    fn of(redirects: [u64; 3]) -> Self {
        let [pinned, reassigned, picked] = redirects.map(CountText);
        Self { pinned, reassigned, picked }
    }
}

impl<'a> Overview<'a> {
    /// Of a fleet as it is now.
    pub(super) fn of(shown: &AdminContext, changes: Changes, fleet: &'a CountedFleet) -> Self {
        let imbalances = shown.registry.imbalances();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready: shown.readiness.is_ready(),
            changes,
            pools: fleet
                .counted_pools()
                .map(|(pool, counters)| PoolView::of(shown, &imbalances, pool, counters))
                .collect(),
        }
    }
}

impl Overview<'_> {
    /// How many pools are [in trouble](PoolView::is_in_trouble).
    pub(super) fn in_trouble(&self) -> usize {
        self.pools.iter().filter(|pool| pool.is_in_trouble()).count()
    }
}

impl<'a> PoolView<'a> {
    fn of(
        shown: &AdminContext,
        imbalances: &[StrategyFigures],
        pool: &'a Pool,
        counters: &PoolCounters,
    ) -> Self {
        let slots = 0..pool.config.strategies.len();
        let redirects = redirects(shown, pool, counters);
        Self {
            name: &pool.config.name,
            strategy: pool.live().name(),
            priority: pool.priority,
            fail_open: pool.priority == Priority::FailOpen,
            redirects: Redirects::of(
                redirects.iter().fold([0; 3], |sum, one| std::array::from_fn(|at| sum[at] + one[at])),
            ),
            reports_load: pool.config.reports_expire.is_some(),
            local_traffic_ratio: ShareText(pool.local_traffic_ratio.get()),
            strategies: slots.map(|slot| StrategyView::of(shown, imbalances, pool, counters, slot)).collect(),
            backends: BackendView::of(shown, pool, counters, &redirects),
            serves_pinned: pool.config.pins.is_some()
                && pool.keeps.iter().zip(&pool.statuses).any(|(keeps, status)| {
                    *keeps == PinAction::UntilItEnds && status.health != HealthState::Down
                }),
        }
    }
}

/// What each backend of a pool got, in the order of `Decision::ALL`.
pub(super) fn redirects(shown: &AdminContext, pool: &Pool, counters: &PoolCounters) -> Vec<[u64; 3]> {
    (0..pool.config.backends.len()).map(|index| shown.registry.redirects(counters, index)).collect()
}

impl PoolView<'_> {
    /// Whether clients get no backend that is known to work: it fails open, or has no eligible backend.
    pub(super) fn is_in_trouble(&self) -> bool {
        matches!(self.priority, Priority::FailOpen | Priority::None)
    }

    /// How many of its backends are in a state.
    pub(super) fn count(&self, state: EffectiveState) -> usize {
        self.backends.iter().filter(|backend| backend.state == state).count()
    }

    /// The highest utilization among its backends, against which bars are drawn where capacities are unknown.
    pub(super) fn most_loaded(&self) -> f64 {
        self.backends.iter().filter_map(|backend| backend.load?.utilization).fold(0.0, f64::max)
    }
}

impl StrategyView {
    fn of(
        shown: &AdminContext,
        imbalances: &[StrategyFigures],
        pool: &Pool,
        counters: &PoolCounters,
        index: usize,
    ) -> Self {
        let (kind, role) = (pool.config.strategies[index], pool.roles.of(index));
        let dispatches = shown.registry.dispatches(pool, counters, index);
        let [agreed, disagreed, kept, broken] =
            shown.registry.comparisons(counters, index).map(|count| count as f64);
        let is =
            |of: &&StrategyFigures| of.pool == pool.config.name && of.strategy == kind && of.role == role;
        let figures = imbalances.iter().find(is);
        let load = figures.and_then(|figures| figures.load.as_ref());
        Self {
            name: kind.name(),
            role,
            dispatches: dispatches.into_iter().map(CountText).collect(),
            dispatch_imbalance: figures.and_then(|figures| figures.dispatches),
            load_imbalance: load.and_then(|load| load.now),
            mean_load_imbalance: load.and_then(|load| load.so_far.mean_of_all()),
            load_source: load.map(|load| load.source),
            disagrees: ShareText::of(disagreed, agreed + disagreed),
            breaks_pins: ShareText::of(broken, kept + broken),
            pick_nanoseconds: shown.registry.pick_nanoseconds(counters, index),
        }
    }

    /// How many visitors that were in all.
    pub(super) fn total(&self) -> CountText {
        CountText(self.dispatches.iter().map(|count| count.0).sum())
    }

    /// One of the figures of an imbalance.
    pub(super) fn figure(imbalance: &Option<Imbalance>, measure: Measure) -> RatioText {
        RatioText(imbalance.map(|imbalance| imbalance.get(measure)))
    }
}

impl<'a> BackendView<'a> {
    /// All of a pool.
    pub(super) fn of(
        shown: &AdminContext,
        pool: &'a Pool,
        counters: &PoolCounters,
        redirects: &[[u64; 3]],
    ) -> Vec<Self> {
        let mut weights = vec![0.0; redirects.len()];
        for share in pool.shares() {
            weights[usize::from(share.backend)] = f64::from(share.weight.get());
        }
        let sent: Vec<_> = redirects.iter().map(|decisions| decisions.iter().sum::<u64>() as f64).collect();
        let (all_weights, all_sent) = (weights.iter().sum(), sent.iter().sum());
        let now = shown.clock.now();
        let one = |index: usize| {
            let shares = (ShareText::of(weights[index], all_weights), ShareText::of(sent[index], all_sent));
            let load = pool.load(pool.roles.live, index, now);
            let counts = (redirects[index], shown.registry.overflow(counters, index));
            let mut one = Self::one(pool, index, counts, shares, load);
            if one.status.admin == AdminState::Draining {
                let lately = shown.registry.pinned_lately(counters, index).unwrap_or_default();
                one.pinned_last_minute = Some(CountText(lately.round() as u64));
            }
            one
        };
        (0..redirects.len()).map(one).collect()
    }

    fn one(
        pool: &'a Pool,
        index: usize,
        (redirects, overflow): ([u64; 3], u64),
        (weight_share, dispatch_share): (ShareText, ShareText),
        load: Option<Load>,
    ) -> Self {
        let (backend, status) = (&pool.config.backends[index], &pool.statuses[index]);
        let Cause { reason, detail, last_check, flap_backoff } =
            Cause::of(backend, status, pool.config.is_probed);
        let set = [("admin", status.admin_is_set), ("weight", status.weight_is_set)];
        Self {
            id: &backend.id,
            url: &backend.base,
            state: status.state(),
            state_since: rfc3339(status.since),
            reason,
            detail,
            last_check,
            flap_backoff,
            admin: status.admin,
            health: status.health,
            backup: status.backup,
            excluded: pool.excluded(index),
            weight: status.weight,
            weight_in_effect: status.weight_in_effect(),
            full_weight_at: status.full_weight_at.map(rfc3339),
            weight_share,
            dispatch_share,
            load: load.map(|load| LoadView::of(load, status.weight.get().into())),
            set_at_run_time: set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect(),
            drained_at: status.drained_at.map(rfc3339),
            pinned_last_minute: None,
            redirects: Redirects::of(redirects),
            overflow: CountText(overflow),
            status,
        }
    }

    /// Whether not all of its weight is in effect.
    pub(super) fn has_less(&self) -> bool {
        self.weight_in_effect < f64::from(self.weight.get())
    }

    /// What is estimated of its load, for a person.
    pub(super) fn load_text(&self) -> String {
        self.load.map_or_else(|| "–".to_owned(), |load| load.to_string())
    }

    /// Since when it is in its state, for a person.
    pub(super) fn since(&self) -> String {
        readable(&self.state_since)
    }

    /// While `flap_backoff` keeps it down: how often it fell, until when, RFC 3339, and how long that still is.
    pub(super) fn held_back(&self) -> Option<(u32, &str, CountdownText)> {
        let held = self.flap_backoff.as_ref().filter(|_| self.reason == StateReason::FlapBackoff)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Some((held.falls, &held.until, CountdownText(held.until_unix.saturating_sub(now))))
    }

    /// What else a person should know of where it stands, a few words each.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        match (self.excluded, &self.drained_at) {
            (Some(Excluded::Draining), Some(at)) => {
                notes.push(format!("only the pinned, until {}", readable(at)))
            }
            // The reason says it already.
            (Some(Excluded::Down | Excluded::PendingFirstCheck), _) => {}
            (Some(excluded), _) => notes.push(excluded.text().to_owned()),
            (None, _) if self.backup => notes.push("a backup, in use".to_owned()),
            (None, _) => {}
        }
        let failed = self.last_check.as_ref().filter(|check| check.result != CheckResult::Ok);
        if let (StateReason::Operator | StateReason::Agent, Some(check)) = (self.reason, failed) {
            notes.push(format!("last check: {}", check.detail));
        }
        if self.status.ramp < SlowStart::FULL {
            let until = self.full_weight_at.as_deref().unwrap_or_default();
            notes.push(format!("slow start, full weight at {}", readable(until)));
        }
        match self.status.agent_weight {
            AgentWeight::ALL | AgentWeight::Percent(0) => {}
            AgentWeight::Percent(percent) => notes.push(format!("agent weight {percent} %")),
            AgentWeight::Absolute(weight) => notes.push(format!("agent weight {}", weight.get())),
        }
        // Of an admin state that it has set the reason says it already.
        let is_said = |name: &&str| *name == "admin" && self.reason == StateReason::Operator;
        let set: Vec<_> = self.set_at_run_time.iter().copied().filter(|name| !is_said(name)).collect();
        if !set.is_empty() {
            notes.push(format!("{} set at run time", set.join(" and ")));
        }
        notes
    }
}

/// RFC 3339 as people read it.
fn readable(date: &str) -> String {
    date.replace('T', " ")
}
