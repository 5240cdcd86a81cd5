//! Reads the line of a backend's agent again and again, as HAProxy's `agent-check` does: connect, read a line, close.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, make_rng};
use tokio::io::AsyncReadExt as _;

use super::reports::ReportSink;
use super::{HealthContext, wait_for_turn};
use crate::control::{Event, ProbeTarget};
use crate::load::Refused;
use crate::load::agent::{AgentReply, MAX_LINE};
use crate::metrics::ReportResult;

/// Reads the line of one agent at the interval of probes. An agent that fails changes nothing: probes check the backend.
pub(super) async fn listen(shared: Rc<HealthContext>, target: Arc<ProbeTarget>, spread: Duration) {
    let interval = target.health.interval.0;
    let mut rng: SmallRng = make_rng();
    let mut reports = ReportSink::new(Arc::clone(&target));
    let mut ignored = None;
    wait_for_turn(&mut rng, spread.min(interval)).await;
    loop {
        let began = Instant::now();
        match ask(&shared, &target).await {
            Ok(line) => {
                if line.ignored.is_some() && line.ignored != ignored {
                    let (pool, backend) = (&*target.pool, &*target.backend);
                    let word = line.ignored.as_deref();
                    tracing::warn!(pool, backend, word, "unknown word of an agent ignored");
                }
                ignored.clone_from(&line.ignored);
                match line.claim() {
                    Some(claim) => reports.take(&shared, Ok(claim)).await,
                    None => reports.note(&shared, ReportResult::Ok, String::new),
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

async fn ask(shared: &HealthContext, target: &ProbeTarget) -> Result<AgentReply, Refused> {
    let _place = shared.places.acquire().await;
    let patience = target.health.timeout.0;
    let asked = tokio::time::timeout(patience, read_line(shared, target)).await;
    let late =
        || Err(Refused::Unreachable(format!("the agent said no line within {}", target.health.timeout)));
    AgentReply::parse(&asked.unwrap_or_else(|_| late())?)
}

/// Reads the agent's first line, up to CR or LF. As in HAProxy, a line without one is incomplete and does not count: an
/// agent that is cut off must not turn `100%` into `10`.
async fn read_line(shared: &HealthContext, target: &ProbeTarget) -> Result<Vec<u8>, Refused> {
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
        if let Some(end) = line[from..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            line.truncate(from + end);
            return Ok(line);
        }
        if line.len() > MAX_LINE {
            return Err(Refused::Malformed(format!("the agent's line is longer than {MAX_LINE} bytes")));
        }
        if count == 0 {
            return Err(Refused::Malformed(
                "the agent closed the connection before the end of its line".to_owned(),
            ));
        }
    }
}
