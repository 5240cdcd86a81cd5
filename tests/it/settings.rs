//! Settings as an operator meets them: errors that name key, value and origin, layers, `check`.

use std::path::{Path, PathBuf};

use signpost::settings::{Layers, Settings};

use crate::harness::{Signpost, command, run, settings_file, stderr};

/// `check` on one file's text: exit code, standard output, standard error.
fn check(toml: &str) -> (i32, String, String) {
    let file = settings_file(toml);
    let output = run(["check", "--settings", file.path().to_str().unwrap()]);
    let said = stderr(&output).replace(&file.path().display().to_string(), "FILE");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), said)
}

const A: &str = "[pools.a]\nbackends = ['http://127.0.0.1:9001']\n";

const ONE_TOKEN: &str = "one and the same token of thirty-two bytes";

#[test]
fn each_mistake_is_named_with_its_key_value_and_file() {
    let pool = |backends: &str| format!("[pools.a]\nbackends = [{backends}]\n");
    let url = |url: &str| pool(&format!("'{url}'"));
    for (toml, key, says) in [
        ("".to_owned(), "pools", "--backend"),
        (pool(""), "pools.a.backends", "takes one or more"),
        ("[pools.a]".to_owned(), "pools.a.backends", "takes one or more"),
        ("[pools.A]\nbackends = ['http://b']".to_owned(), "pools.A", "a-z 0-9 _ -"),
        ("[pools]\nbackends = ['http://b']".to_owned(), "pools.backends", "such as [pools.site]"),
        (url("b.example"), "pools.a.backends[0]", "no scheme"),
        (url("ftp://b.example"), "pools.a.backends[0]", "neither http nor https"),
        (url("https://u:p@b.example"), "pools.a.backends[0]", "userinfo"),
        (url("https://b.example/?q"), "pools.a.backends[0]", "query"),
        (url("https://b.example/#f"), "pools.a.backends[0]", "fragment"),
        (url("300*https://b.example"), "pools.a.backends[0]", "0 (no new visitors) to 256"),
        (url("https://b.example,https://c.example"), "pools.a.backends[0]", "one URL per --backend"),
        (
            format!("{A}hosts = ['www.example.com']\n[pools.a.pin]\ndomain = 'example.org'"),
            "pools.a.pin.domain",
            "a parent of every host",
        ),
        (url("0*https://b.example"), "pools.a.backends", "every weight is 0"),
        (pool("'https://b.example', 'https://b.example/x'"), "pools.a.backends[1].id", "an id of its own"),
        (pool("{ id = 'x' }"), "pools.a.backends[0].url", "is missing"),
        (pool("{ url = 'https://b', weigth = 1 }"), "pools.a.backends[0].weigth", "did you mean \"weight\"?"),
        (pool("{ url = 'https://b', weight = -1 }"), "pools.a.backends[0].weight", "got -1"),
        (pool("5"), "pools.a.backends[0]", "got 5"),
        (format!("{A}strategy = 'roundrobin'"), "pools.a.strategy", "did you mean \"round_robin\"?"),
        (
            format!("{A}strategy = 'leastconn'"),
            "pools.a.strategy",
            "one of \"random\", \"round_robin\", \"least_load\"",
        ),
        (format!("{A}[server]\nhealth_path = 'health'"), "server.health_path", "begin with a slash"),
        (format!("{A}[server]\nhealth_path = ''"), "server.health_path", "begin with a slash"),
        (format!("{A}[server]\nhealth_path = '/health?deep'"), "server.health_path", "the path alone"),
        (format!("{A}[server]\nhealth_path = '/health/*'"), "server.health_path", "without wildcards"),
        (format!("{A}[server]\nhealth_path = '/a/../health'"), "server.health_path", "dot segments"),
        (format!("{A}[server]\nhealth_path = '/a b'"), "server.health_path", "percent-encoded"),
        (format!("{A}[server]\nhealth_path = true"), "server.health_path", "one path"),
        (format!("{A}shadow = ['rando']"), "pools.a.shadow[0]", "did you mean \"random\"?"),
        (format!("{A}shadow = ['round_robin']"), "pools.a.shadow[0]", "a strategy of this pool already"),
        (format!("{A}shadow = ['random', 'random']"), "pools.a.shadow[1]", "a strategy of this pool already"),
        (format!("{A}split = {{ random = 2 }}"), "pools.a.split.random", "a number from 0 to 1"),
        (format!("{A}split = {{ randm = 0.1 }}"), "pools.a.split.randm", "did you mean \"random\"?"),
        (format!("{A}split = {{ round_robin = 0.1 }}"), "pools.a.split.round_robin", "takes another"),
        (format!("{A}split = 5"), "pools.a.split", "takes a table"),
        (
            format!("{A}rotation_interval = '10m'"),
            "pools.a.rotation_interval",
            "no shadow to take turns with",
        ),
        (
            format!("{A}shadow = ['random']\nrotation_interval = '1s'"),
            "pools.a.rotation_interval",
            "from 10s to 1 day",
        ),
        (
            format!("{A}max_requests_per_second = -1"),
            "pools.a.max_requests_per_second",
            "from 0.001 to 1000000",
        ),
        (
            pool("{ url = 'https://b', max_requests_per_second = 'x' }"),
            "pools.a.backends[0].max_requests_per_second",
            "from 0.001 to 1000000",
        ),
        (format!("{A}hash = {{ key = 'body' }}"), "pools.a.hash.key", "header:NAME"),
        (format!("{A}hash = {{ balance_factor = 100 }}"), "pools.a.hash.balance_factor", "from 101 to 10000"),
        (
            format!("{A}first = {{ max_utilization = 2 }}"),
            "pools.a.first.max_utilization",
            "a number from 0 to 1",
        ),
        (format!("{A}cache_max_age = '1m'"), "pools.a.cache_max_age", "other than consistent_hash"),
        (
            format!("{A}strategy = 'consistent_hash'\nsplit = {{ random = 0.1 }}\ncache_max_age = '1m'"),
            "pools.a.cache_max_age",
            "other than consistent_hash",
        ),
        (
            format!("{A}strategy = 'consistent_hash'\npin = {{}}\ncache_max_age = '1m'"),
            "pools.a.cache_max_age",
            "the pool pins",
        ),
        (format!("{A}status = 301"), "pools.a.status", "302, 303 or 307"),
        (format!("{A}path_prefix = 'x'"), "pools.a.path_prefix", "got \"x\""),
        (format!("{A}hosts = ['a:80']"), "pools.a.hosts[0]", "without port"),
        (format!("{A}hosts = ['a', 'A.']"), "pools.a.hosts", "listed twice"),
        (
            format!("{A}[pools.b]\nbackends = ['http://127.0.0.1:9002']"),
            "pools.b.path_prefix",
            "belongs to pool a",
        ),
        (
            format!(
                "{A}hosts = ['x.test']\n[pools.b]\nhosts = ['X.test']\nbackends = ['http://127.0.0.1:9002']"
            ),
            "pools.b.hosts",
            "belongs to pool a",
        ),
        (format!("{A}[pools.a.pin]\nsecrets = ['short']"), "pools.a.pin.secrets[0]", "32 bytes or more"),
        (format!("{A}[pools.a.pin]\nsecrets_file = '/nowhere'"), "pools.a.pin.secrets_file", "can't be read"),
        (format!("{A}[pools.a.pin]\nmax_age = 3600"), "pools.a.pin.max_age", "duration with its unit"),
        (format!("{A}[pools.a.pin]\ncookie = 'a b'"), "pools.a.pin.cookie", "cookie name"),
        (
            format!("{A}[pools.a.pin]\nsame_site = 'none'\nsecure = 'never'"),
            "pools.a.pin.secure",
            "browsers drop",
        ),
        (
            format!("{A}[pools.a.pin]\npartitioned = true\nsecure = 'always'"),
            "pools.a.pin.partitioned",
            "takes true beside same_site = \"none\"",
        ),
        (
            format!("{A}[pools.a.pin]\npartitioned = true\nsame_site = 'none'\nsecure = 'never'"),
            "pools.a.pin.secure",
            "browsers drop",
        ),
        (
            format!("{A}[log]\naccess_headers = ['a b']"),
            "log.access_headers[0]",
            "the name of a request header",
        ),
        (
            format!("{A}[log]\naccess_headers = ['via', 'Cookie']"),
            "log.access_headers[1]",
            "without credentials",
        ),
        (format!("{A}[log]\naccess_headers = ['Via', 'via']"), "log.access_headers[1]", "each header once"),
        (
            format!("{A}cors = {{ origins = ['*'], credentials = true }}"),
            "pools.a.cors.origins",
            "every site act",
        ),
        (format!("{A}cors = {{ origins = ['x'] }}"), "pools.a.cors.origins[0]", "an origin such as"),
        (format!("{A}[server]\nlisten = ['x:8080']"), "server.listen[0]", "IP address and a port"),
        (
            format!("{A}error_pages = {{ 503 = '/nowhere' }}"),
            "pools.a.error_pages.503",
            "/nowhere: can't be read",
        ),
        (format!("{A}error_pages = {{ 503 = '/' }}"), "pools.a.error_pages.503", "not a regular file"),
        (format!("{A}error_pages = {{ 503 = '' }}"), "pools.a.error_pages.503", "the path of a file"),
        (
            format!("{A}error_pages = {{ 503 = '/dev/null' }}"),
            "pools.a.error_pages.503",
            "not a regular file",
        ),
        (
            format!("{A}error_pages = {{ 502 = 'x' }}"),
            "pools.a.error_pages.502",
            "rejects requests with: 400, 405, 414, 429, 431, 500, 503",
        ),
        (
            format!("{A}error_pages = {{ 404 = 'x' }}"),
            "pools.a.error_pages.404",
            "its page is one of [server.error_pages]",
        ),
        (
            format!("{A}[server]\nerror_pages = {{ sorry = 'x' }}"),
            "server.error_pages.sorry",
            "400, 404, 405, 414, 421, 429, 431, 500, 503",
        ),
        (format!("{A}[server]\nerror_pages = 'x'"), "server.error_pages", "takes a table"),
        (format!("{A}[admin]\nstate_file = ''"), "admin.state_file", "the path of a file"),
        (format!("{A}[admin]\nstate_file = '/'"), "admin.state_file", "is a folder"),
        (
            format!("{A}[admin]\nstate_file = '/nowhere/state.json'"),
            "admin.state_file",
            "/nowhere/state.json is in a folder that does not exist",
        ),
        (format!("{A}[admin]\nstate_file = '/dev/null'"), "admin.state_file", "is a device, pipe or socket"),
        (
            format!("{A}[server]\ntrusted_proxies = ['10/8']"),
            "server.trusted_proxies[0]",
            "a network or an address",
        ),
        (format!("{A}[server]\nlisten = []"), "server.listen", "one address or more"),
        (
            format!("{A}[server]\nlisten = [{{ proxy_protocol = false }}]"),
            "server.listen[0].address",
            "is missing, takes an IP address",
        ),
        (
            format!("{A}[server]\nlisten = ['[::]:1', {{ address = 'x:8080' }}]"),
            "server.listen[1].address",
            "IP address and a port",
        ),
        (
            format!("{A}[server]\nlisten = [{{ address = '[::]:80', proxy_protocol = 'v2' }}]"),
            "server.listen[0].proxy_protocol",
            "true or false",
        ),
        (
            format!("{A}[server]\nlisten = [{{ address = '[::]:80', proxy_protocoll = true }}]"),
            "server.listen[0].proxy_protocoll",
            "did you mean \"proxy_protocol\"?",
        ),
        (
            format!("{A}[server]\nlisten = ['[::]:80', {{ address = '[::]:81', proxy_protocol = true }}]"),
            "server.listen[1].proxy_protocol",
            "server.trusted_proxies is empty",
        ),
        (
            format!("{A}[server.tls]\nredirect_listen = [{{ address = '[::]:81', proxy_protocol = true }}]"),
            "server.tls.redirect_listen[0].proxy_protocol",
            "server.trusted_proxies is empty",
        ),
        (
            format!("{A}[server]\nlisten = [{{ address = '127.0.0.1:9090' }}]"),
            "admin.listen",
            "asked for twice",
        ),
        (
            format!("{A}[server.tls]\nredirect_listen = ['[::]:8080']"),
            "server.tls.redirect_listen",
            "asked for twice",
        ),
        (format!("{A}[server.tls]\nlisten = ['[::]:8443']"), "server.tls.certificates", "there is none"),
        (format!("{A}[server.tls]\nlisten = ['x:443']"), "server.tls.listen[0]", "IP address and a port"),
        (format!("{A}[server.tls]\nhandshake_timeout = '0s'"), "server.tls.handshake_timeout", "more than 0"),
        (format!("{A}[server.tls]\nmax_handshakes = 0"), "server.tls.max_handshakes", "from 1 to 65535"),
        (format!("{A}[server.tls]\nhsts = '1500ms'"), "server.tls.hsts", "whole seconds"),
        (format!("{A}[server.tls]\nredirect_port = 70000"), "server.tls.redirect_port", "from 1 to 65535"),
        (
            format!("{A}[server.limits]\nmax_requests_per_connection = -1"),
            "server.limits.max_requests_per_connection",
            "a whole number",
        ),
        (
            format!("{}[server.tls]\nredirect_listen = ['[::]:80']", url("http://127.0.0.1")),
            "pools.a.backends[0].url",
            "server.tls.redirect_listen",
        ),
        (format!("{A}[server]\nworkers = 'many'"), "server.workers", "got \"many\""),
        (format!("{A}[server]\nlimits = 5"), "server.limits", "takes a table"),
        (format!("{A}[server.limits]\nheader_timeout = '0s'"), "server.limits.header_timeout", "more than 0"),
        (
            format!("{A}[server.limits]\nmax_header_bytes = '1MiB'"),
            "server.limits.max_header_bytes",
            "8KiB to 64KiB",
        ),
        (format!("{A}[server]\nlisten = ['127.0.0.1:9090']"), "admin.listen", "asked for twice"),
        (format!("{A}[log]\nlevel = 'loud'"), "log.level", "one of \"error\""),
        (format!("{A}[sever]\nx = 1"), "sever", "did you mean \"server\"?"),
        (
            format!("{A}[pools.a.load]\nsource = 'probe_header'"),
            "pools.a.load.source",
            "health.kind is \"tcp\", so no answer is read",
        ),
        (
            format!("{A}health = {{ kind = 'http', method = 'HEAD' }}\nload = {{ source = 'probe_json' }}"),
            "pools.a.load.source",
            "HEAD\" has no body",
        ),
        (
            format!("{A}health = {{ kind = 'http', method = 'HEAD', expect_body = 'ok' }}"),
            "pools.a.health.expect_body",
            "the response to health.method = \"HEAD\" has no body",
        ),
        (
            format!("{A}health = {{ kind = 'http', expect = '204', expect_body = 'ok' }}"),
            "pools.a.health.expect_body",
            "a response with health.expect = \"204\" has no body",
        ),
        (
            format!("{A}health = {{ kind = 'http', expect = '304,204-204', expect_body = 'ok' }}"),
            "pools.a.health.expect_body",
            "has no body",
        ),
        (
            format!("{A}health = {{ kind = 'http', expect = '204' }}\nload = {{ source = 'probe_json' }}"),
            "pools.a.load.source",
            "a response with health.expect = \"204\" has no body",
        ),
        (
            format!("{A}health = {{ expect_body = 'ok' }}"),
            "pools.a.health.expect_body",
            "has no effect while health.kind is \"tcp\"",
        ),
        (
            format!("{A}health = {{ kind = 'http', expect_body = '/(/' }}"),
            "pools.a.health.expect_body",
            "unclosed group",
        ),
        (
            format!("{A}health = {{ kind = 'none', headers = {{ X-A = '1' }} }}"),
            "pools.a.health.headers",
            "has no effect while health.kind is \"none\"",
        ),
        (
            format!("{A}health = {{ kind = 'http', headers = {{ Content-Length = '1' }} }}"),
            "pools.a.health.headers.Content-Length",
            "frames the message",
        ),
        (
            format!("{A}health = {{ kind = 'http', headers = {{ 'X A' = '1' }} }}"),
            "pools.a.health.headers.X A",
            "is not a field name",
        ),
        (
            format!("{A}health = {{ kind = 'http', headers = {{ X-A = \"topsecret\\n\" }} }}"),
            "pools.a.health.headers.X-A",
            "got a value not shown, takes the value of a header field",
        ),
        (
            format!("{A}health = {{ kind = 'http', headers = {{ X-A = '1', x-a = '2' }} }}"),
            "pools.a.health.headers.x-a",
            "is set twice",
        ),
        (
            format!("{A}health = {{ kind = 'http', headers = {{ Host = 'a/b' }} }}"),
            "pools.a.health.headers.Host",
            "not a host",
        ),
        (
            format!("{A}health = {{ kind = 'http', host = 'a.test', headers = {{ Host = 'b.test' }} }}"),
            "pools.a.health.headers",
            "health.host",
        ),
        (format!("{A}load = {{ source = 'probe' }}"), "pools.a.load.source", "one of \"probe_header\""),
        (format!("{A}load = {{ source = 'agent' }}"), "pools.a.load.agent_port", "there is none"),
        (format!("{A}load = {{ agent_port = 70000 }}"), "pools.a.load.agent_port", "from 1 to 65535"),
        (
            format!("{A}load = {{ source = 'agent', agent_port = 1, max_age = '2s' }}"),
            "pools.a.load.max_age",
            "takes more than health.interval",
        ),
        (format!("{A}load = {{ max_age = '0s' }}"), "pools.a.load.max_age", "more than 0"),
        (format!("{A}load = {{ header = 'a b' }}"), "pools.a.load.header", "the name of a header"),
        (format!("{A}load = {{ unit = 'load' }}"), "pools.a.load.unit", "one of \"sessions\""),
        (
            format!("{A}load = {{ unit = 'utilisation' }}"),
            "pools.a.load.unit",
            "did you mean \"utilization\"?",
        ),
        (format!("{A}load = {{ json_pointer = 'load' }}"), "pools.a.load.json_pointer", "a JSON pointer"),
        (format!("{A}[admin]\nload_token = 'short'"), "admin.load_token", "32 bytes or more"),
        (
            format!("{A}[admin]\ntoken = '{ONE_TOKEN}'\nload_token = '{ONE_TOKEN}'"),
            "admin.load_token",
            "takes one of its own",
        ),
        // Loops.
        (url("http://127.0.0.1:8080"), "pools.a.backends[0].url", "a loop"),
        (url("http://localhost:8080/x"), "pools.a.backends[0].url", "a loop"),
        (url("http://[::1]:8080"), "pools.a.backends[0].url", "a loop"),
        (url("http://0.0.0.0:8080"), "pools.a.backends[0].url", "a loop"),
        (url("http://127.0.0.1:9090"), "pools.a.backends[0].url", "admin.listen"),
        (
            "[pools.a]\nhosts = ['w.test']\nbackends = ['https://W.test']".to_owned(),
            "pools.a.backends[0].url",
            "a loop",
        ),
        (
            "[pools.a]\nhosts = ['w.test']\nbackends = ['http://w.test.:80/x']".to_owned(),
            "pools.a.backends[0].url",
            "a loop",
        ),
    ] {
        let (code, out, said) = check(&toml);
        assert_eq!((code, out.as_str()), (2, ""), "{toml}\n{said}");
        let line = said.lines().find(|line| line.starts_with(&format!("error: {key}: ")));
        let line = line.unwrap_or_else(|| panic!("no line about {key} for\n{toml}\n{said}"));
        assert!(line.contains(says), "{toml}\n{line}");
        assert!(line.ends_with("(from FILE)") || key == "pools" || toml.contains("[pools.a]"), "{line}");
    }
}

/// Former keys, each with what is before it in a file, the name of its variable, if one could set it, and its present
/// name.
const RENAMED: [(&str, &str, &str); 14] = [
    ("[server]\nwatch", "SERVER__WATCH", "watch_interval"),
    ("[server]\nforwarded_by", "SERVER__FORWARDED_BY", "client_ip_header"),
    ("[server.tls]\nupgrade_listen", "SERVER__TLS__UPGRADE_LISTEN", "redirect_listen"),
    ("[server.tls]\nupgrade_port", "SERVER__TLS__UPGRADE_PORT", "redirect_port"),
    ("status_other", "POOLS__DEFAULT__STATUS_OTHER", "status_non_get"),
    ("max_rate", "POOLS__DEFAULT__MAX_RATE", "max_requests_per_second"),
    ("[[pools.b.backends]]\nurl = 'http://127.0.0.1:9001'\nmax_rate", "", "max_requests_per_second"),
    ("[pools.a.hash]\nbound", "POOLS__DEFAULT__HASH__BOUND", "balance_factor"),
    ("rotate", "POOLS__DEFAULT__ROTATE", "rotation_interval"),
    ("[pools.a.pin]\nhold", "POOLS__DEFAULT__PIN__HOLD", "grace_period"),
    ("[pools.a.load]\nfield", "POOLS__DEFAULT__LOAD__FIELD", "json_pointer"),
    ("[pools.a.load]\nexpires", "POOLS__DEFAULT__LOAD__EXPIRES", "max_age"),
    ("[pools.a.first]\nmax_utilisation", "POOLS__DEFAULT__FIRST__MAX_UTILISATION", "max_utilization"),
    ("[admin]\nhosts", "ADMIN__HOSTS", "allowed_hosts"),
];

#[test]
fn an_error_about_a_former_key_names_the_present_one() {
    for (file, variable, name) in RENAMED {
        let (code, _, said) = check(&format!("{A}{file} = 1"));
        assert_eq!(code, 2, "{file}: {said}");
        let is_named =
            |line: &str| line.contains(&format!(": no such key; did you mean \"{name}\"? (known here: "));
        assert!(said.lines().any(is_named), "{file}: {said}");

        let Some((table, _)) = variable.rsplit_once("__") else { continue };
        let present = format!("SIGNPOST__{table}__{}", name.to_ascii_uppercase());
        let output = command(["check", "--backend", "http://127.0.0.1:9001"])
            .env(format!("SIGNPOST__{variable}"), "1")
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{variable}: {said}");
        assert!(said.contains(&format!(": no such key; did you mean {present}? (known here: ")), "{said}");
        // The name that is suggested is a key: whatever is wrong now, it is not the name.
        let output =
            command(["check", "--backend", "http://127.0.0.1:9001"]).env(&present, "1").output().unwrap();
        assert!(!stderr(&output).contains("no such key"), "{present}: {}", stderr(&output));
    }
}

#[test]
fn all_mistakes_are_listed_in_one_go() {
    let first = settings_file(&format!("{A}strategy = 'x'\n[server]\nworkers = -1"));
    let second = settings_file("[log]\nformat = 'xml'");
    let files = [first.path().to_str().unwrap(), second.path().to_str().unwrap()];
    let output = command(["check", "-s", files[0], "-s", files[1], "--admin", "nowhere"])
        .env("SIGNPOST__SERVER__LIMITS__MAX_HEADERS", "lots")
        .env("SIGNPOST__SERVER__NOSUCH", "1")
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.ends_with(&format!("{}, {}: 6 errors\n", files[0], files[1])), "{said}");
    for (key, origin) in [
        ("pools.a.strategy: got \"x\"", files[0]),
        ("server.workers: got -1", files[0]),
        ("log.format: got \"xml\"", files[1]),
        ("admin.listen: got \"nowhere\"", "--admin"),
        (
            "server.limits.max_headers: got \"lots\"",
            "environment variable SIGNPOST__SERVER__LIMITS__MAX_HEADERS",
        ),
        ("server.nosuch: no such key", "environment variable SIGNPOST__SERVER__NOSUCH"),
    ] {
        let line = said.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{key} in\n{said}"));
        assert!(line.ends_with(&format!("(from {origin})")), "{line}");
    }
}

#[test]
fn nobody_else_is_blamed_for_a_flag() {
    let file = settings_file(&A.replace("[pools.a]", "[pools.a]\nhosts = ['a.test']"));
    let output = run(["check", "-s", file.path().to_str().unwrap(), "--pin"]);
    let said = stderr(&output);
    assert!(said.contains("pools.default.backends: there is none") && said.contains("--pin"), "{said}");
    assert!(!said.contains("(from "), "{said}");
}

#[test]
fn check_ends_with_a_verdict() {
    let good = settings_file(A);
    let warned = settings_file(&format!("{A}strategy = 'least_load'\npin = {{}}"));
    let wrong = settings_file(&format!("{A}strategy = 'x'"));
    for (files, environment, ends) in [
        (vec![&good], None, "FILES: valid"),
        (vec![&good, &warned], None, "FILES: valid, 2 warnings"),
        (vec![&wrong], None, "FILES: 1 error"),
        (vec![], Some("http://127.0.0.1:9001"), "settings: valid"),
    ] {
        let names: Vec<_> = files.iter().map(|file| file.path().to_str().unwrap()).collect();
        let flags = names.iter().flat_map(|name| ["-s", name]);
        // Both streams in one file, in the order in which they were written.
        let both = tempfile::NamedTempFile::new().unwrap();
        let append = || std::fs::OpenOptions::new().append(true).open(both.path()).unwrap();

        let mut command = command(["check"].into_iter().chain(flags));
        command
            .envs(environment.map(|backend| ("SIGNPOST_BACKENDS", backend)))
            .stdout(append())
            .stderr(append());
        command.status().unwrap();
        let printed = std::fs::read_to_string(both.path()).unwrap();
        let ends = ends.replace("FILES", &names.join(", "));
        assert!(printed.ends_with(&format!("\n{ends}\n")), "{printed}");
        let warnings = printed.find("warning: ").unwrap_or(printed.len());
        assert!(!printed[warnings..].contains("\n[pools"), "settings after a warning:\n{printed}");
    }
}

#[test]
fn a_key_is_no_path() {
    let (code, _, said) = check(&format!("\"a[99999999]\" = 1\n\"server.workers\" = 1\n\"\" = 1\n{A}"));
    assert_eq!(code, 2);
    assert!(
        said.ends_with("FILE: 3 errors\n") && said.contains("\"a[99999999]\": no such key (from FILE)"),
        "{said}"
    );
    let output = command(["check"]).env("SIGNPOST__X[91111111]", "1").output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("no such key (from environment variable SIGNPOST__X[91111111])"), "{said}");
}

#[test]
fn one_mistake_is_one_line() {
    for toml in [
        "[pools.a]\nbackends = ['nonsense']",
        "[pools]\nbackends = ['http://127.0.0.1:1']",
        "[pools]\nstrategy = 'random'",
        "[pools.A]\nbackends = ['http://127.0.0.1:1']",
        "[pools.a]\nbackends = ['nonsense', 'http://127.0.0.1:1', 'http://127.0.0.1:1']",
        "[server]\nlisten = ['x']\n[pools.a]\nbackends = ['http://127.0.0.1:1']",
        "[server]\nlisten = [{ address = 'x', proxy_protocol = true }]\n[pools.a]\nbackends = ['http://127.0.0.1:1']",
        "[server]\nlisten = [{ address = '[::]:2', proxy_protocol = true }]\ntrusted_proxies = ['x']\n[pools.a]\nbackends = ['http://127.0.0.1:1']",
    ] {
        let (_, _, said) = check(toml);
        assert!(said.ends_with("\nFILE: 1 error\n"), "{toml}\n{said}");
    }
}

#[test]
fn files_that_are_no_settings_are_named() {
    let broken = settings_file("[pools\n");
    let output = run(["check", "-s", "/nowhere.toml", "-s", broken.path().to_str().unwrap(), "-s", "/"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    for part in ["/nowhere.toml: can't be read", "not valid TOML", "line 1", "/: can't be read"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}

#[test]
fn later_layers_win_and_tables_merge() {
    let first = settings_file(
        "[server]\nworkers = 1\nshutdown_grace = '1s'\n[pools.default]\nstrategy = 'random'\nbackends = ['http://127.0.0.1:1']\n[pools.default.pin]\ngeneration = 4\n[pools.other]\nhosts = ['o.test']\nbackends = ['http://127.0.0.1:2']",
    );
    let second = settings_file("[server]\nworkers = 2");
    let output =
        command(["check", "-s", first.path().to_str().unwrap(), "-s", second.path().to_str().unwrap()])
            .args(["--backend", "http://127.0.0.1:3", "--backend", "2*http://127.0.0.1:4", "--pin"])
            .env("SIGNPOST__SERVER__SHUTDOWN_GRACE", "3s")
            .env("SIGNPOST_BACKENDS", "http://127.0.0.1:5")
            .env("SIGNPOST_PORT", "tcp://10.0.0.1:80")
            .output()
            .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let printed: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!(printed["server"]["workers"].as_integer(), Some(2));
    assert_eq!(printed["server"]["shutdown_grace"].as_str(), Some("3s"));
    let pool = &printed["pools"]["default"];
    assert_eq!(pool["strategy"].as_str(), Some("random"));
    assert_eq!(pool["pin"]["generation"].as_integer(), Some(4));
    let urls: Vec<_> =
        pool["backends"].as_array().unwrap().iter().map(|b| b["url"].as_str().unwrap()).collect();
    assert_eq!(urls, ["http://127.0.0.1:3", "http://127.0.0.1:4"]);
    assert!(printed["pools"].get("other").is_some());
}

#[test]
fn the_environment_alone_is_enough() {
    let mut command = command(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let signpost = Signpost::start_command(
        command
            .env("SIGNPOST_BACKENDS", "http://127.0.0.1:5,3*http://127.0.0.1:6")
            .env("SIGNPOST__POOLS__DEFAULT__STATUS", "303"),
    );
    assert_eq!(signpost.get("/").status, 303);
    assert_eq!(signpost.metric("signpost_backend_weight", &[("backend", "127.0.0.1:6")]), 3.0);
}

#[test]
fn check_masks_secrets_and_prints_what_it_would_read() {
    let secret = "do not show this to anyone at all!";
    let (code, printed, said) = check(&format!(
        "{A}[pools.a.pin]\nsecrets = ['{secret}']\ngrace_period = '5s'\n[pools.a.health]\nkind = 'none'"
    ));
    assert_eq!(code, 0, "{said}");
    assert!(!printed.contains(secret) && !said.contains(secret));
    assert!(printed.contains("secrets = [\"(masked)\"]"), "{printed}");
    assert!(said.contains("warning: pools.a.pin.grace_period"), "{said}");
    let (_, again, _) = check(&printed.replace("(masked)", secret));
    assert_eq!(again, printed);
    let (code, printed, said) =
        check(&format!("{A}health = {{ kind = 'http', headers = {{ Authorization = '{secret}' }} }}"));
    assert_eq!(code, 0, "{said}");
    assert!(printed.contains("authorization = \"(masked)\"") && !printed.contains(secret), "{printed}");

    let (code, _, said) =
        check(&format!("{A}[pools.a.pin]\nsecrets = ['only-thirty-one-bytes-long-secret'[..]]"));
    assert_eq!(code, 2);
    assert!(said.contains("not valid TOML"));
    for wrong in [
        "[pools.a.pin]\nsecrets = ['topsecret']",
        "[pools.a.pin]\nsecrets = 'topsecret'",
        "[admin]\ntoken = 'topsecret'",
        "[admin]\nload_token = 'topsecret'",
    ] {
        let (code, _, said) = check(&format!("{A}{wrong}"));
        assert_eq!(code, 2);
        assert!(said.contains("32 bytes or more") && !said.contains("topsecret"), "{said}");
    }
}

#[test]
fn a_listener_is_printed_as_it_is_best_written() {
    let listen = |items: &str| {
        let (code, printed, said) =
            check(&format!("{A}[server]\ntrusted_proxies = ['10.0.0.0/8']\nlisten = [{items}]"));
        assert_eq!(code, 0, "{said}");
        assert_eq!(check(&printed).1, printed);
        let printed: toml::Table = printed.parse().unwrap();
        printed["server"]["listen"].to_string()
    };
    let table = "{ address = \"[::]:2\", proxy_protocol = true }";
    assert_eq!(
        listen("{ address = '[::]:1', proxy_protocol = false }, '[::]:2'"),
        "[\"[::]:1\", \"[::]:2\"]"
    );
    assert_eq!(listen(&format!("'[::]:1', {table}")), format!("[\"[::]:1\", {table}]"));
    assert_eq!(listen(table), format!("[{table}]"));
}

#[test]
fn a_way_from_https_to_http_is_a_warning() {
    let warned = |toml: &str| {
        let (code, _, said) = check(toml);
        assert_eq!(code, 0, "{said}");
        said.lines().find(|line| line.contains("come by https")).map(str::to_owned)
    };
    let mixed =
        "backends = ['HTTP://b.example', 'https://s.example', { id = 'c', url = 'http://c.example' }]";
    let proxied = "[server]\ntrusted_proxies = ['10.0.0.0/8']\n";
    let line = warned(&format!("{proxied}[pools.a]\n{mixed}")).unwrap();
    for part in ["warning: pools.a.backends", "(b.example, c)", "server.trusted_proxies"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let line = warned(&format!("[pools.a]\n{mixed}\npin = {{ secure = 'always' }}")).unwrap();
    assert!(line.contains("pin.secure"), "{line}");
    let many: Vec<_> = (0..9).map(|n| format!("'http://b{n}.example'")).collect();
    let line = warned(&format!("{proxied}[pools.a]\nbackends = [{}]", many.join(","))).unwrap();
    assert!(line.contains("b4.example and 4 more)"), "{line}");
    // Nobody comes by https, or everybody is sent on by it.
    assert_eq!(warned(&format!("[pools.a]\n{mixed}\npin = {{}}")), None);
    assert_eq!(warned(&format!("{proxied}[pools.a]\nbackends = ['https://s.example']")), None);
}

#[test]
fn settings_of_load_that_say_nothing_are_a_warning() {
    for (toml, says) in [
        ("strategy = 'least_load'", Some("without load reports it picks as round_robin does")),
        ("shadow = ['least_load']", Some("without load reports it picks as round_robin does")),
        ("strategy = 'least_load'\nload = {}", None),
        (
            "load = { json_pointer = '/x' }",
            Some("pools.a.load.json_pointer has no effect while load.source is \"push\""),
        ),
        (
            "load = { source = 'agent', agent_port = 1, unit = 'sessions' }",
            Some("pools.a.load.unit has no effect while load.source is \"agent\""),
        ),
        ("health = { kind = 'none', interval = '1s' }\nload = {}", Some("pools.a.health.interval")),
        ("health = { kind = 'none', interval = '1s' }\nload = { source = 'agent', agent_port = 1 }", None),
    ] {
        let (code, _, said) = check(&format!("{A}{toml}"));
        assert_eq!(code, 0, "{said}");
        match says {
            Some(says) => assert!(said.contains("warning: ") && said.contains(says), "{toml}: {said}"),
            None => assert!(!said.contains("load") && !said.contains("health"), "{toml}: {said}"),
        }
    }
}

#[test]
fn secrets_come_from_a_file_too() {
    let secrets = settings_file("a first secret of thirty-two bytes\n\na second secret of thirty-two byte\n");
    let (code, printed, said) =
        check(&format!("{A}[pools.a.pin]\nsecrets_file = '{}'", secrets.path().display()));
    assert_eq!(code, 0, "{said}");
    assert!(printed.contains("secrets = [\"(masked)\", \"(masked)\"]"), "{printed}");
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("settings")
}

fn load(file: &Path) -> Settings {
    let layers = Layers { files: vec![file.to_owned()], ..Layers::default() };
    Settings::load(&layers).unwrap_or_else(|problems| panic!("{}: {problems:?}", file.display())).settings
}

#[test]
fn the_examples_load() {
    let mut examples = 0;
    for entry in std::fs::read_dir(shipped()).unwrap() {
        let path = entry.unwrap().path();
        // Scenarios are another kind of file, and have a test of their own.
        if path.is_file() && path.file_name().unwrap() != "default.toml" {
            assert!(!load(&path).pools.is_empty());
            examples += 1;
        }
    }
    assert!(examples >= 6);
}

/// `default.toml` names every key and gives each its true default.
#[test]
fn the_defaults_are_those_that_are_documented() {
    let text = std::fs::read_to_string(shipped().join("default.toml")).unwrap();
    let uncommented: String =
        text.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    let documented = settings_file(&uncommented);
    let documented = load(documented.path());

    let minimal = settings_file(
        "[pools.site]\nbackends = ['https://a.example.com']\npin = {}\nload = {}\ncors = { origins = ['https://app.example.com'] }",
    );
    let mut defaults = load(minimal.path());
    let [of_documented] = &documented.pools[..] else { panic!("one pool in default.toml") };
    let of_defaults = &mut defaults.pools[0];
    // These have no default: what stands there is an example.
    of_defaults.hosts.clone_from(&of_documented.hosts);
    of_defaults.backends.clone_from(&of_documented.backends);
    of_defaults.cors.as_mut().unwrap().origins.clone_from(&of_documented.cors.as_ref().unwrap().origins);
    assert_eq!(documented, defaults);

    // What `check` prints is every key there is, but for those without a value.
    let printed = toml::to_string(&documented).unwrap();
    let keys = printed.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.to_owned());
    for key in keys.chain(
        [
            "secrets_file",
            "domain",
            "id",
            "weight",
            "max_requests_per_second",
            "token",
            "token_file",
            "load_token",
            "load_token_file",
            "state_file",
            "health_path",
            "address",
            "proxy_protocol",
        ]
        .map(str::to_owned),
    ) {
        assert!(text.contains(&format!("{key} = ")), "{key} is not in default.toml");
    }
}

#[test]
fn a_health_path_that_hides_a_page_is_a_warning() {
    let warns = |prefix: &str, path: &str| {
        let toml = format!("{A}path_prefix = '{prefix}'\n[server]\nhealth_path = '{path}'");
        let (code, _, said) = check(&toml);
        assert_eq!(code, 0, "{said}");
        let warning = format!("server.health_path is \"{path}\", the path_prefix of pool a: ");
        said.contains(&warning) && said.contains("first page")
    };
    assert!(warns("/", "/") && warns("/x", "/x") && warns("/x/", "/x") && warns("/x", "/x/"));
    assert!(!warns("/", "/health") && !warns("/x", "/x/health") && !warns("/x", "/"));
}
