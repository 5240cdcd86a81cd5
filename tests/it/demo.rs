//! `signpost demo`: what the README promises of it.

use std::net::TcpListener;

use crate::harness::{Connection, Signpost, command, run};

#[test]
fn nine_requests_go_to_each_of_three_backends_three_times() {
    let mut command = command(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut signpost = Signpost::start_command(&mut command);
    let mut locations: Vec<_> =
        (0..9).map(|_| signpost.request("HEAD", "/x", &[]).location().to_owned()).collect();
    locations.sort();
    let mut backends = locations.clone();
    backends.dedup();
    assert_eq!(backends.len(), 3);
    assert!(locations.chunks(3).all(|three| three.iter().all(|location| *location == three[0])));

    let authority = backends[0].strip_prefix("http://").unwrap().strip_suffix("/x").unwrap();
    let page = Connection::to(authority.parse().unwrap()).request("GET", "/x", &[]).text();
    assert!(page.starts_with("This is backend ") && page.contains("/x"), "{page}");

    let invitation = signpost.log();
    assert!(invitation.contains(&format!("curl -L http://{}/", signpost.traffic)), "{invitation}");
    assert!(invitation.contains(&format!("http://{}/ ", signpost.admin)), "{invitation}");
    signpost.signal("INT");
    assert!(signpost.wait().success());
}

#[test]
fn it_steps_aside_where_8080_is_taken() {
    // Somebody else may have it already; then nothing need be taken here.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let signpost = Signpost::start_command(&mut command(["demo", "--backends", "2", "--pin"]));
    let port = signpost.traffic.port();
    assert!((8081..8180).contains(&port), "{port}");
    let said = signpost.log();
    assert!(said.contains(&format!("port 8080 is in use, using {port}\n")), "{said}");
    assert!(signpost.get("/").cookie().is_some());
}

#[test]
fn asked_for_a_taken_port_it_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _held = TcpListener::bind(taken).unwrap();
    let output = run(["demo", "--listen", &taken.to_string(), "--admin", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
}
