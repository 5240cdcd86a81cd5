//! One question about one name: sent to the name servers of `/etc/resolv.conf` until one of them answers.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::sockets::Sockets;
use super::system::{NameServer, ResolvConf};

/// How long one name server is waited for before the next one is asked too.
const STAGGER: Duration = Duration::from_millis(100);
/// How many questions may take as long as `/etc/resolv.conf` allows. The others end about when the probe does that asks
/// them, so that `max_probes` bounds how many there are, and with them the sockets: a question opens one for each time
/// that it is sent.
const LONG_QUESTIONS: usize = 64;
/// How long any other question may take.
const SHORT: Duration = Duration::from_secs(1);
/// How long an answer is kept at least, whatever its TTL. It bounds how often name servers are queried.
pub(super) const MIN_TTL: Duration = Duration::from_secs(1);
/// How long a negative answer is kept at most: a backend whose name was added late is found soon.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// What a name server knows about one name and one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    Addresses(Vec<IpAddr>),
    /// The name exists and has no such address.
    NoAddress,
    NoName,
}

/// Why no name server gave an answer. Of several, the greatest tells most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum QueryError {
    /// No answer in time, no name server can be reached, or there is no descriptor to ask with.
    Silent,
    Refused,
    /// The response code, or what is wrong with the answer.
    Failed(String),
}

/// The name servers of `/etc/resolv.conf`.
pub(super) struct NameServers {
    /// One resolver for each: of several name servers in one resolver, the first one that refuses would speak for all.
    servers: Vec<Resolver<Sockets>>,
    /// The server to begin with, if the load is to be rotated over them.
    next: Option<Cell<usize>>,
    /// How long a question may take that has one of these permits.
    limit: Duration,
    long_questions: Semaphore,
}

impl NameServers {
    pub(super) fn new(conf: &ResolvConf) -> Self {
        let servers: Vec<_> = conf.servers.iter().filter_map(|server| build(server, conf)).collect();
        let next = conf.rotate.then(|| Cell::new(rand::random::<u16>().into()));
        let limit = conf.timeout * conf.attempts as u32 + STAGGER * servers.len() as u32;
        Self { servers, next, limit, long_questions: Semaphore::new(LONG_QUESTIONS) }
    }

    /// Asks for one type of record. Returns the first answer and how long it may be kept.
    ///
    /// # Errors
    /// No name server answers; to find that out takes 1 s, or up to what `/etc/resolv.conf` allows if few questions are
    /// open.
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<(DnsAnswer, Duration), QueryError> {
        let permit = self.long_questions.try_acquire().ok();
        let limit = if permit.is_some() { self.limit } else { self.limit.min(SHORT) };
        let deadline = tokio::time::Instant::now() + limit;
        let first = self.next.as_ref().map_or(0, |next| next.replace(next.get().wrapping_add(1)));
        let mut failure = QueryError::Silent;
        // Tasks, so that a panic in the library is one more failure. They end with the set.
        let mut asked = JoinSet::new();
        for index in 0..self.servers.len() {
            let server = self.servers[first.wrapping_add(index) % self.servers.len()].clone();
            asked.spawn(ask_one(server, name.clone(), kind));
            let patience = deadline.min(tokio::time::Instant::now() + STAGGER);
            if let Ok(Some(answer)) = timeout_at(patience, first_answer(&mut asked, &mut failure)).await {
                return Ok(answer);
            }
        }
        match timeout_at(deadline, first_answer(&mut asked, &mut failure)).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(failure),
        }
    }
}

type PendingQuery = JoinSet<Result<(DnsAnswer, Duration), QueryError>>;

/// The first answer among those that are under way, or `None` once all have failed.
async fn first_answer(asked: &mut PendingQuery, failure: &mut QueryError) -> Option<(DnsAnswer, Duration)> {
    while let Some(outcome) = asked.join_next().await {
        let outcome = outcome.unwrap_or_else(|error| Err(QueryError::Failed(error.to_string())));
        match outcome {
            Ok(answer) => return Some(answer),
            Err(worse) => *failure = worse.max(failure.clone()),
        }
    }
    None
}

fn build(server: &NameServer, conf: &ResolvConf) -> Option<Resolver<Sockets>> {
    let ip = server.ip;
    let config = if conf.tcp_only { NameServerConfig::tcp(ip) } else { NameServerConfig::udp_and_tcp(ip) };
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![config]);
    let mut builder = Resolver::builder_with_config(config, Sockets::new(server.interface.as_deref()));
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = conf.timeout;
    // It counts those after the first.
    options.attempts = conf.attempts - 1;
    // A longer answer comes over TCP, and some name servers reject what they do not know.
    options.edns0 = false;
    // With them, an alias of an alias is asked for once more than needed.
    options.preserve_intermediates = false;
    // Answers are kept by the caller, which keeps them while name servers fail too.
    options.cache_size = 0;
    let built = builder.build();
    built.inspect_err(|error| tracing::warn!(%ip, %error, "name server cannot be used")).ok()
}

async fn ask_one(
    server: Resolver<Sockets>,
    name: Name,
    kind: RecordType,
) -> Result<(DnsAnswer, Duration), QueryError> {
    let negative = |answer, ttl: Option<u32>| {
        let ttl = Duration::from_secs(ttl.unwrap_or(0).into());
        Ok((answer, ttl.clamp(MIN_TTL, MAX_NEGATIVE_TTL)))
    };
    match server.lookup(name, kind).await {
        Ok(lookup) => {
            let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
            let addresses: Vec<_> = addresses.collect();
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            match addresses.is_empty() {
                true => negative(DnsAnswer::NoAddress, None),
                false => Ok((DnsAnswer::Addresses(addresses), ttl.max(MIN_TTL))),
            }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none {
            NoRecords { response_code: ResponseCode::NXDomain, negative_ttl, .. } => {
                negative(DnsAnswer::NoName, negative_ttl)
            }
            // Other servers are named, and nothing says that there is no address: it does not resolve for us.
            NoRecords { ns: Some(_), soa: None, .. } => Err(QueryError::Failed("lame delegation".to_owned())),
            NoRecords { response_code: ResponseCode::NoError, negative_ttl, .. } => {
                negative(DnsAnswer::NoAddress, negative_ttl)
            }
            NoRecords { response_code, .. } => Err(QueryError::Failed(response_code.to_string())),
        },
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused))) => Err(QueryError::Refused),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(QueryError::Failed(code.to_string())),
        Err(NetError::Proto(_)) => Err(QueryError::Failed("malformed answer".to_owned())),
        Err(_) => Err(QueryError::Silent),
    }
}
