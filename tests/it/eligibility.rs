//! Who may be picked: by health, priority, slow start, and what becomes of pins.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use crate::backend::{Backend, Does};
use crate::harness::{Connection, Signpost, settings_file, wait_until};

const FAST: &str = "[pools.p.health]\nkind = 'tcp'\ninterval = '50ms'\nrise = 2\nfall = 2\n";

fn backends(backends: &[(&Backend, &str)]) -> String {
    let tables: Vec<_> = (backends.iter().enumerate())
        .map(|(index, (backend, more))| {
            let id = char::from(b'a' + index as u8);
            format!("{{ id = '{id}', url = '{}/{id}'{more} }}", backend.url())
        })
        .collect();
    format!("backends = [{}]\n", tables.join(","))
}

/// Where `count` visitors are sent.
fn sent(signpost: &Signpost, count: usize) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    for _ in 0..count {
        let answer = signpost.get("/");
        *sent.entry(answer.location().rsplit('/').nth(1).unwrap().to_owned()).or_default() += 1;
    }
    sent
}

fn ids(signpost: &Signpost, count: usize) -> String {
    sent(signpost, count).into_keys().collect()
}

#[test]
fn a_backend_that_dies_gets_nobody_and_comes_back() {
    let [a, b] = [Does::Answer; 2].map(Backend::start);
    let settings = format!("[pools.p]\nslow_start = '0s'\n{}{FAST}", backends(&[(&a, ""), (&b, "")]));
    let signpost = Signpost::with_settings(&settings);
    assert_eq!(ids(&signpost, 4), "ab");
    let address = a.kill();
    signpost.wait_for_state("a", "down");
    assert_eq!(ids(&signpost, 10), "b");
    let _back = Backend::start_on(address, Does::Answer);
    signpost.wait_for_state("a", "up");
    assert_eq!(sent(&signpost, 10), BTreeMap::from([("a".into(), 5), ("b".into(), 5)]));
    signpost.wait_for_log("backend is down");
    signpost.wait_for_log("backend is up");
}

#[test]
fn backups_stand_in_only_while_no_primary_is_up() {
    let [a, b] = [Does::Answer; 2].map(Backend::start);
    let settings =
        format!("[pools.p]\nslow_start = '0s'\n{}{FAST}", backends(&[(&a, ""), (&b, ", backup = true")]));
    let signpost = Signpost::with_settings(&settings);
    let eligible = || ["a", "b"].map(|id| signpost.metric("signpost_backend_eligible", &[("backend", id)]));
    assert_eq!((ids(&signpost, 6), eligible()), ("a".into(), [1.0, 0.0]));
    let address = a.kill();
    signpost.wait_for_state("a", "down");
    assert_eq!((ids(&signpost, 6), eligible()), ("b".into(), [0.0, 1.0]));
    assert_eq!(signpost.metric("signpost_pool_fail_open", &[("pool", "p")]), 0.0);
    let _back = Backend::start_on(address, Does::Answer);
    signpost.wait_for_state("a", "up");
    assert_eq!(ids(&signpost, 6), "a");
    signpost.wait_for_log("no primary is up: pool uses its backups");
    signpost.wait_for_log("pool uses its primaries again");
}

#[test]
fn all_down_fails_open_or_says_503_as_told() {
    let [a, b] = [Does::Answer; 2].map(Backend::start);
    let both = backends(&[(&a, ""), (&b, "")]);
    let open = Signpost::with_settings(&format!("[pools.p]\n{both}{FAST}"));
    let closed = Signpost::with_settings(&format!("[pools.p]\npanic_threshold = 0\n{both}{FAST}"));
    let half = Signpost::with_settings(&format!("[pools.p]\npanic_threshold = 0.5\n{both}{FAST}"));
    drop(a);
    half.wait_for_state("a", "down");
    assert_eq!(ids(&half, 6), "ab", "half of them are down");
    assert_eq!(half.metric("signpost_pool_fail_open", &[("pool", "p")]), 1.0);
    open.wait_for_state("a", "down");
    assert_eq!(ids(&open, 6), "b");
    drop(b);
    for signpost in [&open, &closed] {
        signpost.wait_for_state("a", "down");
        signpost.wait_for_state("b", "down");
    }
    assert_eq!(ids(&open, 6), "ab");
    assert_eq!(open.metric("signpost_pool_fail_open", &[("pool", "p")]), 1.0);
    let pools = Connection::to(open.admin).request("GET", "/api/v1/pools", &[("Host", "localhost")]).text();
    assert!(pools.contains("\"fail_open\":true") && pools.contains("\"priority\":\"fail_open\""), "{pools}");
    open.wait_for_log("\"active\":2,\"down\":2");
    half.wait_for_log("\"active\":2,\"down\":1");
    open.wait_for_log("pool is failing open: backends are used whether they are up or down");
    let answer = closed.get("/");
    assert_eq!(answer.status, 503);
    assert!((2..=8).contains(&answer.header("retry-after").unwrap().parse::<u8>().unwrap()));
    assert_eq!(closed.metric("signpost_pool_fail_open", &[("pool", "p")]), 0.0);
    closed.wait_for_log("no backend is eligible: new clients get 503");
}

#[test]
fn first_failure_in_the_first_round_is_no_failing_open() {
    let [down, backup] = [Does::Status(500), Does::Answer].map(Backend::start);
    // Their probes wait in the queue of the socket until it accepts them.
    let waiting = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [early, spare, late] = waiting.each_ref().map(|one| one.local_addr().unwrap());
    let health = "health = { kind = 'http', interval = '50ms', timeout = '1h', startup_timeout = '1h' }";
    let pool = |name: &str, waiting: SocketAddr, other: &Backend, more: &str| {
        format!(
            "[pools.{name}]\nhosts = ['{name}.test']\n{health}\nbackends = [{{ id = '{name}1', url = '{}/1'{more} }}, \
             {{ id = '{name}2', url = 'http://{waiting}/2' }}]\n",
            other.url()
        )
    };
    let at_start = pool("early", early, &down, "") + &pool("spare", spare, &backup, ", backup = true");
    let file = settings_file(&format!("[server]\nwatch_interval = '0s'\n{at_start}"));
    let [early, spare, late_listener] = waiting;
    let (signpost, _started) = std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            // The next probe begins when the result of the last one is known.
            wait_until("the others were probed", || {
                [&down, &backup].iter().all(|one| one.heads().len() >= 3)
            });
            [early, spare].map(|one| Backend::accept(one, Does::Answer))
        });
        let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
        (signpost, started.join().unwrap())
    });
    let location = |host: &str| signpost.request("GET", "/", &[("Host", host)]).location().to_owned();
    assert!(["early.test", "spare.test"].iter().all(|host| location(host).ends_with("/2/")));

    // A pool that a reload adds serves at once: clients get the backend that may be up.
    let late = pool("late", late, &down, "");
    std::fs::write(file.path(), format!("[server]\nwatch_interval = '0s'\n{at_start}{late}")).unwrap();
    signpost.signal("HUP");
    signpost.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], 1.0);
    signpost.wait_for_state("late1", "down");
    assert_eq!(signpost.metric("signpost_pool_fail_open", &[("pool", "late")]), 0.0);
    assert!((0..4).all(|_| location("late.test").ends_with("/2/")));
    let _late = Backend::accept(late_listener, Does::Answer);
    signpost.wait_for_state("late2", "up");
    let log = signpost.log();
    assert!(!log.contains("failing open") && !log.contains("pool uses"), "{log}");
}

#[test]
fn all_down_at_a_start_is_logged_once_the_first_round_is_over() {
    let refused = [Does::Answer; 3].map(|does| Backend::start(does).kill());
    let backends = refused.map(|address| format!("'http://{address}'")).join(",");
    for (threshold, text) in [
        ("1.0", "pool is failing open: backends are used whether they are up or down"),
        // Reached before the last result.
        ("0.3", "pool is failing open: backends are used whether they are up or down"),
        ("0", "no backend is eligible: new clients get 503"),
    ] {
        let signpost = Signpost::with_settings(&format!(
            "[pools.p]\npanic_threshold = {threshold}\nbackends = [{backends}]\n{FAST}"
        ));
        signpost.wait_for_log(text);
        let log = signpost.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("\"active\":")).collect();
        assert!(matches!(lines[..], [one] if one.contains("\"active\":3,\"down\":3")), "{log}");
    }
}

#[test]
fn a_backend_that_is_back_starts_slowly() {
    let [a, b] = [Does::Answer; 2].map(Backend::start);
    let weights = backends(&[(&a, ", weight = 4"), (&b, ", weight = 4")]);
    let signpost = Signpost::with_settings(&format!("[pools.p]\nslow_start = '3s'\n{weights}{FAST}"));
    assert_eq!(signpost.metric("signpost_backend_weight", &[("backend", "a")]), 4.0, "not at program start");
    let address = a.kill();
    signpost.wait_for_state("a", "down");
    let _back = Backend::start_on(address, Does::Answer);
    signpost.wait_for_state("a", "up");
    let mut steps = Vec::new();
    wait_until("it has all of its weight", || {
        let weight = signpost.metric("signpost_backend_weight", &[("backend", "a")]);
        if steps.last() != Some(&weight) {
            steps.push(weight);
        }
        weight == 4.0
    });
    assert!(steps.len() > 5 && steps.is_sorted() && steps[0] < 1.0, "{steps:?}");
    assert_eq!(sent(&signpost, 20), BTreeMap::from([("a".into(), 10), ("b".into(), 10)]));
}

#[test]
fn nobody_starts_slowly_where_no_other_is_up() {
    let [a, b] = [Does::Answer; 2].map(Backend::start);
    let settings = format!("[pools.p]\nslow_start = '1h'\n{}{FAST}", backends(&[(&a, ""), (&b, "")]));
    let signpost = Signpost::with_settings(&settings);
    let [at_a, at_b] = [a.kill(), b.kill()];
    signpost.wait_for_state("a", "down");
    signpost.wait_for_state("b", "down");
    let _a = Backend::start_on(at_a, Does::Answer);
    signpost.wait_for_state("a", "up");
    assert_eq!(signpost.metric("signpost_backend_weight", &[("backend", "a")]), 1.0);
    let _b = Backend::start_on(at_b, Does::Answer);
    signpost.wait_for_state("b", "up");
    assert_eq!(signpost.metric("signpost_backend_weight", &[("backend", "b")]), 0.1);
    assert_eq!(sent(&signpost, 11), BTreeMap::from([("a".into(), 10), ("b".into(), 1)]));
}

#[test]
fn a_pinned_visitor_of_a_dead_backend_is_pinned_anew() {
    let [a, b] = [Does::Answer; 2].map(Backend::start);
    let both = backends(&[(&a, ""), (&b, "")]);
    let pin = "secrets = ['a pin secret of thirty-two bytes, or more']";
    let signpost = Signpost::with_settings(&format!("[pools.p]\n{both}{FAST}[pools.p.pin]\n{pin}"));
    let held =
        Signpost::with_settings(&format!("[pools.p]\n{both}{FAST}[pools.p.pin]\n{pin}\ngrace_period = '1h'"));
    let first = signpost.get_to("/a/");
    let cookie = first.cookie().unwrap();
    let visit = |signpost: &Signpost| signpost.request("GET", "/", &[("Cookie", cookie)]);
    assert_eq!(visit(&signpost).cookie(), None);
    drop(a);
    signpost.wait_for_state("a", "down");
    held.wait_for_state("a", "down");
    let again = visit(&signpost);
    assert!(again.location().ends_with("/b/") && again.cookie().is_some());
    assert_eq!(
        signpost.metric("signpost_redirects_total", &[("backend", "b"), ("decision", "reassigned")]),
        1.0
    );
    // Where another replica may see it up, the pin is held, but nobody new is sent there.
    let kept = visit(&held);
    assert!(kept.location().ends_with("/a/") && kept.cookie().is_none());
    assert_eq!(ids(&held, 4), "b");
    // All down: failing open, a pin is as good as a throw.
    drop(b);
    signpost.wait_for_state("b", "down");
    assert!(visit(&signpost).location().ends_with("/a/"));
}

#[test]
fn a_reload_keeps_health_and_sends_nobody_to_a_new_dead_backend() {
    let [a, b, dead] = [Does::Answer; 3].map(Backend::start);
    let text = |list: &[(&Backend, &str)]| {
        format!("[server]\nwatch_interval = '0s'\n[pools.p]\n{}{FAST}", backends(list))
    };
    let file = settings_file(&text(&[(&a, ""), (&b, "")]));
    let with_dead = text(&[(&a, ""), (&b, ""), (&dead, "")]);
    drop(dead);
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    signpost.wait_for_state("a", "up");
    std::fs::write(file.path(), with_dead).unwrap();
    signpost.signal("HUP");
    signpost.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], 1.0);
    assert_eq!(ids(&signpost, 30), "ab");
    assert_eq!(signpost.metric("signpost_backend_state", &[("backend", "a"), ("state", "up")]), 1.0);
    signpost.wait_for_state("c", "down");
    // Probed elsewhere, its health starts over; the others' does not.
    let moved = Backend::start(Does::Answer);
    std::fs::write(file.path(), text(&[(&a, ""), (&b, ""), (&moved, "")])).unwrap();
    signpost.signal("HUP");
    signpost.wait_for_state("c", "up");
    assert_eq!(ids(&signpost, 30), "abc");
    let of_a = |line: &&str| line.contains("backend is") && line.contains("\"backend\":\"a\"");
    assert_eq!(signpost.log().lines().filter(of_a).count(), 1, "a came up once and never changed");
}
