//! Why a backend is in its state, and since when: in the API, on the status page, in metrics and in the log.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::backend::{Backend, Does};
use crate::harness::{Connection, Signpost, settings_file, wait_until};

/// What the API shows of a backend, whichever pool it is in.
fn shown(signpost: &Signpost, backend: &str) -> Value {
    let host = signpost.admin.to_string();
    let answer = Connection::to(signpost.admin).request("GET", "/api/v1/pools", &[("Host", &host)]);
    let overview: Value = serde_json::from_slice(&answer.body).unwrap();
    let pools = overview["pools"].as_array().unwrap();
    let mut backends = pools.iter().flat_map(|pool| pool["backends"].as_array().unwrap());
    backends.find(|one| one["id"] == backend).unwrap_or_else(|| panic!("no {backend} in {overview}")).clone()
}

fn wait_for_reason(signpost: &Signpost, backend: &str, reason: &str) -> Value {
    let mut last = Value::Null;
    wait_until(&format!("{backend} has the reason {reason}"), || {
        last = shown(signpost, backend);
        last["reason"] == reason
    });
    last
}

fn reason_metric(signpost: &Signpost, backend: &str) -> Vec<String> {
    let metrics = signpost.metrics();
    let lines = metrics.lines().filter(|line| line.starts_with("signpost_backend_state_reason{"));
    let of_backend = lines.filter(|line| line.contains(&format!("backend=\"{backend}\"")));
    let reason = |line: &str| line.split("reason=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    of_backend.map(reason).collect()
}

/// A TLS server that answers every request.
fn tls_server(chain: Vec<rustls::pki_types::CertificateDer<'static>>, key: &KeyPair) -> u16 {
    use std::io::Read;
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(session, socket);
            let mut head = [0; 4096];
            if tls.read(&mut head).is_ok_and(|count| count > 0) {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    port
}

/// A server that answers a TLS handshake with this alert.
fn alerting(alert: u8) -> u16 {
    use std::io::Read;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut hello = [0; 16 << 10];
            if socket.read(&mut hello).is_ok_and(|count| count > 0) {
                let _ = socket.write_all(&[21, 3, 2, 0, 2, 2, alert]);
                let _ = socket.read_to_end(&mut Vec::new());
            }
        }
    });
    port
}

/// A TLS server with a self-signed certificate for `backend.test` that is valid between two years; its port, and a
/// file that makes a client trust it.
fn self_signed(from: i32, to: i32) -> (u16, tempfile::NamedTempFile) {
    self_signed_with(|params| {
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    })
}

fn self_signed_with(change: impl FnOnce(&mut CertificateParams)) -> (u16, tempfile::NamedTempFile) {
    let mut params = CertificateParams::new(vec!["backend.test".to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.pem().as_bytes()).unwrap();
    (tls_server(vec![certificate.der().clone()], &key), file)
}

/// A TLS server whose certificate is issued by an authority that no client trusts.
fn issued_by_nobody() -> u16 {
    let authority = CertificateParams::new(vec![]).unwrap();
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["backend.test".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    tls_server(vec![certificate.der().clone()], &key)
}

/// A port of loopback whose queue is full, so that the kernel leaves connection attempts unanswered.
fn full_queue() -> (Socket, Vec<TcpStream>, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(one) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(one);
    }
    (socket, waiting, address.port())
}

#[test]
fn each_kind_of_failure_has_its_reason_and_text() {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_listener, _waiting, full) = full_queue();
    let year = 1970 + (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 31_556_952) as i32;
    let (expired, expired_ca) = self_signed(2001, 2002);
    let (early, early_ca) = self_signed(year + 5, year + 9);
    let (valid, valid_ca) = self_signed(2001, year + 9);
    let unknown_issuer = issued_by_nobody();
    // As `openssl req -x509` makes it.
    let (authority, authority_ca) =
        self_signed_with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let (client, client_ca) =
        self_signed_with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let (old, nameless) = (alerting(70), alerting(112));
    let kinds = [
        Does::Reset,
        Does::Hang,
        Does::DripBody,
        Does::Status(503),
        Does::Nonsense,
        Does::Close,
        Does::Flood,
        Does::Redirect(302, "/"),
        Does::Say("HTTP/1.1 400 Bad Request\r\n\r\n"),
        Does::Say("down\n"),
        Does::Answer,
    ]
    .map(Backend::start);
    let [reset, hang, drip, status, nonsense, close, flood, itself, plain, agent, answer] =
        &kinds.each_ref().map(|backend| backend.address.port());
    let trusting = |ca: &tempfile::NamedTempFile| {
        format!("kind = 'http'\nhost = 'backend.test'\nca_file = '{}'", ca.path().display())
    };
    let http = || "kind = 'http'".to_owned();
    let tls = || "kind = 'http'\nhost = 'backend.test'".to_owned();
    let to = |port: u16| format!("127.0.0.1:{port}");
    let cases = [
        ("refused", "http", refused, http(), "connect", format!("connection refused ({})", to(refused))),
        (
            "reset",
            "http",
            *reset,
            http(),
            "protocol",
            "connection reset by peer before the response was complete".to_owned(),
        ),
        ("full", "http", full, http(), "timeout", "timed out after 200ms while connecting".to_owned()),
        (
            "hang",
            "http",
            *hang,
            http(),
            "timeout",
            "timed out after 200ms waiting for the response".to_owned(),
        ),
        (
            "drip",
            "http",
            *drip,
            http(),
            "timeout",
            "timed out after 200ms reading the response body".to_owned(),
        ),
        (
            "tls-hang",
            "https",
            *hang,
            http(),
            "timeout",
            "timed out after 200ms during the TLS handshake".to_owned(),
        ),
        (
            "expired",
            "https",
            expired,
            trusting(&expired_ca),
            "tls",
            "certificate expired on 2002-01-01T00:00:00Z".to_owned(),
        ),
        (
            "early",
            "https",
            early,
            trusting(&early_ca),
            "tls",
            format!("certificate not valid before {}-01-01T00:00:00Z", year + 5),
        ),
        (
            "name",
            "https",
            valid,
            trusting(&valid_ca).replace("backend.test", "other.test"),
            "tls",
            "certificate is not for other.test".to_owned(),
        ),
        ("self-signed", "https", valid, tls(), "tls", "self-signed certificate is not trusted".to_owned()),
        ("issuer", "https", unknown_issuer, tls(), "tls", "certificate issuer is not trusted".to_owned()),
        (
            "authority",
            "https",
            authority,
            trusting(&authority_ca),
            "tls",
            "certificate is that of a CA (CA:TRUE), not of a server".to_owned(),
        ),
        (
            "client",
            "https",
            client,
            trusting(&client_ca),
            "tls",
            "certificate is not for server authentication but for client authentication".to_owned(),
        ),
        (
            "old",
            "https",
            old,
            tls(),
            "tls",
            "the backend rejected the TLS handshake: it supports neither TLS 1.2 nor TLS 1.3".to_owned(),
        ),
        (
            "nameless",
            "https",
            nameless,
            tls(),
            "tls",
            "the backend rejected the TLS handshake: it does not serve this name".to_owned(),
        ),
        ("plain", "https", *plain, tls(), "tls", "the port does not speak TLS".to_owned()),
        ("tls-close", "https", *close, tls(), "tls", "connection closed during the TLS handshake".to_owned()),
        (
            "tls-tcp",
            "https",
            expired,
            trusting(&expired_ca).replace("'http'", "'tcp'"),
            "tls",
            "certificate expired on 2002-01-01T00:00:00Z".to_owned(),
        ),
        ("status", "http", *status, http(), "status", "answered 503, expected 200-399".to_owned()),
        ("nonsense", "http", *nonsense, http(), "protocol", "malformed response (not HTTP/1.1)".to_owned()),
        (
            "close",
            "http",
            *close,
            http(),
            "protocol",
            "connection closed before the response was complete".to_owned(),
        ),
        ("flood", "http", *flood, http(), "protocol", "the body is longer than 64 KiB".to_owned()),
        (
            "itself",
            "http",
            *itself,
            http(),
            "redirect_loop",
            format!("redirect loop: answered 302 to http://{}/, which is what was requested", to(*itself)),
        ),
        ("ok", "http", *answer, http(), "ok", "answered 200".to_owned()),
        ("ok-tcp", "http", *answer, "kind = 'tcp'".to_owned(), "ok", "connected".to_owned()),
        ("ok-tls", "https", valid, trusting(&valid_ca), "ok", "answered 200".to_owned()),
        (
            "ok-tls-tcp",
            "https",
            valid,
            trusting(&valid_ca).replace("'http'", "'tcp'"),
            "ok",
            "TLS handshake completed".to_owned(),
        ),
        ("none", "http", *answer, "kind = 'none'".to_owned(), "not_checked", "not checked".to_owned()),
    ];
    let pool = |(name, scheme, port, health, ..): &(&str, &str, u16, String, &str, String)| {
        format!(
            "[pools.{name}]\nhosts = ['{name}.test']\nbackends = [{{ id = '{name}', url = '{scheme}://127.0.0.1:{port}' }}]\n\
             [pools.{name}.health]\ninterval = '50ms'\ntimeout = '200ms'\n{health}\n"
        )
    };
    let agent = format!(
        "[pools.agent]\nhosts = ['agent.test']\nbackends = [{{ id = 'agent', url = 'http://127.0.0.1:{answer}' }}]\n\
         health = {{ interval = '50ms' }}\nload = {{ source = 'agent', agent_port = {agent} }}\n"
    );
    let signpost = Signpost::with_settings(&(cases.iter().map(pool).collect::<String>() + &agent));
    for (name, _, _, _, reason, text) in &cases {
        let state = match *reason {
            "ok" => "up",
            "not_checked" => "unknown",
            _ => "down",
        };
        signpost.wait_for_state(name, state);
        let backend = wait_for_reason(&signpost, name, reason);
        let detail = backend["detail"].as_str().unwrap();
        assert!(detail.starts_with(text), "{name}: {detail:?} instead of {text:?}");
        assert_eq!(reason_metric(&signpost, name), [*reason], "{name}");
        if state == "down" {
            assert_eq!(backend["last_check"], json!({ "result": reason, "detail": detail }), "{name}");
            let counted = signpost.metric("signpost_probes_total", &[("backend", name), ("result", reason)]);
            assert!(counted >= 1.0, "{name}");
        }
    }
    let agent = wait_for_reason(&signpost, "agent", "agent");
    assert_eq!(agent["detail"], "its agent reports it as down");
    assert_eq!((&agent["state"], &agent["health"]), (&json!("down"), &json!("down")));
    assert_eq!(agent["last_check"]["result"], "ok");
    signpost.wait_for_log("connection refused");
}

#[test]
fn shows_since_when_a_backend_is_in_its_state() {
    let backend = Backend::start(Does::Answer);
    let hang = Backend::start(Does::Hang);
    let file = settings_file("");
    let write = |weight: u32, more: &str| {
        let text = format!(
            "[server]\nwatch_interval = '0s'\n[pools.p]\nbackends = [{{ id = 'a', url = '{}', weight = {weight} }}{more}]\n\
             [pools.p.health]\nkind = 'http'\ninterval = '50ms'\ntimeout = '1h'\nfall = 1\nrise = 1\nstartup_timeout = '1h'\n",
            backend.url()
        );
        std::fs::write(file.path(), text).unwrap();
    };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as f64;
    let since = |signpost: &Signpost| {
        signpost.metric("signpost_backend_state_since_timestamp_seconds", &[("backend", "a")])
    };
    write(1, "");
    let begin = now();
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    signpost.wait_for_state("a", "up");
    let up = since(&signpost);
    assert!((begin..=now()).contains(&up), "{begin} {up}");
    let dated = shown(&signpost, "a")["state_since"].as_str().unwrap().to_owned();
    let dated = humantime::parse_rfc3339(&dated).unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(dated.as_secs() as f64, up);
    // The next state must not begin in the same second as this one, or nothing would be shown by what follows.
    wait_until("another second", || now() > up);

    // Neither a reload that changes the pool nor another check changes it.
    write(7, &format!(", {{ id = 'new', url = '{}' }}", hang.url()));
    signpost.signal("HUP");
    signpost.wait_for_metric("signpost_backend_weight", &[("backend", "a")], 7.0);
    assert_eq!(since(&signpost), up);
    assert_eq!(wait_for_reason(&signpost, "a", "ok")["detail"], "answered 200");
    assert_eq!(wait_for_reason(&signpost, "new", "pending_first_check")["state"], "unknown");

    backend.now_does(Does::Status(500));
    signpost.wait_for_state("a", "down");
    let down = since(&signpost);
    assert!(down > up && down <= now());
    assert_eq!(shown(&signpost, "a")["reason"], "status");

    backend.now_does(Does::Answer);
    signpost.wait_for_state("a", "up");
    let change = |change: &str| {
        let host = signpost.admin.to_string();
        let mut connection = Connection::to(signpost.admin);
        connection.send(
            format!(
                "PATCH /api/v1/pools/p/backends/a HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{change}",
                change.len()
            )
            .as_bytes(),
        );
        let answer = connection.read_answer().unwrap();
        serde_json::from_slice::<Value>(&answer.body).unwrap()
    };
    let drained = change("{\"admin\":\"draining\"}");
    assert_eq!((&drained["reason"], &drained["detail"]), (&json!("operator"), &json!("set by the operator")));
    assert!(since(&signpost) >= down);
    assert_eq!(drained["last_check"]["detail"], "answered 200");
    assert_eq!(change("{\"admin\":null}")["reason"], "ok");
}

#[test]
fn flap_back_off_is_shown_and_logged() {
    let backend = Backend::start(Does::Answer);
    let other = Backend::start(Does::Answer);
    let file = settings_file("");
    let write = |more: &str| {
        let text = format!(
            "[server]\nwatch_interval = '0s'\n[pools.p]\nbackends = [{{ id = 'a', url = '{}' }}, {{ id = 'b', url = '{}' }}]\n\
             [pools.p.health]\nkind = 'http'\ninterval = '1s'\nfast_interval = '20ms'\nfall = 1\nrise = 5\n{more}",
            backend.url(),
            other.url()
        );
        std::fs::write(file.path(), text).unwrap();
    };
    write("");
    let signpost = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    let until = "signpost_backend_flap_backoff_until_timestamp_seconds";
    for _ in 0..3 {
        signpost.wait_for_state("a", "up");
        backend.now_does(Does::Status(503));
        signpost.wait_for_state("a", "down");
        backend.now_does(Does::Answer);
    }
    let held = wait_for_reason(&signpost, "a", "flap_backoff");
    assert_eq!(held["state"], "down");
    assert_eq!(held["flap_backoff"]["falls"], 3);
    let at = held["flap_backoff"]["until"].as_str().unwrap();
    assert_eq!(
        held["detail"].as_str().unwrap(),
        format!("answers again; admitted at {at}, because it fell 3 times")
    );
    let seconds = humantime::parse_rfc3339(at).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(signpost.metric(until, &[("backend", "a")]), seconds as f64);
    assert_eq!(reason_metric(&signpost, "a"), ["flap_backoff"]);
    let host = signpost.admin.to_string();
    let page = Connection::to(signpost.admin).request("GET", "/", &[("Host", &host)]).text();
    assert!(page.contains("answers again; admitted in <time data-until"), "{page}");
    assert!(page.contains("</time>, because it fell 3 times"), "{page}");
    signpost.wait_for_log("backend in flap back-off");

    // A reload that changes how it is checked forgets no fall.
    write("timeout = '900ms'");
    signpost.signal("HUP");
    signpost.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], 1.0);
    let heads = backend.heads().len();
    wait_until("it is checked by the new settings", || backend.heads().len() >= heads + 3);
    assert_eq!(shown(&signpost, "a")["flap_backoff"], held["flap_backoff"]);

    // A failure ends it, and the next success begins another.
    backend.now_does(Does::Close);
    assert_eq!(wait_for_reason(&signpost, "a", "protocol")["flap_backoff"], Value::Null);
    signpost.wait_for_log("admitted\":false");
    assert!(!signpost.metrics().lines().any(|line| line.starts_with(&format!("{until}{{"))));
    backend.now_does(Does::Answer);
    wait_for_reason(&signpost, "a", "flap_backoff");
    signpost.wait_for_state("a", "up");
    signpost.wait_for_log("admitted\":true");
    assert_eq!(shown(&signpost, "a")["flap_backoff"], Value::Null);
}

/// What becomes of a backend that redirects there, once it is checked again: its state, and the reason.
fn judged(signpost: &Signpost, backend: &Backend, id: &str, location: String) -> (String, String) {
    let heads = backend.heads().len();
    backend.now_does(Does::Redirect(302, location.leak()));
    // The first one after the change may have begun before it.
    wait_until("it was checked twice", || backend.heads().len() >= heads + 3);
    let mut last = Value::Null;
    wait_until("the check is shown", || {
        last = shown(signpost, id);
        last["last_check"]["detail"].as_str().is_some_and(|detail| detail.contains("302"))
    });
    let text = |key: &str| last[key].as_str().unwrap().to_owned();
    let (state, reason) = (text("state"), text("reason"));
    backend.now_does(Does::Answer);
    signpost.wait_for_state(id, "up");
    wait_for_reason(signpost, id, "ok");
    (state, reason)
}

#[test]
fn redirect_to_the_entry_is_a_loop() {
    let backend = Backend::start(Does::Answer);
    let other = Backend::start(Does::Answer);
    let health = "interval = '20ms'\nrise = 1\nfall = 1\nflap_backoff = '0s'\nkind = 'http'\npath = '/'";
    let signpost = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n[pools.site]\nhosts = ['www.example.test', '*.wild.test', 'xn--bcher-kva.test']\n\
         backends = [{{ id = 'a', url = 'http://a.wild.test', probe_url = '{}' }}]\n[pools.site.health]\n{health}\n\
         [pools.video]\nhosts = ['www.example.test', 'video.test']\npath_prefix = '/video'\nbackends = [{{ id = 'v', url = '{}' }}]\n\
         [pools.video.health]\n{health}\n",
        backend.url(),
        other.url()
    ));
    signpost.wait_for_state("a", "up");
    let (own, at) = (signpost.traffic.port(), backend.address.port());
    for (location, is_loop) in [
        // A host of the pool, however it is written.
        ("https://www.example.test/".to_owned(), true),
        ("https://www.example.test/login?next=%2F".to_owned(), true),
        ("HTTP://WWW.Example.Test./x".to_owned(), true),
        ("//www.example.test/".to_owned(), true),
        ("\\\\www.example.test\\".to_owned(), true),
        ("https://user@www.example.test:443/".to_owned(), true),
        (format!("http://www.example.test:{own}/"), true),
        ("https://deep.er.wild.test/".to_owned(), true),
        ("https://bücher.test/".to_owned(), true),
        ("https://xn--bcher-kva.test/".to_owned(), true),
        // Another host, another port, another pool.
        ("https://login.test/".to_owned(), false),
        ("https://wild.test/".to_owned(), false),
        ("https://www.example.test.evil.test/".to_owned(), false),
        ("https://www.example.test:9/".to_owned(), false),
        ("https://www.example.test/video/1".to_owned(), false),
        ("https://video.test/".to_owned(), false),
        // The dispatcher's own address, however it is written.
        (format!("http://127.0.0.1:{own}/"), true),
        (format!("https://127.1:{own}/x"), true),
        (format!("http://0x7f000001:{own}/"), true),
        (format!("http://localhost:{own}/"), true),
        (format!("http://[::ffff:127.0.0.1]:{own}/"), true),
        (format!("http://127.0.0.2:{own}/"), false),
        // A client that follows it reaches the machine that it runs on.
        (format!("http://0.0.0.0:{own}/"), true),
        (format!("http://0:{own}/"), true),
        (format!("http://[::]:{own}/"), true),
        (format!("http://0.0.0.0:{at}/login"), false),
        // The backend itself: an ordinary redirect, unless it leads to what was requested.
        ("/login".to_owned(), false),
        ("login".to_owned(), false),
        ("?next=1".to_owned(), false),
        (format!("http://127.0.0.1:{at}/login"), false),
        (format!("https://127.0.0.1:{at}/"), false),
        ("/".to_owned(), true),
        (".".to_owned(), true),
        ("#top".to_owned(), true),
        (format!("http://127.0.0.1:{at}"), true),
        ("http://".to_owned(), false),
        // By its public URL too, which a wildcard of the pool matches: that is no way back to the entry.
        ("https://a.wild.test/login".to_owned(), false),
        ("http://A.wild.test./".to_owned(), false),
        (format!("http://a.wild.test:{own}/"), true),
    ] {
        let expected = if is_loop { ("down", "redirect_loop") } else { ("up", "ok") };
        let (state, reason) = judged(&signpost, &backend, "a", location.clone());
        assert_eq!((state.as_str(), reason.as_str()), expected, "{location}");
    }
    signpost.wait_for_log(
        "redirect loop: answered 302 to https://www.example.test/, which leads back to this pool",
    );
}

#[test]
fn redirect_on_the_host_of_the_probe_is_no_loop() {
    let backends = [Does::Answer; 2].map(Backend::start);
    let health = "interval = '20ms'\nrise = 1\nfall = 1\nflap_backoff = '0s'\nkind = 'http'\npath = '/check'";
    let [by_host, by_headers] = backends.each_ref().map(Backend::url);
    let signpost = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n[pools.site]\nhosts = ['www.example.test', 'example.test']\n\
         backends = [{{ id = 'a', url = '{by_host}' }}]\n[pools.site.health]\n{health}\nhost = 'www.example.test'\n\
         [pools.video]\nhosts = ['www.video.test', 'video.test']\n\
         backends = [{{ id = 'b', url = '{by_headers}' }}]\n[pools.video.health]\n{health}\nheaders = {{ Host = 'www.video.test' }}\n"
    ));
    let own = signpost.traffic.port();
    for (backend, id, host, other) in [
        (&backends[0], "a", "www.example.test", "example.test"),
        (&backends[1], "b", "www.video.test", "video.test"),
    ] {
        signpost.wait_for_state(id, "up");
        for (location, is_loop) in [
            // Clients send the backend's own host and are redirected there.
            (format!("http://{host}/login/"), false),
            (format!("https://{host}/login/"), false),
            (format!("//{}./login/", host.to_uppercase()), false),
            (format!("https://{host}/check"), false),
            // What was requested is a loop for everyone, and no application takes these from the host of a request.
            (format!("http://{host}/check"), true),
            (format!("http://{host}:{own}/login/"), true),
            (format!("https://{other}/login/"), true),
            (format!("http://127.0.0.1:{own}/"), true),
        ] {
            let expected = if is_loop { ("down", "redirect_loop") } else { ("up", "ok") };
            let (state, reason) = judged(&signpost, backend, id, location.clone());
            assert_eq!((state.as_str(), reason.as_str()), expected, "{location}");
        }
    }
}

#[test]
fn redirect_loops_of_a_pool_without_hosts_are_those_to_own_addresses() {
    let backend = Backend::start(Does::Answer);
    let signpost = Signpost::with_listeners(&format!(
        "[server]\nwatch_interval = '0s'\nlisten = ['[::]:0']\n[pools.p]\nbackends = [{{ id = 'a', url = '{}' }}]\n[pools.p.health]\n\
         host = 'vhost.test'\ninterval = '20ms'\nrise = 1\nfall = 1\nflap_backoff = '0s'\nkind = 'http'\npath = '/check'",
        backend.url()
    ));
    signpost.wait_for_state("a", "up");
    let (own, at) = (signpost.traffic.port(), backend.address.port());
    for (location, is_loop) in [
        (format!("http://127.0.0.1:{own}/"), true),
        (format!("http://127.0.0.9:{own}/"), true),
        (format!("http://[::1]:{own}/"), true),
        (format!("http://localhost:{own}/"), true),
        (format!("http://203.0.113.7:{own}/"), false),
        (format!("http://www.example.test:{own}/"), false),
        ("https://login.test/".to_owned(), false),
        (format!("http://127.0.0.1:{at}/login"), false),
        // By the name that health.host gives it: to https is another URL, to the same is a loop.
        ("https://vhost.test/check".to_owned(), false),
        ("http://vhost.test/check".to_owned(), true),
        (format!("http://vhost.test:{at}/check"), true),
        ("http://vhost.test/login".to_owned(), false),
    ] {
        let expected = if is_loop { ("down", "redirect_loop") } else { ("up", "ok") };
        let (state, reason) = judged(&signpost, &backend, "a", location.clone());
        assert_eq!((state.as_str(), reason.as_str()), expected, "{location}");
    }
}
