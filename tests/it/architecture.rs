//! Holds what ARCHITECTURE.md says of imports, by reading the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules from the top down, each with those it may import from.
const MAY_IMPORT: [(&str, &[&str]); 27] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "output",
            "os",
            "run",
            "takeover",
            "server",
            "settings",
            "telemetry",
            "admin",
            "simulate",
            "strategy",
        ],
    ),
    ("embed", &["control", "control_plane", "dispatch", "metrics", "readiness", "request", "settings"]),
    ("simulate", &["settings", "strategy", "estimate", "util"]),
    (
        "run",
        &[
            "takeover",
            "server",
            "admin",
            "overrides",
            "readiness",
            "control",
            "control_plane",
            "health",
            "os",
            "dispatch",
            "request",
            "util",
            "certificates",
            "metrics",
            "fleet",
            "settings",
            "telemetry",
        ],
    ),
    ("takeover", &["os", "server", "overrides", "control", "metrics", "fleet"]),
    (
        "admin",
        &[
            "server",
            "overrides",
            "readiness",
            "control",
            "os",
            "load",
            "request",
            "estimate",
            "metrics",
            "fleet",
            "strategy",
            "util",
            "settings",
        ],
    ),
    ("server", &["os", "dispatch", "request", "certificates", "metrics", "fleet", "settings", "util"]),
    ("overrides", &["control", "metrics", "os", "fleet"]),
    (
        "control_plane",
        &["compare", "control", "dispatch", "health", "metrics", "readiness", "request", "settings", "util"],
    ),
    ("telemetry", &["output", "dispatch", "settings"]),
    ("health", &["os", "control", "load", "estimate", "metrics", "fleet", "settings"]),
    ("control", &["os", "metrics", "settings", "load", "estimate", "fleet", "strategy", "util"]),
    ("load", &["estimate", "metrics", "fleet", "settings"]),
    ("compare", &["metrics", "fleet", "strategy", "util"]),
    ("dispatch", &["request", "readiness", "util", "metrics", "fleet", "strategy", "output"]),
    ("readiness", &[]),
    ("metrics", &["request", "certificates", "estimate", "fleet", "strategy", "util"]),
    ("request", &["fleet", "strategy", "util"]),
    ("settings", &["certificates", "os", "fleet", "strategy", "util"]),
    ("certificates", &["os"]),
    ("fleet", &["util", "estimate", "strategy"]),
    ("strategy", &["util", "estimate"]),
    ("estimate", &["util"]),
    ("util", &[]),
    ("output", &[]),
    ("os", &[]),
];

/// What the pure core may not know.
const NOT_PURE: [&str; 8] =
    ["tokio", "axum", "hyper", "tower", "tracing", "prometheus", "std::net::Tcp", "std::time::Instant"];

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    let module = |path: &Path| {
        let first = path.strip_prefix(&src).unwrap().iter().next().unwrap().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    };
    found
        .into_iter()
        .map(|path| (module(&path), path.clone(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The code without comments and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The top-level modules that code names after `crate::` or `signpost::`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for marker in ["crate::", "signpost::"] {
        for rest in code.split(marker).skip(1) {
            let names = rest.strip_prefix('{').map_or(rest, |list| list.split("};").next().unwrap());
            let names: Vec<_> =
                if names.len() < rest.len() { names.split(',').collect() } else { vec![names] };
            for name in names {
                let end =
                    name.trim().find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.trim().len());
                found.push(name.trim()[..end].to_owned());
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_point_one_way() {
    for (module, path, text) in sources() {
        if module == "lib" {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{module} has no place in the table of imports"));
        for import in imports(&code(&text)) {
            assert!(
                import == module || allowed.contains(&import.as_str()),
                "{} imports {import}",
                path.display()
            );
        }
    }
    // The table itself goes downwards only: a module stands above all that it may import.
    for (at, (module, allowed)) in MAY_IMPORT.iter().enumerate() {
        let above: Vec<_> = MAY_IMPORT[..at].iter().map(|(name, _)| *name).collect();
        let upwards: Vec<_> = allowed.iter().filter(|name| above.contains(name)).collect();
        assert!(upwards.is_empty(), "{module} imports {upwards:?} from above");
    }
}

#[test]
fn the_pure_core_is_pure() {
    for (_, path, text) in
        sources().iter().filter(|(module, ..)| ["fleet", "strategy", "estimate"].contains(&module.as_str()))
    {
        let code = code(text);
        for name in NOT_PURE {
            assert!(!code.contains(name), "{} knows {name}", path.display());
        }
    }
}

#[test]
fn the_hot_path_takes_no_lock_and_awaits_nothing() {
    for (module, path, text) in sources() {
        if ["dispatch", "request", "fleet", "strategy"].contains(&module.as_str()) {
            let code = code(&text);
            for word in ["Mutex", "RwLock", ".await", "async fn", "with_label_values"] {
                assert!(!code.contains(word), "{} has {word}", path.display());
            }
        }
    }
}

/// Elsewhere a write that fails might panic or block.
#[test]
fn only_one_module_writes_to_the_standard_streams() {
    for (module, path, text) in sources() {
        let code = code(&text);
        for stream in ["io::stdout", "io::stderr", "Stdout", "Stderr"] {
            assert!(module == "output" || !code.contains(stream), "{} has {stream}", path.display());
        }
    }
}

#[test]
fn architecture_names_every_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for (_, path, _) in sources() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            text.contains(name),
            "{} is not in ARCHITECTURE.md",
            path.strip_prefix(root).unwrap().display()
        );
    }
}

#[test]
fn the_project_speaks_of_no_machine() {
    for (_, path, text) in sources() {
        for word in ["/root/", "/home/", concat!("/wo", "rk/")] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

/// Names that the field has better words for, which no file or folder bears again.
const FORMER_NAMES: [&str; 45] = [
    "activation",
    "answer",
    "slots",
    "asked",
    "basis",
    "bound",
    "choose",
    "collector",
    "crowd",
    "cycle",
    "descriptors",
    "forwarded",
    "front",
    "fronts",
    "hashed",
    "head",
    "imbalance",
    "inherited",
    "keeper",
    "kept",
    "kernel",
    "learner",
    "life",
    "listed",
    "loads",
    "meter",
    "notify",
    "offer",
    "operated",
    "picks",
    "pins_policy",
    "proxied",
    "proxies",
    "queue",
    "recent",
    "roll",
    "room",
    "slab",
    "slots",
    "standing",
    "survive",
    "told",
    "turns",
    "versus",
    "vitals",
];

#[test]
fn no_file_has_a_former_name() {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            }
            found.push(path);
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    ["src", "tests", "benches"].iter().for_each(|dir| walk(&root.join(dir), &mut found));
    for path in found {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !FORMER_NAMES.contains(&stem),
            "{} has a former name",
            path.strip_prefix(root).unwrap().display()
        );
    }
}

#[test]
fn a_type_name_stands_for_one_thing() {
    let mut declared: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (_, path, text) in sources() {
        for line in code(&text).lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("pub").map_or(line, |rest| {
                rest.split_once(") ")
                    .filter(|_| rest.starts_with('('))
                    .map_or(rest, |(_, rest)| rest)
                    .trim_start()
            });
            let kinds = ["struct ", "enum ", "trait ", "union "];
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
            if let Some(other) = declared.insert(name.clone(), path.clone()) {
                panic!("{name} is a type of {} and of {}", other.display(), path.display());
            }
        }
    }
    assert!(declared.len() > 200, "types are found");
}

/// The modules of a file's imports, by the paths that it names from `crate`, `self` and `super`.
fn named_modules(module: &str, code: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (marker, base) in [
        ("crate::", Vec::new()),
        ("self::", module.split("::").collect()),
        ("super::", module.split("::").collect::<Vec<_>>()[..module.split("::").count() - 1].to_vec()),
    ] {
        for (at, _) in code.match_indices(marker) {
            let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            if code[..at].chars().next_back().is_some_and(is_word) {
                continue;
            }
            let mut base: Vec<&str> = base.clone();
            let mut rest = &code[at + marker.len()..];
            while let Some(further) = rest.strip_prefix("super::") {
                base.pop();
                rest = further;
            }
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let stem = rest[..end].trim_end_matches(':');
            let items = match rest[end..].strip_prefix('{') {
                Some(list) if rest[..end].is_empty() || rest[..end].ends_with(':') => {
                    list.split("};").next().unwrap().split(',').map(str::trim).collect()
                }
                _ => vec![""],
            };
            for item in items {
                let item = item.split(|c: char| !is_word(c)).next().unwrap();
                let path = base.iter().copied().chain(stem.split("::")).chain(item.split("::"));
                let path: Vec<_> = path.filter(|part| !part.is_empty() && *part != "self").collect();
                let longest = (1..=path.len()).rev().map(|length| path[..length].join("::"));
                named.extend(longest.into_iter().find(|path| modules.contains(path)));
            }
        }
    }
    // A folder's own file and the files in the folder are one thing.
    let is_kin = |other: &String| {
        other == module
            || other.starts_with(&format!("{module}::"))
            || module.starts_with(&format!("{other}::"))
    };
    named.retain(|other| !is_kin(other));
    named
}

#[test]
fn files_import_each_other_without_cycles() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeMap<String, String> = sources()
        .into_iter()
        .map(|(_, path, text)| {
            let path = path.strip_prefix(&src).unwrap().with_extension("");
            let path = path.to_str().unwrap().replace('/', "::");
            (path.trim_end_matches("::mod").to_owned(), code(&text))
        })
        .collect();
    let modules: BTreeSet<String> = files.keys().cloned().collect();
    let mut imports: BTreeMap<&str, BTreeSet<String>> =
        files.iter().map(|(module, code)| (module.as_str(), named_modules(module, code, &modules))).collect();
    assert!(imports["run::data_plane"].contains("run::shared_state"), "imports are found");
    // Files that import none of those left can't be part of a cycle.
    loop {
        let left: BTreeSet<String> = imports.keys().map(|module| (*module).to_owned()).collect();
        imports.retain(|_, named| !named.is_disjoint(&left));
        if imports.len() == left.len() {
            break;
        }
    }
    assert!(imports.is_empty(), "these files import each other, or from those that do: {imports:#?}");
}
