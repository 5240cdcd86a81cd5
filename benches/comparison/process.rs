//! Processes on a core of their own, and what they use. They end with this program, however it ends.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::PROGRAMS;

/// Every process that was started and not yet ended.
static STARTED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A program on one core. `setpriv` has the kernel end it where this program is killed, and both helpers become
/// the program itself, so that the process is the program's.
pub fn on_core(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &core.to_string()]).arg(program);
    command.env_clear().env("PATH", PROGRAMS);
    command
}

/// A process that is ended when this is dropped.
pub struct Process {
    child: Child,
    pid: i32,
}

impl Process {
    /// Starts it. This must be the main thread: the kernel would end it with any other.
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = Pid::from_child(&child).as_raw_nonzero().get();
        STARTED.lock().unwrap().push(pid);
        Self { child, pid }
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Its end, where it comes within a time.
    pub fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        wait_for(within, || self.child.try_wait().unwrap())
    }

    /// It and its descendants: nginx serves in a child.
    pub fn tree(&self) -> Vec<i32> {
        tree(self.pid)
    }

    /// The processor time that all their threads have used.
    pub fn processor_time(&self) -> Duration {
        let used = self.threads().into_iter().filter_map(|thread| {
            let text = fs::read_to_string(thread.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum())
    }

    /// Their resident memory in bytes.
    pub fn resident(&self) -> f64 {
        let each = self.tree().into_iter().filter_map(|pid| number(&format!("/proc/{pid}/status"), "VmRSS:"));
        each.sum::<f64>() * 1024.0
    }

    /// Whether all of their threads are traced by now.
    pub fn traced(&self) -> bool {
        let tracer = |thread: PathBuf| number(&thread.join("status").display().to_string(), "TracerPid:");
        self.threads().into_iter().all(|thread| tracer(thread).is_none_or(|pid| pid > 0.0))
    }

    /// The directories in `/proc` of all their threads.
    fn threads(&self) -> Vec<PathBuf> {
        let tasks = |pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        self.tree().into_iter().flat_map(tasks).filter_map(|task| Some(task.ok()?.path())).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended(Duration::ZERO).is_none() {
            let all = self.tree();
            self.signal(Signal::TERM);
            if self.ended(Duration::from_secs(3)).is_none() {
                all.into_iter().for_each(|pid| send(pid, Signal::KILL));
                let _ = self.child.wait();
            }
        }
        STARTED.lock().unwrap().retain(|pid| *pid != self.pid);
    }
}

/// Ends all that still run; for a program that is interrupted.
pub fn end_all() {
    let Ok(mut started) = STARTED.lock() else { return };
    started.drain(..).flat_map(tree).for_each(|pid| send(pid, Signal::TERM));
}

fn tree(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// A number behind a name in a file of `/proc`.
fn number(path: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Asks again and again for a time.
pub fn wait_for<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + within;
    loop {
        match ask() {
            None if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(5)),
            answer => return answer,
        }
    }
}
