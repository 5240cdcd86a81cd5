//! Starts the real binary on free ports and talks to it over real sockets.
//!
//! ```ignore
//! let signpost = Signpost::with_backends(&["http://127.0.0.1:9001"]);
//! assert_eq!(signpost.get("/x").location(), "http://127.0.0.1:9001/x");
//! assert_eq!(signpost.metric("signpost_responses_total", &[("code", "302")]), 1.0);
//! ```
//!
//! Nothing here waits for a fixed time: every wait is for an event, bounded by [`PATIENCE`].

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running dispatcher. It is ended when this is dropped.
pub struct Signpost {
    child: Child,
    /// Its first traffic address, with TLS where none is without.
    pub traffic: SocketAddr,
    /// Its first address that speaks TLS.
    pub tls: Option<SocketAddr>,
    /// Its first address that sends visitors to TLS.
    pub upgrade: Option<SocketAddr>,
    /// Its admin address.
    pub admin: SocketAddr,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
    /// Lines of standard error that nobody asked for yet.
    unread: RefCell<Vec<String>>,
    _settings: Option<tempfile::NamedTempFile>,
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
        signpost.stdout = lines(signpost.child.stdout.take().unwrap());
        signpost
    }

    /// The same, but nobody reads its standard output.
    pub fn start_unread(command: &mut Command) -> Self {
        Self::start_with_stdout(command.stdout(Stdio::piped()))
    }

    /// The same, with the standard output that the command has.
    pub fn start_with_stdout(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stdout = mpsc::channel().1;
        let stderr = lines(child.stderr.take().unwrap());
        let mut seen = Vec::new();
        // The admin listener's line is the last of them.
        let admin = loop {
            match stderr.recv_timeout(PATIENCE) {
                Ok(line) => match line.strip_prefix("admin on http://") {
                    Some(address) => break address.parse().unwrap(),
                    None => seen.push(line),
                },
                Err(_) => panic!("no admin address; standard error was:\n{}", seen.join("\n")),
            }
        };
        let address = |before: &str, after: &str| {
            let address = |line: &String| line.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
            seen.iter().find_map(address)
        };
        let tls = address("listening on https://", "");
        let traffic = address("listening on http://", "").or(tls).unwrap();
        let upgrade = address("sending http://", " to https");
        Self {
            child,
            traffic,
            tls,
            upgrade,
            admin,
            stdout,
            stderr,
            unread: RefCell::new(seen),
            _settings: None,
        }
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
        self.child.id()
    }

    /// Waits until a backend is in a state.
    pub fn wait_for_state(&self, backend: &str, state: &str) {
        self.wait_for_metric("signpost_backend_state", &[("backend", backend), ("state", state)], 1.0);
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: not every machine has one as a program.
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// Returns whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("the process ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// The next line on standard output.
    pub fn next_line(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).expect("a line on standard output")
    }

    /// The rest of standard output, once the process has ended.
    pub fn all_lines(&self) -> Vec<String> {
        self.stdout.iter().collect()
    }

    /// Everything on standard error so far that was not read yet. The log is written behind a queue: what has just
    /// happened may not be there yet.
    pub fn log(&self) -> String {
        let mut unread = self.unread.take();
        unread.extend(self.stderr.try_iter());
        unread.join("\n")
    }

    /// Waits until a line on standard error that was not read yet has this in it.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log has {text:?}"), || {
            let mut unread = self.unread.borrow_mut();
            unread.extend(self.stderr.try_iter());
            unread.iter().any(|line| line.contains(text))
        });
    }
}

impl Drop for Signpost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread of their own, so that the process never waits for a test to read.
pub fn lines(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Does something at the end of a scope, also where an assertion in it fails.
pub struct OnDrop<F: Fn()>(pub F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// An address that was free a moment ago. Not on 127.0.0.1, from where clients connect: one that tries a free port there
/// may connect to itself.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap()
}

/// Waits for something to be so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The value of a series in Prometheus text, whatever the order of its labels.
pub fn series(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    text.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let wanted = |(key, value): &(&str, &str)| rest.contains(&format!("{key}=\"{value}\""));
        (found == name && labels.iter().all(wanted)).then(|| value.parse().unwrap())
    })
}

/// A client's connection, over a socket or something that is spoken on one.
pub struct Connection<S: Read + Write = TcpStream>(BufReader<S>);

impl Connection {
    pub fn to(address: SocketAddr) -> Self {
        Self::of_socket(TcpStream::connect(address).unwrap())
    }

    /// From another address of this machine, such as 127.0.0.5.
    pub fn from_to(source: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::of_socket(socket.into())
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
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += "Host: site.example\r\n";
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        self.send(format!("{text}\r\n").as_bytes());
        self.read_answer_to(method).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// Reads one answer; `None` where the connection ends first.
    pub fn read_answer(&mut self) -> Option<Answer> {
        self.read_answer_to("GET")
    }

    /// The same to a request of this method: a response to HEAD has no body.
    pub fn read_answer_to(&mut self, method: &str) -> Option<Answer> {
        let head = self.read_line()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if method != "HEAD" {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            answer.body.resize(length, 0);
            self.0.read_exact(&mut answer.body).ok()?;
        }
        Some(answer)
    }

    fn read_line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).ok()?;
        line.strip_suffix(b"\r\n").map(|line| String::from_utf8_lossy(line).into_owned())
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

/// An answer as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names are lower-cased.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The one value of a header; panics where it stands twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} stands twice in {self:?}");
        first
    }

    /// `Location`; panics where there is none.
    pub fn location(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("no location in {self:?}"))
    }

    /// `name=value` of the cookie that is set.
    pub fn cookie(&self) -> Option<&str> {
        self.header("set-cookie").map(|cookie| cookie.split(';').next().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
