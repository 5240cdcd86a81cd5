//! `consistent_hash` and `first` through the front door: who goes where, on each of two replicas; how much of a hot key
//! spills; and HAProxy beside it, of whose balancing nothing is left where it redirects.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::haproxy::Haproxy;
use crate::harness::{Answer, Connection, Signpost};

/// A pool of so many backends, with more settings.
fn pool(backends: usize, more: &str) -> String {
    let backends: Vec<_> =
        (1..=backends).map(|n| format!("{{ id = 'b{n}', url = 'http://127.0.0.1:{}' }}", 9000 + n)).collect();
    format!("[pools.p]\nhealth = {{ kind = 'none' }}\nbackends = [{}]\n{more}", backends.join(", "))
}

/// How many of these requests were sent to each place. Each visitor is gone before the next one comes.
fn sent<'a>(
    address: SocketAddr,
    requests: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, u32> {
    let mut sent = BTreeMap::new();
    for (path, user) in requests {
        let mut connection = Connection::to(address);
        let answer = connection.request("GET", path, &[("X-User", user), ("Connection", "close")]);
        *sent.entry(place(&answer)).or_default() += 1;
        assert!(connection.closes());
    }
    sent
}

/// The backend's authority in an answer's `Location`.
fn place(answer: &Answer) -> String {
    let rest = answer.location().strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().to_owned()
}

fn overflow(signpost: &Signpost, backend: &str) -> f64 {
    signpost.metric("signpost_overflow_total", &[("pool", "p"), ("backend", backend)])
}

#[test]
fn two_replicas_agree_on_every_key() {
    let settings = pool(10, "strategy = 'consistent_hash'\nhash = { key = 'header:x-user' }");
    // The same backends in another order.
    let mut turned: Vec<_> =
        (1..=10).map(|n| format!("{{ id = 'b{n}', url = 'http://127.0.0.1:{}' }}", 9000 + n)).collect();
    turned.reverse();
    let turned = format!(
        "[pools.p]\nhealth = {{ kind = 'none' }}\nstrategy = 'consistent_hash'\nhash = {{ key = 'header:x-user' }}\nbackends = [{}]",
        turned.join(", ")
    );
    let replicas = [Signpost::with_settings(&settings), Signpost::with_settings(&turned)];
    let mut connections = replicas.each_ref().map(Signpost::connect);
    let mut seen = BTreeMap::new();
    for key in 0..3000 {
        let user = format!("user-{key}");
        let [one, other] =
            connections.each_mut().map(|connection| connection.request("GET", "/", &[("X-User", &user)]));
        assert_eq!(one.location(), other.location(), "{user}");
        *seen.entry(place(&one)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 10);
    assert!(seen.values().all(|count| (200..400).contains(count)), "{seen:?}");
}

#[test]
fn who_leaves_a_hundred_moves_few_visitors_of_the_others() {
    let settings = pool(100, "strategy = 'consistent_hash'\nhash = { key = 'header:x-user' }");
    let gone = "{ id = 'b37', url = 'http://127.0.0.1:9037' }, ";
    assert!(settings.contains(gone));
    let [all, rest] =
        [settings.clone(), settings.replace(gone, "")].map(|toml| Signpost::with_settings(&toml));
    let mut connections = [&all, &rest].map(Signpost::connect);
    let (mut left, mut moved) = (0, 0);
    for key in 0..8000 {
        let user = format!("user-{key}");
        let [before, after] = connections
            .each_mut()
            .map(|connection| place(&connection.request("GET", "/", &[("X-User", &user)])));
        left += u32::from(before == "127.0.0.1:9037");
        moved += u32::from(before != "127.0.0.1:9037" && before != after);
    }
    assert!(left > 0);
    assert!(moved <= 120, "{moved} of 8000 are more than 1.5 %");
}

#[test]
fn each_key_is_what_it_says() {
    let goes = |key: &str, requests: &[(&str, &[(&str, &str)])]| {
        let signpost = Signpost::with_settings(&pool(
            200,
            &format!("strategy = 'consistent_hash'\nhash = {{ key = '{key}' }}"),
        ));
        let places: Vec<_> =
            requests.iter().map(|(path, fields)| place(&signpost.request("GET", path, fields))).collect();
        places.iter().map(|place| places.iter().position(|first| first == place).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(goes("client", &[("/a", &[]), ("/b?c", &[("Cookie", "a=1")])]), [0, 0]);
    assert_eq!(goes("path", &[("/a?b", &[]), ("/a?c", &[]), ("/b", &[])]), [0, 0, 2]);
    assert_eq!(goes("path:1", &[("/a/x", &[]), ("/a/y", &[]), ("/b/x", &[])]), [0, 0, 2]);
    assert_eq!(goes("query:id", &[("/a?id=1", &[]), ("/b?x&id=1", &[]), ("/a?id=2", &[])]), [0, 0, 2]);
    let cookie = |value| [("Cookie", value)];
    let (one, other) = (cookie("x=1; sid=1"), cookie("sid=2"));
    assert_eq!(goes("cookie:sid", &[("/a", &one), ("/b", &one), ("/a", &other)]), [0, 0, 2]);
}

/// Sixty visitors with one key, where HAProxy sends all of them to one.
#[test]
fn a_hot_key_spills_as_far_as_is_set() {
    let signpost = Signpost::with_settings(&pool(
        4,
        "strategy = 'consistent_hash'\nhash = { key = 'header:x-user', balance_factor = 125 }",
    ));
    let hot = || std::iter::repeat_n(("/", "hot"), 60);
    let sent_by_us = sent(signpost.traffic, hot());
    // A quarter more than a fourth of sixty is 18.75. Who comes later than within a second finds it cold again.
    assert!(sent_by_us.len() == 4 && sent_by_us.values().all(|&count| count <= 19), "{sent_by_us:?}");
    // Each request that went elsewhere counts once, at the backend that is the key's first.
    let counted: Vec<_> = ["b1", "b2", "b3", "b4"].map(|id| overflow(&signpost, id)).into();
    let first = counted.iter().position(|&count| count > 0.0).unwrap();
    let sent_to_first = sent_by_us[&format!("127.0.0.1:{}", 9001 + first)];
    assert_eq!(counted.iter().sum::<f64>(), f64::from(60 - sent_to_first), "{counted:?} {sent_by_us:?}");
    assert_eq!(counted[first], counted.iter().sum::<f64>(), "{counted:?}");

    for balance in
        ["hdr(x-user)\n hash-type consistent\n hash-balance-factor 125", "uri\n hash-balance-factor 125"]
    {
        let Some(haproxy) = Haproxy::start(|_| redirecting(4, balance, "")) else { return };
        assert_eq!(sent(haproxy.address, hot()).into_values().collect::<Vec<_>>(), [60], "{balance}");
    }
}

/// Sixty visitors at once, where HAProxy sends all of them to the first.
#[test]
fn first_fills_one_backend_after_the_other() {
    let signpost = Signpost::with_settings(&pool(4, "strategy = 'first'\nmax_requests_per_second = 20"));
    let visitors = || std::iter::repeat_n(("/", "any"), 60);
    let sent_by_us = sent(signpost.traffic, visitors());
    // Twenty at once, and one more for each twentieth of a second that passes.
    let counts: Vec<_> = sent_by_us.values().copied().collect();
    assert_eq!(sent_by_us.keys().next().unwrap(), "127.0.0.1:9001");
    assert!(counts[0] >= 20 && counts.get(3).is_none_or(|&last| last == 0), "{counts:?}");
    let counted = ["b1", "b2", "b3", "b4"].map(|id| overflow(&signpost, id));
    assert_eq!(counted, [f64::from(60 - counts[0]), 0.0, 0.0, 0.0], "b1 is the first choice of all");

    let Some(haproxy) = Haproxy::start(|_| redirecting(4, "first", " maxconn 20")) else { return };
    assert_eq!(sent(haproxy.address, visitors()).into_values().collect::<Vec<_>>(), [60]);
}

/// HAProxy, redirecting to servers of which none is there.
fn redirecting(servers: usize, balance: &str, options: &str) -> String {
    let servers: String = (1..=servers)
        .map(|n| {
            format!(" server s{n} 127.0.0.1:{} redir http://127.0.0.1:{}{options}\n", 9000 + n, 9000 + n)
        })
        .collect();
    format!(
        "global\n nbthread 1\nlisten l\n mode http\n bind fd@0\n balance {balance}\n{servers}\nlisten unused\n bind fd@1\n mode http\n http-request return status 200"
    )
}

#[test]
fn max_requests_per_second_holds_for_every_strategy() {
    for strategy in ["random", "round_robin", "consistent_hash", "first"] {
        let settings = "hash = { key = 'header:x-user' }\nbackends = [\
            { id = 'b1', url = 'http://127.0.0.1:9001', max_requests_per_second = 0.01 }, { id = 'b2', url = 'http://127.0.0.1:9002' }]";
        let signpost = Signpost::with_settings(&format!(
            "[pools.p]\nstrategy = '{strategy}'\nhealth = {{ kind = 'none' }}\n{settings}"
        ));
        let users: Vec<_> = (0..50).map(|user| user.to_string()).collect();
        let sent = sent(signpost.traffic, users.iter().map(|user| ("/", user.as_str())));
        assert_eq!(sent.into_values().collect::<Vec<_>>(), [1, 49], "{strategy}");
        assert!(overflow(&signpost, "b1") > 0.0 && overflow(&signpost, "b2") == 0.0, "{strategy}");
    }
}

#[test]
fn a_hashed_pool_s_answers_may_be_kept() {
    let kept = |key: &str, fields: &[(&str, &str)]| {
        let more = format!(
            "strategy = 'consistent_hash'\ncache_max_age = '90s'\nhash = {{ key = '{key}' }}\n\
            cors = {{ origins = ['https://app.example'] }}"
        );
        let signpost = Signpost::with_settings(&pool(3, &more));
        let posted = signpost.request("POST", "/a?id=7", fields);
        assert_eq!(posted.header("cache-control"), Some("no-store"), "{key}");
        let answer = signpost.request("GET", "/a?id=7", fields);
        let vary: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "vary")
            .map(|(_, value)| value.clone())
            .collect();
        (answer.header("cache-control").unwrap().to_owned(), vary.join(", "))
    };
    let is = |control: &str, vary: &str| (format!("{control}, max-age=90"), vary.to_owned());
    assert_eq!(kept("client", &[]), is("private", "origin"));
    assert_eq!(kept("path", &[]), is("public", "origin"));
    assert_eq!(kept("query:id", &[]), is("public", "origin"));
    assert_eq!(kept("query:other", &[]), is("private", "origin"));
    assert_eq!(kept("header:x-user", &[("X-User", "a")]), is("public", "origin, x-user"));
    assert_eq!(kept("header:x-user", &[]), is("private", "origin, x-user"));
    assert_eq!(kept("cookie:sid", &[("Cookie", "sid=1")]), is("private", "origin, cookie"));
}
