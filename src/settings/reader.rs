//! Reads typed settings out of merged layers and keeps every problem, not only the first.
//!
//! serde stops at the first error and forgets where a value came from; an operator wants the whole list, each
//! line with its key, what it got, what it takes, and the file or variable to edit.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use config::{Value, ValueKind};

use super::error::SettingsError;
use super::layers::Layers;
use super::values::SettingValue;
use super::variables::{self, DEFAULT_POOL, KnownKey, VARIABLE, bare};
use super::{known_keys, nearest, renamed};

/// What reading collects beside the values.
#[derive(Default)]
pub(super) struct ReadContext {
    /// The folder of each settings file, by the origin of its values.
    folders: HashMap<String, PathBuf>,
    problems: RefCell<Vec<SettingsError>>,
    /// By key; `None` where a table's values came from several places, or it has none.
    origins: RefCell<HashMap<String, Option<String>>>,
    /// Every key that was asked for, in that order.
    known: RefCell<Vec<KnownKey>>,
    /// The files whose contents are settings, whether they can be read or not.
    files: RefCell<Vec<PathBuf>>,
}

impl ReadContext {
    /// Notes about the values of these layers.
    pub(super) fn new(layers: &Layers) -> Self {
        let folder = |file: &PathBuf| {
            let folder = std::path::absolute(file).ok()?.parent()?.to_owned();
            Some((file.display().to_string(), folder))
        };
        // Merged, the empty table that this flag stands for has no origin.
        let pin = (format!("pools.{DEFAULT_POOL}.pin"), Some("--pin".to_owned()));
        Self {
            folders: layers.files.iter().filter_map(folder).collect(),
            origins: RefCell::new(layers.flags.pin.then_some(pin).into_iter().collect()),
            files: RefCell::new(layers.files.clone()),
            ..Self::default()
        }
    }

    /// Notes that `key` is wrong. Where it came from is found by the key.
    pub(super) fn problem(&self, key: &str, text: impl Into<String>) {
        let origin = self.origin(key);
        self.problems.borrow_mut().push(SettingsError { key: key.to_owned(), text: text.into(), origin });
    }

    /// Whether a key, or one inside it, is wrong already: what was read of it is then not all of it.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        let inside = |found: &str| {
            found.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.problems.borrow().iter().any(|problem| inside(&problem.key))
    }

    /// Returns every key that was asked for.
    pub(super) fn known_keys(self) -> Vec<KnownKey> {
        self.known.into_inner()
    }

    /// Returns the files whose contents are settings.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// The origin of a key, or of the nearest key above it that has one.
    pub(super) fn origin(&self, key: &str) -> Option<String> {
        let origins = self.origins.borrow();
        let mut key = key;
        loop {
            if let Some(origin) = origins.get(key) {
                return origin.clone();
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// The origin of each key in a table.
    pub(super) fn origins_in(&self, table: &str) -> BTreeSet<String> {
        let origins = self.origins.borrow();
        let inside = |key: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        origins.iter().filter(|(key, _)| inside(key)).filter_map(|(_, origin)| origin.clone()).collect()
    }

    fn remember(&self, key: &str, value: &Value) {
        let origin = origin_of(value);
        let mut origins = self.origins.borrow_mut();
        if origin.is_some() || !origins.contains_key(key) {
            origins.insert(key.to_owned(), origin);
        }
    }

    /// Everything that was noted, in order of the keys.
    pub(super) fn into_problems(self) -> Vec<SettingsError> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// The origin of a value, or the one that all values inside it share: merged tables have none of their own.
fn origin_of(value: &Value) -> Option<String> {
    if let Some(origin) = value.origin() {
        return Some(origin.to_owned());
    }
    let mut origins: Vec<_> = match &value.kind {
        ValueKind::Array(items) => items.iter().map(origin_of).collect(),
        ValueKind::Table(table) => table.values().map(origin_of).collect(),
        _ => return None,
    };
    origins.dedup();
    match &mut origins[..] {
        [one] => one.take(),
        _ => None,
    }
}

/// A table of settings while it is being read: what is left in it at the end is unknown.
pub(super) struct Section<'a> {
    path: String,
    left: BTreeMap<String, Value>,
    asked: Vec<&'static str>,
    context: &'a ReadContext,
}

impl<'a> Section<'a> {
    pub(super) fn root(value: Value, context: &'a ReadContext) -> Self {
        Self::new(String::new(), value, context)
    }

    /// A table at `path`; anything else is noted and read as an empty one.
    pub(super) fn new(path: String, value: Value, context: &'a ReadContext) -> Self {
        context.remember(&path, &value);
        let left = match value.kind {
            ValueKind::Table(table) => table.into_iter().collect(),
            ValueKind::Nil => BTreeMap::new(),
            _ => {
                context.problem(
                    &path,
                    format!("got {}, takes a table{}", got(&path, &value), how_to_write(&path, &value)),
                );
                BTreeMap::new()
            }
        };
        Self { path, left, asked: Vec::new(), context }
    }

    pub(super) fn context(&self) -> &'a ReadContext {
        self.context
    }

    /// Notes that the table itself is wrong.
    pub(super) fn problem(&self, text: impl Into<String>) {
        self.context.problem(&self.path, text);
    }

    /// Whether a key is there and was not yet taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// The full path of a key in this table.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<(String, Value)> {
        self.take_as(key, false)
    }

    fn take_as(&mut self, key: &'static str, is_table: bool) -> Option<(String, Value)> {
        self.asked.push(key);
        let path = self.key(key);
        self.context.known.borrow_mut().push(KnownKey { path: path.clone(), is_table });
        let value = self.left.remove(key)?;
        self.context.remember(&path, &value);
        Some((path, value))
    }

    /// A scalar, if it is there and right.
    pub(super) fn optional<T: SettingValue>(&mut self, key: &'static str) -> Option<T> {
        let (path, value) = self.take(key)?;
        parse(&path, &value, self.context)
    }

    /// The path of a file, if it is there and right, as an absolute path. In a settings file a relative path starts at
    /// the folder of that file; in a variable or flag it starts at the working directory.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let (path, value) = self.take(key)?;
        self.resolve(&path, &value)
    }

    /// The same of a file whose contents are settings: where they change, all settings are to be read again.
    pub(super) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let file = self.path(key)?;
        self.context.files.borrow_mut().push(file.clone());
        Some(file)
    }

    fn resolve(&self, path: &str, value: &Value) -> Option<PathBuf> {
        let file: PathBuf = parse(path, value, self.context)?;
        let folder = value.origin().and_then(|origin| self.context.folders.get(origin));
        let file = folder.map_or_else(|| file.clone(), |folder| folder.join(&file));
        // Fails only if there is no working directory; then opening the file reports it.
        Some(std::path::absolute(&file).unwrap_or(file))
    }

    /// Every key of this table, with its full path and the file behind it, if that is right: for tables whose keys are
    /// names. The contents of the files are settings.
    pub(super) fn named_files(mut self) -> Vec<(String, String, Option<PathBuf>)> {
        let left = std::mem::take(&mut self.left);
        left.into_iter()
            .map(|(name, value)| {
                let path = self.key(&name);
                self.context.remember(&path, &value);
                let file = self.resolve(&path, &value);
                self.context.files.borrow_mut().extend(file.clone());
                (path, name, file)
            })
            .collect()
    }

    /// A scalar, or its default.
    pub(super) fn or<T: SettingValue>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A scalar that must be inside a range; `takes` is what the error says.
    pub(super) fn within<T: SettingValue>(
        &mut self,
        key: &'static str,
        default: T,
        takes: &str,
        fits: impl Fn(&T) -> bool,
    ) -> T {
        let Some((path, value)) = self.take(key) else { return default };
        match parse(&path, &value, self.context) {
            Some(parsed) if fits(&parsed) => parsed,
            Some(_) => {
                self.context.problem(&path, format!("got {}, takes {takes}", shown(&value)));
                default
            }
            None => default,
        }
    }

    /// A list of scalars; `None` where the key is missing. A string is split at its commas.
    pub(super) fn list<T: SettingValue>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let items = self.items(key)?;
        let context = self.context;
        Some(items.iter().filter_map(|(path, value)| parse(path, value, context)).collect())
    }

    /// The items of a list with their paths; `None` where the key is missing.
    pub(super) fn items(&mut self, key: &'static str) -> Option<Vec<(String, Value)>> {
        let (path, value) = self.take(key)?;
        let origin = value.origin().map(str::to_owned);
        let items = match value.kind {
            ValueKind::Array(items) => items,
            ValueKind::String(text) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Value::new(origin.as_ref(), item))
                .collect(),
            ValueKind::Table(_) | ValueKind::Nil => {
                self.context.problem(&path, format!("got {}, takes a list", shown(&value)));
                return None;
            }
            // A number, such as a port.
            _ => vec![value],
        };
        let with_path = |(index, item): (usize, Value)| {
            let path = format!("{path}[{index}]");
            self.context.remember(&path, &item);
            (path, item)
        };
        Some(items.into_iter().enumerate().map(with_path).collect())
    }

    /// A table, if it is there.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let (path, value) = self.take_as(key, true)?;
        Some(Section::new(path, value, self.context))
    }

    /// A table, empty where it is missing.
    pub(super) fn section_or_empty(&mut self, key: &'static str) -> Section<'a> {
        let path = self.key(key);
        self.section(key)
            .unwrap_or_else(|| Section::new(path, Value::new(None, ValueKind::Nil), self.context))
    }

    /// Every key of this table with the table behind it: for tables whose keys are names. Where another value stands
    /// behind it, that is noted with what it `takes`, and the key is left out.
    pub(super) fn named_sections(mut self, takes: &str) -> Vec<(String, Section<'a>)> {
        let left = std::mem::take(&mut self.left);
        left.into_iter()
            .filter_map(|(name, value)| {
                let path = self.key(&name);
                if matches!(value.kind, ValueKind::Table(_) | ValueKind::Nil) {
                    return Some((name, Section::new(path, value, self.context)));
                }
                self.context.remember(&path, &value);
                self.context.problem(&path, format!("got {}, takes {takes}", shown(&value)));
                None
            })
            .collect()
    }

    /// The name, the full key and the scalar of each entry, for tables whose keys are names. What is wrong is noted and
    /// left out.
    pub(super) fn named_values<T: SettingValue>(mut self) -> Vec<(String, String, T)> {
        let left = std::mem::take(&mut self.left);
        left.into_iter()
            .filter_map(|(name, value)| {
                let path = self.key(&name);
                self.context.remember(&path, &value);
                let value = parse(&path, &value, self.context)?;
                Some((name, path, value))
            })
            .collect()
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, value) in &self.left {
            let path = self.key(key);
            self.context.remember(&path, value);
            let known = self.asked.join(", ");
            let text = match self.meant(key, value) {
                Some(near) => format!("no such key; did you mean {near}? (known here: {known})"),
                None => format!("no such key (known here: {known})"),
            };
            self.context.problem(&path, text);
        }
    }

    /// Returns the key that an unknown one was most likely meant to be, as the origin of its value would write it: one
    /// that had this name, one whose path has other separators, one of this table, or one that belongs in another table.
    fn meant(&self, key: &str, value: &Value) -> Option<String> {
        let path = self.key(key);
        let origin = self.context.origin(&path);
        let variable = origin.as_deref().and_then(|origin| origin.strip_prefix(VARIABLE));
        let own_pool = self.path.strip_prefix("pools.").and_then(|rest| rest.split('.').next());
        let known = known_keys(own_pool.unwrap_or(if variable.is_some() { DEFAULT_POOL } else { "NAME" }));
        let named = |found: &KnownKey| match variable {
            Some(_) => variables::of_known(found, &known),
            None => Some(found.path.clone()),
        };
        let former = || {
            let name = renamed::present_name(&path)?;
            Some(match variable {
                Some(_) => variables::of_key(&self.key(name)),
                None => format!("\"{name}\""),
            })
        };
        let depth = |path: &str| path.matches('.').count();
        let written =
            bare(variable.map_or(&*path, |variable| variable.trim_start_matches(variables::PREFIX)));
        let other_separators = || {
            known
                .iter()
                .find(|known| bare(&known.path) == written && depth(&known.path) != depth(&path))
                .and_then(named)
        };
        let sibling = || {
            let near = nearest(key, self.asked.iter().copied())?;
            let near_path = self.key(near);
            match known.iter().find(|known| known.is_table && known.path == near_path) {
                // No value of a variable is a table.
                Some(table) if variable.is_some() && !matches!(value.kind, ValueKind::Table(_)) => {
                    named(table)
                }
                _ => Some(format!("\"{near}\"")),
            }
        };
        let elsewhere = || {
            let same_name = known.iter().filter(|known| known.path.rsplit('.').next() == Some(key));
            same_name.min_by_key(|known| depth(&known.path)).and_then(named)
        };
        former().or_else(other_separators).or_else(sibling).or_else(elsewhere)
    }
}

/// How the table at `path` is written, instead of the value that stands there.
fn how_to_write(path: &str, value: &Value) -> String {
    if let Some(variable) = value.origin().and_then(|origin| origin.strip_prefix(VARIABLE)) {
        return format!(": each of its keys is a variable of its own, {}__KEY", variable.trim());
    }
    match (path, &value.kind) {
        ("pools", _) => ": write [pools.NAME]".to_owned(),
        // An item of a list.
        _ if path.contains('[') => String::new(),
        (_, ValueKind::Boolean(false)) => format!(": leave it out, or write [{path}]"),
        _ => format!(": write [{path}]"),
    }
}

/// Parses a scalar and notes what is wrong with it.
pub(super) fn parse<T: SettingValue>(path: &str, value: &Value, context: &ReadContext) -> Option<T> {
    match scalar(value) {
        Some(text) => match T::parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(takes) => {
                context.problem(path, format!("got {}, takes {takes}", got(path, value)));
                None
            }
        },
        None => {
            // Only plain text accepts an empty text, so the error about an empty text names what the key expects.
            let takes = T::parse("").err().unwrap_or_else(|| "a single value".to_owned());
            context.problem(path, format!("got {}, takes {takes}", shown(value)));
            None
        }
    }
}

/// A value as an error shows it, unless its key holds a secret.
fn got(path: &str, value: &Value) -> String {
    if is_secret(path) { "a value not shown".to_owned() } else { shown(value) }
}

fn is_secret(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or_default();
    key.starts_with("secrets[") || key.ends_with("token") || path.contains(".health.headers")
}

/// A scalar in its written form. Variables and flags are strings, so a string stands for any scalar.
fn scalar(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Boolean(b) => Some(b.to_string()),
        ValueKind::I64(n) => Some(n.to_string()),
        ValueKind::I128(n) => Some(n.to_string()),
        ValueKind::U64(n) => Some(n.to_string()),
        ValueKind::U128(n) => Some(n.to_string()),
        ValueKind::Float(n) => Some(n.to_string()),
        ValueKind::String(text) => Some(text.clone()),
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
    }
}

/// A value as an error shows it, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) if text.chars().count() > 80 => {
            format!("{:?}…", text.chars().take(80).collect::<String>())
        }
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::Nil => "nothing".to_owned(),
        _ => scalar(value).unwrap_or_default(),
    }
}
