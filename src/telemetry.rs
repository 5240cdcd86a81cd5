//! Logs for the operator: `tracing` on standard error, the access log on standard output.
//!
//! Both go through bounded queues and threads of their own, so that a reader that stalls costs lines, which are
//! counted, and never a request.

use std::io::IsTerminal;

use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::access_log::{AccessLog, Format};
use crate::settings::{Log, LogFormat, LogLevel};

/// The writers, and what must live until the last line is out: dropping this flushes.
pub struct Telemetry {
    access: Option<(NonBlocking, Format, f64)>,
    counters: Vec<ErrorCounter>,
    _guards: Vec<WorkerGuard>,
}

impl Telemetry {
    /// Starts logging as the settings say. Once per process: a second call changes only the access log.
    pub fn start(log: &Log) -> Self {
        let (stderr, stderr_guard) = writer(std::io::stderr());
        let mut counters = vec![stderr.error_counter()];
        let mut guards = vec![stderr_guard];
        subscribe(log, stderr);
        let access = (log.access && log.access_sample.0 > 0.0).then(|| {
            let (stdout, guard) = writer(std::io::stdout());
            counters.push(stdout.error_counter());
            guards.push(guard);
            (stdout, format(log.format, &std::io::stdout()), log.access_sample.0)
        });
        Self { access, counters, _guards: guards }
    }

    /// A worker's way to the access log, where there is one.
    pub fn access_log(&self) -> Option<AccessLog> {
        self.access.as_ref().map(|(writer, format, share)| AccessLog::new(writer.clone(), *format, *share))
    }

    /// What counts dropped lines.
    pub fn dropped_lines(&self) -> Vec<ErrorCounter> {
        self.counters.clone()
    }
}

/// How many lines may wait to be written: some megabytes at the most.
const QUEUE: usize = 16_384;

fn writer(to: impl std::io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).finish(to)
}

fn format(format: LogFormat, stream: &impl IsTerminal) -> Format {
    match format {
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
        LogFormat::Auto if stream.is_terminal() => Format::Human,
        LogFormat::Auto => Format::Json,
    }
}

fn subscribe(log: &Log, writer: NonBlocking) {
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let builder =
        tracing_subscriber::fmt().with_max_level(LevelFilter::from_level(level)).with_writer(writer);
    // Libraries warn of what strangers send; that is counted, and would fill the log.
    let ours = Targets::new().with_target("signpost", level).with_default(Level::ERROR);
    let set = match format(log.format, &std::io::stderr()) {
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            builder.finish().with(ours).try_init()
        }
        Format::Human => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_target(false);
            builder.finish().with(ours).try_init()
        }
    };
    // Somebody who embeds the library may log already; then theirs stays.
    let _ = set;
}
