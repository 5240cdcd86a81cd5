//! The admin API's document: every operation in it exists, every one that exists is in it, and what is really
//! answered has the shape that it says.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use signpost::fleet::{CheckResult, EffectiveState, Excluded, HealthState, Priority, Role, StateReason};
use signpost::strategy::{Score, StrategyKind};

use crate::harness::{Answer, Connection, Signpost, command, settings_file, wait_until};

const TOKEN: &str = "an admin token of thirty-two bytes or so";
const POOL: &str = "[pools.p]\nstrategy = 'random'\nbackends = [{ id = 'a', url = 'http://127.0.0.1:9001' }, { id = 'b', url = 'http://127.0.0.1:9002' }]\n";
const BACKEND: &str = "/api/v1/pools/{pool}/backends/{id}";
const LOAD: &str = "/api/v1/pools/{pool}/backends/{id}/load";
const EXPLAIN: &str = "/api/v1/pools/{pool}/explain";

fn start() -> Signpost {
    Signpost::with_settings(&format!("[server]\nwatch_interval = '0s'\n{POOL}"))
}

/// Sends a request to the admin listener; a body is JSON unless the headers say something else.
fn ask(signpost: &Signpost, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let length = body.len().to_string();
    let mut fields = vec![("Content-Length", length.as_str())];
    let has = |name: &str| headers.iter().any(|(known, _)| *known == name);
    if !body.is_empty() && !has("Content-Type") {
        fields.push(("Content-Type", "application/json"));
    }
    if !has("Host") {
        fields.push(("Host", "127.0.0.1"));
    }
    let fields: String =
        fields.iter().chain(headers).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut connection = Connection::to(signpost.admin);
    connection.send(format!("{method} {path} HTTP/1.1\r\n{fields}\r\n{body}").as_bytes());
    connection.read_answer().unwrap()
}

fn document(signpost: &Signpost) -> Value {
    let answer = ask(signpost, "GET", "/api/v1/openapi.json", &[], "");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    serde_json::from_slice(&answer.body).unwrap()
}

/// The path, with names of this test's settings in the place of its parameters.
fn filled(path: &str) -> String {
    path.replace("{pool}", "p").replace("{id}", "a").replace("{file}", "page.js")
}

fn at<'d>(document: &'d Value, names: &[&str]) -> &'d Value {
    names.iter().fold(document, |value, name| value.get(name).unwrap_or_else(|| panic!("no {names:?}")))
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object"))
}

// --- What is there and what is described ---------------------------------------------------------------------

/// Every path and method of the document, `GET /healthz` and so on.
fn described(document: &Value) -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for (path, item) in object(&document["paths"]) {
        for method in object(item).keys().filter(|key| *key != "parameters") {
            operations.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    operations
}

/// Every path and method there is, by what a running one says: a path that is not there lists those that are, and
/// a method that is not taken lists in `Allow` those that are.
fn answered(signpost: &Signpost) -> BTreeSet<String> {
    let listing = ask(signpost, "GET", "/no-such-path", &[], "");
    assert_eq!(listing.status, 404);
    let mut operations = BTreeSet::new();
    for path in listing.text().trim().strip_prefix("here are ").unwrap().split(", ") {
        let answer = ask(signpost, "BREW", &filled(path), &[], "");
        assert_eq!(answer.status, 405, "{path}");
        let allowed: Vec<_> = answer.header("allow").unwrap().split(',').map(str::trim).collect();
        // That GET answers HEAD too goes without saying; the document says it once.
        let implied = |method: &str| method == "HEAD" && allowed.contains(&"GET");
        let methods = allowed.iter().filter(|method| !implied(method));
        operations.extend(methods.map(|method| format!("{method} {path}")));
    }
    operations
}

#[test]
fn what_is_described_is_what_there_is() {
    let signpost = start();
    let document = document(&signpost);
    assert_eq!(described(&document), answered(&signpost));
    for (path, item) in object(&document["paths"]) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let status = ask(&signpost, method, &filled(path), &[], "").status;
            let is_described = item.get(method.to_lowercase()).is_some();
            assert_eq!(status != 405, is_described, "{method} {path}: {status}");
            assert_ne!(status, 404, "{method} {path}");
        }
    }
}

/// The tables are what the 404 lists; so nothing may be routed past them.
#[test]
fn the_router_has_no_route_beside_its_tables() {
    let source =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/mod.rs")).unwrap();
    assert_eq!(source.matches(".route(").count(), 1, "a route beside `OPEN` and `API`");
    for other in [".route_service(", ".nest_service(", ".merge("] {
        assert!(!source.contains(other), "{other}");
    }
    assert_eq!(source.matches(".nest(").count(), 1);
}

#[test]
fn what_it_names_is_what_there_is_in_the_program() {
    let document = document(&start());
    assert_eq!(at(&document, &["info", "version"]), env!("CARGO_PKG_VERSION"));
    let words =
        |schema, property| &at(&document, &["components", "schemas", schema, "properties", property])["enum"];
    assert_eq!(*words("Pool", "strategy"), json!(StrategyKind::ALL.map(StrategyKind::name)));
    for schema in ["Strategy", "ExplainedStrategy"] {
        assert_eq!(*words(schema, "name"), json!(StrategyKind::ALL.map(StrategyKind::name)));
        assert_eq!(*words(schema, "role"), json!(Role::ALL.map(Role::name)));
    }
    assert_eq!(*words("Pool", "priority"), json!(Priority::ALL));
    assert_eq!(*words("Explanation", "priority"), json!(Priority::ALL));
    assert_eq!(*words("Candidate", "state"), json!(EffectiveState::ALL.map(EffectiveState::name)));
    let scores: Vec<_> = Score::ALL.map(Some).into_iter().chain([None]).collect();
    assert_eq!(*words("ExplainedStrategy", "score"), json!(scores));
    let excluded: Vec<_> = Excluded::ALL.map(Some).into_iter().chain([None]).collect();
    assert_eq!(*words("Backend", "excluded"), json!(excluded));
    assert_eq!(*words("Backend", "state"), json!(EffectiveState::ALL.map(EffectiveState::name)));
    assert_eq!(*words("Backend", "reason"), json!(StateReason::ALL));
    assert_eq!(*words("LastCheck", "result"), json!(CheckResult::ALL));
    assert_eq!(*words("Backend", "health"), json!(HealthState::ALL.map(HealthState::name)));

    let mut ids = BTreeSet::new();
    for (path, item) in object(&document["paths"]) {
        let in_path = path.matches('{').count();
        let parameters = item.get("parameters").and_then(Value::as_array).into_iter().flatten();
        assert_eq!(parameters.filter(|parameter| parameter["in"] == "path").count(), in_path, "{path}");
        for (_, operation) in object(item).iter().filter(|(key, _)| *key != "parameters") {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{operation} has another's id");
            let security = match operation["operationId"].as_str().unwrap() {
                "changeBackend" | "reload" => json!([{}, { "token": [] }]),
                "pushLoad" => json!([{}, { "load_token": [] }]),
                _ => json!([]),
            };
            assert_eq!(operation["security"], security);
        }
    }
}

// --- What is really answered ---------------------------------------------------------------------------------

/// Holds an answer against what the document says of its operation and status.
fn hold(document: &Value, method: &str, path: &str, answer: &Answer) {
    let what = format!("{method} {path}: {} {}", answer.status, answer.text());
    let responses = at(document, &["paths", path, &method.to_lowercase(), "responses"]);
    let response =
        responses.get(answer.status.to_string()).unwrap_or_else(|| panic!("not described: {what}"));
    let response = resolved(document, response);
    for (name, header) in response.get("headers").map(object).into_iter().flatten() {
        let value = answer.header(&name.to_lowercase()).unwrap_or_else(|| panic!("no {name}: {what}"));
        check(document, &header["schema"], &json!(value), name).unwrap();
    }
    let kind = answer.header("content-type").map(|kind| kind.split(';').next().unwrap());
    let Some(content) = response.get("content") else { return assert_eq!(answer.body, b"", "{what}") };
    let kind = kind.unwrap_or_else(|| panic!("no content type: {what}"));
    let schema = &content.get(kind).unwrap_or_else(|| panic!("{kind} is not described: {what}"))["schema"];
    let value = match kind.ends_with("json") {
        true => serde_json::from_slice(&answer.body).unwrap(),
        false => json!(answer.text()),
    };
    check(document, schema, &value, "").unwrap_or_else(|error| panic!("{error}: {what}"));
    if kind == "application/problem+json" {
        assert_eq!(value["status"], answer.status, "{what}");
    }
}

#[test]
fn what_is_answered_is_what_is_described() {
    let signpost = start();
    let document = document(&signpost);
    let seen = RefCell::new(BTreeSet::new());
    let expect = |signpost: &Signpost, method, path, headers: &[(&str, &str)], body: &str, status| {
        let answer = ask(signpost, method, &filled(path), headers, body);
        assert_eq!(answer.status, status, "{method} {path} {headers:?} {body}: {answer:?}");
        hold(&document, method, path, &answer);
        seen.borrow_mut().insert(status);
    };
    for path in
        ["/", "/assets/{file}", "/metrics", "/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/pools"]
    {
        expect(&signpost, "GET", path, &[], "", 200);
    }
    expect(&signpost, "GET", EXPLAIN, &[], "", 200);
    let tag = ask(&signpost, "GET", "/assets/page.js", &[], "").header("etag").unwrap().to_owned();
    expect(&signpost, "GET", "/assets/{file}", &[("If-None-Match", &tag)], "", 304);
    signpost.get("/");
    expect(&signpost, "PATCH", BACKEND, &[], "{\"admin\":\"draining\",\"weight\":0}", 200);
    expect(&signpost, "GET", "/api/v1/pools", &[], "", 200);
    expect(&signpost, "POST", "/api/v1/reload", &[], "", 200);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/assets/{file}"),
        ("GET", "/api/v1/pools"),
        ("GET", "/api/v1/openapi.json"),
        ("POST", "/api/v1/reload"),
    ] {
        expect(&signpost, method, path, &[("Host", "a b")], "", 400);
        expect(&signpost, method, path, &[("Host", "evil.example")], "", 403);
    }
    expect(&signpost, "PATCH", BACKEND, &[("Origin", "https://evil.example")], "{\"weight\":1}", 403);
    expect(&signpost, "PATCH", BACKEND, &[("Content-Type", "text/plain")], "{\"weight\":1}", 415);
    expect(&signpost, "POST", "/api/v1/reload", &[("Content-Type", "text/plain")], "x", 415);
    expect(&signpost, "PATCH", BACKEND, &[], &format!("{{\"x\":\"{}\"}}", "y".repeat(70_000)), 413);
    // Names of nobody, and escapes that are no text.
    for (path, status) in [("/api/v1/pools/q/backends/a", 404), ("/api/v1/pools/%ff/backends/a", 400)] {
        let answer = ask(&signpost, "PATCH", path, &[], "{\"weight\":1}");
        assert_eq!(answer.status, status);
        hold(&document, "PATCH", BACKEND, &answer);
        seen.borrow_mut().insert(status);
    }

    for (path, status) in [("/assets/other", 404), ("/assets/%ff", 400)] {
        let answer = ask(&signpost, "GET", path, &[], "");
        assert_eq!(answer.status, status);
        hold(&document, "GET", "/assets/{file}", &answer);
    }

    // What a backend pushes.
    expect(&signpost, "PUT", LOAD, &[], "{\"sessions\":1}", 409);
    expect(&signpost, "PUT", LOAD, &[("Host", "a b")], "{\"sessions\":1}", 400);
    let reporting = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n{POOL}load = {{ source = 'push' }}"
    ));
    expect(&reporting, "PUT", LOAD, &[], "{\"sessions\":1,\"capacity\":4}", 204);
    expect(&reporting, "PUT", LOAD, &[], "{\"sessions\":-1}", 422);
    expect(&reporting, "PUT", LOAD, &[], &format!("{{\"x\":\"{}\"}}", "y".repeat(70_000)), 413);
    expect(&reporting, "PUT", LOAD, &[("Content-Type", "text/plain")], "{}", 415);
    expect(&reporting, "PUT", LOAD, &[("Origin", "https://evil.example")], "{\"sessions\":1}", 403);
    let nobody = ask(&reporting, "PUT", "/api/v1/pools/p/backends/z/load", &[], "{\"sessions\":1}");
    assert_eq!(nobody.status, 404);
    hold(&document, "PUT", LOAD, &nobody);

    let file = settings_file(&format!(
        "[server]\nwatch_interval = '0s'\n[admin]\ntoken = '{TOKEN}'\nload_token = 'x{TOKEN}'\n{POOL}load = {{}}"
    ));
    let guarded = Signpost::start(&["--settings", file.path().to_str().unwrap()]);
    expect(&guarded, "PATCH", BACKEND, &[], "{\"weight\":1}", 401);
    expect(&guarded, "POST", "/api/v1/reload", &[], "", 401);
    expect(&guarded, "PUT", LOAD, &[], "{\"sessions\":1}", 401);
    std::fs::write(file.path(), "[pools.p]\nbackends = ['nonsense']").unwrap();
    expect(&guarded, "POST", "/api/v1/reload", &[("Authorization", &format!("Bearer {TOKEN}"))], "", 422);

    let hashed = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n{}",
        POOL.replace("random", "consistent_hash")
    ));
    expect(&hashed, "GET", EXPLAIN, &[], "", 422);
    for (path, status) in [
        ("/api/v1/pools/q/explain", 404),
        ("/api/v1/pools/%ff/explain", 400),
        ("/api/v1/pools/p/explain?key=::1", 200),
    ] {
        let answer = ask(&hashed, "GET", path, &[], "");
        assert_eq!(answer.status, status);
        hold(&document, "GET", EXPLAIN, &answer);
    }

    // The demo's settings are fixed.
    let mut demo = command(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let demo = Signpost::start_command(&mut demo);
    expect(&demo, "POST", "/api/v1/reload", &[], "", 409);
    expect(&demo, "GET", "/api/v1/pools", &[], "", 200);

    // Every status but those of a process in trouble was seen.
    let described: BTreeSet<u16> = object(&document["paths"])
        .values()
        .flat_map(|item| object(item).values())
        .filter_map(|operation| operation.get("responses"))
        .flat_map(|responses| object(responses).keys().map(|status| status.parse().unwrap()))
        .filter(|status| *status < 500)
        .collect();
    assert_eq!(seen.into_inner(), described);
}

#[test]
fn what_is_answered_while_leaving_is_described_too() {
    let signpost =
        Signpost::with_settings(&format!("[server]\nwatch_interval = '0s'\nshutdown_delay = '1h'\n{POOL}"));
    let document = document(&signpost);
    signpost.signal("TERM");
    wait_until("it is leaving", || ask(&signpost, "GET", "/readyz", &[], "").status == 503);
    for (method, path) in [("GET", "/readyz"), ("POST", "/api/v1/reload")] {
        let answer = ask(&signpost, method, path, &[], "");
        assert_eq!(answer.status, 503, "{method} {path}: {answer:?}");
        hold(&document, method, path, &answer);
    }
}

#[test]
fn a_change_is_taken_if_and_only_if_its_schema_takes_it() {
    let signpost = start();
    let document = document(&signpost);
    let content = at(&document, &["paths", BACKEND, "patch", "requestBody", "content", "application/json"]);
    for body in [
        json!({ "admin": "active" }),
        json!({ "admin": "draining", "weight": 256 }),
        json!({ "admin": "maintenance" }),
        json!({ "admin": null, "weight": null }),
        json!({ "weight": 0 }),
        json!({}),
        json!([]),
        json!(null),
        json!({ "admin": "down" }),
        json!({ "admin": 1 }),
        json!({ "weight": 257 }),
        json!({ "weight": -1 }),
        json!({ "weight": 1.5 }),
        json!({ "weight": "1" }),
        json!({ "weight": 1, "url": "http://127.0.0.1:1" }),
    ] {
        let takes = check(&document, &content["schema"], &body, "");
        let answer = ask(&signpost, "PATCH", &filled(BACKEND), &[], &body.to_string());
        assert_eq!(
            answer.status,
            if takes.is_ok() { 200 } else { 422 },
            "{body}: {takes:?}, {}",
            answer.text()
        );
        hold(&document, "PATCH", BACKEND, &answer);
    }
}

// --- A validator of the little JSON Schema that the document uses --------------------------------------------

/// What a `$ref` stands for, or the value itself.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value.get("$ref") {
        Some(reference) => {
            let names: Vec<_> = reference.as_str().unwrap().strip_prefix("#/").unwrap().split('/').collect();
            at(document, &names)
        }
        None => value,
    }
}

/// Whether a value is what a schema says. An object may have no member that is not described, unless the schema
/// says `additionalProperties: true`: stricter than JSON Schema, so that nothing is answered that is not described.
/// A keyword that is not known here is an error, since it would hold nothing.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let schema = object(resolved(document, schema));
    let wrong = |says: String| Err(format!("{place}: {value} {says}"));
    let none = Map::new();
    let properties = schema.get("properties").map_or(&none, object);
    for (keyword, says) in schema {
        let number = || says.as_f64().unwrap();
        match keyword.as_str() {
            "description" => {}
            "type" => {
                let types = says.as_array().map_or(std::slice::from_ref(says), Vec::as_slice);
                if !types.iter().any(|name| is_of_type(value, name.as_str().unwrap())) {
                    return wrong(format!("is not of type {says}"));
                }
            }
            "enum" if !says.as_array().unwrap().contains(value) => {
                return wrong(format!("is none of {says}"));
            }
            "minimum" if value.as_f64().is_some_and(|value| value < number()) => {
                return wrong(format!("is below {says}"));
            }
            "maximum" if value.as_f64().is_some_and(|value| value > number()) => {
                return wrong(format!("is above {says}"));
            }
            "minProperties" if value.as_object().is_some_and(|members| (members.len() as f64) < number()) => {
                return wrong(format!("has fewer members than {says}"));
            }
            "required" => {
                let missing =
                    |name: &&Value| value.is_object() && value.get(name.as_str().unwrap()).is_none();
                if let Some(name) = says.as_array().unwrap().iter().find(missing) {
                    return wrong(format!("has no {name}"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, says, item, &format!("{place}[{index}]"))?;
                }
            }
            "properties" => {
                for (name, schema) in properties {
                    if let Some(member) = value.get(name) {
                        check(document, schema, member, &format!("{place}.{name}"))?;
                    }
                }
            }
            "enum" | "minimum" | "maximum" | "minProperties" | "additionalProperties" => {}
            _ => return wrong(format!("can't be held against {keyword:?}, which this test does not know")),
        }
    }
    let is_open = schema.get("additionalProperties") == Some(&json!(true));
    let mut members = value.as_object().into_iter().flat_map(Map::keys);
    match members.find(|name| !is_open && !properties.contains_key(*name)) {
        Some(name) => wrong(format!("has {name:?}, which is not described")),
        None => Ok(()),
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("{name} is no type"),
    }
}

#[test]
fn the_validator_sees_a_mismatch() {
    let document = json!({ "schemas": {
        "Pair": {
            "type": "object",
            "required": ["a"],
            "properties": { "a": { "type": "integer", "minimum": 1, "maximum": 3 }, "b": { "$ref": "#/schemas/Words" } }
        },
        "Words": { "type": ["array", "null"], "items": { "type": "string", "enum": ["x", "y"] } },
        "Some": { "type": "object", "minProperties": 1, "additionalProperties": true },
        "Strange": { "type": "string", "pattern": "^a" }
    } });
    let of = |name: &str, value: Value| {
        check(&document, &json!({ "$ref": format!("#/schemas/{name}") }), &value, "")
    };
    for right in [json!({ "a": 1 }), json!({ "a": 3, "b": ["x", "y"] }), json!({ "a": 2, "b": null })] {
        assert_eq!(of("Pair", right), Ok(()));
    }
    assert_eq!(of("Some", json!({ "any": 1 })), Ok(()));
    for (wrong, says) in [
        (json!([]), "not of type"),
        (json!({}), "has no \"a\""),
        (json!({ "a": "1" }), ".a: \"1\" is not of type"),
        (json!({ "a": 1.5 }), "not of type"),
        (json!({ "a": null }), "not of type"),
        (json!({ "a": 0 }), "below 1"),
        (json!({ "a": 4 }), "above 3"),
        (json!({ "a": 1, "c": 1 }), "has \"c\""),
        (json!({ "a": 1, "b": {} }), ".b: {} is not of type"),
        (json!({ "a": 1, "b": ["x", "z"] }), ".b[1]: \"z\" is none of"),
        (json!({ "a": 1, "b": [1] }), ".b[0]: 1 is none of"),
    ] {
        let error = of("Pair", wrong.clone()).unwrap_err();
        assert!(error.contains(says), "{wrong}: {error}");
    }
    assert!(of("Some", json!({})).unwrap_err().contains("fewer members"));
    assert!(of("Strange", json!("abc")).unwrap_err().contains("\"pattern\""));
}
