//! A whole run: what is started, in which order it is measured, and what is noted besides.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::machine::Facts;
use crate::memory::ListenerProtocol;
use crate::results::{Results, median};
use crate::rows::{ROWS, Row, Sample, Tls, Visit, With};
use crate::servers::{Ground, Kind, Server};
use crate::settings::Settings;
use crate::tls::Pair;
use crate::{Args, calls, machine, memory, servers, smoke};

/// Rounds that the open loop has at the least: a p99 spreads more than a mean.
const OPEN_ROUNDS: u32 = 7;

/// How long the calls of a server are counted.
const COUNTED: Duration = Duration::from_secs(1);

/// A whole run.
pub struct Run<'a> {
    args: &'a Args,
    /// Of the servers, and of the load.
    cores: (usize, usize),
    directory: &'a Path,
    pair: Pair,
    kinds: Vec<Kind>,
    servers: BTreeMap<(Kind, Settings), Server>,
    pins: BTreeMap<Kind, String>,
    results: Results,
}

impl<'a> Run<'a> {
    pub fn new(args: &'a Args, cores: (usize, usize), directory: &'a Path) -> Self {
        let there = |kind: &Kind| match kind {
            Kind::Nginx => machine::has("nginx"),
            Kind::Haproxy => machine::has("haproxy"),
            Kind::Signpost | Kind::Bare => true,
        };
        let mut results = Results::default();
        for (program, package, lost) in machine::TOOLS.iter().filter(|(program, ..)| !machine::has(program)) {
            println!(
                "MISSING: {program} is not installed (Debian's {package}, or --install): without it {lost}"
            );
            results.note(format!("{program} was missing: {lost}."));
        }
        Self {
            args,
            cores,
            directory,
            pair: Pair::new(directory),
            kinds: Kind::ALL.into_iter().filter(there).collect(),
            servers: BTreeMap::new(),
            pins: BTreeMap::new(),
            results,
        }
    }

    pub fn run(mut self, facts: &mut Facts) -> Results {
        let begun = Instant::now();
        let (stolen, all) = machine::stolen();
        let rows: Vec<&Row> = ROWS
            .iter()
            .filter(|row| self.asked_for(row.name))
            .filter(|row| row.visit != Visit::Http2 || machine::has("h2load"))
            .collect();
        self.start(&rows);
        self.say_who_defers(&rows);
        let rate = self.rate(&rows);
        let most = rows.iter().map(|row| self.rounds(row)).max().unwrap_or(0);
        for round in 0..most {
            for row in &rows {
                if round < self.rounds(row) {
                    self.round(row, round, rate);
                }
            }
        }
        if machine::has("strace") {
            rows.iter().for_each(|row| self.count_calls(row, rate));
        }
        self.servers.clear();
        self.say_how_late();
        if self.asked_for("memory") {
            self.weigh();
        }
        let (stolen, all) = (machine::stolen().0 - stolen, machine::stolen().1 - all);
        facts.add(
            "stolen by the machine beneath",
            format!("{:.1} % of all processor time", 100.0 * stolen / all),
        );
        facts.add("took", format!("{:.0} s", begun.elapsed().as_secs_f64()));
        self.results
    }

    fn asked_for(&self, row: &str) -> bool {
        self.args.rows.is_empty() || self.args.rows.iter().any(|name| name == row)
    }

    fn rounds(&self, row: &Row) -> u32 {
        if row.visit == Visit::Open { self.args.rounds.max(OPEN_ROUNDS) } else { self.args.rounds }
    }

    fn ground(&self) -> Ground<'_> {
        Ground { directory: self.directory, pair: &self.pair, core: self.cores.0 }
    }

    /// Starts and tries all servers that these rows need. Signpost is the first, since the bare loop gives its
    /// answers.
    fn start(&mut self, rows: &[&Row]) {
        let needs = |settings| rows.iter().any(|row| row.settings == settings);
        for settings in [Settings::Plain, Settings::Deferred, Settings::Pin, Settings::Log] {
            if settings != Settings::Plain && !needs(settings) {
                continue;
            }
            for kind in self.kinds.clone().into_iter().filter(|kind| kind.does(settings)) {
                let server = Server::start(kind, settings, &self.ground());
                let found = smoke::try_out(&server, settings, &self.pair);
                let found =
                    found.unwrap_or_else(|why| panic!("{kind} ({settings:?}) does not do its part: {why}"));
                found.notes.into_iter().for_each(|note| self.results.note(format!("{kind} {note}.")));
                if let Some(pin) = found.pin {
                    self.pins.insert(kind, pin);
                }
                if (kind, settings) == (Kind::Signpost, Settings::Plain) {
                    let answers = smoke::both_answers(&server).unwrap();
                    for (path, answer) in servers::bare_answers(self.directory).iter().zip(answers) {
                        fs::write(path, answer).unwrap();
                    }
                }
                eprintln!("{kind} ({settings:?}) does its part");
                self.servers.insert((kind, settings), server);
            }
        }
    }

    /// The rate of the open loop: half of what the slower of Signpost and nginx can do.
    fn rate(&mut self, rows: &[&Row]) -> f64 {
        // By the generator that has to keep the rate.
        let row = ROWS.iter().find(|row| row.visit == Visit::Single);
        let Some(row) = row.filter(|_| rows.iter().any(|row| row.visit == Visit::Open)) else { return 0.0 };
        let full = |kind| Some(self.sample(row, kind, 0, 0.0)?.per_second);
        let slower = [Kind::Signpost, Kind::Nginx].into_iter().filter_map(full).fold(f64::MAX, f64::min);
        self.results.note(format!("open-loop: {:.0} visitors a second.", slower / 2.0));
        slower / 2.0
    }

    fn sample(&self, row: &Row, kind: Kind, round: u32, rate: f64) -> Option<Sample> {
        Some(row.measure(self.server(row, kind)?, &self.with(kind, self.args.seconds, round, rate)))
    }

    /// The server for a row, where it can do what visitors do there.
    fn server(&self, row: &Row, kind: Kind) -> Option<&Server> {
        self.servers.get(&(kind, row.settings)).filter(|_| kind != Kind::Bare || !row.is_tls())
    }

    fn with(&self, kind: Kind, time: Duration, round: u32, rate: f64) -> With<'_> {
        let pin = self.pins.get(&kind).map(String::as_str);
        With { time, core: self.cores.1, directory: self.directory, pin, rate, seed: u64::from(round) }
    }

    /// One row of one round, each server once, another one first each time.
    fn round(&mut self, row: &Row, round: u32, rate: f64) {
        let mut kinds = self.kinds.clone();
        kinds.rotate_left(round as usize % self.kinds.len());
        let mut line = format!("round {}/{} {:18}", round + 1, self.rounds(row), row.name);
        for kind in kinds {
            let Some(sample) = self.sample(row, kind, round, rate) else { continue };
            line += &format!("  {kind} {:.1} µs", sample.processor);
            self.look_at(row, kind, &sample);
            self.results.add(row.name, kind, sample);
        }
        eprintln!("{line}");
    }

    /// Notes what a sample has beside its figures that the reader must know.
    fn look_at(&mut self, row: &Row, kind: Kind, sample: &Sample) {
        if let Some(failure) = &sample.failure {
            self.results.note(format!("{}: requests to {kind} failed, for example: {failure}.", row.name));
        }
        if row.visit == Visit::Once(Tls::Resumed) && sample.resumed < 0.999 {
            self.results.note(format!("{}: {kind} resumed only {:.1} %.", row.name, 100.0 * sample.resumed));
        }
        if row.settings == Settings::Log
            && let Some(server) = self.server(row, kind)
            && server.take_log() < sample.answers * 40
        {
            self.results.note(format!("{}: {kind} did not log each request.", row.name));
        }
    }

    /// What the rows of single requests have each server do about connections that are silent yet.
    fn say_who_defers(&mut self, rows: &[&Row]) {
        for row in rows {
            match (row.settings, row.visit) {
                (Settings::Plain, Visit::Once(Tls::No) | Visit::Single | Visit::Open) => {
                    self.results.note(format!(
                        "{}: each server as it comes: Signpost defers accept by default, the others do not.",
                        row.name
                    ));
                }
                (Settings::Deferred, _) => self.results.note(format!(
                    "{}: without the bare loop, since no safe call sets the option.",
                    row.name
                )),
                _ => {}
            }
        }
    }

    /// What of the open loop's figures is the generator's own doing.
    fn say_how_late(&mut self) {
        let late = |kind: &Kind| {
            let figures =
                self.results.samples.get(&("open-loop", *kind))?.iter().filter_map(|sample| sample.late);
            Some(format!("{kind} {:.0}", median(figures.collect())?))
        };
        let late: Vec<_> = self.kinds.iter().filter_map(late).collect();
        if !late.is_empty() {
            let late = late.join(", ");
            self.results.note(format!(
                "open-loop: lateness of the generator itself, which counts, p99 in µs: {late}."
            ));
        }
    }

    fn count_calls(&mut self, row: &Row, rate: f64) {
        // The pace of an open loop is more than a traced server can keep.
        if row.visit == Visit::Open {
            return;
        }
        for kind in self.kinds.clone() {
            let Some(server) = self.server(row, kind) else { continue };
            let load = || row.measure(server, &self.with(kind, COUNTED, 0, rate));
            let Some((calls, sample)) = calls::count(&server.process, self.cores.1, self.directory, load)
            else {
                continue;
            };
            eprintln!("calls of {kind} in {}: {} answers", row.name, sample.answers);
            self.results.calls.insert((row.name, kind), (calls, sample.answers));
        }
    }

    /// Measures what waiting connections cost.
    fn weigh(&mut self) {
        for speaks in ListenerProtocol::ALL {
            for kind in self.kinds.clone() {
                if kind == Kind::Bare && speaks != ListenerProtocol::Plain {
                    continue;
                }
                match memory::measure(kind, speaks, &self.ground()) {
                    Ok(bytes) => {
                        eprintln!("memory of {kind}, {}: {bytes:.0} bytes", speaks.name());
                        self.results.memory.insert((kind, speaks), bytes);
                    }
                    Err(why) => self.results.note(format!("memory of {kind}, {}: {why}.", speaks.name())),
                }
            }
        }
        self.results.note(format!("Memory: {} connections.", memory::connections()));
    }
}
