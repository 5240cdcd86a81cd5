//! Reading certificates again when their files change, on SIGHUP, and when the API asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{MissedTickBehavior, interval};

use super::pair::PairContents;
use super::{CertificateEntry, CertificateStore, LoadError, Pair, Published};

/// Counts the times that somebody asked for everything to be read again.
pub type ReloadRequest = Receiver<u64>;

/// What became of a pair's files since the look before.
enum FileState {
    /// They hold what was last read, or are still being written.
    Nothing,
    /// They hold something else, and have for two looks.
    Read(Result<Arc<Pair>, LoadError>),
}

/// Reads each pair whose files have changed and publishes it, for as long as it is polled. A pair that is wrong
/// leaves the one before in its place. `every` is how often the files are looked at, 0: never; `asked` has them
/// read at once.
pub async fn watch(published: Published, every: Duration, mut asked: ReloadRequest) {
    let mut looks = interval(if every.is_zero() { Duration::MAX } else { every });
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let places = published.load().places().to_vec();
    // By place: what was last read, and what the last look saw.
    let mut memory: Vec<_> =
        places.iter().map(|place| (place.pair.fingerprint(), place.pair.fingerprint())).collect();
    loop {
        let at_once = tokio::select! {
            changed = asked.changed() => match changed {
                Ok(()) => true,
                // Whoever could ask is gone: the process is leaving.
                Err(_) => return,
            },
            _ = looks.tick(), if !every.is_zero() => false,
        };
        for (index, (read, seen)) in memory.iter_mut().enumerate() {
            let files = places[index].files.clone();
            let (was_read, was_seen) = (*read, *seen);
            let look = tokio::task::spawn_blocking(move || {
                let contents = PairContents::of(&files);
                let now = contents.fingerprint();
                // Twice the same: whoever writes two files is given the time to finish.
                let due = at_once || (now != was_read && now == was_seen);
                let look = if due {
                    FileState::Read(contents.parse(&files).map(Arc::new))
                } else {
                    FileState::Nothing
                };
                (now, look)
            });
            let Ok((now, look)) = look.await else { continue };
            *seen = now;
            if let FileState::Read(pair) = look {
                *read = now;
                publish(&published, index, pair);
            }
        }
    }
}

/// Puts a pair in its place, or says what is wrong with it. Nobody else publishes.
fn publish(published: &Published, index: usize, pair: Result<Arc<Pair>, LoadError>) {
    let mut places = published.load().places().to_vec();
    let Some(CertificateEntry { files, pair: current, last_read_successful }) = places.get_mut(index) else {
        return;
    };
    let was_wrong = !std::mem::replace(last_read_successful, pair.is_ok());
    match pair {
        Ok(pair) => {
            if let Some(expired) = pair.expired(&files.cert) {
                tracing::warn!("{expired}");
            }
            if was_wrong || pair.fingerprint() != current.fingerprint() {
                tracing::info!(cert = %files.cert.display(), "certificate reloaded");
            }
            *current = pair;
        }
        Err(wrong) => {
            tracing::error!(cert = %files.cert.display(), "wrong certificate, the one before stays: {wrong}");
        }
    }
    published.store(Arc::new(CertificateStore::new(places)));
}
