//! Agents: the same replies read by Signpost and by a real HAProxy, whose states must agree.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::haproxy::Haproxy;
use crate::harness::{Connection, Signpost, settings_file, wait_until};

/// What an agent does with a connection.
#[derive(Clone, Copy)]
enum Reply {
    /// Sends these bytes and closes.
    Send(&'static [u8]),
    /// Sends them byte by byte and closes.
    Drip(&'static [u8]),
    /// Sends them and leaves the connection open.
    Hang(&'static [u8]),
    /// Sends a line of so many bytes before these, and closes.
    After(usize, &'static [u8]),
    /// Accepts no connection any more.
    Refuse,
}

use Reply::{After, Drip, Hang, Refuse, Send};

/// The state of a backend: its admin state, whether it is down, and its weight. In maintenance HAProxy shows every server
/// as stopped, so that health is compared outside of it alone.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State(&'static str, bool, f64);

const UNCHANGED: State = State("ready", false, 100.0);
const DOWN: State = State("ready", true, 100.0);
const DRAIN: State = State("drain", false, 100.0);
const MAINT: State = State("maint", false, 100.0);

const fn weight(weight: f64) -> State {
    State("ready", false, weight)
}

/// What agents reply, one after the other, and the state that follows. The weight is 100 at first.
const ROWS: &[(&[Reply], State)] = &[
    // Each word of HAProxy's documentation, and those that are none.
    (&[Send(b"up\n")], UNCHANGED),
    (&[Send(b"down\n")], DOWN),
    (&[Send(b"stopped\n")], DOWN),
    (&[Send(b"fail\n")], DOWN),
    (&[Send(b"failed\n")], UNCHANGED),
    (&[Send(b"drain\n")], DRAIN),
    (&[Send(b"maint\n")], MAINT),
    (&[Send(b"ready\n")], UNCHANGED),
    (&[Send(b"busy\n")], UNCHANGED),
    (&[Send(b"maxconn:30\n")], UNCHANGED),
    // What ends what, and what stays.
    (&[Send(b"down\n"), Send(b"up\n")], UNCHANGED),
    (&[Send(b"down\n"), Send(b"ready\n")], DOWN),
    (&[Send(b"down\n"), Send(b"75%\n")], State("ready", true, 75.0)),
    (&[Send(b"drain\n"), Send(b"up\n")], DRAIN),
    (&[Send(b"drain\n"), Send(b"ready\n")], UNCHANGED),
    (&[Send(b"drain\n"), Send(b"maint\n"), Send(b"ready\n")], UNCHANGED),
    (&[Send(b"maint\n"), Send(b"drain\n")], DRAIN),
    (&[Send(b"maint\n"), Send(b"ready\n")], UNCHANGED),
    (&[Send(b"maint down\n"), Send(b"ready\n")], DOWN),
    (&[Send(b"maint down\n"), Send(b"ready up\n")], UNCHANGED),
    (&[Send(b"50%\n"), Send(b"100%\n")], UNCHANGED),
    (&[Send(b"50%\n"), Send(b"up\n")], weight(50.0)),
    // Weights.
    (&[Send(b"75%\n")], weight(75.0)),
    (&[Send(b"0%\n")], weight(0.0)),
    (&[Send(b"007%\n")], weight(7.0)),
    (&[Send(b"150%\n")], weight(150.0)),
    (&[Send(b"300%\n")], weight(256.0)),
    (&[Send(b"25600%\n")], weight(256.0)),
    (&[Send(b"99999999999999999999%\n")], weight(256.0)),
    (&[Send(b"7.5%\n")], UNCHANGED),
    (&[Send(b"75\n")], UNCHANGED),
    (&[Send(b"75 %\n")], UNCHANGED),
    (&[Send(b"75%%\n")], UNCHANGED),
    (&[Send(b"75%x\n")], UNCHANGED),
    (&[Send(b"x75%\n")], UNCHANGED),
    (&[Send(b"-5%\n")], UNCHANGED),
    (&[Send(b"+5%\n")], UNCHANGED),
    (&[Send(b"%\n")], UNCHANGED),
    // The last of a kind counts, even if it is wrong.
    (&[Send(b"50% 75%\n")], weight(75.0)),
    (&[Send(b"50% 75%x\n")], UNCHANGED),
    (&[Send(b"up down\n")], DOWN),
    (&[Send(b"down up\n")], UNCHANGED),
    (&[Send(b"maint drain\n")], DRAIN),
    (&[Send(b"drain ready\n")], UNCHANGED),
    // Words in any order, and words that are ignored beside them.
    (&[Send(b"down drain 75% maxconn:30\n")], State("drain", true, 75.0)),
    (&[Send(b"maxconn:30 75% drain down\n")], State("drain", true, 75.0)),
    (&[Send(b"75% later drain\n")], State("drain", false, 75.0)),
    (&[Send(b"maxconn:x 50%\n")], weight(50.0)),
    (&[Send(b"down reason text\n")], DOWN),
    (&[Send(b"down,reason\n")], DOWN),
    // Descriptions.
    (&[Send(b"down # reason text\n")], DOWN),
    (&[Send(b"down #up 75%\n")], DOWN),
    (&[Send(b"down#reason\n")], UNCHANGED),
    (&[Send(b"75%#reason\n")], UNCHANGED),
    (&[Send(b"# down\n")], UNCHANGED),
    // Separators and case.
    (&[Send(b"\t75%\tdrain\t\n")], State("drain", false, 75.0)),
    (&[Send(b" ,, 75%,drain, \n")], State("drain", false, 75.0)),
    (&[Send(b"75%;drain\n")], UNCHANGED),
    (&[Send(b"down;up\n")], UNCHANGED),
    (&[Send(b"DOWN\n")], DOWN),
    (&[Send(b"Drain 50%\n")], State("drain", false, 50.0)),
    // Ends of lines: the first CR or LF; without one a line does not count.
    (&[Send(b"down\r\n")], DOWN),
    (&[Send(b"down\r")], DOWN),
    (&[Send(b"down\nup\n")], DOWN),
    (&[Send(b"down\rup\n")], DOWN),
    (&[Send(b"\ndown\n")], UNCHANGED),
    (&[Send(b"\n")], UNCHANGED),
    (&[Send(b"")], UNCHANGED),
    (&[Send(b"down")], UNCHANGED),
    (&[Send(b"100%\n"), Send(b"10")], UNCHANGED),
    (&[Drip(b"drain\n")], DRAIN),
    (&[Hang(b"drain\n")], DRAIN),
    (&[Hang(b"down")], UNCHANGED),
    (&[Hang(b"")], UNCHANGED),
    (&[Send(b"down\n"), Refuse], DOWN),
    (&[Send(b"75% drain\n"), Refuse], State("drain", false, 75.0)),
    // Bytes that are no text, and long lines.
    (&[Send(b"\xffdown\n")], UNCHANGED),
    (&[Send(b"down \xff\xfe\n")], DOWN),
    (&[Send("ä 50% drain\n".as_bytes())], State("drain", false, 50.0)),
    (&[Send(b"\xef\xbb\xbfdown\n")], UNCHANGED),
    (&[Send(b"down\0\n")], UNCHANGED),
    (&[Send(b"down \0 up\n")], UNCHANGED),
    (&[After(3000, b" down\n")], DOWN),
    (&[After(20_000, b" down\n")], UNCHANGED),
    (&[After(70_000, b"")], UNCHANGED),
];

/// Words that HAProxy knows since version 3.2.
const NEWER_ROWS: &[(&[Reply], State)] = &[
    (&[Send(b"weight:50%\n")], weight(50.0)),
    (&[Send(b"WEIGHT:50\n")], weight(50.0)),
    (&[Send(b"weight:256 drain\n")], State("drain", false, 256.0)),
    (&[Send(b"weight:0\n")], weight(0.0)),
    (&[Send(b"weight:+50%\n")], weight(50.0)),
    (&[Send(b"weight:257\n")], UNCHANGED),
    (&[Send(b"weight:-5\n")], UNCHANGED),
    (&[Send(b"weight:\n")], UNCHANGED),
    (&[Send(b"weight:5x\n")], UNCHANGED),
    (&[Send(b"50% weight:\n")], UNCHANGED),
];

/// From where HAProxy asks, so that agents can tell the two apart.
const HAPROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// An agent, on an address of its own.
struct Agent {
    address: Ipv4Addr,
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    reply: Reply,
    /// How many connections HAProxy and Signpost have had since the reply changed.
    served: [usize; 2],
}

impl Agent {
    fn start(listener: TcpListener, address: Ipv4Addr, reply: Reply) -> Self {
        let shared = Arc::new(Mutex::new(Shared { reply, served: [0; 2] }));
        let port = listener.local_addr().unwrap().port();
        let agent = Self { address, port, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            // Connections that are left open.
            let mut open = Vec::new();
            for connection in listener.incoming() {
                let connection = connection.unwrap();
                let reply = shared.lock().unwrap().reply;
                let consumer = usize::from(connection.peer_addr().unwrap().ip() != HAPROXY);
                answer(connection, reply, &mut open);
                let mut shared = shared.lock().unwrap();
                shared.served[consumer] += 1;
                if matches!(shared.reply, Refuse) {
                    return;
                }
            }
        });
        agent
    }

    fn now_replies(&self, reply: Reply) {
        *self.shared.lock().unwrap() = Shared { reply, served: [0; 2] };
    }

    fn is_read_by_signpost(&self) -> bool {
        self.shared.lock().unwrap().served[1] >= 3
    }

    /// Whether both have had this reply, and everything that follows from it is known: they come one after the other.
    fn is_read_by_both(&self) -> bool {
        let shared = self.shared.lock().unwrap();
        matches!(shared.reply, Refuse) || shared.served.iter().all(|served| *served >= 3)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its thread ends with the next connection.
        self.now_replies(Refuse);
        let _ = TcpStream::connect((self.address, self.port));
    }
}

fn answer(mut connection: TcpStream, reply: Reply, open: &mut Vec<TcpStream>) {
    // A peer that has read enough is no failure here.
    let _ = match reply {
        Send(bytes) => connection.write_all(bytes),
        Drip(bytes) => bytes.iter().try_for_each(|byte| {
            std::thread::sleep(Duration::from_millis(1));
            connection.write_all(&[*byte])
        }),
        Hang(bytes) => {
            let sent = connection.write_all(bytes);
            open.push(connection.try_clone().unwrap());
            sent
        }
        After(count, bytes) => {
            connection.write_all(&b"x".repeat(count)).and_then(|()| connection.write_all(bytes))
        }
        Refuse => Ok(()),
    };
}

/// Starts an agent for each row, all on one port.
fn agents(rows: usize) -> (Vec<Agent>, u16) {
    loop {
        let address = |row: usize| Ipv4Addr::new(127, 0, 1, row as u8 + 1);
        let first = TcpListener::bind((address(0), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        // Another process may have that port on one of the addresses.
        let others = (1..rows).map(|row| TcpListener::bind((address(row), port)).ok());
        if let Some(others) = others.collect::<Option<Vec<_>>>() {
            let listeners = std::iter::once(first).chain(others).enumerate();
            let start = |(row, listener)| Agent::start(listener, address(row), Send(b"\n"));
            return (listeners.map(start).collect(), port);
        }
    }
}

/// A real HAProxy with a server for each agent, called `0`, `1` and so on, and its stats socket.
fn haproxy(agents: &[Agent], port: u16, weight: u16, folder: &Path) -> Option<Haproxy> {
    let servers: String = (agents.iter().enumerate())
        .map(|(row, agent)| {
            let address = agent.address;
            format!(
                " server {row} {address}:1 weight {weight} agent-check agent-inter 200ms agent-port {port}\n"
            )
        })
        .collect();
    let socket = folder.join("stats");
    Haproxy::start(|_| {
        format!(
            "frontend f\n mode http\n bind fd@0\n http-request return status 200\n\
             backend b\n source {HAPROXY}\n timeout check 200ms\n{servers}\
             global\n stats socket {} level admin\n",
            socket.display()
        )
    })
}

fn ask_haproxy(folder: &Path, question: &str) -> String {
    let mut socket = UnixStream::connect(folder.join("stats")).unwrap();
    socket.write_all(format!("{question}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// The state of each server.
fn haproxy_states(folder: &Path) -> Vec<State> {
    let text = ask_haproxy(folder, "show servers state b");
    // A version and a line of names come first.
    let servers = text.lines().skip(2).filter(|line| !line.is_empty());
    let state = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        let [operational, admin, weight] = [5, 6, 7].map(|field| fields[field].parse::<u32>().unwrap());
        let admin = match admin {
            0 => "ready",
            1 => "maint",
            8 => "drain",
            _ => panic!("{line}"),
        };
        State(admin, operational == 0 && admin != "maint", weight.into())
    };
    servers.map(state).collect()
}

fn signpost(agents: &[Agent], port: u16, weight: u16, max_age: &str) -> Signpost {
    let backends: Vec<_> = (agents.iter().enumerate())
        .map(|(row, agent)| {
            format!("{{ id = '{row}', url = 'http://{}:1', weight = {weight} }}", agent.address)
        })
        .collect();
    Signpost::with_settings(&format!(
        "[pools.p]\nslow_start = '0s'\nbackends = [{}]\n\
         health = {{ kind = 'none', interval = '200ms', timeout = '200ms' }}\n\
         load = {{ source = 'agent', agent_port = {port}, max_age = '{max_age}' }}\n",
        backends.join(",")
    ))
}

fn pools(signpost: &Signpost) -> Value {
    let answer = Connection::to(signpost.admin).request("GET", "/api/v1/pools", &[("Host", "127.0.0.1")]);
    serde_json::from_slice(&answer.body).unwrap()
}

/// The state of each backend.
fn signpost_states(signpost: &Signpost) -> Vec<State> {
    let pools = pools(signpost);
    let state = |backend: &Value| {
        let admin = match backend["admin"].as_str().unwrap() {
            "active" => "ready",
            "draining" => "drain",
            _ => "maint",
        };
        let is_down = backend["health"] == "down" && admin != "maint";
        State(admin, is_down, backend["weight_in_effect"].as_f64().unwrap())
    };
    pools["pools"][0]["backends"].as_array().unwrap().iter().map(state).collect()
}

/// Has agents reply as the rows say, step by step.
fn reply(agents: &[Agent], rows: &[(&[Reply], State)]) {
    let steps = rows.iter().map(|(replies, _)| replies.len()).max().unwrap_or(0);
    for step in 0..steps {
        for (agent, (replies, _)) in agents.iter().zip(rows) {
            if let Some(reply) = replies.get(step) {
                agent.now_replies(*reply);
            }
        }
        wait_until("every agent is read", || agents.iter().all(Agent::is_read_by_both));
    }
}

fn text(replies: &[Reply]) -> String {
    let text = |reply: &Reply| match reply {
        Send(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Drip(bytes) => format!("slowly {:?}", String::from_utf8_lossy(bytes)),
        Hang(bytes) => format!("{:?} and no end", String::from_utf8_lossy(bytes)),
        After(count, bytes) => format!("{count} bytes and {:?}", String::from_utf8_lossy(bytes)),
        Refuse => "refused".to_owned(),
    };
    replies.iter().map(text).collect::<Vec<_>>().join(", then ")
}

/// Waits until all states are as they should be, or lists those that are not.
fn expect(of: &str, rows: &[(&[Reply], State)], states: impl Fn() -> Vec<State>) {
    let wrong = || -> Vec<String> {
        let states = states();
        let wrong = rows.iter().zip(&states).filter(|((_, expected), state)| expected != *state);
        wrong
            .map(|((replies, expected), state)| format!("{}: {state:?}, not {expected:?}", text(replies)))
            .collect()
    };
    for _ in 0..200 {
        if wrong().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{of} differs:\n{}", wrong().join("\n"));
}

#[test]
fn agent_lines_mean_what_they_mean_to_haproxy() {
    let rows = [ROWS, NEWER_ROWS].concat();
    let (agents, port) = agents(rows.len());
    let folder = tempfile::tempdir().unwrap();
    let Some(_haproxy) = haproxy(&agents, port, 100, folder.path()) else { return };
    let signpost = signpost(&agents, port, 100, "1h");
    reply(&agents, &rows);
    expect("Signpost", &rows, || signpost_states(&signpost));
    let version = ask_haproxy(folder.path(), "show version");
    let mut numbers = version.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    let known = match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (3, 2) => rows.len(),
        _ => ROWS.len(),
    };
    expect("HAProxy", &rows[..known], || haproxy_states(folder.path()));
}

/// Where Signpost differs, for reasons that the documentation gives.
#[test]
fn agent_lines_differ_from_haproxy_where_it_is_documented() {
    // A weight of 1 keeps its fractions, so that 50% does not drain it.
    let rows: [(&[Reply], State); 3] = [
        (&[Send(b"50%\n")], State("ready", false, 0.5)),
        (&[Send(b"ready\n")], State("maint", false, 1.0)),
        (&[Send(b"150%\n")], State("ready", false, 1.5)),
    ];
    let (agents, port) = agents(rows.len());
    let folder = tempfile::tempdir().unwrap();
    let Some(_haproxy) = haproxy(&agents, port, 1, folder.path()) else { return };
    let signpost = signpost(&agents, port, 1, "4s");
    // An operator's maintenance holds, whatever the agent asks for.
    ask_haproxy(folder.path(), "set server b/1 state maint");
    let body = "{\"admin\":\"maintenance\"}";
    let mut connection = Connection::to(signpost.admin);
    let head =
        "PATCH /api/v1/pools/p/backends/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
    connection.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    assert_eq!(connection.read_answer().unwrap().status, 200);
    reply(&agents, &rows);
    expect("Signpost", &rows, || signpost_states(&signpost));
    let in_haproxy = [0.0, 1.0, 1.0].map(|weight| State("ready", false, weight));
    expect("HAProxy", &[0, 1, 2].map(|row| (rows[row].0, in_haproxy[row])), || haproxy_states(folder.path()));
    // A weight ends with `load.max_age` after the agent's last reply.
    let silent: [(&[Reply], State); 1] = [(&[Refuse], State("ready", false, 1.0))];
    reply(&agents, &silent);
    wait_until("the weight has expired", || signpost_states(&signpost)[0] == silent[0].1);
    assert_eq!(haproxy_states(folder.path())[0], in_haproxy[0]);
}

#[test]
fn an_ignored_word_of_an_agent_is_logged() {
    let (agents, port) = agents(1);
    let signpost = signpost(&agents, port, 1, "1h");
    agents[0].now_replies(Send(b"drain later # backup runs\n"));
    signpost.wait_for_log("unknown word of an agent ignored");
    signpost.wait_for_log("later");
    signpost.wait_for_state("0", "draining");
    let changed = |state: &str| {
        signpost.wait_for_log(&format!(
            "\"agent state changed\",\"pool\":\"p\",\"backend\":\"0\",{state},\"target\""
        ));
    };
    changed("\"admin\":\"draining\",\"is_down\":false,\"reason\":\"backup runs\"");
    agents[0].now_replies(Send(b"maint\n"));
    changed("\"admin\":\"maintenance\",\"is_down\":false");
}

#[test]
fn the_description_of_an_agent_tells_why_a_backend_is_down() {
    let (agents, port) = agents(1);
    let signpost = signpost(&agents, port, 1, "1h");
    let detail = || pools(&signpost)["pools"][0]["backends"][0]["detail"].as_str().unwrap().to_owned();
    for (line, expected) in [
        (&b"stopped # backup runs\n"[..], "its agent reports it as down: backup runs"),
        (b"down # disk full\n", "its agent reports it as down: disk full"),
        (b"75% # load only\n", "its agent reports it as down: disk full"),
        (b"down\n", "its agent reports it as down"),
        (b"down # once more\n", "its agent reports it as down: once more"),
        (b"up drain # leaving\n", "requested by its agent: leaving"),
        (b"ready # all well\n", "not checked: health.kind is \"none\""),
    ] {
        agents[0].now_replies(Send(line));
        wait_until("the agent is read", || agents[0].is_read_by_signpost());
        wait_until(&format!("{line:?}: {expected}"), || detail() == expected);
    }
}

#[test]
fn a_failed_check_counts_for_nothing_once_health_checks_are_off() {
    let (agents, port) = agents(1);
    agents[0].now_replies(Send(b"100% up\n"));
    let settings = |kind: &str| {
        format!(
            "[server]\nwatch_interval = '0s'\n[pools.p]\nhealth = {{ kind = '{kind}', interval = '100ms' }}\n\
             backends = [{{ id = 'a', url = 'http://{}:1' }}]\n\
             load = {{ source = 'agent', agent_port = {port} }}\n",
            agents[0].address
        )
    };
    let file = settings_file(&settings("tcp"));
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    let health = || {
        let backend = pools(&signpost)["pools"][0]["backends"][0].take();
        [&backend["health"], &backend["reason"]].map(|value| value.as_str().map(str::to_owned))
    };
    for kind in ["tcp", "none", "tcp", "none"] {
        std::fs::write(file.path(), settings(kind)).unwrap();
        signpost.signal("HUP");
        let expected = if kind == "tcp" { ["down", "connect"] } else { ["unknown", "not_checked"] };
        wait_until(&format!("with {kind} it is {expected:?}"), || {
            health() == expected.map(|word| Some(word.to_owned()))
        });
    }
}
