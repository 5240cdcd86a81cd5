//! What must hold between settings: routes that don't clash, backends that don't lead back here.

use std::collections::HashMap;
use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::address::ListenAddress;
use super::names::{CorsOrigin, HealthPathSetting, HostPattern};
use super::reader::ReadContext;
use super::url::BackendUrl;
use super::values::{SameSite, SecureAttribute, SettingValue};
use super::variables::{DEFAULT_POOL, VARIABLE};
use super::{CorsSettings, PinSettings, PoolSettings, Settings};
use crate::certificates::Files;
use crate::strategy;

/// Notes every broken rule, and returns what is allowed but looks like a mistake.
pub(super) fn check(settings: &Settings, context: &ReadContext) -> Vec<String> {
    let mut warnings = Vec::new();
    let server = &settings.server;
    let wrong = context.is_wrong("server.listen") || context.is_wrong("server.tls.listen");
    if server.listen.is_empty() && server.tls.listen.is_empty() && !wrong {
        context.problem(
            "server.listen",
            "got an empty list, takes one address or more (or none beside server.tls.listen)",
        );
    }
    super::tls::check(&server.tls, context, &mut warnings);
    listeners_differ(settings, context);
    super::unused::check(settings, &mut warnings);
    proxies_are_named(settings, context);
    tokens(settings, context);
    state_file(settings, context);
    if settings.pools.is_empty() && !context.is_wrong("pools") {
        context.problem(
            "pools",
            "there is none: give a backend (--backend https://a.example.com or SIGNPOST_BACKENDS) or a settings \
             file with a pool (--settings FILE)",
        );
    }
    if let Some(path) = settings.server.health_path.as_ref().map(HealthPathSetting::as_str)
        && let prefix = path.trim_end_matches('/')
        && let Some(pool) = settings.pools.iter().find(|pool| pool.path_prefix.as_str() == prefix)
    {
        warnings.push(format!(
            "server.health_path is {path:?}, the path_prefix of pool {}: it is answered here for every host, and no \
             pool gets requests for its first page",
            pool.name.as_str()
        ));
    }
    for pool in &settings.pools {
        // Where some backends could not be read, the others' places in the list are not those of the file.
        if !context.is_wrong(&pool.key("backends")) {
            backends(pool, context);
            loops(pool, settings, context, &mut warnings);
            warnings.extend(downgrade(pool, settings));
        }
        if pool.health.is_on()
            && !pool.backends.is_empty()
            && pool.backends.iter().all(|backend| backend.backup)
        {
            warnings.push(format!("{} are all backups: there is no primary", pool.key("backends")));
        }
        strategies(pool, context);
        if let Some(load) = &pool.load {
            super::load::check(pool, load, context, &mut warnings);
        }
        caching(pool, context);
        if let Some(pin) = &pool.pin {
            pins(pool, pin, context, &mut warnings);
        }
        if let Some(cors) = &pool.cors {
            cross_origin(pool, cors, context);
        }
    }
    routes(&settings.pools, context);
    cookie_names(&settings.pools, context);
    warnings
}

/// No address may be asked for twice, by traffic or admin, and none that is part of another.
fn listeners_differ(settings: &Settings, context: &ReadContext) {
    let mut seen: Vec<(&str, &ListenAddress)> = Vec::new();
    for (key, listen) in settings.server.addresses().chain([("admin.listen", &settings.admin.listen)]) {
        let clash = seen.iter().find(|(_, other)| listen.0.port() != 0 && overlap(listen.0, other.0));
        match clash {
            Some((_, other)) if *other == listen => {
                context.problem(key, format!("{listen} is asked for twice, takes addresses that differ"));
            }
            Some((of, other)) => {
                context.problem(key, format!("{listen} and {other} of {of} overlap, takes another port"));
            }
            None => seen.push((key, listen)),
        }
    }
}

/// Whether the kernel refuses to listen on both addresses. `[::]` includes IPv4.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |any: IpAddr, ip: IpAddr| any.is_unspecified() && (any.is_ipv6() || ip.is_ipv4());
    a.port() == b.port() && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// The PROXY protocol is believed from trusted proxies alone, so there must be some.
fn proxies_are_named(settings: &Settings, context: &ReadContext) {
    if !settings.server.trusted_proxies.is_empty() || context.is_wrong("server.trusted_proxies") {
        return;
    }
    for (key, list) in settings.server.listeners() {
        let Some(index) = list.iter().position(|listener| listener.proxy_protocol) else { continue };
        if !context.is_wrong(key) {
            context.problem(
                &format!("{key}[{index}].proxy_protocol"),
                "got true, but server.trusted_proxies is empty, so every connection would be closed; takes true \
                 beside the networks of the proxies",
            );
        }
    }
}

/// Tokens must be such that a request can show them, and who may push a load may not drain a backend.
fn tokens(settings: &Settings, context: &ReadContext) {
    let admin = &settings.admin;
    for (key, file, token) in [
        ("admin.token", &admin.token_file, &admin.token),
        ("admin.load_token", &admin.load_token_file, &admin.load_token),
    ] {
        let Some(token) = token.as_ref().map(|token| token.expose()) else { continue };
        if token.trim_ascii().len() < token.len() || token.iter().any(u8::is_ascii_control) {
            let key = if file.is_some() { format!("{key}_file") } else { key.to_owned() };
            context.problem(
                &key,
                "no header field can show it, takes no spaces around it and no control characters",
            );
        }
    }
    if admin.load_token.is_some() && admin.load_token == admin.token {
        let key = if admin.load_token_file.is_some() { "admin.load_token_file" } else { "admin.load_token" };
        context.problem(key, "is the admin's token too, takes one of its own: every backend knows it");
    }
}

/// The state file may be missing, but not its folder; anything else, such as `/dev/null`, is never replaced by a file.
/// Whether it can be written is found out at the start.
fn state_file(settings: &Settings, context: &ReadContext) {
    let Some(file) = &settings.admin.state_file else { return };
    let wrong = match file.metadata() {
        Ok(about) if about.is_dir() => "is a folder, takes the path of a file",
        Ok(about) if !about.is_file() => "is a device, pipe or socket, takes the path of a regular file",
        Ok(about) if files_of_others(settings, context).any(|other| is_same(&about, &other)) => {
            "is named by another setting too, takes a file of its own"
        }
        Err(_) if !file.parent().is_some_and(Path::is_dir) => {
            "is in a folder that does not exist, takes the path of a file in one that does"
        }
        _ => return,
    };
    context.problem("admin.state_file", format!("{} {wrong}", file.display()));
}

/// Files that other settings name, and settings files.
fn files_of_others(settings: &Settings, context: &ReadContext) -> impl Iterator<Item = PathBuf> {
    let certificates = settings.server.tls.files().flat_map(|Files { cert, key }| [cert, key]);
    context.files().into_iter().chain(certificates)
}

fn is_same(about: &Metadata, other: &Path) -> bool {
    other.metadata().is_ok_and(|other| (about.dev(), about.ino()) == (other.dev(), other.ino()))
}

fn backends(pool: &PoolSettings, context: &ReadContext) {
    if pool.backends.is_empty() {
        let hint = match pool.name.as_str() {
            DEFAULT_POOL => " (--backend, --strategy, --pin and SIGNPOST_BACKENDS are about this pool)",
            _ => "",
        };
        context.problem(&pool.key("backends"), format!("there is none, takes one or more{hint}"));
    } else if pool.backends.iter().all(|backend| backend.weight.is_zero()) {
        context.problem(
            &pool.key("backends"),
            "every weight is 0, so no visitor could be sent anywhere; takes a weight of 1 to 256 on one or more",
        );
    }
    if pool.backends.len() > MAX_BACKENDS {
        context.problem(
            &pool.key("backends"),
            format!("got {}, takes at most {MAX_BACKENDS}", pool.backends.len()),
        );
    }
    let mut seen = HashMap::new();
    for (index, backend) in pool.backends.iter().enumerate() {
        if let Some(first) = seen.insert(backend.id.as_str(), index) {
            context.problem(
                &pool.key(&format!("backends[{index}].id")),
                format!(
                    "got {:?}, which backends[{first}] has too; takes an id of its own (without `id` a backend \
                     has its authority as id)",
                    backend.id.as_str()
                ),
            );
        }
    }
}

/// Each strategy has one role, so that its figures are of one kind.
fn strategies(pool: &PoolSettings, context: &ReadContext) {
    let mut seen = vec![pool.strategy];
    for portion in &pool.split {
        if seen.contains(&portion.strategy) {
            let name = portion.strategy.name();
            let text = format!("{name:?} is the pool's strategy already, takes another");
            context.problem(&pool.key(&format!("split.{name}")), text);
        }
        seen.push(portion.strategy);
    }
    for (index, shadow) in pool.shadow.iter().enumerate() {
        if seen.contains(shadow) {
            let text = format!("{:?} is a strategy of this pool already, takes another", shadow.name());
            context.problem(&pool.key(&format!("shadow[{index}]")), text);
        }
        seen.push(*shadow);
    }
    let split: f64 = pool.split.iter().map(|portion| portion.share.0).sum();
    if split > 1.0 {
        context.problem(&pool.key("split"), format!("its shares add up to {split}, take 1 at most together"));
    }
    if !pool.rotation_interval.0.is_zero() {
        let rotation_interval = pool.key("rotation_interval");
        if pool.shadow.is_empty() && !context.is_wrong(&pool.key("shadow")) {
            context.problem(
                &rotation_interval,
                "there is no shadow to take turns with, takes 0s, or a strategy in `shadow`",
            );
        }
        if !pool.split.is_empty() {
            context.problem(
                &rotation_interval,
                "stands beside `split`, which would blur each turn; set one of them",
            );
        }
    }
}

/// An answer may be kept only where the same visitor would be given the same again.
fn caching(pool: &PoolSettings, context: &ReadContext) {
    if pool.cache_max_age.0.is_zero() {
        return;
    }
    let why = if pool.strategy != strategy::StrategyKind::ConsistentHash
        || !pool.split.is_empty()
        || !pool.rotation_interval.0.is_zero()
    {
        "strategies other than consistent_hash send visitors, each time elsewhere"
    } else if pool.pin.is_some() {
        "the pool pins, and a kept answer would set one visitor's pin for others"
    } else {
        return;
    };
    let text = format!("got \"{}\", but {why}; takes 0s", pool.cache_max_age);
    context.problem(&pool.key("cache_max_age"), text);
}

/// The most backends of one pool: with weights up to 256 every table still counts in 32 bits.
const MAX_BACKENDS: usize = 65_536;

/// Refuses backends that lead back to a listener of ours: browsers would go round until they give up.
fn loops(pool: &PoolSettings, settings: &Settings, context: &ReadContext, warnings: &mut Vec<String>) {
    let own_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own_name = own_name.trim().to_ascii_lowercase();
    for (index, backend) in pool.backends.iter().enumerate() {
        let key = pool.key(&format!("backends[{index}].url"));
        let url = &backend.url;
        let listeners = settings.server.addresses();
        for (setting, listen) in listeners.chain([("admin.listen", &settings.admin.listen)]) {
            if listen.0.port() == url.port() && leads_to(url, listen.0.ip(), &own_name) {
                context.problem(
                    &key,
                    format!(
                        "got {:?}, which is {setting} {listen} itself: a loop; takes another server",
                        url.as_str()
                    ),
                );
            }
        }
        if url.port() != 80 && url.port() != 443 {
            continue;
        }
        let host = HostPattern::parse(&url.host()).unwrap_or_else(|_| HostPattern::Exact(url.host()));
        let hosts = settings.pools.iter().flat_map(|pool| &pool.hosts);
        for pattern in hosts.filter(|pattern| pattern.overlaps(&host)) {
            match pattern {
                HostPattern::Exact(_) => context.problem(
                    &key,
                    format!("got {:?}, whose host is among `hosts`: a loop; takes another host", url.as_str()),
                ),
                HostPattern::Suffix(_) => warnings.push(format!(
                    "{key}: {} matches the wildcard {pattern} among `hosts`; if its name leads here, visitors go \
                     round in a loop",
                    url.as_str()
                )),
            }
        }
    }
}

/// Whether a visitor of `url` on this machine would come to a listener on `listen`. No name is looked up.
fn leads_to(url: &BackendUrl, listen: IpAddr, own_name: &str) -> bool {
    let host = url.host();
    if host == "localhost" || host.ends_with(".localhost") {
        return listen.is_unspecified() || listen.is_loopback();
    }
    match url.ip() {
        Some(ip) if ip.is_unspecified() => true,
        Some(ip) if ip.is_loopback() => listen.is_unspecified() || listen.is_loopback(),
        // An address can be bound if and only if it is this machine's.
        Some(ip) => ip == listen || (listen.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok()),
        None => !own_name.is_empty() && host == own_name,
    }
}

/// What a pool's visitors meet who come by https and are sent on to http: browsers warn of it, or block it.
fn downgrade(pool: &PoolSettings, settings: &Settings) -> Option<String> {
    /// How many backends are named.
    const NAMED: usize = 5;
    let why = come_by_https(pool, settings)?;
    let plain = pool.backends.iter().filter(|backend| !backend.url.is_https());
    let mut names: Vec<_> = plain.map(|backend| backend.id.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{} has http:// backends ({}{more}), and {why}, so visitors may come by https: browsers warn of a redirect \
         from https to http, and block it for what a page loads; give these backends https:// URLs",
        pool.key("backends"),
        names.join(", "),
    ))
}

/// Why some of a pool's visitors come by https, where they may. Whatever else ends TLS belongs here.
fn come_by_https(pool: &PoolSettings, settings: &Settings) -> Option<&'static str> {
    let always = pool.pin.as_ref().is_some_and(|pin| pin.secure == SecureAttribute::Always);
    if always {
        Some("its pin.secure is \"always\"")
    } else if !settings.server.tls.listen.is_empty() {
        Some("server.tls.listen is set")
    } else if !settings.server.trusted_proxies.is_empty() {
        Some("server.trusted_proxies is set")
    } else {
        None
    }
}

fn pins(pool: &PoolSettings, pin: &PinSettings, context: &ReadContext, warnings: &mut Vec<String>) {
    if pin.same_site == SameSite::None && pin.secure == SecureAttribute::Auto {
        warnings.push(format!(
            "pools.{}.pin.same_site = \"none\": browsers drop it where a visitor did not come by https; set secure = \
             \"always\" if all do",
            pool.name.as_str()
        ));
    }
    if pin.same_site == SameSite::None && pin.secure == SecureAttribute::Never {
        context.problem(
            &pool.key("pin.secure"),
            "got \"never\" beside same_site = \"none\"; browsers drop such a cookie, takes \"auto\" or \"always\"",
        );
    }
    if pin.partitioned && pin.same_site != SameSite::None {
        context.problem(
            &pool.key("pin.partitioned"),
            format!(
                "got true beside same_site = \"{}\", so browsers do not send the cookie where it would be partitioned; \
                 takes true beside same_site = \"none\"",
                pin.same_site.name()
            ),
        );
    }
    // Browsers compare these prefixes without case.
    let cookie = pin.cookie.as_str().to_ascii_lowercase();
    if cookie.starts_with("__host-") && (pin.domain.is_some() || pin.secure != SecureAttribute::Always)
        || cookie.starts_with("__secure-") && pin.secure != SecureAttribute::Always
    {
        context.problem(
            &pool.key("pin.cookie"),
            format!(
                "got {:?}; browsers take that prefix only with secure = \"always\" (and __Host- without domain)",
                pin.cookie.as_str()
            ),
        );
    }
    if let Some(domain) = &pin.domain {
        let covers = |name: &str| name == domain.as_str() || name.ends_with(&format!(".{}", domain.as_str()));
        let outside = pool.hosts.iter().find(|host| match host {
            HostPattern::Exact(name) => !covers(name),
            HostPattern::Suffix(suffix) => !covers(suffix.trim_start_matches('.')),
        });
        if let Some(host) = outside {
            context.problem(
                &pool.key("pin.domain"),
                format!(
                    "got {:?}, and browsers drop that cookie from {host}; takes a parent of every host",
                    domain.as_str()
                ),
            );
        }
    }
    if pin.secrets.is_empty() {
        warnings.push(format!(
            "pools.{}.pin has no secrets: a random one is made at start, so replicas and restarts will not share pins",
            pool.name.as_str()
        ));
    }
    if !pin.grace_period.0.is_zero() && !pool.health.is_on() {
        warnings.push(format!(
            "pools.{}.pin.grace_period = \"{}\" has no effect: health.kind is \"none\", so no backend is ever down",
            pool.name.as_str(),
            pin.grace_period
        ));
    }
}

fn cross_origin(pool: &PoolSettings, cors: &CorsSettings, context: &ReadContext) {
    if cors.origins.is_empty() && !context.is_wrong(&pool.key("cors")) {
        context.problem(
            &pool.key("cors.origins"),
            "there is none, takes origins such as \"https://app.example.com\"",
        );
    }
    if !cors.credentials {
        return;
    }
    if cors.origins.contains(&CorsOrigin::Any) {
        context.problem(
            &pool.key("cors.origins"),
            "got \"*\" beside credentials = true, which would let every site act for the visitor; takes origins by name",
        );
    }
    let any_method = cors.methods.iter().any(|method| method.0 == "*");
    let any_header = cors.headers.iter().any(|header| header.0 == "*");
    for (is_any, name) in [(any_method, "methods"), (any_header, "headers")] {
        if is_any {
            context.problem(
                &pool.key(&format!("cors.{name}")),
                "got \"*\", which means nothing to a browser beside credentials = true; takes names",
            );
        }
    }
}

/// No two pools may claim the same host and prefix.
fn routes(pools: &[PoolSettings], context: &ReadContext) {
    let mut claimed: HashMap<(Option<&HostPattern>, &str), &PoolSettings> = HashMap::new();
    for pool in pools {
        let hosts: Vec<_> =
            if pool.hosts.is_empty() { vec![None] } else { pool.hosts.iter().map(Some).collect() };
        for host in hosts {
            let Some(other) = claimed.insert((host, pool.path_prefix.as_str()), pool) else { continue };
            let route = match host {
                Some(host) => format!("{host}{}", pool.path_prefix),
                None => format!("every host's {}", pool.path_prefix),
            };
            // A pool of the command line may have come unnoticed.
            let made = [pool, other].into_iter().find_map(|made| Some((made, made_by(made, context)?)));
            let other_name = other.name.as_str();
            let (name, text) = match (other.name == pool.name, host, made) {
                (true, ..) => ("hosts", format!("{route} is listed twice, takes each host once")),
                (false, Some(_), _) => ("hosts", format!("{route} belongs to pool {other_name} already")),
                (false, None, Some((made, by))) => {
                    let rest = if made.name == pool.name { other_name } else { pool.name.as_str() };
                    let made = made.name.as_str();
                    let text = format!(
                        "pool {made} comes from {by} and serves {route}, as pool {rest} does; remove {by}, or add `hosts` to \
                         [pools.{rest}]"
                    );
                    ("path_prefix", text)
                }
                (false, None, None) => (
                    "path_prefix",
                    format!("{route} belongs to pool {other_name} already; takes `hosts` or another prefix"),
                ),
            };
            context.problem(&pool.key(name), text);
        }
    }
}

/// Returns the flags and variables that made a pool, if no settings file did.
fn made_by(pool: &PoolSettings, context: &ReadContext) -> Option<String> {
    let origins = context.origins_in(&format!("pools.{}", pool.name.as_str()));
    let names = origins.iter().map(|origin| match origin.strip_prefix(VARIABLE) {
        Some(variable) => Some(variable),
        None => origin.starts_with("--").then_some(origin.as_str()),
    });
    let names: Vec<_> = names.collect::<Option<_>>()?;
    (!names.is_empty()).then(|| names.join(" and "))
}

/// Two pools that one host can reach must not share a cookie name: each would throw the other's pin away.
fn cookie_names(pools: &[PoolSettings], context: &ReadContext) {
    for (index, pool) in pools.iter().enumerate() {
        let Some(pin) = &pool.pin else { continue };
        for other in &pools[..index] {
            let same = other.pin.as_ref().is_some_and(|other| other.cookie == pin.cookie);
            let meet = pool.hosts.is_empty()
                || other.hosts.is_empty()
                || pool.hosts.iter().any(|a| other.hosts.iter().any(|b| a.overlaps(b)));
            if same && meet {
                context.problem(
                    &pool.key("pin.cookie"),
                    format!(
                        "got {:?}, the cookie of pool {}, and one host can reach both; takes a name of its own",
                        pin.cookie.as_str(),
                        other.name.as_str()
                    ),
                );
            }
        }
    }
}
