//! Posts whose senders look for the answer when they have sent everything.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::Scenario;
use crate::http::{client, connect_from, read_answer};
use crate::process::{POOL, Start};
use crate::report::Report;
use crate::tls::{Files, Pair, config, connect};

/// Posts of 20 MB, several at once, by clients that send all before they read, as browsers do. The answer is
/// out after the head; a server that closed then would reset the sender, whose kernel throws the answer away.
/// At least 99.9 % must read their 307: what is left is for a machine that stalls for longer than the 5 s of
/// silence that are allowed them.
pub const SCENARIO: Scenario = Scenario {
    name: "long-post",
    shows: "20 MB posts whose clients send everything before they read",
    seconds: 240,
    run,
};

const POSTS: u32 = 400;
const AT_ONCE: u32 = 4;
const SIZE: usize = 20_000_000;

fn run(report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let pair = Pair::new();
    files.write(&pair);
    let signpost = Start::with(&format!("[log]\naccess = false\n{}{POOL}", files.settings())).go();
    let config = config(&[&pair], &["http/1.1"]);
    many(report, "plain", &|| post(connect_from(client(2), signpost.traffic)?));
    let address = signpost.tls.expect("a TLS listener");
    many(report, "TLS", &|| post(connect(client(2), address, &config)?));
}

/// Posts, several at once.
fn many(report: &mut Report, how: &str, post: &(dyn Fn() -> io::Result<()> + Sync)) {
    let (begun, read) = (AtomicU32::new(0), AtomicU32::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < POSTS {
                    match post() {
                        Ok(()) => _ = read.fetch_add(1, Ordering::Relaxed),
                        Err(error) => println!("{:8}a post failed: {error}", ""),
                    }
                }
            });
        }
    });
    let share = 100.0 * f64::from(read.into_inner()) / f64::from(POSTS);
    report.at_least(&format!("307 read of {POSTS} posts of 20 MB, {how}"), share, 99.9, "%");
    let rate = f64::from(POSTS) * SIZE as f64 / 1e6 / started.elapsed().as_secs_f64();
    report.note(&format!("discarded, {how}"), &format!("{rate:.0} MB/s"));
}

fn post(mut stream: impl Read + Write) -> io::Result<()> {
    send_all(&mut stream)?;
    expect_307(read_answer(&mut stream)?.status)
}

fn send_all(stream: &mut impl Write) -> io::Result<()> {
    let chunk = vec![b'x'; 100_000];
    write!(stream, "POST /upload HTTP/1.1\r\nHost: site.example\r\nContent-Length: {SIZE}\r\n\r\n")?;
    for _ in 0..SIZE / chunk.len() {
        stream.write_all(&chunk)?;
    }
    stream.flush()
}

fn expect_307(status: u16) -> io::Result<()> {
    if status == 307 { Ok(()) } else { Err(io::Error::other(format!("status {status}"))) }
}
