//! One line per request, handed to a writer that never makes a request wait.
//!
//! Not a `tracing` event: a line is formatted once and appended to a buffer of the worker's own, which the writer's
//! thread empties. If the buffer is full the line is dropped and counted (`signpost_log_lines_dropped_total`).
//!
//! A line is formatted when its response is made, and appended when it is known whether the response was written.

mod fields;
mod human;
mod json;
mod number;

use std::cell::RefCell;

use http::HeaderName;
use rand::Rng;
use rand::rngs::SmallRng;

use self::fields::Fields;
pub use self::fields::Line;
use self::number::TimestampCache;
use crate::output::log_writer::LogBuffer;

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
    /// The memory of lines that were ended, for the next ones.
    spare: RefCell<Vec<Vec<u8>>>,
    /// The memory for a copied header field.
    value: RefCell<String>,
    timestamps: TimestampCache,
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

/// How much memory is kept for lines to come: of most workers one line is open at a time, and most take some 300 bytes.
const MAX_SPARE: usize = 32;
const MAX_SPARE_BYTES: usize = 4 << 10;

impl AccessLog {
    /// Logs a share of all requests, 0 to 1, each with the `copied` request header fields.
    pub fn new(buffer: LogBuffer, format: Format, share: f64, copied: Box<[HeaderName]>) -> Self {
        let below = (share * (u64::from(u32::MAX) + 1) as f64) as u64;
        let (spare, value, timestamps) = Default::default();
        Self { buffer, spare, value, timestamps, format, below, copied }
    }

    /// Whether this request is to be logged.
    pub fn wants(&self, rng: &mut SmallRng) -> bool {
        self.below > u64::from(u32::MAX) || u64::from(rng.next_u32()) < self.below
    }

    /// Formats a line up to its end. Allocates only if more lines are open than ever before.
    pub fn begin(&self, line: &Line<'_>) -> OpenLine {
        let mut out = self.spare.borrow_mut().pop().unwrap_or_default();
        out.reserve(512);
        let fields = Fields::new(line, self.timestamps.format(line.time), &self.copied);
        let begin = match self.format {
            Format::Json => json::begin,
            Format::Human => human::begin,
        };
        begin(&fields, &mut self.value.borrow_mut(), &mut out);
        OpenLine(out)
    }

    /// Ends a line and appends it to the buffer, or drops and counts it if the buffer is full. Never waits. `sent`: the
    /// whole response was written to the socket.
    pub fn end(&self, line: OpenLine, sent: bool) {
        let OpenLine(mut out) = line;
        if out.is_empty() {
            return;
        }
        out.extend_from_slice(match (self.format, sent) {
            (Format::Json, true) => b"}\n",
            (Format::Json, false) => b",\"aborted\":true}\n",
            (Format::Human, true) => b"\n",
            (Format::Human, false) => b" aborted\n",
        });
        self.buffer.push(&out);
        let mut spare = self.spare.borrow_mut();
        if out.capacity() <= MAX_SPARE_BYTES && spare.len() < MAX_SPARE {
            out.clear();
            spare.push(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, SystemTime};

    use http::{HeaderValue, Request, StatusCode};
    use rand::SeedableRng;

    use super::*;
    use crate::output::log_writer::LogWriter;
    use crate::request::RequestView;
    use crate::request::outcome::Rejection;

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
        let mut request = Request::get("/x\"y").body(()).unwrap();
        let headers = request.headers_mut();
        headers.insert("host", "a.example".parse().unwrap());
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let copied = copied.iter().copied().map(HeaderName::from_static).collect();
        let log = AccessLog::new(writer.buffer(1), format, 1.0, copied);
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

    #[test]
    fn lines_take_no_memory_of_their_own_once_there_is_some() {
        let writer = LogWriter::start(std::io::sink(), HOUR).unwrap();
        let log = AccessLog::new(writer.buffer(1), Format::Json, 1.0, Box::default());
        let line = Line {
            time: SystemTime::UNIX_EPOCH,
            request: None,
            client: "2001:db8::1".parse().unwrap(),
            status: StatusCode::BAD_REQUEST,
            config: None,
            choice: None,
            rejection: Some(Rejection::Malformed),
            took: Duration::ZERO,
        };
        let begin = |count| (0..count).map(|_| log.begin(&line)).collect::<Vec<_>>();
        let place = |lines: &[OpenLine]| lines.iter().map(|line| line.0.as_ptr()).collect::<Vec<_>>();
        let first = begin(3);
        let mut places = place(&first);
        first.into_iter().for_each(|line| log.end(line, true));
        places.reverse();
        assert_eq!(place(&begin(3)), places);
        begin(100).into_iter().for_each(|line| log.end(line, true));
        assert_eq!(log.spare.borrow().len(), MAX_SPARE);
        LogWriter::close(&[&writer], HOUR);
    }
}
