//! Starts the real binary on free ports and talks to it over real sockets.
//!
//! ```ignore
//! let signpost = Signpost::with_backends(&["http://127.0.0.1:9001"]);
//! assert_eq!(signpost.get("/x").location(), "http://127.0.0.1:9001/x");
//! assert_eq!(signpost.metric("signpost_responses_total", &[("code", "302")]), 1.0);
//! ```
//!
//! Nothing here waits for a fixed time: every wait is for an event, bounded by [`PATIENCE`].

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

pub use crate::support::http::{Answer, PATIENCE, series};
use crate::support::{http, process};

/// A running dispatcher. It is ended when this is dropped.
pub struct Signpost {
    running: process::Signpost,
    /// How many lines of standard output, and of standard error, were read.
    stdout_read: Cell<usize>,
    stderr_read: Cell<usize>,
    _settings: Option<tempfile::NamedTempFile>,
}

impl Deref for Signpost {
    type Target = process::Signpost;

    fn deref(&self) -> &Self::Target {
        &self.running
    }
}

/// The binary with an environment of its own.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_signpost"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    command(args).output().unwrap()
}

/// Standard error of a finished run.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Says loudly that a test can't run here: past the test runner's capture, whether it passes or not.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Writes a settings file that lives as long as the returned value.
pub fn settings_file(toml: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    file
}

impl Signpost {
    /// Starts it with these arguments on free ports.
    pub fn start(args: &[&str]) -> Self {
        Self::start_command(command(args).args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]))
    }

    /// Starts it with these backends.
    pub fn with_backends(backends: &[&str]) -> Self {
        let args: Vec<_> = backends.iter().flat_map(|backend| ["--backend", backend]).collect();
        Self::start(&args)
    }

    /// Starts it with a settings file of this text.
    pub fn with_settings(toml: &str) -> Self {
        let file = settings_file(toml);
        let mut signpost = Self::start(&["--settings", file.path().to_str().unwrap()]);
        signpost._settings = Some(file);
        signpost
    }

    /// The same, but the file says itself where visitors are listened for.
    pub fn with_listeners(toml: &str) -> Self {
        let file = settings_file(toml);
        let mut signpost =
            Self::start_command(command(["--settings"]).arg(file.path()).args(["--admin", "127.0.0.1:0"]));
        signpost._settings = Some(file);
        signpost
    }

    /// Starts a command that will print where it listens.
    pub fn start_command(command: &mut Command) -> Self {
        let mut signpost = Self::start_unread(command);
        signpost.running.read_stdout();
        signpost
    }

    /// The same, but nobody reads its standard output.
    pub fn start_unread(command: &mut Command) -> Self {
        Self::start_with_stdout(command.stdout(Stdio::piped()))
    }

    /// The same, with the standard output that the command has.
    pub fn start_with_stdout(command: &mut Command) -> Self {
        let running = process::Signpost::start(command);
        Self { running, stdout_read: Cell::new(0), stderr_read: Cell::new(0), _settings: None }
    }

    /// A new connection to the first traffic address.
    pub fn connect(&self) -> Connection {
        Connection::to(self.traffic)
    }

    /// `GET` on a new connection.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[])
    }

    /// `GET` on new connections until one is redirected to a URL that ends in this.
    pub fn get_to(&self, end: &str) -> Answer {
        let mut answer = None;
        wait_until(&format!("a client is redirected to {end}"), || {
            answer = Some(self.get("/")).filter(|answer| answer.location().ends_with(end));
            answer.is_some()
        });
        answer.unwrap()
    }

    /// A request without body on a new connection. A `Host` is added where none is given.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.connect().request(method, path, headers)
    }

    /// Sends raw bytes on a new connection and reads one answer; `None` where none came.
    pub fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut connection = self.connect();
        connection.send(bytes);
        connection.read_answer()
    }

    /// `GET` on the admin listener.
    pub fn admin_get(&self, path: &str) -> Answer {
        Connection::to(self.admin).request("GET", path, &[])
    }

    /// The value of a series; panics where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics();
        series(&text, name, labels).unwrap_or_else(|| panic!("no series {name}{labels:?} in:\n{text}"))
    }

    /// All of `/metrics`.
    pub fn metrics(&self) -> String {
        let answer = self.admin_get("/metrics");
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).unwrap()
    }

    /// Waits until a series has a value.
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        wait_until(&format!("{name}{labels:?} is {value}"), || self.metric(name, labels) == value);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until a backend is in a state.
    pub fn wait_for_state(&self, backend: &str, state: &str) {
        self.wait_for_metric("signpost_backend_state", &[("backend", backend), ("state", state)], 1.0);
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: not every machine has one as a program.
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// Returns whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.running.process.ended(Duration::ZERO).is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.running.process.ended(PATIENCE).expect("the process ends")
    }

    /// The next line on standard output.
    pub fn next_line(&self) -> String {
        let read = self.stdout_read.get();
        self.stdout_read.set(read + 1);
        let line = process::wait_for(PATIENCE, || self.access.from(read).into_iter().next());
        line.expect("a line on standard output")
    }

    /// The rest of standard output, once the process has ended.
    pub fn all_lines(&self) -> Vec<String> {
        wait_until("standard output ends", || self.access.ended());
        self.access.from(self.stdout_read.get())
    }

    /// Everything on standard error so far that was not read yet. The log is written behind a queue: what has just
    /// happened may not be there yet.
    pub fn log(&self) -> String {
        let unread = self.log.from(self.stderr_read.get());
        self.stderr_read.set(self.stderr_read.get() + unread.len());
        unread.join("\n")
    }

    /// Waits until a line on standard error that was not read yet has this in it.
    pub fn wait_for_log(&self, text: &str) {
        let has = |line: &String| line.contains(text);
        wait_until(&format!("the log has {text:?}"), || {
            self.log.from(self.stderr_read.get()).iter().any(has)
        });
    }
}

/// Does something at the end of a scope, also where an assertion in it fails.
pub struct OnDrop<F: Fn()>(pub F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Waits for something to be so.
pub fn wait_until(what: &str, so: impl FnMut() -> bool) {
    assert!(process::wait_until(PATIENCE, so).is_some(), "waited in vain until {what}");
}

/// A client's connection, over a socket or something that is spoken on one.
pub struct Connection<S: Read + Write = TcpStream>(BufReader<S>);

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        Self::of_socket(TcpStream::connect(address).unwrap())
    }

    /// From another address of this machine, such as 127.0.0.5.
    pub fn from_to(source: IpAddr, address: SocketAddr) -> Self {
        Self(BufReader::new(http::connect_from(source, address).unwrap()))
    }

    fn of_socket(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn set_write_timeout(&mut self, timeout: Duration) {
        self.0.get_mut().set_write_timeout(Some(timeout)).unwrap();
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.0.get_mut().shutdown(Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    pub fn stream(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// Sends bytes; a peer that closed in the meantime is no failure here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// Sends bytes, and says when that was not possible.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(&http::request(method, path, headers, ""));
        self.read_answer_to(method).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// Reads one answer; `None` where the connection ends first.
    pub fn read_answer(&mut self) -> Option<Answer> {
        self.read_answer_to("GET")
    }

    /// The same to a request of this method: a response to HEAD has no body.
    pub fn read_answer_to(&mut self, method: &str) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.0.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let mut answer = Answer::parse(&head)?;
        if method != "HEAD" {
            answer.body.resize(answer.length(), 0);
            self.0.read_exact(&mut answer.body).ok()?;
        }
        Some(answer)
    }

    /// Reads all that is left until the peer closes; an error if it resets.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest)?;
        Ok(rest)
    }

    /// Reads until the peer closes; whether it did so in good order, with FIN.
    pub fn closes(&mut self) -> bool {
        self.rest().is_ok()
    }
}
