//! The one promise that keeps a dispatcher from being an open redirect, tried on targets nobody thought of.

use http::{Request, Uri};
use proptest::prelude::*;

use crate::fuzz_seeds::targets::{respond, worker};

/// Raw bytes up to a `#`, those from 0x80 up percent-encoded: what DESIGN promises of path and query.
fn encoded(target: &str) -> String {
    let kept = target.split('#').next().unwrap();
    kept.bytes().map(|b| if b < 0x80 { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Targets of every form, with the characters that have fooled redirectors before.
fn targets() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/".to_owned()),
        Just("\\".to_owned()),
        Just("..".to_owned()),
        Just("%2e%2E".to_owned()),
        Just(".".to_owned()),
        Just("//evil.example".to_owned()),
        Just("@evil.example".to_owned()),
        Just(":80".to_owned()),
        Just("?".to_owned()),
        Just("#".to_owned()),
        Just("%0d%0a".to_owned()),
        Just("http://".to_owned()),
        Just("é嘊".to_owned()),
        "[!-~]{0,6}",
        "\\PC{0,4}",
    ];
    let any = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop_oneof![any.clone().prop_map(|rest| format!("/{rest}")), any]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn every_accepted_target_leads_to_the_backend(target in targets(), with_base in any::<bool>()) {
        let base = if with_base { "https://b.example:8443/base/path" } else { "https://b.example:8443" };
        let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
        let request = Request::get(uri).header("host", "site.example").body(()).unwrap();
        let answer = respond(&worker(base, false), &request);
        if answer.status() != 302 {
            prop_assert_eq!(answer.status(), 400);
            return Ok(());
        }
        let location = answer.headers()["location"].to_str().unwrap();

        // To a browser: the backend's authority, and never outside the base's path.
        let url = url::Url::parse(location).unwrap();
        prop_assert_eq!((url.scheme(), url.host_str(), url.port()), ("https", Some("b.example"), Some(8443)));
        prop_assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None));
        if with_base {
            prop_assert!(url.path().starts_with("/base/path"), "{}", url);
        }

        // To the eye: the base, and the request's bytes.
        let rest = location.strip_prefix(base).unwrap();
        let expected = encoded(&target);
        match expected.strip_prefix("http://").or(expected.strip_prefix("https://")) {
            None => prop_assert_eq!(rest, expected),
            Some(absolute) => {
                let path = &absolute[absolute.find(['/', '?']).unwrap_or(absolute.len())..];
                let slash = if path.starts_with('/') { "" } else { "/" };
                prop_assert_eq!(rest, format!("{slash}{path}"));
            }
        }
    }
}
