//! Where settings come from: files, then the environment, then flags; later wins.
//!
//! Tables merge by key and lists are replaced, which is what `config` does. Each value keeps the name of the
//! file, variable or flag that gave it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, FileFormat, Format, Map, Source, Value};

use super::error::SettingsError;
use super::variables::{BACKENDS, DEFAULT_POOL, PREFIX, VARIABLE};

/// What a start was told, before any of it is read.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Settings files, in order.
    pub files: Vec<PathBuf>,
    /// TOML of a program that embeds Signpost.
    pub text: Option<String>,
    /// The environment, as pairs.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags of the command line.
    pub flags: Flags,
}

/// The flags that are settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--listen`, all of them.
    pub listen: Vec<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--backend`, all of them.
    pub backends: Vec<String>,
    /// `--strategy`.
    pub strategy: Option<String>,
    /// `--pin`.
    pub pin: bool,
}

impl Layers {
    /// Merges the layers.
    ///
    /// # Errors
    /// Every file that is missing or no TOML, and every variable that is not Unicode.
    pub(super) fn merge(&self) -> Result<Value, Vec<SettingsError>> {
        let mut problems = Vec::new();
        let mut builder = Config::builder();
        let mut layers = Vec::new();
        for path in &self.files {
            match read_file(path) {
                Ok(layer) => layers.push(layer),
                Err(problem) => problems.push(problem),
            }
        }
        match self.text.as_deref().map(|text| parse("text", text)).transpose() {
            Ok(layer) => layers.extend(layer),
            Err(problem) => problems.push(problem),
        }
        match environment(&self.environment) {
            Ok(layer) => layers.push(layer),
            Err(mut bad) => problems.append(&mut bad),
        }
        for layer in layers {
            problems.extend(layer.strange_keys());
            builder = builder.add_source(layer);
        }
        builder = builder.add_source(self.flags.layer());
        if !problems.is_empty() {
            return Err(problems);
        }
        // Not `try_deserialize`: that would lose where each value came from.
        match builder.build() {
            Ok(config) => Ok(config.cache),
            Err(error) => {
                Err(vec![SettingsError { key: String::new(), text: error.to_string(), origin: None }])
            }
        }
    }
}

/// Reads one file. By hand up to the parser: `config` would call it by a path relative to somewhere.
fn read_file(path: &Path) -> Result<Layer, SettingsError> {
    let origin = path.display().to_string();
    let problem = |text| SettingsError { key: String::new(), text, origin: Some(origin.clone()) };
    let text = std::fs::read_to_string(path).map_err(|error| problem(format!("can't be read: {error}")))?;
    FileFormat::Toml.parse(Some(&origin), &text).map(Layer).map_err(|error| {
        problem(match other_format(path, &text) {
            Some(format) => {
                format!("this looks like {format} (settings are TOML; settings/default.toml has every key)")
            }
            None => not_toml(&*error),
        })
    })
}

/// Parses TOML whose values come from `origin`.
fn parse(origin: &str, text: &str) -> Result<Layer, SettingsError> {
    FileFormat::Toml.parse(Some(&origin.to_owned()), text).map(Layer).map_err(|error| SettingsError {
        key: String::new(),
        text: not_toml(&*error),
        origin: Some(origin.to_owned()),
    })
}

fn not_toml(error: &dyn std::error::Error) -> String {
    format!("not valid TOML: {}", error.to_string().trim_end())
}

/// Returns the format of a file that is not TOML, if its name or its first line tells.
fn other_format(path: &Path, text: &str) -> Option<&'static str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "yaml" | "yml" => return Some("YAML"),
        "json" => return Some("JSON"),
        _ => {}
    }
    let key = first.split_once(':').map(|(key, rest)| (key.trim(), rest));
    let is_name = |key: &str| {
        !key.is_empty()
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'"')
    };
    match key {
        _ if first == "---" || first.starts_with("- ") => Some("YAML"),
        _ if first.starts_with('{') => Some("JSON"),
        Some((key, rest)) if is_name(key) && (rest.is_empty() || rest.starts_with(' ')) => Some("YAML"),
        _ => None,
    }
}

/// Nested tables whose leaves know their origin.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Layer {
    fn set(&mut self, path: &[&str], value: Value) {
        let Some((last, tables)) = path.split_last() else { return };
        let mut table = &mut self.0;
        for key in tables {
            let next =
                table.entry((*key).to_owned()).or_insert_with(|| Value::from(Map::<String, Value>::new()));
            if !matches!(next.kind, config::ValueKind::Table(_)) {
                *next = Value::from(Map::<String, Value>::new());
            }
            match &mut next.kind {
                config::ValueKind::Table(inner) => table = inner,
                _ => return,
            }
        }
        table.insert((*last).to_owned(), value);
    }
}

impl Layer {
    /// Top-level keys that `config` would take for a path: it makes room for as many values as `key[91111111]`
    /// says, and reads `"server.listen"` as two keys. None of ours looks like that.
    fn strange_keys(&self) -> impl Iterator<Item = SettingsError> {
        let plain = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let strange = self.0.iter().filter(move |(key, _)| !plain(key) || key.is_empty());
        strange.map(|(key, value)| SettingsError {
            key: format!("{key:?}"),
            text: "no such key".to_owned(),
            origin: value.origin().map(str::to_owned),
        })
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Reads `SIGNPOST_BACKENDS` and `SIGNPOST__A__B`; no other variable, so that what Kubernetes injects for a
/// service of this name (`SIGNPOST_PORT`, `SIGNPOST_SERVICE_HOST`) does no harm.
fn environment(variables: &[(OsString, OsString)]) -> Result<Layer, Vec<SettingsError>> {
    let mut layer = Layer::default();
    let mut problems = Vec::new();
    let sorted: BTreeMap<_, _> =
        variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
    for (name, value) in sorted {
        let path = match name.strip_prefix(PREFIX) {
            Some(rest) => rest.to_ascii_lowercase(),
            None if name == BACKENDS => format!("pools__{DEFAULT_POOL}__backends"),
            None => continue,
        };
        let origin = format!("{VARIABLE}{name}");
        match value.to_str() {
            Some(text) => {
                let path: Vec<_> = path.split("__").collect();
                layer.set(&path, Value::new(Some(&origin), text));
            }
            None => problems.push(SettingsError {
                key: path.replace("__", "."),
                text: "is not valid Unicode".to_owned(),
                origin: Some(origin),
            }),
        }
    }
    if problems.is_empty() { Ok(layer) } else { Err(problems) }
}

impl Flags {
    fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        let list = |flag: &str, items: &[String]| {
            let origin = flag.to_owned();
            let items: Vec<_> = items.iter().map(|item| Value::new(Some(&origin), item.as_str())).collect();
            Value::new(Some(&origin), items)
        };
        let pool = ["pools", DEFAULT_POOL];
        if !self.listen.is_empty() {
            layer.set(&["server", "listen"], list("--listen", &self.listen));
        }
        if let Some(admin) = &self.admin {
            layer.set(&["admin", "listen"], Value::new(Some(&"--admin".to_owned()), admin.as_str()));
        }
        if !self.backends.is_empty() {
            layer.set(&[pool[0], pool[1], "backends"], list("--backend", &self.backends));
        }
        if let Some(strategy) = &self.strategy {
            let value = Value::new(Some(&"--strategy".to_owned()), strategy.as_str());
            layer.set(&[pool[0], pool[1], "strategy"], value);
        }
        if self.pin {
            layer.set(&[pool[0], pool[1], "pin"], Value::from(Map::<String, Value>::new()));
        }
        layer
    }
}
