//! What a figure is made of, in words.

use std::collections::BTreeMap;

use crate::callgrind::Count;
use crate::profile::{Cost, Profile};
use crate::strace::Calls;

/// The functions by the instructions that they take themselves.
pub fn functions(profile: &Profile) -> Vec<String> {
    sorted(profile, |cost| cost.own)
        .into_iter()
        .map(|(name, cost)| format!("{:7.0} {}", cost.own, short(name)))
        .collect()
}

/// Who allocates, how often, by whom it was called.
pub fn allocations(profile: &Profile) -> Vec<String> {
    let mut lines = BTreeMap::<_, f64>::new();
    for (callers, count) in profile.allocations.iter().filter(|(_, count)| count.abs() > 0.004) {
        *lines.entry(chain(callers)).or_default() += count;
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by(|one, other| other.1.total_cmp(&one.1));
    lines.into_iter().map(|(callers, count)| format!("{count:7.2} {callers}")).collect()
}

/// As many lines as one reads, and how many there are beyond.
pub fn cut(mut lines: Vec<String>) -> Vec<String> {
    const MOST: usize = 24;
    let beyond = lines.split_off(lines.len().min(MOST));
    if !beyond.is_empty() {
        lines.push(format!("        and {} more", beyond.len()));
    }
    lines
}

/// System calls by name.
pub fn calls(calls: &Calls) -> Vec<String> {
    calls.iter().map(|(call, count)| format!("{count:7.2} {call}")).collect()
}

/// Where the instructions of a request go, for BENCHMARKS.md.
pub fn markdown(name: &str, count: &Count, versions: &str) -> String {
    let profile = &count.profile;
    let all = profile.instructions();
    let percent = |part: f64| format!("{:.1} %", part / all * 100.0);
    let mut text = format!(
        "A `{name}` request: {all:.0} instructions in user space (at the most {:.0}, by timers), \
         {:.0} allocations. Counted with {versions}.\n\n\
         By whose code it is; what was inlined counts for the function that it went into.\n\n\
         | instructions | share | of |\n| ---: | ---: | --- |\n",
        count.dearest,
        profile.allocated()
    );
    let mut owners = BTreeMap::<_, f64>::new();
    for (name, cost) in &profile.functions {
        *owners.entry(owner(name)).or_default() += cost.own;
    }
    let mut owners: Vec<_> = owners.into_iter().filter(|(_, own)| own / all >= 0.005).collect();
    owners.sort_by(|one, other| other.1.total_cmp(&one.1));
    for (owner, own) in owners {
        text += &format!("| {own:.0} | {} | {owner} |\n", percent(own));
    }
    text += "\nThe way down: functions with all that they call, from 2 % up.\n\n\
             | with callees | share | own | function |\n| ---: | ---: | ---: | --- |\n";
    for (name, cost) in sorted(profile, |cost| cost.inclusive) {
        // What all goes through is the thread.
        if (0.02..0.999).contains(&(cost.inclusive / all)) {
            let (share, name) = (percent(cost.inclusive), short(name));
            text += &format!("| {:.0} | {share} | {:.0} | `{name}` |\n", cost.inclusive, cost.own);
        }
    }
    text += "\nWho allocates:\n\n";
    for line in allocations(profile) {
        text += &format!("- {}\n", line.trim());
    }
    text
}

fn sorted(profile: &Profile, by: impl Fn(&Cost) -> f64) -> Vec<(&String, &Cost)> {
    let mut functions: Vec<_> = profile.functions.iter().collect();
    functions.sort_by(|one, other| by(other.1).total_cmp(&by(one.1)));
    functions
}

/// Callers, the nearest first, without the standard library's between them.
fn chain(callers: &str) -> String {
    let frames = callers.split('\'').filter(|name| {
        let inner = name.trim_start_matches('<');
        name.starts_with(DROP) || !["alloc::", "core::", "std::"].iter().any(|from| inner.starts_with(from))
    });
    frames.take(4).map(short).collect::<Vec<_>>().join(" ← ")
}

const DROP: &str = "core::ptr::drop_in_place<";

/// A function's name without type parameters, as crate, type and method.
fn short(name: &str) -> String {
    if let Some(dropped) = name.strip_prefix(DROP) {
        return format!("drop of {}", short(dropped.strip_suffix('>').unwrap_or(dropped)));
    }
    let plain = without_parameters(name);
    let parts: Vec<_> = plain.split("::").filter(|part| !part.is_empty() && *part != "{{closure}}").collect();
    match parts[..] {
        [first, .., before, last] => format!("{first}::{before}::{last}"),
        _ => plain,
    }
}

/// `<A<B> as C>::d::<E>` as `A::d`.
fn without_parameters(name: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0;
    // The type in front is no parameter: it is kept up to ` as `.
    let (mut rest, mut of_type) = match name.strip_prefix('<') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    while let Some(letter) = rest.chars().next() {
        if of_type && depth == 0 && rest.starts_with(" as ") {
            (depth, of_type) = (1, false);
        }
        match letter {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            '>' => of_type = false,
            letter if depth == 0 => plain.push(letter),
            _ => {}
        }
        rest = &rest[letter.len_utf8()..];
    }
    plain
}

/// Whose a function is: a module of ours, another crate, a part of the C library.
fn owner(name: &str) -> String {
    let plain = without_parameters(name);
    let parts: Vec<_> = plain.split("::").collect();
    match parts[..] {
        ["signpost", module, ..] => format!("signpost::{module}"),
        [name, _, ..] if !name.is_empty() => name.to_owned(),
        _ if ["malloc", "calloc", "realloc", "free", "mi_", "memalign"]
            .iter()
            .any(|word| name.contains(word)) =>
        {
            "the allocator".to_owned()
        }
        _ if name.contains("mem") => "memcpy and its like".to_owned(),
        _ => "the C library and aws-lc".to_owned(),
    }
}
