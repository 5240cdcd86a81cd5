//! HAProxy's `agent-check`: a line of words such as `75% up`, read by HAProxy's rules (`tcpcheck_agent_expect_reply`).
//!
//! | word | effect |
//! | --- | --- |
//! | `75%`, `weight:75%` | three quarters of its weight; as a load, a quarter of the backend is in use |
//! | `weight:30` | a weight of 30 |
//! | `drain` | no new clients; those that are pinned to it stay |
//! | `maint` | no clients |
//! | `ready` | ends `drain` and `maint` |
//! | `down`, `stopped`, `fail` | it counts as down |
//! | `up` | ends that |
//! | `maxconn:30` | nothing: a client's connection does not go through here |
//!
//! Words are separated by spaces, tabs or commas, and their case does not matter. Of several words of one kind the last
//! counts. A word that begins with `#` begins a description. Other words are ignored, and the known ones beside them count.
//! What a line does not mention stays as it was; a weight holds until it expires.

use super::{Refused, malformed};
use crate::estimate::RawReport;
use crate::fleet::{AdminState, AgentWeight, Weight};

/// The longest line, without its end: HAProxy's default buffer (`tune.bufsize`).
pub const MAX_LINE: usize = 16 * 1024;

/// How much of an unknown word or a description is kept, in bytes.
const MAX_TEXT: usize = 128;

/// What a line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentReply {
    /// The weight that it asks for.
    pub weight: Option<AgentWeight>,
    /// Whether it accepts clients.
    pub admin: Option<AdminState>,
    /// Whether it reports itself as down.
    pub is_down: Option<bool>,
    /// What follows a `#`.
    pub description: Option<Box<str>>,
    /// The first word that was ignored because it is unknown or has a wrong number.
    pub ignored: Option<Box<str>>,
}

impl AgentReply {
    /// Parses a line without its end.
    ///
    /// # Errors
    /// If it has no word that is known, or a byte of 0, at which HAProxy stops to read.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        if line.contains(&0) {
            return malformed("the agent's line has a byte of 0");
        }
        let mut parsed = Self::default();
        // As in HAProxy, the last word that looks like a weight counts, right or wrong.
        let mut weight = None;
        let mut is_known = false;
        let mut rest = line;
        loop {
            let begins = rest.iter().position(|byte| !is_separator(byte)).unwrap_or(rest.len());
            rest = &rest[begins..];
            if rest.is_empty() {
                break;
            }
            if let [b'#', description @ ..] = rest {
                let description = text(description.trim_ascii());
                parsed.description = (!description.is_empty()).then_some(description);
                break;
            }
            let ends = rest.iter().position(is_separator).unwrap_or(rest.len());
            let (word, after) = rest.split_at(ends);
            rest = after;
            match parsed.take(word) {
                AgentWord::Known => is_known = true,
                AgentWord::Weight(number) => weight = Some((word, number)),
                AgentWord::Unknown => parsed.ignore(word),
            }
        }
        if let Some((word, number)) = weight {
            match parse_weight(number) {
                Some(weight) => (parsed.weight, is_known) = (Some(weight), true),
                None => parsed.ignore(word),
            }
        }
        match &parsed.ignored {
            _ if is_known => Ok(parsed),
            Some(word) => malformed(format!("the agent's line has no word of HAProxy's: \"{word}\"")),
            None => malformed("the agent's line is empty"),
        }
    }

    fn take<'a>(&mut self, word: &'a [u8]) -> AgentWord<'a> {
        match word.to_ascii_lowercase().as_slice() {
            b"ready" => self.admin = Some(AdminState::Active),
            b"drain" => self.admin = Some(AdminState::Draining),
            b"maint" => self.admin = Some(AdminState::Maintenance),
            b"up" => self.is_down = Some(false),
            b"down" | b"stopped" | b"fail" => self.is_down = Some(true),
            [b'0'..=b'9', rest @ ..] if rest.contains(&b'%') => return AgentWord::Weight(word),
            [b'w', b'e', b'i', b'g', b'h', b't', b':', ..] => {
                return AgentWord::Weight(&word[b"weight:".len()..]);
            }
            [b'm', b'a', b'x', b'c', b'o', b'n', b'n', b':', number @ ..] => {
                // Any number: HAProxy rejects only what is none.
                if split_number(number).is_none_or(|(_, rest)| !rest.is_empty()) {
                    return AgentWord::Unknown;
                }
            }
            _ => return AgentWord::Unknown,
        }
        AgentWord::Known
    }

    fn ignore(&mut self, word: &[u8]) {
        self.ignored.get_or_insert_with(|| text(word));
    }

    /// Returns the load that a percentage means, if there is one. An absolute weight means none.
    pub fn claim(&self) -> Option<RawReport> {
        let AgentWeight::Percent(percent) = self.weight? else { return None };
        let in_use = (1.0 - f64::from(percent) / 100.0).max(0.0);
        Some(RawReport { utilization: Some(in_use), ..RawReport::default() })
    }
}

/// What a word is.
enum AgentWord<'a> {
    Known,
    /// A weight, with its number and perhaps `%`.
    Weight(&'a [u8]),
    Unknown,
}

fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b',')
}

/// Returns bytes from the network as text for the log.
fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into()
}

/// Parses `75%` or `30` as HAProxy's `server_parse_weight_change_request` does; `None` if that would ignore it.
fn parse_weight(text: &[u8]) -> Option<AgentWeight> {
    match split_number(text)? {
        (number, b"%") => Some(AgentWeight::percent(u32::try_from(number).ok()?)),
        (number, b"") => Weight::new(u16::try_from(number).ok()?).map(AgentWeight::Absolute),
        _ => None,
    }
}

/// Splits off a leading number as C's `strtol` reads it, at most [`i32::MAX`]; `None` if there is none.
fn split_number(text: &[u8]) -> Option<(i32, &[u8])> {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = digits.split_at(count);
    let add = |sum: i32, digit: &u8| sum.saturating_mul(10).saturating_add(i32::from(digit - b'0'));
    let number = digits.iter().fold(0, add);
    (count > 0).then_some((if is_negative { -number } else { number }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> AgentReply {
        AgentReply::parse(line.as_bytes()).unwrap_or_else(|why| panic!("{line:?}: {why}"))
    }

    // What HAProxy makes of many more lines is compared in tests/it/agent.rs.
    #[test]
    fn accepts_words_in_any_order() {
        let all = AgentReply {
            weight: Some(AgentWeight::percent(75)),
            admin: Some(AdminState::Maintenance),
            is_down: Some(true),
            ..AgentReply::default()
        };
        for line in ["75%,maxconn:30,maint,down", "down maint\t75%  maxconn:0", "DOWN, Maint weight:75%"] {
            assert_eq!(parse(line), all, "{line:?}");
        }
        let described = parse("stopped # backup runs, 75% done ");
        assert_eq!((described.is_down, described.weight), (Some(true), None));
        assert_eq!(described.description.as_deref(), Some("backup runs, 75% done"));
        assert_eq!(parse("drain ready").admin, Some(AdminState::Active), "the last counts");
    }

    #[test]
    fn a_percentage_is_the_capacity_left() {
        let in_use = |line: &str| parse(line).claim().map(|claim| claim.utilization.unwrap());
        assert_eq!([in_use("75%"), in_use("0%"), in_use("100%")], [Some(0.25), Some(1.0), Some(0.0)]);
        assert_eq!(in_use("150%"), Some(0.0), "a utilization is not below 0");
        assert_eq!([in_use("up"), in_use("weight:30")], [None; 2]);
    }

    #[test]
    fn a_word_that_is_ignored_is_named() {
        assert_eq!(parse("up later 75%").ignored.as_deref(), Some("later"));
        assert_eq!(parse("up 7.5%").ignored.as_deref(), Some("7.5%"));
        let long = parse(&format!("up {}", "x".repeat(5000)));
        assert_eq!(long.ignored.unwrap().len(), MAX_TEXT);
    }

    #[test]
    fn rejects_lines_without_a_known_word() {
        for bad in ["", "  ,", "# down", "busy", "x%", "-5%", "+5%", "7.5%", "%", "weight:257", "up\0"] {
            assert!(matches!(AgentReply::parse(bad.as_bytes()), Err(Refused::Malformed(_))), "{bad:?}");
        }
        assert!(AgentReply::parse(b"\xff").is_err());
    }
}
