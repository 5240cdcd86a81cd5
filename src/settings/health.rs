//! `[pools.NAME.health]`: how backends are probed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Serialize, Serializer};

use super::names;
use super::probe_http::{ExpectedBody, ProbeHeaders};
use super::reader::Section;
use super::values::{HumanDuration, SettingValue, serialize_as_string, value_by_name};
use crate::os::files;
use crate::util::enum_all;

/// How the backends of a pool are probed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthSettings {
    /// What a probe is.
    pub kind: ProbeKind,
    /// The method of an HTTP probe.
    pub method: ProbeMethod,
    /// What it asks for.
    pub path: ProbePath,
    /// Its `Host`, and the name that TLS asks for; none: those of the URL that is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<ProbeHost>,
    /// Further header fields of its request. A `Host` among them is the `Host` of the request, not the name for TLS.
    #[serde(skip_serializing_if = "ProbeHeaders::is_empty")]
    pub headers: ProbeHeaders,
    /// The statuses that are a success.
    pub expect: ExpectedStatuses,
    /// What the body of the response must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<ExpectedBody>,
    /// From one probe of a backend to its next.
    pub interval: HumanDuration,
    /// The same while its state is changing; the shorter of the two holds.
    pub fast_interval: HumanDuration,
    /// How long a probe may take, from resolving the name to the end of the body.
    pub timeout: HumanDuration,
    /// How many successes in a row make a backend that is down up.
    pub rise: CheckCount,
    /// How many failures in a row make one that is up down.
    pub fall: CheckCount,
    /// How much later than `rise` says a backend that falls again and again is let in, at most; 0: never.
    pub flap_backoff: HumanDuration,
    /// How long a new backend is waited for until it counts as up without a probe.
    pub startup_timeout: HumanDuration,
    /// Whether the certificate of an https backend must be valid.
    pub verify: bool,
    /// The certificates that may have signed it, PEM; none: those that browsers trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            kind: ProbeKind::Tcp,
            method: ProbeMethod(Method::GET),
            path: ProbePath("/".to_owned()),
            host: None,
            headers: ProbeHeaders::default(),
            expect_body: None,
            expect: ExpectedStatuses(vec![(200, 399)]),
            interval: HumanDuration::seconds(2),
            fast_interval: HumanDuration(Duration::from_millis(500)),
            timeout: HumanDuration::seconds(1),
            rise: CheckCount(2),
            fall: CheckCount(3),
            flap_backoff: HumanDuration::seconds(300),
            startup_timeout: HumanDuration::seconds(5),
            verify: true,
            ca_file: None,
        }
    }
}

impl HealthSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let often = |span: &HumanDuration| span.0 >= Duration::from_millis(10);
        let positive = |span: &HumanDuration| !span.0.is_zero();
        let health = Self {
            kind: section.or("kind", default.kind),
            method: section.or("method", default.method),
            path: section.or("path", default.path),
            host: section.optional("host"),
            headers: section.section("headers").map(ProbeHeaders::read).unwrap_or_default(),
            expect: section.or("expect", default.expect),
            expect_body: section.optional("expect_body"),
            interval: section.within("interval", default.interval, "a duration of 10ms or more", often),
            fast_interval: section.within(
                "fast_interval",
                default.fast_interval,
                "a duration of 10ms or more",
                often,
            ),
            timeout: section.within("timeout", default.timeout, "a duration of more than 0", positive),
            rise: section.or("rise", default.rise),
            fall: section.or("fall", default.fall),
            flap_backoff: section.or("flap_backoff", default.flap_backoff),
            startup_timeout: section.or("startup_timeout", default.startup_timeout),
            verify: section.or("verify", default.verify),
            ca_file: section.file("ca_file"),
        };
        if let Some(file) = &health.ca_file
            && let Err(why) = holds_certificates(file)
        {
            let key = section.key("ca_file");
            section.context().problem(&key, format!("{}: {why}", file.display()));
        }
        health.check_http(&section);
        section.finish();
        health
    }

    /// Notes what cannot have an effect with the kind and method of the check.
    fn check_http(&self, section: &Section<'_>) {
        let problem = |key: &str, text: String| section.context().problem(&section.key(key), text);
        let is_sent = self.kind == ProbeKind::Http || section.context().is_wrong(&section.key("kind"));
        let not_sent =
            || format!("has no effect while health.kind is \"{}\" (expected \"http\")", self.kind.name());
        if !self.headers.is_empty() && !is_sent {
            problem("headers", not_sent());
        }
        if self.headers.host().is_some() && self.host.is_some() {
            problem("headers", "Host is set here and in health.host (expected in one of them)".to_owned());
        }
        if self.expect_body.is_some() && !is_sent {
            problem("expect_body", not_sent());
        } else if self.expect_body.is_some()
            && let Some(response) = self.bodiless()
        {
            problem("expect_body", format!("{response} has no body"));
        }
    }

    /// Names the response of a successful probe if it can have no body.
    pub(super) fn bodiless(&self) -> Option<String> {
        if self.method.0 == Method::HEAD {
            return Some("the response to health.method = \"HEAD\"".to_owned());
        }
        self.expect.are_bodiless().then(|| format!("a response with health.expect = \"{}\"", self.expect))
    }

    /// The `Host` of the request, if the settings name one.
    pub fn host_header(&self) -> Option<&str> {
        self.headers.host().or(self.host.as_ref().map(ProbeHost::as_str))
    }

    /// Whether there are probes at all.
    pub fn is_on(&self) -> bool {
        self.kind != ProbeKind::None
    }
}

/// Whether a file holds certificates and nothing but PEM.
fn holds_certificates(file: &Path) -> Result<(), String> {
    let mut count = 0;
    let file = files::open(file).map_err(|error| format!("can't be read: {error}"))?;
    for certificate in CertificateDer::pem_reader_iter(file) {
        certificate.map_err(|error| error.to_string())?;
        count += 1;
    }
    if count > 0 { Ok(()) } else { Err("it holds no certificate, takes one or more in PEM".to_owned()) }
}

enum_all! {
    /// What a probe is.
    pub enum ProbeKind {
        /// A request and its answer, to the end of the body.
        Http = "http",
        /// A connection; over TLS where the backend's URL is https.
        Tcp = "tcp",
        /// Nothing: backends count as up.
        None = "none",
    }
}

value_by_name!(ProbeKind);
serialize_as_string!(ProbeMethod, ProbePath, ProbeHost, ExpectedStatuses);

/// The method of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeMethod(pub Method);

impl SettingValue for ProbeMethod {
    fn parse(text: &str) -> Result<Self, String> {
        match Method::from_bytes(names::method(text).as_bytes()) {
            Ok(method) if method != Method::CONNECT => Ok(Self(method)),
            _ => Err("a method such as \"GET\", \"HEAD\" or \"OPTIONS\"".to_owned()),
        }
    }
}

impl fmt::Display for ProbeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a probe asks for: a path, maybe with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePath(String);

impl ProbePath {
    /// As text; it begins with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SettingValue for ProbePath {
    fn parse(text: &str) -> Result<Self, String> {
        let fits = text.starts_with('/')
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
            && text.parse::<http::uri::PathAndQuery>().is_ok();
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("a path such as \"/\" or \"/health?deep=1\"".to_owned())
        }
    }
}

impl fmt::Display for ProbePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host that a probe names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeHost(String);

impl ProbeHost {
    /// As text, with its port where one was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SettingValue for ProbeHost {
    fn parse(text: &str) -> Result<Self, String> {
        match names::host(text) {
            Ok((name, None)) => Ok(Self(name.to_string())),
            Ok((name, Some(port))) => Ok(Self(format!("{name}:{port}"))),
            Err(why) => Err(format!("a host such as \"www.example.com\": {why}")),
        }
    }
}

impl fmt::Display for ProbeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Final statuses as ranges, both ends included. Informational ones (1xx) are never the answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatuses(Vec<(u16, u16)>);

impl ExpectedStatuses {
    /// Whether a status is among them.
    pub fn contains(&self, status: StatusCode) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status.as_u16()))
    }

    /// Whether no response with one of them has a body (RFC 9112, section 6.3).
    fn are_bodiless(&self) -> bool {
        self.0.iter().all(|(low, high)| low == high && [204, 304].contains(low))
    }
}

impl SettingValue for ExpectedStatuses {
    fn parse(text: &str) -> Result<Self, String> {
        let takes = || "statuses from 200 to 599, such as \"200\", \"200-399\" or \"200-299,401\"".to_owned();
        let status = |text: &str| text.trim().parse().ok().filter(|status| (200..=599).contains(status));
        let range = |item: &str| {
            let (low, high) = item.split_once('-').unwrap_or((item, item));
            let range: (u16, u16) = (status(low)?, status(high)?);
            (range.0 <= range.1).then_some(range)
        };
        text.split(',').map(range).collect::<Option<_>>().map(Self).ok_or_else(takes)
    }
}

impl fmt::Display for ExpectedStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match low == high {
                true => write!(f, "{comma}{low}")?,
                false => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

/// How many results in a row change a state, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CheckCount(pub u16);

impl SettingValue for CheckCount {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=100) => Ok(Self(count)),
            _ => Err("a whole number from 1 to 100".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_print_what_they_parse() {
        for text in ["200", "200-399", "200-299,401,500-599"] {
            assert_eq!(ExpectedStatuses::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "99", "100-199", "200-", "399-200", "200-600", "ok", "200,,201"] {
            assert!(ExpectedStatuses::parse(bad).is_err(), "{bad}");
        }
        let some = ExpectedStatuses::parse("200-299,401").unwrap();
        let contains = |code| some.contains(StatusCode::from_u16(code).unwrap());
        assert!(contains(200) && contains(299) && contains(401) && !contains(300) && !contains(400));
    }

    #[test]
    fn a_probe_asks_for_a_path_of_a_host() {
        for bad in ["", "x", "http://a/", "/a b", "/#x"] {
            assert!(ProbePath::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "a/b", "a b", "u@h"] {
            assert!(ProbeHost::parse(bad).is_err(), "{bad}");
        }
        assert!(ProbeMethod::parse("CONNECT").is_err() && ProbeMethod::parse("").is_err());
    }
}
