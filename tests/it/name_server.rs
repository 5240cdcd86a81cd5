//! A name server that answers, refuses, lies or stays silent, and a network namespace in which it is the only one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::harness::skipped;

/// Names whose addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    A,
    Aaaa,
}

/// What a name server does with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Addresses(Vec<IpAddr>),
    /// An address that may be kept for an hour.
    PersistentState(IpAddr),
    /// The name exists, but has no address of this family.
    NoData,
    NxDomain,
    ServFail,
    Refused,
    Silent,
    /// An incomplete answer without addresses over UDP, these addresses over TCP.
    Truncated(Vec<IpAddr>),
    /// A referral to other name servers, as from one that does not resolve for clients.
    Referral,
    /// A CNAME record that leads to this name, and the name's address.
    Alias(&'static str, IpAddr),
    /// A CNAME record alone.
    BareAlias(&'static str),
    /// Bytes that are no DNS message.
    Garbage,
}

/// How long clients may keep an answer, in seconds.
const TTL: u32 = 1;

/// What was asked for how often.
type Queries = Arc<Mutex<HashMap<(String, Family), usize>>>;

/// A name server on port 53 of an address. It runs until the process ends.
pub struct NameServer {
    queries: Queries,
}

impl NameServer {
    /// Replies as `reply` says, over UDP and TCP.
    pub fn start(ip: &str, reply: impl Fn(&str, Family) -> Reply + Clone + Send + 'static) -> Self {
        let server = Self::start_udp(ip, reply.clone());
        let listener = TcpListener::bind(address(ip)).unwrap();
        let queries = Arc::clone(&server.queries);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (reply, queries) = (reply.clone(), Arc::clone(&queries));
                std::thread::spawn(move || serve_tcp(socket, &reply, &queries));
            }
        });
        server
    }

    /// The same, over UDP only: TCP is refused.
    pub fn start_udp(ip: &str, reply: impl Fn(&str, Family) -> Reply + Send + 'static) -> Self {
        let queries = Queries::default();
        let socket = UdpSocket::bind(address(ip)).unwrap();
        let seen = Arc::clone(&queries);
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if let Some(response) = respond(&buffer[..length], &reply, &seen, true) {
                    let _ = socket.send_to(&response, client);
                }
            }
        });
        Self { queries }
    }

    /// How often a name was asked for, both families together.
    pub fn queries(&self, name: &str) -> usize {
        let queries = self.queries.lock().unwrap();
        queries.iter().filter(|((asked, _), _)| asked == name).map(|(_, count)| count).sum()
    }
}

fn address(ip: &str) -> SocketAddr {
    match ip.contains(':') {
        true => format!("[{ip}]:53").parse().unwrap(),
        false => format!("{ip}:53").parse().unwrap(),
    }
}

fn serve_tcp(mut socket: TcpStream, reply: &impl Fn(&str, Family) -> Reply, queries: &Queries) {
    loop {
        let mut length = [0; 2];
        if socket.read_exact(&mut length).is_err() {
            return;
        }
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        if socket.read_exact(&mut query).is_err() {
            return;
        }
        if let Some(response) = respond(&query, reply, queries, false) {
            let length = (response.len() as u16).to_be_bytes();
            let _ = socket.write_all(&[&length[..], &response].concat());
        }
    }
}

/// The response to a query of one question, as of RFC 1035, section 4.
fn respond(
    query: &[u8],
    reply: &impl Fn(&str, Family) -> Reply,
    queries: &Queries,
    is_udp: bool,
) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(std::str::from_utf8(&query[at + 1..at + 1 + length]).unwrap().to_ascii_lowercase());
        at += 1 + length;
    }
    let name = labels.join(".");
    let family = match u16::from_be_bytes([query[at + 1], query[at + 2]]) {
        1 => Family::A,
        28 => Family::Aaaa,
        _ => return None,
    };
    *queries.lock().unwrap().entry((name.clone(), family)).or_default() += 1;
    let question = &query[12..at + 5];

    const NO_ERROR: u16 = 0;
    let (code, truncated, answers, authority) = match reply(&name, family) {
        Reply::Addresses(addresses) => (NO_ERROR, false, records(&addresses, family), None),
        Reply::PersistentState(ip) => {
            let mut records = records(&[ip], family);
            // The TTL follows owner, type and class.
            records.iter_mut().for_each(|record| record[6..10].copy_from_slice(&3600u32.to_be_bytes()));
            (NO_ERROR, false, records, None)
        }
        Reply::Truncated(_) if is_udp => (NO_ERROR, true, Vec::new(), None),
        Reply::Truncated(addresses) => (NO_ERROR, false, records(&addresses, family), None),
        Reply::NoData => (NO_ERROR, false, Vec::new(), Some(soa())),
        Reply::NxDomain => (3, false, Vec::new(), Some(soa())),
        Reply::ServFail => (2, false, Vec::new(), None),
        Reply::Refused => (5, false, Vec::new(), None),
        Reply::Silent => return None,
        Reply::Referral => {
            (NO_ERROR, false, Vec::new(), Some(record(&[0], 2, &wire("ns.elsewhere.example"))))
        }
        Reply::Alias(target, ip) => {
            let alias = record(&[0xc0, 12], 5, &wire(target));
            let mut answers = vec![alias];
            answers
                .extend(addresses_of(&[ip], family).map(|(kind, data)| record(&wire(target), kind, &data)));
            (NO_ERROR, false, answers, None)
        }
        Reply::BareAlias(target) => (NO_ERROR, false, vec![record(&[0xc0, 12], 5, &wire(target))], None),
        Reply::Garbage => return Some([&query[..2], &[0xff; 40]].concat()),
    };
    // A response; recursion was desired and is available.
    let flags = 0x8180 | code | if truncated { 0x0200 } else { 0 };
    let mut response = query[..2].to_vec();
    for field in [flags, 1, answers.len() as u16, u16::from(authority.is_some()), 0] {
        response.extend(field.to_be_bytes());
    }
    response.extend(question);
    response.extend(answers.concat());
    response.extend(authority.unwrap_or_default());
    Some(response)
}

fn records(addresses: &[IpAddr], family: Family) -> Vec<Vec<u8>> {
    addresses_of(addresses, family).map(|(kind, data)| record(&[0xc0, 12], kind, &data)).collect()
}

/// The addresses of one family, as type and data of a record.
fn addresses_of(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = (u16, Vec<u8>)> {
    addresses.iter().filter_map(move |ip| match (ip, family) {
        (IpAddr::V4(ip), Family::A) => Some((1, ip.octets().to_vec())),
        (IpAddr::V6(ip), Family::Aaaa) => Some((28, ip.octets().to_vec())),
        _ => None,
    })
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let (kind, length) = (kind.to_be_bytes(), (data.len() as u16).to_be_bytes());
    [owner, &kind, &[0, 1], &TTL.to_be_bytes(), &length, data].concat()
}

/// The record that a negative answer has, for how long it may be kept.
fn soa() -> Vec<u8> {
    let numbers = [1, 60, 60, 60, TTL].map(u32::to_be_bytes).concat();
    record(&[0], 6, &[&wire("ns.example")[..], &wire("admin.example"), &numbers].concat())
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// Runs a test in a network namespace of its own, with an `/etc` that holds nothing but what the test puts there: as
/// root, or where users may create namespaces. `test` is its name, since it runs as a process of its own.
#[expect(clippy::print_stdout, reason = "the test runner captures it, and shows it if the test fails")]
pub fn in_namespace(test: &str, body: impl FnOnce(&Path)) {
    const INSIDE: &str = "SIGNPOST_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        let etc = tempfile::tempdir().unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        run("mount", &["--bind", etc.path().to_str().unwrap(), "/etc"]);
        return body(etc.path());
    }
    let namespaces = ["--net", "--mount"];
    let as_root: &[&str] = &["--map-root-user"];
    let can = |user: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(namespaces).args(user).args(["ip", "link", "set", "lo", "up"]);
        unshare.output().is_ok_and(|output| output.status.success())
    };
    let Some(user) = [&[], as_root].into_iter().find(|user| can(user)) else {
        skipped(
            "names are looked up in a network namespace: install util-linux and iproute2, and run as root or allow \
             unprivileged user namespaces",
        );
        return;
    };
    let mut unshare = Command::new("unshare");
    unshare.args(namespaces).args(user).arg(std::env::current_exe().unwrap());
    let output = unshare.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{test} failed in its namespace");
}

/// Runs a program that has to succeed.
pub fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}
