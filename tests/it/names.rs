//! Names of backends: what the hosts file and name servers say, and what becomes of a backend when they say nothing.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::backend::{Backend, Does};
use crate::harness::{Connection, Signpost, series, wait_until};
use crate::name_server::{Family, NameServer, Reply, in_namespace, run};

/// An IPv4 address of a backend that runs, and one where nothing listens.
const V4: &str = "127.0.0.2";
const DEAD: &str = "127.0.0.99";
const V6: &str = "::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The backend that all names lead to: on [`V4`] and on [`V6`], the same port.
fn backend() -> (u16, [Backend; 2]) {
    let v4 = Backend::start_on(format!("{V4}:0").parse().unwrap(), Does::Answer);
    let port = v4.address.port();
    let v6 = Backend::start_on(format!("[{V6}]:{port}").parse().unwrap(), Does::Answer);
    (port, [v4, v6])
}

/// A dispatcher whose backends have these names, which are their ids too.
fn dispatcher(names: &[String], port: u16) -> Signpost {
    let backends: String =
        names.iter().map(|name| format!("{{ id = '{name}', url = 'http://{name}:{port}' }},\n")).collect();
    Signpost::with_settings(&format!(
        "[pools.p]\nbackends = [\n{backends}]\n\
         [pools.p.health]\nkind = 'http'\ninterval = '200ms'\nfast_interval = '200ms'\nflap_backoff = '0s'"
    ))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn is(metrics: &str, backend: &str, state: &str) -> bool {
    series(metrics, "signpost_backend_state", &[("backend", backend), ("state", state)]) == Some(1.0)
}

/// Waits until each of these backends has been probed so often again.
fn wait_for_probes(signpost: &Signpost, names: &[String], more: f64) {
    let count = |metrics: &str, name: &str| -> f64 {
        let of = |line: &&str| {
            line.starts_with("signpost_probes_total{") && line.contains(&format!("backend=\"{name}\""))
        };
        metrics.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let before = signpost.metrics();
    wait_until("each backend has been probed again", || {
        let now = signpost.metrics();
        names.iter().all(|name| count(&now, name) >= count(&before, name) + more)
    });
}

fn resolv_conf(etc: &Path, contents: &str) {
    replace(&etc.join("resolv.conf"), contents);
}

/// Replaces a file as editors and network managers do: by another one.
fn replace(path: &Path, contents: &str) {
    let new = path.with_extension("new");
    fs::write(&new, contents).unwrap();
    fs::rename(new, path).unwrap();
}

/// What the name server does for one family, as a label of the name says.
const KINDS: [&str; 7] = ["answers", "nodata", "nxdomain", "servfail", "refused", "silent", "truncated"];

fn reply(kind: &str, address: &str) -> Reply {
    match kind {
        "answers" => Reply::Addresses(vec![ip(address)]),
        "nodata" => Reply::NoData,
        "nxdomain" => Reply::NxDomain,
        "servfail" => Reply::ServFail,
        "refused" => Reply::Refused,
        "silent" => Reply::Silent,
        "truncated" => Reply::Truncated(vec![ip(address)]),
        _ => panic!("{kind}"),
    }
}

/// A backend is up if any source gives an address: the hosts file, the A record, or the AAAA record. What the others do
/// makes no difference.
#[test]
fn one_source_of_addresses_is_enough() {
    in_namespace("names::one_source_of_addresses_is_enough", |etc| {
        let server = NameServer::start("127.0.0.1", |name, family| {
            let mut labels = name.split('.').skip(1).map(|label| label.split_once('-').unwrap().1);
            let (a, aaaa) = (labels.next().unwrap(), labels.next().unwrap());
            match family {
                Family::A => reply(a, V4),
                Family::Aaaa => reply(aaaa, V6),
            }
        });
        let sources: [(&str, &[&str]); 4] =
            [("none", &[]), ("v4", &[V4]), ("v6", &[V6]), ("both", &[V4, V6])];
        let name = |hosts: &str, a: &str, aaaa: &str| format!("hosts-{hosts}.a-{a}.aaaa-{aaaa}.x-example");
        let mut hosts_file = String::new();
        let mut cells = Vec::new();
        for (hosts, addresses) in sources {
            for a in KINDS {
                for aaaa in KINDS {
                    let name = name(hosts, a, aaaa);
                    for address in addresses {
                        writeln!(hosts_file, "{address} {name}").unwrap();
                    }
                    let gives_address = |kind| kind == "answers" || kind == "truncated";
                    let is_up = hosts != "none" || gives_address(a) || gives_address(aaaa);
                    cells.push((name, is_up));
                }
            }
        }
        fs::write(etc.join("hosts"), hosts_file).unwrap();
        fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();

        let (port, _backends) = backend();
        let all: Vec<_> = cells.iter().map(|(name, _)| name.clone()).collect();
        let signpost = dispatcher(&all, port);
        wait_for_probes(&signpost, &all, 4.0);
        let metrics = signpost.metrics();
        let table = table(&metrics, sources.map(|(hosts, _)| hosts), name);
        println!("{table}");
        for (name, is_up) in &cells {
            let state = if *is_up { "up" } else { "down" };
            assert!(is(&metrics, name, state), "{name} should be {state}:\n{table}\n{}", signpost.log());
            if !name.starts_with("hosts-none") {
                assert_eq!(server.queries(name), 0, "{name} is in the hosts file");
            }
        }
    });
}

/// The state of each backend: a table for each content of the hosts file, a row for A, a column for AAAA.
fn table(metrics: &str, sources: [&str; 4], name: impl Fn(&str, &str, &str) -> String) -> String {
    let mut table = String::new();
    for hosts in sources {
        writeln!(table, "\nhosts file: {hosts}").unwrap();
        writeln!(table, "{:>14}  {}", "A \\ AAAA", KINDS.map(|kind| format!("{kind:<10}")).concat()).unwrap();
        for a in KINDS {
            let state = |aaaa| {
                let name = name(hosts, a, aaaa);
                let state = ["up", "down", "unknown"].into_iter().find(|state| is(metrics, &name, state));
                format!("{:<10}", state.unwrap_or("?"))
            };
            writeln!(table, "{a:>14}  {}", KINDS.map(state).concat()).unwrap();
        }
    }
    table
}

/// Server errors, silence and a network without a route all keep the last addresses in use; that a name is gone does not.
#[test]
fn the_last_answer_holds_while_name_servers_fail() {
    in_namespace("names::the_last_answer_holds_while_name_servers_fail", |etc| {
        let mode = Arc::new(Mutex::new("well"));
        let of_server = Arc::clone(&mode);
        let server = NameServer::start("127.0.0.1", move |name, family| match *of_server.lock().unwrap() {
            "well" if name.ends_with(".first.test") => Reply::NxDomain,
            "well" if family == Family::A => Reply::Addresses(vec![ip(V4)]),
            "well" => Reply::NoData,
            "gone" => Reply::NxDomain,
            _ => reply(name.split('.').next().unwrap(), V4),
        });
        const SEARCH: &str = "search first.test second.test\noptions timeout:1 attempts:1\n";
        resolv_conf(etc, &format!("nameserver 127.0.0.1\n{SEARCH}"));
        let (port, _backends) = backend();
        // The last one is found in the second search domain.
        let all = names(&["silent.example", "servfail.example", "refused.example", "silent"]);
        let asked = ["silent.example", "servfail.example", "refused.example", "silent.second.test"];
        let signpost = dispatcher(&all, port);
        let all_are = |state: &str| {
            wait_until(&format!("all are {state}"), || {
                let metrics = signpost.metrics();
                all.iter().all(|name| is(&metrics, name, state))
            });
        };
        all_are("up");

        *mode.lock().unwrap() = "failing";
        let before = asked.map(|name| server.queries(name));
        wait_until("each has been asked for in vain several times", || {
            asked.iter().zip(&before).all(|(name, before)| server.queries(name) >= before + 6)
        });
        wait_for_probes(&signpost, &all, 4.0);
        all_are("up");
        signpost.wait_for_log("the last known addresses stay in use");
        let failed =
            |name: &String| signpost.metric("signpost_probes_total", &[("backend", name), ("result", "dns")]);
        assert_eq!(all.iter().map(failed).sum::<f64>(), 0.0);

        // The network is gone: there is no route to the name server.
        resolv_conf(etc, &format!("nameserver 192.0.2.53\n{SEARCH}"));
        wait_for_probes(&signpost, &all, 15.0);
        all_are("up");

        *mode.lock().unwrap() = "gone";
        resolv_conf(etc, &format!("nameserver 127.0.0.1\n{SEARCH}"));
        all_are("down");
        signpost.wait_for_log("silent.example: no such name");

        *mode.lock().unwrap() = "well";
        all_are("up");
    });
}

#[test]
fn both_files_are_read_again() {
    in_namespace("names::both_files_are_read_again", |etc| {
        let _one = NameServer::start("127.0.0.51", |_, family| match family {
            Family::A => Reply::Addresses(vec![ip(V4)]),
            Family::Aaaa => Reply::NoData,
        });
        let _other = NameServer::start("127.0.0.52", |_, _| Reply::NxDomain);
        let (port, _backends) = backend();
        let all = names(&["by-hosts.example", "by-dns.example"]);

        // Neither file exists.
        let signpost = dispatcher(&all, port);
        signpost.wait_for_state("by-hosts.example", "down");
        signpost.wait_for_state("by-dns.example", "down");

        fs::write(etc.join("hosts"), format!("{V4} by-hosts.example\n")).unwrap();
        signpost.wait_for_state("by-hosts.example", "up");
        replace(&etc.join("hosts"), &format!("{DEAD} by-hosts.example\n"));
        signpost.wait_for_state("by-hosts.example", "down");
        replace(&etc.join("hosts"), &format!("{V6} by-hosts.example\n"));
        signpost.wait_for_state("by-hosts.example", "up");

        fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.51\n").unwrap();
        signpost.wait_for_state("by-dns.example", "up");
        resolv_conf(etc, "nameserver 127.0.0.52\n");
        signpost.wait_for_state("by-dns.example", "down");
        signpost.wait_for_log("by-dns.example: no such name");
        resolv_conf(etc, "nameserver 127.0.0.51\n");
        signpost.wait_for_state("by-dns.example", "up");

        // While the files are missing, what they said holds.
        fs::remove_file(etc.join("hosts")).unwrap();
        fs::remove_file(etc.join("resolv.conf")).unwrap();
        wait_for_probes(&signpost, &all, 15.0);
        signpost.wait_for_state("by-hosts.example", "up");
        signpost.wait_for_state("by-dns.example", "up");
    });
}

#[test]
fn errors_are_plain() {
    in_namespace("names::errors_are_plain", |etc| {
        let _server = NameServer::start("127.0.0.1", |name, family| match (name, family) {
            ("half.example", Family::A) => Reply::NxDomain,
            ("half.example", Family::Aaaa) => Reply::NoData,
            ("broken.example", _) => Reply::Garbage,
            ("lame.example", _) => Reply::Referral,
            _ => reply(name.split('.').next().unwrap(), V4),
        });
        fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        let errors = [
            ("nxdomain.example", "no such name"),
            ("nodata.example", "the name has no address"),
            ("half.example", "the name has no address"),
            ("silent.example", "name servers do not answer"),
            ("refused.example", "name server refused"),
            ("servfail.example", "name server failed (Server Failure)"),
            ("broken.example", "name server failed (malformed answer)"),
            ("lame.example", "name server failed (lame delegation)"),
        ];
        let all = names(&errors.map(|(name, _)| name));
        let signpost = dispatcher(&all, backend().0);
        for (name, error) in errors {
            signpost.wait_for_state(name, "down");
            signpost.wait_for_log(&format!("{name}: {error}"));
            assert!(signpost.metric("signpost_probes_total", &[("backend", name), ("result", "dns")]) >= 1.0);
            // All of them alike in metrics, in words in the API.
            assert_eq!(
                signpost.metric("signpost_backend_state_reason", &[("backend", name), ("reason", "dns")]),
                1.0
            );
            let pools =
                Connection::to(signpost.admin).request("GET", "/api/v1/pools", &[("Host", "localhost")]);
            assert!(pools.text().contains(&format!("\"detail\":\"{name}: {error}")), "{}", pools.text());
        }
    });
}

/// A container that is started anew has another address, and its name server allows to keep the old one.
#[test]
fn an_address_that_is_dead_is_asked_for_again() {
    in_namespace("names::an_address_that_is_dead_is_asked_for_again", |etc| {
        let address = Arc::new(Mutex::new(V4));
        let of_server = Arc::clone(&address);
        let server = NameServer::start("127.0.0.1", move |_, _| {
            Reply::PersistentState(ip(*of_server.lock().unwrap()))
        });
        fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\noptions no-aaaa\n").unwrap();
        let (port, [old, v6]) = backend();
        let all = names(&["moves.example"]);
        let signpost = dispatcher(&all, port);
        signpost.wait_for_state("moves.example", "up");
        // While it is up, the answer holds.
        let before = server.queries("moves.example");
        wait_for_probes(&signpost, &all, 10.0);
        assert_eq!(server.queries("moves.example"), before);
        drop((old, v6));
        let _new = Backend::start_on(format!("127.0.0.3:{port}").parse().unwrap(), Does::Answer);
        signpost.wait_for_state("moves.example", "down");
        *address.lock().unwrap() = "127.0.0.3";
        signpost.wait_for_state("moves.example", "up");
    });
}

/// Questions that nothing answers hold sockets. They must not use up the descriptors that clients need.
#[test]
fn silent_name_servers_hold_few_sockets() {
    in_namespace("names::silent_name_servers_hold_few_sockets", |etc| {
        let _server = NameServer::start("127.0.0.1", |name, _| match name.starts_with("silent") {
            true => Reply::Silent,
            false => Reply::Addresses(vec![ip(V4)]),
        });
        fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").unwrap();
        let (port, _backends) = backend();
        let well = names(&["well.example"]);
        let silent: Vec<_> = (0..400).map(|n| format!("silent-{n}.example")).collect();
        let ids = well.iter().chain(&silent);
        let backends: String =
            ids.map(|name| format!("{{ id = '{name}', url = 'http://{name}:{port}' }},")).collect();
        let signpost = Signpost::with_settings(&format!(
            "[server.limits]\nmax_probes = 32\n[pools.p]\nbackends = [{backends}]\n\
             [pools.p.health]\nkind = 'tcp'\ninterval = '100ms'\ntimeout = '200ms'"
        ));
        wait_for_probes(&signpost, &silent, 2.0);
        // With A and AAAA for each backend, and up to four sockets for each of them, there would be 3200.
        let sockets = fs::read_dir(format!("/proc/{}/fd", signpost.pid())).unwrap().count();
        assert!(sockets < 1600, "{sockets} descriptors");
        assert!(is(&signpost.metrics(), "well.example", "up"));
        assert!(is(&signpost.metrics(), "silent-0.example", "down"));
    });
}

/// What names can look like, and what name servers can answer.
#[test]
fn names_of_every_form_are_found() {
    in_namespace("names::names_of_every_form_are_found", |etc| {
        let _server = NameServer::start("127.0.0.1", |name, family| match (name, family) {
            // In the first search domain there is no such name, or the name server fails.
            ("short.first.test", Family::A) => Reply::NxDomain,
            ("short.first.test", Family::Aaaa) => Reply::Silent,
            ("failing.first.test", _) => Reply::ServFail,
            ("short.second.test" | "failing.second.test", Family::A) => Reply::Addresses(vec![ip(V4)]),
            ("two.labels", Family::Aaaa) => Reply::Addresses(vec![ip(V6)]),
            // With a trailing dot, search domains are not tried.
            ("absolute", Family::A) => Reply::Addresses(vec![ip(V4)]),
            ("absolute.first.test", Family::A) => Reply::Addresses(vec![ip(DEAD)]),
            ("dead-v4.example", Family::A) => Reply::Addresses(vec![ip(DEAD)]),
            ("dead-v4.example", Family::Aaaa) => Reply::Addresses(vec![ip(V6)]),
            ("dead-v6.example", Family::A) => Reply::Addresses(vec![ip(V4)]),
            ("dead-v6.example", Family::Aaaa) => Reply::Addresses(vec![ip("2001:db8::1")]),
            ("second-address.example", Family::A) => Reply::Addresses(vec![ip(DEAD), ip(V4)]),
            ("alias.example", Family::A) => Reply::Alias("target.example", ip(V4)),
            ("far-alias.example", Family::A) => Reply::BareAlias("alias.example"),
            ("_under_score.example", Family::A) => Reply::Addresses(vec![ip(V4)]),
            ("upper.example", Family::A) => Reply::Addresses(vec![ip(V4)]),
            _ => Reply::NxDomain,
        });
        fs::write(etc.join("resolv.conf"), "search first.test second.test\nnameserver 127.0.0.1\n").unwrap();
        let (port, _backends) = backend();
        let localhost = Backend::start_on(format!("127.0.0.1:{port}").parse().unwrap(), Does::Answer);
        let all = names(&[
            "short",
            "failing",
            "two.labels",
            "absolute.",
            "dead-v4.example",
            "dead-v6.example",
            "second-address.example",
            "alias.example",
            "far-alias.example",
            "_under_score.example",
            "UPPER.example",
            "localhost",
            "pool.localhost",
            "127.0.0.2.",
        ]);
        let signpost = dispatcher(&all, port);
        for name in &all {
            signpost.wait_for_state(name, "up");
        }
        drop(localhost);
    });
}

/// What resolv.conf(5) can say.
#[test]
fn name_servers_are_found_by_every_way() {
    in_namespace("names::name_servers_are_found_by_every_way", |etc| {
        // An address that is valid on one interface only, here the first one of the namespace.
        run("ip", &["address", "add", "fe80::53/64", "dev", "lo", "nodad"]);
        let answer = |_: &str, family: Family| match family {
            Family::A => Reply::Truncated(vec![ip(V4)]),
            Family::Aaaa => Reply::NoData,
        };
        let _on_link = NameServer::start("fe80::53%1", answer);
        let _here = NameServer::start("127.0.0.1", answer);
        let _works = NameServer::start("127.0.0.54", answer);
        let _refuses = NameServer::start("127.0.0.55", |_, _| Reply::Refused);
        let _is_lame = NameServer::start("127.0.0.56", |_, _| Reply::Referral);
        let _lies = NameServer::start("127.0.0.57", |_, _| Reply::Garbage);
        let _without_tcp = NameServer::start_udp("127.0.0.58", |_, family| match family {
            Family::A => Reply::Truncated(vec![ip(V4)]),
            Family::Aaaa => Reply::Addresses(vec![ip(V6)]),
        });
        let (port, _backends) = backend();
        for conf in [
            "nameserver 127.0.0.54",
            // The first one does not run, refuses, does not resolve or lies.
            "nameserver 127.0.0.99\nnameserver 127.0.0.54",
            "nameserver 192.0.2.53\nnameserver 127.0.0.54",
            "nameserver 127.0.0.55\nnameserver 127.0.0.54",
            "nameserver 127.0.0.56\nnameserver 127.0.0.54",
            "nameserver 127.0.0.57\nnameserver 127.0.0.54",
            "nameserver 127.0.0.99\nnameserver 127.0.0.55\nnameserver 127.0.0.56\nnameserver 127.0.0.54",
            "nameserver 127.0.0.55\nnameserver 127.0.0.54\noptions rotate",
            // No answer over TCP, but all of one family over UDP.
            "nameserver 127.0.0.58",
            "nameserver 127.0.0.54\noptions use-vc edns0 trust-ad single-request nonsense timeout:x",
            "nameserver fe80::53%lo",
            // The name server of this machine.
            "",
            "# comment\nnonsense\nnameserver\nnameserver nonsense\nsearch ..",
        ] {
            fs::write(etc.join("resolv.conf"), conf).unwrap();
            let signpost = dispatcher(&names(&["site.example"]), port);
            wait_until(&format!("{conf:?} leads to an address"), || {
                is(&signpost.metrics(), "site.example", "up")
            });
        }
    });
}
