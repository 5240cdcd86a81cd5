//! The pin cookie, through the front door.

use crate::harness::{Answer, Signpost};

const SECRET: &str = "an old secret of thirty-two bytes or more";
const NEWER: &str = "a new secret, also of thirty-two bytes or more";

fn settings(pin: &str, backends: &str) -> String {
    format!("[pools.p]\nbackends = [{backends}]\n[pools.p.pin]\n{pin}\n")
}

fn start(secrets: &[&str], more: &str, ids: &[&str]) -> Signpost {
    let backends: Vec<_> =
        ids.iter().map(|id| format!("{{ id = '{id}', url = 'http://127.0.0.1:9001/{id}' }}")).collect();
    Signpost::with_settings(&settings(&format!("secrets = {secrets:?}\n{more}"), &backends.join(",")))
}

fn visit(signpost: &Signpost, cookie: &str) -> Answer {
    signpost.request("GET", "/", &[("Cookie", cookie)])
}

/// The id of the backend an answer leads to.
fn id(answer: &Answer) -> &str {
    answer.location().split('/').nth(3).unwrap()
}

#[test]
fn a_pinned_visitor_stays_and_gets_its_cookie_once() {
    let signpost = start(&[SECRET], "", &["a", "b", "c"]);
    let first = signpost.get("/");
    let cookie = first.cookie().unwrap().to_owned();
    assert!(cookie.starts_with("signpost_p="));
    let attributes = first.header("set-cookie").unwrap().split_once(';').unwrap().1;
    assert_eq!(attributes, " HttpOnly; SameSite=Lax; Path=/; Max-Age=3600");
    for _ in 0..100 {
        let answer = visit(&signpost, &format!("other=1; {cookie}; more=2"));
        assert_eq!((id(&answer), answer.cookie()), (id(&first), None));
    }
    let pinned = [("backend", id(&first)), ("decision", "pinned")];
    assert_eq!(signpost.metric("signpost_redirects_total", &pinned), 100.0);
    // Pinned clients took no turn: the next new one gets the backend after the first one's.
    let next = [("a", "b"), ("b", "c"), ("c", "a")].into_iter().find(|(before, _)| *before == id(&first));
    assert_eq!(id(&signpost.get("/")), next.unwrap().1);
}

#[test]
fn attributes_follow_the_settings() {
    let signpost = start(
        &[SECRET],
        "cookie = '__Secure-x'\nmax_age = '2m'\nsecure = 'always'\nsame_site = 'none'\ndomain = 'example.com'",
        &["a"],
    );
    let cookie = signpost.get("/").header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("__Secure-x="));
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=None; Path=/; Max-Age=120; Domain=example.com; Secure"),
        "{cookie}"
    );
}

#[test]
fn partitioned_pins_are_secure_and_renewed_with_the_same_attributes() {
    let by_proto = |signpost: &Signpost, cookie: &str, proto: &str| {
        let headers = [("X-Forwarded-Proto", proto), ("Cookie", cookie)];
        signpost.request("GET", "/", &headers)
    };
    let attributes =
        |answer: &Answer| answer.header("set-cookie").map(|c| c.split_once(';').unwrap().1.to_owned());
    let start = |secure: &str| {
        let pin = format!(
            "secrets = ['{SECRET}']\nmax_age = '4s'\nsame_site = 'none'\npartitioned = true\nsecure = '{secure}'"
        );
        let trusted = "[server]\ntrusted_proxies = ['127.0.0.1']\n";
        Signpost::with_settings(&format!("{trusted}{}", settings(&pin, "'http://127.0.0.1:9001/a'")))
    };
    let (plain, secure) = (" HttpOnly; SameSite=None; Path=/; Max-Age=4", "; Secure; Partitioned");
    let auto = start("auto");
    assert_eq!(attributes(&by_proto(&auto, "", "http")).as_deref(), Some(plain));
    let always = start("always");
    assert_eq!(attributes(&by_proto(&always, "", "http")), Some(format!("{plain}{secure}")));
    let first = by_proto(&auto, "", "https");
    assert_eq!(attributes(&first), Some(format!("{plain}{secure}")));
    crate::harness::wait_until("the pin is renewed", || {
        let renewed = attributes(&by_proto(&auto, first.cookie().unwrap(), "https"));
        assert!(renewed.is_none() || renewed == attributes(&first));
        renewed.is_some()
    });
}

#[test]
fn secrets_are_rotated_without_losing_visitors() {
    let before = start(&[SECRET], "", &["a", "b"]);
    let old = before.get_to("/b/").cookie().unwrap().to_owned();
    let after = start(&[NEWER, SECRET], "", &["a", "b"]);
    assert_eq!(id(&visit(&after, &old)), "b");
    let new = after.get("/").cookie().unwrap().to_owned();
    let rejected =
        |signpost: &Signpost| signpost.metric("signpost_pins_rejected_total", &[("reason", "bad_signature")]);
    visit(&before, &new);
    assert_eq!((rejected(&before), rejected(&after)), (1.0, 0.0), "the first secret signs");
}

#[test]
fn a_pin_that_does_not_count_is_replaced_and_its_reason_counted() {
    let ours = start(&[SECRET], "generation = 7", &["a", "b"]);
    let pin_of =
        |signpost: &Signpost| signpost.get("/").cookie().unwrap().split_once('=').unwrap().1.to_owned();
    let first = ours.get("/");
    let good = first.cookie().unwrap().split_once('=').unwrap().1.to_owned();
    let older = pin_of(&start(&[SECRET], "generation = 6", &["a", "b"]));
    let gone = pin_of(&start(&[SECRET], "generation = 7", &["gone"]));
    let forged = pin_of(&start(&[NEWER], "generation = 7", &["a", "b"]));
    let foreign = pin_of(&Signpost::with_settings(
        &settings(
            &format!("secrets = ['{SECRET}']\ngeneration = 7"),
            "{ id = 'a', url = 'http://127.0.0.1:1' }",
        )
        .replace("pools.p", "pools.q"),
    ));
    let mut turned = good.clone().into_bytes();
    turned[50] = if turned[50] == b'A' { b'B' } else { b'A' };
    for (reason, pin) in [
        ("malformed", "x".to_owned()),
        ("malformed", String::new()),
        ("bad_signature", forged),
        ("wrong_pool", foreign),
        ("wrong_generation", older),
        ("unknown_backend", gone),
        ("bad_signature", String::from_utf8(turned).unwrap()),
    ] {
        let before = ours.metric("signpost_pins_rejected_total", &[("reason", reason)]);
        let answer = visit(&ours, &format!("signpost_p={pin}"));
        assert_eq!(answer.status, 302, "{reason}");
        assert!(answer.cookie().is_some(), "{reason}");
        assert_eq!(
            ours.metric("signpost_pins_rejected_total", &[("reason", reason)]),
            before + 1.0,
            "{reason}"
        );
    }
    let reassigned = ["a", "b"]
        .map(|id| ours.metric("signpost_redirects_total", &[("backend", id), ("decision", "reassigned")]));
    assert_eq!(
        reassigned.iter().sum::<f64>(),
        1.0,
        "of these only the pin of a backend that is gone was valid"
    );

    let answer = visit(&ours, &format!("signpost_p=bad; signpost_p={good}"));
    assert_eq!((id(&answer), answer.cookie()), (id(&first), None), "of two pins the valid one counts");
}

#[test]
fn a_pin_is_renewed_after_half_of_its_time() {
    let signpost = start(&[SECRET], "max_age = '4s'", &["a", "b"]);
    let first = signpost.get("/");
    let mut cookie = first.cookie().unwrap().to_owned();
    // Asked all the time, it is renewed before it runs out, and always to the same backend.
    let mut renewed = 0;
    crate::harness::wait_until("the pin was renewed twice", || {
        let answer = visit(&signpost, &cookie);
        assert_eq!(id(&answer), id(&first));
        if let Some(new) = answer.cookie() {
            assert_ne!(new, cookie);
            cookie = new.to_owned();
            renewed += 1;
        }
        renewed == 2
    });
    assert_eq!(signpost.metric("signpost_pins_rejected_total", &[("reason", "expired")]), 0.0);
}

#[test]
fn a_backend_of_weight_0_keeps_its_visitors_and_gets_no_new_ones() {
    let weights = |a: u8| {
        let backends = format!(
            "{{ id = 'a', url = 'http://127.0.0.1:9001/a', weight = {a} }}, {{ id = 'b', url = 'http://127.0.0.1:9001/b' }}"
        );
        Signpost::with_settings(&settings(&format!("secrets = ['{SECRET}']\nmax_age = '2s'"), &backends))
    };
    let to_a = weights(1).get_to("/a/").cookie().unwrap().to_owned();
    let signpost = weights(0);
    assert!((0..10).all(|_| id(&signpost.get("/")) == "b"));
    // Its pins are never renewed, so they run out.
    crate::harness::wait_until("the pin has run out", || {
        let answer = visit(&signpost, &to_a);
        assert!(id(&answer) == "b" || answer.cookie().is_none());
        id(&answer) == "b"
    });
}
