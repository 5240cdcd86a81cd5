//! Environment variables: which one sets which key, and which are not read.

use std::ffi::OsString;

use super::known_keys;

/// The prefix of every variable that is a path into the settings.
pub(super) const PREFIX: &str = "SIGNPOST__";
/// The one short variable.
pub(super) const BACKENDS: &str = "SIGNPOST_BACKENDS";
/// What the origin of a value begins with that comes from a variable.
pub(super) const VARIABLE: &str = "environment variable ";
/// The pool that `--backend`, `--strategy`, `--pin` and [`BACKENDS`] are about.
pub(super) const DEFAULT_POOL: &str = "default";

/// Returns the variable of a key.
pub(super) fn of_key(key: &str) -> String {
    match key.strip_prefix("pools.").and_then(|rest| rest.strip_prefix(DEFAULT_POOL)) {
        Some(".backends") => BACKENDS.to_owned(),
        _ => PREFIX.to_owned() + &key.to_ascii_uppercase().replace('.', "__"),
    }
}

/// A key that can be set.
pub(super) struct KnownKey {
    /// Its path.
    pub(super) path: String,
    /// Whether it is a table, which no variable or flag can set.
    pub(super) is_table: bool,
}

/// Returns the variable of a key that a variable can set; of a table, those of its keys.
pub(super) fn of_known(key: &KnownKey, known: &[KnownKey]) -> Option<String> {
    if !key.is_table {
        return Some(of_key(&key.path));
    }
    let values = known.iter().filter(|other| !other.is_table);
    let inside = values.filter_map(|other| other.path.strip_prefix(&key.path)?.strip_prefix('.'));
    let names: Vec<_> = inside.filter(|rest| !rest.contains('.')).map(str::to_ascii_uppercase).collect();
    (!names.is_empty()).then(|| format!("{}__… ({})", of_key(&key.path), names.join(", ")))
}

/// Returns a key or a variable without its separators.
pub(super) fn bare(text: &str) -> String {
    text.to_ascii_uppercase().replace(['_', '.'], "")
}

/// Returns a warning for each variable that begins with `SIGNPOST_` and is not read, except for those that
/// Kubernetes adds for a service of such a name.
pub(super) fn unread(environment: &[(OsString, OsString)]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, value) in environment {
        let (Some(name), value) = (name.to_str(), value.to_string_lossy()) else { continue };
        let upper = name.to_ascii_uppercase();
        let Some(rest) = upper.strip_prefix("SIGNPOST_") else { continue };
        if name.starts_with(PREFIX) || name == BACKENDS || is_of_kubernetes(rest, &value) {
            continue;
        }
        let near = match nearest_variable(rest) {
            Some(near) => format!(" (did you mean {near}?)"),
            None => format!(" (settings are {PREFIX}SECTION__KEY and {BACKENDS})"),
        };
        warnings.push(format!("{name}: this environment variable is not read{near}"));
    }
    warnings.sort();
    warnings
}

/// Whether the variable `SIGNPOST_{rest}` is one of those that Kubernetes, and Docker before it, adds for a service
/// whose name begins with "signpost": `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`, which is a URL, and
/// `…_PORT_80_TCP[_PROTO|_PORT|_ADDR]`.
fn is_of_kubernetes(rest: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    // The name of the service may go on, and so may the name of one of its ports.
    let rest = format!("_{rest}");
    let is_url = value
        .split_once("://")
        .is_some_and(|(protocol, _)| PROTOCOLS.contains(&protocol.to_ascii_uppercase().as_str()));
    let of_port = |port: &str| {
        let mut parts = port.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || (rest.ends_with("_PORT") && is_url)
        || rest.split("_PORT_").skip(1).any(of_port)
}

/// Returns the variable that `SIGNPOST_{rest}` was most likely meant to be.
fn nearest_variable(rest: &str) -> Option<String> {
    let known = known_keys(DEFAULT_POOL);
    let wanted = bare(rest);
    // The whole path of the key, or the end of it.
    let is_end = |key: &&KnownKey| {
        let mut end = String::new();
        key.path.rsplit('.').any(|part| {
            end.insert_str(0, &bare(part));
            end == wanted
        })
    };
    let end = known.iter().filter(is_end).min_by_key(|key| key.path.matches('.').count());
    let scored = || {
        let score = |key: &KnownKey| {
            strsim::jaro_winkler(&wanted, &bare(of_key(&key.path).trim_start_matches("SIGNPOST_")))
        };
        let scores = known.iter().map(|key| (score(key), key));
        let near = scores.filter(|(score, _)| *score >= 0.9);
        near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, key)| key)
    };
    of_known(end.or_else(scored)?, &known)
}
