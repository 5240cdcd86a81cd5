//! Figures as a program reads them (`Serialize`: numbers) and as a person does (`Display`).

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::estimate::Load;

/// Formats seconds since 1970 as RFC 3339.
pub(super) fn rfc3339(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// A number of visitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct CountText(pub(super) u64);

impl fmt::Display for CountText {
    /// In groups of three digits, between them thin spaces that don't break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.char_indices() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_str("\u{202f}")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A part of a whole, mostly 0 to 1; `None`: of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct ShareText(pub(super) Option<f64>);

impl ShareText {
    pub(super) fn of(part: f64, whole: f64) -> Self {
        Self((whole > 0.0).then(|| part / whole))
    }

    /// In per cent, 0 to 100, as a length in a drawing.
    pub(super) fn length(self) -> f64 {
        (self.0.unwrap_or(0.0) * 1000.0).round().clamp(0.0, 1000.0) / 10.0
    }
}

impl fmt::Display for ShareText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(part) => write!(f, "{:.1}\u{202f}%", part * 100.0),
            None => f.write_str("–"),
        }
    }
}

/// A quotient or an index, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct RatioText(pub(super) Option<f64>);

impl fmt::Display for RatioText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ratio) => write!(f, "{ratio:.3}"),
            None => f.write_str("–"),
        }
    }
}

/// How long something still takes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CountdownText(pub(super) u64);

impl fmt::Display for CountdownText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 60, self.0 % 60) {
            (0, seconds) => write!(f, "{seconds} s"),
            (minutes, 0) => write!(f, "{minutes} min"),
            (minutes, seconds) => write!(f, "{minutes} min {seconds} s"),
        }
    }
}

/// What is estimated of a backend's load, as a person reads it: a part of its capacity, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct LoadView {
    /// In the unit of its reports.
    pub(super) level: f64,
    /// The level at which it is full.
    pub(super) capacity: Option<f64>,
    /// What is in use over capacity, or over its weight where that is unknown: what backends are compared by. Of a weight
    /// of 0 that is nothing.
    pub(super) utilization: Option<f64>,
}

impl LoadView {
    pub(super) fn of(load: Load, weight: f64) -> Self {
        Self { level: load.level, capacity: load.capacity, utilization: load.utilization(weight) }
    }

    /// In per cent, 0 to 100, of what it can take; where that is unknown, of the most loaded of its pool.
    pub(super) fn length(&self, most: f64) -> f64 {
        ShareText::of(self.utilization.unwrap_or(0.0), if self.capacity.is_some() { 1.0 } else { most })
            .length()
    }

    /// How near to being full, for the bar's color.
    pub(super) fn nearness(&self) -> &'static str {
        match self.utilization.filter(|_| self.capacity.is_some()) {
            Some(utilization) if utilization >= 1.0 => "over",
            Some(utilization) if utilization >= 0.8 => "high",
            _ => "fine",
        }
    }
}

impl fmt::Display for LoadView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.capacity {
            Some(_) => ShareText(self.utilization).fmt(f),
            None => write!(f, "{:.1}", self.level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_groups_per_cent_and_three_places() {
        let count = |count| CountText(count).to_string();
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!(ShareText::of(1.0, 3.0).to_string(), "33.3\u{202f}%");
        assert_eq!(
            (ShareText::of(0.0, 0.0).to_string(), ShareText::of(0.0, 0.0).length()),
            ("–".to_owned(), 0.0)
        );
        assert_eq!((ShareText::of(1.0, 3.0).length(), ShareText::of(5.0, 3.0).length()), (33.3, 100.0));
        assert_eq!(
            (RatioText(Some(1.0 / 3.0)).to_string(), RatioText(None).to_string()),
            ("0.333".into(), "–".into())
        );
    }

    #[test]
    fn countdown_has_minutes_and_seconds() {
        let text = [0, 59, 60, 61, 300].map(|seconds| CountdownText(seconds).to_string());
        assert_eq!(text, ["0 s", "59 s", "1 min", "1 min 1 s", "5 min"]);
    }

    #[test]
    fn a_program_reads_numbers() {
        let json = |share: ShareText| serde_json::to_string(&share).unwrap();
        assert_eq!(
            (json(ShareText::of(1.0, 4.0)), json(ShareText::of(1.0, 0.0))),
            ("0.25".into(), "null".into())
        );
        assert_eq!(serde_json::to_string(&CountText(1_000)).unwrap(), "1000");
    }

    #[test]
    fn a_load_is_a_part_where_it_is_known_of_what() {
        let weighted =
            |level, capacity, weight| LoadView::of(Load { level, deviation: 0.0, capacity }, weight);
        let load = |level, capacity| weighted(level, capacity, 4.0);
        let (known, full, unknown) = (load(40.0, Some(50.0)), load(60.0, Some(50.0)), load(6.0, None));
        assert_eq!(
            (known.to_string(), known.length(9.0), known.nearness()),
            ("80.0\u{202f}%".into(), 80.0, "high")
        );
        assert_eq!(
            (full.to_string(), full.length(9.0), full.nearness()),
            ("120.0\u{202f}%".into(), 100.0, "over")
        );
        assert_eq!(
            (unknown.to_string(), unknown.length(3.0), unknown.nearness()),
            ("6.0".into(), 50.0, "fine")
        );
        let drained = weighted(6.0, None, 0.0);
        assert_eq!((drained.to_string(), drained.length(3.0)), ("6.0".into(), 0.0), "of no weight");
    }
}
