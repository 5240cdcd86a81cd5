//! What the admin listener answers while others crowd it.

use std::net::SocketAddr;
use std::process::Command;

use crate::harness::{Connection, Signpost, command};

const POOL: &str = "[pools.p]\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001' }]\n";

/// More connections than the listener serves at once, several times over.
const CROWD: usize = 600;

/// A change whose body does not come.
const SLOW_CHANGE: &str = "PATCH /api/v1/pools/p/backends/a HTTP/1.1\r\nHost: localhost\r\n\
    Content-Type: application/json\r\nContent-Length: 12\r\n\r\n";

fn crowd(address: SocketAddr, sent: &str) -> Vec<Connection> {
    let connect = |_| {
        let mut connection = Connection::to(address);
        connection.send(sent.as_bytes());
        connection
    };
    (0..CROWD).map(connect).collect()
}

/// Asks what orchestrators and Prometheus ask. A connection that is not answered within 30 s fails the test; each of the
/// crowds could keep the listener busy for longer.
fn is_alive(signpost: &Signpost) {
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(signpost.admin_get(path).status, 200, "{path}");
    }
}

#[test]
fn liveness_readiness_and_metrics_stay_reachable() {
    let signpost = Signpost::with_settings(POOL);
    let slow_readers = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40);
    let slow_posts = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n";
    let mut all = Vec::new();
    for sent in
        ["", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n", "GET", SLOW_CHANGE, &slow_readers, slow_posts]
    {
        all.push(crowd(signpost.admin, sent));
        is_alive(&signpost);
    }
    is_alive(&signpost);
    assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "admin_connections")]) > 0.0);
    assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "evicted")]) > 0.0);
}

#[test]
fn liveness_readiness_and_metrics_stay_reachable_with_few_descriptors() {
    for limit in [96, 256] {
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let mut sh = Command::new("sh");
        sh.args(["-c", &script]).arg(command::<&str>([]).get_program());
        sh.args(["--backend", "http://127.0.0.1:9001", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let signpost = Signpost::start_command(&mut sh);
        let half = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n";
        let _crowds: Vec<_> = [signpost.admin, signpost.traffic, signpost.admin]
            .into_iter()
            .map(|address| {
                let crowd = crowd(address, half);
                is_alive(&signpost);
                crowd
            })
            .collect();
        assert!(signpost.metric("signpost_limit_hits_total", &[("limit", "evicted")]) > 0.0, "{limit}");
    }
}

#[test]
fn requests_of_the_api_that_take_their_time_leave_room_for_others() {
    let signpost = Signpost::with_settings(POOL);
    let limited = || signpost.metric("signpost_limit_hits_total", &[("limit", "admin_requests")]);
    let slow = |count: usize| {
        let mut slow: Vec<_> = (0..count).map(|_| Connection::to(signpost.admin)).collect();
        slow.iter_mut().for_each(|connection| connection.send(SLOW_CHANGE.as_bytes()));
        slow
    };
    let mut served = slow(32);
    // One thread serves all of them in turn: these heads have been read.
    is_alive(&signpost);
    for path in ["/", "/api/v1/pools", "/api/v1/nothing"] {
        let rejected = Connection::to(signpost.admin).request("GET", path, &[("Host", "localhost")]);
        assert_eq!((rejected.status, rejected.header("retry-after")), (503, Some("1")), "{path}");
    }
    assert_eq!(limited(), 3.0);
    is_alive(&signpost);
    for connection in &mut served {
        connection.send(b"{\"weight\":2}");
        assert_eq!(connection.read_answer().expect("an answer").status, 200);
    }
    assert_eq!(
        Connection::to(signpost.admin).request("GET", "/api/v1/pools", &[("Host", "localhost")]).status,
        200
    );
    assert_eq!(limited(), 3.0);
}
