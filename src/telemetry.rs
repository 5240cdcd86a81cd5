//! Logs for the operator: `tracing` on standard error, the access log on standard output.
//!
//! Both go through bounded buffers and threads of their own, so a reader that stalls or a disk that is full costs
//! lines, which are counted, and never a request.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderName;
use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::dispatch::access_log::{AccessLog, Format};
use crate::output;
use crate::output::log_writer::{ACCESS_DELAY, LogBuffer, LogWriter};
use crate::settings::{LogFormat, LogLevel, LogSettings};

/// The log writers. Dropping this writes what is left.
pub struct Telemetry {
    stderr: LogWriter,
    lines: LogLines,
    access: Option<Access>,
}

struct Access {
    stdout: LogWriter,
    format: Format,
    share: f64,
    headers: Box<[HeaderName]>,
}

/// The way to standard error that all threads share. Each `write` is a line, or several.
#[derive(Clone)]
struct LogLines(Arc<Mutex<LogBuffer>>);

impl Write for LogLines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Telemetry {
    /// Starts logging as the settings say. Once per process: a second call changes only the access log.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(log: &LogSettings) -> io::Result<Self> {
        let stderr = output::stderr();
        let is_terminal = stderr.is_terminal();
        let stderr = LogWriter::start(stderr, Duration::ZERO)?;
        let lines = LogLines(Arc::new(Mutex::new(stderr.buffer(1))));
        subscribe(log, lines.clone(), is_terminal);
        let access = (log.access && log.access_sample.0 > 0.0).then(|| {
            let stdout = output::stdout();
            let format = format(log.format, stdout.is_terminal());
            let headers = log.access_headers.iter().map(|header| header.0.clone()).collect();
            let stdout = LogWriter::start(stdout, ACCESS_DELAY)?;
            Ok::<_, io::Error>(Access { stdout, format, share: log.access_sample.0, headers })
        });
        Ok(Self { stderr, lines, access: access.transpose()? })
    }

    /// Writes text to standard error in order with the log lines. It never blocks and never fails: text that cannot
    /// be written counts as dropped lines.
    pub fn announce(&self, text: &str) {
        let _ = self.lines.clone().write_all(text.as_bytes());
    }

    /// Returns the access log of one of `workers` workers, if requests are logged.
    pub fn access_log(&self, workers: usize) -> Option<AccessLog> {
        let Access { stdout, format, share, headers } = self.access.as_ref()?;
        Some(AccessLog::new(stdout.buffer(workers), *format, *share, headers.clone()))
    }

    /// Returns a function that counts the lines dropped so far, because a buffer was full or a write failed.
    pub fn dropped_lines(&self) -> Box<dyn Fn() -> u64 + Send + Sync> {
        let counts: Vec<_> = self.writers().map(LogWriter::dropped_lines).collect();
        Box::new(move || counts.iter().map(|count| count()).sum())
    }

    fn writers(&self) -> impl Iterator<Item = &LogWriter> {
        self.access.iter().map(|access| &access.stdout).chain([&self.stderr])
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        LogWriter::close(&self.writers().collect::<Vec<_>>(), FLUSH_TIMEOUT);
    }
}

/// How long the last lines may take. The reader of a pipe may have stalled.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

fn format(format: LogFormat, is_terminal: bool) -> Format {
    match format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
        LogFormat::Auto if is_terminal => Format::Human,
        LogFormat::Auto => Format::Json,
    }
}

fn subscribe(log: &LogSettings, lines: LogLines, is_terminal: bool) {
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(level))
        // Internal errors would be printed with `eprintln!`, which panics if that fails too.
        .log_internal_errors(false)
        .with_writer(move || lines.clone());
    // Libraries warn of what strangers send; that is counted, and would fill the log.
    let ours = Targets::new().with_target("signpost", level).with_default(Level::ERROR);
    let set = match format(log.format, is_terminal) {
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            builder.finish().with(ours).try_init()
        }
        Format::Human => {
            let builder = builder.with_ansi(is_terminal).with_target(false);
            builder.finish().with(ours).try_init()
        }
    };
    // A program that embeds the library may log already; its subscriber stays.
    let _ = set;
}
