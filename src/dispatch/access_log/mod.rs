//! One line per request, handed to a writer that never makes a request wait.
//!
//! Not a `tracing` event: a line is formatted once and appended to a buffer of the worker's own, which the writer's
//! thread empties. If the buffer is full the line is dropped and counted (`signpost_log_lines_dropped_total`).
//!
//! A line is formatted when its response is made, and appended when it is known whether the response was written.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use serde::{Serialize, Serializer};

use crate::fleet::PoolConfig;
use crate::output::log_writer::LogBuffer;
use crate::request::outcome::{Rejection, Selection};
use crate::request::{Headers, RequestView};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Words with spaces between.
    Human,
    /// One JSON object.
    Json,
}

/// The access log of one worker.
#[derive(Debug)]
pub struct AccessLog {
    buffer: LogBuffer,
    /// The buffer of the last line, for the next.
    spare: RefCell<Vec<u8>>,
    format: Format,
    /// Requests whose 32 random bits are below are logged.
    below: u64,
    /// The request header fields that lines contain.
    copied: Box<[HeaderName]>,
}

/// A formatted line that lacks its end: whether its response is written is not known yet. Empty if the request is
/// not logged.
#[derive(Debug, Default)]
#[must_use = "its line is lost unless it is ended"]
pub struct OpenLine(Vec<u8>);

/// The most bytes that a buffer keeps from one line to the next; most lines take some 300.
const SPARE_BYTES: usize = 4 << 10;

/// What there is to say of a request.
#[derive(Debug)]
pub struct Line<'a> {
    /// When its answer was ready.
    pub time: SystemTime,
    /// What it asked; `None` where hyper could not read that.
    pub request: Option<RequestView<'a>>,
    /// Who asked.
    pub client: IpAddr,
    /// What it was answered.
    pub status: StatusCode,
    /// The pool, where one was found.
    pub config: Option<&'a PoolConfig>,
    /// Where it was sent.
    pub choice: Option<Selection>,
    /// Why it was not.
    pub rejection: Option<Rejection>,
    /// From the end of its head to the answer.
    pub took: Duration,
}

/// The host of a request as a line shows it; empty where there is none, or no text.
fn host(request: RequestView<'_>) -> &str {
    match request.headers.get(&HOST) {
        Some(host) => std::str::from_utf8(host).ok().filter(|host| host.is_ascii()).unwrap_or(""),
        // HTTP/2 has it in the target.
        None => request.target.authority().map_or("", Authority::as_str),
    }
}

/// The fields of a JSON line, in order.
#[derive(Serialize)]
struct Fields<'a> {
    #[serde(serialize_with = "as_shown")]
    timestamp: humantime::Rfc3339Timestamp,
    target: &'static str,
    method: Option<&'a str>,
    host: Option<&'a str>,
    path: Option<Cow<'a, str>>,
    status: u16,
    pool: Option<&'a str>,
    strategy: Option<&'a str>,
    backend: Option<&'a str>,
    decision: Option<&'a str>,
    rejection: Option<&'a str>,
    client: IpAddr,
    #[serde(skip_serializing_if = "CopiedHeaders::is_empty")]
    headers: CopiedHeaders<'a>,
    duration_us: f64,
}

/// The request header fields that the settings name, as lines contain them.
struct CopiedHeaders<'a> {
    names: &'a [HeaderName],
    /// `None` if the head could not be read.
    headers: Option<Headers<'a>>,
}

/// The longest value that is copied, in bytes, before it is escaped.
const LONGEST_VALUE: usize = 256;

impl<'a> CopiedHeaders<'a> {
    fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Each name with the value of its fields, several joined as RFC 9110 §5.2 combines them; `None`: no such field.
    fn iter(&self) -> impl Iterator<Item = (&'a str, Option<Cow<'a, str>>)> {
        self.names.iter().map(|name| {
            let mut values = self.headers.into_iter().flat_map(move |headers| headers.get_all(name));
            let value = values.next().map(|first| {
                values.fold(text_of(first), |mut joined, next| {
                    joined.to_mut().push_str(", ");
                    joined.to_mut().push_str(&text_of(next));
                    cut(joined)
                })
            });
            (name.as_str(), value)
        })
    }
}

impl Serialize for CopiedHeaders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// The beginning of a value, with replacement characters in place of bytes that are no UTF-8.
fn text_of(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => cut(Cow::Borrowed(text)),
        // The cut may fall inside a character; what is left of it counts as no UTF-8.
        Err(_) => cut(String::from_utf8_lossy(&value[..value.len().min(LONGEST_VALUE)])),
    }
}

/// A text of at most [`LONGEST_VALUE`] bytes, cut between two characters.
fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    let end = (0..=LONGEST_VALUE.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

fn as_shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl AccessLog {
    /// Logs a share of all requests, 0 to 1, each with the `copied` request header fields.
    pub fn new(buffer: LogBuffer, format: Format, share: f64, copied: Box<[HeaderName]>) -> Self {
        let below = (share * (u64::from(u32::MAX) + 1) as f64) as u64;
        Self { buffer, spare: RefCell::default(), format, below, copied }
    }

    /// Whether this request is to be logged.
    pub fn wants(&self, rng: &mut SmallRng) -> bool {
        self.below > u64::from(u32::MAX) || u64::from(rng.next_u32()) < self.below
    }

    /// Formats a line up to its end. Allocates its buffer if other lines are open.
    pub fn begin(&self, line: &Line<'_>) -> OpenLine {
        let mut buffer = self.spare.take();
        buffer.reserve(512);
        let backend =
            line.config.zip(line.choice).map(|(config, choice)| &*config.backends[choice.backend].id);
        let fields = Fields {
            timestamp: humantime::format_rfc3339_millis(line.time),
            target: "access",
            method: line.request.map(|request| request.method.as_str()),
            host: line.request.map(host),
            path: line.request.map(|request| request.target.shown()),
            status: line.status.as_u16(),
            pool: line.config.map(|config| &*config.name),
            strategy: line
                .config
                .map(|config| config.arms[line.choice.map_or(0, |choice| choice.arm)].kind.name()),
            backend,
            decision: line.choice.map(|choice| choice.decision.name()),
            rejection: line.rejection.map(Rejection::name),
            client: line.client,
            headers: CopiedHeaders {
                names: &self.copied,
                headers: line.request.map(|request| request.headers),
            },
            duration_us: line.took.as_nanos() as f64 / 1000.0,
        };
        // Writing to a Vec can't fail, and neither can JSON of strings and numbers.
        let _ = match self.format {
            Format::Json => serde_json::to_writer(&mut buffer, &fields).map_err(std::io::Error::from),
            Format::Human => fields.human(&mut buffer),
        };
        if self.format == Format::Json {
            // The brace that closes the object: `end` may add a field before it.
            buffer.pop();
        }
        OpenLine(buffer)
    }

    /// Ends a line and appends it to the buffer, or drops and counts it if the buffer is full. Never waits. `sent`: the
    /// whole response was written to the socket.
    pub fn end(&self, line: OpenLine, sent: bool) {
        let OpenLine(mut buffer) = line;
        if buffer.is_empty() {
            return;
        }
        buffer.extend_from_slice(match (self.format, sent) {
            (Format::Json, true) => b"}\n",
            (Format::Json, false) => b",\"aborted\":true}\n",
            (Format::Human, true) => b"\n",
            (Format::Human, false) => b" aborted\n",
        });
        self.buffer.push(&buffer);
        if buffer.capacity() <= SPARE_BYTES {
            buffer.clear();
            self.spare.replace(buffer);
        }
    }
}

impl Fields<'_> {
    fn human(&self, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        // `escape_debug` keeps what a client sent from driving the terminal.
        write!(
            buffer,
            "{} {} {} {}{} {}",
            self.timestamp,
            self.client,
            self.method.unwrap_or("-"),
            self.host.unwrap_or_default().escape_debug(),
            self.path.as_deref().unwrap_or("-").escape_debug(),
            self.status,
        )?;
        for (name, value) in [
            ("pool", self.pool),
            ("strategy", self.strategy),
            ("backend", self.backend),
            ("decision", self.decision),
            ("rejection", self.rejection),
        ] {
            if let Some(value) = value {
                write!(buffer, " {name}={value}")?;
            }
        }
        for (name, value) in self.headers.iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(buffer, " {name}=\"{}\"", value.escape_debug())?;
        }
        write!(buffer, " {}µs", self.duration_us)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{HeaderMap, Request};
    use rand::SeedableRng;

    use super::*;
    use crate::output::log_writer::LogWriter;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn logged(format: Format, copied: &[&'static str], fields: &[(&'static str, &[u8])]) -> String {
        logged_as(true, format, copied, fields)
    }

    fn logged_as(
        sent: bool,
        format: Format,
        copied: &[&'static str],
        fields: &[(&'static str, &[u8])],
    ) -> String {
        let written = Shared::default();
        let writer = LogWriter::start(written.clone(), HOUR).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("host", "a.example".parse().unwrap());
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let copied = copied.iter().copied().map(HeaderName::from_static).collect();
        let log = AccessLog::new(writer.buffer(1), format, 1.0, copied);
        let mut request = Request::get("/x\"y").body(()).unwrap();
        *request.headers_mut() = headers;
        let line = log.begin(&Line {
            time: SystemTime::UNIX_EPOCH,
            request: Some(RequestView::of(&request)),
            client: "192.0.2.1".parse().unwrap(),
            status: StatusCode::NOT_FOUND,
            config: None,
            choice: None,
            rejection: Some(Rejection::UnknownPath),
            took: Duration::from_nanos(1500),
        });
        log.end(OpenLine::default(), sent);
        log.end(line, sent);
        LogWriter::close(&[&writer], HOUR);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = logged(Format::Json, &[], &[("user-agent", b"curl")]);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/x\"y");
        assert_eq!(value["rejection"], "unknown_path");
        assert_eq!(value["duration_us"], 1.5);
        assert_eq!((value.get("headers"), value.get("aborted")), (None, None));
        assert!(line.ends_with("}\n"));
        let aborted: serde_json::Value =
            serde_json::from_str(&logged_as(false, Format::Json, &[], &[])).unwrap();
        assert_eq!(aborted["aborted"], true);
    }

    #[test]
    fn copies_headers_escaped_joined_and_cut_between_characters() {
        let long = [b"x".repeat(255), "é and more".into()].concat();
        let high = b"\xff".repeat(300);
        let values = [&b"a"[..], b"b, c"];
        let fields = [
            ("user-agent", &b"a \"quoted\" [31m\tline"[..]),
            ("via", values[0]),
            ("via", values[1]),
            ("referer", &long),
            ("x-high", &high),
            ("x-other", b"is not copied"),
            ("x-empty", b""),
        ];
        let copied = ["user-agent", "via", "referer", "x-high", "x-empty", "accept"];
        let line = logged(Format::Json, &copied, &fields);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "user-agent": "a \"quoted\" [31m\tline",
            "via": "a, b, c",
            "referer": "x".repeat(255),
            "x-high": "\u{fffd}".repeat(85),
            "x-empty": "",
            "accept": null,
        });
        assert_eq!(value["headers"], expected);
        let line = logged(Format::Human, &copied, &fields);
        let start = "rejection=unknown_path user-agent=\"a \\\"quoted\\\" [31m\\tline\" via=\"a, b, c\" referer=\"xxx";
        assert!(line.contains(start) && line.contains(" x-empty=\"\" 1.5µs\n"), "{line}");
        assert!(!line.contains("accept") && !line.contains("x-other"), "{line}");
    }

    #[test]
    fn a_line_for_people_is_escaped() {
        let line = "1970-01-01T00:00:00.000Z 192.0.2.1 GET a.example/x\\\"y 404 rejection=unknown_path 1.5µs";
        let fields = [("user-agent", &b"curl"[..])];
        assert_eq!(logged(Format::Human, &[], &fields), format!("{line}\n"));
        assert_eq!(logged_as(false, Format::Human, &[], &fields), format!("{line} aborted\n"));
    }

    #[test]
    fn a_share_of_requests_is_logged() {
        let mut rng = SmallRng::seed_from_u64(1);
        let writer = LogWriter::start(std::io::sink(), HOUR).unwrap();
        let mut count = |share| {
            let log = AccessLog::new(writer.buffer(1), Format::Json, share, Box::default());
            (0..10_000).filter(|_| log.wants(&mut rng)).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((800..1200).contains(&count(0.1)));
    }
}
