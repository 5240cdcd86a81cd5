//! The generator for what `wrk` cannot do: visitors on one thread, in a closed loop or at times fixed beforehand.
//!
//! In the closed loop each connection asks as soon as it was answered, so the server is never idle and a server
//! that is slow is asked less. In the open loop visitors come when they come, each on a connection of its own,
//! and the time of one counts from when it was to come: who stands in a queue is seen.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::ClientConfig;

use crate::client::{Got, Visitor};

/// How long answers are waited for when the time is over.
const PATIENCE: Duration = Duration::from_secs(10);

/// More visitors under way than this, and the server is beyond saving: what comes then has failed.
const MOST_UNDER_WAY: usize = 4000;

/// Whom to ask, and what.
pub struct Target<'a> {
    pub to: SocketAddr,
    pub request: &'a [u8],
    /// Whether each connection asks once, and says so in its request.
    pub once: bool,
    /// The TLS of each connection, taken in turn, so that one resumes its own sessions; none: plain.
    pub tls: &'a [Arc<ClientConfig>],
}

/// When visitors come.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many connections, each busy all the time.
    Closed(usize),
    /// At this rate a second, by chance (Poisson), the same chance for the same seed.
    Open { rate: f64, seed: u64 },
}

/// What came of it.
#[derive(Default)]
pub struct Tally {
    /// How long the measured time was.
    pub took: Duration,
    /// Answers since the start of the measured time, those after its end included.
    pub answers: u64,
    /// Answers within the measured time.
    pub in_time: u64,
    /// Those before it, in the warm-up.
    pub before: u64,
    /// Answers that were not the right one, and requests that got none.
    pub failed: u64,
    /// What the first failure was.
    pub failure: Option<String>,
    /// Handshakes that took up an earlier session.
    pub resumed: u64,
    /// Nanoseconds from when the request was due to the end of its answer.
    pub latencies: Vec<u32>,
    /// Nanoseconds from when a visitor was due to when it came: the generator's own lateness.
    pub lateness: Vec<u32>,
}

struct Slot {
    visitor: Option<Visitor>,
    /// When its request was due.
    due: Instant,
    /// What epoll waits for.
    waits: EventFlags,
    stage: Stage,
}

/// How far a place is with its request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has none.
    Idle,
    /// It waits for the answer.
    Asked,
    /// It waits for the server to close.
    Answered,
}

/// What is going on: nothing is measured in the warm-up, and nobody new comes at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    End,
}

struct Generator<'a> {
    target: &'a Target<'a>,
    epoll: OwnedFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
    phase: Phase,
    under_way: usize,
    buffer: Vec<u8>,
    tally: Tally,
    closed: bool,
}

/// Puts a load on a server for a time. Each connection of a closed loop is first answered once; then, with nobody
/// under way, `started` is called.
pub fn run(target: &Target<'_>, pace: Pace, time: Duration, started: &mut dyn FnMut()) -> io::Result<Tally> {
    let mut generator = Generator {
        target,
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        slots: Vec::new(),
        free: Vec::new(),
        phase: Phase::WarmUp,
        under_way: 0,
        buffer: vec![0; 16 << 10],
        tally: Tally::default(),
        closed: matches!(pace, Pace::Closed(_)),
    };
    let connections = match pace {
        Pace::Closed(connections) => connections,
        Pace::Open { .. } => 16,
    };
    (0..connections).for_each(|_| generator.begin(Instant::now()));
    generator.wait_for_all();
    started();
    generator.phase = Phase::Measured;
    let start = Instant::now();
    match pace {
        Pace::Closed(_) => generator.closed_loop(start + time),
        Pace::Open { rate, seed } => generator.open_loop(start, start + time, rate, seed),
    }
    generator.tally.took = time;
    generator.tally.in_time = generator.tally.answers;
    generator.phase = Phase::End;
    generator.wait_for_all();
    let mut tally = generator.tally;
    if generator.under_way > 0 {
        tally.failed += generator.under_way as u64;
        tally.failure.get_or_insert_with(|| format!("no answer within {} s", PATIENCE.as_secs()));
    }
    Ok(tally)
}

impl Generator<'_> {
    fn closed_loop(&mut self, until: Instant) {
        for place in 0..self.slots.len() {
            self.ask_again(place);
        }
        while Instant::now() < until {
            self.turn(Some(Duration::from_millis(20)));
        }
    }

    fn open_loop(&mut self, start: Instant, until: Instant, rate: f64, seed: u64) {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut gap = || Duration::from_secs_f64(-(1.0 - chance.random::<f64>()).ln() / rate);
        let mut due = start + gap();
        while due < until {
            let now = Instant::now();
            if now >= due {
                self.tally.lateness.push(nanoseconds(now - due));
                if self.under_way < MOST_UNDER_WAY {
                    self.begin(due);
                } else {
                    self.fail("too many under way");
                }
                due += gap();
            }
            // It spins: a timer would be late by more than an answer takes. And those who came are read between
            // two who come late.
            self.turn(Some(Duration::ZERO));
        }
    }

    /// Waits for all who are under way, as long as that is worth it.
    fn wait_for_all(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        while self.under_way > 0 && Instant::now() < give_up {
            self.turn(Some(Duration::from_millis(5)));
        }
    }

    /// A new visitor, due at a time.
    fn begin(&mut self, due: Instant) {
        let place = self.free.pop().unwrap_or(self.slots.len());
        if place == self.slots.len() {
            self.slots.push(Slot { visitor: None, due, waits: EventFlags::IN, stage: Stage::Idle });
        }
        self.connect(place, due);
    }

    fn connect(&mut self, place: usize, due: Instant) {
        let configs = self.target.tls;
        let config = (!configs.is_empty()).then(|| &configs[place % configs.len()]);
        let begun = Visitor::connect(self.target.to, config).and_then(|mut visitor| {
            visitor.ask(self.target.request)?;
            let waits = waits_for(&visitor);
            epoll::add(&self.epoll, &visitor.socket, EventData::new_u64(place as u64), waits)?;
            Ok(Slot { visitor: Some(visitor), due, waits, stage: Stage::Asked })
        });
        match begun {
            Ok(slot) => {
                self.slots[place] = slot;
                self.under_way += 1;
            }
            Err(error) => {
                self.free.push(place);
                self.fail(&error.to_string());
            }
        }
    }

    /// The next request of a place, on the connection it has or a new one.
    fn ask_again(&mut self, place: usize) {
        let due = Instant::now();
        let slot = &mut self.slots[place];
        let Some(visitor) = &mut slot.visitor else { return self.connect(place, due) };
        (slot.due, slot.stage) = (due, Stage::Asked);
        let asked = visitor.ask(self.target.request);
        self.under_way += 1;
        match asked {
            Ok(()) => self.watch(place),
            Err(error) => self.lose(place, &error.to_string()),
        }
    }

    /// Waits once for events and treats them.
    fn turn(&mut self, timeout: Option<Duration>) {
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let mut events = Vec::with_capacity(256);
        // Interrupted, or over without an event: the caller looks at the clock.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
        for event in &events {
            self.treat(event.data.u64() as usize);
        }
    }

    fn treat(&mut self, place: usize) {
        loop {
            let slot = &mut self.slots[place];
            let Some(visitor) = &mut slot.visitor else { return };
            if !visitor.sent
                && let Err(error) = visitor.push(self.target.request)
            {
                return self.lose(place, &error.to_string());
            }
            match visitor.read(&mut self.buffer) {
                Ok(Got::Part) => return self.watch(place),
                Ok(Got::Answer { right, closes }) => {
                    let resumed = visitor.resumed();
                    slot.stage = Stage::Answered;
                    let took = nanoseconds(slot.due.elapsed());
                    self.count(right, resumed, took);
                    if !(self.target.once || closes) {
                        self.slots[place].stage = Stage::Idle;
                        self.under_way -= 1;
                        if self.closed && self.phase == Phase::Measured {
                            self.ask_again(place);
                        }
                        return;
                    }
                    // The end is mostly there already.
                }
                Ok(Got::End) if slot.stage == Stage::Asked => {
                    return self.lose(place, "closed without an answer");
                }
                Err(error) if slot.stage == Stage::Asked => return self.lose(place, &error.to_string()),
                // A reset after the answer loses nothing.
                Ok(Got::End) | Err(_) => return self.leave(place),
            }
        }
    }

    /// Ends a connection; in the closed loop the next comes.
    fn leave(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        slot.visitor = None;
        if std::mem::replace(&mut slot.stage, Stage::Idle) == Stage::Idle {
            return;
        }
        self.under_way -= 1;
        if self.closed && self.phase == Phase::Measured {
            self.connect(place, Instant::now());
        } else {
            self.free.push(place);
        }
    }

    fn lose(&mut self, place: usize, why: &str) {
        self.fail(why);
        self.leave(place);
    }

    fn fail(&mut self, why: &str) {
        self.tally.failed += 1;
        self.tally.failure.get_or_insert_with(|| why.to_owned());
    }

    fn count(&mut self, right: bool, resumed: bool, took: u32) {
        if !right {
            self.fail("an answer that is not the right one");
        }
        if self.phase == Phase::WarmUp {
            self.tally.before += 1;
            return;
        }
        self.tally.answers += 1;
        self.tally.resumed += u64::from(resumed);
        self.tally.latencies.push(took);
    }

    /// Has epoll wait for what the connection needs next.
    fn watch(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        let Some(visitor) = &slot.visitor else { return };
        let waits = waits_for(visitor);
        if waits == slot.waits {
            return;
        }
        slot.waits = waits;
        let watched = epoll::modify(&self.epoll, &visitor.socket, EventData::new_u64(place as u64), waits);
        if let Err(error) = watched {
            self.lose(place, &error.to_string());
        }
    }
}

fn waits_for(visitor: &Visitor) -> EventFlags {
    if visitor.sent { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT }
}

fn nanoseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}
