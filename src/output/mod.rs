//! Standard output and standard error. The only module that writes to either.
//!
//! `print!` and its relatives panic when a write fails, for example on a full disk or when the reader of a pipe has
//! gone. A dispatcher must not stop because of a log line, so every write here tolerates failure: [`print()`] returns
//! the error, [`report`] ignores it, and [`log_writer`] counts it. The lints `print_stdout` and `print_stderr` forbid the
//! macros, and `tests/it/architecture.rs` forbids the streams elsewhere.

pub mod log_writer;

use std::io::{self, IsTerminal, Stderr, Stdout, Write};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

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

/// Standard output for log lines.
pub fn stdout() -> Stream<Stdout> {
    Stream(io::stdout())
}

/// Standard error for log lines.
pub fn stderr() -> Stream<Stderr> {
    Stream(io::stderr())
}

/// A standard stream without the buffer that the standard library puts before it, which hides how much of a write that
/// fails was written.
#[derive(Debug)]
pub struct Stream<S>(S);

impl<S: IsTerminal> Stream<S> {
    /// Returns whether the stream is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.0.is_terminal()
    }
}

impl<S: AsFd> Write for Stream<S> {
    /// Waits until the stream takes bytes, also if it does not block: whoever shares it may have set that.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
