//! What backends say of their load: every form that is read, from bytes to a [`RawReport`].
//!
//! # Trust
//! All of it comes from the network. Whoever reads it bounds its length; nothing here panics or allocates more than
//! what it was given, and numbers are as they were said: [`Report::new`] judges them.

pub mod agent;
mod json;
mod orca;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::estimate::{InvalidReport, RawReport, Report};
use crate::metrics::ReportResult;
use crate::settings::{LoadSettings, LoadUnit};

pub use json::{body, push};

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing was said, where something is said else.
    Missing,
    /// What was said is in no form that is known.
    Malformed(String),
    /// The agent did not answer.
    Unreachable(String),
    /// It makes no sense.
    InvalidReport(InvalidReport),
}

impl Refused {
    /// As what it is counted.
    pub fn told(&self) -> ReportResult {
        match self {
            Self::Missing => ReportResult::Missing,
            Self::Malformed(_) => ReportResult::Malformed,
            Self::Unreachable(_) => ReportResult::Unreachable,
            Self::InvalidReport(nonsense) => ReportResult::from(*nonsense),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no load where it should be"),
            Self::Malformed(why) | Self::Unreachable(why) => f.write_str(why),
            Self::InvalidReport(nonsense) => f.write_str(nonsense.expected()),
        }
    }
}

impl From<InvalidReport> for Refused {
    fn from(nonsense: InvalidReport) -> Self {
        Self::InvalidReport(nonsense)
    }
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Malformed(why.into()))
}

/// Reads a header: one of ORCA's forms, or a number in `unit`.
///
/// # Errors
/// It is in no such form.
pub fn header(value: &[u8], unit: LoadUnit) -> Result<RawReport, Refused> {
    let Ok(text) = std::str::from_utf8(value) else { return malformed("the header is no text") };
    let text = text.trim();
    match text.split_once(' ') {
        Some(("TEXT", rest)) => orca::text(rest),
        Some(("JSON", rest)) => orca::json(rest),
        Some(("BIN", _)) => malformed("ORCA's BIN form is not read, only TEXT and JSON"),
        _ => match text.parse() {
            Ok(number) => Ok(in_unit(number, unit)),
            Err(_) => malformed("the header is neither ORCA's TEXT or JSON form nor a number"),
        },
    }
}

/// What a number claims that stands alone.
fn in_unit(number: f64, unit: LoadUnit) -> RawReport {
    let mut claim = RawReport::default();
    match unit {
        LoadUnit::Sessions => claim.sessions = Some(number),
        LoadUnit::Utilization => claim.utilization = Some(number),
        LoadUnit::Percent => claim.utilization = Some(number / 100.0),
        LoadUnit::RequestsPerSecond => claim.rate = Some(number),
    }
    claim
}

/// A claim that makes sense by what the settings say.
///
/// # Errors
/// It makes none.
pub fn report(claim: RawReport, load: &LoadSettings) -> Result<Report, Refused> {
    Ok(Report::new(claim, load.max_age.0)?)
}

/// The age of what was so at a time in seconds since 1970, by this machine's clock.
fn age_of(at: f64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    now - at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::agent::AgentReply;
    use crate::settings::{JsonPointer, SettingValue as _};

    #[test]
    fn a_number_is_in_the_unit_of_the_settings() {
        let claim = |text: &str, unit| header(text.as_bytes(), unit).unwrap();
        assert_eq!(claim("12", LoadUnit::Sessions).sessions, Some(12.0));
        assert_eq!(claim(" 0.5 ", LoadUnit::Utilization).utilization, Some(0.5));
        assert_eq!(claim("50", LoadUnit::Percent).utilization, Some(0.5));
        assert_eq!(claim("7.5", LoadUnit::RequestsPerSecond).rate, Some(7.5));
        // It is a number, and what becomes of it is another's to say.
        assert!(claim("NaN", LoadUnit::Sessions).sessions.unwrap().is_nan());
        for bad in [&b"x"[..], b"", b"12 sessions", b"BIN AAAA", b"\xff", b"text a=1", b"TEXT"] {
            assert!(matches!(header(bad, LoadUnit::Sessions), Err(Refused::Malformed(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_come_through_as_they_were_said(value: f64, other in 0.0..1e300) {
            let same = |a: Option<f64>, b: f64| a.is_some_and(|a| a == b || a.is_nan() && b.is_nan());
            let text = format!("TEXT named_metrics.sessions={value},x=?, rps_fractional={other}");
            let claim = header(text.as_bytes(), LoadUnit::Percent).unwrap();
            prop_assert!(same(claim.sessions, value) && same(claim.rate, other));
            let json = serde_json::json!({ "sessions": other, "x": [], "capacity": other });
            let claim = body(json.to_string().as_bytes(), &JsonPointer::parse("").unwrap(), LoadUnit::Percent);
            // serde_json reads the last bit of a number fast rather than exactly.
            prop_assert!((claim.unwrap().capacity.unwrap() / other - 1.0).abs() < 1e-12 || other < 1e-300);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, text in "(TEXT|JSON|BIN)? ?[{}\\[\\]\",:=a-z_.0-9%e +-]{0,60}") {
            for said in [&bytes[..], text.as_bytes()] {
                let _ = (header(said, LoadUnit::Sessions), push(said), AgentReply::parse(said));
                let _ = body(said, &JsonPointer::parse("/load").unwrap(), LoadUnit::Sessions);
            }
        }
    }
}
