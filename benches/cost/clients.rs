//! Clients who come in the same way each time, so that what they cost can be counted and not only estimated.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::ClientConfig;

use crate::http::{self, Answer, PATIENCE};
use crate::process::{Signpost, Start};
use crate::tls::{self, Tls};

/// How visitors come.
#[derive(Clone, Copy)]
pub struct Manner {
    /// How many come at the same time, each with one request.
    pub at_once: u32,
    /// Whether they keep their connections, or take a new one for each request.
    pub stays: bool,
    /// Whether they show a valid pin.
    pub pinned: bool,
    /// Whether they speak TLS; who does not stay then makes a whole handshake.
    pub tls: bool,
    /// Whether backends tell their load.
    pub reported: bool,
    /// Whether three strategies run beside the one that sends them.
    pub shadowed: bool,
    /// Whether each request has a line in the access log, which somebody reads.
    pub logged: bool,
}

/// One who keeps its connection.
pub const KEPT: Manner = Manner {
    at_once: 1,
    stays: true,
    pinned: false,
    tls: false,
    reported: false,
    shadowed: false,
    logged: false,
};
/// One who takes a new connection for each request.
pub const ONE_SHOT: Manner = Manner { stays: false, ..KEPT };

impl Manner {
    pub const fn at_once(self, at_once: u32) -> Self {
        Self { at_once, ..self }
    }

    pub const fn pinned(self) -> Self {
        Self { pinned: true, ..self }
    }

    pub const fn by_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    pub const fn reported(self) -> Self {
        Self { reported: true, ..self }
    }

    pub const fn shadowed(self) -> Self {
        Self { shadowed: true, ..self }
    }

    pub const fn logged(self) -> Self {
        Self { logged: true, ..self }
    }
}

/// A dispatcher of one worker, and its visitors.
///
/// Whether a worker finds the request with the connection or must wait for it once more is chance, and worth a
/// tenth of a request. So the process is stopped while visitors connect and write, and then finds everything
/// there. What it costs to be stopped is the same each time: it is counted beside, with [`Clients::nobody`], and
/// taken off.
pub struct Clients {
    manner: Manner,
    request: Vec<u8>,
    tls: Arc<ClientConfig>,
    signpost: Signpost,
    kept: Vec<Line>,
    stops: usize,
}

/// Nothing but what is to be counted: no probes, no file that is looked at again.
const SETTINGS: &str = "[server]\nworkers = 1\nwatch_interval = '0s'\n[pools.p.health]\nkind = 'none'\n";
const POOL: &str = "[pools.p]\nstrategy = 'random'\n\
     backends = [{ id = 'a', url = 'https://a.example' }, { id = 'b', url = 'https://b.example' }]\n";
const PIN: &str = "[pools.p.pin]\n";

/// Enough backends for `least_load` to choose from. Their reports hold for longer than this lasts.
const REPORTED: u32 = 10;
const REPORTS: &str = "[pools.p]\nstrategy = 'random'\nload = { source = 'push', max_age = '1h' }\n";
const SHADOWS: &str = "shadow = ['round_robin', 'consistent_hash', 'least_load']\n";

fn settings(manner: Manner) -> String {
    let pool = if manner.reported {
        let each = (0..REPORTED).map(|id| format!("{{ id = '{id}', url = 'https://b{id}.example' }}"));
        let shadows = if manner.shadowed { SHADOWS } else { "" };
        format!("{REPORTS}{shadows}backends = [{}]\n", each.collect::<Vec<_>>().join(", "))
    } else {
        POOL.to_owned()
    };
    let log = format!("[log]\naccess = {}\n", manner.logged);
    [pool.as_str(), SETTINGS, &log, if manner.pinned { PIN } else { "" }].concat()
}

/// Has each backend say how much it has to do.
fn report(signpost: &Signpost) {
    for id in 0..REPORTED {
        let body = format!("{{\"sessions\": {}, \"capacity\": 100}}", 50 + id);
        let answer = signpost.ask("PUT", &format!("/api/v1/pools/p/backends/{id}/load"), &[], &body);
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// What a browser would send, but shorter.
const FIELDS: [(&str, &str); 3] = [
    ("Host", tls::NAME),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0)"),
    ("Accept", "text/html,application/xhtml+xml"),
];
/// So many rounds before the first that counts: memory that is kept has been asked for by then.
const WARM_UP: usize = 16;

impl Clients {
    /// Starts a dispatcher by a program that counts, and lets visitors come a few times.
    pub fn start(manner: Manner, under: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = tls::Files::new(directory.path());
        let pair = tls::Pair::new();
        files.write(&pair);
        let with_tls = if manner.tls { files.settings() } else { String::new() };
        let signpost = Start::with(&(settings(manner) + &with_tls)).under(under).go();
        if manner.reported {
            report(&signpost);
        }
        let tls = tls::config(&[&pair], &["http/1.1"]);
        let mut fields = FIELDS.to_vec();
        let cookie = if manner.pinned { cookie(&signpost) } else { String::new() };
        if manner.pinned {
            fields.push(("Cookie", &cookie));
        }
        if !manner.stays {
            fields.push(("Connection", "close"));
        }
        let request = http::request("GET", "/some/path?and=query", &fields, "");
        let mut visitors = Self { manner, request, tls, signpost, kept: Vec::new(), stops: 0 };
        visitors.arrive();
        visitors
    }

    /// How often the dispatcher was stopped so far.
    pub fn stops(&self) -> usize {
        self.stops
    }

    /// The dispatcher's process.
    pub fn process(&self) -> u32 {
        self.signpost.process.id()
    }

    /// Takes new connections for those who stay, and warms up. They are not left alone for long then: the
    /// dispatcher treats connections otherwise that wait.
    pub fn arrive(&mut self) {
        self.kept.clear();
        if self.manner.stays {
            self.kept = (0..self.manner.at_once).map(|_| self.connect()).collect();
            for line in &mut self.kept {
                line.send(&self.request).unwrap();
                line.receive().unwrap();
            }
        }
        for _ in 0..WARM_UP {
            self.come();
        }
    }

    /// Each visitor makes a request and has its answer; who does not stay has left again.
    pub fn come(&mut self) {
        self.stop();
        if !self.manner.stays {
            self.kept = (0..self.manner.at_once).map(|_| self.connect()).collect();
        }
        for line in &mut self.kept {
            line.send(&self.request).unwrap();
        }
        self.signpost.process.signal(Signal::CONT);
        for line in &mut self.kept {
            let answer = line.receive().unwrap();
            assert_eq!(answer.status, 302);
            assert_eq!(answer.header("set-cookie"), None, "a valid pin is not set again");
        }
        if !self.manner.stays {
            for mut line in self.kept.drain(..) {
                assert_eq!(line.read_to_end(&mut Vec::new()).unwrap(), 0, "nothing but its end follows");
            }
        }
    }

    /// The same without visitors: what it costs to be stopped.
    pub fn nobody(&mut self) {
        self.stop();
        self.signpost.process.signal(Signal::CONT);
    }

    /// Ends the dispatcher.
    pub fn leave(mut self) {
        self.kept.clear();
        assert_eq!(self.signpost.leave(PATIENCE), Some(0));
    }

    fn connect(&self) -> Line {
        let from = http::client(2);
        if self.manner.tls {
            Line::Tls(Box::new(tls::begin(from, self.signpost.tls.unwrap(), &self.tls).unwrap()))
        } else {
            Line::Plain(http::connect_from(from, self.signpost.traffic).unwrap())
        }
    }

    /// Stops the dispatcher once it has done all it had to do.
    fn stop(&mut self) {
        self.await_threads(|state| state == 'S');
        self.signpost.process.signal(Signal::STOP);
        // Whoever traces it sees it stopped as `t`.
        self.await_threads(|state| "Tt".contains(state));
        self.stops += 1;
    }

    /// Waits until all threads of the dispatcher are in such a state (proc_pid_stat(5)).
    fn await_threads(&self, so: impl Fn(char) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        let tasks = format!("/proc/{}/task", self.process());
        let is_so = |task: io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            let (_, behind_name) = stat.rsplit_once(") ").unwrap();
            behind_name.chars().next().is_some_and(&so)
        };
        while !fs::read_dir(&tasks).unwrap().all(is_so) {
            assert!(Instant::now() < give_up, "its threads don't come to rest");
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

/// A pin, as the dispatcher gives it to who has none.
fn cookie(signpost: &Signpost) -> String {
    let answer = signpost.get(2).unwrap();
    let set = answer.header("set-cookie").expect("a pin");
    set.split(';').next().unwrap().to_owned()
}

/// A visitor's connection.
enum Line {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Line {
    /// Sends a request without waiting for anything: in a handshake it leaves with the last message of it.
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(request),
            Self::Tls(stream) => {
                stream.conn.writer().write_all(request)?;
                flush(stream)
            }
        }
    }

    fn receive(&mut self) -> io::Result<Answer> {
        if let Self::Tls(stream) = self {
            // What is to be said is said at the end: a message by itself would wake the dispatcher, or not, as it
            // happens.
            while stream.conn.is_handshaking() {
                stream.conn.read_tls(&mut stream.sock)?;
                stream.conn.process_new_packets().map_err(io::Error::other)?;
            }
            flush(stream)?;
        }
        http::read_answer(self)
    }
}

fn flush(stream: &mut Tls) -> io::Result<()> {
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock)?;
    }
    Ok(())
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}
