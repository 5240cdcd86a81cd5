//! What callgrind has counted: its format, "Callgrind Format Specification" of valgrind's manual.

use std::collections::{BTreeMap, HashMap};

/// The functions that give out memory, as patterns of callgrind: those of the C library, of Rust where they are
/// not inlined, and of mimalloc.
pub const ALLOCATORS: [&str; 8] =
    ["malloc", "calloc", "realloc", "*memalign*", "aligned_alloc", "__rustc::__r*", "mi_*", "_mi_*"];

/// Instructions by function, and allocations by who asks.
#[derive(Default)]
pub struct Profile {
    pub functions: BTreeMap<String, Cost>,
    /// The callers, the nearest first; callgrind joins them by `'`.
    pub allocations: BTreeMap<String, f64>,
}

/// Instructions of one function.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Its own.
    pub own: f64,
    /// With those of all that it called, but itself.
    pub inclusive: f64,
}

impl Profile {
    /// Reads one dump. Panics where it is none: a figure of half a dump would be taken for a gain.
    pub fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        let (mut caller, mut called) = ("", "");
        let mut names = HashMap::new();
        let mut calls = None;
        let mut summary = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                caller = resolve(&mut names, name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = resolve(&mut names, name);
            } else if let Some(counted) = line.strip_prefix("calls=") {
                calls = counted.split(' ').next().and_then(|count| count.parse::<f64>().ok());
                assert!(calls.is_some(), "{line}");
            } else if let Some(total) = line.strip_prefix("summary: ") {
                summary = total.parse::<f64>().ok();
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                let cost: f64 = line.split(' ').nth(1).and_then(|cost| cost.parse().ok()).unwrap();
                profile.add(caller, calls.take().map(|calls| (called, calls)), cost);
            }
        }
        assert_eq!(summary, Some(profile.instructions()), "not all of the dump was understood");
        profile
    }

    /// Counts a line of cost: a function's own, or of calls it made.
    fn add(&mut self, caller: &str, called: Option<(&str, f64)>, cost: f64) {
        let (base, _) = split(caller);
        let function = self.functions.entry(base.to_owned()).or_default();
        let Some((called, calls)) = called else {
            function.own += cost;
            function.inclusive += cost;
            return;
        };
        let (callee, callers) = split(called);
        if callee != base {
            function.inclusive += cost;
        }
        // Allocators call each other: what counts is who called the first of them.
        if allocates(callee) && !is_allocator(base) {
            *self.allocations.entry(callers.to_owned()).or_default() += calls;
        }
    }

    /// All instructions.
    pub fn instructions(&self) -> f64 {
        self.functions.values().map(|cost| cost.own).sum()
    }

    /// All allocations.
    pub fn allocated(&self) -> f64 {
        self.allocations.values().sum()
    }

    /// With what another profile holds taken off.
    pub fn without(mut self, other: &Self) -> Self {
        for (name, less) in &other.functions {
            let cost = self.functions.entry(name.clone()).or_default();
            cost.own -= less.own;
            cost.inclusive -= less.inclusive;
        }
        for (callers, less) in &other.allocations {
            *self.allocations.entry(callers.clone()).or_default() -= less;
        }
        self
    }

    /// The share of one of so many.
    pub fn of_each(mut self, count: f64) -> Self {
        for cost in self.functions.values_mut() {
            cost.own /= count;
            cost.inclusive /= count;
        }
        self.allocations.values_mut().for_each(|allocations| *allocations /= count);
        self
    }
}

/// A name is written once, with a number, and then the number alone: `(12) main`, `(12)`.
fn resolve<'t>(names: &mut HashMap<&'t str, &'t str>, text: &'t str) -> &'t str {
    let (number, name) = text.split_once(' ').unwrap_or((text, ""));
    if !name.is_empty() {
        names.insert(number, name);
    }
    names.get(number).unwrap()
}

/// A function, and who called it where that was kept.
fn split(name: &str) -> (&str, &str) {
    name.split_once('\'').unwrap_or((name, ""))
}

fn is_allocator(function: &str) -> bool {
    let function = function.strip_prefix("__rustc::").unwrap_or(function);
    ["__rust_", "__rdl_", "__rg_", "mi_", "_mi_"].iter().any(|prefix| function.starts_with(prefix))
        || ["malloc", "calloc", "realloc", "aligned_alloc"].contains(&function)
        || function.contains("memalign")
}

fn allocates(function: &str) -> bool {
    is_allocator(function)
        && !["free", "dealloc", "usable", "error"].iter().any(|word| function.contains(word))
}
