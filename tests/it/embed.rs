//! Signpost inside another program: `signpost::Dispatcher` in an axum application, on real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use http::{HeaderName, HeaderValue};
use signpost::settings::Settings;
use signpost::{ClientInfo, Engine};
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::certificates::Site;
use crate::harness::{Answer, Connection, Signpost, series};
use crate::protocols::Protocol;

#[path = "../../examples/embed.rs"]
mod example;

/// An axum application on a port of its own, with worker threads, until it is dropped.
struct Application {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Application {
    fn start(app: Router) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let service = app.into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(listener, service).with_graceful_shutdown(stopped).await.unwrap();
            });
        };
        Self { address, stop, thread: Some(std::thread::spawn(serve)) }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        Connection::to(self.address).request(method, path, headers)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn engine(toml: &str) -> Engine {
    Engine::start(&Settings::from_toml(toml).unwrap()).unwrap()
}

/// What the paths must agree on: everything but the date, framing, what belongs to the connection, and the value of a pin,
/// which is random.
fn comparable(mut answer: Answer) -> Answer {
    let is_framing = |name: &str, value: &str| name == "content-length" && value == "0";
    answer
        .headers
        .retain(|(name, value)| !["date", "connection"].contains(&name.as_str()) && !is_framing(name, value));
    for (name, value) in &mut answer.headers {
        if name == "set-cookie" {
            let (cookie, attributes) = value.split_once(';').unwrap();
            let (name, token) = cookie.split_once('=').unwrap();
            *value = format!("{name}={} characters;{}", token.len(), attributes.replace("; Secure", ""));
        }
        if name == "retry-after" {
            *value = "spread".to_owned();
        }
    }
    answer.headers.sort();
    answer
}

#[test]
fn responds_as_the_binary_does_over_every_protocol() {
    const POOLS: &str = "
        [server.limits]
        max_target_bytes = '200B'
        max_headers = 20
        [pools.site]
        hosts = ['site.example', '*.wild.example']
        strategy = 'consistent_hash'
        pin = {}
        cors = { origins = ['https://app.example'], credentials = true }
        backends = ['https://a.example/base', 'https://b.example/base']
        health.kind = 'none'
        [pools.cached]
        hosts = ['cached.example']
        strategy = 'consistent_hash'
        hash = { key = 'path' }
        cache_max_age = '1m'
        backends = ['https://c.example', 'https://d.example']
        health.kind = 'none'
        [pools.weightless]
        hosts = ['down.example']
        backends = [{ url = 'http://e.example', weight = 1 }]
        health = { kind = 'tcp', startup_timeout = '1ms' }
        panic_threshold = 0
    ";
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.example"]);
    let tls = format!("[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n", site.toml());
    let signpost = Signpost::with_settings(&format!("{tls}{POOLS}"));
    let engine = engine(POOLS);
    let app = Application::start(Router::new().fallback_service(engine.dispatcher()));

    let long = format!("/{}", "x".repeat(300));
    let many: Vec<_> = (0..30).map(|_| ("X-Many", "1")).collect();
    let preflight = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "x-a"),
    ];
    type Request<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let table: &[Request<'_>] = &[
        ("GET", "/", &[]),
        ("HEAD", "/a/b?c=d&e", &[]),
        ("POST", "/form", &[("Content-Length", "0")]),
        ("DELETE", "/x", &[]),
        ("GET", "/%7Euser/caf%C3%A9?q=%20", &[]),
        ("GET", "//evil.example/", &[]),
        ("GET", "/../up", &[]),
        ("GET", "/a/%2e%2e/b", &[]),
        ("GET", &long, &[]),
        ("GET", "/", &[("Origin", "https://app.example")]),
        ("GET", "/", &[("Origin", "https://other.example")]),
        ("OPTIONS", "/", &[]),
        ("OPTIONS", "/", &preflight),
        ("TRACE", "/", &[]),
        ("GET", "/", &[("Cookie", "signpost_site=forged")]),
        ("GET", "/", &[("Accept", "text/html")]),
    ];
    let mut statuses = Vec::new();
    for &(method, path, headers) in table {
        let own = comparable(app.request(method, path, headers));
        for protocol in Protocol::ALL {
            let theirs = comparable(protocol.ask(&signpost, &site, method, path, headers));
            assert_eq!(own, theirs, "{protocol:?}: {method} {path} {headers:?}");
        }
        statuses.push(own.status);
    }
    // Over HTTP/1.1 the binary rejects it before there is a request, so without the fields of the pool.
    let own = comparable(app.request("GET", "/", &many));
    assert_eq!(own, comparable(Protocol::Http2.ask(&signpost, &site, "GET", "/", &many)));
    statuses.push(own.status);
    // Hosts that need another certificate, over plain HTTP.
    for host in ["SITE.example:80", "x.wild.example", "cached.example", "unknown.example", "bad host", ""] {
        for method in ["GET", "HEAD", "PUT"] {
            let headers = &[("Host", host)];
            let own = comparable(app.request(method, "/p?q", headers));
            assert_eq!(own, comparable(signpost.request(method, "/p?q", headers)), "{method} {host:?}");
            statuses.push(own.status);
        }
    }
    for status in [302, 307, 204, 400, 405, 414, 421, 431] {
        assert!(statuses.contains(&status), "no request of the table got {status}");
    }
}

#[test]
fn mounts_beside_routes_nested_and_behind_layers() {
    let engine = Arc::new(engine(example::SETTINGS));
    let layer = SetResponseHeaderLayer::overriding(
        HeaderName::from_static("x-layer"),
        HeaderValue::from_static("here"),
    );
    let app = Application::start(example::app(&engine).layer(layer));
    assert_eq!(app.request("GET", "/about", &[]).text(), "We redirect downloads.\n");
    let answer = app.request("GET", "/dists/stable/Release", &[]);
    let location = answer.location();
    assert!(
        location.starts_with("https://mirror") && location.ends_with(".example.com/pub/dists/stable/Release")
    );
    assert_eq!(answer.header("x-layer"), Some("here"));
    let nested = app.request("GET", "/media/film?t=1", &[("Host", "media.example.com")]);
    assert!(nested.location().ends_with(".example.com/film?t=1"), "{nested:?}");
    let cookie = nested.cookie().unwrap().to_owned();
    for _ in 0..20 {
        let again =
            app.request("GET", "/media/film?t=1", &[("Host", "media.example.com"), ("Cookie", &cookie)]);
        assert_eq!(again.location(), nested.location(), "the pin holds on every thread");
    }
    let metrics = app.request("GET", "/metrics", &[]).text();
    let redirects = |decision| {
        ["media1.example.com", "media2.example.com"]
            .iter()
            .filter_map(|backend| {
                let labels = [("pool", "media"), ("backend", *backend), ("decision", decision)];
                series(&metrics, "signpost_redirects_total", &labels)
            })
            .sum::<f64>()
    };
    assert_eq!((redirects("picked"), redirects("pinned")), (1.0, 20.0), "{metrics}");
}

#[test]
fn clients_are_told_apart_by_connection_extension_and_proxy() {
    let engine = engine(
        "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.limits]\nrequests_per_second_per_client = 1\n\
         [pools.p]\npin = {}\nbackends = ['https://a.example']\nhealth.kind = 'none'\n",
    );
    let app = Application::start(
        Router::new()
            .nest_service(
                "/tls",
                tower::ServiceBuilder::new()
                    .layer(axum::Extension(ClientInfo { address: [192, 0, 2, 9].into(), by_tls: true }))
                    .service(engine.dispatcher()),
            )
            .fallback_service(engine.dispatcher()),
    );
    let from = |client: &str| app.request("GET", "/", &[("X-Forwarded-For", client)]);
    assert_eq!(
        [from("192.0.2.1").status, from("192.0.2.1").status, from("192.0.2.2").status],
        [302, 429, 302]
    );
    let plain = from("192.0.2.3");
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"));
    assert!(app.request("GET", "/tls/", &[]).header("set-cookie").unwrap().contains("Secure"));
    assert_eq!(app.request("GET", "/tls/", &[]).status, 429, "the extension counts, not the connection");
}

#[test]
fn probes_backends_and_takes_new_pools() {
    let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let up = backend.local_addr().unwrap();
    let down = crate::support::backend::free_address();
    let pool = |more: &str| {
        format!(
            "[pools.p]\nbackends = ['http://{up}', 'http://{down}'{more}]\n[pools.p.health]\ninterval = '50ms'\n"
        )
    };
    let engine = engine(&pool(""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(engine.ready());
    let app = Application::start(Router::new().fallback_service(engine.dispatcher()));
    for _ in 0..10 {
        assert_eq!(app.request("GET", "/", &[]).location(), format!("http://{up}/"), "the other one is down");
    }
    let new =
        Settings::from_toml("[pools.q]\nbackends = ['https://new.example']\nhealth.kind = 'none'\n").unwrap();
    runtime.block_on(engine.update(&new));
    assert_eq!(app.request("GET", "/", &[]).location(), "https://new.example/");
    // The last fleet outlives the engine.
    drop(engine);
    assert_eq!(app.request("GET", "/", &[]).location(), "https://new.example/");
    let wrong = Settings::from_toml("[pools.p]\nstrategy = 'roundrobin'\n").unwrap_err();
    assert!(wrong.iter().any(|error| error.to_string().contains("round_robin")), "{wrong:?}");
}
