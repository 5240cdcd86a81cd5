//! Asks a backend's agent for its line, again and again, as HAProxy's `agent-check` does: a connection, a line, the end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, make_rng};
use tokio::io::AsyncReadExt as _;

use super::reports::Reports;
use super::{Shared, wait_for_turn};
use crate::keeper::{Event, Target};
use crate::load::Refused;
use crate::load::agent::{Line, MAX_LINE};
use crate::metrics::Told;

/// Asks one agent at the pace of probes. That it does not answer says nothing of the backend: probes do.
pub(super) async fn listen(shared: Rc<Shared>, target: Arc<Target>, spread: Duration) {
    let interval = target.health.interval.0;
    let mut rng: SmallRng = make_rng();
    let mut reports = Reports::new(Arc::clone(&target));
    wait_for_turn(&mut rng, spread.min(interval)).await;
    loop {
        let began = Instant::now();
        match ask(&shared, &target).await {
            Ok(line) => {
                match line.claim() {
                    Some(claim) => reports.take(&shared, Ok(claim)).await,
                    None => reports.note(&shared, Told::Ok, String::new),
                }
                let event = Event::Agent { target: Arc::clone(&target), line };
                if shared.events.send(event).await.is_err() {
                    return;
                }
            }
            Err(refused) => reports.note(&shared, refused.told(), || refused.to_string()),
        }
        let next = interval.mul_f64(rng.random_range(0.9..1.1));
        tokio::time::sleep_until((began + next).into()).await;
    }
}

async fn ask(shared: &Shared, target: &Target) -> Result<Line, Refused> {
    let _place = shared.places.acquire().await;
    let patience = target.health.timeout.0;
    let asked = tokio::time::timeout(patience, read_line(shared, target)).await;
    let late =
        || Err(Refused::Unreachable(format!("the agent said no line within {}", target.health.timeout)));
    Line::parse(&asked.unwrap_or_else(|_| late())?)
}

/// The agent's first line, without its end.
async fn read_line(shared: &Shared, target: &Target) -> Result<Vec<u8>, Refused> {
    let unreachable = |why: String| Refused::Unreachable(format!("the agent: {why}"));
    let port = target.load.as_ref().map_or(0, |load| load.agent_port.0);
    let socket = shared
        .tools
        .connect_to(target, port, &Cell::default())
        .await
        .map_err(|failure| unreachable(failure.text))?;
    let mut socket = socket.take(MAX_LINE as u64 + 1);
    let mut line = Vec::new();
    loop {
        let from = line.len();
        let count = socket.read_buf(&mut line).await.map_err(|error| unreachable(error.to_string()))?;
        if let Some(end) = line[from..].iter().position(|byte| *byte == b'\n') {
            line.truncate(from + end);
            return Ok(line);
        }
        if line.len() > MAX_LINE {
            return Err(Refused::Malformed(format!("the agent's line is longer than {MAX_LINE} bytes")));
        }
        if count == 0 {
            return Ok(line);
        }
    }
}
