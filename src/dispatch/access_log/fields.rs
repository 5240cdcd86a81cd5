//! What a line contains, whatever its format.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, StatusCode};

use super::number::{Timestamp, push_address};
use crate::fleet::PoolConfig;
use crate::request::RequestView;
use crate::request::outcome::{Decision, Rejection, Selection};

/// What is logged of a request.
#[derive(Debug)]
pub struct Line<'a> {
    /// When its response was made.
    pub time: SystemTime,
    /// The request; `None` if it could not be read.
    pub request: Option<RequestView<'a>>,
    /// The client's address.
    pub client: IpAddr,
    /// The status of the response.
    pub status: StatusCode,
    /// The pool, if one was found.
    pub config: Option<&'a PoolConfig>,
    /// The backend, if the request was redirected.
    pub choice: Option<Selection>,
    /// Why the request was rejected, if it was.
    pub rejection: Option<Rejection>,
    /// From the end of the request's head to the response.
    pub took: Duration,
}

/// The fields of a line, for both formats.
pub(super) struct Fields<'a> {
    pub(super) timestamp: Timestamp,
    pub(super) line: &'a Line<'a>,
    /// The names of the request header fields that lines contain.
    pub(super) copied: &'a [HeaderName],
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a Line<'a>, timestamp: Timestamp, copied: &'a [HeaderName]) -> Self {
        Self { timestamp, line, copied }
    }

    pub(super) fn method(&self) -> Option<&'a str> {
        self.line.request.map(|request| request.method.as_str())
    }

    /// The host; empty if there is none, or no text.
    pub(super) fn host(&self) -> Option<&'a str> {
        self.line.request.map(|request| match request.headers.get(&HOST) {
            Some(host) => std::str::from_utf8(host).ok().filter(|host| host.is_ascii()).unwrap_or_default(),
            // HTTP/2 has it in the target.
            None => request.target.authority().map_or("", Authority::as_str),
        })
    }

    pub(super) fn path(&self) -> Option<Cow<'a, str>> {
        self.line.request.map(|request| request.target.shown())
    }

    pub(super) fn pool(&self) -> Option<&'a str> {
        self.line.config.map(|config| &*config.name)
    }

    pub(super) fn strategy(&self) -> Option<&'a str> {
        let slot = self.line.choice.map_or(0, |choice| choice.slot);
        self.line.config.map(|config| config.strategies[slot].name())
    }

    pub(super) fn backend(&self) -> Option<&'a str> {
        self.line.config.zip(self.line.choice).map(|(config, choice)| &*config.backends[choice.backend].id)
    }

    pub(super) fn decision(&self) -> Option<&'static str> {
        self.line.choice.map(|Selection { decision, .. }| Decision::name(decision))
    }

    pub(super) fn rejection(&self) -> Option<&'static str> {
        self.line.rejection.map(Rejection::name)
    }

    pub(super) fn push_client(&self, out: &mut Vec<u8>) {
        push_address(self.line.client, out);
    }

    /// Returns the value of a header field, several joined as RFC 9110 §5.2 combines them, cut at [`MAX_VALUE`].
    pub(super) fn copied_value<'v>(&self, name: &HeaderName, value: &'v mut String) -> Option<&'v str> {
        let mut fields = self.line.request?.headers.get_all(name);
        value.clear();
        push_value(fields.next()?, value);
        for field in fields {
            value.push_str(", ");
            push_value(field, value);
        }
        Some(value)
    }
}

/// The longest value that is copied, in bytes, before it is escaped.
const MAX_VALUE: usize = 256;

/// Appends a header field, with replacement characters in place of bytes that are not UTF-8, and cuts the whole.
fn push_value(field: &[u8], value: &mut String) {
    match std::str::from_utf8(field) {
        Ok(field) => value.push_str(cut(field)),
        // The cut may fall inside a character; what is left of it counts as not UTF-8.
        Err(_) => {
            for chunk in field[..field.len().min(MAX_VALUE)].utf8_chunks() {
                value.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    value.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }
    value.truncate(cut(value).len());
}

/// Cuts text between two characters so that it has at most [`MAX_VALUE`] bytes.
fn cut(text: &str) -> &str {
    let end = (0..=MAX_VALUE.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request, Uri};
    use proptest::prelude::*;
    use serde::{Serialize, Serializer};

    use super::super::{human, json, number::TimestampCache};
    use super::*;

    /// A line as serde writes it.
    #[derive(Serialize)]
    struct Reference<'a> {
        timestamp: String,
        target: &'a str,
        method: &'a str,
        host: &'a str,
        path: &'a str,
        status: u16,
        pool: Option<&'a str>,
        strategy: Option<&'a str>,
        backend: Option<&'a str>,
        decision: Option<&'a str>,
        rejection: &'a str,
        client: IpAddr,
        #[serde(serialize_with = "as_map")]
        headers: [(&'a str, Option<String>); 3],
        duration_us: f64,
    }

    fn as_map<S: Serializer>(pairs: &[(&str, Option<String>); 3], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
    }

    impl Reference<'_> {
        fn human(&self) -> String {
            let Self { timestamp, client, method, status, rejection, duration_us, .. } = self;
            let (host, path) = (self.host.escape_debug(), self.path.escape_debug());
            let mut text =
                format!("{timestamp} {client} {method} {host}{path} {status} rejection={rejection}");
            for (name, value) in &self.headers {
                if let Some(value) = value {
                    text += &format!(" {name}=\"{}\"", value.escape_debug());
                }
            }
            text + &format!(" {duration_us}µs")
        }
    }

    fn joined(values: &[Vec<u8>]) -> Option<String> {
        let text = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(text) => cut(text).to_owned(),
            Err(_) => cut(&String::from_utf8_lossy(&value[..value.len().min(MAX_VALUE)])).to_owned(),
        };
        let texts = values.iter().map(|value| text(value));
        texts.reduce(|joined, next| cut(&format!("{joined}, {next}")).to_owned())
    }

    /// Bytes of a header field: those that end it or that no field may have are left out.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..300);
        let bytes = prop_oneof![
            bytes,
            any::<String>().prop_map(String::into_bytes),
            "[\"\\\\a-c\t]{250,260}".prop_map(String::into_bytes)
        ];
        bytes.prop_map(|bytes| {
            bytes.into_iter().filter(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)).collect()
        })
    }

    fn uri() -> impl Strategy<Value = Uri> {
        let target = prop_oneof![
            "/[ -~é\u{ffff}]{0,40}",
            "https?://[a-z.:0-9]{1,9}/?[!-~]{0,9}",
            "[a-z]{1,9}:80",
            Just("*".to_owned())
        ];
        target.prop_filter_map("no URI", |target| Uri::from_maybe_shared(bytes::Bytes::from(target)).ok())
    }

    proptest! {
        #[test]
        fn lines_are_the_bytes_that_serde_and_the_standard_library_write(
            uri in uri(),
            host in field(),
            agents in prop::collection::vec(field(), 0..4),
            referers in prop::collection::vec(field(), 0..2),
            client in any::<IpAddr>(),
            nanos in 0..2_000_000_000_u64,
        ) {
            let mut request = Request::get(uri.clone()).body(()).unwrap();
            let headers = request.headers_mut();
            headers.insert("host", HeaderValue::from_bytes(&host).unwrap());
            for (name, values) in [("user-agent", &agents), ("referer", &referers)] {
                for value in values {
                    headers.append(name, HeaderValue::from_bytes(value).unwrap());
                }
            }
            let line = Line {
                time: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
                request: Some(RequestView::of(&request)),
                client,
                status: StatusCode::NOT_FOUND,
                config: None,
                choice: None,
                rejection: Some(Rejection::UnknownPath),
                took: Duration::from_nanos(nanos),
            };
            let reference = Reference {
                timestamp: humantime::format_rfc3339_millis(line.time).to_string(),
                target: "access",
                method: "GET",
                host: std::str::from_utf8(&host).ok().filter(|host| host.is_ascii()).unwrap_or(""),
                path: &uri.path_and_query().map_or_else(|| uri.to_string(), |path| path.as_str().to_owned()),
                status: 404,
                pool: None,
                strategy: None,
                backend: None,
                decision: None,
                rejection: "unknown_path",
                client,
                headers: [("user-agent", joined(&agents)), ("referer", joined(&referers)), ("x-none", None)],
                duration_us: nanos as f64 / 1000.0,
            };
            let copied = ["user-agent", "referer", "x-none"].map(HeaderName::from_static);
            let fields = Fields::new(&line, TimestampCache::default().format(line.time), &copied);
            let (mut value, mut text) = <(String, Vec<u8>)>::default();
            json::begin(&fields, &mut value, &mut text);
            text.push(b'}');
            prop_assert_eq!(String::from_utf8(text).unwrap(), serde_json::to_string(&reference).unwrap());
            let mut text = Vec::new();
            human::begin(&fields, &mut value, &mut text);
            prop_assert_eq!(String::from_utf8(text).unwrap(), reference.human());
        }
    }
}
