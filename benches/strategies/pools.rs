//! Pools to pick from.

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use signpost::estimate::{Estimates, LoadModel, RawReport, Report};
use signpost::fleet::{
    AgentDescription, Backend, BackendStatus, ErrorPages, LastCheck, Pool, PoolConfig, Roles, SlowStart,
    Weight,
};
use signpost::strategy::{RateMeters, StrategyConfig, StrategyKind, StrategyState};
use signpost::util::clock::Moment;

/// How many backends there are, and how their weights are spread.
#[derive(Clone, Copy)]
pub struct Shape {
    pub backends: usize,
    /// Weights go from 1 to this, over and over.
    pub weights: usize,
    /// Whether one of them is in slow start.
    pub ramps: bool,
}

impl Shape {
    pub const fn new(backends: usize, weights: usize) -> Self {
        Self { backends, weights, ramps: false }
    }

    pub const fn with_one_in_slow_start(mut self) -> Self {
        self.ramps = true;
        self
    }

    /// What it is, in words.
    pub fn words(self) -> String {
        let weights = match self.weights {
            1 => "of one weight".to_owned(),
            most => format!("of weights 1 to {most}"),
        };
        format!("{} {weights}{}", self.backends, if self.ramps { ", slow start" } else { "" })
    }

    pub fn config(self, kind: StrategyKind) -> Arc<PoolConfig> {
        let backend = |index: usize| Backend {
            id: format!("b{index}").into(),
            base: format!("http://b{index}.example").into(),
            check: LastCheck::default(),
            agent_description: AgentDescription::default(),
        };
        Arc::new(PoolConfig {
            name: "p".into(),
            strategies: [kind].into(),
            rotation_interval: None,
            reads_clock: kind.reads_clock(&StrategyConfig::default()),
            rules: StrategyConfig::default(),
            key: None,
            limits: Box::default(),
            caching: None,
            backends: (0..self.backends).map(backend).collect(),
            panic_threshold: 1.0,
            status: StatusCode::FOUND,
            status_non_get: StatusCode::TEMPORARY_REDIRECT,
            pins: None,
            cors: None,
            error_pages: ErrorPages::default(),
            has_base_path: false,
            is_probed: false,
            reports_expire: None,
        })
    }

    pub fn standings(self) -> Box<[BackendStatus]> {
        let weight = |index: usize| Weight::new((1 + index % self.weights) as u16).unwrap();
        let mut standings: Box<[_]> =
            (0..self.backends).map(|index| BackendStatus::of_settings(weight(index))).collect();
        if self.ramps {
            standings[0].ramp = SlowStart::after(2);
        }
        standings
    }

    pub fn pool(self, kind: StrategyKind) -> Pool {
        let loads = if kind == StrategyKind::LeastLoad { self.loads() } else { Estimates::default() };
        Pool::new(
            self.config(kind),
            self.standings(),
            Roles::alone(),
            false,
            &[StrategyState::default().with_loads(loads)],
            RateMeters::default(),
            Arc::default(),
        )
    }

    /// Estimates as they are while a pool is at work: of two reports, with visitors between them.
    fn loads(self) -> Estimates {
        let expires = Duration::from_secs(3600);
        let mut learner = LoadModel::new(self.backends, expires);
        for at in [NOW.0 - 7_000_000_000, NOW.0 - 2_000_000_000].map(Moment) {
            for backend in 0..self.backends {
                let claim =
                    RawReport { sessions: Some(100.0), capacity: Some(200.0), ..RawReport::default() };
                learner.report(backend, &Report::new(claim, expires).unwrap(), at);
                (0..20).for_each(|_| learner.loads()[backend].dispatched(at));
            }
        }
        learner.loads().clone()
    }
}

/// When picks are made.
pub const NOW: Moment = Moment(60_000_000_000);
