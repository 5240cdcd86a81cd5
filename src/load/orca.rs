//! ORCA's `endpoint-load-metrics`: `TEXT cpu_utilization=0.3, named_metrics.sessions=12` or `JSON {…}`.
//!
//! | key | what becomes of it |
//! | --- | --- |
//! | `application_utilization` | the utilization, unless it is 0, which stands for "not set" |
//! | `cpu_utilization` | the utilization otherwise |
//! | `rps_fractional` (or `rps`) | the rate |
//! | `named_metrics.sessions` (or `active_sessions`) | the sessions |
//! | `named_metrics.capacity` | the capacity |
//!
//! All other keys are passed over. JSON may write a key as protobuf does, `cpuUtilization`.

use serde_json::{Map, Value};

use super::{Refused, malformed};
use crate::estimate::RawReport;

/// What is read, before one of two is preferred.
#[derive(Default)]
struct Metrics {
    application: Option<f64>,
    cpu: Option<f64>,
    rate: Option<f64>,
    sessions: Option<f64>,
    capacity: Option<f64>,
}

impl Metrics {
    /// The place of a key, `None` where nobody asks for it.
    fn place(&mut self, key: &str) -> Option<&mut Option<f64>> {
        Some(match key {
            "application_utilization" | "applicationUtilization" => &mut self.application,
            "cpu_utilization" | "cpuUtilization" => &mut self.cpu,
            "rps_fractional" | "rpsFractional" | "rps" => &mut self.rate,
            "named_metrics.sessions" | "named_metrics.active_sessions" => &mut self.sessions,
            "named_metrics.capacity" => &mut self.capacity,
            _ => return None,
        })
    }

    fn claim(self) -> RawReport {
        let said = [self.application, self.cpu];
        // A wrong one is never passed over for the other: it is to be refused.
        let wrong = said.into_iter().flatten().find(|value| !(0.0..).contains(value));
        let preferred = self.application.filter(|value| *value > 0.0);
        RawReport {
            sessions: self.sessions,
            utilization: wrong.or(preferred).or(self.cpu).or(self.application),
            capacity: self.capacity,
            rate: self.rate,
            age: 0.0,
        }
    }
}

/// Reads what follows `TEXT`.
pub(super) fn text(list: &str) -> Result<RawReport, Refused> {
    let mut metrics = Metrics::default();
    for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return malformed("a part of ORCA's TEXT form is no key=value");
        };
        let Some(place) = metrics.place(key.trim()) else { continue };
        match value.trim().parse() {
            Ok(value) if place.is_none() => *place = Some(value),
            Ok(_) => return malformed(format!("{} is said twice", key.trim())),
            Err(_) => return malformed(format!("{} is no number", key.trim())),
        }
    }
    Ok(metrics.claim())
}

/// Reads what follows `JSON`.
pub(super) fn json(document: &str) -> Result<RawReport, Refused> {
    let members: Map<String, Value> = match serde_json::from_str(document) {
        Ok(members) => members,
        Err(_) => return malformed("ORCA's JSON form takes an object"),
    };
    let mut metrics = Metrics::default();
    for (key, value) in &members {
        match value {
            Value::Object(named) if key == "named_metrics" || key == "namedMetrics" => {
                for (name, value) in named {
                    metrics.take(&format!("named_metrics.{name}"), value)?;
                }
            }
            _ => metrics.take(key, value)?,
        }
    }
    Ok(metrics.claim())
}

impl Metrics {
    fn take(&mut self, key: &str, value: &Value) -> Result<(), Refused> {
        let Some(place) = self.place(key) else { return Ok(()) };
        match number(value) {
            Some(_) if place.is_some() => malformed(format!("{key} is said twice")),
            Some(number) => {
                *place = Some(number);
                Ok(())
            }
            None => malformed(format!("{key} is no number")),
        }
    }
}

/// A number, or a text that is one: that is how protobuf's JSON writes those that are not finite.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let said = text(
            " cpu_utilization=0.3, mem_utilization=0.8, application_utilization=0.5, rps_fractional=10, eps=1,\
             named_metrics.q=0.4, named_metrics.sessions = 12, named_metrics.capacity=40",
        );
        let expected = RawReport {
            sessions: Some(12.0),
            utilization: Some(0.5),
            capacity: Some(40.0),
            rate: Some(10.0),
            age: 0.0,
        };
        assert_eq!(said, Ok(expected));
        let said = json(
            r#"{"cpu_utilization": 0.3, "application_utilization": 0.5, "rps_fractional": 10, "eps": "x",
                "request_cost": {"a": 1}, "named_metrics": {"q": "?", "active_sessions": 12, "capacity": 40}}"#,
        );
        assert_eq!(said, Ok(expected));
        let said = json(
            r#"{"applicationUtilization": "0.5", "rpsFractional": 10,
                            "namedMetrics": {"sessions": 12, "capacity": 40}}"#,
        );
        assert_eq!(said, Ok(expected));
    }

    #[test]
    fn the_application_is_believed_before_the_processor_unless_it_says_nothing() {
        let utilization = |list: &str| text(list).unwrap().utilization;
        assert_eq!(utilization("cpu_utilization=0.3,application_utilization=0.9"), Some(0.9));
        assert_eq!(utilization("cpu_utilization=0.3,application_utilization=0.0"), Some(0.3));
        assert_eq!(utilization("application_utilization=0"), Some(0.0));
        assert_eq!(utilization("cpu_utilization=1.3"), Some(1.3));
        // What is wrong is not hidden by what is right.
        assert_eq!(utilization("cpu_utilization=-1,application_utilization=0.5"), Some(-1.0));
        assert!(utilization("cpu_utilization=0.5,application_utilization=nan").unwrap().is_nan());
        assert_eq!(utilization("eps=1"), None);
    }

    #[test]
    fn what_is_wrong_refuses_all_of_it() {
        for bad in [
            "cpu_utilization",
            "cpu_utilization=",
            "cpu_utilization=high",
            "cpu_utilization=0.1,cpu_utilization=0.2",
        ] {
            assert!(matches!(text(bad), Err(Refused::Malformed(_))), "{bad}");
        }
        for bad in [
            "",
            "[]",
            "{",
            "0.5",
            r#"{"cpu_utilization": null}"#,
            r#"{"cpu_utilization": [1]}"#,
            r#"{"rps": 1, "rps_fractional": 1}"#,
            r#"{"named_metrics": {"sessions": true}}"#,
        ] {
            assert!(matches!(json(bad), Err(Refused::Malformed(_))), "{bad}");
        }
    }
}
