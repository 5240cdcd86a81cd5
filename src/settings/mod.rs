//! The settings: typed sections, the layers they come from, and every rule about them.
//!
//! [`Settings::load`] is the one way in. What it returns is valid: the code behind it checks nothing again.

mod address;
mod admin;
mod balance;
mod error_pages;
mod error;
mod health;
mod layers;
mod listener;
mod load;
mod log;
mod names;
mod pool;
mod probe_http;
mod reader;
mod renamed;
mod rules;
mod server;
mod tls;
mod unused;
mod url;
mod values;
mod variables;

use std::path::PathBuf;

use config::Value;
use serde::Serialize;

pub use address::{ListenAddress, Network};
pub use admin::AdminSettings;
pub use balance::{BalanceFactor, FirstSettings, HashSettings, RequestRate};
pub use error::SettingsError;
pub use error_pages::ErrorPage;
pub use health::{
    CheckCount, ExpectedStatuses, HealthSettings, ProbeHost, ProbeKind, ProbeMethod, ProbePath,
};
pub use layers::{Flags, Layers};
pub use listener::ListenerSettings;
pub use load::{AgentPort, HeaderFieldName, JsonPointer, LoadSettings, LoadUnit, ReportSource};
pub use log::{LogSettings, LoggedHeader};
pub use names::{
    BackendId, CookieDomain, CookieName, CorsMethod, CorsOrigin, HealthPathSetting, HostPattern, HttpToken,
    PathPrefix, PoolName,
};
pub use pool::{BackendSettings, CorsSettings, PinSettings, PoolSettings, SplitShare};
pub use probe_http::{ExpectedBody, ProbeHeaders};
pub use server::{LimitsSettings, ServerSettings};
pub use tls::{CertificateSettings, TlsSettings};
pub use url::{BackendUrl, WeightedUrl};
pub use values::{
    ByteSize, ForwardingHeader, Fraction, HeaderCount, HumanDuration, LogFormat, LogLevel, ProbeCount,
    RedirectStatus, SameSite, Secret, SecureAttribute, SettingValue, WorkerCount,
};

use crate::certificates::Files;
use reader::{ReadContext, Section};
use variables::KnownKey;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Settings {
    /// The traffic listeners and who serves them.
    pub server: ServerSettings,
    /// The listener for the operator.
    pub admin: AdminSettings,
    /// Log and access log.
    pub log: LogSettings,
    /// The pools, in order of their names.
    #[serde(serialize_with = "pool::as_table")]
    pub pools: Vec<PoolSettings>,
}

/// Settings and what to tell the operator about them.
#[derive(Clone, Debug)]
pub struct LoadedSettings {
    /// The settings.
    pub settings: Settings,
    /// What is allowed but looks like a mistake, a line each.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Merges the layers, reads them and applies every rule.
    ///
    /// # Errors
    /// Every problem there is, in order of the keys.
    pub fn load(layers: &Layers) -> Result<LoadedSettings, Vec<SettingsError>> {
        Self::load_listing(layers, &mut Vec::new())
    }

    /// Reads settings from TOML alone: no files, no environment. Relative paths in them start at the working directory.
    ///
    /// # Errors
    /// Every problem there is, in order of the keys.
    pub fn from_toml(text: &str) -> Result<Self, Vec<SettingsError>> {
        Self::load(&Layers { text: Some(text.to_owned()), ..Layers::default() }).map(|loaded| loaded.settings)
    }

    /// The same as [`Self::load`], and adds to `files` every file that must change for the outcome to change. Those of certificates are among
    /// them only if there are problems: else they are published apart.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_listing(
        layers: &Layers,
        files: &mut Vec<PathBuf>,
    ) -> Result<LoadedSettings, Vec<SettingsError>> {
        let merged = layers.merge().inspect_err(|_| files.extend_from_slice(&layers.files))?;
        let context = ReadContext::new(layers);
        let settings = read(Section::root(merged, &context));
        let mut warnings = variables::unread(&layers.environment);
        warnings.extend(rules::check(&settings, &context));
        files.extend(context.files());
        match context.into_problems() {
            problems if problems.is_empty() => Ok(LoadedSettings { settings, warnings }),
            problems => {
                files.extend(settings.server.tls.files().flat_map(|Files { cert, key }| [cert, key]));
                Err(problems)
            }
        }
    }

    /// Only where the admin listener is: `healthcheck` must work whatever else is wrong.
    ///
    /// # Errors
    /// What is wrong with the layers or with that one key.
    pub fn load_admin(layers: &Layers) -> Result<AdminSettings, Vec<SettingsError>> {
        let merged = layers.merge()?;
        let context = ReadContext::new(layers);
        let mut root = Section::root(merged, &context);
        let admin = AdminSettings::read(root.section_or_empty("admin"));
        match context.into_problems() {
            problems if problems.is_empty() => Ok(admin),
            problems => Err(problems),
        }
    }
}

/// Returns every key, in the order in which sections are read; the keys of a pool are below `pools.{pool}`.
fn known_keys(pool: &str) -> Vec<KnownKey> {
    let table = |keys: &[&str], value: fn() -> Value| {
        let entries = keys.iter().map(|key| ((*key).to_owned(), value()));
        Value::from(entries.collect::<config::Map<_, _>>())
    };
    let empty = || Value::from(config::Map::<String, Value>::new());
    // These sections of a pool are read only if they are there.
    let keys = table(&["pin", "load", "cors", "split"], empty);
    let pools = Value::from(config::Map::from_iter([("name".to_owned(), keys)]));
    let context = ReadContext::default();
    read(Section::root(Value::from(config::Map::from_iter([("pools".to_owned(), pools)])), &context));
    let mut known = context.known_keys();
    for key in &mut known {
        key.path = key.path.replacen("pools.name.", &format!("pools.{pool}."), 1);
    }
    known
}

fn read(mut root: Section<'_>) -> Settings {
    let server = ServerSettings::read(root.section_or_empty("server"));
    let admin = AdminSettings::read(root.section_or_empty("admin"));
    let log = LogSettings::read(root.section_or_empty("log"));
    let pools = pool::read_all(root.section_or_empty("pools"));
    root.finish();
    Settings { server, admin, log, pools }
}

/// The known name that `got` was most likely meant to be.
fn nearest<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let got = got.to_ascii_lowercase();
    known
        .map(|name| (strsim::jaro_winkler(&got, name), name))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
