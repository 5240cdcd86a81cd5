//! The servers as processes, each with one thread on the servers' core.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::bare::AS_BARE;
use crate::machine::on_core;
use crate::process::{Process, wait_for};
use crate::settings::{Settings, Setup};
use crate::tls::Pair;

/// What is measured beside what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Signpost,
    Nginx,
    Haproxy,
    /// The loop of `bare.rs`.
    Bare,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Signpost, Self::Nginx, Self::Haproxy, Self::Bare];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signpost => "Signpost",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Bare => "bare loop",
        }
    }

    /// Whether it can do what these settings ask for.
    pub fn does(self, settings: Settings) -> bool {
        self != Self::Bare || settings == Settings::Plain
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What all servers of a run are started from.
pub struct Ground<'a> {
    pub directory: &'a Path,
    pub pair: &'a Pair,
    /// The core that servers have.
    pub core: usize,
}

/// A server that runs.
pub struct Server {
    pub kind: Kind,
    pub process: Process,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    /// Where its lines go, and what it has to say when it does not start.
    directory: PathBuf,
}

impl Server {
    /// Starts it and waits until it takes connections.
    pub fn start(kind: Kind, settings: Settings, ground: &Ground<'_>) -> Self {
        let name = format!("{kind:?}-{settings:?}").to_lowercase();
        let directory = ground.directory.join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let (plain, tls) = (free_port(), free_port());
        let setup = Setup { settings, directory: &directory, pair: ground.pair, plain, tls };
        let file = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut command = match kind {
            Kind::Signpost => {
                let mut command = on_core(ground.core, env!("CARGO_BIN_EXE_signpost"));
                command.arg("--settings").arg(file("site.toml", setup.signpost()));
                command
            }
            Kind::Nginx => {
                let mut command = on_core(ground.core, "nginx");
                command.args(["-e", "stderr", "-p"]).arg(&directory);
                command.arg("-c").arg(file("nginx.conf", setup.nginx()));
                command
            }
            Kind::Haproxy => {
                let mut command = on_core(ground.core, "haproxy");
                command.args(["-db", "-f"]).arg(file("haproxy.cfg", setup.haproxy()));
                command
            }
            Kind::Bare => {
                let mut command = on_core(ground.core, std::env::current_exe().unwrap());
                command.args([AS_BARE, &plain.to_string()]).args(bare_answers(ground.directory));
                command
            }
        };
        let output = |name: &str| appended(&directory.join(name));
        command.stdin(Stdio::null()).stdout(output("lines")).stderr(output("errors"));
        let process = Process::spawn(&mut command);
        let mut server = Self { kind, process, plain, tls, directory };
        let up = wait_for(Duration::from_secs(10), || {
            server
                .process
                .ended(Duration::ZERO)
                .map(|_| false)
                .or(TcpStream::connect(plain).ok().map(|_| true))
        });
        if up != Some(true) {
            let said = fs::read_to_string(server.directory.join("errors")).unwrap_or_default();
            panic!("{kind} did not start:\n{said}");
        }
        server
    }

    /// How many bytes of lines it has written to its access log; and empties it.
    pub fn take_log(&self) -> u64 {
        let path = self.directory.join("lines");
        let length = fs::metadata(&path).map(|file| file.len()).unwrap_or(0);
        if let Ok(file) = OpenOptions::new().write(true).open(&path) {
            let _ = file.set_len(0);
        }
        length
    }
}

/// The answers that the bare loop gives: Signpost's own, one that keeps the connection and one that ends it.
pub fn bare_answers(directory: &Path) -> [PathBuf; 2] {
    [directory.join("answer-keep"), directory.join("answer-close")]
}

/// A file that is appended to, so that it may be emptied meanwhile.
fn appended(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// A port that is free. The others' programs cannot be asked which one they took.
fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).unwrap()
}
