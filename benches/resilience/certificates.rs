//! Certificates that change under load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::Scenario;
use crate::http::{client, exchange, request};
use crate::process::{POOL, Start, replace, wait_until};
use crate::report::Report;
use crate::tls::{Files, Pair, config, connect};

/// Four clients do nothing but handshakes, each a whole one with a request, while the certificate is swapped
/// ten times: key and certificate are two files, so for a moment they don't fit each other. Then the file is
/// broken. There is always a pair that was served a moment ago, so no handshake has a reason to fail, a broken
/// file leaves the old certificate in its place, and the metric says so.
pub const SCENARIO: Scenario = Scenario {
    name: "certificates",
    shows: "certificates swapped and broken under a load of handshakes",
    seconds: 120,
    run,
};

const SWAPS: usize = 10;
const CLIENTS: u8 = 4;

fn run(report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    let pairs = [Pair::new(), Pair::new()];
    files.write(&pairs[0]);
    let signpost = Start::with(&format!(
        "[log]\naccess = false\n[server]\nwatch_interval = '100ms'\n{}{POOL}",
        files.settings()
    ))
    .go();
    let address = signpost.tls.expect("a TLS listener");
    let config = config(&[&pairs[0], &pairs[1]], &["http/1.1"]);
    let whole = request("GET", "/", &[("Connection", "close")], "");
    let visit = |from: u8| {
        let mut stream = connect(client(from), address, &config)?;
        let shown = stream.conn.peer_certificates().map(|chain| chain[0].clone());
        let status = exchange(&mut stream, &whole)?.status;
        if status == 302 { Ok(shown) } else { Err(std::io::Error::other(format!("status {status}"))) }
    };
    let shows = |pair: &Pair| visit(2).is_ok_and(|shown| shown.as_ref() == Some(&pair.der));

    let stop = AtomicBool::new(false);
    let done = AtomicU32::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (stop, done, failed, visit) = (&stop, &done, &failed, &visit);
        for number in 0..CLIENTS {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = visit(3 + number) {
                        failed.lock().unwrap().push(error.to_string());
                    }
                }
            });
        }
        let mut slowest: f64 = 0.0;
        for turn in 1..=SWAPS {
            let pair = &pairs[turn % 2];
            files.write(pair);
            let seen = wait_until(Duration::from_secs(10), || shows(pair));
            slowest = slowest.max(seen.map_or(f64::INFINITY, |took| took.as_secs_f64()));
        }
        report.at_most(
            "slowest of ten swaps until it was shown, with watch_interval = 100 ms",
            slowest,
            2.0,
            "s",
        );

        // Broken: half a file, then a key of another pair.
        let name = files.cert.display().to_string();
        let labels = [("name", name.as_str())];
        const SUCCESSFUL: &str = "signpost_certificate_last_reload_successful";
        let becomes =
            |value| signpost.metric_becomes(SUCCESSFUL, &labels, value, Duration::from_secs(10)).is_some();
        replace(&files.cert, "-----BEGIN CERTIFICATE-----\nMIIB");
        report.holds("a broken certificate: the metric says so", becomes(0.0));
        report.holds("a broken certificate: the old one is shown", shows(&pairs[SWAPS % 2]));
        files.write(&pairs[SWAPS % 2]);
        report.holds("repaired: the metric says so", becomes(1.0));
        report.holds("the log says what was wrong", signpost.log.has(&["site.crt", "ERROR"]));
        report.holds("nobody else has noticed", signpost.get(2).is_ok_and(|answer| answer.status == 302));
        stop.store(true, Ordering::Relaxed);
    });
    let failed = failed.into_inner().unwrap();
    let words = failed.first().map_or(String::new(), |error| format!(" ({error})"));
    let done = done.into_inner();
    report.exactly(&format!("handshakes and requests that failed of {done}{words}"), failed.len(), 0);
    let counted = signpost.metric("signpost_tls_handshakes_total", &[("result", "ok")]);
    report.at_least("handshakes counted as ok", counted, f64::from(done), "");
}
