//! What each client has had: requests lately, connections now. Only where the settings limit that.
//!
//! All workers share it, in sharded maps: a request locks one shard for a moment. With both limits off, their
//! default, nothing is kept and nothing is locked.
//!
//! # Trust
//! A client is an IPv4 address, or the /64 of an IPv6 one, which is what one site is given. The number of clients
//! that are known at once is bounded; who comes when it is full is served, and counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::{DashMap, Entry};

use crate::util::gcra::RateLimit;

/// Who counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ClientKey {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// The clients of all workers.
#[derive(Debug)]
pub struct ClientLimits {
    /// Requests per second; 0: no limit.
    rate: u32,
    /// The same as a limit.
    limit: Option<RateLimit>,
    /// Connections at once; 0: no limit.
    most_connections: u32,
    /// The theoretical arrival time of each client's limit, in nanoseconds since `began`.
    due: DashMap<ClientKey, u64>,
    /// How many are in `due`: the map's own `len` locks every shard.
    due_known: AtomicUsize,
    connections: DashMap<(ClientKey, ClientPhase), u32>,
    /// How many are in `connections`.
    connections_known: AtomicUsize,
    began: Instant,
    room: usize,
}

/// How many clients are known at once, for each limit: some 10 MB.
const ROOM: usize = 1 << 18;

/// What a connection counts as. Each phase has the whole limit: a client that closes may come again before it is known that
/// it closed, and one that does not close may not wait with any number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientPhase {
    /// It is served.
    Open,
    /// Its last response is written, and the client has not closed it.
    Closing,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is within the limit, or there is none.
    Serve,
    /// It is one too many.
    TooMany,
    /// Nobody can tell: too many clients are known already.
    Unknown,
}

impl ClientLimits {
    /// With these limits, 0 for none: requests a second and connections at once, of each client.
    pub fn new(rate: u32, most_connections: u32) -> Arc<Self> {
        Arc::new(Self {
            rate,
            limit: RateLimit::per_second(rate.into()),
            most_connections,
            due: DashMap::new(),
            due_known: AtomicUsize::new(0),
            connections: DashMap::new(),
            connections_known: AtomicUsize::new(0),
            began: Instant::now(),
            room: ROOM,
        })
    }

    /// Whether these are its limits.
    pub fn has_limits(&self, rate: u32, most_connections: u32) -> bool {
        (self.rate, self.most_connections) == (rate, most_connections)
    }

    /// Whether requests are limited at all.
    pub fn limits_requests(&self) -> bool {
        self.limit.is_some()
    }

    /// Takes note of a request.
    ///
    /// A client that was silent for a second may send a second's worth at once, and from then on one each 1/rate.
    pub fn request(&self, address: IpAddr, now: Instant) -> Admission {
        let Some(limit) = self.limit else { return Admission::Serve };
        let now = now.saturating_duration_since(self.began).as_nanos() as u64;
        match self.due.entry(address.into()) {
            Entry::Occupied(mut known) => match limit.next(*known.get(), now) {
                Some(next) => *known.get_mut() = next,
                None => return Admission::TooMany,
            },
            Entry::Vacant(_) if self.due_known.load(Ordering::Relaxed) >= self.room => {
                return Admission::Unknown;
            }
            Entry::Vacant(new) => {
                self.due_known.fetch_add(1, Ordering::Relaxed);
                drop(new.insert(limit.next_forced(0, now)));
            }
        }
        Admission::Serve
    }

    /// Takes note of a connection, which counts until what is returned is dropped. `None` where it is one too many.
    pub fn connect(self: &Arc<Self>, address: IpAddr, phase: ClientPhase) -> Option<ClientConnection> {
        if self.most_connections == 0 {
            return Some(ClientConnection(None));
        }
        let key = (ClientKey::from(address), phase);
        match self.connections.entry(key) {
            Entry::Occupied(known) if *known.get() >= self.most_connections => return None,
            Entry::Occupied(mut known) => *known.get_mut() += 1,
            Entry::Vacant(_) if self.connections_known.load(Ordering::Relaxed) >= self.room => {
                return Some(ClientConnection(None));
            }
            Entry::Vacant(new) => {
                self.connections_known.fetch_add(1, Ordering::Relaxed);
                drop(new.insert(1));
            }
        }
        Some(ClientConnection(Some((Arc::clone(self), key))))
    }

    /// Forgets clients whose requests are all on time again. To be called now and then; O(clients).
    pub fn sweep(&self, now: Instant) {
        let now = now.saturating_duration_since(self.began).as_nanos() as u64;
        self.due.retain(|_, due| {
            let stays = *due > now;
            if !stays {
                self.due_known.fetch_sub(1, Ordering::Relaxed);
            }
            stays
        });
    }

    /// How often that should be.
    pub const SWEEP: Duration = Duration::from_secs(5);
}

/// A connection that counts.
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub struct ClientConnection(Option<(Arc<ClientLimits>, (ClientKey, ClientPhase))>);

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let Some((clients, key)) = self.0.take() else { return };
        if let Entry::Occupied(mut known) = clients.connections.entry(key) {
            *known.get_mut() -= 1;
            if *known.get() == 0 {
                known.remove();
                clients.connections_known.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_a_second_s_worth_and_then_its_rate() {
        let clients = ClientLimits::new(10, 0);
        let start = clients.began;
        let served = |address: &str, at: Duration, count: usize| {
            let asked = (0..count).map(|_| clients.request(ip(address), start + at));
            asked.filter(|verdict| *verdict == Admission::Serve).count()
        };
        assert_eq!(served("192.0.2.1", Duration::ZERO, 25), 10);
        assert_eq!(served("192.0.2.2", Duration::ZERO, 3), 3, "another client");
        assert_eq!(served("192.0.2.1", Duration::from_millis(100), 5), 1);
        assert_eq!(served("192.0.2.1", Duration::from_millis(400), 5), 3);
        assert_eq!(served("192.0.2.1", Duration::from_secs(60), 25), 10);
    }

    #[test]
    fn an_ipv6_client_is_a_site() {
        let clients = ClientLimits::new(1, 0);
        assert_eq!(clients.request(ip("2001:db8::1"), clients.began), Admission::Serve);
        assert_eq!(clients.request(ip("2001:db8::2"), clients.began), Admission::TooMany);
        assert_eq!(clients.request(ip("2001:db8:0:1::1"), clients.began), Admission::Serve);
        assert_eq!(clients.request(ip("192.0.2.1"), clients.began), Admission::Serve);
        assert_eq!(clients.request(ip("::ffff:192.0.2.1"), clients.began), Admission::TooMany);
    }

    #[test]
    fn what_is_known_is_bounded_and_forgotten() {
        let mut clients = Arc::into_inner(ClientLimits::new(1, 0)).unwrap();
        clients.room = 2;
        let at = |seconds| clients.began + Duration::from_secs(seconds);
        for (address, verdict) in
            [("::1", Admission::Serve), ("1.1.1.1", Admission::Serve), ("2.2.2.2", Admission::Unknown)]
        {
            assert_eq!(clients.request(ip(address), at(0)), verdict, "{address}");
        }
        clients.sweep(at(0));
        assert_eq!(clients.request(ip("2.2.2.2"), at(0)), Admission::Unknown);
        clients.sweep(at(2));
        assert_eq!(clients.request(ip("2.2.2.2"), at(2)), Admission::Serve);
    }

    #[test]
    fn connections_count_until_they_end() {
        let clients = ClientLimits::new(0, 2);
        let connect = |address: &str, phase| clients.connect(ip(address), phase);
        let [first, _second] = [(); 2].map(|()| connect("192.0.2.1", ClientPhase::Open).unwrap());
        assert!(connect("192.0.2.1", ClientPhase::Open).is_none());
        assert!(connect("192.0.2.1", ClientPhase::Closing).is_some());
        assert!(connect("192.0.2.2", ClientPhase::Open).is_some());
        drop(first);
        assert!(connect("192.0.2.1", ClientPhase::Open).is_some());
        assert_eq!(clients.connections.len(), 1, "who has none left is forgotten");
        assert_eq!(clients.connections_known.load(Ordering::Relaxed), 1);
    }
}
