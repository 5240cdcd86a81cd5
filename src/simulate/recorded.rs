//! Visitors as an access log has them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

/// Visitors in the order of their coming.
pub(super) type Recorded = Arc<[RecordedSession]>;

/// A recorded visitor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RecordedSession {
    /// Since the first one.
    pub(super) at: Duration,
    /// How long it stayed, where the log says.
    pub(super) stays: Option<f64>,
}

/// Reads the access log that `log.format = "json"` writes: each line that names a backend is a visitor. `length` is the
/// field that has its length in seconds, which the backends' own log may add.
///
/// # Errors
/// What is wrong, with the line's number.
pub(super) fn read(path: &Path, length: Option<&str>) -> Result<Recorded, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    parse(BufReader::new(file), length)
}

fn parse(log: impl BufRead, length: Option<&str>) -> Result<Recorded, String> {
    let mut visitors = Vec::new();
    for (number, line) in log.lines().enumerate() {
        let line = line.map_err(|error| error.to_string())?;
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        if line.trim().is_empty() {
            continue;
        }
        let fields: Value = serde_json::from_str(&line).map_err(|error| wrong(&error.to_string()))?;
        if fields.get("backend").is_none_or(Value::is_null) {
            continue;
        }
        let time = fields.get("timestamp").and_then(Value::as_str).ok_or_else(|| wrong("no timestamp"))?;
        let time = humantime::parse_rfc3339_weak(time).map_err(|error| wrong(&error.to_string()))?;
        let stays = length.map(|name| {
            let seconds = fields.get(name).and_then(Value::as_f64);
            seconds.filter(|seconds| *seconds >= 0.0).ok_or_else(|| wrong(&format!("{name}: takes seconds")))
        });
        visitors.push((time, stays.transpose()?));
    }
    // Lines of several workers are not quite in order.
    visitors.sort_by_key(|(time, _)| *time);
    let first = visitors.first().ok_or("no visitor in it")?.0;
    let arrival = |(time, stays): (std::time::SystemTime, _)| RecordedSession {
        at: time.duration_since(first).unwrap_or_default(),
        stays,
    };
    Ok(visitors.into_iter().map(arrival).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
{"timestamp":"2026-11-21T10:00:01.500Z","backend":"a","session_seconds":12.5}
{"timestamp":"2026-11-21T10:00:00.000Z","backend":"b","session_seconds":3}
{"timestamp":"2026-11-21T10:00:02.000Z","backend":null,"rejection":"unknown_host"}
"#;

    #[test]
    fn visitors_come_as_they_came() {
        let arrival = |millis, stays| RecordedSession { at: Duration::from_millis(millis), stays };
        let read = parse(LOG.as_bytes(), Some("session_seconds")).unwrap();
        assert_eq!(*read, [arrival(0, Some(3.0)), arrival(1500, Some(12.5))]);
        assert_eq!(parse(LOG.as_bytes(), None).unwrap()[1], arrival(1500, None));
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        for (log, told) in [
            ("", "no visitor"),
            ("{}\n{\"backend\":\"a\"}", "line 2: no timestamp"),
            ("nonsense", "line 1"),
            (r#"{"timestamp":"2026-11-21T10:00:00Z","backend":"a"}"#, "session_seconds"),
            (r#"{"timestamp":"2026-11-21T10:00:00Z","backend":"a","session_seconds":-1}"#, "session_seconds"),
        ] {
            let error = parse(log.as_bytes(), Some("session_seconds")).unwrap_err();
            assert!(error.contains(told), "{log}: {error}");
        }
    }
}
