//! HAProxy's `agent-check`: a line of words such as `75% up`, in any order, apart by spaces or commas.
//!
//! | word | what it asks for |
//! | --- | --- |
//! | `75%` | three quarters of its weight; as a load, a quarter of the backend is in use |
//! | `drain` | no new visitors, those who are pinned to it stay |
//! | `maint` | nobody |
//! | `ready` | the end of `drain` and `maint` |
//! | `down`, `stopped`, `fail` | it counts as down |
//! | `up` | the end of that |
//! | `maxconn:30` | nothing here: a redirected visitor's connection is not ours to hold back |
//!
//! Upper and lower case are one. What follows a `#` is for people. What is not said stays as it was; a percentage holds
//! until it expires.

use super::{Refused, malformed};
use crate::estimate::Claim;
use crate::fleet::{Admin, Percent};

/// The longest line, without its end.
pub const MAX_LINE: usize = 1024;

/// What a line says. Where two words of it disagree, the last counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// How much of its weight it asks for; more than all of it counts as all.
    pub percent: Option<Percent>,
    /// Whether it wants visitors.
    pub admin: Option<Admin>,
    /// Whether it calls itself down.
    pub is_down: Option<bool>,
}

impl Line {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// A word that is none of these, or no word at all.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let Ok(text) = std::str::from_utf8(line) else { return malformed("the agent's line is no text") };
        let mut said = Self::default();
        let words = text.split('#').next().unwrap_or_default();
        let mut count = 0;
        for word in words.split([' ', '\t', ',', '\r']).filter(|word| !word.is_empty()) {
            count += 1;
            said.take(word)?;
        }
        if count == 0 { malformed("the agent's line is empty") } else { Ok(said) }
    }

    fn take(&mut self, word: &str) -> Result<(), Refused> {
        match word.to_ascii_lowercase().as_str() {
            "ready" => self.admin = Some(Admin::Active),
            "drain" => self.admin = Some(Admin::Draining),
            "maint" => self.admin = Some(Admin::Maintenance),
            "up" => self.is_down = Some(false),
            "down" | "stopped" | "fail" => self.is_down = Some(true),
            word => match (word.strip_suffix('%'), word.strip_prefix("maxconn:")) {
                (Some(number), _) => self.percent = Some(Percent::new(whole(number)?)),
                (_, Some(number)) => drop(whole(number)?),
                _ => return malformed("the agent's line has a word that is none of HAProxy's"),
            },
        }
        Ok(())
    }

    /// The load that the percentage stands for, where there is one.
    pub fn claim(self) -> Option<Claim> {
        let in_use = 1.0 - f64::from(self.percent?.get()) / 100.0;
        Some(Claim { utilisation: Some(in_use), ..Claim::default() })
    }
}

fn whole(number: &str) -> Result<u32, Refused> {
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    match number.parse() {
        Ok(number) if digits => Ok(number),
        _ => malformed("the agent's line has a number that is no whole one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Line {
        Line::parse(line.as_bytes()).unwrap_or_else(|why| panic!("{line:?}: {why}"))
    }

    #[test]
    fn words_stand_in_any_order() {
        let all =
            Line { percent: Some(Percent::new(75)), admin: Some(Admin::Maintenance), is_down: Some(true) };
        for line in ["75%,maxconn:30,maint,down", "down maint\t75%  maxconn:0", "DOWN, Maint 75% # 80% up\r"]
        {
            assert_eq!(parse(line), all, "{line:?}");
        }
        assert_eq!(parse("ready up").admin, Some(Admin::Active));
        assert_eq!(parse("ready up").is_down, Some(false));
        for word in ["down", "stopped", "fail"] {
            assert_eq!(parse(word), Line { is_down: Some(true), ..Line::default() });
        }
        assert_eq!(parse("drain ready").admin, Some(Admin::Active), "the last counts");
        assert_eq!(parse("maxconn:30"), Line::default());
    }

    #[test]
    fn a_percentage_is_what_is_left() {
        let in_use = |line: &str| parse(line).claim().map(|claim| claim.utilisation.unwrap());
        assert_eq!([in_use("75%"), in_use("0%"), in_use("100%")], [Some(0.25), Some(1.0), Some(0.0)]);
        assert_eq!(in_use("25600%"), Some(0.0), "more than all is all");
        assert_eq!(in_use("up"), None);
    }

    #[test]
    fn what_is_none_of_these_refuses_the_line() {
        for bad in
            ["", "  ,", "# down", "x%", "-5%", "+5%", "7.5%", "%", "99999999999%", "up later", "maxconn:x"]
        {
            assert!(matches!(Line::parse(bad.as_bytes()), Err(Refused::Malformed(_))), "{bad:?}");
        }
        assert!(Line::parse(b"\xff").is_err());
    }
}
