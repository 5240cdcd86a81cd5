//! What a request costs, and the most it may cost.
//!
//! A bound stands a little above its figure, for a timer that falls into a round, or another machine's `memcpy`. Who
//! makes something cheaper takes both down, one line a row, whose numbers `-- --table` prints; who needs more raises
//! them, and says in ARCHITECTURE.md what for.

use crate::clients::{KEPT, Manner, ONE_SHOT};

/// The compiler that the figures were taken with: another one inlines otherwise.
pub const TAKEN_WITH: &str = "rustc 1.95.0 (59807616e 2026-04-14)";

/// One way of visiting, and what a request costs then.
pub struct Row {
    pub name: &'static str,
    pub manner: Manner,
    pub instructions: Bound,
    pub calls: Bound,
    pub allocations: Bound,
}

/// Per request: what was seen when the bound was set, and the bound.
#[derive(Clone, Copy)]
pub struct Bound {
    pub seen: f64,
    pub at_most: f64,
}

/// Instructions, system calls, allocations: each as seen, and at most. The calls of a handshake have more room: a timer
/// that is due before the reactor would wake makes tokio write to its own eventfd, and whether it is depends on the
/// clock. So have one-shot rows: a connection is looked at again 10 ms or more after its response, and how many of these
/// looks fall into a round depends on the clock too.
pub const ROWS: [Row; 11] = [
    row("keep-alive", KEPT, (5726, 5900), (3.00, 3.10), (0.00, 0.10)),
    row("keep-alive-8", KEPT.at_once(8), (4879, 5030), (2.13, 2.23), (0.00, 0.10)),
    row("reported", KEPT.reported(), (5974, 6150), (3.00, 3.10), (0.00, 0.10)),
    row("shadowed", KEPT.reported().shadowed(), (7567, 7800), (3.00, 3.10), (0.00, 0.10)),
    row("pinned", KEPT.pinned(), (14123, 14500), (3.00, 3.10), (0.00, 0.10)),
    row("one-shot", ONE_SHOT, (7974, 8400), (8.16, 9.20), (0.00, 0.10)),
    row("one-shot-8", ONE_SHOT.at_once(8), (6038, 6350), (6.50, 7.60), (0.00, 0.10)),
    row("logged-8", KEPT.at_once(8).logged(), (7373, 7600), (2.13, 2.23), (0.00, 0.10)),
    row("one-shot-logged-8", ONE_SHOT.at_once(8).logged(), (8616, 9050), (6.30, 7.60), (0.00, 0.10)),
    row("tls-keep-alive", KEPT.by_tls(), (12008, 12350), (3.00, 3.10), (2.00, 2.10)),
    row("tls-one-shot", ONE_SHOT.by_tls(), (1426579, 1445650), (18.30, 22.00), (185.74, 190.38)),
];

impl Row {
    /// Other figures with fitting bounds, as a row has them: instructions, calls, allocations.
    pub fn with(&self, [instructions, calls, allocations]: [f64; 3]) -> String {
        let most = (instructions * 1.01 / 50.0).ceil() * 50.0;
        let [call, allocation] = [calls, allocations].map(|count| count + f64::max(0.1, count * 0.025));
        format!(
            "{}: ({instructions}, {most}), ({calls:.2}, {call:.2}), ({allocations:.2}, {allocation:.2})",
            self.name
        )
    }
}

const fn row(
    name: &'static str,
    manner: Manner,
    instructions: (u32, u32),
    calls: (f64, f64),
    allocations: (f64, f64),
) -> Row {
    let instructions = (instructions.0 as f64, instructions.1 as f64);
    Row {
        name,
        manner,
        instructions: bound(instructions),
        calls: bound(calls),
        allocations: bound(allocations),
    }
}

const fn bound((seen, at_most): (f64, f64)) -> Bound {
    Bound { seen, at_most }
}
