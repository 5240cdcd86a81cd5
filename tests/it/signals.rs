//! What signals do, in every state and every command.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use crate::backend::{Backend, Does};
use crate::harness::{Connection, Signpost, command, settings_file, wait_until};
use crate::support::backend::free_address;

const POOL: &str = "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n";

/// Signals that are ignored, each with a part of what is logged. `SIGXFSZ` is not logged.
const IGNORED: [(&str, Option<&str>); 4] = [
    ("USR1", Some("no log file is open")),
    ("USR2", Some("--takeover")),
    ("ALRM", Some("SIGALRM")),
    ("XFSZ", None),
];

fn kill(signal: &str, pid: u32) {
    let kill = format!("kill -{signal} {pid}");
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Whether a process handles a signal, by its number.
fn handles(pid: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(caught.trim(), 16).is_ok_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[test]
fn other_servers_signals_are_logged_and_ignored() {
    let signpost = Signpost::with_settings(POOL);
    let mut kept = signpost.connect();
    assert_eq!(kept.request("GET", "/", &[]).status, 302);
    for (signal, logged) in IGNORED {
        signpost.signal(signal);
        if let Some(logged) = logged {
            signpost.wait_for_log(logged);
        }
        assert_eq!(kept.request("GET", "/", &[]).status, 302, "{signal} cut a connection off");
    }
}

#[test]
fn ignored_signals_change_nothing_while_it_starts() {
    let silent = Backend::start(Does::Hang);
    let [traffic, admin] = [(); 2].map(|()| free_address());
    let file = settings_file(&format!(
        "[server]\nlisten = ['{traffic}']\n[admin]\nlisten = '{admin}'\n[pools.p]\nbackends = ['{}']\n\
         [pools.p.health]\nkind = 'http'\ntimeout = '1h'\nstartup_timeout = '1h'",
        silent.url()
    ));
    let mut command = command(["--settings", file.path().to_str().unwrap()]);
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    // It waits for the first round of health checks, and handles SIGTERM.
    wait_until("it probes", || !silent.heads().is_empty());
    let mut waiting = Connection::to(traffic);
    waiting.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for (signal, _) in IGNORED.into_iter().chain([("HUP", None)]) {
        kill(signal, child.id());
    }
    kill("QUIT", child.id());
    assert_eq!(waiting.read_answer().expect("an answer").status, 302);
    assert!(child.wait().unwrap().success());
}

#[test]
fn ignored_signals_change_nothing_while_it_drains() {
    let mut signpost = Signpost::with_settings(&format!("[server]\nshutdown_delay = '1h'\n{POOL}"));
    signpost.signal("QUIT");
    wait_until("it is not ready", || signpost.admin_get("/readyz").status == 503);
    for (signal, _) in IGNORED.into_iter().chain([("HUP", None), ("QUIT", None)]) {
        signpost.signal(signal);
        assert_eq!(signpost.get("/").status, 302, "{signal}");
    }
    signpost.wait_for_log("draining already");
    signpost.signal("TERM");
    assert_eq!(signpost.wait().code(), Some(1));
    assert!(signpost.log().contains("ended at once by a second signal"));
}

#[test]
fn quit_drains_as_term_does() {
    let mut signpost = Signpost::with_settings(&format!(
        "[server.limits]\nheader_timeout = '1h'\n[server]\nshutdown_grace = '1h'\n{POOL}"
    ));
    let mut half = signpost.connect();
    half.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
    for _ in 0..20 {
        signpost.get("/");
    }
    signpost.signal("QUIT");
    signpost.wait_for_log("\"signal\":\"SIGQUIT\"");
    wait_until("it accepts no more", || TcpStream::connect(signpost.traffic).is_err());
    half.send(b"\r\n");
    let answer = half.read_answer().expect("an answer while draining");
    assert_eq!((answer.status, answer.header("connection")), (302, Some("close")));
    assert!(signpost.wait().success());
}

#[test]
fn a_demo_ignores_them_too() {
    let args = ["demo", "--backends", "1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut signpost = Signpost::start_command(&mut command(args));
    for (signal, logged) in IGNORED.into_iter().chain([("HUP", Some("nothing to reload"))]) {
        signpost.signal(signal);
        if let Some(logged) = logged {
            signpost.wait_for_log(logged);
        }
        assert_eq!(signpost.get("/").status, 302, "{signal}");
    }
    signpost.signal("QUIT");
    assert!(signpost.wait().success());
}

#[test]
fn commands_that_run_for_a_while_are_not_ended_by_them() {
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = silent.local_addr().unwrap().to_string();
    let healthcheck = ["healthcheck", "--admin", &admin];
    let simulate = ["simulate", "--seeds", "10000"];
    for args in [&healthcheck[..], &simulate] {
        let mut command = command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("it handles SIGUSR1", || handles(child.id(), 10));
        for (signal, _) in IGNORED {
            kill(signal, child.id());
        }
        assert_ne!(ended_by(&mut child), Some(10), "{args:?}");
    }
}

/// Terminates a process, and returns the signal that ended it, if one did. By SIGTERM: a shell has what it runs in the
/// background ignore SIGINT, this test among it.
fn ended_by(child: &mut Child) -> Option<i32> {
    // The lowest pending signal is delivered first, so that those before have been by then.
    kill("TERM", child.id());
    let mut status = None;
    wait_until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().signal()
}

#[test]
fn a_log_file_that_may_not_grow_any_more_costs_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    // The kernel sends SIGXFSZ to a process that writes beyond this limit, which ends it by default.
    let script = format!("ulimit -f 1; exec \"$0\" \"$@\" >'{}'", file.display());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_signpost"), "--backend", "http://127.0.0.1:9001"]);
    shell.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).env_clear().stdin(Stdio::null());
    let mut signpost = Signpost::start_with_stdout(&mut shell);
    let mut asked = 0;
    wait_until("the file is full", || {
        assert_eq!(signpost.get("/").status, 302);
        asked += 1;
        std::fs::metadata(&file).unwrap().len() >= 512 && asked > 20
    });
    assert_eq!(signpost.get("/").status, 302);
    signpost.signal("TERM");
    assert!(signpost.wait().success());
}
