//! `error_pages`: HTML in place of the plain text of an error.

use std::path::{Path, PathBuf};

use crate::certificates::Site;
use crate::harness::{Answer, Connection, Signpost, wait_until};
use crate::protocols::Protocol;

/// What Chromium sends when it loads a page.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";
const ORIGIN: &str = "https://app.example";

struct Entry {
    signpost: Signpost,
    site: Site,
    dir: tempfile::TempDir,
}

impl Entry {
    /// The pool `site` has a page of its own for 503, and CORS; `other` has none. Neither has an eligible backend.
    fn start(server: &str, limits: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::write(dir.path(), "site", &["site.example"]);
        for name in ["400", "404", "405", "414", "421", "429", "431", "503"] {
            std::fs::write(dir.path().join(format!("{name}.html")), page(&format!("server {name}"))).unwrap();
        }
        std::fs::write(dir.path().join("pool.html"), page("pool 503")).unwrap();
        let pool = |name: &str, more: &str| {
            format!(
                "[pools.{name}]\nhosts = ['site.example']\npath_prefix = '/{name}'\npanic_threshold = 0\n\
                 backends = [{{ id = '{name}', url = 'http://127.0.0.1:1/base' }}]\n\
                 health = {{ interval = '50ms', fall = 1 }}\n{more}\n"
            )
        };
        let settings = [
            "[server]\nlisten = ['127.0.0.1:0']\ntrusted_proxies = ['127.0.0.1']\n",
            server,
            "\n[server.error_pages]\n400 = '400.html'\n404 = '404.html'\n405 = '405.html'\n414 = '414.html'\n\
             421 = '421.html'\n429 = '429.html'\n431 = '431.html'\n503 = '503.html'\n",
            "[server.limits]\nmax_target_bytes = '100B'\nmax_headers = 20\n",
            limits,
            &format!(
                "[server.tls]\nlisten = ['127.0.0.1:0']\nredirect_listen = ['127.0.0.1:0']\ncertificates = [{}]\n",
                site.toml()
            ),
            &pool(
                "site",
                &format!("error_pages = {{ 503 = 'pool.html' }}\ncors = {{ origins = ['{ORIGIN}'] }}"),
            ),
            &pool("other", ""),
        ];
        // Relative paths start at the folder of the settings file.
        let file = dir.path().join("site.toml");
        std::fs::write(&file, settings.concat()).unwrap();
        let args = ["--admin", "127.0.0.1:0", "--settings", file.to_str().unwrap()];
        let signpost = Signpost::start_command(&mut crate::harness::command(args));
        for name in ["site", "other"] {
            signpost.wait_for_state(name, "down");
        }
        Self { signpost, site, dir }
    }

    fn ask(&self, protocol: Protocol, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        protocol.ask(&self.signpost, &self.site, method, path, headers)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn page(text: &str) -> String {
    format!("<!doctype html><title>{text}</title><p>é\n")
}

/// Asserts that a response has this body, whole, or its head alone.
fn assert_body(answer: &Answer, method: &str, body: &str, what: &str) {
    assert_eq!(answer.header("content-length"), Some(&*body.len().to_string()), "{what}");
    let kind = if body.starts_with("<!doctype") { "text/html" } else { "text/plain" };
    assert_eq!(answer.header("content-type"), Some(&*format!("{kind}; charset=utf-8")), "{what}");
    assert_eq!(answer.text(), if method == "HEAD" { "" } else { body }, "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
}

#[test]
fn pages_are_sent_to_clients_that_accept_html() {
    let entry = Entry::start("", "");
    let long = format!("/other/{}", "x".repeat(100));
    let many: Vec<_> = (0..21).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "y")).collect();
    let everywhere = &Protocol::ALL[..];
    for (method, path, more, status, text, protocols) in [
        ("GET", "/site/x", &[][..], 503, "pool 503", everywhere),
        ("HEAD", "/site/x", &[], 503, "pool 503", everywhere),
        ("POST", "/site/x", &[], 503, "pool 503", everywhere),
        ("GET", "/other/x", &[], 503, "server 503", everywhere),
        ("GET", "/other/%2e%2e/%2e%2e", &[], 400, "server 400", everywhere),
        ("GET", "/nowhere", &[], 404, "server 404", everywhere),
        ("HEAD", "/nowhere", &[], 404, "server 404", everywhere),
        ("TRACE", "/other/x", &[], 405, "server 405", everywhere),
        ("GET", &long, &[], 414, "server 414", everywhere),
        ("GET", "/other/x", &many, 431, "server 431", &[Protocol::Http2]),
    ] {
        for &protocol in protocols {
            let what = format!("{protocol:?} {method} {path}");
            let ask = |accept: &[(&str, &str)]| {
                let answer = entry.ask(protocol, method, path, &[accept, more].concat());
                assert_eq!(answer.status, status, "{what}");
                assert!(answer.headers.contains(&("vary".to_owned(), "accept".to_owned())), "{what}");
                assert_eq!(answer.header("retry-after").is_some(), status == 503, "{what}");
                answer
            };
            assert_body(&ask(&[("Accept", BROWSER)]), method, &page(text), &what);
            for plain in [&[][..], &[("Accept", "*/*")], &[("Accept", "text/html;q=0")]] {
                let answer = ask(plain);
                assert!(!answer.text().contains('<'), "{what} {plain:?}");
                assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{what}");
            }
        }
    }
    // Without a page for its status a response does not depend on the field.
    let malformed =
        entry.ask(Protocol::Http1, "GET", "/site/x", &[("Host", "other.example"), ("Accept", BROWSER)]);
    assert_body(&malformed, "GET", &page("server 421"), "421");
}

#[test]
fn a_page_is_shared_with_the_origins_of_its_pool() {
    let entry = Entry::start("", "");
    for protocol in Protocol::ALL {
        let answer = entry.ask(protocol, "GET", "/site/x", &[("Accept", BROWSER), ("Origin", ORIGIN)]);
        assert_body(&answer, "GET", &page("pool 503"), "503");
        assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN));
        assert_eq!(answer.header("access-control-expose-headers"), Some("retry-after"));
        let vary = answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str());
        assert_eq!(vary.collect::<Vec<_>>(), ["accept", "origin"]);
    }
}

#[test]
fn the_redirect_listener_and_limits_have_pages_too() {
    let entry = Entry::start("", "requests_per_second_per_client = 1\n");
    let ask = |headers: &[(&str, &str)]| {
        Connection::to(entry.signpost.upgrade.unwrap()).request("GET", "/", headers)
    };
    let unknown = ask(&[("Host", "other.example"), ("Accept", BROWSER), ("X-Forwarded-For", "192.0.2.1")]);
    assert_body(&unknown, "GET", &page("server 421"), "421");
    wait_until("the client is over its rate", || {
        let answer = ask(&[("Accept", BROWSER), ("X-Forwarded-For", "192.0.2.2")]);
        if answer.status != 429 {
            return false;
        }
        assert_body(&answer, "GET", &page("server 429"), "429");
        true
    });
}

#[test]
fn the_longest_page_arrives_whole() {
    let longest = format!("<!doctype html>{}", "y".repeat((64 << 10) - 15));
    let entry = Entry::start("watch_interval = '100ms'", "");
    std::fs::write(entry.file("pool.html"), &longest).unwrap();
    for protocol in Protocol::ALL {
        wait_until("the page is read", || {
            entry.ask(protocol, "HEAD", "/site/x", &[("Accept", BROWSER)]).header("content-length")
                == Some("65536")
        });
        let answer = entry.ask(protocol, "GET", "/site/x", &[("Accept", BROWSER)]);
        assert_body(&answer, "GET", &longest, &format!("{protocol:?}"));
        // The last response of a connection is written in another way.
        if matches!(protocol, Protocol::Http1 | Protocol::Tls) {
            let last = [("Accept", BROWSER), ("Connection", "close")];
            assert_body(&entry.ask(protocol, "GET", "/site/x", &last), "GET", &longest, "last");
        }
    }
}

#[test]
fn a_changed_page_is_read_again_and_a_broken_one_is_not() {
    let entry = Entry::start("watch_interval = '100ms'", "");
    let mut connection = entry.signpost.connect();
    let mut body = |path: &str| connection.request("GET", path, &[("Accept", BROWSER)]).text();
    let replace = |path: &Path, text: &[u8]| {
        let next = entry.file("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, path).unwrap();
    };
    let (pool, server) = (entry.file("pool.html"), entry.file("503.html"));
    replace(&pool, page("pool 2").as_bytes());
    wait_until("the page of the pool is read", || body("/site/x") == page("pool 2"));
    replace(&server, page("server 2").as_bytes());
    wait_until("the page of the server is read", || body("/other/x") == page("server 2"));

    for (broken, key, why) in [
        (vec![], "pools.site.error_pages.503", "it is empty"),
        (vec![b'x'; (64 << 10) + 1], "pools.site.error_pages.503", "more than 64 KiB"),
        (b"\xff".to_vec(), "pools.site.error_pages.503", "not valid UTF-8"),
    ] {
        replace(&pool, &broken);
        entry.signpost.wait_for_log(why);
        let log = entry.signpost.log();
        assert!(log.contains(key) && log.contains("pool.html"), "{log}");
        entry.signpost.wait_for_metric("signpost_config_last_reload_successful", &[], 0.0);
        assert_eq!(body("/site/x"), page("pool 2"), "{why}");
    }
    std::fs::remove_file(&server).unwrap();
    entry.signpost.wait_for_log("server.error_pages.503");
    assert_eq!(body("/other/x"), page("server 2"));

    replace(&server, page("server 3").as_bytes());
    replace(&pool, page("pool 3").as_bytes());
    wait_until("both are read", || body("/site/x") == page("pool 3") && body("/other/x") == page("server 3"));
    entry.signpost.wait_for_metric("signpost_config_last_reload_successful", &[], 1.0);
    // All of it on one connection: listeners and workers stay.
    assert!(!entry.signpost.log().contains("listeners replaced"));
}
