//! Where a visitor is sent: by its pin, else by the strategy whose visitor it is; and what the pool's other strategies
//! would have done.

use std::time::Instant;

use super::Worker;
use crate::fleet::{PinAction, Pool, Role};
use crate::metrics::PoolCounters;
use crate::request::hash_key;
use crate::request::outcome::{Decision, Rejection, Selection};
use crate::request::pin_cookie::{self, Pinned};
use crate::request::{CheckedRequest, Headers};
use crate::strategy::PickContext;
use crate::util::clock::Moment;

/// One pick in this many is timed: two looks at the clock cost more than a pick. A prime, for a pool's strategies pick one
/// after the other: with a number that theirs divides it would be the same one's pick each time.
const TIMED: u32 = 61;

impl Worker {
    /// What the visitor's cookies say, where the pool pins at all.
    pub(super) fn pinned(
        &self,
        pool: &Pool,
        counters: &PoolCounters,
        headers: Headers<'_>,
        now: u64,
    ) -> Pinned {
        let Some(pins) = &pool.config.pins else { return Pinned::No };
        pin_cookie::read(pins, headers, now, |pin_error| self.counter.pin_rejected(counters, pin_error))
    }

    /// Keeps the visitor where its pin says, else lets the strategy pick. A pinned visitor takes no turn of it.
    pub(super) fn choose(
        &self,
        pool: &Pool,
        counters: &PoolCounters,
        request: &CheckedRequest<'_>,
        pinned: Pinned,
    ) -> Result<Selection, Rejection> {
        let config = &*pool.config;
        let mut rng = self.rng.borrow_mut();
        let now = if config.reads_clock { self.clock.now() } else { Moment::default() };
        let key = config.key.as_ref().map_or(0, |key| hash_key::of(key, request));
        let turn = &mut PickContext::new(&mut rng, key, now);
        let slot = if pool.roles.split.is_empty() {
            pool.roles.live
        } else {
            pool.roles.sender(request.client.hash())
        };
        let choice = match pinned {
            Pinned::To { backend, half_over } if pool.keeps[backend] != PinAction::No => {
                let pin = half_over && pool.keeps[backend] == PinAction::AndRenews;
                Selection { slot, backend, decision: Decision::Pinned, pin }
            }
            _ => {
                let had_pin = matches!(pinned, Pinned::To { .. } | Pinned::Gone);
                let decision = if had_pin { Decision::Reassigned } else { Decision::Picked };
                let backend = self.pick(pool, counters, slot, turn).ok_or(Rejection::NoBackend)?;
                Selection { slot, backend, decision, pin: config.pins.is_some() }
            }
        };
        if pool.is_watched {
            if let Some(full) = turn.overflowed {
                self.counter.overflowed(counters, slot, full);
            }
            pool.sent(slot, choice.backend, choice.decision != Decision::Pinned, now);
            self.shadow(pool, counters, choice, turn);
        }
        Ok(choice)
    }

    /// Has the pool's shadows pick too, on their own state, and counts what they say to what was chosen.
    fn shadow(&self, pool: &Pool, counters: &PoolCounters, choice: Selection, turn: &mut PickContext<'_>) {
        let strategies = pool.slots.iter().enumerate();
        for (index, _) in strategies.filter(|(_, strategy)| strategy.role == Role::Shadow) {
            let Some(backend) = self.pick(pool, counters, index, turn) else { continue };
            pool.sent(index, backend, true, turn.now);
            self.counter.shadowed(counters, index, backend, choice);
        }
    }

    /// Runs a strategy.
    fn pick(
        &self,
        pool: &Pool,
        counters: &PoolCounters,
        slot: usize,
        turn: &mut PickContext<'_>,
    ) -> Option<usize> {
        let number = self.picks.get();
        self.picks.set(number.wrapping_add(1));
        if !number.is_multiple_of(TIMED) {
            return pool.pick(slot, turn);
        }
        let started = Instant::now();
        let picked = pool.pick(slot, turn);
        self.counter.pick(counters, slot, started.elapsed());
        picked
    }
}
