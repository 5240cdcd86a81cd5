//! Visitors who do as they are told: each asks the dispatcher, goes where the redirect leads, and stays there for as
//! long as it has drawn.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::http::{PATIENCE, request};
use crate::load::{connect, exchange};

/// Visitors a second, by chance (Poisson).
pub const RATE: f64 = 100.0;
/// How long a session lasts on average. Lengths are Pareto's: most are short, and a few very long.
pub const MEAN: Duration = Duration::from_secs(20);
/// Pareto's shape. At 1.5 the variance is infinite.
pub const SHAPE: f64 = 1.5;

/// How many descriptors the visitors of a dispatcher take at the most, those with the dispatcher included.
pub fn descriptors() -> u64 {
    (RATE * MEAN.as_secs_f64() * 1.25) as u64
}

/// When a visitor comes, from the beginning on, and how long it stays.
#[derive(Clone, Copy)]
pub struct Visit {
    at: Duration,
    lasts: Duration,
}

/// All visits of a time, where all times are shorter by a factor. The same seed gives the same visits.
pub fn visits(seed: u64, speed: f64, time: Duration) -> Vec<Visit> {
    let mut chance = SmallRng::seed_from_u64(seed);
    // Over 0, and 1 at the most.
    let mut share = || 1.0 - chance.random::<f64>();
    let shortest = MEAN.as_secs_f64() * (SHAPE - 1.0) / SHAPE;
    let mut at = 0.0;
    let next = || {
        at -= share().ln() / RATE;
        let lasts = shortest * share().powf(-1.0 / SHAPE);
        Some(Visit {
            at: Duration::from_secs_f64(at / speed),
            lasts: Duration::from_secs_f64((lasts / speed).min(1e6)),
        })
    };
    std::iter::from_fn(next).take_while(|visit| visit.at < time).collect()
}

/// What became of visitors.
#[derive(Clone, Default)]
pub struct Tally {
    /// How many had their session.
    pub held: usize,
    /// How many had none, and why the first of them.
    pub lost: usize,
    pub why: Option<String>,
    /// Milliseconds from when each was due to when its session had begun.
    pub waited: Vec<f64>,
}

/// Sends visitors to a dispatcher in front of these backends; what became of them so far is in `tally`.
pub async fn come(
    visits: Arc<[Visit]>,
    start: Instant,
    dispatcher: SocketAddr,
    backends: Arc<[SocketAddr]>,
    tally: Arc<Mutex<Tally>>,
) {
    for (number, visit) in visits.iter().copied().enumerate() {
        let due = start + visit.at;
        tokio::time::sleep_until(due.into()).await;
        let (backends, tally) = (Arc::clone(&backends), Arc::clone(&tally));
        tokio::spawn(async move {
            let begun = tokio::time::timeout(PATIENCE, begin(address(number), dispatcher, &backends)).await;
            let begun = begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            {
                let mut tally = tally.lock().unwrap();
                match &begun {
                    Ok(_) => {
                        tally.held += 1;
                        tally.waited.push(due.elapsed().as_secs_f64() * 1000.0);
                    }
                    Err(error) => {
                        tally.lost += 1;
                        tally.why.get_or_insert_with(|| error.to_string());
                    }
                }
            }
            tokio::time::sleep(visit.lasts).await;
            drop(begun);
        });
    }
}

/// An address of loopback for each visitor, again after 64 000.
fn address(number: usize) -> IpAddr {
    let [high, low] = [number / 250 % 256, number % 250 + 1].map(|byte| byte as u8);
    Ipv4Addr::new(127, 1, high, low).into()
}

/// Asks, and goes there; the connection that is the session.
async fn begin(
    from: IpAddr,
    dispatcher: SocketAddr,
    backends: &[SocketAddr],
) -> io::Result<tokio::net::TcpStream> {
    let ask = request("GET", "/page", &[("Connection", "close")], "");
    let answer = exchange(&mut connect(from, dispatcher).await?, &ask).await?;
    let to = backends.iter().find(|backend| {
        answer.status == 302 && answer.header("location") == Some(&format!("http://{backend}/page"))
    });
    let Some(to) = to else { return Err(io::Error::other(format!("not sent to a backend: {answer:?}"))) };
    let mut session = connect(from, *to).await?;
    match exchange(&mut session, &request("GET", "/page", &[], "")).await?.status {
        200 => Ok(session),
        status => Err(io::Error::other(format!("a backend said {status}"))),
    }
}
