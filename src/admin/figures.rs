//! Figures as a program reads them (`Serialize`: numbers) and as a person does (`Display`).

use std::fmt;

use serde::Serialize;

/// A number of visitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Count(pub(super) u64);

impl fmt::Display for Count {
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
pub(super) struct Share(pub(super) Option<f64>);

impl Share {
    pub(super) fn of(part: f64, whole: f64) -> Self {
        Self((whole > 0.0).then(|| part / whole))
    }

    /// In per cent, 0 to 100, as a length in a drawing.
    pub(super) fn length(self) -> f64 {
        (self.0.unwrap_or(0.0) * 1000.0).round().clamp(0.0, 1000.0) / 10.0
    }
}

impl fmt::Display for Share {
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
pub(super) struct Ratio(pub(super) Option<f64>);

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ratio) => write!(f, "{ratio:.3}"),
            None => f.write_str("–"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_groups_per_cent_and_three_places() {
        let count = |count| Count(count).to_string();
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!(Share::of(1.0, 3.0).to_string(), "33.3\u{202f}%");
        assert_eq!((Share::of(0.0, 0.0).to_string(), Share::of(0.0, 0.0).length()), ("–".to_owned(), 0.0));
        assert_eq!((Share::of(1.0, 3.0).length(), Share::of(5.0, 3.0).length()), (33.3, 100.0));
        assert_eq!(
            (Ratio(Some(1.0 / 3.0)).to_string(), Ratio(None).to_string()),
            ("0.333".into(), "–".into())
        );
    }

    #[test]
    fn a_program_reads_numbers() {
        let json = |share: Share| serde_json::to_string(&share).unwrap();
        assert_eq!((json(Share::of(1.0, 4.0)), json(Share::of(1.0, 0.0))), ("0.25".into(), "null".into()));
        assert_eq!(serde_json::to_string(&Count(1_000)).unwrap(), "1000");
    }
}
