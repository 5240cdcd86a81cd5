//! Pools to pick from.

use std::sync::Arc;

use ::http::StatusCode;
use signpost::fleet::{Arm, Backend, Pool, Ramp, Roles, Roster, Slot, Standing, Weight};
use signpost::strategy::{Kind, Memory, Meters, Rules};

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

    pub fn roster(self, kind: Kind) -> Arc<Roster> {
        let backend = |index: usize| Backend {
            id: format!("b{index}").into(),
            base: format!("http://b{index}.example").into(),
            probes: Slot(0),
            reports: Slot(0),
        };
        let counts = (0..self.backends).map(|_| Slot(0)).collect();
        Arc::new(Roster {
            name: "p".into(),
            arms: [Arm { kind, slot: Slot(0), counts }].into(),
            rotate: None,
            reads_clock: kind.reads_clock(&Rules::default()),
            rules: Rules::default(),
            key: None,
            limits: Box::default(),
            caching: None,
            backends: (0..self.backends).map(backend).collect(),
            panic_threshold: 1.0,
            status: StatusCode::FOUND,
            status_other: StatusCode::TEMPORARY_REDIRECT,
            pins: None,
            cors: None,
            has_base_path: false,
            is_probed: false,
            reports_expire: None,
            slot: Slot(0),
            probe_times: Slot(0),
        })
    }

    pub fn standings(self) -> Box<[Standing]> {
        let weight = |index: usize| Weight::new((1 + index % self.weights) as u16).unwrap();
        let mut standings: Box<[_]> =
            (0..self.backends).map(|index| Standing::of_settings(weight(index))).collect();
        if self.ramps {
            standings[0].ramp = Ramp::after(2);
        }
        standings
    }

    pub fn pool(self, kind: Kind) -> Pool {
        Pool::new(
            self.roster(kind),
            self.standings(),
            Roles::alone(),
            &[Memory::default()],
            Meters::default(),
            Arc::default(),
        )
    }
}
