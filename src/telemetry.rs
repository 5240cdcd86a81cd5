//! Logs for the operator: `tracing` on standard error, the access log on standard output.
//!
//! Both go through bounded queues and threads of their own, so a reader that stalls or a disk that is full costs
//! lines, which are counted, and never a request.

use std::io::Write;
use std::time::Duration;

use http::HeaderName;
use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::access_log::{AccessLog, Format};
use crate::output::{self, Lossy, LostLines};
use crate::settings::{Log, LogFormat, LogLevel};

/// The log writers. Dropping this flushes them.
pub struct Telemetry {
    stderr: NonBlocking,
    access: Option<(NonBlocking, Format, f64, Box<[HeaderName]>)>,
    dropped: Vec<(ErrorCounter, LostLines)>,
    guards: Vec<WorkerGuard>,
}

impl Telemetry {
    /// Starts logging as the settings say. Once per process: a second call changes only the access log.
    pub fn start(log: &Log) -> Self {
        let mut dropped = Vec::new();
        let mut guards = Vec::new();
        let stderr = output::stderr();
        let is_terminal = stderr.is_terminal();
        let stderr = writer(stderr, &mut dropped, &mut guards);
        subscribe(log, stderr.clone(), is_terminal);
        let access = (log.access && log.access_sample.0 > 0.0).then(|| {
            let stdout = output::stdout();
            let format = format(log.format, stdout.is_terminal());
            let headers = log.access_headers.iter().map(|header| header.0.clone()).collect();
            (writer(stdout, &mut dropped, &mut guards), format, log.access_sample.0, headers)
        });
        Self { stderr, access, dropped, guards }
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
        let dropped = self.dropped.clone();
        Box::new(move || {
            let count =
                |(queue, lost): &(ErrorCounter, LostLines)| queue.dropped_lines() as u64 + lost.count();
            dropped.iter().map(count).sum()
        })
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // If a queue is full and its reader stalls, a guard prints to standard output, which may block forever.
        let guards = std::mem::take(&mut self.guards);
        let _ = output::run_within(FLUSH_TIMEOUT, move || drop(guards));
    }
}

/// How many lines may wait to be written: some megabytes at the most.
const QUEUE: usize = 16_384;
/// How long the last lines may take: for each of two writers 1.1 s, which is fixed in tracing-appender.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(2300);

fn writer<W: Write + Send + 'static>(
    stream: Lossy<W>,
    dropped: &mut Vec<(ErrorCounter, LostLines)>,
    guards: &mut Vec<WorkerGuard>,
) -> NonBlocking {
    let lost = stream.lost_lines();
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).finish(stream);
    dropped.push((writer.error_counter(), lost));
    guards.push(guard);
    writer
}

fn format(format: LogFormat, is_terminal: bool) -> Format {
    match format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
        LogFormat::Auto if is_terminal => Format::Human,
        LogFormat::Auto => Format::Json,
    }
}

fn subscribe(log: &Log, writer: NonBlocking, is_terminal: bool) {
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
        .with_writer(writer);
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
