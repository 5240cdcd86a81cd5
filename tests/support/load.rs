//! Visitors at a fixed rate: an open loop, in which a slow answer delays nobody else's request.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::http::{self, Answer, PATIENCE, head_end};

/// What came of one request.
#[derive(Clone, Debug)]
pub struct Shot {
    /// When it was to be sent.
    pub due: Instant,
    /// When it was sent: taken before its first byte.
    pub begun: Instant,
    /// When its answer had been read, or it had failed.
    pub ended: Instant,
    pub got: Got,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// An answer: its status, the port in its `Location`, the seconds of its `Retry-After`.
    Answer { status: u16, port: Option<u16>, retry_after: Option<u64> },
    /// None: refused, reset or closed.
    Nothing(String),
}

impl Shot {
    /// Milliseconds from when it was due to when it was answered: who has to wait for an earlier one waits too.
    /// The timer's own lateness is the client's and not counted.
    pub fn milliseconds(&self) -> f64 {
        let late = self.begun - self.due;
        let from = if late < Duration::from_millis(3) { self.begun } else { self.due };
        (self.ended - from).as_secs_f64() * 1000.0
    }

    pub fn port(&self) -> Option<u16> {
        match self.got {
            Got::Answer { port, .. } => port,
            Got::Nothing(_) => None,
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self.got {
            Got::Answer { status, .. } => Some(status),
            Got::Nothing(_) => None,
        }
    }
}

/// A load to be put on an address.
#[derive(Clone)]
pub struct Load {
    pub to: SocketAddr,
    /// Requests a second, of all clients together.
    pub rate: f64,
    /// How many clients there are, each with one connection at a time.
    pub clients: usize,
    /// The addresses they come from, in turn.
    pub from: Vec<IpAddr>,
    /// After how many requests a client takes a new connection.
    pub per_connection: usize,
}

impl Load {
    /// 2000 requests a second of 40 clients on six addresses, a new connection after 50 requests.
    pub fn on(to: SocketAddr) -> Self {
        let from = (10..16).map(http::client).collect();
        Self { to, rate: 2000.0, clients: 40, from, per_connection: 50 }
    }

    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Starts it on a thread of its own.
    pub fn start(self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let start = Instant::now() + Duration::from_millis(5);
                let clients: Vec<_> = (0..self.clients)
                    .map(|number| {
                        let (load, told, counted) = (self.clone(), Arc::clone(&told), Arc::clone(&counted));
                        tokio::spawn(client(load, number, start, told, counted))
                    })
                    .collect();
                let mut shots = Vec::new();
                for client in clients {
                    shots.extend(client.await.unwrap());
                }
                shots.sort_by_key(|shot| shot.begun);
                shots
            })
        });
        Running { stop, sent, thread: Some(thread) }
    }

    /// Puts it on for a time.
    pub fn run(self, time: Duration) -> Vec<Shot> {
        let running = self.start();
        std::thread::sleep(time);
        running.stop()
    }
}

/// A load under way. It ends when this is dropped.
pub struct Running {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<Shot>>>,
}

impl Running {
    /// How many requests were sent so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; all its shots in the order in which they were begun.
    pub fn stop(mut self) -> Vec<Shot> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn client(
    load: Load,
    number: usize,
    start: Instant,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
) -> Vec<Shot> {
    let from = load.from[number % load.from.len()];
    let bytes = http::request("GET", "/", &[], "");
    let mut shots = Vec::new();
    // Clients take their new connections at different times.
    let mut connection: Option<(TcpStream, usize)> = None;
    let mut left = number % load.per_connection + 1;
    for turn in 0.. {
        let due = start + Duration::from_secs_f64((turn * load.clients + number) as f64 / load.rate);
        tokio::time::sleep_until(due.into()).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut begun = Instant::now();
        let shot = async {
            if connection.is_none() {
                connection = Some((connect(from, load.to).await?, left));
                left = load.per_connection;
                begun = Instant::now();
            }
            let Some((stream, requests)) = &mut connection else { return Err(io::Error::other("none")) };
            *requests -= 1;
            let last = *requests == 0;
            let answer = exchange(stream, &bytes).await?;
            if last || answer.closes() {
                connection = None;
            }
            Ok(answer)
        };
        let outcome = tokio::time::timeout(PATIENCE, shot).await;
        sent.fetch_add(1, Ordering::Relaxed);
        let got = match outcome {
            Ok(Ok(answer)) => Got::Answer {
                status: answer.status,
                port: answer.port(),
                retry_after: answer.header("retry-after").and_then(|seconds| seconds.parse().ok()),
            },
            Ok(Err(error)) => Got::Nothing(error.to_string()),
            Err(_) => Got::Nothing("no answer for half a minute".to_owned()),
        };
        if matches!(got, Got::Nothing(_)) {
            connection = None;
        }
        shots.push(Shot { due, begun, ended: Instant::now(), got });
    }
    shots
}

/// Connects from an address of choice.
pub async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends bytes and reads one answer; the body is read and left out.
pub async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Answer> {
    stream.write_all(bytes).await?;
    let mut read = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer was whole"));
        }
        if let Some(end) = head_end(&read) {
            let answer = Answer::parse(&read[..end]).ok_or_else(|| io::Error::other("no HTTP answer"))?;
            while read.len() < end + answer.length() {
                stream.read_buf(&mut read).await?;
            }
            return Ok(answer);
        }
    }
}

/// Shots that got anything but this status, the first few of them in words, in brackets.
pub fn other_than(shots: &[Shot], status: u16) -> (usize, String) {
    let others: Vec<_> = shots.iter().filter(|shot| shot.status() != Some(status)).collect();
    let words: Vec<_> = others.iter().take(3).map(|shot| format!("{:?}", shot.got)).collect();
    let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) };
    (others.len(), words)
}
