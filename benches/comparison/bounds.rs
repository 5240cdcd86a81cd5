//! What must hold. Processor time is per request, and its ratios are medians of the rounds' ratios.

use crate::memory::ListenerProtocol;
use crate::results::Results;
use crate::servers::Kind::{self, Bare, Haproxy, Nginx, Signpost};

/// A figure beside its bound.
pub struct Bound {
    pub what: String,
    /// None: nothing was measured that would say.
    pub figure: Option<f64>,
    pub most: f64,
    pub unit: &'static str,
}

impl Bound {
    pub fn verdict(&self) -> &'static str {
        match self.figure {
            None => "SKIPPED",
            Some(figure) if figure <= self.most => "ok",
            Some(_) => "MISSED",
        }
    }
}

/// Visitors come once and leave, so what counts most is the connection of one request, and the handshake of one.
const PROCESSOR: [(&str, Kind, f64); 6] = [
    ("one-shot", Nginx, 0.70),
    ("one-shot", Haproxy, 0.58),
    ("keep-alive", Nginx, 0.80),
    ("keep-alive", Bare, 1.10),
    ("tls-one-shot", Nginx, 0.60),
    ("tls-resumed", Nginx, 0.75),
];

/// The bounds of the rows that were measured, and of memory where it was.
pub fn of(results: &Results) -> Vec<Bound> {
    let rows: Vec<_> = results.rows().collect();
    let has = |row: &str| rows.contains(&row);
    let mut bounds = Vec::new();
    for (row, kind, most) in PROCESSOR.into_iter().filter(|(row, ..)| has(row)) {
        bounds.push(Bound {
            what: format!("{row}: processor time of {kind}'s"),
            figure: results.ratio((row, Signpost), (row, kind)),
            most,
            unit: "",
        });
    }
    if has("pin") && has("keep-alive") {
        bounds.push(Bound {
            what: "pin: processor time of the same without pins".to_owned(),
            figure: results.ratio(("pin", Signpost), ("keep-alive", Signpost)),
            most: 1.15,
            unit: "",
        });
    }
    if has("one-shot") {
        // Four are the least: accept4, recvfrom, sendto, close.
        bounds.push(Bound {
            what: "one-shot: system calls of a request under load".to_owned(),
            figure: results.calls_per_answer("one-shot", Signpost),
            most: 4.2,
            unit: "",
        });
    }
    if has("open-loop") {
        // One hiccup of the machine makes a round's p99: the medians are compared, not the rounds.
        let p99 = |kind| results.median("open-loop", kind, |sample| sample.p99);
        bounds.push(Bound {
            what: "open-loop: p99 of nginx's".to_owned(),
            figure: p99(Signpost).zip(p99(Nginx)).map(|(own, other)| own / other),
            most: 1.1,
            unit: "",
        });
    }
    if let Some(bytes) = results.memory.get(&(Signpost, ListenerProtocol::Plain)) {
        bounds.push(Bound {
            what: "memory of a waiting connection".to_owned(),
            figure: Some(bytes / 1024.0),
            most: 4.0,
            unit: " KiB",
        });
    }
    bounds.push(Bound {
        what: "requests that did not get the right answer".to_owned(),
        figure: Some(results.failed(Signpost) as f64),
        most: 0.0,
        unit: "",
    });
    bounds
}
