//! Instructions and allocations, by valgrind's callgrind on the binary as it is.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::clients::{Clients, Manner};
use crate::http::PATIENCE;
use crate::process::Process;
use crate::profile::{ALLOCATORS, Profile};

/// What requests cost the processor, the kernel's share not counted.
pub struct Count {
    /// Of one request, on average over the cheapest of several times.
    pub profile: Profile,
    /// Instructions of a request the dearest time.
    pub dearest: f64,
}

/// Requests that are counted together. One pick in 64 is timed, so this is a multiple of it.
const REQUESTS: u32 = 128;
/// How often they are counted: once a second there is a new date to be written, and timers turn; the cheapest time
/// has least of that.
const TIMES: usize = 3;
/// How many callers of an allocation are kept.
const CALLERS: u32 = 8;
/// How often it is tried with a new process, where one finds more than is allowed: where the heap's pieces come to
/// lie is chance, and one process of six has glibc join them again with each request.
const PROCESSES: usize = 5;

/// Counts what a request costs, until that is little enough.
pub fn count(manner: Manner, at_most: f64) -> Count {
    let mut profiles = Vec::new();
    for _ in 0..PROCESSES {
        profiles.extend(of_one_process(manner));
        profiles.sort_by(|one: &Profile, other| one.instructions().total_cmp(&other.instructions()));
        if profiles[0].instructions() <= at_most {
            break;
        }
    }
    let dearest = profiles.last().map_or(0.0, Profile::instructions);
    Count { profile: profiles.swap_remove(0), dearest }
}

fn of_one_process(manner: Manner) -> Vec<Profile> {
    let mut callgrind = Callgrind::new();
    let words = callgrind.words();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut visitors = Clients::start(manner, &words);
    let process = visitors.process();
    let rounds = REQUESTS / manner.at_once;
    callgrind.dump(process);
    (0..rounds).for_each(|_| visitors.nobody());
    let nobody = callgrind.dump(process);
    let mut profiles = Vec::new();
    for _ in 0..TIMES {
        visitors.arrive();
        callgrind.dump(process);
        (0..rounds).for_each(|_| visitors.come());
        profiles.push(callgrind.dump(process).without(&nobody).of_each(f64::from(REQUESTS)));
    }
    visitors.leave();
    profiles
}

/// A process under callgrind.
struct Callgrind {
    directory: tempfile::TempDir,
    dumps: u32,
}

impl Callgrind {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), dumps: 0 }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where it can be asked for what it has counted.
    fn door(&self) -> String {
        format!("--vgdb-prefix={}", self.file("vgdb").display())
    }

    /// The words that start a program under it.
    fn words(&self) -> Vec<String> {
        let mut words = vec![
            "valgrind".to_owned(),
            "--quiet".to_owned(),
            "--tool=callgrind".to_owned(),
            self.door(),
            format!("--callgrind-out-file={}", self.file("out").display()),
        ];
        words.extend(ALLOCATORS.iter().map(|name| format!("--separate-callers{CALLERS}={name}")));
        words
    }

    /// What was counted since the last dump.
    fn dump(&mut self, process: u32) -> Profile {
        let mut command = Command::new("vgdb");
        command.arg(self.door()).arg(format!("--pid={process}")).arg("dump");
        let mut asked = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let done = asked.ended(PATIENCE).is_some_and(|status| status.success());
        assert!(done, "vgdb does not reach process {process}");
        self.dumps += 1;
        let file = self.file(&format!("out.{}", self.dumps));
        Profile::parse(&std::fs::read_to_string(file).unwrap())
    }
}
