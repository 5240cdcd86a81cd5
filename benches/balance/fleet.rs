//! Ten backends of different sizes that hold their sessions, as a process: a session is a connection that its visitor
//! holds open, so what a backend says of its load is what is really there.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http;
use crate::process::Process;

/// The argument that makes this very program a fleet.
pub const AS_FLEET: &str = "--as-fleet";

/// What each backend is worth beside the others.
pub const CAPACITIES: [u32; 10] = [1, 1, 1, 1, 1, 2, 2, 2, 4, 4];

/// Sessions that a backend of capacity 1 can hold.
pub const PER_CAPACITY: u32 = 150;

/// Where the answer says what the load is.
pub const LOAD: &str = "/load";

/// How often the fleet says how many sessions each backend has.
const SAMPLE: Duration = Duration::from_millis(100);

/// The sessions of each backend at one time.
pub type Sessions = [u32; CAPACITIES.len()];

/// A fleet that runs. It ends when this is dropped.
pub struct Fleet {
    /// Where each backend takes visitors.
    pub visitors: Vec<SocketAddr>,
    /// Where each backend tells HAProxy how it is.
    pub agents: Vec<SocketAddr>,
    samples: Arc<Mutex<Vec<(Instant, Sessions)>>>,
    _process: Process,
}

impl Fleet {
    pub fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(AS_FLEET).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut lines = BufReader::new(process.child().stdout.take().unwrap());
        let [visitors, agents] = [(); 2].map(|()| line(&mut lines).unwrap());
        let samples = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&samples);
        std::thread::spawn(move || {
            while let Some(counts) = line(&mut lines) {
                kept.lock().unwrap().push((Instant::now(), counts.try_into().unwrap()));
            }
        });
        Self { visitors, agents, samples, _process: process }
    }

    /// How many sessions there were, several times a second, from then on.
    pub fn sessions_since(&self, then: Instant) -> Vec<Sessions> {
        let samples = self.samples.lock().unwrap();
        samples.iter().filter(|(at, _)| *at >= then).map(|(_, sessions)| *sessions).collect()
    }
}

/// The next line, word by word. `None` at the end, or where it was cut off.
fn line<T: std::str::FromStr>(lines: &mut BufReader<ChildStdout>) -> Option<Vec<T>> {
    let mut line = String::new();
    lines.read_line(&mut line).ok().filter(|_| line.ends_with('\n'))?;
    line.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// Is a fleet until standard input ends, which it does with the bench.
pub fn be_one() -> ExitCode {
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("a fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> io::Result<()> {
    let (mut visitors, mut agents) = (Vec::new(), Vec::new());
    let backends = CAPACITIES.map(|capacity| Arc::new(Backend::new(capacity * PER_CAPACITY)));
    for backend in &backends {
        visitors.push(listen(backend, Backend::visit).await?);
        agents.push(listen(backend, Backend::tell_agent).await?);
    }
    say(&visitors)?;
    say(&agents)?;
    let mut tick = tokio::time::interval(SAMPLE);
    loop {
        tick.tick().await;
        say(&backends.each_ref().map(|backend| backend.sessions()))?;
    }
}

fn say<T: ToString>(words: &[T]) -> io::Result<()> {
    let words: Vec<_> = words.iter().map(T::to_string).collect();
    writeln!(io::stdout(), "{}", words.join(" "))
}

/// Serves each connection by a task of its own; the address.
async fn listen<F: Future<Output = io::Result<()>> + Send + 'static>(
    backend: &Arc<Backend>,
    serve: fn(Arc<Backend>, TcpStream) -> F,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let backend = Arc::clone(backend);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(Arc::clone(&backend), stream))),
                Err(error) => eprintln!("a backend: {error}"),
            }
        }
    });
    Ok(address)
}

struct Backend {
    /// How many sessions it can hold. It refuses none: what is compared is who would have had to.
    capacity: u32,
    sessions: AtomicU32,
}

impl Backend {
    fn new(capacity: u32) -> Self {
        Self { capacity, sessions: AtomicU32::new(0) }
    }

    fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// A visitor, who stays as long as it likes, or somebody who asks for the load.
    async fn visit(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let mut head = Vec::with_capacity(512);
        while http::head_end(&head).is_none() {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        if head.starts_with(format!("GET {LOAD} ").as_bytes()) {
            let (sessions, capacity) = (self.sessions(), self.capacity);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\
                 endpoint-load-metrics: TEXT named_metrics.sessions={sessions}, named_metrics.capacity={capacity}\r\n\r\n"
            );
            return stream.write_all(answer.as_bytes()).await;
        }
        drop(head);
        let _session = Session::begin(&self.sessions);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
        while stream.read(&mut [0; 64]).await? > 0 {}
        Ok(())
    }

    /// A line for HAProxy's agent-check: the share of its weight that it should have, which is what is idle. Never 0,
    /// which would drain it.
    async fn tell_agent(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let idle = 1.0 - f64::from(self.sessions()) / f64::from(self.capacity);
        stream.write_all(format!("{:.0}%\n", (idle * 100.0).max(1.0)).as_bytes()).await
    }
}

/// A session that is counted while it lasts.
struct Session<'a>(&'a AtomicU32);

impl<'a> Session<'a> {
    fn begin(sessions: &'a AtomicU32) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(sessions)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
