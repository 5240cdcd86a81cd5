//! What is shipped for Prometheus and Grafana: the rules, their tests and the dashboard, tried on a real Prometheus that
//! scrapes the real binary under load.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::backend::{Backend, Does};
use crate::certificates::{self, client};
use crate::harness::{Connection, OnDrop, PATIENCE, Signpost, skipped, wait_until};
use crate::support::process::{Lines, wait_for};

const RULES: &str = include_str!("../../deploy/prometheus/rules.yml");
const RULES_TEST: &str = include_str!("../../deploy/prometheus/rules_test.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");

fn rules_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// Every object in a document, and itself.
fn objects(value: &Value) -> Vec<&Value> {
    let inner: Vec<&Value> = match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    let itself = value.is_object().then_some(value);
    itself.into_iter().chain(inner.into_iter().flat_map(objects)).collect()
}

/// What stands behind a key in a text of YAML, wherever that is.
fn named<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key))
        .map(str::trim)
        .collect()
}

/// The names in a text that are metrics' by their look: ours, the process', and recorded ones.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = ["signpost_", "process_"];
    words
        .filter(|word| ours.iter().any(|ours| word.starts_with(ours)) || word.contains(":signpost_"))
        .collect()
}

/// A dispatcher of which every figure can be seen, with visitors of all sorts who come for as long as it is there.
struct Scene {
    signpost: Signpost,
    site: certificates::Site,
    _backends: Vec<Backend>,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = certificates::Site::write(dir.path(), "site", &["site.test"]);
        let backends: Vec<_> = (0..3).map(|_| Backend::start(Does::Answer)).collect();
        let [a, b, c] = [0, 1, 2].map(|n| backends[n].url());
        let signpost = Signpost::with_settings(&format!(
            "[server]
            trusted_proxies = ['127.0.0.0/8']
            [server.tls]
            listen = ['127.0.0.1:0']
            certificates = [{}]
            [admin]
            state_file = '{}'
            [pools.site]
            hosts = ['site.test']
            strategy = 'round_robin'
            shadow = ['random']
            pin = {{}}
            load = {{}}
            backends = [
              {{ id = 'a', url = '{a}', weight = 3 }}, {{ id = 'b', url = '{b}' }},
              {{ id = 'leaving', url = '{c}' }}, {{ id = 'dead', url = 'http://127.0.0.1:1' }},
            ]
            health = {{ kind = 'http', interval = '200ms' }}
            [pools.split]
            hosts = ['split.test']
            strategy = 'random'
            split = {{ round_robin = 0.5 }}
            max_requests_per_second = 1000
            backends = ['{a}', '{b}']",
            site.toml(),
            dir.path().join("overrides.json").display(),
        ));
        tell(signpost.admin, "PATCH leaving", r#"{"admin":"draining"}"#);
        signpost.wait_for_state("dead", "down");
        Self { signpost, site, _backends: backends, _dir: dir }
    }

    /// Does something while visitors come and backends tell their load.
    fn visited(&self, meanwhile: impl FnOnce()) {
        let (plain, tls, admin) = (self.signpost.traffic, self.signpost.tls.unwrap(), self.signpost.admin);
        let config = Arc::new(client(&[&self.site], &["http/1.1"]));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _over = OnDrop(|| over.store(true, Ordering::Relaxed));
            scope.spawn(|| {
                let mut visitors = 0_u16..;
                while !over.load(Ordering::Relaxed) {
                    let mut tls = certificates::connect(tls, "site.test", &config).unwrap();
                    tls.request("GET", "/", &[("Host", "site.test")]);
                    visit(plain, visitors.by_ref().take(50));
                    tell(admin, "PUT a/load", r#"{"sessions":12,"capacity":40}"#);
                    tell(admin, "PUT b/load", r#"{"sessions":3,"capacity":10}"#);
                }
            });
            meanwhile();
        });
    }

    /// The names of all samples that `/metrics` has.
    fn sample_names(&self) -> BTreeSet<String> {
        let text = self.signpost.metrics();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
    }
}

/// Each of them comes to both pools, comes back with its pin and with a forged one, and asks for what is not served.
fn visit(to: SocketAddr, visitors: impl Iterator<Item = u16>) {
    let mut connection = Connection::to(to);
    for visitor in visitors {
        let [high, low] = visitor.to_be_bytes();
        let address = format!("10.1.{high}.{low}");
        let mut come = |host: &str, cookie: &str| {
            let headers = [("Host", host), ("X-Forwarded-For", &*address), ("Cookie", cookie)];
            connection.request("GET", "/", &headers)
        };
        let pin = come("site.test", "").cookie().unwrap().to_owned();
        come("site.test", &pin);
        come("site.test", "signpost_site=nonsense");
        come("split.test", "");
        come("unknown.test", "");
    }
}

/// Has the API change something, such as `PUT a/load`, of a backend of the pool `site`.
fn tell(admin: SocketAddr, what: &str, body: &str) {
    let (method, path) = what.split_once(' ').unwrap();
    let text = format!(
        "{method} /api/v1/pools/site/backends/{path} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut admin = Connection::to(admin);
    admin.send(text.as_bytes());
    let answer = admin.read_answer().unwrap();
    assert!(answer.status < 300, "{what}: {answer:?}");
}

/// A real one with a directory of its own. It is ended when this is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// Has it scrape a dispatcher every second and work out the rules as often; `None` where there is no Prometheus.
    fn start(target: SocketAddr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        let rules = rules_directory().join("rules.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\nscrape_configs:\n  \
             - job_name: signpost\n    static_configs: [{{ targets: ['{target}'] }}]\n",
            rules.display()
        );
        std::fs::write(&config, text).unwrap();
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let spawned = Command::new("prometheus")
            .args([option("config.file", &config), option("storage.tsdb.path", &dir.path().join("data"))])
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("prometheus can't be started: {error}"),
        };
        let log = Lines::of(child.stderr.take().unwrap());
        let mut prometheus = Self { child, address: target, _dir: dir };
        let address = |line: &String| line.split_once("msg=\"Listening on\" address=")?.1.trim().parse().ok();
        let found = wait_for(PATIENCE, || log.all().iter().find_map(address));
        prometheus.address =
            found.unwrap_or_else(|| panic!("no address; it said:\n{}", log.all().join("\n")));
        wait_until("it is ready", || prometheus.get("/-/ready").0 == 200);
        Some(prometheus)
    }

    /// Status and body. By HTTP/1.0, whose bodies end with the connection.
    fn get(&self, target: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What an expression comes to now: series that have a number. Panics where it is no expression.
    fn query(&self, expr: &str) -> Vec<Value> {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("query", expr).finish();
        let (status, body) = self.get(&format!("/api/v1/query?{query}"));
        assert_eq!(status, 200, "{expr}\n{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let series = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expr} is no vector"));
        series.iter().filter(|series| series["value"][1] != "NaN").cloned().collect()
    }

    /// Every rule as it stands.
    fn rules(&self) -> Vec<Value> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/rules").1).unwrap();
        let groups = answer["data"]["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A query of the dashboard, with values for Grafana's variables.
fn with_values(expr: &str) -> String {
    let values = [
        ("$__rate_interval", "20s"),
        ("$__range", "1m"),
        ("$job", "signpost"),
        ("$instance", ".+"),
        ("$pool", ".+"),
        ("$strategy", ".+"),
        ("$measure", "highest_over_mean"),
    ];
    let expr = values.iter().fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value));
    assert!(!expr.contains('$'), "a variable that is not known: {expr}");
    expr
}

/// What the dashboard asks: each expression, and the labels that the answer must have to be told apart.
fn queries() -> Vec<(String, Vec<String>)> {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    for object in objects(&dashboard) {
        if let Some(expr) = object["expr"].as_str() {
            let legend = object["legendFormat"].as_str().unwrap();
            let labels = legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().to_owned());
            queries.push((with_values(expr), labels.collect()));
        }
        if let Some(definition) = object["definition"].as_str() {
            let inner = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (expr, label) = inner.and_then(|inner| inner.rsplit_once(", ")).unwrap();
            queries.push((with_values(expr), vec![label.to_owned()]));
        }
    }
    queries
}

#[test]
fn a_real_prometheus_has_an_answer_to_every_query() {
    let scene = Scene::set();
    let Some(prometheus) = Prometheus::start(scene.signpost.admin) else {
        skipped("prometheus is missing; `apt-get install prometheus` has it");
        return;
    };
    scene.visited(|| {
        let recorded =
            named(RULES, "record:").into_iter().map(|name| (name.to_owned(), vec!["job".to_owned()]));
        let mut unanswered: Vec<_> = queries().into_iter().chain(recorded).collect();
        assert!(unanswered.len() > 50, "{}", unanswered.len());
        let give_up = Instant::now() + PATIENCE;
        loop {
            unanswered.retain(|(expr, labels)| {
                let answer = prometheus.query(expr);
                let lacks = |series: &Value, label: &String| series["metric"][label].as_str().is_none();
                for series in &answer {
                    assert!(
                        !labels.iter().any(|label| lacks(series, label)),
                        "{expr} lacks {labels:?}: {series}"
                    );
                }
                answer.is_empty()
            });
            if unanswered.is_empty() {
                break;
            }
            assert!(Instant::now() < give_up, "no answer to {unanswered:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        // One backend is dead here, and nothing else is wrong.
        wait_until("the alert for the dead backend, and no other, is on its way", || {
            let active = |rule: &&Value| rule["type"] == "alerting" && rule["state"] != "inactive";
            let rules = prometheus.rules();
            let names: Vec<_> =
                rules.iter().filter(active).map(|rule| rule["name"].as_str().unwrap()).collect();
            names == ["SignpostBackendDown"]
        });
        for rule in prometheus.rules() {
            assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule}");
            if rule["type"] == "alerting" {
                assert!(
                    ["warning", "critical"].map(Value::from).contains(&rule["labels"]["severity"]),
                    "{rule}"
                );
                for text in ["summary", "description"] {
                    assert!(rule["annotations"][text].as_str().is_some_and(|text| text.len() > 20), "{rule}");
                }
            }
        }
    });
}

#[test]
fn rules_and_dashboard_name_only_what_there_is() {
    let scene = Scene::set();
    let recorded = named(RULES, "record:");
    let of_texts = [RULES, RULES_TEST, DASHBOARD].map(metric_names);
    assert!(of_texts.iter().all(|names| names.len() > 20));
    let mut unknown: BTreeSet<_> =
        of_texts.into_iter().flatten().filter(|name| !recorded.contains(name)).collect();
    scene.visited(|| {
        let give_up = Instant::now() + PATIENCE;
        while !unknown.is_empty() {
            assert!(Instant::now() < give_up, "there is no metric called {unknown:?}");
            let samples = scene.sample_names();
            unknown.retain(|name| !samples.contains(*name));
        }
    });
}

#[test]
fn every_rule_has_a_test_both_ways() {
    let tested = named(RULES_TEST, "expr:");
    for record in named(RULES, "record:") {
        assert!(tested.contains(&record), "no test of {record}");
    }
    let alerts = named(RULES, "alert:");
    assert!(alerts.len() > 10);
    // In the test file what is expected of an alert stands two lines below its name.
    let tests: Vec<_> = RULES_TEST.lines().collect();
    for alert in alerts {
        let of_alert = |at: &usize| tests[*at].trim() == format!("- alertname: {alert}");
        let expected: Vec<_> = (0..tests.len()).filter(of_alert).map(|at| tests[at + 2].trim()).collect();
        for way in ["exp_alerts:", "exp_alerts: []"] {
            assert!(expected.contains(&way), "no test of {alert} with {way}");
        }
    }
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    for args in [
        ["check", "rules", "--lint=all", "--lint-fatal", "rules.yml"].as_slice(),
        &["test", "rules", "rules_test.yml"],
    ] {
        let Ok(output) = Command::new("promtool").args(args).current_dir(rules_directory()).output() else {
            skipped("promtool is missing; `apt-get install prometheus` has it");
            return;
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.contains("SUCCESS"), "{args:?}: {said}");
    }
}

#[test]
fn the_dashboard_is_sound() {
    let dashboard = dashboard();
    assert_eq!(dashboard["__inputs"][0]["name"], "DS_PROMETHEUS");
    for object in objects(&dashboard).into_iter().filter(|object| object.get("datasource").is_some()) {
        assert_eq!(object["datasource"]["uid"], "${DS_PROMETHEUS}", "{object}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for place in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            assert!(taken.insert(place), "{title} lies over another");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says nothing of itself");
        // Imbalance of dispatches and of load are different things, and so are load that was seen and such that was not.
        let text = panel["targets"].to_string();
        let of = |name: &str| text.contains(name);
        assert!(
            !(of("signpost_dispatch_imbalance") && of("signpost_load_imbalance")),
            "{title} mixes them up"
        );
        assert!(!of("signpost_load_imbalance") || of("source"), "{title} does not say whose load");
    }
}
