//! What each fuzz target holds. The seeds run through the same functions as ordinary tests.

mod request_paths;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::header::{COOKIE, FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use signpost::control::Controller;
use signpost::dispatch::client_limits::ClientLimits;
use signpost::dispatch::response::HttpResponse;
use signpost::dispatch::{ConnectionInfo, DispatchConfig, ListenerRole, Worker, dispatch};
use signpost::estimate::Report;
use signpost::load;
use signpost::load::agent::AgentReply;
use signpost::metrics::{Counter, ReportResult};
use signpost::request::client_address::{ClientIpHeader, TrustedProxies};
use signpost::request::{ClientInfo, Headers, RequestView};
use signpost::server::proxy_protocol::{Header, MAX, Parsed, parse};
use signpost::settings::{Flags, JsonPointer, Layers, LoadUnit, SettingValue as _, Settings};

pub use request_paths::request_paths;

const BASE: &str = "https://b.example:8443/base";
const PEER: ClientInfo = ClientInfo { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), by_tls: false };

/// Who answers for one backend, with pins where asked for. It trusts no proxy and limits nobody.
pub fn worker(backend: &str, pin: bool) -> Worker {
    let flags = Flags { backends: vec![backend.to_owned()], pin, ..Flags::default() };
    let settings = Settings::load(&Layers { flags, ..Layers::default() }).expect("valid settings").settings;
    let (trust, clients) = (TrustedProxies::new([], ClientIpHeader::Forwarded), ClientLimits::new(0, 0));
    let policy = DispatchConfig { max_target: 8192, max_headers: 100, trust, clients, health_path: None };
    let controller = Controller::start(&settings, Counter::default());
    Worker::new(
        controller.published(),
        controller.clock(),
        rand::make_rng(),
        Counter::default(),
        policy,
        None,
    )
}

/// Responds to a request.
pub fn respond(worker: &Worker, request: &Request<()>) -> HttpResponse {
    let connection = ConnectionInfo { role: ListenerRole::Dispatch, peer: PEER, hsts: None };
    dispatch(worker, &connection, &RequestView::of(request), |response| response.to_http()).0
}

/// Runs a request through one worker, made once.
fn answer(method: Method, uri: Uri, headers: HeaderMap) -> HttpResponse {
    thread_local!(static WORKER: OnceCell<Worker> = const { OnceCell::new() });
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    WORKER.with(|cell| respond(cell.get_or_init(|| worker(BASE, true)), &request))
}

/// The first line is a method, the second a host, the rest a target: whatever they are, no answer leads anywhere
/// but under the backend's base, and no header has a line break in it.
pub fn location(data: &[u8]) {
    let mut parts = data.splitn(3, |&byte| byte == b'\n');
    let (Some(method), Some(host), Some(target)) = (parts.next(), parts.next(), parts.next()) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(host) = HeaderValue::from_bytes(host) {
        headers.insert(HOST, host);
    }
    let answer = answer(method, uri, headers);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let redirected = answer.status().is_redirection();
    assert_eq!(redirected, answer.headers().contains_key("location"));
    if redirected {
        let location = answer.headers()["location"].to_str().expect("a location is ASCII");
        let url = url::Url::parse(location).expect("a location is a URL");
        assert_eq!((url.host_str(), url.port()), (Some("b.example"), Some(8443)));
        assert!(url.username().is_empty() && url.password().is_none());
        assert!(url.path().starts_with("/base"), "{url}");
    }
}

/// Whatever the cookies are, the visitor is redirected, and no made-up pin counts.
pub fn pin(data: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("site.example"));
    for line in data.split(|&byte| byte == b'\n') {
        if let Ok(cookie) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, cookie);
        }
    }
    let answer = answer(Method::GET, Uri::from_static("/"), headers);
    assert_eq!(answer.status(), 302);
    assert!(answer.headers().contains_key("set-cookie"), "the pin was taken for one of ours");
}

/// Each line is a field: it changes nothing for an untrusted peer, the client of a trusted proxy is in the field, and
/// empty list items and lines change nothing.
pub fn forwarded(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let names =
        [FORWARDED, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-forwarded-proto")];
    let mut padded = HeaderMap::new();
    for (at, line) in data.split(|&byte| byte == b'\n').enumerate() {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            let with_empty_items = [b", ,", line, b" ,\t,"].concat();
            padded.append(
                &names[at % names.len()],
                HeaderValue::from_bytes(&with_empty_items).expect("a value"),
            );
            padded.append(&names[at % names.len()], HeaderValue::from_static(""));
            headers.append(&names[at % names.len()], value);
        }
    }
    for field in [ClientIpHeader::Forwarded, ClientIpHeader::XForwardedFor] {
        let nobody = TrustedProxies::new(["192.0.2.0/24".parse().expect("a network")], field);
        assert_eq!(nobody.resolve(PEER, Headers::Map(&headers)), PEER);
        let proxies = TrustedProxies::new(["10.0.0.0/8".parse().expect("a network")], field);
        let client = proxies.resolve(PEER, Headers::Map(&headers));
        let said = headers.values().any(|value| value.as_bytes().iter().any(|byte| b".:".contains(byte)));
        assert!(client.address == PEER.address || said);
        assert_eq!(proxies.resolve(PEER, Headers::Map(&padded)), client, "{headers:?}");
    }
}

/// However the bytes are cut, a header ends in one place, says one thing, and takes nothing of what follows it; what
/// is none stays none. What it says can be said again.
pub fn proxy_protocol(data: &[u8]) {
    let all = parse(data);
    for cut in 0..data.len() {
        let part = parse(&data[..cut]);
        match all {
            Ok(Parsed::Partly) => assert_eq!(part, all),
            Ok(Parsed::Whole { length, .. }) => {
                assert_eq!(part, if cut < length { Ok(Parsed::Partly) } else { all });
            }
            // Some part was wrong first, and everything from there on is.
            Err(_) => assert!(!matches!(part, Ok(Parsed::Whole { .. }))),
        }
    }
    let Ok(Parsed::Whole { length, header }) = all else {
        assert!(all.is_err() || data.len() < MAX, "it would never end");
        return;
    };
    assert!(length <= MAX.min(data.len()));
    let Some(client) = header.client else { return };
    assert_eq!(client, client.to_canonical());
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!("PROXY {family} {client} {client} 1 65535\r\n");
    let said = Header { client: Some(client), by_tls: false };
    assert_eq!(parse(line.as_bytes()), Ok(Parsed::Whole { length: line.len(), header: said }));
}

/// Whatever a backend says, in whatever form: it is refused, or becomes a report whose numbers are finite and in bounds.
pub fn load(data: &[u8]) {
    let expires = Duration::from_secs(15);
    let line = AgentReply::parse(data);
    let asked = line.as_ref().ok().and_then(|line| line.claim()).map(Ok);
    let mut claims: Vec<_> = asked.into_iter().collect();
    let root = JsonPointer::parse("").expect("a pointer");
    for unit in [LoadUnit::Sessions, LoadUnit::Utilization, LoadUnit::Percent, LoadUnit::RequestsPerSecond] {
        claims.extend([load::header(data, unit), load::body(data, &root, unit)]);
    }
    claims.push(load::push(data));
    for claim in claims {
        match claim.and_then(|claim| Ok(Report::new(claim, expires)?)) {
            Ok(report) => {
                let most = [
                    (report.sessions(), Report::MOST),
                    (report.utilization(), Report::MOST_UTILIZATION),
                    (report.capacity(), Report::MOST),
                    (report.rate(), Report::MOST),
                ];
                assert!(
                    most.iter().all(|(value, most)| value.is_none_or(|value| (0.0..=*most).contains(&value)))
                );
                assert!(most.iter().any(|(value, _)| value.is_some()) && report.age() <= expires);
            }
            Err(refused) => assert!(!refused.to_string().is_empty() && refused.told() != ReportResult::Ok),
        }
    }
}

/// Each line is `key=value`, a variable: settings load, or say which key is wrong. What loads builds a fleet.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            (OsString::from(format!("SIGNPOST__{}", key.to_uppercase())), OsString::from(value))
        })
        // Files are not this target's; it would read the machine's.
        .filter(|(key, _)| !key.to_string_lossy().ends_with("_FILE"))
        .filter(|(key, _)| !key.to_string_lossy().contains("ERROR_PAGES"))
        .collect();
    let flags = Flags { backends: vec![BASE.to_owned()], ..Flags::default() };
    match Settings::load(&Layers { environment, flags, ..Layers::default() }) {
        Ok(loaded) => {
            Controller::start(&loaded.settings, Counter::default());
        }
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.text.is_empty()))
        }
    }
}
