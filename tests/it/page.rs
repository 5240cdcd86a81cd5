//! The status page, in a real browser.

use serde_json::{Value, json};

use crate::backend::{Backend, Does};
use crate::browser::Browser;
use crate::harness::{Answer, Connection, Signpost};

const TOKEN: &str = "an admin token of thirty-two bytes or so";
const TWO_POOLS: &str = r#"
    [server]
    watch_interval = "0s"
    [pools.site]
    shadow = ["random"]
    backends = [
      { id = "a", url = "http://127.0.0.1:9001", weight = 3 },
      { id = "b", url = "http://127.0.0.1:9002" },
      { id = "spare", url = "http://127.0.0.1:9003/base", backup = true },
    ]
    health = { kind = "none" }
    pin = { secrets = ["a pin secret of thirty-two bytes, or more"] }
    [pools.video]
    path_prefix = "/video"
    strategy = "random"
    backends = [{ id = "v", url = "http://127.0.0.1:9004" }]
    health = { kind = "none" }
"#;

/// `GET` on the admin listener, by its address.
fn get(signpost: &Signpost, path: &str, headers: &[(&str, &str)]) -> Answer {
    let host = signpost.admin.to_string();
    let headers: Vec<_> = [("Host", host.as_str())].into_iter().chain(headers.iter().copied()).collect();
    Connection::to(signpost.admin).request("GET", path, &headers)
}

/// `GET /api/v1/pools`.
fn overview(signpost: &Signpost) -> Value {
    serde_json::from_slice(&get(signpost, "/api/v1/pools", &[]).body).unwrap()
}

fn url(signpost: &Signpost) -> String {
    format!("http://{}/", signpost.admin)
}

/// The script has taken over the page: it has refreshed the figures and drawn a chart.
const FRESH: &str =
    "document.querySelector('.chart svg path') && /^as of/.test(document.querySelector('#live').innerText)";

/// What an element of a backend's row says.
fn of_row(id: &str, selector: &str) -> String {
    format!("document.querySelector('[data-backend=\"{id}\"] {selector}').textContent.trim()")
}

fn figure(id: &str, name: &str) -> String {
    of_row(id, &format!("[data-figure={name}]"))
}

#[test]
fn without_scripts_every_figure_is_there() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    // Eight: two cycles.
    let visits: Vec<_> = (0..8).map(|_| signpost.get("/")).collect();
    let to_a = visits.iter().find(|answer| answer.location().ends_with(":9001/")).unwrap();
    let pin = to_a.cookie().unwrap().to_owned();
    (0..3).for_each(|_| drop(signpost.request("GET", "/", &[("Cookie", &pin)])));
    signpost.get("/video");
    let Some(browser) = Browser::start() else { return };
    browser.allow_scripts(false);
    browser.open(&url(&signpost));
    let read = |script: &str| browser.text(&format!("return {script}"));
    for pool in overview(&signpost)["pools"].as_array().unwrap() {
        let place = format!("document.querySelector('[data-pool=\"{}\"]')", pool["name"].as_str().unwrap());
        assert!(read(&format!("{place}.innerText")).contains("visitors go to primaries"));
        for strategy in pool["strategies"].as_array().unwrap() {
            let name = strategy["name"].as_str().unwrap();
            let picks: u64 =
                strategy["dispatches"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
            let row = read(&format!("{place}.querySelector('[data-strategy={name}]').innerText"));
            let role = strategy["role"].as_str().unwrap();
            assert!(row.contains(role) && row.contains(&picks.to_string()), "{row}");
        }
        for backend in pool["backends"].as_array().unwrap() {
            let id = backend["id"].as_str().unwrap();
            let row = read(&format!("document.querySelector('[data-backend=\"{id}\"]').innerText"));
            for says in [id, backend["url"].as_str().unwrap(), backend["state"].as_str().unwrap()] {
                assert!(row.contains(says), "{says} is not in {row}");
            }
            for name in ["picked", "pinned", "reassigned"] {
                assert_eq!(read(&figure(id, name)), backend["redirects"][name].to_string(), "{id} {name}");
            }
        }
    }
    assert_eq!((read(&figure("a", "picked")), read(&figure("a", "pinned"))), ("6".into(), "3".into()));
    assert_eq!(read(&figure("a", "dispatch_share")), "81.8\u{202f}%");
    assert_eq!(read(&of_row("a", ".share .of")), "of 75.0\u{202f}%");
    assert_eq!(
        read(&of_row("spare", ".note:not(.reason, .since, .pinned)")),
        "a backup, while there is a primary"
    );
    let disagrees = "document.querySelector('[data-strategy=random] [data-figure=disagrees]').textContent";
    assert!(read(disagrees).ends_with('%'));
    // It comes again by itself, and offers nothing that would do nothing.
    assert!(get(&signpost, "/", &[]).text().contains("<noscript><meta http-equiv=\"refresh\""));
    assert_eq!(browser.run("return document.querySelectorAll('button, input, dialog').length"), json!(0));
}

#[test]
fn with_scripts_the_figures_move() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    assert_eq!(browser.text(&format!("return {}", figure("a", "picked"))), "0");
    (0..2000).for_each(|_| drop(signpost.get("/")));
    browser.wait_until(&format!("{} === '1\u{202f}500'", figure("a", "picked")));
    browser.wait_until(&format!("{} === '75.0\u{202f}%'", figure("a", "dispatch_share")));
    browser.wait_until(
        "document.querySelector('[data-strategy=random] [data-figure=dispatches]').textContent === '2\u{202f}000'",
    );
    browser
        .wait_until("document.querySelector('[data-bar=dispatch_share]').getAttribute('width') === '75.0'");
    // Charts have a line for each strategy, and say in words what they show.
    let chart = "[...document.querySelectorAll('[data-pool=site] .chart')].find((one) => one.innerText.startsWith('Dispatch'))";
    browser.wait_until(&format!("{chart}.querySelectorAll('.line[d^=M]').length === 2"));
    let label = browser.text(&format!("return {chart}.querySelector('svg').getAttribute('aria-label')"));
    assert!(label.contains("round_robin 1.0") && label.contains("random 1."), "{label}");

    // Paused, nothing moves; then it goes on.
    browser.click("#live button");
    signpost.get("/video");
    browser.click("#live button");
    browser.wait_until(&format!("{} === '1'", figure("v", "picked")));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn a_refresh_of_what_stays_as_it_is_touches_nothing() {
    let backends: Vec<_> =
        (0..500).map(|n| format!("{{ id = 'b{n}', url = 'http://127.0.0.1:{}' }}", 10_000 + n)).collect();
    let signpost = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n[pools.p]\nhealth = {{ kind = 'none' }}\nbackends = [{}]",
        backends.join(", ")
    ));
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    browser.run(
        "window.touched = 0; window.asked = performance.getEntriesByType('resource').length;
         new MutationObserver((all) => window.touched += all.length)
           .observe(document.querySelector('.backends'), { subtree: true, childList: true, attributes: true, characterData: true });",
    );
    browser.wait_until("performance.getEntriesByType('resource').length >= window.asked + 2");
    assert_eq!(browser.run("return window.touched"), json!(0));
    assert_eq!(browser.run("return document.querySelectorAll('[data-backend]').length"), json!(500));
    let port: u32 =
        signpost.get("/").location().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    let picked = format!("b{}", port - 10_000);
    browser.wait_until(&format!("{} === '1'", figure(&picked, "picked")));
    // Bars that glide would have five hundred rows painted again and again.
    assert_eq!(browser.run("return document.getAnimations().length"), json!(0));

    browser.type_into(".filter input", "B49");
    let shown =
        "[...document.querySelectorAll('[data-backend]')].filter((row) => row.checkVisibility()).length";
    browser.wait_until(&format!("{shown} === 11"));
}

#[test]
fn it_fits_a_phone_and_any_name() {
    let long = "x".repeat(100);
    let signpost = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n[pools.{}]\nshadow = ['random']\nhealth = {{ kind = 'none' }}\npin = {{}}\nbackends = [{{ id = '{long}', url = 'https://{}.example.com/{long}', weight = 256 }}, {{ id = 'b', url = 'http://127.0.0.1:9001' }}]",
        "p".repeat(64),
        "y".repeat(60),
    ));
    let Some(browser) = Browser::start() else { return };
    for (width, scripts) in [(375, false), (375, true), (320, true), (760, true), (1024, true), (1280, true)]
    {
        browser.allow_scripts(scripts);
        browser.resize(width);
        browser.open(&url(&signpost));
        if scripts {
            browser.wait_until(FRESH);
        }
        let wide = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= width.into(), "{wide} of {width}, scripts: {scripts}");
    }
    browser.resize(375);
    browser.click(".change button");
    browser.wait_until("document.querySelector('dialog').open");
    let dialog =
        browser.run("return document.querySelector('dialog').getBoundingClientRect().right").as_f64();
    assert!(dialog.unwrap() <= 375.0);
}

/// Every text that is shown with its contrast to what it stands on, where that is below 4.5 (WCAG 2.2, 1.4.3).
const FAINT: &str = "
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const color = numbers(getComputedStyle(element).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        throw new Error('no ground');
    };
    const faint = [];
    let looked = 0;
    for (const element of document.body.querySelectorAll('*')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const color = numbers(element instanceof SVGElement ? style.fill : style.color);
        const [high, low] = [light(color), light(ground(element))].sort((a, b) => b - a);
        const contrast = (high + 0.05) / (low + 0.05);
        looked += 1;
        if (contrast < 4.5) faint.push(`${element.textContent.trim()} ${contrast.toFixed(2)}`);
    }
    if (looked < 50) throw new Error(`looked at ${looked} alone`);
    return faint;";

#[test]
fn it_is_readable_in_light_and_dark() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    (0..40).for_each(|_| drop(signpost.get("/")));
    for (id, change) in [("a", "{\"admin\":\"draining\"}"), ("spare", "{\"admin\":\"maintenance\"}")] {
        let headers = [("Host", "127.0.0.1"), ("Content-Type", "application/json")];
        let mut connection = Connection::to(signpost.admin);
        let fields: String = headers.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        connection.send(
            format!(
                "PATCH /api/v1/pools/site/backends/{id} HTTP/1.1\r\n{fields}Content-Length: {}\r\n\r\n{change}",
                change.len()
            )
            .as_bytes(),
        );
        assert_eq!(connection.read_answer().unwrap().status, 200);
    }
    let Some(browser) = Browser::start() else { return };
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.open(&url(&signpost));
        browser.wait_until(FRESH);
        assert_eq!(browser.run(FAINT), json!([]), "{scheme}");
        browser.click("[data-backend=b] .change button");
        assert_eq!(browser.run(FAINT), json!([]), "{scheme}, the dialog");
        grounds.push(browser.text("return getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
}

#[test]
fn a_backend_is_drained_by_a_click_and_weighed_by_keys() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    browser.click("[data-backend=a] .change button");
    browser.click("dialog button[value=draining]");
    browser.wait_until(&format!("{} === 'draining'", of_row("a", ".state")));
    browser.wait_until("document.querySelector('#said').innerText === 'a: draining, weight 3'");
    browser.wait_until(&format!(
        "{}.startsWith('only the pinned, until 20')",
        of_row("a", ".note:not(.reason, .since, .pinned)")
    ));
    assert_eq!(overview(&signpost)["pools"][0]["backends"][0]["state"], "draining");
    assert!((0..4).all(|_| signpost.get("/").location().starts_with("http://127.0.0.1:9002")));

    // The focus is where it was, on a row that was written anew; from there it goes without a mouse.
    browser.wait_until("document.activeElement.getAttribute('aria-label') === 'Change a'");
    browser.press("\u{e007}");
    browser.wait_until("document.querySelector('dialog').open");
    browser.run(
        "const weight = document.querySelector('dialog [type=number]'); weight.focus(); weight.select();",
    );
    browser.type_into("dialog [type=number]", "\u{e003}7\u{e007}");
    browser.wait_until(&format!("{} === '7'", of_row("a", ".weight")));
    browser.wait_until("!document.querySelector('dialog').open");
    // What it can't be is said, by the field or by the API, and changes nothing.
    browser.press("\u{e007}");
    browser.wait_until("document.querySelector('dialog').open");
    browser.press("\u{e00c}");
    browser.wait_until("!document.querySelector('dialog').open");

    browser.click("[data-backend=a] .change button");
    browser.run("[...document.querySelectorAll('dialog button')].find((button) => button.innerText === 'Back to the settings').click()");
    browser.wait_until(&format!("{} === '3'", of_row("a", ".weight")));
    browser.wait_until(&format!("{} === 'unknown'", of_row("a", ".state")));
    assert_eq!(overview(&signpost)["pools"][0]["backends"][0]["set_at_run_time"], json!([]));
    assert_eq!(browser.console(), [""; 0]);
}

/// Changes a backend by the API.
fn patch(signpost: &Signpost, pool: &str, id: &str, change: &str) {
    let mut connection = Connection::to(signpost.admin);
    connection.send(
        format!(
            "PATCH /api/v1/pools/{pool}/backends/{id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{change}",
            change.len()
        )
        .as_bytes(),
    );
    assert_eq!(connection.read_answer().unwrap().status, 200);
}

#[test]
fn line_about_a_change_goes_with_the_state() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    let said = "document.querySelector('#said').innerText";
    browser.click("[data-backend=a] .change button");
    browser.click("dialog button[value=draining]");
    browser.wait_until(&format!("{said} === 'a: draining, weight 3'"));
    // It stays while something else changes.
    patch(&signpost, "site", "b", "{\"weight\":5}");
    browser.wait_until(&format!("{} === '5'", of_row("b", ".weight")));
    assert_eq!(browser.text(&format!("return {said}")), "a: draining, weight 3");
    patch(&signpost, "site", "a", "{\"admin\":null}");
    browser.wait_until(&format!("{said} === ''"));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn shows_how_many_pinned_requests_reach_a_draining_backend() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let pin = signpost.get_to(":9001/").cookie().unwrap().to_owned();
    let api = || overview(&signpost)["pools"][0]["backends"][0]["pinned_last_minute"].clone();
    assert_eq!(api(), Value::Null);
    patch(&signpost, "site", "a", "{\"admin\":\"draining\"}");
    assert_eq!(api(), json!(0));
    // Counted from the first look at it.
    crate::harness::wait_until("it is looked at while it drains", || {
        signpost.request("GET", "/", &[("Cookie", &pin)]);
        api().as_u64().unwrap() >= 2
    });
    (0..100).for_each(|_| drop(signpost.request("GET", "/", &[("Cookie", &pin)])));
    crate::harness::wait_until("those are counted too", || api().as_u64().unwrap() >= 50);
    let text = get(&signpost, "/", &[]).text();
    assert!(text.contains("</span> pinned requests a minute lately"), "{text}");
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    browser.wait_until(&format!("Number({}) > 10", figure("a", "pinned_last_minute")));
    let row = browser.text("return document.querySelector('[data-backend=b]').innerText");
    assert!(!row.contains("pinned requests"), "{row}");
}

#[test]
fn banner_says_that_pinned_clients_are_still_served() {
    let signpost = Signpost::with_settings(
        "[server]\nwatch_interval = '0s'\n[pools.site]\npin = {}\nhealth.kind = 'none'\n\
         backends = [{ id = 'a', url = 'http://127.0.0.1:9001' }]",
    );
    let pin = signpost.get("/").cookie().unwrap().to_owned();
    let pinned = || signpost.request("GET", "/", &[("Cookie", &pin)]).status;
    for (admin, status, clients) in
        [("draining", 302, "Clients without a pin"), ("maintenance", 503, "Clients")]
    {
        patch(&signpost, "site", "a", &format!("{{\"admin\":\"{admin}\"}}"));
        assert_eq!((signpost.get("/").status, pinned()), (503, status), "{admin}");
        let text = get(&signpost, "/", &[]).text();
        assert!(text.contains(&format!("</strong> {clients} get 503.")), "{text}");
    }
}

#[test]
fn ready_is_not_green_over_a_pool_that_is_down() {
    let backends = [Does::Answer; 3].map(Backend::start);
    let urls = backends.each_ref().map(Backend::url);
    let [a, b, c] = backends.map(Backend::kill);
    let health = "health = { interval = '50ms', rise = 1, fall = 1, flap_backoff = '0s' }";
    let signpost = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n[pools.open]\nhosts = ['open.test']\n{health}\n\
         backends = [{{ id = 'a', url = '{}' }}, {{ id = 'b', url = '{}' }}]\n\
         [pools.closed]\nhosts = ['closed.test']\npanic_threshold = 0\n{health}\nbackends = [{{ id = 'c', url = '{}' }}]\n\
         [pools.fine]\nhosts = ['fine.test']\nhealth.kind = 'none'\nbackends = ['http://127.0.0.1:9001']",
        urls[0], urls[1], urls[2]
    ));
    for backend in ["a", "b", "c"] {
        signpost.wait_for_state(backend, "down");
    }
    assert_eq!(signpost.admin_get("/readyz").status, 200);
    let Some(browser) = Browser::start() else { return };
    let read = |selector: &str| {
        browser.text(&format!("return document.querySelector('{selector}')?.innerText ?? 'nothing'"))
    };
    for scripts in [false, true] {
        browser.allow_scripts(scripts);
        browser.open(&url(&signpost));
        if scripts {
            browser.wait_until(FRESH);
        }
        assert_eq!(read(".ready .state[data-state=down]"), "ready, but 2 of 3 pools are failing");
        let open = read("[data-pool=open] .banner");
        assert_eq!(
            open,
            "Failing open. Down: 2 of 2 backends. Clients are sent to backends whether they are up or down."
        );
        let closed = read("[data-pool=closed] .banner");
        assert_eq!(closed, "No backend is eligible. Clients get 503. The rows below say why.");
        assert_eq!(read("[data-pool=fine] .banner"), "nothing");
        assert_eq!(read("[data-backend=a] .reason"), format!("connection refused ({a})"));
        assert!(read("[data-backend=a] .since").starts_with("since 20"));
    }
    let _back = [a, b, c].map(|address| Backend::start_on(address, Does::Answer));
    browser.wait_until("document.querySelectorAll('.banner').length === 0");
    browser.wait_until("document.querySelector('.ready').innerText === 'ready'");
    assert_eq!(read("[data-backend=a] .reason"), "connected");
    let countdown = browser.run("return [0, 59, 60, 61, 300].map(countdown)");
    assert_eq!(countdown, json!(["0 s", "59 s", "1 min", "1 min 1 s", "5 min"]), "as the server writes it");
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn on_a_phone_backends_come_before_charts() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let Some(browser) = Browser::start() else { return };
    let number = |script: &str| browser.run(&format!("return {script}")).as_f64().unwrap();
    let top = |what: &str| number(&format!("document.querySelector('{what}').getBoundingClientRect().top"));
    for (width, backends_first) in [(1280, false), (390, true)] {
        browser.resize(width);
        browser.open(&url(&signpost));
        browser.wait_until(FRESH);
        assert_eq!(top("[data-pool=site] .backends") < top("[data-pool=site] .charts"), backends_first);
        // The last row looks like the others: the state at the same edge, the texts below it too.
        for part in [".state", ".reason", ".since"] {
            let edges = format!(
                "new Set([...document.querySelectorAll('[data-pool=site] [data-backend] {part}')].map((one) => {{ \
                   one.scrollIntoView(); const box = one.getBoundingClientRect(); const style = getComputedStyle(one); \
                   return [style.textAlign, Math.round('{part}' === '.state' && innerWidth < 500 ? box.right : box.left)].join(); }})).size"
            );
            assert_eq!(number(&edges), 1.0, "{part} at {width}");
        }
    }
}

#[test]
fn a_token_is_asked_for_and_kept_nowhere() {
    let signpost = Signpost::with_settings(&format!("{TWO_POOLS}\n[admin]\ntoken = '{TOKEN}'"));
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    let drain = |state: &str| browser.click(&format!("dialog button[value={state}]"));
    let wrong = "document.querySelector('dialog .wrong').innerText";
    browser.click("[data-backend=a] .change button");
    drain("draining");
    browser.wait_until(&format!("{wrong}.includes('bearer token')"));
    browser.type_into("dialog [type=password]", "not this one");
    drain("draining");
    browser.wait_until(&format!("{wrong}.includes('bearer token')"));
    browser.run("document.querySelector('dialog [type=password]').value = ''");
    browser.type_into("dialog [type=password]", TOKEN);
    drain("draining");
    browser.wait_until(&format!("{} === 'draining'", of_row("a", ".state")));
    // Once given it is not asked for again, until the page is left.
    browser.click("[data-backend=a] .change button");
    assert_eq!(
        browser.run("return document.querySelector('dialog [type=password]').checkVisibility()"),
        json!(false)
    );
    drain("active");
    browser.wait_until(&format!("{} === 'unknown'", of_row("a", ".state")));
    assert_eq!(
        browser.run("return [localStorage.length, sessionStorage.length, document.cookie]"),
        json!([0, 0, ""])
    );
    assert!(!browser.text("return document.documentElement.outerHTML").contains(TOKEN));
    assert!(!signpost.log().contains(TOKEN));
}

#[test]
fn where_nothing_may_change_nothing_is_offered() {
    let mut command =
        crate::harness::command(["--backend", "http://127.0.0.1:9001", "--listen", "127.0.0.1:0"]);
    let signpost = Signpost::start_command(command.args(["--admin", "0.0.0.0:0"]));
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("http://127.0.0.1:{}/", signpost.admin.port()));
    browser.wait_until(FRESH);
    assert_eq!(browser.run("return document.querySelectorAll('.change').length"), json!(0));
    assert!(browser.text("return document.body.innerText").contains("admin.token"));
}

#[test]
fn markup_in_settings_is_text() {
    let ids = ["<img/src=x/onerror=document.title=1>", "<script>document.title=2</script>", "&lt;b&gt;"];
    let backends =
        ids.map(|id| format!("{{ id = '{id}', url = \"http://127.0.0.1:9001/&amp;'(${{1}})/{{{{a}}}}\" }}"));
    let signpost = Signpost::with_settings(&format!(
        "[server]\nwatch_interval = '0s'\n[pools.p]\nhealth = {{ kind = 'none' }}\nbackends = [{}]",
        backends.join(", ")
    ));
    let Some(browser) = Browser::start() else { return };
    for scripts in [false, true] {
        browser.allow_scripts(scripts);
        browser.open(&url(&signpost));
        if scripts {
            browser.wait_until(FRESH);
            // Drained through an address that holds all of it.
            browser.click("[data-backend] .change button");
            browser.click("dialog button[value=draining]");
            browser.wait_until("document.querySelector('.state[data-state=draining]')");
        }
        let read = |selector: &str| {
            let each = format!("[...document.querySelectorAll('{selector}')].map((one) => one.textContent)");
            browser.run(&format!("return {each}"))
        };
        assert_eq!(read("main .id"), json!(ids));
        assert_eq!(read("main .url")[0], "http://127.0.0.1:9001/&amp;'(${1})/{{a}}");
        assert_eq!(read("title"), json!(["Signpost"]));
        assert_eq!(read("main img, main script, main b:not(.legend b)"), json!([]));
    }
}

#[test]
fn nothing_leaves_the_origin() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let elsewhere = Signpost::with_settings(TWO_POOLS);
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    let asked = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)");
    let asked: Vec<_> = asked.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(asked.len() >= 4, "{asked:?}");
    assert!(asked.iter().all(|name| name.starts_with(&url(&signpost))), "{asked:?}");
    assert_eq!(
        browser.run("return document.querySelectorAll('main a, [onclick], [style]').length"),
        json!(0)
    );
    assert_eq!(browser.console(), [""; 0]);

    // What somebody managed to put in the page could neither run nor tell anybody.
    let blocked = browser.run(&format!(
        "const seen = [];
         addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
         const add = (name, set) => document.body.append(Object.assign(document.createElement(name), set));
         const refused = (name, what) => {{ try {{ what(); }} catch (error) {{ seen.push(`${{name}} ${{error.name}}`); }} }};
         refused('markup', () => add('div', {{ innerHTML: '<img src=x onerror=\"window.ran = true\">' }}));
         refused('handler', () => document.body.setAttribute('onclick', 'window.ran = true'));
         refused('script', () => add('script', {{ text: 'window.ran = true' }}));
         add('img', {{ src: 'http://{0}/x' }});
         add('style', {{ textContent: 'body {{ display: none }}' }});
         const settled = () => new Promise((done) => setTimeout(() => done(seen), 100));
         return fetch('http://{0}/').then(() => ['reached'], settled);",
        elsewhere.admin
    ));
    for what in [
        "markup TypeError",
        "handler TypeError",
        "script TypeError",
        "connect-src",
        "img-src",
        "style-src-elem",
    ] {
        assert!(blocked.as_array().unwrap().contains(&json!(what)), "{what}: {blocked}");
    }
    assert_eq!(browser.run("return window.ran ?? null"), Value::Null);
    let (listener, name) = (elsewhere.admin.to_string(), "signpost_connections_total");
    let count = elsewhere.metric(name, &[("listener", &listener)]);
    assert_eq!(elsewhere.metric(name, &[("listener", &listener)]), count + 1.0, "only those of this test");
}

#[test]
fn its_answers_say_how_they_may_be_used() {
    let signpost = Signpost::with_settings(TWO_POOLS);
    let page = get(&signpost, "/", &[]);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    for directive in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
    {
        assert!(policy.split("; ").any(|one| one == directive), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    for (file, kind) in [
        ("page.js", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ] {
        assert!(page.text().contains(&format!("\"assets/{file}\"")), "{file}");
        let path = format!("/assets/{file}");
        let asset = get(&signpost, &path, &[]);
        assert_eq!((asset.status, asset.header("content-type")), (200, Some(kind)));
        let tag = asset.header("etag").unwrap();
        for (known, status) in [(tag, 304), (&*format!("\"other\", {tag}"), 304), ("\"other\"", 200)] {
            let again = get(&signpost, &path, &[("If-None-Match", known)]);
            assert_eq!((again.status, again.header("etag")), (status, Some(tag)), "{known}");
            assert_eq!(again.body.is_empty(), status == 304);
        }
    }
    assert_eq!(get(&signpost, "/assets/other.js", &[]).status, 404);
    // A name that was made to lead here reads nothing.
    for path in ["/", "/assets/page.js"] {
        let foreign = Connection::to(signpost.admin).request("GET", path, &[("Host", "evil.example")]);
        assert_eq!(foreign.status, 403);
    }
}

#[test]
fn loads_are_shown_where_backends_report_them() {
    let signpost = Signpost::with_settings(
        "[server]\nwatch_interval = '0s'\n[pools.p]\nstrategy = 'least_load'\nshadow = ['round_robin']\nhealth.kind = 'none'
         backends = [{ id = 'a', url = 'http://127.0.0.1:9001' }, { id = 'b', url = 'http://127.0.0.1:9002' }, { id = 'c', url = 'http://127.0.0.1:9003' }]
         load = { source = 'push', max_age = '1h' }",
    );
    let push = |backend: &str, sessions: u32| {
        let body = format!("{{\"sessions\":{sessions},\"capacity\":1000}}");
        let mut connection = Connection::to(signpost.admin);
        let head = format!("PUT /api/v1/pools/p/backends/{backend}/load HTTP/1.1\r\nHost: 127.0.0.1");
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
        connection.send(format!("{head}\r\n{fields}\r\n\r\n{body}").as_bytes());
        assert_eq!(connection.read_answer().unwrap().status, 204);
    };
    push("a", 900);
    push("b", 300);
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&signpost));
    browser.wait_until(FRESH);
    browser.wait_until(&format!("{}.startsWith('90.')", figure("a", "load")));
    browser.wait_until(&format!("{}.startsWith('30.')", figure("b", "load")));
    assert_eq!(browser.text(&format!("return {}", figure("c", "load"))), "–");
    let bar = |id: &str| format!("document.querySelector('[data-backend={id}] [data-bar=load]')");
    browser.wait_until(&format!(
        "{}.dataset.level === 'high' && {}.dataset.level === 'fine'",
        bar("a"),
        bar("b")
    ));
    // 900 and 300 of a thousand each: 1.5 times the mean. Of the shadow it is a model, and said to be.
    let of = |strategy: &str, figure: &str| {
        format!("document.querySelector('[data-strategy={strategy}] [data-figure={figure}]').textContent")
    };
    browser.wait_until(&format!("{}.startsWith('1.5')", of("least_load", "load_imbalance")));
    let row = browser.text("return document.querySelector('[data-strategy=round_robin]').innerText");
    assert!(row.contains("modeled"), "{row}");
    let titles = "[...document.querySelectorAll('.chart h3')].map((title) => title.firstChild.data).join()";
    assert_eq!(browser.text(&format!("return {titles}")), "Visitors,Dispatch imbalance,Load imbalance,Load");
    // It moves with what is sent there, before anybody reports again.
    (0..60).for_each(|_| drop(signpost.get("/")));
    browser.wait_until(&format!("parseFloat({}) > 31.5", figure("b", "load")));

    browser.allow_scripts(false);
    browser.open(&url(&signpost));
    let shown = browser.text(&format!("return {}", figure("a", "load")));
    assert!(shown.starts_with("90.") || shown.starts_with("91."), "{shown}");
    assert_eq!(browser.text(&format!("return {}", figure("c", "load"))), "–");
}
