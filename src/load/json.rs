//! Load as JSON: a part of a probe's answer, or the body of a push.
//!
//! The part is a number, in the unit of the settings, or an object of `sessions`, `utilization`,
//! `capacity`, `requests_per_second`, and when that was: `age` in seconds, or `at`, in seconds since 1970 or as a date
//! of RFC 3339. A member that is null says nothing.

use std::time::UNIX_EPOCH;

use serde_json::{Map, Value};

use super::{Refused, age_of, in_unit, malformed};
use crate::estimate::RawReport;
use crate::settings::{JsonPointer, LoadUnit};

/// The members of a push, for who sends another.
const MEMBERS: &str = "sessions, utilization, capacity, requests_per_second, and age or at";

/// Reads the part of a JSON body at `json_pointer`. Members that are not known are passed over: the object may be
/// there for others too.
///
/// # Errors
/// There is no such part, or it is in no form that is known.
pub fn body(body: &[u8], field: &JsonPointer, unit: LoadUnit) -> Result<RawReport, Refused> {
    let document: Value = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(_) => return malformed("the body is no JSON"),
    };
    match document.pointer(field.as_str()) {
        None | Some(Value::Null) => Err(Refused::Missing),
        Some(Value::Object(members)) => object(members).map(|(claim, _)| claim),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(in_unit(number, unit)),
            None => malformed(format!("{field} is neither a number nor an object")),
        },
    }
}

/// Reads the body of a push. A member that is not known is an error: it is a slip of who wrote it for this.
///
/// # Errors
/// What is wrong with which member, and what it takes.
pub fn push(body: &[u8]) -> Result<RawReport, Refused> {
    let document: Value = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(error) => return malformed(format!("the body is no JSON: {error}")),
    };
    let Value::Object(members) = document else {
        return malformed(format!("the body takes an object of {MEMBERS}"));
    };
    match object(&members)? {
        (claim, None) => Ok(claim),
        (_, Some(unknown)) => malformed(format!("{unknown}: no such member, takes {MEMBERS}")),
    }
}

/// Reads an object, and says which member of it nobody knows.
fn object(members: &Map<String, Value>) -> Result<(RawReport, Option<&str>), Refused> {
    let mut claim = RawReport::default();
    let (mut age, mut unknown) = (None, None);
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let (place, parsed, takes) = match name.as_str() {
            "sessions" => (&mut claim.sessions, value.as_f64(), "a number of active sessions"),
            "utilization" => (&mut claim.utilization, value.as_f64(), "a number, where 1 is full"),
            "capacity" => (&mut claim.capacity, value.as_f64(), "a number of sessions, more than 0"),
            "requests_per_second" => (&mut claim.rate, value.as_f64(), "a number"),
            "age" => (&mut age, value.as_f64(), "a number of seconds"),
            "at" => (
                &mut age,
                seconds(value).map(age_of),
                "seconds since 1970 or a date such as \"2026-01-31T12:00:00Z\"",
            ),
            _ => {
                unknown = unknown.or(Some(name.as_str()));
                continue;
            }
        };
        match parsed {
            None => return malformed(format!("{name}: got {}, takes {takes}", shown(value))),
            Some(_) if place.is_some() => return malformed(format!("{name}: it is said twice")),
            Some(_) => *place = parsed,
        }
    }
    claim.age = age.unwrap_or(0.0);
    Ok((claim, unknown))
}

/// A time in seconds since 1970.
fn seconds(value: &Value) -> Option<f64> {
    let date = |text: &str| {
        let time = humantime::parse_rfc3339_weak(text).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    };
    value.as_f64().or_else(|| date(value.as_str()?))
}

/// A value as an error shows it, cut where it is long.
fn shown(value: &Value) -> String {
    const MOST: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingValue as _;

    fn at(text: &str, field: &str) -> Result<RawReport, Refused> {
        body(text.as_bytes(), &JsonPointer::parse(field).unwrap(), LoadUnit::Sessions)
    }

    #[test]
    fn the_pointer_leads_to_a_number_or_an_object() {
        assert_eq!(at(r#"{"load": 7}"#, "/load").unwrap().sessions, Some(7.0));
        assert_eq!(at("7.5", "").unwrap().sessions, Some(7.5));
        assert_eq!(at(r#"{"a": [{"b/c": 3}]}"#, "/a/0/b~1c").unwrap().sessions, Some(3.0));
        let text = r#"{"load": {"sessions": 3, "utilization": 0.5, "capacity": 6, "requests_per_second": 9.5,
                       "age": 1.5, "name": "x", "note": null}}"#;
        let expected = RawReport {
            sessions: Some(3.0),
            utilization: Some(0.5),
            capacity: Some(6.0),
            rate: Some(9.5),
            age: 1.5,
        };
        assert_eq!(at(text, "/load"), Ok(expected));
        for (text, field) in [(r#"{"load": 1}"#, "/other"), (r#"{"load": null}"#, "/load"), ("[]", "/0")] {
            assert_eq!(at(text, field), Err(Refused::Missing), "{text} {field}");
        }
        for (text, field) in [("", ""), ("{", ""), ("NaN", ""), ("[1]", ""), ("true", ""), ("1e999", "")] {
            assert!(matches!(at(text, field), Err(Refused::Malformed(_))), "{text}");
        }
        assert!(matches!(at(&"[".repeat(60_000), ""), Err(Refused::Malformed(_))), "however deep");
    }

    #[test]
    fn a_push_names_what_is_wrong() {
        let pushed = |text: &str| push(text.as_bytes());
        assert_eq!(pushed(r#"{"sessions": 3, "capacity": null}"#).unwrap().sessions, Some(3.0));
        for (text, says) in [
            ("{", "no JSON"),
            ("[]", "an object of sessions"),
            (r#"{"sessions": "many"}"#, "sessions: got \"many\", takes a number of active sessions"),
            (r#"{"capacity": []}"#, "capacity: got [], takes"),
            (r#"{"at": "yesterday"}"#, "at: got \"yesterday\", takes seconds since 1970"),
            (r#"{"age": 1, "at": 1}"#, "said twice"),
            (r#"{"utilisation": 1}"#, "utilisation: no such member, takes sessions, utilization,"),
            (r#"{"sesions": 3}"#, "sesions: no such member"),
        ] {
            match pushed(text) {
                Err(Refused::Malformed(why)) => assert!(why.contains(says), "{text}: {why}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_time_becomes_an_age() {
        let now = age_of(0.0);
        let age = |at: &str| push(format!(r#"{{"sessions": 1, "at": {at}}}"#).as_bytes()).unwrap().age;
        assert!((9.0..60.0).contains(&age(&(now - 10.0).to_string())));
        assert!(age(&(now + 3600.0).to_string()) < -3000.0);
        assert!(age("\"2020-01-01T00:00:00Z\"") > 1e8);
        assert_eq!(push(b"{\"sessions\": 1}").unwrap().age, 0.0);
    }
}
