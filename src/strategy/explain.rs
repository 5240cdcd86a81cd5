//! What a strategy would do with a visitor and why, for the operator. It takes no turn, counts nothing, and is in no hurry.

use crate::util::enum_all;

/// What a strategy would do with a visitor who came now.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Whom it would pick, a place in the roster; `None` where chance decides.
    pub picked: Option<usize>,
    /// What the scores are.
    pub score: Score,
    /// All who may be picked, in the order in which it turns to them, where it has one.
    pub candidates: Vec<Candidate>,
}

/// One who may be picked.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its place in the roster.
    pub backend: usize,
    /// What the strategy goes by; `None` where it has not looked so far.
    pub score: Option<f64>,
    /// What that comes from, and what stands in its way, for a person.
    pub why: String,
    /// Whether it would be picked, were it the first.
    open: bool,
}

enum_all! {
    /// What a strategy goes by.
    pub enum Score {
        /// How likely a pick is, 0 to 1.
        Probability = "probability",
        /// How many turns others have before it; 0: it is next.
        TurnsAhead = "turns_ahead",
        /// The share of its capacity that may well be in use.
        Load = "load",
        /// Its place in an order; 1 is the first.
        Position = "position",
    }
}

/// Who decides among those who may be picked.
pub(super) enum DecidedBy {
    /// The first of the candidates who has room, within so many turns; where nobody has, the first of all.
    Order {
        /// Who is further away is not turned to.
        within: f64,
    },
    /// The first who has room; where nobody has, chance.
    OrderThenChance,
    /// This one, where it has room; else, and where it is nobody, chance.
    Only(Option<usize>),
    /// Chance.
    Chance,
}

impl Candidate {
    pub(super) fn new(backend: usize, score: Option<f64>, why: String) -> Self {
        Self { backend, score, why, open: true }
    }

    /// It is not for this visitor.
    pub(super) fn pass_over(&mut self, why: &str) {
        self.open = false;
        self.and(why);
    }

    fn and(&mut self, more: &str) {
        self.why += "; ";
        self.why += more;
    }
}

impl Explanation {
    /// `has_room` is whether the limits of the settings let a backend have one more.
    pub(super) fn new(
        decides: DecidedBy,
        score: Score,
        mut candidates: Vec<Candidate>,
        has_room: &dyn Fn(usize) -> bool,
    ) -> Self {
        for candidate in candidates.iter_mut().filter(|candidate| !has_room(candidate.backend)) {
            candidate.pass_over("over its max_requests_per_second");
        }
        let mut with_room = candidates.iter().filter(|candidate| candidate.open);
        let first = with_room.next();
        let alone = if with_room.next().is_none() { first } else { None };
        let picked = match decides {
            _ if candidates.len() == 1 => candidates.first(),
            DecidedBy::Chance => alone,
            DecidedBy::Only(only) => {
                let with_room = |one: &&Candidate| one.open && Some(one.backend) == only;
                candidates.iter().find(with_room).or(alone)
            }
            DecidedBy::OrderThenChance => first,
            DecidedBy::Order { within } => match first {
                Some(first) if first.score.is_some_and(|score| score < within) => Some(first),
                Some(_) => alone,
                None => candidates.first(),
            },
        };
        let picked = picked.map(|candidate| candidate.backend);
        if let (Some(picked), DecidedBy::Order { .. } | DecidedBy::OrderThenChance) = (picked, decides) {
            let after = candidates.iter_mut().skip_while(|candidate| candidate.backend != picked).skip(1);
            after
                .filter(|candidate| candidate.open)
                .for_each(|candidate| candidate.and("one before it is picked"));
        }
        Self { picked, score, candidates }
    }
}

/// A part of a whole for a person.
pub(super) fn percent(part: f64, whole: f64) -> String {
    format!("{:.1} %", 100.0 * part / whole)
}
