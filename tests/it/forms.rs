//! Settings that are matched against something: each form of a value matches, or is rejected.

use crate::harness::{Answer, Connection, Signpost, command, run, settings_file, stderr};

const POOL: &str = "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n";

/// What `check` prints for a key, or the error.
fn checked(toml: &str, key: &str) -> Result<String, String> {
    let file = settings_file(toml);
    let output = run(["check", "-s", file.path().to_str().unwrap()]);
    let said = stderr(&output);
    if !output.status.success() {
        return Err(said.lines().next().unwrap().to_owned());
    }
    let printed: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    let mut value = toml::Value::Table(printed);
    for part in key.split('.') {
        value = value[part].clone();
    }
    Ok(value.to_string())
}

/// A table before `POOL`, or keys of the pool behind it.
fn with(key: &str, value: &str) -> String {
    let (table, name) = key.rsplit_once('.').unwrap();
    match table {
        "pools.p" => format!("{POOL}{name} = {value}"),
        "pools.p.cors" if name != "origins" => {
            format!("{POOL}[pools.p.cors]\norigins = ['https://a.test']\n{name} = {value}")
        }
        _ => format!("{POOL}[{table}]\n{name} = {value}"),
    }
}

#[test]
fn a_form_that_can_match_is_normalized() {
    for (key, written, printed) in [
        ("pools.p.hosts", "['WWW.Example.COM.']", r#"["www.example.com"]"#),
        ("pools.p.hosts", "['*.Example.com.']", r#"["*.example.com"]"#),
        ("pools.p.hosts", "['xn--bcher-kva.example']", r#"["xn--bcher-kva.example"]"#),
        ("pools.p.hosts", "['[0:0:0:0:0:0:0:1]', '[2001:DB8::0:1]']", r#"["[::1]", "[2001:db8::1]"]"#),
        ("pools.p.hosts", "['[::ffff:1.2.3.4]']", r#"["[::ffff:102:304]"]"#),
        (
            "admin.allowed_hosts",
            "['Console.Example.', '*.Ops.example']",
            r#"["console.example", "*.ops.example"]"#,
        ),
        ("pools.p.cors.origins", "['HTTPS://App.Example']", r#"["https://app.example"]"#),
        (
            "pools.p.cors.origins",
            "['https://a.test:443', 'http://a.test:80']",
            r#"["https://a.test", "http://a.test"]"#,
        ),
        (
            "pools.p.cors.origins",
            "['https://a.test:8443/', 'http://a.test:443']",
            r#"["https://a.test:8443", "http://a.test:443"]"#,
        ),
        ("pools.p.cors.origins", "['https://*.Example.com:443']", r#"["https://*.example.com"]"#),
        (
            "pools.p.cors.origins",
            "['http://[0::1]:3000', 'capacitor://localhost']",
            r#"["http://[::1]:3000", "capacitor://localhost"]"#,
        ),
        ("pools.p.cors.methods", "['get', 'Patch', 'PURGE']", r#"["GET", "PATCH", "PURGE"]"#),
        ("pools.p.path_prefix", "'/videos/'", r#""/videos""#),
        ("pools.p.path_prefix", "'/café'", r#""/caf%C3%A9""#),
        ("pools.p.path_prefix", "'/a//b'", r#""/a//b""#),
        ("server.health_path", "'/santé'", r#""/sant%C3%A9""#),
        ("pools.p.health.method", "'head'", r#""HEAD""#),
        ("pools.p.health.host", "'WWW.Example.com.'", r#""www.example.com""#),
        ("pools.p.health.host", "'[0::1]:8443'", r#""[::1]:8443""#),
        ("pools.p.health.expect", "200", r#""200""#),
        ("pools.p.hash.key", "'header:X-User'", r#""header:x-user""#),
        ("pools.p.load.header", "'X-Load'", r#""x-load""#),
        ("pools.p.pin.domain", "'.Example.com'", r#""example.com""#),
        ("server.trusted_proxies", "['10.0.0.1/8']", r#"["10.0.0.0/8"]"#),
        (
            "server.trusted_proxies",
            "['::ffff:10.0.0.0/104', '::ffff:192.0.2.1']",
            r#"["10.0.0.0/8", "192.0.2.1/32"]"#,
        ),
        ("server.trusted_proxies", "['::ffff:0:0/96', '::/0']", r#"["0.0.0.0/0", "::/0"]"#),
        ("server.trusted_proxies", "['fd00::1/8', '2001:DB8::7']", r#"["fd00::/8", "2001:db8::7/128"]"#),
        ("log.access_headers", "['User-Agent']", r#"["user-agent"]"#),
    ] {
        assert_eq!(checked(&with(key, written), key).as_deref(), Ok(printed), "{key} = {written}");
        // What is printed means the same.
        assert_eq!(checked(&with(key, printed), key).as_deref(), Ok(printed), "{key} = {written}");
    }
}

#[test]
fn a_form_that_cannot_match_is_rejected() {
    for (key, written, why) in [
        ("pools.p.hosts", "['www.example.com:8080']", "without its port"),
        ("pools.p.hosts", "['https://www.example.com']", "a scheme is not part of a host"),
        ("pools.p.hosts", "['www.example.com/videos']", "a path is not part of a host"),
        ("pools.p.hosts", "['me@www.example.com']", "userinfo"),
        ("pools.p.hosts", "['bücher.example']", "xn-- form"),
        ("pools.p.hosts", "['a.test,b.test']", "letters, digits, dots and hyphens"),
        ("pools.p.hosts", "['%61.test']", "letters, digits, dots and hyphens"),
        ("pools.p.hosts", "['a..test']", "a label is empty"),
        ("pools.p.hosts", "['.example.com']", "did you mean \"*.example.com\"?"),
        ("pools.p.hosts", "['*']", "serves every host"),
        ("pools.p.hosts", "['www.*']", "letters, digits, dots and hyphens"),
        ("pools.p.hosts", "['*example.com']", "letters, digits, dots and hyphens"),
        ("pools.p.hosts", "['*.*.example.com']", "letters, digits, dots and hyphens"),
        ("pools.p.hosts", "['::1']", "brackets: \"[::1]\""),
        ("pools.p.hosts", "['10.0.0.256']", "four numbers"),
        ("pools.p.hosts", "['127.1']", "four numbers"),
        ("pools.p.hosts", "['0x7f.1.0x1']", "four numbers"),
        ("pools.p.hosts", "['*.10.0.0.1']", "an address has no names below it"),
        ("admin.allowed_hosts", "['console.example:9090']", "without its port"),
        ("admin.allowed_hosts", "['*']", "any site could reach the API"),
        ("pools.p.cors.origins", "['app.example']", "it has no scheme"),
        ("pools.p.cors.origins", "['*.example.com']", "it has no scheme"),
        ("pools.p.cors.origins", "['https://app.example/x']", "a path is not part of a host"),
        ("pools.p.cors.origins", "['https://me@app.example']", "userinfo"),
        ("pools.p.cors.origins", "['https://bücher.example']", "xn-- form"),
        ("pools.p.cors.origins", "['null']", "sandboxed"),
        ("pools.p.cors.origins", "['https://*']", "a wildcard stands for the first labels"),
        ("pools.p.cors.origins", "['https://app.*.example']", "a wildcard stands for the first labels"),
        ("pools.p.cors.origins", "['https://app.example:*']", "a wildcard stands for the first labels"),
        ("pools.p.cors.origins", "['https://*.10.0.0.1']", "an address has no names below it"),
        ("pools.p.cors.origins", "['file://']", "not a valid host"),
        ("pools.p.cors.methods", "['TRACE']", "browsers send no TRACE"),
        ("pools.p.cors.methods", "['GET PUT']", "a method such as"),
        ("pools.p.cors.headers", "[':path']", "the name of a header"),
        ("pools.p.cors.headers", "['x y']", "the name of a header"),
        ("pools.p.path_prefix", "'videos'", "does not begin with a slash"),
        ("pools.p.path_prefix", "'https://a.test/videos'", "it has a scheme"),
        ("pools.p.path_prefix", "'/videos?x=1'", "the path alone"),
        ("pools.p.path_prefix", "'/videos#top'", "the path alone"),
        ("pools.p.path_prefix", "'/videos/*'", "no wildcard"),
        ("pools.p.path_prefix", "'/x*'", "no wildcard"),
        ("pools.p.path_prefix", "'/*/x'", "no wildcard"),
        ("pools.p.path_prefix", "'*'", "no wildcard"),
        ("pools.p.path_prefix", "'/a/../b'", "dot segments"),
        ("pools.p.path_prefix", "'/a/%2E%2e/b'", "dot segments"),
        ("pools.p.path_prefix", "'/./a'", "dot segments"),
        ("pools.p.path_prefix", "'/a b'", "percent-encoded"),
        ("pools.p.path_prefix", "'/a\\b'", "percent-encoded"),
        ("pools.p.path_prefix", "'/{id}'", "percent-encoded"),
        ("server.health_path", "'health'", "does not begin with a slash"),
        ("server.health_path", "'/health?deep=1'", "the path alone"),
        ("server.health_path", "'/a/../health'", "dot segments"),
        ("server.health_path", "'/health/*'", "without wildcards"),
        ("pools.p.pin.cookie", "'my pin'", "a cookie name"),
        ("pools.p.pin.cookie", "'__host-pin'", "only with secure"),
        ("pools.p.pin.domain", "'bücher.example'", "a domain such as"),
        ("pools.p.pin.domain", "'example.com:8080'", "a domain such as"),
        ("pools.p.pin.domain", "'10.0.0.1'", "a domain such as"),
        ("pools.p.hash.key", "'header::path'", "header:NAME"),
        ("pools.p.hash.key", "'cookie:a=b'", "cookie:NAME"),
        ("pools.p.hash.key", "'query:a b'", "query:NAME"),
        ("pools.p.hash.key", "\"query:a'b\"", "query:NAME"),
        ("pools.p.hash.key", "'X-User'", "header:NAME"),
        ("pools.p.load.header", "':status'", "the name of a header"),
        ("pools.p.load.json_pointer", "'status.load'", "a JSON pointer"),
        ("pools.p.load.json_pointer", "'#/load'", "a JSON pointer"),
        ("pools.p.health.expect", "'100-199'", "from 200 to 599"),
        ("pools.p.health.expect", "'2xx'", "from 200 to 599"),
        ("pools.p.health.expect", "'399-200'", "from 200 to 599"),
        ("pools.p.health.path", "'health'", "a path such as"),
        ("pools.p.health.path", "'/#top'", "a path such as"),
        ("pools.p.health.host", "'https://a.test'", "a scheme is not part of a host"),
        ("pools.p.health.host", "'::1'", "brackets: \"[::1]\""),
        ("pools.p.backends", "['http://10.0.0.256']", "four numbers"),
        ("pools.p.backends", "['http://a..test']", "a label is empty"),
        ("server.trusted_proxies", "['10.0.0.0/255.0.0.0']", "a network or an address"),
        ("server.trusted_proxies", "['10.0.0.1:80']", "a network or an address"),
        ("server.trusted_proxies", "['proxy.example']", "a network or an address"),
        ("server.trusted_proxies", "['010.0.0.0/8']", "a network or an address"),
        ("server.trusted_proxies", "['010.0.0.1']", "a network or an address"),
        ("server.trusted_proxies", "['10.0.0.0/33']", "a network or an address"),
        ("server.trusted_proxies", "['::ffff:0:0/90']", "all of them by \"0.0.0.0/0\""),
        ("server.trusted_proxies", "['::ffff:10.0.0.1/8']", "IPv4 clients are matched by IPv4 networks"),
        ("server.client_ip_header", "'X-Real-IP'", "one of \"x-forwarded-for\""),
        ("admin.token", "\" a token that begins with a space bar\"", "no header field can show it"),
        ("admin.load_token", "\"a token of thirty-two bytes\\nand a line\"", "no header field can show it"),
        ("log.access_headers", "[':path']", "the name of a request header"),
        ("log.access_headers", "['*']", "the name of a request header"),
        ("pools.p.load.header", "'*'", "the name of a header"),
        ("pools.p.hash.key", "'header:*'", "header:NAME"),
    ] {
        let toml = match key {
            "pools.p.backends" => format!("[pools.p]\nbackends = {written}"),
            _ => with(key, written),
        };
        let error = checked(&toml, key).expect_err(&format!("{key} = {written}"));
        assert!(
            error.starts_with(&format!("error: {key}")) && error.contains(why),
            "{key} = {written}\n{error}"
        );
    }
}

#[test]
fn a_form_that_has_no_effect_is_a_warning() {
    let secrets = "one token of thirty-two bytes or more\nand another token of thirty-two bytes\n";
    let two = settings_file(secrets);
    let error = checked(&with("admin.token_file", &format!("'{}'", two.path().display())), "admin");
    assert!(error.unwrap_err().contains("admin.token_file: got a file of several lines"));
    for (key, written, warning) in [
        (
            "pools.p.cors.headers",
            "['Origin', 'X-Y', 'Sec-Fetch-Site']",
            Some("pools.p.cors.headers: Origin, Sec-Fetch-Site has no effect, because scripts cannot set it"),
        ),
        ("pools.p.cors.headers", "['Content-Type', 'X-Y']", None),
        (
            "pools.p.health",
            "{ kind = 'none', rise = 5 }",
            Some("health.rise has no effect, because health.kind is \"none\""),
        ),
        (
            "pools.p.health",
            "{ kind = 'none', startup_timeout = '9s' }",
            Some("health.startup_timeout has no effect"),
        ),
        (
            "pools.p.health",
            "{ expect = '204' }",
            Some("health.expect has no effect, because health.kind is \"tcp\""),
        ),
        (
            "pools.p.health",
            "{ verify = false }",
            Some("health.verify has no effect, because no backend is probed over TLS"),
        ),
        (
            "pools.p.health",
            "{ host = 'a.test' }",
            Some("health.host has no effect, because no backend is probed over TLS"),
        ),
        ("pools.p.health", "{ kind = 'http', host = 'a.test', expect = '204', rise = 5 }", None),
        ("pools.p.health", "{ kind = 'http', expect = '200,204', expect_body = 'ok' }", None),
        (
            "server.client_ip_header",
            "'forwarded'",
            Some("server.client_ip_header has no effect: server.trusted_proxies is empty"),
        ),
        ("server.client_ip_header", "'x-forwarded-for'", None),
    ] {
        let file = settings_file(&with(key, written));
        let said = stderr(&run(["check", "-s", file.path().to_str().unwrap()]));
        match warning {
            Some(warning) => {
                assert!(said.contains("warning: ") && said.contains(warning), "{written}: {said}")
            }
            None => assert!(said.ends_with(": valid\n"), "{written}: {said}"),
        }
    }
}

fn location(answer: &Answer) -> Option<&str> {
    answer.header("location")
}

#[test]
fn hosts_match_what_clients_send() {
    let rows = [
        ("WWW.Upper.test", "www.upper.test"),
        ("dot.test.", "dot.test"),
        ("nodot.test", "nodot.test."),
        ("port.test", "Port.test:8080"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[::ffff:1.2.3.4]", "[::ffff:102:304]:8080"),
        ("192.0.2.1", "192.0.2.1:80"),
        ("*.Wild.test", "a.b.wild.test"),
    ];
    let pools: String = rows
        .iter()
        .enumerate()
        .map(|(index, (written, _))| {
            format!("[pools.p{index}]\nhosts = ['{written}']\nbackends = ['http://b{index}.test']\n")
        })
        .collect();
    let none = "health = { kind = 'none' }\nbackends";
    let signpost = Signpost::with_settings(&pools.replace("backends", none));
    for (index, (written, sent)) in rows.iter().enumerate() {
        let answer = signpost.request("GET", "/", &[("Host", sent)]);
        assert_eq!(location(&answer), Some(&*format!("http://b{index}.test/")), "{written} and {sent}");
    }
    for other in ["wild.test", "xwild.test", "other.test"] {
        assert_eq!(signpost.request("GET", "/", &[("Host", other)]).status, 421, "{other}");
    }
}

#[test]
fn origins_match_what_browsers_send() {
    let signpost = Signpost::with_settings(&format!(
        "{POOL}[pools.p.cors]\ncredentials = true\norigins = ['HTTPS://App.test:443', 'http://[0::1]:3000/', \
         'https://*.Wild.test', 'http://*.port.test:8080']"
    ));
    for (origin, allowed) in [
        ("https://app.test", true),
        ("http://[::1]:3000", true),
        ("https://a.wild.test", true),
        ("https://a.b.wild.test", true),
        ("http://a.port.test:8080", true),
        ("http://app.test", false),
        ("https://wild.test", false),
        ("https://evilwild.test", false),
        ("https://a.wild.test:8443", false),
        ("http://a.wild.test", false),
        ("http://a.port.test", false),
        ("https://a.wild.test.evil.test", false),
        ("https://evil.test/.wild.test", false),
        ("null", false),
    ] {
        for (method, status) in [("GET", 302), ("OPTIONS", 204)] {
            let answer = signpost.request(
                method,
                "/",
                &[("Origin", origin), ("Access-Control-Request-Method", "PUT")],
            );
            assert_eq!(answer.status, status);
            assert!(answer.header("vary").unwrap().starts_with("origin"), "{origin}");
            let expected = allowed.then_some(origin);
            assert_eq!(answer.header("access-control-allow-origin"), expected, "{method} from {origin}");
            let credentials = allowed.then_some("true");
            assert_eq!(answer.header("access-control-allow-credentials"), credentials, "{origin}");
        }
    }
}

#[test]
fn path_prefixes_match_what_browsers_send() {
    let signpost = Signpost::with_settings(
        "[pools.a]\npath_prefix = '/café/'\nbackends = ['http://a.test']\nhealth = { kind = 'none' }\n\
         [pools.b]\npath_prefix = '/a//b'\nbackends = ['http://b.test']\nhealth = { kind = 'none' }",
    );
    for (path, backend) in [
        ("/caf%C3%A9", Some("http://a.test/caf%C3%A9")),
        ("/caf%C3%A9/x", Some("http://a.test/caf%C3%A9/x")),
        ("/caf%C3%A9x", None),
        ("/a//b/c", Some("http://b.test/a//b/c")),
        ("/a/b", None),
    ] {
        assert_eq!(location(&signpost.get(path)), backend, "{path}");
    }
}

#[test]
fn networks_match_the_addresses_of_peers() {
    for (network, trusted) in [
        ("127.0.0.1/8", true),
        ("::ffff:127.0.0.1", true),
        ("::ffff:127.0.0.0/104", true),
        ("10.0.0.1/8", false),
    ] {
        let signpost = Signpost::with_settings(&format!("{POOL}[server]\ntrusted_proxies = ['{network}']"));
        signpost.request("GET", "/", &[("X-Forwarded-For", "192.0.2.7")]);
        let line = signpost.next_line();
        assert_eq!(line.contains("192.0.2.7"), trusted, "{network}: {line}");
    }
}

#[test]
fn admin_hosts_match_what_browsers_send() {
    let signpost = Signpost::with_settings(&format!(
        "{POOL}[admin]\nallowed_hosts = ['Console.Example.', '*.Ops.example']"
    ));
    for (host, status) in [
        ("console.example", 200),
        ("Console.example:9090", 200),
        ("a.ops.example", 200),
        ("ops.example", 403),
        ("other.example", 403),
    ] {
        let answer = Connection::to(signpost.admin).request("GET", "/api/v1/pools", &[("Host", host)]);
        assert_eq!(answer.status, status, "{host}");
    }
}

#[test]
fn a_variable_that_is_not_read_is_a_warning() {
    for (name, value, warning) in [
        ("SIGNPOST_BACKEND", "https://a.test", Some(" (did you mean SIGNPOST_BACKENDS?)")),
        ("SIGNPOST_SERVER_WORKERS", "2", Some(" (did you mean SIGNPOST__SERVER__WORKERS?)")),
        ("SIGNPOST_SERVER__WORKERS", "2", Some(" (did you mean SIGNPOST__SERVER__WORKERS?)")),
        ("SIGNPOST_LISTEN", ":80", Some(" (did you mean SIGNPOST__SERVER__LISTEN?)")),
        ("SIGNPOST_STRATEGY", "random", Some(" (did you mean SIGNPOST__POOLS__DEFAULT__STRATEGY?)")),
        (
            "SIGNPOST_LIMITS_HEADER_TIMEOUT",
            "1s",
            Some(" (did you mean SIGNPOST__SERVER__LIMITS__HEADER_TIMEOUT?)"),
        ),
        // No value is a section.
        (
            "SIGNPOST_LOG",
            "debug",
            Some(" (did you mean SIGNPOST__LOG__… (LEVEL, FORMAT, ACCESS, ACCESS_SAMPLE, ACCESS_HEADERS)?)"),
        ),
        (
            "SIGNPOST_HASH",
            "path",
            Some(" (did you mean SIGNPOST__POOLS__DEFAULT__HASH__… (KEY, BALANCE_FACTOR)?)"),
        ),
        ("SIGNPOST_VERSION", "1.2", Some(" (settings are SIGNPOST__SECTION__KEY and SIGNPOST_BACKENDS)")),
        ("SIGNPOST_PORT", "8080", Some(" (settings are SIGNPOST__SECTION__KEY and SIGNPOST_BACKENDS)")),
        ("signpost_backends", "https://a.test", Some(" (did you mean SIGNPOST_BACKENDS?)")),
        ("signpost__server__workers", "2", Some(" (did you mean SIGNPOST__SERVER__WORKERS?)")),
        // What Kubernetes adds for services that are called signpost and signpost-admin.
        ("SIGNPOST_SERVICE_HOST", "10.96.0.12", None),
        ("SIGNPOST_SERVICE_PORT", "80", None),
        ("SIGNPOST_SERVICE_PORT_HTTP", "80", None),
        ("SIGNPOST_PORT", "tcp://10.96.0.12:80", None),
        ("SIGNPOST_PORT_80_TCP", "tcp://10.96.0.12:80", None),
        ("SIGNPOST_PORT_80_TCP_PROTO", "tcp", None),
        ("SIGNPOST_PORT_80_TCP_PORT", "80", None),
        ("SIGNPOST_PORT_80_TCP_ADDR", "10.96.0.12", None),
        ("SIGNPOST_ADMIN_SERVICE_HOST", "10.96.0.13", None),
        ("SIGNPOST_ADMIN_SERVICE_PORT_METRICS", "9090", None),
        ("SIGNPOST_ADMIN_PORT", "tcp://10.96.0.13:9090", None),
        ("SIGNPOST_ADMIN_PORT_9090_TCP_ADDR", "10.96.0.13", None),
        // Those that are read.
        ("SIGNPOST__SERVER__WORKERS", "2", None),
        ("SIGNPOSTS", "1", None),
    ] {
        let mut command = command(["check", "--backend", "https://a.test"]);
        let said = stderr(&command.env(name, value).output().unwrap());
        let expected = match warning {
            Some(near) => {
                format!(
                    "warning: {name}: this environment variable is not read{near}\nsettings: valid, 1 warning\n"
                )
            }
            None => "settings: valid\n".to_owned(),
        };
        assert_eq!(said, expected);
    }
}
