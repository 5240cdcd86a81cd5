//! Two workers pick at once: `random` shares nothing that is written, `round_robin` one counter.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use signpost::fleet::Pool;
use signpost::strategy::{PickContext, StrategyKind};
use signpost::util::clock::Moment;

use crate::http;
use crate::pools::Shape;
use crate::process::{POOL, Process, Start};
use crate::table::{Bound, Table, ratios, taken};

/// The argument that makes this very program one that picks, to be compared with a thread.
pub const AS_PICKER: &str = "--as-picker";

const ROUNDS: usize = 9;
const PICKS: u32 = 10_000_000;
/// So few that two threads often have them without being interrupted.
const TOGETHER: u32 = 200_000;
/// Fewer than a connection may have.
const REQUESTS: u32 = 9000;

const SHAPE: Shape = Shape::new(10_000, 12);

pub fn run(table: &mut Table) {
    let [random, round_robin] = [StrategyKind::Random, StrategyKind::RoundRobin].map(|kind| SHAPE.pool(kind));
    let locked = Locked { turns: Mutex::new(0), cycle: (0..65_000).map(|turn| turn as u16).collect() };
    let mut pickers = [Picker::start(), Picker::start()];
    let mut alone = Vec::new();
    let [mut threads, mut processes, mut shared, mut behind_lock] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let both = (
            two(|rng| random.pick(0, &mut PickContext::new(rng, 0, Moment::default()))),
            two(|rng| round_robin.pick(0, &mut PickContext::new(rng, 0, Moment::default()))),
            two(|_| Some(locked.pick())),
        );
        let (Some(of_random), Some(of_round_robin), Some(of_locked)) = both else { continue };
        threads.push(of_random);
        pickers.iter_mut().for_each(Picker::go);
        processes.push(pickers.iter_mut().map(Picker::result).sum::<f64>() / 2.0);
        alone.push(picks(1, PICKS, |rng| {
            round_robin.pick(0, &mut PickContext::new(rng, 0, Moment::default()))
        }));
        shared.push(of_round_robin);
        behind_lock.push(of_locked);
    }
    if threads.len() < ROUNDS {
        table.note(&format!("in {} rounds of {ROUNDS} two cores were free at the same time", threads.len()));
    }
    if threads.is_empty() {
        return table.skip("two threads need two cores");
    }
    table.note(&format!(
        "{} backends; processor time of a pick, while two pick as fast as they can",
        SHAPE.words()
    ));
    table.row("random, two threads of one process", "ns", &threads, Bound::None);
    table.row("random, two processes", "ns", &processes, Bound::None);
    let share = ratios(&processes, &threads);
    table.row("random, rate of threads against processes", "", &share, Bound::AtLeast(0.95));
    table.row("round_robin, one thread", "ns", &alone, Bound::None);
    table.row("round_robin, two threads and their one counter", "ns", &shared, Bound::None);
    table.row("a round robin behind a mutex, two threads", "ns", &behind_lock, Bound::None);
    let request = table.row("a keep-alive request, all of the binary", "ns", &request_costs(), Bound::None);
    let of_request: Vec<_> = shared.iter().map(|pick| 100.0 * pick / request).collect();
    table.row("round_robin, two threads, share of such a request", "%", &of_request, Bound::AtMost(1.0));
}

/// The textbook's: a turn is taken under a lock.
struct Locked {
    turns: Mutex<usize>,
    cycle: Box<[u16]>,
}

impl Locked {
    fn pick(&self) -> usize {
        let mut turns = self.turns.lock().unwrap();
        *turns = (*turns + 1) % self.cycle.len();
        self.cycle[*turns].into()
    }
}

/// What a pick costs each of two threads that pick at the same time. Where other work of the machine left them one core,
/// they did not, and it is tried again, for a while.
fn two(pick: impl Fn(&mut SmallRng) -> Option<usize> + Sync) -> Option<f64> {
    let give_up = Instant::now() + Duration::from_secs(5);
    while Instant::now() < give_up {
        let ready = AtomicU32::new(0);
        let [a, b] = std::thread::scope(|scope| {
            let threads = [1, 2].map(|seed| {
                let (ready, pick) = (&ready, &pick);
                scope.spawn(move || {
                    // Not a barrier of the kernel's, from which one returns long before the other.
                    let meet = |count| {
                        ready.fetch_add(1, Ordering::SeqCst);
                        while ready.load(Ordering::SeqCst) < count {
                            std::hint::spin_loop();
                        }
                    };
                    meet(2);
                    // The tables are not in this core's cache yet.
                    picks(seed, TOGETHER, pick);
                    meet(4);
                    let begin = Instant::now();
                    (picks(seed, TOGETHER, pick), begin, Instant::now())
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        let together = a.2.min(b.2).saturating_duration_since(a.1.max(b.1));
        let either = a.2.max(b.2) - a.1.min(b.1);
        // Neither was off its core for long, nor is one done when the other begins.
        let ran = Duration::from_secs_f64(a.0.min(b.0) * f64::from(TOGETHER) / 1e9);
        if together >= either.mul_f64(0.8) && ran >= either.mul_f64(0.8) {
            return Some((a.0 + b.0) / 2.0);
        }
    }
    None
}

/// What one of many picks costs, in nanoseconds.
fn picks(seed: u64, count: u32, pick: impl Fn(&mut SmallRng) -> Option<usize>) -> f64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (taken, ()) = taken(|| {
        for _ in 0..count {
            black_box(pick(&mut rng));
        }
    });
    taken.as_nanos() as f64 / f64::from(count)
}

/// Picks for as long as it is told to by lines of standard input, and says what each time a pick cost.
pub fn be_picker() -> ExitCode {
    let pool: Pool = SHAPE.pool(StrategyKind::Random);
    let mut lines = std::io::stdin().lines();
    while let Some(Ok(_)) = lines.next() {
        println!("{}", picks(1, PICKS, |rng| pool.pick(0, &mut PickContext::new(rng, 0, Moment::default()))));
    }
    ExitCode::SUCCESS
}

/// A process that picks.
struct Picker {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _process: Process,
}

impl Picker {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(AS_PICKER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let child = process.child();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { stdin, stdout: BufReader::new(stdout), _process: process }
    }

    fn go(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
    }

    fn result(&mut self) -> f64 {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

/// What a request costs the real binary, in nanoseconds of its processor time: one connection that is kept.
fn request_costs() -> Vec<f64> {
    let signpost = Start::with(&format!("[log]\naccess = false\n{POOL}")).go();
    let request = http::request("GET", "/", &[], "");
    let round = || {
        let mut stream = http::connect_from(http::client(1), signpost.traffic).unwrap();
        assert_eq!(http::exchange(&mut stream, &request).unwrap().status, 302);
        let begin = signpost.process.processor_time();
        (0..REQUESTS).for_each(|_| ask(&mut stream, &request));
        (signpost.process.processor_time() - begin).as_nanos() as f64 / f64::from(REQUESTS)
    };
    (0..ROUNDS).map(|_| round()).collect()
}

/// Sends a request and reads its answer, a redirect, which ends with its head.
fn ask(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).unwrap();
    let mut answer = [0; 1024];
    let mut read = 0;
    while !answer[..read].ends_with(b"\r\n\r\n") {
        let more = stream.read(&mut answer[read..]).unwrap();
        assert!(more > 0, "closed before the answer was whole");
        read += more;
    }
}
