//! Pools are built anew at each change, and the controller does it for every step of a slow start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use signpost::control::{Change, Controller, Event};
use signpost::fleet::{Pool, Roles, Weight};
use signpost::metrics::Counter;
use signpost::settings::{Layers, Settings};
use signpost::strategy::{RateMeters, StrategyKind, StrategyState};
use tokio::sync::{mpsc, oneshot};

use crate::pools::Shape;
use crate::table::{Bound, Table, processor_time, ratios, taken};

const ROUNDS: usize = 15;
/// For ten thousand backends whose cycle has up to 65 536 turns, and for what the controller does around it.
const BOUND: Bound = Bound::AtMost(10.0);

const SHAPES: [Shape; 6] = [
    Shape::new(10_000, 1),
    Shape::new(10_000, 12),
    Shape::new(10_000, 12).with_one_in_slow_start(),
    Shape::new(10_000, 256),
    Shape::new(65_536, 1),
    Shape::new(65_536, 256),
];

pub fn run(table: &mut Table) {
    for kind in StrategyKind::ALL {
        let configs = SHAPES.map(|shape| shape.config(kind));
        let mut rounds = SHAPES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for ((shape, config), rounds) in SHAPES.iter().zip(&configs).zip(&mut rounds) {
                let standings = shape.standings();
                let memories = [StrategyState::default()];
                let build = || {
                    Pool::new(
                        Arc::clone(config),
                        standings,
                        Roles::alone(),
                        false,
                        &memories,
                        RateMeters::default(),
                        Default::default(),
                    )
                };
                let (taken, pool) = taken(build);
                drop(pool);
                rounds.push(milliseconds(taken));
            }
        }
        for (shape, rounds) in SHAPES.iter().zip(&rounds) {
            let bound = if shape.backends == 10_000 { BOUND } else { Bound::None };
            table.row(&format!("{}, {}", kind.name(), shape.words()), "ms", rounds, bound);
        }
        // Linear: 6.55 times as much, and a little for tables that leave the core's own cache.
        let grows = ratios(&rounds[5], &rounds[3]);
        table.row(
            &format!("{}, 65536 against 10000, all weights", kind.name()),
            "",
            &grows,
            Bound::AtMost(13.0),
        );
    }
    for strategy in StrategyKind::ALL {
        controller(table, strategy);
    }
}

/// From an event to the fleet that came of it: another weight for one backend, and settings read again in which one has
/// another.
fn controller(table: &mut Table, kind: StrategyKind) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("site.toml");
    let load = |weight: u16| {
        std::fs::write(&path, settings(kind, weight)).unwrap();
        let layers = Layers { files: vec![path.clone()], ..Layers::default() };
        Settings::load(&layers).unwrap().settings
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (events, changes) = mpsc::channel(8);
        let controller = Controller::start(&load(1), Counter::default());
        let keeping = tokio::spawn(controller.run(changes));
        let (mut changed, mut reloaded) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS as u16 {
            let weight = Some(Some(Weight::new(round).unwrap()));
            let event = |published| Event::Operate {
                pool: "p".to_owned(),
                backend: "b77".to_owned(),
                change: Change { weight, ..Change::default() },
                published,
            };
            changed.push(published(&events, event).await);
            let pools = load(round).pools;
            reloaded.push(
                published(&events, |published| Event::Pools { pools, error_pages: Vec::new(), published })
                    .await,
            );
        }
        table.row(&format!("{}, a weight changed, event to published", kind.name()), "ms", &changed, BOUND);
        table.row(&format!("{}, settings changed, event to published", kind.name()), "ms", &reloaded, BOUND);
        drop(events);
        keeping.await.unwrap();
    });
}

/// Sends an event; the processor time until its fleet is published.
async fn published(events: &mpsc::Sender<Event>, event: impl FnOnce(oneshot::Sender<()>) -> Event) -> f64 {
    // The controller takes a short rest after each; what was replaced is freed at the end of it.
    tokio::time::sleep_until((Instant::now() + Duration::from_millis(25)).into()).await;
    let (published, done) = oneshot::channel();
    let begin = processor_time();
    events.send(event(published)).await.unwrap();
    done.await.unwrap();
    milliseconds(processor_time() - begin)
}

/// Ten thousand backends, of which one has this weight beside others of 1 to 12.
pub fn settings(kind: StrategyKind, weight: u16) -> String {
    let backend = |index: u16| {
        let weight = if index == 0 { weight } else { 1 + index % 12 };
        format!("  {{ id = 'b{index}', url = 'http://b{index}.example', weight = {weight} }},\n")
    };
    let backends: String = (0..10_000).map(backend).collect();
    format!(
        "[pools.p]\nstrategy = '{}'\nbackends = [\n{backends}]\n[pools.p.health]\nkind = 'none'\n",
        kind.name()
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
