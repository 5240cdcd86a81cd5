//! Standard output and standard error that cannot be written: every command, every way to fail.

use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::harness::{Connection, Signpost, command, series, settings_file, skipped, wait_until};
use crate::support::backend::free_address;

const BACKEND: [&str; 2] = ["--backend", "http://127.0.0.1:9001"];

/// A place to write to that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sink {
    FullDisk,
    Closed,
    BrokenPipe,
}

const SINKS: [Sink; 3] = [Sink::FullDisk, Sink::Closed, Sink::BrokenPipe];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stream {
    Stdout,
    Stderr,
}

/// The binary with one stream that fails and the other one captured.
fn with_sink(args: &[&str], stream: Stream, sink: Sink) -> Command {
    let binary = command::<&str>([]).get_program().to_owned();
    // The shell can close a descriptor; `Command` cannot.
    let close = match (stream, sink) {
        (Stream::Stdout, Sink::Closed) => ">&-",
        (Stream::Stderr, Sink::Closed) => "2>&-",
        _ => "",
    };
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$@\" {close}"), "sh"]).arg(binary).args(args);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let stdio = match sink {
        Sink::FullDisk => Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap()),
        Sink::Closed => return command,
        Sink::BrokenPipe => Stdio::from(OwnedFd::from(io::pipe().unwrap().1)),
    };
    match stream {
        Stream::Stdout => command.stdout(stdio),
        Stream::Stderr => command.stderr(stdio),
    };
    command
}

#[test]
fn commands_that_end_tolerate_every_sink() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let good = settings_file("[pools.p]\nbackends = ['http://127.0.0.1:9001']\nstrategy = 'least_load'");
    let bad = settings_file("[pools.p]\nbackends = ['http://127.0.0.1:9001']\nstrategy = 'none'");
    let scenario = settings_file("warm_up = '1s'\nmeasured = '2s'");
    let [good, bad, scenario] = [&good, &bad, &scenario].map(|file| file.path().to_str().unwrap());
    // The arguments, the exit code, and whether standard output is what the command is for.
    for (args, code, prints) in [
        (vec!["check", "-s", good], 0, true),
        (vec!["--help"], 0, true),
        (vec!["check", "--help"], 0, true),
        (vec!["--version"], 0, true),
        (vec!["simulate", "--scenario", scenario, "--seeds", "1", "--strategy", "random"], 0, true),
        (vec!["check", "-s", bad], 2, false),
        (vec!["--no-such-flag"], 2, false),
        (vec!["healthcheck", "--admin", "127.0.0.1:1"], 1, false),
        (vec!["serve", "--listen", &taken, BACKEND[0], BACKEND[1]], 1, false),
        (vec!["demo", "--listen", &taken], 1, false),
        (vec!["simulate", "--scenario", "/nowhere"], 2, false),
    ] {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for sink in SINKS {
                let output = with_sink(&args, stream, sink).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                // A closed descriptor is replaced with /dev/null by the runtime, so writing to it succeeds.
                let fails = prints && stream == Stream::Stdout && sink != Sink::Closed;
                let expected = if fails { 1 } else { code };
                let what = format!("{args:?} with {stream:?} to {sink:?}: {said}");
                assert_eq!(output.status.code(), Some(expected), "{what}");
                assert!(!said.contains("panicked"), "{what}");
                if fails {
                    let told = said.contains("can't write to standard output: No space left on device");
                    assert_eq!(told, sink == Sink::FullDisk, "{what}");
                }
            }
        }
    }
}

/// A dispatcher whose addresses are known beforehand, because they cannot be read.
struct Blind {
    child: Child,
    traffic: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Blind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Blind {
    fn start(args: &[&str], stream: Stream, sink: Sink) -> Self {
        let (traffic, admin) = (free_address(), free_address());
        let addresses = ["--listen", &traffic.to_string(), "--admin", &admin.to_string()];
        let mut command = with_sink(&[args, &addresses].concat(), stream, sink);
        let mut child = command.spawn().unwrap();
        wait_until(&format!("{args:?} serves with {stream:?} to {sink:?}"), || {
            assert_eq!(child.try_wait().unwrap(), None, "{args:?} with {stream:?} to {sink:?}");
            [traffic, admin].iter().all(|address| TcpStream::connect(address).is_ok())
        });
        Self { child, traffic, admin }
    }

    fn dropped_lines(&self) -> f64 {
        let metrics = Connection::to(self.admin).request("GET", "/metrics", &[]).text();
        series(&metrics, "signpost_log_lines_dropped_total", &[]).unwrap()
    }

    fn end(mut self) -> Option<i32> {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

#[test]
fn serves_whatever_happens_to_its_output() {
    for args in [vec!["serve", BACKEND[0], BACKEND[1]], vec!["demo"]] {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for sink in SINKS {
                let what = format!("{args:?} with {stream:?} to {sink:?}");
                let blind = Blind::start(&args, stream, sink);
                assert_eq!(Connection::to(blind.traffic).request("GET", "/", &[]).status, 302, "{what}");
                if sink != Sink::Closed {
                    wait_until(&format!("lost lines are counted: {what}"), || blind.dropped_lines() > 0.0);
                }
                assert_eq!(blind.end(), Some(0), "{what}");
            }
        }
    }
}

#[test]
fn ends_although_the_reader_of_its_access_log_stalls() {
    let mut command = command(BACKEND);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.env("SIGNPOST__SERVER__LIMITS__MAX_REQUESTS_PER_CONNECTION", "0");
    let mut signpost = Signpost::start_unread(&mut command);
    let mut connection = signpost.connect();
    wait_until("the queue is full", || {
        connection.send(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000));
        (0..1000).for_each(|_| assert_eq!(connection.read_answer().unwrap().status, 302));
        signpost.metric("signpost_log_lines_dropped_total", &[]) > 0.0
    });
    signpost.signal("TERM");
    assert!(signpost.wait().success());
}

/// Each access line is written, although they come in a burst, nobody reads for a while, and the stream does not block,
/// as if it were shared with a program that has set that.
#[test]
fn writes_each_access_line_to_a_stream_that_does_not_block() {
    const REQUESTS: usize = 5000;
    let (theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut command = command(BACKEND);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).stdout(OwnedFd::from(theirs));
    command.env("SIGNPOST__SERVER__LIMITS__MAX_REQUESTS_PER_CONNECTION", "0");
    let mut signpost = Signpost::start_with_stdout(&mut command);
    // It holds the process' end of the stream.
    drop(command);
    let mut connection = signpost.connect();
    for first in (0..REQUESTS).step_by(100) {
        let requests = (first..first + 100).map(|count| format!("GET /{count} HTTP/1.1\r\nHost: a\r\n\r\n"));
        connection.send(requests.collect::<String>().as_bytes());
        (0..100).for_each(|_| assert_eq!(connection.read_answer().unwrap().status, 302));
    }
    assert_eq!(signpost.metric("signpost_log_lines_dropped_total", &[]), 0.0);
    signpost.signal("TERM");
    let lines = io::read_to_string(ours).unwrap();
    assert!(signpost.wait().success());
    let paths = lines.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["path"].as_str().unwrap().to_owned()
    });
    assert_eq!(paths.collect::<Vec<_>>(), (0..REQUESTS).map(|count| format!("/{count}")).collect::<Vec<_>>());
}

#[test]
fn takes_over_whatever_happens_to_its_output() {
    for stream in [Stream::Stdout, Stream::Stderr] {
        for sink in SINKS {
            let what = format!("{stream:?} to {sink:?}");
            let mut old = Signpost::start(&BACKEND);
            let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
            let args = [&BACKEND[..], &["--listen", &traffic, "--admin", &admin, "--takeover"]].concat();
            let child = with_sink(&args, stream, sink).spawn().unwrap();
            let next = Blind { child, traffic: old.traffic, admin: old.admin };
            assert!(old.wait().success(), "{what}");
            assert_eq!(Connection::to(next.traffic).request("GET", "/", &[]).status, 302, "{what}");
            assert_eq!(Connection::to(next.admin).request("GET", "/readyz", &[]).status, 200, "{what}");
            assert_eq!(next.end(), Some(0), "{what}");
        }
    }
}

/// A successor that runs out of descriptors fails before its predecessor leaves, at whichever step that happens.
#[test]
fn a_predecessor_serves_on_if_its_successor_has_too_few_descriptors() {
    let mut old = Signpost::start(&BACKEND);
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let args = [&BACKEND[..], &["--listen", &traffic, "--admin", &admin, "--takeover"]].concat();
    let mut failed = 0;
    for limit in 4.. {
        let binary = command::<&str>([]).get_program().to_owned();
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"]).arg(binary).args(&args);
        sh.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = sh.spawn().unwrap();
        // Either the successor ends, or the predecessor does.
        let mut code = None;
        wait_until(&format!("one of two is left with {limit} descriptors"), || {
            code = child.try_wait().unwrap().map(|status| status.code());
            code.is_some() || old.has_ended()
        });
        let Some(code) = code else {
            assert_eq!(Connection::to(old.traffic).request("GET", "/", &[]).status, 302);
            drop(Blind { child, traffic: old.traffic, admin: old.admin });
            break;
        };
        let said = io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert_ne!(code, Some(0), "{limit} descriptors: {said}");
        assert!(!said.contains("panicked"), "{limit} descriptors: {said}");
        // Not even the loader has enough of them at first.
        let is_loader = said.contains("shared libraries");
        assert!(is_loader || said.contains("ulimit -n, LimitNOFILE="), "{limit} descriptors: {said}");
        assert!(!old.has_ended(), "{limit} descriptors: {said}");
        assert_eq!((old.get("/").status, old.admin_get("/readyz").status), (302, 200), "{limit}: {said}");
        failed += 1;
    }
    assert!(failed > 5, "{failed}");
}

/// A start without enough threads says what to change, and a takeover leaves the predecessor serving.
#[test]
fn a_start_with_too_few_threads_says_what_to_change() {
    // The limit counts the threads of a user, and not those of root.
    let user = (100_000 + std::process::id()).to_string();
    let limited = |limit: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--clear-groups", "prlimit", &format!("--nproc={limit}")]);
        command.arg(self::command::<&str>([]).get_program());
        command.args(BACKEND).args(["--listen", "127.0.0.1:0"]).args(args).env_clear();
        command
    };
    if !limited("300", &["--version"]).output().is_ok_and(|output| output.status.success()) {
        return skipped("setpriv (util-linux) cannot start the program as another user; it needs root");
    }
    let mut old = Signpost::start_command(
        limited("300", &["--admin", "127.0.0.1:0"]).env("SIGNPOST__SERVER__WORKERS", "1"),
    );
    let admin = old.admin.to_string();
    for args in [&["--admin", "127.0.0.1:0"][..], &["--admin", &admin, "--takeover"]] {
        let mut command = limited("30", args);
        let output = command.env("SIGNPOST__SERVER__WORKERS", "60").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in
            ["signpost: a thread for worker ", " of 60 could not be started: ", "lower server.workers"]
        {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!old.has_ended());
        assert_eq!(old.get("/").status, 302);
    }
}

/// Whatever a successor lacks, it says so and the predecessor serves on.
#[test]
fn a_predecessor_serves_on_if_its_successor_lacks_something() {
    let dir = tempfile::tempdir().unwrap();
    let site = crate::certificates::Site::write(dir.path(), "site", &["a.test"]);
    std::fs::write(&site.key, "no key").unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let mut old = Signpost::start(&BACKEND);
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let tls = format!("[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n", site.toml());
    let pool = "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n";
    for (text, variable, code, lacks) in [
        (format!("{tls}{pool}"), ("X", ""), 2, "holds no private key"),
        (format!("{pool}[pools.p.pin]\nsecrets_file = 'nowhere'\n"), ("X", ""), 2, "can't be read"),
        (format!("{pool}[server.limits]\nmax_connections = 4000000000\n"), ("X", ""), 1, "max_connections"),
        (
            format!("{pool}[server.tls]\nredirect_listen = ['{taken}']\n"),
            ("X", ""),
            1,
            "the address is in use",
        ),
        (pool.to_owned(), ("NOTIFY_SOCKET", "run/notify"), 1, "NOTIFY_SOCKET"),
    ] {
        let file = settings_file(&text);
        let args =
            ["-s", file.path().to_str().unwrap(), "--listen", &traffic, "--admin", &admin, "--takeover"];
        let output = command(args).env(variable.0, variable.1).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}{said}");
        assert!(said.contains(lacks) && !said.contains("panicked"), "{text}{said}");
        assert!(!old.has_ended());
        assert_eq!((old.get("/").status, old.admin_get("/readyz").status), (302, 200), "{text}");
    }
}
