//! The signals that the process handles.
//!
//! | signal | effect |
//! | --- | --- |
//! | `SIGTERM`, `SIGQUIT` | drains and exits |
//! | `SIGINT` | the same without `shutdown_delay`, and incomplete requests are closed after 250 ms |
//! | `SIGHUP` | reloads the settings; logged and ignored if they are fixed |
//! | `SIGUSR1`, `SIGUSR2`, `SIGALRM` | logged and ignored |
//! | `SIGXFSZ` | ignored: the write that exceeds the limit of a file's size fails instead |
//!
//! While the process drains, a second `SIGTERM` or `SIGINT` ends it at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_local;

use crate::util::enum_all;

/// A signal that must not end the process, which is what the kernel does by default.
struct Ignored {
    kind: fn() -> SignalKind,
    name: &'static str,
    hint: &'static str,
}

/// What other servers use for log rotation, binary upgrades and timers.
const IGNORED: [Ignored; 3] = [
    Ignored {
        kind: SignalKind::user_defined1,
        name: "SIGUSR1",
        hint: "logs go to standard output and standard error; no log file is open that could be reopened",
    },
    Ignored {
        kind: SignalKind::user_defined2,
        name: "SIGUSR2",
        hint: "to replace the binary, start the new one with --takeover",
    },
    Ignored { kind: SignalKind::alarm, name: "SIGALRM", hint: "has no effect" },
];

/// Keeps signals that have no meaning here from ending the process, for as long as it lives. Must be called inside a
/// runtime.
///
/// # Errors
/// A handler can't be installed.
pub(crate) fn ignore_signals() -> io::Result<()> {
    for ignored in &IGNORED {
        // The handler stays when the receiver is dropped.
        drop(signal((ignored.kind)())?);
    }
    // Not logged: a log line may be the very write that exceeds the limit.
    drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
    Ok(())
}

/// Logs signals that are ignored, among them `SIGHUP` if the settings are fixed. Must be called inside a
/// [`tokio::task::LocalSet`].
///
/// # Errors
/// A handler can't be installed.
pub(super) fn log_ignored(is_fixed: bool) -> io::Result<()> {
    let hangup = Ignored {
        kind: SignalKind::hangup,
        name: "SIGHUP",
        hint: "the settings are fixed; there is nothing to reload",
    };
    for Ignored { kind, name, hint } in IGNORED.into_iter().chain(is_fixed.then_some(hangup)) {
        let mut received = signal(kind())?;
        spawn_local(async move {
            while received.recv().await.is_some() {
                tracing::info!(signal = name, hint, "signal ignored");
            }
        });
    }
    Ok(())
}

enum_all! {
    /// A signal that stops the process.
    pub(super) enum ShutdownSignal {
        /// Ctrl-C.
        Interrupt = "SIGINT",
        /// The default of `kill` and of supervisors.
        Terminate = "SIGTERM",
        /// Ctrl-Backslash.
        Quit = "SIGQUIT",
    }
}

/// Receives the signals that ask the process to leave.
pub(super) struct ShutdownSignals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
}

impl ShutdownSignals {
    /// Installs the handlers.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> ShutdownSignal {
        tokio::select! {
            _ = self.interrupt.recv() => ShutdownSignal::Interrupt,
            _ = self.terminate.recv() => ShutdownSignal::Terminate,
            _ = self.quit.recv() => ShutdownSignal::Quit,
        }
    }

    /// Waits for the signal that ends a process which drains already. `SIGQUIT` asks for no more than that: a
    /// container's hook may send it before the runtime sends `SIGTERM`.
    pub(super) async fn second(&mut self) -> ShutdownSignal {
        loop {
            match self.next().await {
                ShutdownSignal::Quit => {
                    tracing::info!(signal = ShutdownSignal::Quit.name(), "signal ignored: draining already")
                }
                signal => return signal,
            }
        }
    }
}
