//! The machine: its cores, what is installed, and what the reader must know of it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::process::descriptors;

/// Where programs are looked for: `PATH` is often without those of servers.
pub const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that are used where they are found, the Debian packages that have them, and what happens without.
pub const TOOLS: [(&str, &str, &str); 5] = [
    ("nginx", "nginx-light", "its column is left out"),
    ("haproxy", "haproxy", "its column is left out"),
    ("wrk", "wrk", "its rows are done by the bench's own generator, and are as one-shot-single"),
    ("h2load", "nghttp2-client", "the row http2 is left out"),
    ("strace", "strace", "the column of system calls is left out"),
];

/// Whether a program is there.
pub fn has(program: &str) -> bool {
    PROGRAMS.split(':').any(|directory| Path::new(directory).join(program).is_file())
}

/// Installs what is missing. `RUNLEVEL` keeps Debian from starting the servers as services.
pub fn install() {
    let missing: Vec<_> =
        TOOLS.iter().filter(|(program, ..)| !has(program)).map(|(_, package, _)| *package).collect();
    if missing.is_empty() {
        return;
    }
    println!("installing {}", missing.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").args(arguments);
        if !command.status().is_ok_and(|status| status.success()) {
            println!("apt-get {} did not succeed", arguments.join(" "));
        }
    };
    apt(&["update", "-qq"]);
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], &missing[..]].concat());
}

/// The cores that this program may use, of which it takes the second for itself and the rest that it starts; the
/// first is the servers'. None where there is only one.
pub fn cores() -> Option<(usize, usize)> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (servers, load) = (cores.next()?, cores.next()?);
    let mut own = CpuSet::new();
    own.set(load);
    sched_setaffinity(None, &own).ok()?;
    Some((servers, load))
}

/// A program on one core. `setpriv` has the kernel end it if this program is killed; start it on the main thread, since
/// the kernel would end it with any other. Both helpers become the program itself.
pub fn on_core(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &core.to_string()]).arg(program);
    command.env_clear().env("PATH", PROGRAMS);
    command
}

/// How many connections each server is set up for: HAProxy wants two descriptors for each.
pub fn most_connections() -> usize {
    (descriptors().saturating_sub(100) / 2).clamp(1000, 15_000) as usize
}

/// What stands above the tables.
pub struct Facts {
    pub lines: Vec<(&'static str, String)>,
}

impl Facts {
    pub fn gather(cores: (usize, usize), arguments: &str) -> Self {
        let versions =
            [("nginx", "-v"), ("haproxy", "-v"), ("wrk", "-v"), ("h2load", "--version"), ("strace", "-V")];
        let versions = versions.into_iter().filter_map(|(program, flag)| version(program, flag));
        let own = format!("Signpost {}", env!("CARGO_PKG_VERSION"));
        Self {
            lines: vec![
                ("date", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
                ("command", format!("cargo bench --bench comparison{arguments}")),
                ("machine", format!("{}; servers on core {}, load on core {}", model(), cores.0, cores.1)),
                ("versions", std::iter::once(own).chain(versions).collect::<Vec<_>>().join("; ")),
                ("load average at the start", load_average()),
            ],
        }
    }

    pub fn add(&mut self, name: &'static str, what: String) {
        self.lines.push((name, what));
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The processor, how many of it, and the kernel.
pub fn model() -> String {
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let count = cpu.matches("processor\t").count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{}, {count} cores, Linux {kernel}", model.unwrap_or("unknown processor"))
}

/// How many wanted a processor in the last 1, 5 and 15 minutes.
pub fn load_average() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The first line of what a program says of itself, or of its errors.
pub fn version(program: &str, flag: &str) -> Option<String> {
    let output = Command::new("/usr/bin/env").env("PATH", PROGRAMS).args([program, flag]).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    // wrk says its version and fails; from 126 on it is a program that could not be started.
    let line = text.lines().next().filter(|_| output.status.code().is_some_and(|code| code < 126))?;
    Some(line.trim_start_matches("nginx version: ").split(" - ").next().unwrap_or(line).to_owned())
}

/// Seconds that the machine beneath has kept its processors from us since it started, and all seconds of theirs.
pub fn stolen() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|tick| tick.parse().ok())
        .collect();
    (ticks.get(7).copied().unwrap_or_default(), ticks.iter().sum())
}
