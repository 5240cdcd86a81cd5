//! Names to addresses, without the C library: the binary is static, and a lookup must not block.
//!
//! A name in `/etc/hosts` has the addresses of that file and no others, as with `hosts: files dns` in nsswitch.conf(5).
//! Any other name is asked of the name servers of `/etc/resolv.conf`, for A and AAAA separately. What one family of
//! addresses lacks never hides the other's: addresses are returned as soon as one family has any, and the rest is waited
//! for only shortly. An answer is kept for its TTL, and beyond that for as long as name servers fail. A negative answer
//! is an answer: the addresses it replaces are forgotten, because clients don't find them either.

mod query;
mod sockets;
mod system;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout_at};

use query::{DnsAnswer, MIN_TTL, NameServers, QueryError};
use system::{NotAName, ResolvConf, SystemFiles};

/// How often, at most, the system's files are read.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// How long the other family is waited for once one has addresses: the resolution delay of RFC 8305, section 3.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How soon an answer is asked for again, whatever its TTL, if none of the addresses accepts a connection: a container that
/// is started anew often has another address, long before the TTL of the old one ends.
const DOUBT: Duration = Duration::from_secs(5);

/// Resolves names by `/etc/hosts`, then by the name servers of `/etc/resolv.conf`. Both files take effect within a second
/// of a change, or at the next lookup after it.
pub(super) struct Resolver {
    system: Mutex<System>,
    hosts: RefCell<HashMap<String, Rc<DnsHost>>>,
}

/// The system's files, and the name servers they lead to.
struct System {
    files: Arc<SystemFiles>,
    read_at: Option<Instant>,
    servers: Rc<NameServers>,
}

/// Why a name has no address, as one short line that begins with the name.
#[derive(Debug)]
pub(super) struct LookupError {
    host: String,
    reason: LookupFailure,
}

#[derive(Clone, Debug)]
enum LookupFailure {
    Invalid,
    NoName,
    NoAddress,
    QueryError(QueryError),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.reason)
    }
}

impl fmt::Display for LookupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str("not a valid name"),
            Self::NoName => f.write_str("no such name"),
            Self::NoAddress => f.write_str("the name has no address"),
            Self::QueryError(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("name servers do not answer"),
            Self::Refused => f.write_str("name server refused"),
            Self::Failed(why) => write!(f, "name server failed ({why})"),
        }
    }
}

impl Resolver {
    pub(super) fn new() -> Self {
        let files = Arc::new(SystemFiles::unread());
        let servers = Rc::new(NameServers::new(files.resolv_conf()));
        Self { system: Mutex::new(System { files, read_at: None, servers }), hosts: RefCell::default() }
    }

    /// Returns the addresses of a host, at least one. A host is a name or an address, an IPv6 one in brackets. Takes at
    /// most three quarters of `patience`, so that time is left to connect, and returns what is known by then.
    ///
    /// # Errors
    /// Why there is no address.
    pub(super) async fn resolve(&self, host: &str, patience: Duration) -> Result<Vec<IpAddr>, LookupError> {
        let host = host.to_ascii_lowercase();
        let name = host.trim_end_matches('.');
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![ip]);
        }
        let mut limit = Instant::now() + patience * 3 / 4;
        let lookup = {
            let system = self.system().await;
            if let Some(addresses) = system.files.hosts().get(name) {
                return Ok(addresses.to_vec());
            }
            if name == "localhost" || name.ends_with(".localhost") {
                // RFC 6761, section 6.3: such names are never asked of a name server.
                return Ok(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
            }
            self.lookup(&host, &system)
        };
        let error = |reason| LookupError { host: name.to_owned(), reason };
        let lookup = lookup.map_err(|NotAName| error(LookupFailure::Invalid))?;
        let mut waits_shortly = false;
        loop {
            let known = lookup.known();
            if !known.is_pending || Instant::now() >= limit {
                lookup.log_change(name, known.stale.as_ref());
                return known.into_addresses().map_err(error);
            }
            if !known.addresses.is_empty() && !waits_shortly {
                waits_shortly = true;
                limit = limit.min(Instant::now() + RESOLUTION_DELAY);
            }
            // Whether something has changed or the time is up: look again.
            let _ = timeout_at(limit, lookup.changed.notified()).await;
        }
    }

    /// An attempt to connect to the addresses of a host. Unless it succeeds, they are doubted.
    pub(super) fn attempt<'a>(&'a self, host: &'a str) -> Attempt<'a> {
        Attempt { resolver: self, host, succeeded: false }
    }

    /// Forgets all names but those of these hosts.
    pub(super) fn retain(&self, hosts: &HashSet<String>) {
        self.hosts.borrow_mut().retain(|host, _| hosts.contains(host));
    }

    /// The system's files, read again if that is due.
    async fn system(&self) -> tokio::sync::MutexGuard<'_, System> {
        let mut system = self.system.lock().await;
        if system.read_at.is_none_or(|at| at.elapsed() >= READ_INTERVAL) {
            let before = Arc::clone(&system.files);
            if let Ok(files) = tokio::task::spawn_blocking(move || before.read()).await {
                if !Arc::ptr_eq(files.resolv_conf(), system.files.resolv_conf()) {
                    system.servers = Rc::new(NameServers::new(files.resolv_conf()));
                }
                system.files = Arc::new(files);
            }
            system.read_at = Some(Instant::now());
        }
        system
    }

    /// The lookup of a host, begun anew if `/etc/resolv.conf` has changed.
    fn lookup(&self, host: &str, system: &System) -> Result<Rc<DnsHost>, NotAName> {
        let mut hosts = self.hosts.borrow_mut();
        let before = hosts.get(host);
        if let Some(lookup) = before.filter(|lookup| Rc::ptr_eq(&lookup.servers, &system.servers)) {
            return Ok(Rc::clone(lookup));
        }
        let lookup = DnsHost::new(host, system, before.map(|lookup| &**lookup))?;
        let lookup = Rc::new(lookup);
        hosts.insert(host.to_owned(), Rc::clone(&lookup));
        Ok(lookup)
    }
}

/// See [`Resolver::attempt`]. It fails by being dropped, as a probe is whose time is up.
pub(super) struct Attempt<'a> {
    resolver: &'a Resolver,
    host: &'a str,
    succeeded: bool,
}

impl Attempt<'_> {
    pub(super) fn succeed(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(lookup) = self.resolver.hosts.borrow().get(&self.host.to_ascii_lowercase()) {
            lookup.is_doubted.set(!self.succeeded);
        }
    }
}

/// What is known about a host that is looked up in DNS.
struct DnsHost {
    /// The questions about each name that the host may stand for, in the order of preference: AAAA and A.
    candidates: Vec<Vec<Rc<Question>>>,
    servers: Rc<NameServers>,
    /// A question has been answered, or has failed.
    changed: Rc<Notify>,
    /// Whether addresses stay in use because name servers fail.
    is_stale: Cell<bool>,
    /// Whether no address accepted the last connection.
    is_doubted: Cell<bool>,
}

/// A question, its last answer, and what has become of it since.
struct Question {
    name: Name,
    kind: RecordType,
    state: RefCell<QuestionState>,
}

#[derive(Default)]
struct QuestionState {
    /// The last answer. It holds while name servers fail.
    answer: Option<DnsAnswer>,
    /// Why there is no newer one, if name servers have failed since.
    failure: Option<QueryError>,
    /// When it was answered or failed.
    since: Option<Instant>,
    /// How long after that it is asked again.
    ttl: Duration,
    is_asked: bool,
}

/// What the questions about a host have come to.
#[derive(Default)]
struct KnownAddresses {
    addresses: Vec<IpAddr>,
    /// Whether answers are outstanding that would add to this, or change it.
    is_pending: bool,
    /// Why some question has no answer, or no newer one.
    failure: Option<QueryError>,
    /// Why addresses that are returned are not newer.
    stale: Option<QueryError>,
    /// Whether some name exists, without an address.
    exists: bool,
}

impl DnsHost {
    /// What other name servers have answered holds until these answer.
    fn new(host: &str, system: &System, before: Option<&Self>) -> Result<Self, NotAName> {
        let conf: &ResolvConf = system.files.resolv_conf();
        let kinds = [RecordType::AAAA, RecordType::A];
        let kinds = if conf.ipv6 { &kinds[..] } else { &kinds[1..] };
        let question = |name: &Name, kind: &RecordType| {
            let mut state = QuestionState::default();
            let mut questions = before.iter().flat_map(|before| before.candidates.iter().flatten());
            if let Some(same) = questions.find(|before| before.name == *name && before.kind == *kind) {
                state.answer = same.state.borrow().answer.clone();
            }
            Rc::new(Question { name: name.clone(), kind: *kind, state: RefCell::new(state) })
        };
        let names = conf.candidates(host)?;
        let questions = |name: &Name| kinds.iter().map(|kind| question(name, kind)).collect();
        Ok(Self {
            candidates: names.iter().map(questions).collect(),
            servers: Rc::clone(&system.servers),
            changed: Rc::default(),
            is_stale: Cell::default(),
            is_doubted: Cell::default(),
        })
    }

    /// What is known now. Asks what is not known, or no longer.
    ///
    /// Addresses are those of the first name that has any, never of several names. As in the C library, a name server's
    /// error leads on to the next name, and silence does not.
    fn known(&self) -> KnownAddresses {
        let mut known = KnownAddresses::default();
        for questions in &self.candidates {
            let (mut is_open, mut is_missing) = (false, false);
            for question in questions {
                question.ask(self);
                let state = question.state.borrow();
                known.is_pending |= state.is_asked;
                known.failure = known.failure.max(state.failure.clone());
                match &state.answer {
                    Some(DnsAnswer::Addresses(addresses)) => {
                        known.addresses.extend(addresses);
                        known.stale = known.stale.max(state.failure.clone());
                    }
                    Some(DnsAnswer::NoAddress) => known.exists = true,
                    // A name that does not exist has addresses of neither family.
                    Some(DnsAnswer::NoName) => is_missing = true,
                    None => is_open |= matches!(state.failure, None | Some(QueryError::Silent)),
                }
            }
            if !known.addresses.is_empty() || is_open && !is_missing {
                break;
            }
        }
        known
    }

    /// Logs when addresses stay in use because name servers fail, and when that ends.
    fn log_change(&self, name: &str, stale: Option<&QueryError>) {
        match (stale, self.is_stale.replace(stale.is_some())) {
            (Some(reason), false) => {
                tracing::warn!(name, %reason, "name lookup fails: the last known addresses stay in use");
            }
            (None, true) => tracing::info!(name, "name lookup works again"),
            _ => {}
        }
    }
}

impl KnownAddresses {
    fn into_addresses(self) -> Result<Vec<IpAddr>, LookupFailure> {
        match self.failure {
            _ if !self.addresses.is_empty() => Ok(self.addresses),
            Some(failure) => Err(LookupFailure::QueryError(failure)),
            None if self.is_pending => Err(LookupFailure::QueryError(QueryError::Silent)),
            None if self.exists => Err(LookupFailure::NoAddress),
            None => Err(LookupFailure::NoName),
        }
    }
}

impl Question {
    /// Asks the name servers, unless the last answer still holds or they are being asked. Goes on in the background: an
    /// answer that comes late serves the next lookup.
    fn ask(self: &Rc<Self>, host: &DnsHost) {
        let mut state = self.state.borrow_mut();
        let ttl = if host.is_doubted.get() { state.ttl.min(DOUBT) } else { state.ttl };
        if state.is_asked || state.since.is_some_and(|since| since.elapsed() < ttl) {
            return;
        }
        state.is_asked = true;
        let (question, servers, changed) =
            (Rc::clone(self), Rc::clone(&host.servers), Rc::clone(&host.changed));
        tokio::task::spawn_local(async move {
            let outcome = servers.ask(&question.name, question.kind).await;
            question.state.borrow_mut().note(outcome);
            changed.notify_waiters();
        });
    }
}

impl QuestionState {
    fn note(&mut self, outcome: Result<(DnsAnswer, Duration), QueryError>) {
        self.is_asked = false;
        self.ttl = match outcome {
            Ok((answer, ttl)) => {
                self.answer = Some(answer);
                self.failure = None;
                ttl
            }
            Err(failure) => {
                self.failure = Some(failure);
                MIN_TTL
            }
        };
        self.since = Some(Instant::now());
    }
}
