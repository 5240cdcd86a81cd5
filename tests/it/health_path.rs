//! `server.health_path`: what a balancer in front reads.

use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;

use crate::backend::{Backend, Does};
use crate::certificates::{Site, client, connect};
use crate::harness::{Connection, Signpost, command, settings_file, wait_until};
use crate::support::backend::free_address;

const POOL: &str = "[pools.p]\nhosts = ['site.example']\nbackends = ['http://127.0.0.1:9001']\n";

fn with_path(server: &str) -> Signpost {
    Signpost::with_settings(&format!("[server]\nhealth_path = '/health'\n{server}\n{POOL}"))
}

fn sent(address: SocketAddr, bytes: &[u8]) -> Connection {
    let mut connection = Connection::to(address);
    connection.send(bytes);
    connection
}

#[test]
fn it_is_off_by_default() {
    let signpost = Signpost::with_settings(POOL);
    assert_eq!(signpost.get("/health").location(), "http://127.0.0.1:9001/health");
}

#[test]
fn every_form_of_check_is_answered_and_no_other_path() {
    let signpost = with_path("");
    for request in [
        "GET /health HTTP/1.1\r\nHost: site.example\r\n",
        "GET /health?deep=1 HTTP/1.1\r\nHost: site.example\r\n",
        "GET /health HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n",
        "GET /health HTTP/1.1\r\nHost: other.example\r\n",
        "GET /health HTTP/1.1\r\nHost: a b\r\n",
        "GET /health HTTP/1.1\r\n",
        "GET /health HTTP/1.0\r\n",
        "GET http://other.example/health HTTP/1.1\r\nHost: site.example\r\n",
        // HAProxy's check, by default.
        "OPTIONS /health HTTP/1.0\r\n",
        "OPTIONS /health HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n",
        "POST /health HTTP/1.1\r\nHost: site.example\r\nContent-Length: 1\r\n",
    ] {
        let answer = signpost.raw(format!("{request}\r\n").as_bytes()).unwrap_or_else(|| panic!("{request}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "ready\n"), "{request}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    let head = signpost.request("HEAD", "/health", &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("6")));
    // A balancer may keep its connection.
    let mut kept = signpost.connect();
    for _ in 0..3 {
        assert_eq!(kept.request("GET", "/health", &[("Host", "x")]).status, 200);
    }
    for path in ["/health/", "/healthy", "/Health", "/%68ealth", "/", "/x/health", "//health"] {
        assert_eq!(signpost.get(path).location(), format!("http://127.0.0.1:9001{path}"));
    }
}

#[test]
fn every_listener_for_clients_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let signpost = Signpost::with_listeners(&format!(
        "[server]\nlisten = ['127.0.0.1:0', {{ address = '127.0.0.2:0', proxy_protocol = true }}]\n\
         trusted_proxies = ['127.0.0.0/8']\nhealth_path = '/health'\n[server.tls]\nlisten = ['127.0.0.1:0']\n\
         redirect_listen = ['127.0.0.1:0']\ncertificates = [{}]\n{POOL}",
        site.toml()
    ));
    assert_eq!(signpost.get("/health").status, 200);
    let upgrade = signpost.upgrade.unwrap();
    assert_eq!(Connection::to(upgrade).request("GET", "/health", &[]).status, 200);
    assert_eq!(Connection::to(upgrade).request("GET", "/healthy", &[]).status, 308);
    let metrics = signpost.metrics();
    let start = metrics.find("listener=\"127.0.0.2:").unwrap() + "listener=\"".len();
    let proxied = metrics[start..].split('"').next().unwrap().parse().unwrap();
    for header in ["PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "PROXY UNKNOWN\r\n"] {
        let mut checked = sent(proxied, format!("{header}GET /health HTTP/1.0\r\n\r\n").as_bytes());
        assert_eq!(checked.read_answer().expect("an answer").status, 200, "{header}");
    }
    let config = Arc::new(client(&[&site], &["http/1.1"]));
    let mut by_tls = connect(signpost.tls.unwrap(), "site.test", &config).unwrap();
    assert_eq!(by_tls.request("GET", "/health", &[("Host", "10.0.0.1")]).status, 200);
    // Plain HTTP on a TLS listener is a mistake of the balancer's.
    assert_eq!(
        sent(signpost.tls.unwrap(), b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").read_answer().unwrap().status,
        400
    );
    // The admin listener has /readyz.
    assert_eq!(signpost.admin_get("/health").status, 404);
}

#[test]
fn checks_are_neither_limited_nor_logged_nor_redirects() {
    let signpost = with_path("[server.limits]\nrequests_per_second_per_client = 1");
    for _ in 0..50 {
        assert_eq!(signpost.get("/health").status, 200);
    }
    assert_eq!(signpost.get("/logged").status, 302);
    assert!(signpost.next_line().contains("\"path\":\"/logged\""));
    assert_eq!(signpost.get("/limited").status, 429);
    let responses = |code| signpost.metric("signpost_responses_total", &[("code", code)]);
    assert_eq!((responses("200"), responses("302"), responses("429")), (50.0, 1.0, 1.0));
    let metrics = signpost.metrics();
    let sum = |name: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    assert_eq!((sum("signpost_redirects_total"), sum("signpost_rejected_requests_total")), (1.0, 1.0));
}

#[test]
fn it_follows_readiness() {
    let mut signpost = with_path("shutdown_delay = '1h'");
    let mut kept = signpost.connect();
    assert_eq!(kept.request("GET", "/health", &[]).status, 200);
    signpost.signal("TERM");
    wait_until("it is leaving", || signpost.get("/health").status == 503);
    assert_eq!(signpost.admin_get("/readyz").status, 503);
    let answer = kept.request("GET", "/health", &[]);
    assert_eq!((answer.status, answer.text().as_str()), (503, "leaving\n"));
    assert_eq!(signpost.request("HEAD", "/health", &[]).status, 503);
    assert_eq!(signpost.get("/").status, 302, "clients are still served");
    assert!(signpost.metric("signpost_responses_total", &[("code", "503")]) >= 3.0);
    signpost.signal("TERM");
    assert_eq!(signpost.wait().code(), Some(1));
}

#[test]
fn a_process_that_leaves_before_it_was_ready_says_so() {
    let silent = Backend::start(Does::Hang);
    let [traffic, admin] = [(); 2].map(|()| free_address());
    let file = settings_file(&format!(
        "[server]\nlisten = ['{traffic}']\nhealth_path = '/health'\n[admin]\nlisten = '{admin}'\n[pools.p]\n\
         backends = ['{}']\n[pools.p.health]\nkind = 'http'\ntimeout = '1h'\nstartup_timeout = '1h'",
        silent.url()
    ));
    let mut command = command(["--settings", file.path().to_str().unwrap()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it probes", || !silent.heads().is_empty());
    let mut waiting = sent(traffic, b"GET /health HTTP/1.1\r\n\r\n");
    let kill = format!("kill -TERM {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(waiting.read_answer().expect("an answer").status, 503);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reload_sets_it() {
    let file = settings_file(POOL);
    let args =
        ["--settings", file.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let signpost = Signpost::start_command(&mut command(args));
    assert_eq!(signpost.get("/health").status, 302);
    std::fs::write(file.path(), format!("[server]\nhealth_path = '/health'\n{POOL}")).unwrap();
    signpost.signal("HUP");
    wait_until("it is answered", || signpost.get("/health").status == 200);
    assert!(TcpStream::connect(signpost.traffic).is_ok());
}
