//! What the program says to a mistake: the key, what is wrong, and what is right.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::harness::{Signpost, command, run, settings_file, skipped, stderr};

const POOL: &str = "[pools.site]\nbackends = ['https://a.example.com']\n";

/// The first line that `check` prints for a file whose name is replaced with `site.toml`.
fn about_file(suffix: &str, text: &str) -> String {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let output = run(["check", "-s", file.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{text}: {}", stderr(&output));
    let name = format!("site{suffix}");
    let said = stderr(&output).replace(file.path().to_str().unwrap(), &name);
    assert!(said.ends_with(&format!("\n{name}: 1 error\n")), "one mistake is one line: {said}");
    said.lines().next().unwrap().to_owned()
}

fn first_line(output: &Output) -> String {
    stderr(output).lines().next().unwrap().to_owned()
}

#[test]
fn a_backend_on_the_command_line_is_corrected() {
    const URL: &str = "a URL such as \"https://a.example.com\" or \"http://10.0.0.1:8080/base\"";
    let weight_first = |right: &str| format!("a weight and a URL: write the weight first: \"{right}\"");
    let brackets = |right: &str| format!("{URL}: IPv6 addresses need brackets: \"{right}\"");
    let one_each = format!("{URL}: one URL per --backend, and one per item of a list");
    let did_you_mean = |right: &str| format!("{URL}: it has no scheme; did you mean \"{right}\"?");
    let weight = "a weight and a URL, such as \"3*https://b.example.com\"; the weight is a whole number from 0 (no new \
                  visitors) to 256"
        .to_owned();
    for (written, takes) in [
        ("https://a.test,https://b.test", one_each.clone()),
        ("https://a.test,b.test", one_each.clone()),
        ("a.test,b.test", one_each.clone()),
        ("https://a.test/x,https://b.test", one_each.clone()),
        ("https://a.test*2", weight_first("2*https://a.test")),
        ("https://a.test weight=3", weight_first("3*https://a.test")),
        ("https://a.test weight 3", weight_first("3*https://a.test")),
        ("https://a.test 3", weight_first("3*https://a.test")),
        ("https://a.test;3", weight_first("3*https://a.test")),
        ("3 https://a.test", weight_first("3*https://a.test")),
        ("weight=3 https://a.test", weight_first("3*https://a.test")),
        ("https://a.test https://b.test", one_each.clone()),
        ("https://a.test;https://b.test", one_each),
        ("3*localhost:9001", did_you_mean("3*http://localhost:9001")),
        ("3*::1", brackets("3*http://[::1]")),
        ("3*http://::1/x", brackets("3*http://[::1]/x")),
        ("http//a.test", did_you_mean("http://a.test")),
        ("https:/a.test:81", did_you_mean("https://a.test:81")),
        ("2*http:///a.test", format!("{URL}: its host or port is not valid: it is not a valid host")),
        ("http:81", did_you_mean("http://http:81")),
        ("*http://a.test", weight.clone()),
        ("300*https://a.test", weight),
        ("http://::1:81", brackets("http://[::1]:81")),
        ("http://::1", brackets("http://[::1]")),
        ("https://2001:db8::7/base", brackets("https://[2001:db8::7]/base")),
        ("::1", brackets("http://[::1]")),
        ("localhost:9001", did_you_mean("http://localhost:9001")),
        ("a.test:443", did_you_mean("https://a.test:443")),
        ("a.test/base", did_you_mean("http://a.test/base")),
    ] {
        let output = run(["check", "--backend", written]);
        let expected =
            format!("error: pools.default.backends[0]: got {written:?}, takes {takes} (from --backend)");
        assert_eq!(first_line(&output), expected);
    }
    // Commas in a path are right.
    assert!(run(["check", "--backend", "https://a.test/x,y"]).status.success());
}

#[test]
fn a_table_that_is_no_table_is_corrected() {
    for (text, said) in [
        (format!("{POOL}pin = true"), "pools.site.pin: got true, takes a table: write [pools.site.pin]"),
        (
            format!("{POOL}pin = false"),
            "pools.site.pin: got false, takes a table: leave it out, or write [pools.site.pin]",
        ),
        (
            format!("{POOL}health = 'http'"),
            "pools.site.health: got \"http\", takes a table: write [pools.site.health]",
        ),
        (format!("{POOL}load = true"), "pools.site.load: got true, takes a table: write [pools.site.load]"),
        (format!("{POOL}cors = '*'"), "pools.site.cors: got \"*\", takes a table: write [pools.site.cors]"),
        (
            format!("{POOL}hash = 'client'"),
            "pools.site.hash: got \"client\", takes a table: write [pools.site.hash]",
        ),
        (format!("{POOL}first = 1"), "pools.site.first: got 1, takes a table: write [pools.site.first]"),
        (
            format!("{POOL}split = 'random'"),
            "pools.site.split: got \"random\", takes a table: write [pools.site.split]",
        ),
        (
            format!("{POOL}[[pools.site.pin]]\nsecure = 'auto'"),
            "pools.site.pin: got a list, takes a table: write [pools.site.pin]",
        ),
        (format!("server = 8080\n{POOL}"), "server: got 8080, takes a table: write [server]"),
        (format!("{POOL}[server]\ntls = true"), "server.tls: got true, takes a table: write [server.tls]"),
        (format!("{POOL}[server]\nlimits = 5"), "server.limits: got 5, takes a table: write [server.limits]"),
        (format!("admin = '[::]:9090'\n{POOL}"), "admin: got \"[::]:9090\", takes a table: write [admin]"),
        (format!("log = 'debug'\n{POOL}"), "log: got \"debug\", takes a table: write [log]"),
        ("[[pools]]\nname = 'site'".to_owned(), "pools: got a list, takes a table: write [pools.NAME]"),
    ] {
        assert_eq!(about_file(".toml", &text), format!("error: {said} (from site.toml)"));
    }
    let output = command(["check", "--backend", "https://a.test"])
        .env("SIGNPOST__POOLS__DEFAULT__HEALTH", "http")
        .output()
        .unwrap();
    assert_eq!(
        first_line(&output),
        "error: pools.default.health: got \"http\", takes a table: each of its keys is a variable of its own, \
         SIGNPOST__POOLS__DEFAULT__HEALTH__KEY (from environment variable SIGNPOST__POOLS__DEFAULT__HEALTH)"
    );
}

#[test]
fn a_file_of_another_format_is_recognized() {
    let yaml = "pools:\n  site:\n    backends:\n      - https://a.example.com\n";
    for (suffix, text, format) in [
        (".yaml", yaml, "YAML"),
        (".yml", yaml, "YAML"),
        (".toml", yaml, "YAML"),
        (".conf", "# site\n---\nserver:\n  workers: 2\n", "YAML"),
        (".conf", "log: {level: debug}\n", "YAML"),
        (".json", "{\"pools\": {}}", "JSON"),
        (".toml", "{\n  \"pools\": {}\n}", "JSON"),
    ] {
        let expected = format!(
            "error: site{suffix}: this looks like {format} (settings are TOML; settings/default.toml has every key)"
        );
        assert_eq!(about_file(suffix, text), expected, "{text}");
    }
    // TOML with a mistake is still TOML.
    assert!(about_file(".toml", "[pools\n").contains("not valid TOML"));
    assert!(about_file(".toml", "workers = \n").contains("not valid TOML"));
}

#[test]
fn a_key_in_the_wrong_place_is_found_where_it_belongs() {
    for (name, near) in [
        ("SIGNPOST__BACKENDS", "SIGNPOST_BACKENDS"),
        ("SIGNPOST__WORKERS", "SIGNPOST__SERVER__WORKERS"),
        ("SIGNPOST__LISTEN", "SIGNPOST__SERVER__LISTEN"),
        ("SIGNPOST__STRATEGY", "SIGNPOST__POOLS__DEFAULT__STRATEGY"),
        ("SIGNPOST__SERVER__HEADER_TIMEOUT", "SIGNPOST__SERVER__LIMITS__HEADER_TIMEOUT"),
        ("SIGNPOST__SERVER_WORKERS", "SIGNPOST__SERVER__WORKERS"),
        ("SIGNPOST__ADMIN_TOKEN", "SIGNPOST__ADMIN__TOKEN"),
        ("SIGNPOST__SERVER_LIMITS__MAX_HEADERS", "SIGNPOST__SERVER__LIMITS__MAX_HEADERS"),
        ("SIGNPOST__SERVER__LIMITS_MAX_HEADERS", "SIGNPOST__SERVER__LIMITS__MAX_HEADERS"),
        ("SIGNPOST__POOLS__SITE__HEALTH_INTERVAL", "SIGNPOST__POOLS__SITE__HEALTH__INTERVAL"),
        ("SIGNPOST__SERVER__WORKER", "\"workers\""),
        ("SIGNPOST__SEVER__WORKERS", "\"server\""),
        ("SIGNPOST__POOLS__DEFAULT__HASHES", "SIGNPOST__POOLS__DEFAULT__HASH__… (KEY, BALANCE_FACTOR)"),
    ] {
        let output = command(["check", "--backend", "https://a.test"]).env(name, "1").output().unwrap();
        let said = stderr(&output);
        let said = said.lines().find(|line| line.contains("no such key")).unwrap();
        assert!(said.contains(&format!(": no such key; did you mean {near}? (known here: ")), "{said}");
        assert!(said.ends_with(&format!("(from environment variable {name})")), "{said}");
    }
    for (text, near) in [
        (format!("listen = ['[::]:80']\n{POOL}"), "server.listen"),
        (format!("backends = ['https://a.test']\n{POOL}"), "pools.NAME.backends"),
        (format!("{POOL}interval = '1s'"), "pools.site.health.interval"),
        (format!("{POOL}health_interval = '1s'"), "pools.site.health.interval"),
        (format!("{POOL}pathprefix = 1"), "\"path_prefix\""),
        (format!("{POOL}secrets = []"), "pools.site.pin.secrets"),
    ] {
        let said = about_file(".toml", &text);
        assert!(said.contains(&format!(": no such key; did you mean {near}? (known here: ")), "{said}");
    }
}

#[test]
fn a_clash_with_the_pool_of_a_flag_names_the_flag() {
    let file = settings_file(POOL);
    let file = file.path().to_str().unwrap();
    for (flags, variable, by) in [
        (vec!["--backend", "https://b.test"], None, "--backend"),
        (vec![], Some("https://b.test"), "SIGNPOST_BACKENDS"),
        (vec!["--pin"], None, "--pin"),
        (vec!["--strategy", "random"], None, "--strategy"),
        (vec!["--backend", "https://b.test", "--pin"], None, "--backend and --pin"),
        (vec!["--pin"], Some("https://b.test"), "--pin and SIGNPOST_BACKENDS"),
    ] {
        let mut command = command(["check", "-s", file].into_iter().chain(flags));
        let output = command.envs(variable.map(|value| ("SIGNPOST_BACKENDS", value))).output().unwrap();
        let said = format!(
            "error: pools.site.path_prefix: pool default comes from {by} and serves every host's /, as pool site does; \
             remove {by}, or add `hosts` to [pools.site] (from {file})"
        );
        assert!(stderr(&output).contains(&said), "{}", stderr(&output));
    }
}

#[test]
fn an_address_that_cannot_be_had_names_its_setting_and_flag() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let start = |listen: &str, admin: &str| {
        let output = run(["--backend", "https://a.test", "--listen", listen, "--admin", admin]);
        assert_eq!(output.status.code(), Some(1));
        first_line(&output)
    };
    assert_eq!(
        start(&taken, "127.0.0.1:0"),
        format!(
            "signpost: server.listen: can't listen on {taken}: the address is in use (choose another with --listen \
             ADDR, or server.listen in a settings file)"
        )
    );
    assert_eq!(
        start("127.0.0.1:0", &taken),
        format!(
            "signpost: admin.listen: can't listen on {taken}: the address is in use (choose another with --admin ADDR, \
             or admin.listen in a settings file)"
        )
    );
    // TEST-NET-1 is no address of any machine.
    assert_eq!(
        start("192.0.2.1:8080", "127.0.0.1:0"),
        "signpost: server.listen: can't listen on 192.0.2.1:8080: this machine has no such address (choose another \
         with --listen ADDR, or server.listen in a settings file)"
    );
    let dir = tempfile::tempdir().unwrap();
    let site = crate::certificates::Site::write(dir.path(), "a", &["a.test"]);
    let tls = settings_file(&format!(
        "[server]\nlisten = []\n[server.tls]\nlisten = ['{taken}']\ncertificates = [{}]\n{POOL}",
        site.toml()
    ));
    assert_eq!(
        first_line(&run(["-s", tls.path().to_str().unwrap(), "--admin", "127.0.0.1:0"])),
        format!(
            "signpost: server.tls.listen: can't listen on {taken}: the address is in use (choose another in \
             server.tls.listen)"
        )
    );
}

#[test]
fn a_port_below_1024_names_the_capability() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse::<u16>().is_ok_and(|first| first <= 80) {
        return skipped("net.ipv4.ip_unprivileged_port_start is 80 or less: port 80 needs no permission");
    }
    // For root; others have no such capability.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]);
    command.arg(crate::harness::command::<&str>([]).get_program());
    let args = ["--backend", "https://a.test", "--listen", "127.0.0.1:80", "--admin", "127.0.0.1:0"];
    let Ok(output) = command.args(args).env_clear().output() else {
        return skipped("setpriv (util-linux) is not installed; port 80 was not tried");
    };
    assert_eq!(
        first_line(&output),
        "signpost: server.listen: can't listen on 127.0.0.1:80: permission denied (ports below 1024 need \
         CAP_NET_BIND_SERVICE, which the systemd unit deploy/systemd/signpost.service grants; or choose a port from \
         1024 on with --listen ADDR, or server.listen in a settings file)"
    );
}

/// Addresses that `check` prints for a listener and the admin listener.
fn listens(args: &[&str]) -> (String, String) {
    let output = run([&["check", "--backend", "https://a.test"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    let printed: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    let admin = printed["admin"]["listen"].as_str().unwrap().to_owned();
    (printed["server"]["listen"][0].as_str().unwrap().to_owned(), admin)
}

#[test]
fn a_port_alone_is_an_address() {
    for written in ["8081", ":8081", "[::]:8081"] {
        assert_eq!(listens(&["--listen", written]).0, "[::]:8081", "{written}");
    }
    // The admin listener becomes public only if that is written out.
    for written in ["9091", ":9091", "127.0.0.1:9091"] {
        assert_eq!(listens(&["--admin", written]).1, "127.0.0.1:9091", "{written}");
    }
    assert_eq!(listens(&["--admin", "[::]:9091"]).1, "[::]:9091");
    for text in
        ["listen = 8081", "listen = '8081'", "listen = ':8081'", "listen = [8081]", "listen = [':8081']"]
    {
        let file = settings_file(&format!("[server]\n{text}\n[admin]\nlisten = 9091"));
        let addresses = listens(&["-s", file.path().to_str().unwrap()]);
        assert_eq!(addresses, ("[::]:8081".to_owned(), "127.0.0.1:9091".to_owned()), "{text}");
    }
    const TAKES: &str =
        "an IP address and a port, such as \"[::]:8080\" or \"127.0.0.1:8080\", or a port alone";
    for (written, hint) in [
        ("::1:8080", ": IPv6 addresses need brackets: \"[::1]:8080\""),
        (":::8080", ": IPv6 addresses need brackets: \"[::]:8080\""),
        ("localhost:8080", ", and no name: \"127.0.0.1:8080\""),
        ("70000", ""),
        (":", ""),
        ("127.0.0.1", ""),
        ("http://127.0.0.1:8080", ""),
    ] {
        let output = run(["check", "--backend", "https://a.test", "--listen", written]);
        let expected =
            format!("error: server.listen[0]: got {written:?}, takes {TAKES}{hint} (from --listen)");
        assert_eq!(first_line(&output), expected);
    }
}

#[test]
fn a_port_alone_serves_both_families() {
    let (port, admin) = {
        let free = || TcpListener::bind("[::]:0").unwrap();
        let (one, other) = (free(), free());
        (one.local_addr().unwrap().port(), other.local_addr().unwrap().port())
    };
    let mut command = command(["--backend", "https://a.test"]);
    command.args(["--listen", &format!(":{port}"), "--admin", &format!("{admin}")]);
    let signpost = Signpost::start_command(&mut command);
    assert_eq!(signpost.admin.to_string(), format!("127.0.0.1:{admin}"));
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{port}").parse().unwrap();
        let answer = crate::harness::Connection::to(address).request("GET", "/", &[]);
        assert_eq!(answer.status, 302, "{host}");
    }
}

#[test]
fn addresses_that_overlap_are_told_before_the_start() {
    for (listen, admin, overlap) in [
        ("[::]:8080", "127.0.0.1:8080", true),
        ("[::]:8080", "[::1]:8080", true),
        ("0.0.0.0:8080", "127.0.0.1:8080", true),
        ("127.0.0.1:8080", "0.0.0.0:8080", true),
        ("0.0.0.0:8080", "[::1]:8080", false),
        ("127.0.0.1:8080", "127.0.0.2:8080", false),
        ("[::]:8080", "127.0.0.1:9090", false),
    ] {
        let output = run(["check", "--backend", "https://a.test", "--listen", listen, "--admin", admin]);
        let expected = format!(
            "error: admin.listen: {admin} and {listen} of server.listen overlap, takes another port (from --admin)"
        );
        assert_eq!(first_line(&output) == expected, overlap, "{}", stderr(&output));
        assert_eq!(output.status.success(), !overlap, "{}", stderr(&output));
    }
}
