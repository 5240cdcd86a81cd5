//! Standard output and standard error. The only module that writes to either.
//!
//! `print!` and its relatives panic when a write fails, for example on a full disk or when the reader of a pipe has
//! gone. A dispatcher must not stop because of a log line, so every write here tolerates failure: [`print()`] returns
//! the error, [`report`] ignores it, and [`Lossy`] counts it. The lints `print_stdout` and `print_stderr` forbid the
//! macros, and `tests/it/architecture.rs` forbids the streams elsewhere.

use std::io::{self, IsTerminal, Stderr, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

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
    lost: Arc<AtomicU64>,
}

/// The number of lines that a [`Lossy`] stream could not write.
#[derive(Clone, Debug)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// Returns the number of lines so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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

impl<W: Write> Lossy<W> {
    fn new(stream: W) -> Self {
        Self { stream, lost: Arc::default() }
    }

    /// Returns the counter of lines that could not be written.
    pub fn lost_lines(&self) -> LostLines {
        LostLines(Arc::clone(&self.lost))
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
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
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
        let mut stream = Lossy::new(HalfFull(0));
        let lost = stream.lost_lines();
        for _ in 0..6 {
            stream.write_all(b"a line\n").unwrap();
        }
        stream.flush().unwrap();
        assert_eq!(lost.count(), 3);
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
