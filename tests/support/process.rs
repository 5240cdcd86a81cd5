//! The real binary as a process: started on free ports, read and signalled, ended when it is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::http::{self, Answer, PATIENCE};

/// Every process that was started and not yet ended.
static STARTED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A process that is ended, with its descendants, when this is dropped.
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = Pid::from_child(&child);
        STARTED.lock().unwrap().push(pid.as_raw_nonzero().get());
        Self { child, pid }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Its end, where it comes within a time.
    pub fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        wait_for(within, || self.child.try_wait().unwrap())
    }

    /// Its process id and those of its descendants: nginx serves in a child.
    pub fn tree(&self) -> Vec<i32> {
        tree(self.pid.as_raw_nonzero().get())
    }

    /// Resident memory of the tree, in kilobytes.
    pub fn resident(&self) -> f64 {
        self.tree().iter().filter_map(|pid| number(&format!("/proc/{pid}/status"), "VmRSS:")).sum()
    }

    /// The processor time that all threads of the tree have used.
    pub fn processor_time(&self) -> Duration {
        let used = self.threads().into_iter().filter_map(|thread| {
            let text = fs::read_to_string(thread.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum())
    }

    /// Whether all threads of the tree are traced.
    pub fn traced(&self) -> bool {
        let tracer = |thread: PathBuf| number(&thread.join("status").display().to_string(), "TracerPid:");
        self.threads().into_iter().all(|thread| tracer(thread).is_none_or(|pid| pid > 0.0))
    }

    /// The directories in `/proc` of all threads of the tree.
    fn threads(&self) -> Vec<PathBuf> {
        let tasks = |pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        self.tree().into_iter().flat_map(tasks).filter_map(|task| Some(task.ok()?.path())).collect()
    }
}

fn tree(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

/// A number behind a name in a file of `/proc`.
fn number(path: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let own = self.pid.as_raw_nonzero().get();
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.tree().into_iter().for_each(kill);
            let _ = self.child.wait();
        }
        STARTED.lock().unwrap().retain(|pid| *pid != own);
    }
}

/// Ends all that still run, for a program that is interrupted or a scenario that was given up.
pub fn end_all() {
    let Ok(mut started) = STARTED.lock() else { return };
    started.drain(..).flat_map(tree).for_each(kill);
}

/// Goes before other work of the machine, where that is allowed: with a compiler beside it on few cores, half a
/// second is no bound for anything. Processes that are started inherit it.
pub fn go_first() {
    let _ = rustix::process::nice(-10);
}

/// Raises the limit of descriptors as far as it goes; a scenario asks for how many there are.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many descriptors this process may have.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Calls a function again and again until it returns something or a time has passed.
pub fn wait_for<T>(within: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + within;
    loop {
        match find() {
            None if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(2)),
            found => return found,
        }
    }
}

/// Waits until something is so. Returns how long that took, if it came to be so in time.
pub fn wait_until(within: Duration, mut so: impl FnMut() -> bool) -> Option<Duration> {
    let started = Instant::now();
    wait_for(within, || so().then(|| started.elapsed()))
}

/// Lines of a stream, collected by a thread, so that the process never waits for a reader.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    pub fn of(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let collected = Arc::clone(&lines.0);
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                collected.lock().unwrap().lines.push(line);
            }
            collected.lock().unwrap().ended = true;
        });
        lines
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.from(0)
    }

    /// The lines so far from the one with this index.
    pub fn from(&self, index: usize) -> Vec<String> {
        self.0.lock().unwrap().lines.get(index..).unwrap_or_default().to_vec()
    }

    /// Returns whether the stream has ended.
    pub fn ended(&self) -> bool {
        self.0.lock().unwrap().ended
    }

    /// Waits for a line that holds all of these words.
    pub fn has(&self, words: &[&str]) -> bool {
        let found = || {
            let collected = self.0.lock().unwrap();
            collected.lines.iter().any(|line| words.iter().all(|word| line.contains(word)))
        };
        wait_until(Duration::from_secs(5), found).is_some()
    }
}

/// A running dispatcher.
pub struct Signpost {
    pub process: Process,
    /// Its first traffic address; one with TLS if there is no other.
    pub traffic: SocketAddr,
    /// Its first traffic address with TLS.
    pub tls: Option<SocketAddr>,
    /// Its first address that redirects to https.
    pub upgrade: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// Standard error.
    pub log: Lines,
    /// Standard output: the access log.
    pub access: Lines,
    /// Where its settings are, if [`Start`] has written them.
    directory: Option<Arc<tempfile::TempDir>>,
}

/// A pool of one backend that nobody probes and nobody visits.
pub const POOL: &str =
    "[pools.p]\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001' }]\n[pools.p.health]\nkind = 'none'\n";

/// How a dispatcher is started.
pub struct Start {
    settings: String,
    under: Vec<String>,
    args: Vec<String>,
    listens: bool,
    directory: Arc<tempfile::TempDir>,
}

impl Start {
    /// With these settings, without an access log, on free ports.
    pub fn with(settings: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let (under, args) = (Vec::new(), Vec::new());
        Self { settings: settings.to_owned(), under, args, listens: false, directory }
    }

    /// By another program, which runs it as its own process: these are its words.
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// With so many descriptors at most.
    pub fn limit(self, descriptors: u32) -> Self {
        self.under(&["/bin/sh", "-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")])
    }

    /// With these arguments beside what says where the settings are and, unless they do, where it listens.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// The settings say where it listens.
    pub fn listens(mut self) -> Self {
        self.listens = true;
        self
    }

    /// The command as it is run.
    pub fn command(&self) -> Command {
        let path = self.directory.path().join("site.toml");
        fs::write(&path, &self.settings).unwrap();
        let mut words = self.under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_signpost")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().stdin(Stdio::null()).arg("--settings").arg(path);
        for (flag, default) in [("--listen", "127.0.0.1:0"), ("--admin", "127.0.0.1:0")] {
            let said = self.listens && flag == "--listen";
            if !said && !self.args.iter().any(|arg| arg == flag) {
                command.args([flag, default]);
            }
        }
        command.args(&self.args);
        command
    }

    /// Starts it and waits until it serves.
    pub fn go(self) -> Signpost {
        let mut signpost = Signpost::start(self.command().stdout(Stdio::piped()));
        signpost.read_stdout();
        signpost.directory = Some(self.directory);
        LOGS.lock().unwrap().push(signpost.log.clone());
        signpost
    }
}

/// The logs of dispatchers, for a scenario that missed something.
static LOGS: Mutex<Vec<Lines>> = Mutex::new(Vec::new());

/// The logs of all dispatchers since this was last asked.
pub fn logs() -> Vec<Lines> {
    std::mem::take(&mut LOGS.lock().unwrap())
}

impl Signpost {
    /// Starts a command that prints where it listens, and waits until it has printed the last of it, the admin
    /// listener's line. Standard output is what the command says.
    pub fn start(command: &mut Command) -> Self {
        let mut process = Process::spawn(command.stderr(Stdio::piped()));
        let log = Lines::of(process.child().stderr.take().unwrap());
        let address = |prefix: &str| {
            let address = |line: &String| line.strip_prefix(prefix)?.split(' ').next()?.parse().ok();
            log.all().iter().find_map(address)
        };
        let admin = || address("admin on http://");
        wait_until(PATIENCE, || admin().is_some() || log.ended());
        let Some(admin) = admin() else { panic!("it did not start:\n{}", log.all().join("\n")) };
        let tls = address("listening on https://");
        let traffic = address("listening on http://").or(tls).expect("a traffic address");
        let upgrade = address("sending http://");
        Self { process, traffic, tls, upgrade, admin, log, access: Lines::default(), directory: None }
    }

    /// Collects the lines of standard output, a pipe, from now on.
    pub fn read_stdout(&mut self) {
        self.access = Lines::of(self.process.child().stdout.take().unwrap());
    }

    /// Its addresses for visitors without TLS, in the order of the settings.
    pub fn plain(&self) -> Vec<SocketAddr> {
        let lines = self.log.all();
        let address =
            |line: &String| line.strip_prefix("listening on http://")?.split(' ').next()?.parse().ok();
        lines.iter().filter_map(address).collect()
    }

    /// A file beside its settings.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(name)
    }

    /// Puts other settings in the file's place, in one step.
    pub fn write_settings(&self, settings: &str) {
        replace(&self.file("site.toml"), settings);
    }

    /// A request to the admin listener.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut all = vec![("Host", "127.0.0.1"), ("Connection", "close")];
        if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            all.remove(0);
        }
        if !body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            all.push(("Content-Type", "application/json"));
        }
        all.extend(headers);
        http::once(http::client(1), self.admin, &http::request(method, path, &all, body)).unwrap()
    }

    /// All of `/metrics`.
    pub fn metrics(&self) -> String {
        self.ask("GET", "/metrics", &[], "").text()
    }

    /// The value of a series; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        http::series(&self.metrics(), name, labels).unwrap_or_default()
    }

    /// Waits until a series has a value; whether it came to that.
    pub fn metric_becomes(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        value: f64,
        within: Duration,
    ) -> Option<Duration> {
        wait_until(within, || http::series(&self.metrics(), name, labels) == Some(value))
    }

    /// A GET as a visitor.
    pub fn get(&self, from: u8) -> std::io::Result<Answer> {
        http::once(http::client(from), self.traffic, &http::request("GET", "/", &[], ""))
    }

    /// Ends it with SIGTERM; its exit code, where it ends in time.
    pub fn leave(mut self, within: Duration) -> Option<i32> {
        self.process.signal(Signal::TERM);
        self.process.ended(within)?.code()
    }
}

/// Puts a file in another's place in one step, so that nobody reads half of it.
pub fn replace(path: &std::path::Path, contents: &str) {
    let new = path.with_extension("new");
    fs::write(&new, contents).unwrap();
    fs::rename(new, path).unwrap();
}
