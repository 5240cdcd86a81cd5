//! `[pools.NAME]`: what a pool serves, where it sends visitors, and how it keeps them.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::balance::{FirstSettings, HashSettings, RequestRate};
use super::error_pages::{self, ErrorPage};
use super::health::HealthSettings;
use super::load::LoadSettings;
use super::names::{
    BackendId, CookieDomain, CookieName, CorsMethod, CorsOrigin, HostPattern, HttpToken, PathPrefix, PoolName,
};
use super::reader::{self, ReadContext, Section};
use super::url::{BackendUrl, WeightedUrl};
use super::values::{
    Fraction, HumanDuration, RedirectStatus, SameSite, Secret, SecureAttribute, SettingValue,
};
use crate::fleet::Weight;
use crate::os::files;
use crate::strategy;

/// A named set of backends with one strategy and one pin policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolSettings {
    /// Its name, the key of its table.
    #[serde(skip)]
    pub name: PoolName,
    /// The hosts it serves; none: every host.
    pub hosts: Vec<HostPattern>,
    /// The paths it serves.
    pub path_prefix: PathPrefix,
    /// How it picks.
    pub strategy: strategy::StrategyKind,
    /// Strategies that run beside it and change nothing.
    pub shadow: Vec<strategy::StrategyKind>,
    /// Strategies that have a share of the visitors.
    #[serde(serialize_with = "split_as_table")]
    pub split: Vec<SplitShare>,
    /// How long the strategy and each of its shadows picks for all clients before the next takes over; 0: off.
    pub rotation_interval: HumanDuration,
    /// How many visitors a second a backend may be sent that says nothing of it; 0: any number.
    pub max_requests_per_second: RequestRate,
    /// How long an answer may be kept; 0: not at all.
    pub cache_max_age: HumanDuration,
    /// What `consistent_hash` goes by.
    pub hash: HashSettings,
    /// What `first` goes by.
    pub first: FirstSettings,
    /// The status of a redirected GET or HEAD.
    pub status: RedirectStatus,
    /// The status for every other method.
    pub status_non_get: RedirectStatus,
    /// The share of active backends that must be down for all of them to be used again; 0: never.
    pub panic_threshold: Fraction,
    /// How long a backend that is up again takes to its full weight; 0: none.
    pub slow_start: HumanDuration,
    /// Where it sends visitors.
    pub backends: Vec<BackendSettings>,
    /// How they are probed.
    pub health: HealthSettings,
    /// Where they tell their load; none: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadSettings>,
    /// The pin cookie; none: no cookie is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<PinSettings>,
    /// The HTML pages of its errors.
    #[serde(serialize_with = "error_pages::as_table")]
    pub error_pages: Vec<ErrorPage>,
    /// The answer to browsers on other origins; none: no CORS header is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsSettings>,
}

/// A share of the visitors, by a hash of their addresses, and the strategy that sends them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitShare {
    /// Which.
    pub strategy: strategy::StrategyKind,
    /// Of all visitors, 0 to 1.
    pub share: Fraction,
}

/// One server that visitors are sent to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendSettings {
    /// What it is called in metrics, logs and pins; its authority where none is set.
    pub id: BackendId,
    /// The URL that a visitor's path is appended to.
    pub url: BackendUrl,
    /// Its share of new visitors, 0 to 256; 0: none.
    pub weight: Weight,
    /// Whether it is used only while no primary is eligible.
    pub backup: bool,
    /// How many visitors a second it may be sent, where that is not the pool's; 0: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_second: Option<RequestRate>,
    /// Where it is probed, where that is not `url`: a private address, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_url: Option<BackendUrl>,
}

/// `[pools.NAME.pin]`: the cookie that keeps a visitor on one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PinSettings {
    /// Its name.
    pub cookie: CookieName,
    /// How long it is valid after it was issued.
    pub max_age: HumanDuration,
    /// Pins of another generation are void.
    pub generation: u32,
    /// The first signs, all verify; none: a random one is made at start.
    pub secrets: Vec<Secret>,
    /// A file with one secret a line, instead of `secrets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets_file: Option<PathBuf>,
    /// When the cookie is `Secure`.
    pub secure: SecureAttribute,
    /// The cookie's `SameSite`.
    pub same_site: SameSite,
    /// Whether browsers keep it apart for each site that embeds the entry host (CHIPS).
    pub partitioned: bool,
    /// The domain it is also sent to; none: the entry host alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<CookieDomain>,
    /// How long pins to a backend that is down are still followed.
    pub grace_period: HumanDuration,
}

/// `[pools.NAME.cors]`: what browsers on other origins are told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CorsSettings {
    /// The origins that may read the answer.
    pub origins: Vec<CorsOrigin>,
    /// The methods a preflight allows.
    pub methods: Vec<CorsMethod>,
    /// The request headers a preflight allows.
    pub headers: Vec<HttpToken>,
    /// Whether cookies and credentials may be sent.
    pub credentials: bool,
    /// How long a browser may keep the answer to a preflight.
    pub max_age: HumanDuration,
}

/// Prints pools as tables under their names.
pub(super) fn as_table<S: Serializer>(pools: &[PoolSettings], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pools.iter().map(|pool| (pool.name.as_str(), pool)))
}

fn split_as_table<S: Serializer>(split: &[SplitShare], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(split.iter().map(|portion| (portion.strategy.name(), portion.share)))
}

/// Reads every pool; those whose name is none are noted and left out.
pub(super) fn read_all(pools: Section<'_>) -> Vec<PoolSettings> {
    const TAKES: &str =
        "the table of a pool; what is a pool's own stands under its name, such as [pools.site]";
    let mut read = Vec::new();
    for (name, section) in pools.named_sections(TAKES) {
        match PoolName::parse(&name) {
            Ok(name) => read.push(PoolSettings::read(name, section)),
            Err(takes) => section.problem(format!("got {name:?}, takes {takes}")),
        }
    }
    read
}

impl PoolSettings {
    /// The full name of a key of this pool.
    pub(super) fn key(&self, rest: &str) -> String {
        format!("pools.{}.{rest}", self.name.as_str())
    }

    /// All its strategies: the one that sends visitors, those of the split, the shadows.
    pub fn strategies(&self) -> impl Iterator<Item = strategy::StrategyKind> + '_ {
        let split = self.split.iter().map(|portion| portion.strategy);
        std::iter::once(self.strategy).chain(split).chain(self.shadow.iter().copied())
    }

    fn read(name: PoolName, mut section: Section<'_>) -> Self {
        let pool = Self {
            hosts: section.list("hosts").unwrap_or_default(),
            path_prefix: section.or("path_prefix", PathPrefix::default()),
            strategy: section.or("strategy", strategy::StrategyKind::default()),
            shadow: section.list("shadow").unwrap_or_default(),
            split: section.section("split").map(read_split).unwrap_or_default(),
            rotation_interval: section.within(
                "rotation_interval",
                HumanDuration::seconds(0),
                "0s, or a duration from 10s to 1 day",
                |span| span.0.is_zero() || (10..=24 * 3600).contains(&span.0.as_secs()),
            ),
            max_requests_per_second: section.or("max_requests_per_second", RequestRate(0.0)),
            cache_max_age: section.or("cache_max_age", HumanDuration::seconds(0)),
            hash: HashSettings::read(section.section_or_empty("hash")),
            first: FirstSettings::read(section.section_or_empty("first")),
            status: section.or("status", RedirectStatus::FOUND),
            status_non_get: section.or("status_non_get", RedirectStatus::TEMPORARY),
            panic_threshold: section.or("panic_threshold", Fraction(1.0)),
            slow_start: section.or("slow_start", HumanDuration::seconds(30)),
            backends: read_backends(&mut section),
            health: HealthSettings::read(section.section_or_empty("health")),
            load: section.section("load").map(LoadSettings::read),
            pin: section.section("pin").map(|pin| PinSettings::read(&name, pin)),
            error_pages: error_pages::read(section.section_or_empty("error_pages"), true),
            cors: section.section("cors").map(CorsSettings::read),
            name,
        };
        section.finish();
        pool
    }
}

/// Reads `split`: a share behind each strategy's name.
fn read_split(mut section: Section<'_>) -> Vec<SplitShare> {
    let portion = |strategy: strategy::StrategyKind| {
        section.optional(strategy.name()).map(|share| SplitShare { strategy, share })
    };
    let split = strategy::StrategyKind::ALL.into_iter().filter_map(portion).collect();
    section.finish();
    split
}

/// Reads `backends`: tables, or the short form `"3*https://b.example.com"`.
fn read_backends(section: &mut Section<'_>) -> Vec<BackendSettings> {
    let context = section.context();
    let items = section.items("backends").unwrap_or_default();
    items
        .into_iter()
        .filter_map(|(path, item)| match item.kind {
            config::ValueKind::Table(_) => BackendSettings::read(Section::new(path, item, context), context),
            _ => {
                let WeightedUrl { weight, url } = reader::parse(&path, &item, context)?;
                Some(BackendSettings {
                    id: id_of(None, &url, &path, context)?,
                    url,
                    weight,
                    backup: false,
                    max_requests_per_second: None,
                    probe_url: None,
                })
            }
        })
        .collect()
}

impl BackendSettings {
    fn read(mut section: Section<'_>, context: &ReadContext) -> Option<Self> {
        let path = section.key("url");
        let id = section.optional("id");
        let had_url = section.has("url");
        let url = section.optional("url");
        let weight = section.or("weight", Weight::ONE);
        let backup = section.or("backup", false);
        let max_requests_per_second = section.optional("max_requests_per_second");
        let probe_url = section.optional("probe_url");
        section.finish();
        if !had_url {
            context.problem(&path, "is missing, takes a URL such as \"https://a.example.com\"");
        }
        let url = url?;
        Some(Self {
            id: id_of(id, &url, &path, context)?,
            url,
            weight,
            backup,
            max_requests_per_second,
            probe_url,
        })
    }
}

/// The id that is written, else the URL's authority.
fn id_of(id: Option<BackendId>, url: &BackendUrl, path: &str, context: &ReadContext) -> Option<BackendId> {
    let authority = || match BackendId::parse(url.authority()) {
        Ok(id) => Some(id),
        Err(takes) => {
            context.problem(path, format!("its authority is no id; set `id`, which takes {takes}"));
            None
        }
    };
    id.or_else(authority)
}

impl PinSettings {
    /// The policy of `pin = {}`.
    pub fn of_pool(name: &PoolName) -> Self {
        Self {
            cookie: CookieName::of_pool(name),
            max_age: HumanDuration::seconds(3600),
            generation: 0,
            secrets: Vec::new(),
            secrets_file: None,
            secure: SecureAttribute::Auto,
            same_site: SameSite::Lax,
            partitioned: false,
            domain: None,
            grace_period: HumanDuration::seconds(0),
        }
    }

    fn read(pool: &PoolName, mut section: Section<'_>) -> Self {
        let default = Self::of_pool(pool);
        let secrets = section.list("secrets").unwrap_or_default();
        let (secrets, secrets_file) = or_from_file(&mut section, "secrets", secrets, "secrets_file");
        let pin = Self {
            cookie: section.or("cookie", default.cookie),
            max_age: section.within(
                "max_age",
                default.max_age,
                "a duration from 1s to 400 days, in whole seconds",
                |span| span.0.as_secs() >= 1 && span.0.subsec_nanos() == 0,
            ),
            generation: section.or("generation", default.generation),
            secrets,
            secrets_file,
            secure: section.or("secure", default.secure),
            same_site: section.or("same_site", default.same_site),
            partitioned: section.or("partitioned", default.partitioned),
            domain: section.optional("domain"),
            grace_period: section.or("grace_period", default.grace_period),
        };
        section.finish();
        pin
    }
}

/// The secrets of `key` or, instead, of the file that `file_key` names.
pub(super) fn or_from_file(
    section: &mut Section<'_>,
    key: &str,
    secrets: Vec<Secret>,
    file_key: &'static str,
) -> (Vec<Secret>, Option<PathBuf>) {
    let Some(file) = section.file(file_key) else { return (secrets, None) };
    let path = section.key(file_key);
    if secrets.is_empty() {
        (read_secrets(&file, &path, section.context()), Some(file))
    } else {
        section.context().problem(&path, format!("stands beside `{key}`; set one of them"));
        (secrets, Some(file))
    }
}

/// How much of a file with secrets is read.
const LONGEST_FILE: u64 = 1 << 20;

/// Reads one secret a line; empty lines are passed over.
fn read_secrets(file: &Path, key: &str, context: &ReadContext) -> Vec<Secret> {
    let read = files::read_first(file, LONGEST_FILE)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into()));
    let text = match read {
        Ok(text) => text,
        Err(error) => {
            context.problem(key, format!("{} can't be read: {error}", file.display()));
            return Vec::new();
        }
    };
    let mut secrets = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match Secret::parse(line.trim()) {
            Ok(secret) => secrets.push(secret),
            Err(takes) => {
                context.problem(key, format!("line {} of {}: takes {takes}", number + 1, file.display()));
            }
        }
    }
    if secrets.is_empty() {
        context.problem(key, format!("{} holds no secret; it takes one a line", file.display()));
    }
    secrets
}

/// The methods that a preflight allows if the settings name none.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

impl CorsSettings {
    fn read(mut section: Section<'_>) -> Self {
        let tokens =
            |names: &[&str]| names.iter().map(|name| HttpToken((*name).to_owned())).collect::<Vec<_>>();
        let credentials = section.or("credentials", false);
        let cors = Self {
            origins: section.list("origins").unwrap_or_default(),
            methods: section
                .list("methods")
                .unwrap_or_else(|| METHODS.map(|method| CorsMethod(method.to_owned())).to_vec()),
            headers: section
                .list("headers")
                .unwrap_or_else(|| tokens(if credentials { &[] } else { &["*"] })),
            credentials,
            max_age: section.or("max_age", HumanDuration::seconds(600)),
        };
        section.finish();
        cors
    }
}
