//! One instance after the other, without losing a visitor.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, recv, send, socket, sockopt::Timeout,
    sockopt::set_socket_timeout,
};

use crate::certificates::{Site, client, connect};
use crate::harness::{Connection, PATIENCE, Signpost, command, run, settings_file, stderr, wait_until};

const BACKEND: [&str; 2] = ["--backend", "http://127.0.0.1:9001"];

fn old(workers: usize) -> Signpost {
    let args = [&BACKEND[..], &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]].concat();
    Signpost::start_command(command(args).env("SIGNPOST__SERVER__WORKERS", workers.to_string()))
}

/// What starts a successor of it, with these addresses for visitors.
fn successor(old: &Signpost, listen: &[&str]) -> Command {
    let admin = old.admin.to_string();
    let listen: Vec<_> = listen.iter().flat_map(|address| ["--listen", address]).collect();
    command([&BACKEND[..], &listen, &["--admin", &admin, "--takeover"]].concat())
}

#[test]
fn nobody_is_lost_however_many_workers_take_over() {
    let mut current = old(2);
    let (traffic, admin) = (current.traffic, current.admin);
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let ask = |address: SocketAddr, path: &'static str, status: u16| {
            let (done, answered) = (&done, &answered);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(Connection::to(address).request("GET", path, &[]).status, status);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        for _ in 0..4 {
            ask(traffic, "/", 302);
        }
        // The listener is shared, and whoever answers is ready.
        ask(admin, "/readyz", 200);
        let more = || {
            let enough = answered.load(Ordering::Relaxed) + 100;
            wait_until("some more are answered", || answered.load(Ordering::Relaxed) >= enough);
        };
        for workers in [4, 1, 3] {
            more();
            // Port 0: whatever port the old one has.
            let mut command = successor(&current, &["127.0.0.1:0"]);
            let next = Signpost::start_command(command.env("SIGNPOST__SERVER__WORKERS", workers.to_string()));
            assert_eq!((next.traffic, next.admin), (traffic, admin));
            assert!(current.wait().success(), "{}", current.log());
            current = next;
        }
        more();
        done.store(true, Ordering::Relaxed);
    });
    current.signal("TERM");
    assert!(current.wait().success());
    assert!(TcpStream::connect(traffic).is_err(), "somebody still listens");
}

#[test]
fn who_waits_in_a_queue_is_answered_even_where_nobody_listens_any_more() {
    let two = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut old = Signpost::start_command(&mut command([&BACKEND[..], &two].concat()));
    // The harness reads the first address only.
    let listeners = old.metrics();
    let other = listeners.lines().filter_map(|line| {
        let address = line.strip_prefix("signpost_connections_total{listener=\"")?.split('"').next()?;
        address.parse::<SocketAddr>().ok()
    });
    let other = other.into_iter().find(|address| ![old.traffic, old.admin].contains(address)).unwrap();

    old.signal("STOP");
    let waiting: Vec<_> = (0..100).map(|n| ask(if n % 2 == 0 { old.traffic } else { other })).collect();
    let mut command = successor(&old, &[&old.traffic.to_string()]);
    let starting = std::thread::spawn(move || Signpost::start_command(&mut command));
    let name = format!("@signpost/{}", old.admin);
    wait_until("the successor has asked", || {
        std::fs::read_to_string("/proc/net/unix").unwrap().matches(&name).count() > 1
    });
    old.signal("CONT");
    for mut connection in waiting {
        assert_eq!(connection.read_answer().expect("an answer").status, 302);
    }
    let next = starting.join().unwrap();
    assert!(old.wait().success());
    assert!(TcpStream::connect(other).is_err(), "nobody names it");
    assert_eq!(next.get("/").status, 302);
}

/// Asks on a new connection, and leaves the answer for later.
fn ask(address: SocketAddr) -> Connection {
    let mut connection = Connection::to(address);
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    connection
}

#[test]
fn what_a_successor_does_not_serve_is_emptied_by_the_old_one() {
    let mut old = old(2);
    let successor = stranger(old.admin);
    successor.tell(HELLO);
    successor.hear();
    // Whoever waits does so when the old one hears that nothing of its own is served.
    old.signal("STOP");
    let waiting: Vec<_> = (0..200).map(|_| ask(old.traffic)).collect();
    successor.tell(br#"{"say":"ready","sockets":[]}"#);
    old.signal("CONT");
    for mut connection in waiting {
        assert_eq!(connection.read_answer().expect("an answer").status, 302);
    }
    assert_eq!(successor.hear(), r#"{"say":"left"}"#);
    assert!(old.wait().success());
}

#[test]
fn the_old_one_finishes_what_is_under_way() {
    let mut old = old(1);
    let mut idle = old.connect();
    assert_eq!(idle.request("GET", "/", &[]).status, 302);
    let mut slow = old.connect();
    slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n");
    // One worker: its head has come this far once a later request is answered.
    old.get("/");
    let next = Signpost::start_command(&mut successor(&old, &[&old.traffic.to_string()]));
    assert!(idle.closes(), "with FIN, not with a reset");
    slow.send(b"\r\n");
    let answer = slow.read_answer().expect("an answer from the old one");
    assert_eq!((answer.status, answer.header("connection")), (302, Some("close")));
    assert!(slow.closes());
    assert!(old.wait().success());
    assert_eq!(next.get("/").status, 302);
}

#[test]
fn while_a_successor_waits_for_its_probes_the_old_one_serves() {
    let mut old = old(2);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let settings = settings_file(&format!(
        "[pools.p]\nbackends = ['http://{}']\n[pools.p.health]\nkind = 'http'\ntimeout = '1h'\nstartup_timeout = '1h'",
        silent.local_addr().unwrap()
    ));
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let mut starting = command(["--takeover", "--listen", &traffic, "--admin", &admin, "--settings"]);
    starting.arg(settings.path());
    let starting = std::thread::spawn(move || Signpost::start_command(&mut starting));
    let mut probe = None;
    wait_until("the successor probes", || {
        probe = silent.accept().ok();
        probe.is_some()
    });
    for _ in 0..20 {
        assert!(old.get("/").location().starts_with("http://127.0.0.1:9001/"), "not the successor's backend");
        assert_eq!(old.admin_get("/readyz").status, 200);
    }
    // The backend ends its silence, and the first round with it.
    drop((probe, silent));
    let next = starting.join().unwrap();
    assert!(old.wait().success());
    assert_eq!(next.admin_get("/readyz").status, 200);
}

#[test]
fn listeners_of_all_kinds_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let settings = settings_file(&format!(
        "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n[server]\nlisten = ['127.0.0.1:0']\n\
         [server.tls]\nlisten = ['127.0.0.1:0']\nredirect_listen = ['127.0.0.1:0']\ncertificates = [{}]",
        site.toml()
    ));
    let start = |admin: &str, flag: Option<&str>| {
        let mut command = command(["--settings"]);
        Signpost::start_command(command.arg(settings.path()).args(["--admin", admin]).args(flag))
    };
    let mut old = start("127.0.0.1:0", None);
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    let ask = |signpost: &Signpost| {
        let mut visitor = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
        assert_eq!(visitor.request("GET", "/", &[("Host", "site.test")]).status, 302);
        let mut visitor = Connection::to(signpost.upgrade.unwrap());
        assert_eq!(visitor.request("GET", "/", &[("Host", "site.test")]).status, 308);
    };
    ask(&old);
    let next = start(&old.admin.to_string(), Some("--takeover"));
    assert!(old.wait().success());
    assert_eq!((next.traffic, next.tls, next.upgrade), (old.traffic, old.tls, old.upgrade));
    ask(&next);
}

#[test]
fn what_the_operator_has_set_stays_set() {
    let file = settings_file(
        "[pools.p]\nhealth = { kind = 'none' }\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001/a' }, \
         { id = 'b', url = 'http://127.0.0.1:9001/b' }, { id = 'c', url = 'http://127.0.0.1:9001/c' }, \
         { id = 'd', url = 'http://127.0.0.1:9001/d' }]",
    );
    let file = file.path().to_str().unwrap();
    let mut old = Signpost::start(&["--settings", file]);
    let changes =
        [("a", r#"{"admin":"maintenance"}"#), ("b", r#"{"weight":0}"#), ("d", r#"{"admin":"draining"}"#)];
    for (backend, change) in changes {
        let mut operator = Connection::to(old.admin);
        let head = format!("PATCH /api/v1/pools/p/backends/{backend} HTTP/1.1\r\nHost: localhost\r\n");
        let length = change.len();
        let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{change}");
        operator.send((head + &rest).as_bytes());
        let answer = operator.read_answer().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let drained =
        |of: &Signpost| of.metric("signpost_backend_drained_timestamp_seconds", &[("backend", "d")]);
    let drained_before = drained(&old);
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let began = now();
    wait_until("the second is over", || now() > began);
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let shared = ["--listen", &traffic, "--admin", &admin, "--takeover"];
    let mut next = Signpost::start_command(&mut command([&["--settings", file], &shared[..]].concat()));
    assert!(old.wait().success());
    for _ in 0..10 {
        assert_eq!(next.get("/").location(), "http://127.0.0.1:9001/c/");
    }
    assert_eq!(drained(&next), drained_before, "it has been draining for as long as it has");
    // Where they are no more, nothing is left of it.
    let last = Signpost::start_command(&mut command([&BACKEND[..], &shared].concat()));
    assert!(next.wait().success());
    assert_eq!(last.get("/").status, 302);
}

#[test]
fn a_successor_that_cannot_serve_changes_nothing() {
    let mut old = old(2);
    let address = old.traffic.to_string();

    let wrong = settings_file("[pools.p]\nstrategy = 'x'");
    let output = successor(&old, &[&address]).args(["--settings", wrong.path().to_str().unwrap()]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let output = successor(&old, &[&address, &taken]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("can't listen on {taken}")), "{}", stderr(&output));

    // One that speaks nonsense, one of another time, one that dies with the listeners in its hands.
    stranger(old.admin).tell(b"\xffnonsense");
    let refused = stranger(old.admin).say(br#"{"say":"hello","protocol":99,"version":"9.0.0","pid":1}"#);
    assert!(refused.contains("protocol 99"), "{refused}");
    let listed = stranger(old.admin).say(HELLO);
    assert!(listed.contains(&format!(r#"{{"kind":"http","address":"{address}""#)), "{listed}");
    assert!(listed.contains(&format!(r#"{{"kind":"admin","address":"{}""#, old.admin)), "{listed}");

    assert_eq!((old.get("/").status, old.admin_get("/readyz").status), (302, 200));
    let next = Signpost::start_command(&mut successor(&old, &[&address]));
    assert!(old.wait().success(), "it can be asked again");
    assert_eq!(next.get("/").status, 302);
}

#[test]
fn what_a_successor_was_told_stays_true_while_it_starts() {
    let settings = |more: &str| {
        format!(
            "[server]\nwatch_interval = '0s'\nlisten = ['127.0.0.1:0']\n{more}[admin]\nlisten = '127.0.0.1:0'\n\
             [pools.p]\nbackends = [{{ id = 'a', url = 'http://127.0.0.1:9001' }}]"
        )
    };
    let file = settings_file(&settings(""));
    let old = Signpost::start_command(&mut command(["--settings", file.path().to_str().unwrap()]));
    let starting = stranger(old.admin);
    assert!(starting.say(HELLO).contains("sockets"));
    // The operator is told to wait, and so is a change of listeners.
    let change = || {
        let body = r#"{"admin":"draining"}"#;
        let (host, length) = (old.admin.to_string(), body.len().to_string());
        let mut operator = Connection::to(old.admin);
        let head = "PATCH /api/v1/pools/p/backends/a HTTP/1.1\r\nContent-Type: application/json\r\n";
        operator.send(format!("{head}Host: {host}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
        operator.read_answer().unwrap().status
    };
    assert_eq!(change(), 503);
    std::fs::write(file.path(), settings("limits = { max_target_bytes = '64B' }\n")).unwrap();
    old.signal("HUP");
    let long = format!("/{}", "x".repeat(100));
    assert_eq!((change(), old.get(&long).status), (503, 302));
    // It dies, and all that has waited happens.
    drop(starting);
    old.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], 1.0);
    assert_eq!((change(), old.get(&long).status), (200, 414));
}

/// Somebody who speaks to a running one by hand.
struct Stranger(OwnedFd);

fn stranger(admin: SocketAddr) -> Stranger {
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
    let name = format!("signpost/{admin}");
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    Stranger(socket)
}

const HELLO: &[u8] = br#"{"say":"hello","protocol":1,"version":"0.1.0","pid":1}"#;

impl Stranger {
    fn tell(&self, packet: &[u8]) {
        send(&self.0, packet, SendFlags::empty()).unwrap();
    }

    /// What comes back; descriptors that come with it are thrown away by the kernel.
    fn hear(&self) -> String {
        let mut answer = vec![0; 64 << 10];
        let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::empty()).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    fn say(&self, packet: &[u8]) -> String {
        self.tell(packet);
        self.hear()
    }
}

#[test]
fn with_nobody_to_replace_it_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = |admin: &str| {
        let output =
            run([&BACKEND[..], &["--listen", "127.0.0.1:0", "--admin", admin, "--takeover"]].concat());
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let said = flags(&free);
    assert!(said.contains(&free) && said.contains("nobody") && said.contains("without --takeover"), "{said}");
    assert!(flags("127.0.0.1:0").contains("name its port"));

    // And without it, a second one says how.
    let first = old(1);
    let output =
        run([&BACKEND[..], &["--listen", "127.0.0.1:0", "--admin", &first.admin.to_string()]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("add --takeover"), "{}", stderr(&output));
}

#[test]
fn one_that_is_told_to_leave_can_be_replaced_meanwhile() {
    let mut command = command(BACKEND);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut old = Signpost::start_command(command.env("SIGNPOST__SERVER__SHUTDOWN_DELAY", "1h"));
    old.signal("TERM");
    wait_until("it is not ready", || old.admin_get("/readyz").status == 503);
    let next = Signpost::start_command(&mut successor(&old, &[&old.traffic.to_string()]));
    assert!(old.wait().success());
    assert_eq!((next.get("/").status, next.admin_get("/readyz").status), (302, 200));
}

#[test]
fn a_successor_goes_on_deferring_connections() {
    let settings =
        "[server]\ntcp_defer_accept = '60s'\nworkers = 1\n[pools.p]\nbackends = ['http://127.0.0.1:9001']";
    let mut old = Signpost::with_settings(settings);
    let file = settings_file(settings);
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let args =
        ["--settings", file.path().to_str().unwrap(), "--listen", &traffic, "--admin", &admin, "--takeover"];
    let next = Signpost::start_command(&mut command(args));
    assert!(old.wait().success(), "{}", old.log());
    let _silent = TcpStream::connect(next.traffic).unwrap();
    // The one worker has accepted what came before this request.
    let mut asking = next.connect();
    assert_eq!(asking.request("GET", "/", &[]).status, 302);
    assert_eq!(next.metric("signpost_connections", &[("listener", &traffic)]), 1.0);
}
