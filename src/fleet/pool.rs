//! A pool: who is in it, and who of them may be picked.

use std::num::NonZeroU16;
use std::sync::Arc;

use http::StatusCode;

use super::{Backend, Cors, Pins, Slot, Standing};
use crate::strategy::{Kind, Memory, Strategy, Turn, Weights};

/// A pool as a request sees it: a roster, which changes with the settings, and who may be picked, which changes
/// with where each backend stands.
#[derive(Debug)]
pub struct Pool {
    /// All backends and what answers are made of.
    pub roster: Arc<Roster>,
    /// Where each backend of the roster stands.
    pub standings: Box<[Standing]>,
    choices: Option<Choices>,
}

/// Everything about a pool that does not depend on who may be picked.
#[derive(Debug)]
pub struct Roster {
    /// The pool's name.
    pub name: Box<str>,
    /// How it picks.
    pub kind: Kind,
    /// All backends, eligible or not.
    pub backends: Box<[Backend]>,
    /// The status of a redirected GET or HEAD.
    pub status: StatusCode,
    /// The status for every other method.
    pub status_other: StatusCode,
    /// The pin policy, where visitors are pinned.
    pub pins: Option<Pins>,
    /// The answer to other origins, where there is one.
    pub cors: Option<Cors>,
    /// Whether some base URL has a path, so that dot segments could leave it.
    pub has_base_path: bool,
    /// Where the pool's counts begin in a worker's slab.
    pub slot: Slot,
}

/// Those who may be picked, as indices into the roster, and the tables of the strategy over them.
#[derive(Debug)]
struct Choices {
    eligible: Box<[u32]>,
    strategy: Strategy,
}

impl Pool {
    /// Works out who may be picked and builds the strategy's tables. `standings` has one for each of the roster.
    pub fn new(roster: Arc<Roster>, standings: Box<[Standing]>, memory: &Memory) -> Self {
        let (eligible, weights): (Vec<u32>, Vec<NonZeroU16>) = standings
            .iter()
            .enumerate()
            .filter_map(|(index, standing)| Some((index as u32, standing.takes_new()?)))
            .unzip();
        let choices = Weights::new(&weights).map(|weights| Choices {
            eligible: eligible.into(),
            strategy: Strategy::build(roster.kind, weights, memory),
        });
        Self { roster, standings, choices }
    }

    /// Picks a backend: an index into the roster, or `None` where nobody is eligible.
    pub fn pick(&self, turn: &mut Turn<'_>) -> Option<usize> {
        let choices = self.choices.as_ref()?;
        Some(choices.eligible[choices.strategy.pick(turn)] as usize)
    }
}
