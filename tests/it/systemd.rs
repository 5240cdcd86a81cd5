//! What systemd is told (`sd_notify`), and the sockets it passes (`LISTEN_FDS`).

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use crate::harness::{PATIENCE, Signpost, command, settings_file, skipped, stderr};

const BACKEND: [&str; 2] = ["--backend", "http://127.0.0.1:9001"];

/// A service manager. It reads at once, as systemd does: a queue has room for few messages.
struct Manager(mpsc::Receiver<String>);

impl Manager {
    fn new(socket: UnixDatagram) -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut message = vec![0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                if sender.send(String::from_utf8_lossy(&message[..length]).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("a message")
    }

    /// The next message that is no sign of life.
    fn next_news(&self) -> String {
        std::iter::repeat_with(|| self.next()).find(|message| message != "WATCHDOG=1").unwrap()
    }
}

#[test]
fn the_manager_hears_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("notify");
    let manager = Manager::new(UnixDatagram::bind(&place).unwrap());
    let file =
        settings_file("[server]\nwatch_interval = '0s'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']");
    let args = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--settings"];
    let mut command = command(args);
    command.arg(file.path()).env("NOTIFY_SOCKET", &place).env("WATCHDOG_USEC", "20000");
    let mut signpost = Signpost::start_command(&mut command);
    let ready =
        format!("READY=1\nSTATUS=serving 1 pool on {}; admin on {}", signpost.traffic, signpost.admin);
    assert_eq!(manager.next_news(), ready);

    for (settings, status) in [
        ("[pools.p]\nbackends = []\n[nonsense]", format!("{ready}; the last reload failed, see the log")),
        ("[server]\nwatch_interval = '0s'\n[pools.p]\nbackends = ['http://127.0.0.1:9002']", ready.clone()),
    ] {
        std::fs::write(file.path(), settings).unwrap();
        signpost.signal("HUP");
        let reloading = manager.next_news();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.next_news(), status);
    }

    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    signpost.signal("TERM");
    assert!(manager.next_news().starts_with("STOPPING=1\n"));
    assert!(signpost.wait().success());
}

#[test]
fn a_successor_becomes_the_main_process() {
    let name = format!("signpost-test-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&name).unwrap();
    let manager = Manager::new(UnixDatagram::bind_addr(&address).unwrap());
    let start = |flags: &[&str]| {
        let mut command = command([&BACKEND[..], flags].concat());
        // For another process: nobody waits for signs of life of these.
        command
            .env("NOTIFY_SOCKET", format!("@{name}"))
            .env("WATCHDOG_USEC", "1000")
            .env("WATCHDOG_PID", "1");
        Signpost::start_command(&mut command)
    };
    let mut old = start(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(manager.next().starts_with("READY=1\n"));
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let mut next = start(&["--listen", &traffic, "--admin", &admin, "--takeover"]);
    assert_eq!(manager.next(), format!("MAINPID={}", next.pid()));
    assert!(manager.next().starts_with("READY=1\n"));
    assert!(old.wait().success());
    // The old one did not say that the service is stopping; this one does.
    next.signal("TERM");
    assert!(next.wait().success());
    assert!(manager.next().starts_with("STOPPING=1\n"));
    // Sent by this test after both have ended: nothing came in between.
    UnixDatagram::unbound().unwrap().send_to_addr(b"the end", &address).unwrap();
    assert_eq!(manager.next(), "the end");
}

#[test]
fn a_notify_socket_that_cannot_be_is_said() {
    let output = command(BACKEND).env("NOTIFY_SOCKET", "run/notify").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("NOTIFY_SOCKET is \"run/notify\""), "{}", stderr(&output));
}

/// A command that is started as systemd does it: one socket in descriptor 3, or two in 3 and 4. They travel as
/// standard input and output, and the shell puts them into place.
fn activated(sockets: [&TcpListener; 2], count: usize, names: &str, args: &[&str]) -> Command {
    let script = "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let stdio = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_signpost")]).args(BACKEND).args(args).env_clear();
    command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
    command.stdin(stdio(sockets[0])).stdout(stdio(sockets[1]));
    command
}

fn bound() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[test]
fn passed_sockets_serve_the_addresses_that_name_them() {
    let ((http, http_address), (admin, admin_address)) = (bound(), bound());
    let args = ["--listen", &http_address, "--admin", &admin_address];
    // The order says nothing, and neither does a name that is none of ours.
    let mut command = activated([&admin, &http], 2, "signpost.socket:", &args);
    let mut signpost = Signpost::start_with_stdout(command.env("SIGNPOST__SERVER__WORKERS", "3"));
    assert_eq!((signpost.traffic.to_string(), signpost.admin.to_string()), (http_address, admin_address));
    for _ in 0..20 {
        assert_eq!(signpost.get("/").status, 302);
    }
    assert_eq!(signpost.admin_get("/readyz").status, 200);

    // It leaves, systemd holds the sockets: whoever comes waits for the next one, which is given them again.
    signpost.signal("TERM");
    assert!(signpost.wait().success());
    let mut waiting = signpost.connect();
    waiting.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let next = Signpost::start_with_stdout(&mut command);
    assert_eq!(waiting.read_answer().expect("an answer").status, 302);
    // What systemd passed can be handed over like any other.
    let args = ["--listen", &next.traffic.to_string(), "--admin", &next.admin.to_string(), "--takeover"];
    let last = Signpost::start_command(&mut crate::harness::command([&BACKEND[..], &args].concat()));
    assert_eq!(last.get("/").status, 302);
}

#[test]
fn a_name_stands_for_a_setting_and_the_rest_is_bound() {
    let ((http, http_address), (other, _)) = (bound(), bound());
    let args = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let signpost = Signpost::start_with_stdout(&mut activated([&http, &other], 1, "http", &args));
    assert_eq!(signpost.traffic.to_string(), http_address);
    assert_eq!((signpost.get("/").status, signpost.admin_get("/readyz").status), (302, 200));
}

#[test]
fn a_passed_socket_that_cannot_be_used_is_an_error() {
    let ((http, http_address), (other, other_address)) = (bound(), bound());
    let fails = |command: &mut Command| -> String {
        let output: Output = command.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let args = ["--listen", &http_address, "--admin", "127.0.0.1:0"];
    let said = fails(&mut activated([&http, &other], 2, "", &args));
    let expected =
        format!("can't listen on {other_address}: systemd passed a socket for it, but no listener");
    assert!(said.contains(&expected), "{said}");
    let said = fails(&mut activated([&http, &other], 2, "admin:admin", &args));
    assert!(said.contains("systemd passed a socket for it, but admin.listen has one already"), "{said}");
    let said = fails(&mut activated([&http, &other], 3, "", &args));
    assert!(said.contains("socket 2 of systemd"), "{said}");

    // Sockets for somebody else are not looked at.
    let mut others = command(BACKEND);
    others.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let signpost = Signpost::start_command(others.env("LISTEN_FDS", "2").env("LISTEN_PID", "1"));
    assert_eq!(signpost.get("/").status, 302);
}

#[test]
fn the_units_are_in_order_and_the_service_is_shut_in() {
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).output();
    if analyze(&["--version"]).is_err() {
        return skipped("systemd-analyze is not installed; the units were not checked");
    }
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let dir = tempfile::tempdir().unwrap();
    for unit in ["signpost.service", "signpost.socket"] {
        // The program that is named must be there.
        let text = std::fs::read_to_string(units.join(unit)).unwrap();
        let text = text.replace("/usr/bin/signpost", env!("CARGO_BIN_EXE_signpost"));
        std::fs::write(dir.path().join(unit), text).unwrap();
    }
    let unit = |name| dir.path().join(name).to_str().unwrap().to_owned();
    let service = unit("signpost.service");
    let verified = analyze(&["verify", "--man=no", &service, &unit("signpost.socket")]).unwrap();
    assert!(verified.status.success() && stderr(&verified).is_empty(), "{}", stderr(&verified));
    // 2.0 of 10, where a service without a word is at 9.6.
    let exposed = analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", &service]).unwrap();
    assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
}
