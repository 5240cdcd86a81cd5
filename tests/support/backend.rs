//! Backends: small HTTP servers, as processes that can be killed or as listeners within this one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::Signal;

use super::process::Process;

/// The argument that makes this very program a backend.
pub const AS_BACKEND: &str = "--as-backend";

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// Is a backend until standard input ends, which it does with the scenario.
pub fn be_one(address: &str) -> ExitCode {
    let Ok(listener) = TcpListener::bind(address) else { return ExitCode::FAILURE };
    println!("ready");
    std::thread::spawn(move || serve(&listener, |stream| answer(stream, OK)));
    let _ = std::io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

/// A backend that is a process, so that it can be killed.
pub struct Backend {
    pub address: SocketAddr,
    process: Option<Process>,
}

impl Backend {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let mut backend = Self { address: free_address(), process: None };
        backend.back();
        backend
    }

    /// So many of them.
    pub fn several(count: usize) -> Vec<Self> {
        std::iter::repeat_with(Self::start).take(count).collect()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `kill -9`; when it was sent. Whoever connects from then on is refused.
    pub fn kill(&mut self) -> Instant {
        let process = self.process.take().expect("a backend that runs");
        let at = Instant::now();
        process.signal(Signal::KILL);
        at
    }

    /// Starts it again on its port; when it had begun to listen.
    pub fn back(&mut self) -> Instant {
        let this = std::env::current_exe().unwrap();
        let mut command = Command::new(this);
        command.args([AS_BACKEND, &self.address.to_string()]);
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut line = String::new();
        BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "a backend on {}", self.address);
        self.process = Some(process);
        Instant::now()
    }
}

/// `{ id = "b0", url = "http://…" }, …` of these addresses: what a settings file says of them.
pub fn listed(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let each = addresses
        .into_iter()
        .enumerate()
        .map(|(number, address)| format!("{{ id = \"b{number}\", url = \"http://{address}\" }}"));
    each.collect::<Vec<_>>().join(", ")
}

/// An address that is free now. Below the range from which the kernel takes ports for outgoing connections, so
/// that no client of ours sits on it while a backend is away.
pub fn free_address() -> SocketAddr {
    static NEXT: Mutex<u16> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    if *next == 0 {
        *next = 20_000 + (std::process::id() % 10_000) as u16;
    }
    loop {
        *next = if *next >= 31_000 { 20_000 } else { *next + 1 };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *next));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A listener within this process. It serves for as long as the process lives: scenarios have few of them.
pub struct Local {
    pub address: SocketAddr,
    /// When each connection came.
    pub came: Arc<Mutex<Vec<Instant>>>,
}

impl Local {
    /// Each connection is handed to `behave` on a thread of its own.
    pub fn start(behave: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let came = Arc::<Mutex<Vec<Instant>>>::default();
        let noted = Arc::clone(&came);
        std::thread::spawn(move || {
            serve(&listener, move |stream| {
                noted.lock().unwrap().push(Instant::now());
                behave(stream);
            });
        });
        Self { address, came }
    }

    /// One that answers 200.
    pub fn good() -> Self {
        Self::start(|stream| answer(stream, OK))
    }
}

fn serve(listener: &TcpListener, behave: impl Fn(TcpStream) + Clone + Send + 'static) {
    for stream in listener.incoming().flatten() {
        let behave = behave.clone();
        std::thread::spawn(move || behave(stream));
    }
}

/// Reads a head and answers it.
fn answer(mut stream: TcpStream, answer: &[u8]) {
    read_head(&mut stream);
    let _ = stream.write_all(answer);
}

/// Reads until a head has ended, or the peer has.
pub fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while super::http::head_end(&head).is_none() {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => head.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}
