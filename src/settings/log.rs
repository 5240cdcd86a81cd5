//! `[log]`: log and access log.

use std::fmt;

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use serde::{Serialize, Serializer};

use super::names;
use super::reader::{self, Section};
use super::values::{Fraction, LogFormat, LogLevel, SettingValue, serialize_as_string};

/// `[log]`: log and access log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogSettings {
    /// The least severe line that is logged.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
    /// Whether each request is a line on standard output.
    pub access: bool,
    /// The share of requests that are.
    pub access_sample: Fraction,
    /// The request header fields that access lines contain, each once.
    pub access_headers: Vec<LoggedHeader>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Auto,
            access: true,
            access_sample: Fraction(1.0),
            access_headers: Vec::new(),
        }
    }
}

impl LogSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let log = Self {
            level: section.or("level", default.level),
            format: section.or("format", default.format),
            access: section.or("access", default.access),
            access_sample: section.or("access_sample", default.access_sample),
            access_headers: read_headers(&mut section),
        };
        section.finish();
        log
    }
}

fn read_headers(section: &mut Section<'_>) -> Vec<LoggedHeader> {
    let context = section.context();
    let mut headers: Vec<LoggedHeader> = Vec::new();
    for (path, item) in section.items("access_headers").unwrap_or_default() {
        let Some(header) = reader::parse(&path, &item, context) else { continue };
        if headers.contains(&header) {
            context
                .problem(&path, format!("got {:?} a second time, takes each header once", header.0.as_str()));
        } else {
            headers.push(header);
        }
    }
    headers
}

/// A request header that access lines may contain: any but those that carry credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedHeader(pub HeaderName);

serialize_as_string!(LoggedHeader);

impl SettingValue for LoggedHeader {
    fn parse(text: &str) -> Result<Self, String> {
        let name = names::field_name(text)
            .ok_or_else(|| "the name of a request header, such as \"user-agent\"".to_owned())?;
        if [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(&name) {
            return Err(
                "a header without credentials: not authorization, cookie or proxy-authorization".to_owned()
            );
        }
        Ok(Self(name))
    }
}

impl fmt::Display for LoggedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}
