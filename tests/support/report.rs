//! Figures, each a line beside its bound.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a scenario found.
pub struct Report {
    scenario: &'static str,
    /// How many bounds were missed.
    pub missed: u32,
    /// Whether a part could not be run here.
    pub skipped: bool,
    /// Set when the scenario was given up: what it still finds is of no use.
    given_up: Arc<AtomicBool>,
}

impl Report {
    pub fn new(scenario: &'static str, given_up: Arc<AtomicBool>) -> Self {
        Self { scenario, missed: 0, skipped: false, given_up }
    }

    /// A figure that must be this at the most.
    pub fn at_most(&mut self, what: &str, figure: f64, bound: f64, unit: &str) -> bool {
        self.line(figure <= bound, what, &amount(figure, unit), &format!("at most {}", amount(bound, unit)))
    }

    /// A figure that must be this at the least.
    pub fn at_least(&mut self, what: &str, figure: f64, bound: f64, unit: &str) -> bool {
        self.line(figure >= bound, what, &amount(figure, unit), &format!("at least {}", amount(bound, unit)))
    }

    /// A count or a word that must be exactly this.
    pub fn exactly<T: PartialEq + Display>(&mut self, what: &str, figure: T, bound: T) -> bool {
        self.line(figure == bound, what, &figure.to_string(), &bound.to_string())
    }

    /// Something that must be so.
    pub fn holds(&mut self, what: &str, so: bool) -> bool {
        self.line(so, what, if so { "yes" } else { "no" }, "yes")
    }

    /// A figure without a bound, for the reader.
    pub fn note(&self, what: &str, figure: &str) {
        println!("{:8}{}: {what}: {figure}", "", self.scenario);
    }

    /// Says that a part can't be run here. It counts as neither ok nor missed.
    pub fn skip(&mut self, why: &str) {
        self.skipped = true;
        println!("{:8}{}: {why}", "SKIPPED", self.scenario);
    }

    fn line(&mut self, ok: bool, what: &str, figure: &str, bound: &str) -> bool {
        self.missed += u32::from(!ok);
        if self.given_up.load(Ordering::Relaxed) {
            return ok;
        }
        println!(
            "{:8}{}: {what}: {figure} (bound: {bound})",
            if ok { "ok" } else { "MISSED" },
            self.scenario
        );
        ok
    }
}

fn amount(figure: f64, unit: &str) -> String {
    let digits = usize::from(figure.fract() != 0.0) * if figure.abs() < 10.0 { 2 } else { 1 };
    format!("{figure:.digits$}{}{unit}", if unit.is_empty() || unit == "%" { "" } else { " " })
}

/// The value that `share` of the values (0 to 1) do not exceed; 0 where there are none. Sorts them.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or_default()
}
