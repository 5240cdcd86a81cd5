//! What an HTTP health check sends beyond method and path, and what it expects of a body.

use std::fmt;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

use super::reader::Section;
use super::values::{SettingValue, serialize_as_string};
use crate::fleet::Host;

/// Header fields of a health check's request, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeHeaders(Vec<(HeaderName, HeaderValue)>);

/// Fields that frame the message or the connection: a value of the settings would contradict what is sent.
const FRAMING: [HeaderName; 10] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

impl ProbeHeaders {
    /// Reads a table of values by field name. What is wrong is noted and left out.
    pub(super) fn read(section: Section<'_>) -> Self {
        let context = section.context();
        let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, key, value) in section.named_values::<FieldValue>() {
            let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
                context.problem(
                    &key,
                    format!("{name:?} is not a field name (expected one such as \"X-Api-Key\")"),
                );
                continue;
            };
            if FRAMING.contains(&field) {
                context.problem(&key, "this field frames the message or the connection and cannot be set");
            } else if fields.iter().any(|(other, _)| *other == field) {
                context.problem(&key, "this field is set twice: names are compared without case");
            } else if field == HOST && !std::str::from_utf8(value.0.as_bytes()).is_ok_and(is_host) {
                context.problem(&key, "not a host (expected one such as \"www.example.com\")");
            } else {
                fields.push((field, value.0));
            }
        }
        Self(fields)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each field.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// `Host`, if it is among them.
    pub fn host(&self) -> Option<&str> {
        self.iter().find(|(name, _)| **name == HOST).and_then(|(_, value)| value.to_str().ok())
    }
}

/// Values may be credentials, so they are not printed.
impl Serialize for ProbeHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, _)| (name.as_str(), "(masked)")))
    }
}

fn is_host(text: &str) -> bool {
    Host::parse(text.as_bytes()).is_some()
}

/// The value of a header field.
struct FieldValue(HeaderValue);

impl SettingValue for FieldValue {
    fn parse(text: &str) -> Result<Self, String> {
        match HeaderValue::from_bytes(text.as_bytes()) {
            Ok(mut value) => {
                // Not printed by `Debug` either.
                value.set_sensitive(true);
                Ok(Self(value))
            }
            Err(_) => Err("the value of a header field: one line without control characters".to_owned()),
        }
    }
}

/// What the body of a response must contain: a text, or a match of a regular expression.
#[derive(Clone, Debug)]
pub struct ExpectedBody {
    /// As it is written.
    text: String,
    regex: Option<Regex>,
}

impl ExpectedBody {
    /// The longest text or expression, in bytes.
    const MAX: usize = 4096;
    /// The most memory that a compiled expression may take, in bytes.
    const MAX_COMPILED: usize = 1 << 20;

    /// Whether a body is as expected. Linear in its length, and in the length of the expression.
    pub fn matches(&self, body: &[u8]) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(body),
            None => memchr::memmem::find(body, self.text.as_bytes()).is_some(),
        }
    }

    /// What is lacking in a body that does not match, in words.
    pub fn complaint(&self) -> String {
        match self.regex {
            Some(_) => format!("the body does not match {}", self.text),
            None => format!("the body does not contain {:?}", self.text),
        }
    }
}

impl PartialEq for ExpectedBody {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl SettingValue for ExpectedBody {
    fn parse(text: &str) -> Result<Self, String> {
        const TAKES: &str =
            "a text that the body contains, or a regular expression between slashes, such as \"/^ok$/\"";
        if text.is_empty() {
            return Err(TAKES.to_owned());
        }
        if text.len() > Self::MAX {
            return Err(format!("{TAKES}, of at most {} bytes", Self::MAX));
        }
        let inner = text.strip_prefix('/').and_then(|rest| rest.rsplit_once('/'));
        let regex = match inner {
            Some(("", "")) => return Err(format!("{TAKES}: an empty expression matches everything")),
            // Bytes and not characters: a body may be in any encoding, and tables of Unicode are large.
            Some((expression, "")) => {
                let built =
                    RegexBuilder::new(expression).unicode(false).size_limit(Self::MAX_COMPILED).build();
                Some(built.map_err(|error| format!("{TAKES}: {}", one_line(&error)))?)
            }
            Some((_, flags)) if is_flags(flags) => {
                let as_text = regex::escape(text);
                return Err(format!(
                    "{TAKES}: flags are written inside, as in \"/(?i)ok/\", and this text as \"/{as_text}/\""
                ));
            }
            _ => None,
        };
        Ok(Self { text: text.to_owned(), regex })
    }
}

/// Whether what follows an expression between slashes would be its flags elsewhere, in Perl or JavaScript.
fn is_flags(text: &str) -> bool {
    text.bytes().all(|b| b"dgimsuvxy".contains(&b))
}

/// An error of the regex library, which draws the expression and the place, as one line.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

impl fmt::Display for ExpectedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

serialize_as_string!(ExpectedBody);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_contains_a_text_or_matches_an_expression() {
        for (expected, body, matches) in [
            ("ok", "all ok\n", true),
            ("ok", "OK", false),
            ("/", "a/b", true),
            ("/path", "the /path", true),
            ("a/b/", "a/b/", true),
            ("/etc/passwd", "in /etc/passwd", true),
            ("//x/my/", "in /x/my", true),
            ("/^ok$/", "ok", true),
            ("/^ok$/", "all ok", false),
            ("/(?i)^OK\\s*$/", "ok\r\n", true),
            ("/\"status\": *\"(UP|green)\"/", "{\"status\": \"green\"}", true),
            ("/a/b/", "x a/b x", true),
            ("/\\/ok\\//", "x /ok/ x", true),
            ("/é/", "é", true),
        ] {
            assert_eq!(
                ExpectedBody::parse(expected).unwrap().matches(body.as_bytes()),
                matches,
                "{expected}"
            );
        }
        assert!(ExpectedBody::parse("/\\xff/").unwrap().matches(&[0xfe, 0xff]));
        for (bad, says) in [
            ("", "a text that the body contains"),
            ("//", "matches everything"),
            ("/(/", "unclosed group"),
            ("/ok/i", "as in \"/(?i)ok/\", and this text as \"//ok/i/\""),
            ("/x.y/my", "this text as \"//x\\.y/my/\""),
            ("/a{1000}{1000}{1000}/", "size limit"),
            (&*"x".repeat(4097), "at most 4096 bytes"),
        ] {
            let error = ExpectedBody::parse(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
