//! What the operator has set at run time: a backend that was drained must not get visitors from a successor.

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::fleet::{Admin, Fleet, Weight};
use crate::keeper::{Change, Event};

/// What was set of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operated {
    pool: String,
    backend: String,
    #[serde(default)]
    admin: Option<Admin>,
    #[serde(default)]
    weight: Option<u16>,
    #[serde(default)]
    drained_at: Option<u64>,
}

/// All that is set just now.
pub(super) fn of(fleet: &ArcSwap<Fleet>) -> Vec<Operated> {
    let fleet = fleet.load();
    let of_pools = fleet.pools.iter().flat_map(|pool| {
        pool.roster.backends.iter().zip(&pool.standings).map(|(backend, standing)| Operated {
            pool: pool.roster.name.to_string(),
            backend: backend.id.to_string(),
            admin: standing.admin_is_set.then_some(standing.admin),
            weight: standing.weight_is_set.then_some(standing.weight.get()),
            drained_at: standing.drained_at,
        })
    });
    of_pools.filter(|operated| operated.admin.is_some() || operated.weight.is_some()).collect()
}

/// Sets the same here, and waits until every request that begins reads it.
pub(super) async fn again(operated: Vec<Operated>, events: &mpsc::Sender<Event>) {
    let mut sent = Vec::new();
    for Operated { pool, backend, admin, weight, drained_at } in operated {
        let weight = weight.and_then(Weight::new).map(Some);
        let change = Change { admin: admin.map(Some), weight, drained_at };
        let (published, done) = oneshot::channel();
        let event = Event::Operate { pool: pool.clone(), backend: backend.clone(), change, published };
        if events.send(event).await.is_ok() {
            sent.push((pool, backend, done));
        }
    }
    for (pool, backend, done) in sent {
        match done.await {
            Ok(()) => tracing::info!(pool, backend, "stands as the operator has set it before"),
            Err(_) => {
                tracing::info!(pool, backend, "was set by the operator, and is not there any more")
            }
        }
    }
}
