//! The seeds of every fuzz target, as ordinary tests. Add an input that once failed, and it stays mended.

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
pub mod targets;

fn run(name: &str, target: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        target(&std::fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn location() {
    run("location", targets::location);
}

#[test]
fn pin() {
    run("pin", targets::pin);
}

#[test]
fn forwarded() {
    run("forwarded", targets::forwarded);
}

#[test]
fn proxy_protocol() {
    run("proxy_protocol", targets::proxy_protocol);
}

#[test]
fn load() {
    run("load", targets::load);
}

#[test]
fn request_paths() {
    run("request_paths", targets::request_paths);
}

#[test]
fn settings() {
    run("settings", targets::settings);
}
