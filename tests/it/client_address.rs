//! The client's address and scheme that a trusted proxy sends in header fields.

use serde_json::Value;

use crate::harness::{Connection, Signpost};

const SPOOF: [(&str, &str); 2] = [("X-Forwarded-For", "192.0.2.9"), ("X-Forwarded-Proto", "https")];

fn start(server: &str) -> Signpost {
    Signpost::with_settings(&format!(
        "[server]\n{server}\n[pools.p]\nbackends = ['http://127.0.0.1:9001']\npin = {{}}"
    ))
}

/// The client of the next access line, and whether the pin was `Secure`.
fn visit(signpost: &Signpost, headers: &[(&str, &str)]) -> (String, bool) {
    let answer = signpost.request("GET", "/", headers);
    let line: Value = serde_json::from_str(&signpost.next_line()).unwrap();
    (line["client"].as_str().unwrap().to_owned(), answer.header("set-cookie").unwrap().ends_with("; Secure"))
}

#[test]
fn a_stranger_s_word_changes_nothing() {
    for server in ["", "trusted_proxies = ['10.0.0.0/8']"] {
        assert_eq!(visit(&start(server), &SPOOF), ("127.0.0.1".to_owned(), false));
    }
}

#[test]
fn a_trusted_proxy_s_word_counts() {
    let signpost = start("trusted_proxies = ['127.0.0.1']");
    assert_eq!(visit(&signpost, &SPOOF), ("192.0.2.9".to_owned(), true));
    assert_eq!(visit(&signpost, &[]), ("127.0.0.1".to_owned(), false));

    let signpost = start("trusted_proxies = ['127.0.0.0/8']\nclient_ip_header = 'forwarded'");
    let forwarded = [("Forwarded", "for=6.6.6.6, for=\"[2001:db8::1]:9\";proto=https, for=127.0.0.2")];
    assert_eq!(visit(&signpost, &forwarded), ("2001:db8::1".to_owned(), true));
    assert_eq!(visit(&signpost, &SPOOF), ("127.0.0.1".to_owned(), false));
}

#[test]
fn a_scheme_counts_without_an_address() {
    for (server, headers) in [
        ("", &[("X-Forwarded-Proto", "https")][..]),
        ("", &[("X-Forwarded-Proto", "http, HTTPS ,")]),
        ("", &[("X-Forwarded-For", ""), ("X-Forwarded-Proto", "https")]),
        ("", &[("X-Forwarded-For", "unknown"), ("X-Forwarded-Proto", "https")]),
        ("client_ip_header = 'forwarded'", &[("Forwarded", "proto=https")]),
        ("client_ip_header = 'forwarded'", &[("Forwarded", "for=_hidden; proto=\"https\"")]),
    ] {
        let signpost = start(&format!("trusted_proxies = ['127.0.0.1']\n{server}"));
        assert_eq!(visit(&signpost, headers), ("127.0.0.1".to_owned(), true), "{headers:?}");
    }
}

#[test]
fn empty_list_items_do_not_end_the_walk() {
    let signpost = start("trusted_proxies = ['127.0.0.0/8']");
    for list in ["192.0.2.9,", ",192.0.2.9", "6.6.6.6, 192.0.2.9, ,127.0.0.2,,", "192.0.2.9,\t, 127.0.0.2"] {
        let headers = [("X-Forwarded-For", list), ("X-Forwarded-Proto", "https,")];
        assert_eq!(visit(&signpost, &headers), ("192.0.2.9".to_owned(), true), "{list:?}");
    }
    let two_lines =
        [("X-Forwarded-For", "192.0.2.9"), ("X-Forwarded-For", ""), ("X-Forwarded-Proto", "https")];
    assert_eq!(visit(&signpost, &two_lines), ("192.0.2.9".to_owned(), true));
}

#[test]
fn a_request_that_came_over_tls_is_not_redirected_to_https_again() {
    let signpost = Signpost::with_settings(
        "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.tls]\nredirect_listen = ['127.0.0.1:0']\n\
         [pools.p]\nbackends = ['http://127.0.0.1:9001']",
    );
    let ask = |headers: &[(&str, &str)]| {
        let answer = Connection::to(signpost.upgrade.unwrap()).request("GET", "/x", headers);
        (answer.status, answer.location().to_owned())
    };
    let https = (308, "https://site.example/x".to_owned());
    assert_eq!(ask(&[]), https);
    assert_eq!(ask(&[("X-Forwarded-Proto", "http")]), https);
    assert_eq!(ask(&[("X-Forwarded-Proto", "https")]), (302, "http://127.0.0.1:9001/x".to_owned()));
}
