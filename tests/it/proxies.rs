//! A visitor's address and scheme where a proxy stands in front.

use serde_json::Value;

use crate::harness::Signpost;

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

    let signpost = start("trusted_proxies = ['127.0.0.0/8']\nforwarded_by = 'forwarded'");
    let forwarded = [("Forwarded", "for=6.6.6.6, for=\"[2001:db8::1]:9\";proto=https, for=127.0.0.2")];
    assert_eq!(visit(&signpost, &forwarded), ("2001:db8::1".to_owned(), true));
    assert_eq!(visit(&signpost, &SPOOF), ("127.0.0.1".to_owned(), false));
}
