//! Standard output and standard error. The only module that writes to either.
//!
//! `print!` and its relatives panic when a write fails, for example on a full disk or when the reader of a pipe has
//! gone. A dispatcher must not stop because of a log line, so every write here tolerates failure: [`print()`] returns
//! the error, [`report`] ignores it, and [`Lossy`] counts it. The lints `print_stdout` and `print_stderr` forbid the
//! macros, and `tests/it/architecture.rs` forbids the streams elsewhere.

use std::io::{self, IsTerminal, Stderr, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Writes the result of a command to standard output.
///
/// # Errors
/// Not all of it could be written. The kind is [`io::ErrorKind::BrokenPipe`] if the reader has gone.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a message to standard error. A failure is ignored, because no place is left to report it to.
pub fn report(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Runs `work` on a thread of its own and waits for its end, but not longer than `limit`.
///
/// # Errors
/// The thread could not be started; `work` is dropped then.
pub fn run_within(limit: Duration, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (done, ended) = mpsc::channel::<()>();
    thread::Builder::new().name("output".to_owned()).spawn(move || {
        work();
        drop(done);
    })?;
    // Either the thread has ended, which closes the channel, or the time is over.
    let _ = ended.recv_timeout(limit);
    Ok(())
}

/// A stream for log lines: each `write` is a line, and a line that cannot be written is counted and given up.
#[derive(Debug)]
pub struct Lossy<W> {
    stream: W,
    backlog: Arc<Backlog>,
}

/// Hands lines to a thread that writes them to a [`Lossy`] stream. It never waits: each `write` is a line, and a line that
/// has no room in the queue is counted and given up.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: NonBlocking,
    backlog: Arc<Backlog>,
}

/// The lines of one stream.
#[derive(Debug, Default)]
struct Backlog {
    /// What those that wait to be written count for, in bytes.
    waiting: AtomicUsize,
    /// How many were given up.
    lost: AtomicU64,
}

/// How much may wait for one stream, in bytes.
const MOST_WAITING: usize = 16 << 20;
/// What a line counts for at the least: this bounds how many may wait.
const SHORTEST: usize = 1 << 10;

impl Backlog {
    /// Returns whether there is room for a line of so many bytes, which waits from then on; counts it as lost if not.
    fn admit(&self, length: usize) -> bool {
        let counted = length.max(SHORTEST);
        let fits = self.waiting.fetch_add(counted, Ordering::Relaxed) + counted <= MOST_WAITING;
        if !fits {
            self.leave(length);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn leave(&self, length: usize) {
        self.waiting.fetch_sub(length.max(SHORTEST), Ordering::Relaxed);
    }
}

impl LogWriter {
    /// Returns the number of lines that were given up so far.
    pub fn lost_lines(&self) -> u64 {
        self.backlog.lost.load(Ordering::Relaxed) + self.queue.error_counter().dropped_lines() as u64
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.backlog.admit(line.len()) { self.queue.write(line) } else { Ok(line.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output for log lines.
pub fn stdout() -> Lossy<Stdout> {
    Lossy::new(io::stdout())
}

/// Standard error for log lines.
pub fn stderr() -> Lossy<Stderr> {
    Lossy::new(io::stderr())
}

impl<W: Write + Send + 'static> Lossy<W> {
    /// Takes a stream over.
    pub fn new(stream: W) -> Self {
        Self { stream, backlog: Arc::default() }
    }

    /// Starts a thread that writes lines to it, until the guard is dropped.
    pub fn in_background(self) -> (LogWriter, WorkerGuard) {
        let backlog = Arc::clone(&self.backlog);
        let queue = NonBlockingBuilder::default().buffered_lines_limit(MOST_WAITING / SHORTEST).lossy(true);
        let (queue, guard) = queue.finish(self);
        (LogWriter { queue, backlog }, guard)
    }
}

impl<W: IsTerminal> Lossy<W> {
    /// Returns whether the stream is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.stream.is_terminal()
    }
}

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.stream.write_all(line).is_err() {
            self.backlog.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.backlog.leave(line.len());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Both streams are line-buffered at most, so nothing of a line is left to lose.
        let _ = self.stream.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails for every second line.
    struct HalfFull(u32);

    impl Write for HalfFull {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0.is_multiple_of(2) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(line.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn counts_each_line_that_cannot_be_written() {
        let (mut writer, guard) = Lossy::new(HalfFull(0)).in_background();
        for _ in 0..6 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop(guard);
        assert_eq!(writer.lost_lines(), 3);
        assert_eq!(writer.backlog.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn waits_no_longer_than_the_limit_for_work_that_does_not_end() {
        let (held, never) = mpsc::channel::<()>();
        run_within(Duration::from_millis(10), move || {
            let _ = never.recv();
        })
        .unwrap();
        drop(held);
    }
}
