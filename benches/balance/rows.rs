//! What is compared: dispatchers and how each is told to balance.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::backend::free_address;
use crate::fleet::{CAPACITIES, Fleet, LOAD};
use crate::http::PATIENCE;
use crate::machine::PROGRAMS;
use crate::process::{Process, Signpost, Start, wait_until};

/// One way to balance.
pub struct Row {
    /// What it is called on the command line.
    pub name: &'static str,
    pub what: &'static str,
    by: By,
}

enum By {
    /// Backends are asked for their load so often.
    Signpost { strategy: &'static str, every: Duration },
    /// `balance …`, weights of so much for each capacity, and how often agents are asked, where they are.
    Haproxy { balance: &'static str, weight: u32, every: Option<Duration> },
}

/// How often backends say what they hold, unless a row says else.
const EVERY: Duration = Duration::from_secs(5);

pub const ROUND_ROBIN: &str = "round_robin";
pub const LEAST_LOAD: &str = "least_load";

pub const ROWS: [Row; 7] = [
    Row {
        name: ROUND_ROBIN,
        what: "Signpost, `round_robin`, weights as capacities",
        by: By::Signpost { strategy: "round_robin", every: EVERY },
    },
    Row {
        name: "random",
        what: "Signpost, `random`, weights as capacities",
        by: By::Signpost { strategy: "random", every: EVERY },
    },
    Row {
        name: LEAST_LOAD,
        what: "Signpost, `least_load`, reports every 5 s",
        by: By::Signpost { strategy: "least_load", every: EVERY },
    },
    Row {
        name: "least_load-1s",
        what: "Signpost, `least_load`, reports every second",
        by: By::Signpost { strategy: "least_load", every: Duration::from_secs(1) },
    },
    Row {
        name: "haproxy-roundrobin",
        what: "HAProxy `redir`, `balance roundrobin`, weights as capacities",
        by: By::Haproxy { balance: "roundrobin", weight: 1, every: None },
    },
    Row {
        name: "haproxy-leastconn",
        what: "HAProxy `redir`, `balance leastconn`, weights as capacities",
        by: By::Haproxy { balance: "leastconn", weight: 1, every: None },
    },
    Row {
        name: "haproxy-agent",
        what: "HAProxy `redir`, `balance roundrobin`, agents say the idle share of capacity every 5 s",
        // The most that it takes is 256, and with little weight a percent makes no difference.
        by: By::Haproxy { balance: "roundrobin", weight: 64, every: Some(EVERY) },
    },
];

impl Row {
    pub fn is_haproxy(&self) -> bool {
        matches!(self.by, By::Haproxy { .. })
    }

    /// Starts it in front of a fleet, with all times shorter by a factor.
    pub fn start(&self, fleet: &Fleet, speed: f64) -> Dispatcher {
        match self.by {
            By::Signpost { strategy, every } => {
                let signpost = signpost(strategy, "", every.div_f64(speed), fleet);
                Dispatcher { address: signpost.traffic, runs: Runs::Signpost(signpost) }
            }
            By::Haproxy { balance, weight, every } => {
                let address = free_address();
                let every = every.map(|every| every.div_f64(speed));
                let directory = tempfile::tempdir().unwrap();
                let file = directory.path().join("haproxy.cfg");
                std::fs::write(&file, haproxy(address, balance, weight, every, fleet)).unwrap();
                let mut command = Command::new(TIED[0]);
                command.args(&TIED[1..]).args(["haproxy", "-db", "-f"]).arg(file);
                let process = Process::spawn(command.env("PATH", PROGRAMS).stdin(Stdio::null()));
                let up = wait_until(PATIENCE, || TcpStream::connect(address).is_ok());
                assert!(up.is_some(), "HAProxy did not start");
                Dispatcher { address, runs: Runs::Haproxy(process) }
            }
        }
    }
}

/// What starts a program so that the kernel ends it where this one is killed. It becomes that program.
const TIED: [&str; 3] = ["/usr/bin/setpriv", "--pdeathsig", "TERM"];

/// A dispatcher that runs. It ends when this is dropped.
pub struct Dispatcher {
    pub address: SocketAddr,
    pub runs: Runs,
}

pub enum Runs {
    Signpost(Signpost),
    Haproxy(Process),
}

impl Dispatcher {
    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        let process = match &mut self.runs {
            Runs::Signpost(signpost) => &mut signpost.process,
            Runs::Haproxy(process) => process,
        };
        process.ended(Duration::ZERO).is_none()
    }
}

/// Starts Signpost, which asks backends for their load so often; `more` is a line of the pool's settings.
pub fn signpost(strategy: &str, more: &str, every: Duration, fleet: &Fleet) -> Signpost {
    let backends = fleet.visitors.iter().zip(CAPACITIES).map(|(address, capacity)| {
        format!("  {{ id = '{address}', url = 'http://{address}', weight = {capacity} }},\n")
    });
    let settings = format!(
        "
[server]
workers = 1
[log]
access = false
[pools.site]
strategy = '{strategy}'
{more}
backends = [
{}]
[pools.site.health]
kind = 'http'
path = '{LOAD}'
interval = '{}ms'
[pools.site.load]
source = 'probe_header'
",
        backends.collect::<String>(),
        every.as_millis(),
    );
    Start::with(&settings).under(&TIED).go()
}

fn haproxy(
    address: SocketAddr,
    balance: &str,
    weight: u32,
    every: Option<Duration>,
    fleet: &Fleet,
) -> String {
    let agent = |agent: &SocketAddr| match every {
        Some(every) => {
            format!(" agent-check agent-port {} agent-inter {}ms", agent.port(), every.as_millis())
        }
        None => String::new(),
    };
    let servers = fleet.visitors.iter().zip(&fleet.agents).zip(CAPACITIES).map(|((to, told), capacity)| {
        format!("server {to} {to} redir http://{to} weight {}{}\n", weight * capacity, agent(told))
    });
    format!(
        "
global
nbthread 1
maxconn 2000
defaults
mode http
timeout connect 5s
timeout client 30s
timeout server 30s
frontend site
bind {address}
default_backend fleet
backend fleet
balance {balance}
{}",
        servers.collect::<String>()
    )
}
