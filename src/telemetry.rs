//! Logs for the operator: `tracing` on standard error, the access log on standard output.
//!
//! Both go through bounded queues and threads of their own, so a reader that stalls or a disk that is full costs
//! lines, which are counted, and never a request.

use std::io::Write as _;
use std::time::Duration;

use http::HeaderName;
use tracing::Level;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::dispatch::access_log::{AccessLog, Format};
use crate::output::{self, LogWriter};
use crate::settings::{LogFormat, LogLevel, LogSettings};

/// The log writers. Dropping this flushes them.
pub struct Telemetry {
    stderr: LogWriter,
    access: Option<(LogWriter, Format, f64, Box<[HeaderName]>)>,
    guards: Vec<WorkerGuard>,
}

impl Telemetry {
    /// Starts logging as the settings say. Once per process: a second call changes only the access log.
    pub fn start(log: &LogSettings) -> Self {
        let stderr = output::stderr();
        let is_terminal = stderr.is_terminal();
        let (stderr, guard) = stderr.in_background();
        let mut guards = vec![guard];
        subscribe(log, stderr.clone(), is_terminal);
        let access = (log.access && log.access_sample.0 > 0.0).then(|| {
            let stdout = output::stdout();
            let format = format(log.format, stdout.is_terminal());
            let headers = log.access_headers.iter().map(|header| header.0.clone()).collect();
            let (stdout, guard) = stdout.in_background();
            guards.push(guard);
            (stdout, format, log.access_sample.0, headers)
        });
        Self { stderr, access, guards }
    }

    /// Writes text to standard error in order with the log lines. It never blocks and never fails: text that cannot
    /// be written counts as a dropped line.
    pub fn announce(&self, text: &str) {
        let _ = self.stderr.clone().write_all(text.as_bytes());
    }

    /// A worker's way to the access log, where there is one.
    pub fn access_log(&self) -> Option<AccessLog> {
        let (writer, format, share, headers) = self.access.as_ref()?;
        Some(AccessLog::new(writer.clone(), *format, *share, headers.clone()))
    }

    /// Returns a function that counts the lines dropped so far, because a queue was full or a write failed.
    pub fn dropped_lines(&self) -> Box<dyn Fn() -> u64 + Send + Sync> {
        let access = self.access.as_ref().map(|(writer, ..)| writer.clone());
        let writers: Vec<_> = access.into_iter().chain([self.stderr.clone()]).collect();
        Box::new(move || writers.iter().map(LogWriter::lost_lines).sum())
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // If a queue is full and its reader stalls, a guard prints to standard output, which may block forever.
        let guards = std::mem::take(&mut self.guards);
        let _ = output::run_within(FLUSH_TIMEOUT, move || drop(guards));
    }
}

/// How long the last lines may take: for each of two writers 1.1 s, which is fixed in tracing-appender.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(2300);

fn format(format: LogFormat, is_terminal: bool) -> Format {
    match format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
        LogFormat::Auto if is_terminal => Format::Human,
        LogFormat::Auto => Format::Json,
    }
}

fn subscribe(log: &LogSettings, writer: LogWriter, is_terminal: bool) {
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
        .with_writer(move || writer.clone());
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
