//! A headless Chromium, driven over the WebDriver protocol, plain HTTP and JSON.
//!
//! It reaches loopback alone: every name and every other address is mapped to nothing.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::harness::{Connection, PATIENCE, skipped, wait_until};

/// A browser with one window. It is ended when this is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _turn: MutexGuard<'static, ()>,
}

/// One at a time: each is a dozen processes.
static TURN: Mutex<()> = Mutex::new(());

impl Browser {
    /// `None` where Chromium or its driver is missing, which is then said loudly.
    pub fn start() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn();
        let Ok(mut driver) = driver else {
            skipped("chromedriver is missing; `apt-get install chromium chromium-driver` has it");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port =
            |line: String| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok();
        let port = lines.by_ref().map_while(Result::ok).find_map(port).expect("the driver's port");
        // Read on, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self { driver, port, session: String::new(), _turn: turn };
        // No sandbox: it needs privileges that a container withholds, and what is shown is our own.
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--disable-lcd-text",
            "--hide-scrollbars",
            "--window-size=1280,900",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ];
        let options = json!({ "args": args });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let answer = browser.call("POST", "/session", json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = answer["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let (host, length) = (format!("127.0.0.1:{}", self.port), body.len());
        let mut connection = Connection::to(host.parse().unwrap());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        connection.send(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes());
        let answer = connection.read_answer().unwrap_or_else(|| panic!("no answer to {method} {path}"));
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
        serde_json::from_slice::<Value>(&answer.body).unwrap()["value"].take()
    }

    fn session(&self, command: &str, body: Value) -> Value {
        self.call("POST", &format!("/session/{}/{command}", self.session), body)
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.session("goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.session("url", json!({ "url": url }));
    }

    /// What the body of a function gives in the page. It runs where the page's own scripts may not, too.
    pub fn run(&self, script: &str) -> Value {
        self.session("execute/sync", json!({ "script": script, "args": [] }))
    }

    /// The same, as text.
    pub fn text(&self, script: &str) -> String {
        match self.run(script) {
            Value::String(text) => text,
            other => panic!("{script} gave {other}"),
        }
    }

    /// Waits until an expression is true in the page.
    pub fn wait_until(&self, so: &str) {
        wait_until(&format!("the page has {so}"), || {
            self.run(&format!("return Boolean({so})")) == json!(true)
        });
    }

    /// Clicks an element as a person does: it must be in sight and uncovered.
    pub fn click(&self, selector: &str) {
        let found = self.session("element", json!({ "using": "css selector", "value": selector }));
        let element = found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.session(&format!("element/{element}/click"), json!({}));
    }

    /// Types into an element.
    pub fn type_into(&self, selector: &str, text: &str) {
        let found = self.session("element", json!({ "using": "css selector", "value": selector }));
        let element = found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.session(&format!("element/{element}/value"), json!({ "text": text }));
    }

    /// Presses a key wherever the focus is.
    pub fn press(&self, key: &str) {
        let press = |kind: &str| json!({ "type": kind, "value": key });
        let actions = json!([{ "type": "key", "id": "keys", "actions": [press("keyDown"), press("keyUp")] }]);
        self.session("actions", json!({ "actions": actions }));
    }

    /// As wide as this many pixels.
    pub fn resize(&self, width: u32) {
        let mobile = width < 500;
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": mobile });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Prefers `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// Lets pages run scripts, or not.
    pub fn allow_scripts(&self, allowed: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !allowed }));
    }

    /// What the console says that was not read yet: errors, refused loads.
    pub fn console(&self) -> Vec<String> {
        let entries = self.session("se/log", json!({ "type": "browser" }));
        entries.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }
}

impl Drop for Browser {
    /// The driver ends its Chromium with the session; a test may be failing already, so nothing here may.
    fn drop(&mut self) {
        if let Ok(socket) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = socket.set_read_timeout(Some(PATIENCE));
            let mut connection = Connection::over(socket);
            let path = format!("/session/{}", self.session);
            connection.send(format!("DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes());
            connection.read_answer();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
