//! Two workers pick at once: `random` shares nothing that is written, `round_robin` one counter.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Barrier, Mutex};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use signpost::fleet::Pool;
use signpost::strategy::{Kind, Turn};

use crate::http;
use crate::pools::Shape;
use crate::process::{POOL, Process, Start};
use crate::table::{Bound, Table, ratios, taken};

/// The argument that makes this very program one that picks, to be compared with a thread.
pub const AS_PICKER: &str = "--as-picker";

const ROUNDS: usize = 9;
const PICKS: u32 = 10_000_000;
const REQUESTS: u32 = 20_000;

const SHAPE: Shape = Shape::new(10_000, 12);

pub fn run(table: &mut Table) {
    let [random, round_robin] = [Kind::Random, Kind::RoundRobin].map(|kind| SHAPE.pool(kind));
    let locked = Locked { turns: Mutex::new(0), cycle: (0..65_000).map(|turn| turn as u16).collect() };
    let mut pickers = [Picker::start(), Picker::start()];
    let mut alone = Vec::new();
    let [mut threads, mut processes, mut shared, mut behind_lock] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        threads.push(two(|rng| random.pick(&mut Turn { rng })));
        pickers.iter_mut().for_each(Picker::go);
        processes.push(pickers.iter_mut().map(Picker::result).sum::<f64>() / 2.0);
        alone.push(picks(1, |rng| round_robin.pick(&mut Turn { rng })));
        shared.push(two(|rng| round_robin.pick(&mut Turn { rng })));
        behind_lock.push(two(|_| Some(locked.pick())));
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

/// What a pick costs each of two threads that begin together.
fn two(pick: impl Fn(&mut SmallRng) -> Option<usize> + Sync) -> f64 {
    let begin = Barrier::new(2);
    let each = std::thread::scope(|scope| {
        let threads = [1, 2].map(|seed| {
            let (begin, pick) = (&begin, &pick);
            scope.spawn(move || {
                begin.wait();
                picks(seed, pick)
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    (each[0] + each[1]) / 2.0
}

/// What one of many picks costs, in nanoseconds.
fn picks(seed: u64, pick: impl Fn(&mut SmallRng) -> Option<usize>) -> f64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (taken, ()) = taken(|| {
        for _ in 0..PICKS {
            black_box(pick(&mut rng));
        }
    });
    taken.as_nanos() as f64 / f64::from(PICKS)
}

/// Picks for as long as it is told to by lines of standard input, and says what each time a pick cost.
pub fn be_picker() -> ExitCode {
    let pool: Pool = SHAPE.pool(Kind::Random);
    let mut lines = std::io::stdin().lines();
    while let Some(Ok(_)) = lines.next() {
        println!("{}", picks(1, |rng| pool.pick(&mut Turn { rng })));
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
    let mut stream = http::connect_from(http::client(1), signpost.traffic).unwrap();
    let request = http::request("GET", "/", &[], "");
    assert_eq!(http::exchange(&mut stream, &request).unwrap().status, 302);
    let mut round = || {
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
