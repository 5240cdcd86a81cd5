//! Warnings of settings that have no effect beside others.

use super::url::BackendUrl;
use super::{CorsSettings, HealthSettings, LoadSettings, PoolSettings, ProbeKind, ServerSettings, Settings};
use crate::fleet::HashKey;
use crate::strategy;

/// Adds a warning for each setting that is given and does nothing.
pub(super) fn check(settings: &Settings, warnings: &mut Vec<String>) {
    tls_alone(settings, warnings);
    if !settings.log.access && !settings.log.access_headers.is_empty() {
        warnings.push("log.access_headers has no effect: log.access is false".to_owned());
    }
    let server = &settings.server;
    if server.trusted_proxies.is_empty()
        && server.client_ip_header != ServerSettings::default().client_ip_header
    {
        warnings.push("server.client_ip_header has no effect: server.trusted_proxies is empty".to_owned());
    }
    for pool in &settings.pools {
        probes(pool, warnings);
        if pool.load.is_none() {
            warnings.extend(nothing_to_go_by(pool));
        }
        strategies(pool, warnings);
        warnings.extend(pool.cors.as_ref().and_then(|cors| never_asked_for(pool, cors)));
    }
}

/// Warns of settings of TLS if no listener speaks it.
fn tls_alone(settings: &Settings, warnings: &mut Vec<String>) {
    let tls = &settings.server.tls;
    if !tls.listen.is_empty() {
        return;
    }
    if !tls.redirect_listen.is_empty() {
        warnings.push(format!(
            "server.tls.redirect_listen redirects clients to https on port {}, and server.tls.listen is empty: \
             another program must serve that port",
            tls.redirect_port
        ));
    }
    if !tls.hsts.0.is_zero() {
        warnings.push(
            "server.tls.hsts has no effect: it is sent over TLS, and server.tls.listen is empty".to_owned(),
        );
    }
}

/// Warns of settings of strategies that the pool does not have.
fn strategies(pool: &PoolSettings, warnings: &mut Vec<String>) {
    let has = |kind| pool.strategies().any(|known| known == kind);
    let (hashes, fills) = (has(strategy::StrategyKind::ConsistentHash), has(strategy::StrategyKind::First));
    let unused = [
        ("hash.key", "consistent_hash", !hashes && pool.hash.key != HashKey::Client),
        ("hash.balance_factor", "consistent_hash", !hashes && pool.hash.balance_factor.0 > 0),
        ("first.max_utilization", "first", !fills && pool.first.max_utilization.0 != 0.8),
    ];
    for (name, strategy, _) in unused.into_iter().filter(|(_, _, is_unused)| *is_unused) {
        warnings.push(format!("{} has no effect: {strategy} is not a strategy of the pool", pool.key(name)));
    }
}

/// Returns a warning if a strategy goes by load reports and none are accepted.
fn nothing_to_go_by(pool: &PoolSettings) -> Option<String> {
    let name = pool.name.as_str();
    pool.strategies().any(|kind| kind == strategy::StrategyKind::LeastLoad).then(|| {
        format!(
            "pools.{name} has least_load among its strategies and no [pools.{name}.load]: without load reports it \
             picks as round_robin does"
        )
    })
}

/// Warns of settings of health checks that do not apply to their kind.
fn probes(pool: &PoolSettings, warnings: &mut Vec<String>) {
    let (health, usual) = (&pool.health, HealthSettings::default());
    // Agents are asked at the interval of probes, and with their timeout.
    let asked = pool.load.as_ref().is_some_and(LoadSettings::asks_agents);
    let (is_http, is_on) = (health.kind == ProbeKind::Http, health.is_on());
    let probed = pool.backends.iter().map(|backend| backend.probe_url.as_ref().unwrap_or(&backend.url));
    let by_tls = is_on && probed.into_iter().any(BackendUrl::is_https);
    // Whether each is set, and whether it has an effect.
    let settings = [
        ("path", health.path != usual.path, is_http),
        ("method", health.method != usual.method, is_http),
        ("expect", health.expect != usual.expect, is_http),
        ("host", health.host.is_some(), is_http || by_tls),
        ("verify", health.verify != usual.verify, by_tls),
        ("ca_file", health.ca_file.is_some(), by_tls && health.verify),
        ("interval", health.interval != usual.interval, is_on || asked),
        ("timeout", health.timeout != usual.timeout, is_on || asked),
        ("fast_interval", health.fast_interval != usual.fast_interval, is_on),
        ("rise", health.rise != usual.rise, is_on),
        ("fall", health.fall != usual.fall, is_on),
        ("flap_backoff", health.flap_backoff != usual.flap_backoff, is_on),
        ("startup_timeout", health.startup_timeout != usual.startup_timeout, is_on),
    ];
    for (name, ..) in settings.into_iter().filter(|(_, is_set, has_effect)| *is_set && !has_effect) {
        let why = match name {
            "ca_file" if by_tls => "health.verify is false".to_owned(),
            "host" | "verify" | "ca_file" if is_on => "no backend is probed over TLS".to_owned(),
            _ => format!("health.kind is \"{}\"", health.kind.name()),
        };
        warnings.push(format!("pools.{}.health.{name} has no effect, because {why}", pool.name.as_str()));
    }
}

/// Returns a warning about headers that no script can set, so that no preflight asks for them (Fetch, "forbidden
/// request-header").
fn never_asked_for(pool: &PoolSettings, cors: &CorsSettings) -> Option<String> {
    const FORBIDDEN: [&str; 20] = [
        "accept-charset",
        "accept-encoding",
        "access-control-request-headers",
        "access-control-request-method",
        "connection",
        "content-length",
        "cookie",
        "cookie2",
        "date",
        "dnt",
        "expect",
        "host",
        "keep-alive",
        "origin",
        "referer",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    let is_forbidden = |name: &str| {
        let name = name.to_ascii_lowercase();
        FORBIDDEN.contains(&&*name) || name.starts_with("sec-") || name.starts_with("proxy-")
    };
    let named: Vec<_> =
        cors.headers.iter().map(|name| name.0.as_str()).filter(|name| is_forbidden(name)).collect();
    let key = pool.key("cors.headers");
    (!named.is_empty())
        .then(|| format!("{key}: {} has no effect, because scripts cannot set it", named.join(", ")))
}
