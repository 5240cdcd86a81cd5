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
    let bare = |text: &str| text.replace('_', "");
    let keys = known_keys();
    let keys = keys.iter().map(|key| key.replacen("pools.NAME.", &format!("pools.{DEFAULT_POOL}."), 1));
    let variables: Vec<_> = keys.map(|key| of_key(&key)).collect();
    let after_prefix = |variable: &str| bare(variable.trim_start_matches("SIGNPOST_"));
    let wanted = bare(rest);
    // The whole path of the key, or the end of it.
    let is_end = |variable: &str| {
        let mut end = String::new();
        variable.trim_start_matches("SIGNPOST_").rsplit("__").any(|part| {
            end.insert_str(0, &bare(part));
            end == wanted
        })
    };
    let ends = variables.iter().filter(|variable| is_end(variable));
    let end = ends.min_by_key(|variable| variable.matches("__").count());
    let scored = || {
        let scores =
            variables.iter().map(|known| (strsim::jaro_winkler(&wanted, &after_prefix(known)), known));
        let near = scores.filter(|(score, _)| *score >= 0.9);
        near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
    };
    end.or_else(scored).cloned()
}
