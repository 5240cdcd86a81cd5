//! HTTP/2 over TLS: what a visitor gets, and what a hostile one may cost.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use rustls::pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::certificates::{Site, TlsConnection, client, connect};
use crate::harness::{Connection, PATIENCE, Signpost};

/// A dispatcher that speaks TLS for `site.test`.
struct Server {
    signpost: Signpost,
    site: Site,
    _dir: tempfile::TempDir,
}

fn serve(more: &str) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::write(dir.path(), "site", &["site.test"]);
    let signpost = Signpost::with_settings(&format!(
        "[pools.p]\nhosts = ['site.test']\nbackends = ['http://127.0.0.1:9001']\npin = {{}}\n\
         [server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n{more}",
        site.toml()
    ));
    Server { signpost, site, _dir: dir }
}

impl Server {
    fn address(&self) -> SocketAddr {
        self.signpost.tls.unwrap()
    }

    fn visitor(&self) -> Visitor {
        Visitor { address: self.address(), config: Arc::new(client(&[&self.site], &["h2", "http/1.1"])) }
    }

    async fn open(&self) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
        self.visitor().open().await
    }

    fn limited(&self, limit: &str) -> f64 {
        self.signpost.metric("signpost_limit_hits_total", &[("limit", limit)])
    }

    fn wait_until_limited(&self, limit: &str, times: f64) {
        self.signpost.wait_for_metric("signpost_limit_hits_total", &[("limit", limit)], times);
    }

    fn wait_until_nobody_is_connected(&self) {
        let listener = self.address().to_string();
        self.signpost.wait_for_metric("signpost_connections", &[("listener", &listener)], 0.0);
    }
}

/// Who comes from where a thread can take it.
#[derive(Clone)]
struct Visitor {
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
}

impl Visitor {
    /// A connection and the task that drives it.
    async fn open(&self) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
        let socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("site.test").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "h2 is preferred");
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        (requests, tokio::spawn(connection))
    }

    /// A connection on which frames are written by hand. The preface and settings are sent.
    fn raw(&self) -> TlsConnection {
        let mut connection = connect(self.address, "site.test", &self.config).unwrap();
        connection.stream().sock.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        connection.send(&frame(SETTINGS, 0, 0, b""));
        connection
    }
}

/// Runs a client to its end.
fn run<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await.expect("an end") })
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

async fn ask(
    requests: &mut SendRequest<Bytes>,
    request: Request<()>,
) -> Result<Response<RecvStream>, h2::Error> {
    let mut ready = requests.clone().ready().await?;
    ready.send_request(request, true)?.0.await
}

#[test]
fn streams_of_one_connection_are_redirected() {
    let server = serve("hsts = '1h'");
    run(async {
        let (mut requests, _connection) = server.open().await;
        for round in 0..5 {
            let mut answers = Vec::new();
            for n in 0..100 {
                let path = format!("/{round}/{n}?a=b");
                let mut ready = requests.clone().ready().await.unwrap();
                answers
                    .push((path.clone(), ready.send_request(get(&format!("https://site.test{path}")), true)));
            }
            for (path, answer) in answers {
                let answer = answer.unwrap().0.await.unwrap();
                assert_eq!(answer.status(), 302);
                let headers = answer.headers();
                assert_eq!(headers["location"], format!("http://127.0.0.1:9001{path}"));
                assert!(headers["set-cookie"].to_str().unwrap().ends_with("; Secure"));
                assert_eq!(headers["strict-transport-security"], "max-age=3600");
                assert_eq!(headers["cache-control"], "no-store");
                assert!(!headers.contains_key("connection"));
            }
        }
        // A pin comes back as a field of its own, as HTTP/2 lets cookies be split.
        let answer = ask(&mut requests, get("https://site.test/")).await.unwrap();
        let pin = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut request = get("https://site.test/");
        request.headers_mut().append("cookie", "a=b".parse().unwrap());
        request.headers_mut().append("cookie", pin.parse().unwrap());
        let answer = ask(&mut requests, request).await.unwrap();
        assert!(!answer.headers().contains_key("set-cookie"));
    });
    let listener = server.address().to_string();
    assert_eq!(server.signpost.metric("signpost_connections_total", &[("listener", &listener)]), 1.0);
    let line = server.signpost.next_line();
    assert!(line.contains(r#""host":"site.test""#), "{line}");
}

#[test]
fn the_authority_is_the_host() {
    let server = serve("");
    run(async {
        let (mut requests, _connection) = server.open().await;
        for (uri, host, status) in [
            ("https://SITE.test.:8443/", "", 302),
            ("https://site.test/", "site.test", 302),
            ("https://site.test/", "evil.example", 400),
            ("https://evil.example/", "", 421),
            ("https://evil.example/", "site.test", 400),
        ] {
            let mut request = get(uri);
            if !host.is_empty() {
                request.headers_mut().insert("host", host.parse().unwrap());
            }
            assert_eq!(ask(&mut requests, request).await.unwrap().status(), status, "{uri} {host}");
        }
        let mut options = Request::options("https://site.test/x").body(()).unwrap();
        assert_eq!(ask(&mut requests, options).await.unwrap().status(), 204);
        options = Request::builder().method("TRACE").uri("https://site.test/").body(()).unwrap();
        assert_eq!(ask(&mut requests, options).await.unwrap().status(), 405);
    });
    assert_eq!(
        server.signpost.metric("signpost_rejected_requests_total", &[("reason", "duplicate_host")]),
        2.0
    );
}

#[test]
fn limits_on_heads_hold() {
    let server = serve("[server.limits]\nmax_headers = 20");
    run(async {
        let (mut requests, _connection) = server.open().await;
        let mut many = get("https://site.test/");
        for n in 0..21 {
            many.headers_mut().insert(
                http::HeaderName::from_bytes(format!("x-{n}").as_bytes()).unwrap(),
                "y".parse().unwrap(),
            );
        }
        assert_eq!(ask(&mut requests, many).await.unwrap().status(), 431);
        let mut large = get("https://site.test/");
        large.headers_mut().insert("x", "y".repeat(17 << 10).parse().unwrap());
        assert_eq!(ask(&mut requests, large).await.unwrap().status(), 431);
        let long = format!("https://site.test/{}", "a".repeat(9 << 10));
        assert_eq!(ask(&mut requests, get(&long)).await.unwrap().status(), 414);
        assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
    });
}

#[test]
fn a_body_is_not_waited_for() {
    let server = serve("");
    run(async {
        let (mut requests, _connection) = server.open().await;
        for _ in 0..3 {
            let post = Request::post("https://site.test/up").body(()).unwrap();
            let mut ready = requests.clone().ready().await.unwrap();
            let (answer, mut body) = ready.send_request(post, false).unwrap();
            let mut left = 20_000_000;
            body.reserve_capacity(left);
            // It sends for as long as it is let.
            let stopped = loop {
                match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(room)) if room > 0 => {
                        if let Err(error) = body.send_data(Bytes::from(vec![0; room.min(left)]), false) {
                            break error.reason();
                        }
                        left -= room.min(left);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.reason(),
                    None => break std::future::poll_fn(|cx| body.poll_reset(cx)).await.ok(),
                }
            };
            assert_eq!(stopped, Some(Reason::NO_ERROR));
            assert!(left > 19_000_000, "{left} bytes were not sent");
            assert_eq!(answer.await.unwrap().status(), 307);
        }
        assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
    });
}

#[test]
fn head_gets_the_length_of_what_get_would_get() {
    let server = serve("");
    run(async {
        let (mut requests, _driver) = server.open().await;
        for (method, bytes) in [("GET", 30), ("HEAD", 0)] {
            let request = Request::builder().method(method).uri("https://other.test/").body(()).unwrap();
            let answer = ask(&mut requests, request).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["content-length"]),
                (421, &"30".parse().unwrap())
            );
            let mut body = answer.into_body();
            let mut came = 0;
            while let Some(data) = body.data().await {
                came += data.unwrap().len();
            }
            assert_eq!(came, bytes, "{method}");
        }
    });
}

/// A client that is in wide use and throws the answer away where the reset comes with it.
#[test]
fn curl_reads_the_answer_to_a_body() {
    let server = serve("");
    let mut body = tempfile::NamedTempFile::new().unwrap();
    body.write_all(&[b'x'; 1_000_000]).unwrap();
    let address = server.address();
    let curl = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--http2", "--max-time", "20", "--output", "/dev/null"])
        .args(["--write-out", "%{http_version} %{http_code}", "--noproxy", "*"])
        .arg("--data-binary")
        .arg(format!("@{}", body.path().display()))
        .arg("--cacert")
        .arg(&server.site.cert)
        .args(["--resolve", &format!("site.test:{}:127.0.0.1", address.port())])
        .arg(format!("https://site.test:{}/up", address.port()))
        .output();
    let Ok(output) = curl else {
        crate::harness::skipped("curl is missing; `apt-get install curl` has it");
        return;
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if said.contains("does not support") {
        crate::harness::skipped("curl speaks no HTTP/2");
        return;
    }
    assert_eq!(said, "2 307");
}

#[test]
fn leaving_is_said_and_ends_connections() {
    let mut server = serve("");
    run(async {
        let (mut requests, connection) = server.open().await;
        let (_unused, fresh) = server.open().await;
        assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
        server.signpost.signal("TERM");
        // In good order, which for h2's client means GOAWAY with NO_ERROR.
        connection.await.unwrap().unwrap();
        fresh.await.unwrap().unwrap();
        assert!(ask(&mut requests, get("https://site.test/")).await.is_err());
    });
    assert!(server.signpost.wait().success());
}

#[test]
fn connections_that_ask_nothing_end() {
    let server = serve("[server.limits]\nheader_timeout = '300ms'\nidle_timeout = '400ms'");
    // One that says nothing at all within TLS, one that says nothing but hello.
    let config = Arc::new(client(&[&server.site], &["h2"]));
    let mut silent = connect(server.address(), "site.test", &config).unwrap();
    run(async {
        let (mut requests, idle) = server.open().await;
        let (_unused, fresh) = server.open().await;
        assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
        idle.await.unwrap().unwrap();
        fresh.await.unwrap().unwrap();
    });
    assert!(silent.closes());
    server.wait_until_limited("header_timeout", 2.0);
    server.wait_until_limited("idle_timeout", 1.0);
    server.wait_until_nobody_is_connected();
}

#[test]
fn a_connection_ends_after_the_most_requests() {
    let server = serve("[server.limits]\nmax_requests_per_connection = 3");
    run(async {
        let (mut requests, connection) = server.open().await;
        for _ in 0..3 {
            assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
        }
        connection.await.unwrap().unwrap();
    });
    server.wait_until_limited("requests_per_connection", 1.0);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET https://site.test/` by HPACK's static table, and a literal authority.
fn head() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x41, 9][..], b"site.test"].concat()
}

/// Sends what `next` makes until the peer has had enough; whether it ever had.
fn flood(connection: &mut TlsConnection, mut next: impl FnMut(u32) -> Vec<u8>) -> bool {
    let pieces = (0..2_000_000 / 64).map(|piece| (64 * piece..64 * piece + 64).flat_map(&mut next).collect());
    let mut sent = pieces.map(|piece: Vec<u8>| connection.stream().write_all(&piece).is_ok());
    sent.any(|sent| !sent)
}

#[test]
fn a_response_to_a_stream_that_is_reset_before_it_is_logged_as_aborted() {
    let server = serve("");
    let mut connection = server.visitor().raw();
    // In one piece, so that no response is made before its stream is reset.
    let frames = (0..10_u32).flat_map(|n| {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head());
        let reset = if n % 2 == 0 { frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]) } else { vec![] };
        [open, reset].concat()
    });
    connection.send(&frames.collect::<Vec<_>>());
    let aborted = (0..10).filter(|_| server.signpost.next_line().contains("\"aborted\":true")).count();
    assert_eq!(aborted, 5);
    assert_eq!(server.signpost.metric("signpost_responses_aborted_total", &[]), 5.0);
}

#[test]
fn responses_that_a_client_leaves_unread_are_logged_as_aborted() {
    let server = serve("[server.limits]\nmax_requests_per_connection = 0");
    let redirected = || server.signpost.metric("signpost_responses_total", &[("code", "302")]);
    let mut connection = server.visitor().raw();
    // A path of 4000 bytes, so that few responses fill all buffers: its length is 127 + 0x21 + 0x1e * 128.
    let path = [&[0x04, 0x7f, 0xa1, 0x1e, b'/'][..], &[b'a'; 3999]].concat();
    let head = [&[0x82, 0x87][..], &path, &[0x41, 9], b"site.test"].concat();
    let mut requests = 0;
    // Fewer at a time than there may be streams.
    for piece in 0..1000 {
        let streams = (piece * 32..(piece + 1) * 32).map(|n| 2 * n + 1);
        let frames = streams.flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
        connection.send(&frames.collect::<Vec<_>>());
        let before = requests;
        let stalls = Instant::now() + Duration::from_millis(500);
        while requests < before + 32 && Instant::now() < stalls {
            requests = redirected() as usize;
        }
        if requests < before + 32 {
            break;
        }
    }
    drop(connection);
    server.wait_until_nobody_is_connected();
    let (requests, aborted) =
        (redirected() as usize, server.signpost.metric("signpost_responses_aborted_total", &[]) as usize);
    assert!(requests < 32_000 && aborted > 0, "{requests} requests, {aborted} aborted");
    // No more is read from a client that reads nothing, lest its responses fill the memory: as many as may wait, and
    // those to requests that were read along with the last of these.
    assert!(aborted < 300, "{requests} requests, {aborted} aborted");
    let lines = (0..requests).filter(|_| server.signpost.next_line().contains("\"aborted\":true")).count();
    assert_eq!(lines, aborted);
}

#[test]
fn connect_is_rejected_and_ends_its_stream_alone() {
    let server = serve("");
    run(async {
        let (mut requests, _connection) = server.open().await;
        let connect = Request::connect("evil.test:443").body(()).unwrap();
        assert_eq!(ask(&mut requests, connect).await.unwrap().status(), 405);
        assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
    });
}

/// What a flood does to others: they are served all the while.
#[test]
fn a_flood_costs_its_connection_alone() {
    let server = serve("[server.limits]\nheader_timeout = '1s'\nidle_timeout = '1s'");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (visitor, plain) = (server.visitor(), server.signpost.traffic);
        let over = &over;
        let others = scope.spawn(move || {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                run(async {
                    let (mut requests, _connection) = visitor.open().await;
                    assert_eq!(ask(&mut requests, get("https://site.test/")).await.unwrap().status(), 302);
                });
                let answer = Connection::to(plain).request("GET", "/", &[("Host", "site.test")]);
                assert_eq!(answer.status, 302);
                served += 1;
            }
            served
        });
        let stream = |n: u32| 2 * n + 1;
        let open = |flags| frame(HEADERS, END_HEADERS | flags, 1, &head());
        type Flood<'a> = (&'a str, Vec<u8>, Box<dyn Fn(u32) -> Vec<u8> + Send + 'a>);
        let floods: Vec<Flood<'_>> = vec![
            (
                "rapid reset",
                vec![],
                Box::new(move |n| {
                    let open = frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head());
                    [open, frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])].concat()
                }),
            ),
            (
                "resets that we are made to send",
                vec![],
                // A body that goes on after its end is an error of the stream.
                Box::new(move |n| {
                    let open = frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &head());
                    [open, frame(DATA, 0, stream(n), b"x")].concat()
                }),
            ),
            (
                "CONTINUATION",
                frame(HEADERS, END_STREAM, 1, &head()),
                Box::new(|_| frame(CONTINUATION, 0, 1, &[0x40, 1, b'x', 1, b'y'])),
            ),
            (
                "empty CONTINUATION",
                frame(HEADERS, 0, 1, &head()),
                Box::new(|_| frame(CONTINUATION, 0, 1, b"")),
            ),
            ("empty DATA", open(0), Box::new(|_| frame(DATA, 0, 1, b""))),
            ("PING", vec![], Box::new(|_| frame(PING, 0, 0, b"12345678"))),
            ("SETTINGS", vec![], Box::new(|_| frame(SETTINGS, 0, 0, b""))),
        ];
        let floods: Vec<_> = floods
            .into_iter()
            .map(|(name, first, next)| {
                let visitor = server.visitor();
                scope.spawn(move || {
                    let mut connection = visitor.raw();
                    connection.send(&first);
                    (name, flood(&mut connection, next))
                })
            })
            .collect();
        let ended: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(others.join().unwrap() > 0);
        for (name, ended) in ended {
            assert!(ended, "{name} went on for ever");
        }
    });
    server.wait_until_nobody_is_connected();
    assert!(server.limited("http2_flood") >= 1.0);
    let resident = server.signpost.metric("process_resident_memory_bytes", &[]);
    assert!(resident < 64e6, "{resident} bytes");
}
