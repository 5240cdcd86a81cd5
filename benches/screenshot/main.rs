//! Takes the README's picture of the status page, under load: `cargo bench --bench screenshot`, some five minutes.
//!
//! Six backends hold sessions that never are, and report them by the answer to their probe; a seventh is dead. Visitors
//! come as they like, at 150 a second. The picture goes to `deploy/status-page.png`. It needs Chromium, as the tests do.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "of the tests"
)]
#[path = "../../tests/it/browser.rs"]
mod browser;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "of the tests"
)]
#[path = "../../tests/it/harness.rs"]
mod harness;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "of the tests"
)]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use browser::Browser;
use harness::{Connection, Signpost};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Where the picture goes.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/status-page.png");
const WIDTH: u32 = 1180;
/// How long it runs before the picture is taken, unless so many seconds are asked for: `-- 60`.
const RUNS: u64 = 290;
/// Visitors a second, how long one stays on average, and what share comes back with a pin.
const RATE: f64 = 150.0;
const STAYS: f64 = 8.0;
const RETURNS: f64 = 0.15;

/// Backends: their names, weights, and how many sessions each can hold, which is not always what its weight says.
const BACKENDS: [(&str, u16, u32); 6] = [
    ("ams-1", 4, 560),
    ("ams-2", 4, 560),
    ("fra-1", 2, 280),
    ("fra-2", 2, 180),
    ("lon-1", 1, 220),
    ("lon-2", 1, 140),
];

/// The ends of the sessions of each backend.
type Sessions = Arc<[Mutex<Vec<Instant>>]>;

fn main() -> Outcome {
    let sessions: Sessions = BACKENDS.iter().map(|_| Mutex::default()).collect();
    let ports = (0..BACKENDS.len()).map(|index| report(&sessions, index)).collect::<Outcome<Vec<u16>>>()?;
    let signpost = Signpost::with_settings(&settings(&ports));
    let Some(browser) = Browser::start() else { return Ok(()) };
    browser.prefer("light");
    browser.resize(WIDTH);
    browser.open(&format!("http://{}/", signpost.admin));
    let runs = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RUNS);
    println!("runs for {runs} s");
    visit(&signpost, &sessions, Duration::from_secs(runs));

    let height = browser.run("return document.documentElement.scrollHeight");
    let clip = json!({ "x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1 });
    let picture =
        browser.devtools("Page.captureScreenshot", json!({ "clip": clip, "captureBeyondViewport": true }));
    let picture =
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap_or_default())?;
    let picture = smaller(&picture)?;
    std::fs::write(PICTURE, &picture)?;
    println!("{PICTURE}: {WIDTH} x {height}, {} bytes", picture.len());
    Ok(())
}

/// The same picture with at most 256 colours, which is a third of the bytes: the commonest, and for all others the
/// nearest of these.
fn smaller(picture: &[u8]) -> Outcome<Vec<u8>> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(picture));
    decoder.set_transformations(png::Transformations::ALPHA | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("too large")?];
    let frame = reader.next_frame(&mut bytes)?;
    let pixels: Vec<[u8; 3]> = bytes.chunks_exact(4).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let mut counts = HashMap::new();
    for pixel in &pixels {
        *counts.entry(*pixel).or_insert(0u32) += 1;
    }
    // Of colours that hardly differ the commonest stands for all.
    let mut alike: HashMap<[u8; 3], ([u8; 3], u32, u32)> = HashMap::new();
    for (&pixel, &count) in &counts {
        let (commonest, most, all) = alike.entry(pixel.map(|part| part >> 3)).or_insert((pixel, 0, 0));
        *all += count;
        if (count, pixel) > (*most, *commonest) {
            (*commonest, *most) = (pixel, count);
        }
    }
    let mut colours: Vec<_> = alike.into_values().collect();
    colours.sort_by_key(|&(colour, _, all)| (Reverse(all), colour));
    let colours: Vec<[u8; 3]> = colours.into_iter().map(|(colour, ..)| colour).take(256).collect();
    let apart = |a: &[u8; 3], b: &[u8; 3]| -> u32 {
        a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
    };
    let nearest = |pixel: &[u8; 3]| {
        let distances = colours.iter().map(|colour| apart(colour, pixel)).zip(0u8..=255);
        distances.min().map_or(0, |(_, index)| index)
    };
    let indices: HashMap<[u8; 3], u8> = counts.keys().map(|pixel| (*pixel, nearest(pixel))).collect();

    let mut smaller = Vec::new();
    let mut encoder = png::Encoder::new(&mut smaller, frame.width, frame.height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(colours.concat());
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    let indices: Vec<u8> = pixels.iter().map(|pixel| indices[pixel]).collect();
    encoder.write_header()?.write_image_data(&indices)?;
    Ok(smaller)
}

fn settings(ports: &[u16]) -> String {
    let dead = ("nyc-1", 2, 1);
    let all = BACKENDS.iter().map(|(name, weight, _)| (*name, *weight)).zip(ports.iter().copied());
    let all = all.chain([((dead.0, dead.1), dead.2)]).map(|((name, weight), port)| {
        format!(
            "{{ id = '{name}', url = 'https://{name}.video.example.com', weight = {weight}, probe_url = 'http://127.0.0.1:{port}' }}"
        )
    });
    format!(
        "[server]\nwatch_interval = '0s'\n[log]\naccess = false\n[pools.video]\nstrategy = 'least_load'\n\
         shadow = ['round_robin', 'consistent_hash']\nhash = {{ key = 'query:user' }}\nbackends = [{}]\n\
         health = {{ kind = 'http', interval = '2s' }}\nload = {{ source = 'probe_header' }}\npin = {{ secrets = ['{}'] }}\n",
        all.collect::<Vec<_>>().join(", "),
        "0".repeat(32)
    )
}

/// A backend that answers probes with its sessions; its port.
fn report(sessions: &Sessions, index: usize) -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (sessions, capacity) = (Arc::clone(sessions), BACKENDS[index].2);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = socket.read(&mut head);
            let now = Instant::now();
            let mut ends = sessions[index].lock().unwrap_or_else(PoisonError::into_inner);
            ends.retain(|end| *end > now);
            let load = format!("named_metrics.sessions={},named_metrics.capacity={capacity}", ends.len());
            let answer =
                format!("HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT {load}\r\nContent-Length: 0\r\n\r\n");
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    Ok(port)
}

/// Visitors, one after the other, until it is time for the picture. One backend is drained in between.
fn visit(signpost: &Signpost, sessions: &Sessions, runs: Duration) {
    let (mut rng, mut connection) = (SmallRng::seed_from_u64(1), signpost.connect());
    let (begun, mut pins, mut is_drained) = (Instant::now(), Vec::new(), false);
    let mut next = begun;
    for number in 0u32.. {
        if begun.elapsed() > runs {
            break;
        }
        // A connection may not be kept for ever.
        if number % 1000 == 999 {
            connection = signpost.connect();
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // A tide of ninety seconds.
        let tide = 1.0 + 0.3 * (begun.elapsed().as_secs_f64() / 90.0 * std::f64::consts::TAU).sin();
        next += Duration::from_secs_f64(-rng.random::<f64>().max(1e-9).ln() / (RATE * tide));
        let pin: Option<&String> = if rng.random::<f64>() < RETURNS && !pins.is_empty() {
            pins.get(rng.random_range(0..pins.len()))
        } else {
            None
        };
        let headers: Vec<_> = pin.iter().map(|pin| ("Cookie", pin.as_str())).collect();
        let answer = connection.request("GET", &format!("/watch?user={}", rng.random::<u32>()), &headers);
        if let Some(pin) = answer.cookie().filter(|_| pins.len() < 3000) {
            pins.push(pin.to_owned());
        }
        let at = BACKENDS.iter().position(|(name, ..)| answer.location().contains(name));
        if let Some(of) = at.map(|index| &sessions[index]) {
            let stays = -rng.random::<f64>().max(1e-9).ln() * STAYS;
            let end = Instant::now() + Duration::from_secs_f64(stays);
            of.lock().unwrap_or_else(PoisonError::into_inner).push(end);
        }
        if !is_drained && begun.elapsed() > runs * 3 / 5 {
            drain(signpost);
            is_drained = true;
        }
    }
}

fn drain(signpost: &Signpost) {
    let body = "{\"admin\":\"draining\"}";
    let head = "PATCH /api/v1/pools/video/backends/lon-2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let mut connection = Connection::to(signpost.admin);
    connection.send(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    connection.read_answer();
}
