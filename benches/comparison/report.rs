//! The results as Markdown.

use std::fmt::Write;

use crate::bounds::{self, Bound};
use crate::machine::Facts;
use crate::memory::ListenerProtocol;
use crate::results::Results;
use crate::rows::{ROWS, Sample};
use crate::servers::Kind;

/// Everything: facts, tables, notes, bounds.
pub fn markdown(facts: &Facts, results: &Results) -> String {
    let mut text = String::new();
    for (name, what) in &facts.lines {
        let _ = writeln!(text, "- {name}: {what}");
    }
    let tables =
        [rows(results), calls(results), memory(results), notes(results), bounds(&bounds::of(results))];
    for table in tables.into_iter().filter(|table| !table.is_empty()) {
        let _ = write!(text, "\n{table}");
    }
    text
}

fn rows(results: &Results) -> String {
    let mut text = String::new();
    for name in results.rows() {
        let Some(row) = ROWS.iter().find(|row| row.name == name) else { continue };
        let best = results.best_peer(name);
        let _ = writeln!(
            text,
            "**{name}**: {}\n\n\
             | server | requests/s | processor µs/request (min–max) | of a core | p50 µs | p99 µs | p99.9 µs | calls/request | of best peer | of bare loop |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
            row.what
        );
        for kind in Kind::ALL {
            let figure = |figure: fn(&Sample) -> f64| results.median(name, kind, figure);
            let Some(processor) = figure(|sample| sample.processor) else { continue };
            let each = results.figures(name, kind, |sample| sample.processor);
            let (least, most) = each
                .iter()
                .fold((f64::MAX, 0.0_f64), |(least, most), each| (least.min(*each), most.max(*each)));
            let ratio = |to| results.ratio((name, kind), (name, to));
            let _ = writeln!(
                text,
                "| {kind} | {} | {processor:.2} ({least:.2}–{most:.2}) | {} | {} | {} | {} | {} | {} | {} |",
                shown(figure(|sample| sample.per_second), 0),
                shown(figure(|sample| sample.per_second * sample.processor / 1e6), 2),
                shown(figure(|sample| sample.p50), 0),
                shown(figure(|sample| sample.p99), 0),
                shown(figure(|sample| sample.p999), 0),
                shown(results.calls_per_answer(name, kind), 2),
                shown(best.and_then(ratio), 2),
                shown(ratio(Kind::Bare), 2),
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len() + 1);
    text
}

/// Which calls they are, in the rows without TLS.
fn calls(results: &Results) -> String {
    if results.calls.is_empty() {
        return String::new();
    }
    let mut text =
        "System calls of a request by name, where there are 0.01 or more:\n\n| row | server | calls |\n| --- | --- | --- |\n"
            .to_owned();
    for row in results.rows() {
        for kind in Kind::ALL {
            let Some((calls, answers)) = results.calls.get(&(row, kind)) else { continue };
            let mut calls: Vec<_> =
                calls.iter().map(|(name, count)| (name, *count as f64 / (*answers).max(1) as f64)).collect();
            calls.sort_by(|(_, one), (_, other)| other.total_cmp(one));
            let words: Vec<_> = calls
                .into_iter()
                .filter(|(_, share)| *share >= 0.01)
                .map(|(name, share)| format!("{name} {share:.2}"))
                .collect();
            let _ = writeln!(text, "| {row} | {kind} | {} |", words.join(", "));
        }
    }
    text
}

fn memory(results: &Results) -> String {
    if results.memory.is_empty() {
        return String::new();
    }
    let mut text =
        "Resident memory of a connection that was answered once and waits, bytes:\n\n| server |".to_owned();
    for speaks in ListenerProtocol::ALL {
        let _ = write!(text, " {} |", speaks.name());
    }
    text += "\n| --- | --: | --: | --: |\n";
    for kind in Kind::ALL {
        let figure = |speaks| results.memory.get(&(kind, speaks)).copied();
        if ListenerProtocol::ALL.into_iter().all(|speaks| figure(speaks).is_none()) {
            continue;
        }
        let _ = write!(text, "| {kind} |");
        for speaks in ListenerProtocol::ALL {
            let _ = write!(text, " {} |", shown(figure(speaks), 0));
        }
        text.push('\n');
    }
    text
}

fn notes(results: &Results) -> String {
    if results.notes.is_empty() {
        return String::new();
    }
    let lines: String = results.notes.iter().map(|note| format!("- {note}\n")).collect();
    format!("Notes:\n\n{lines}")
}

fn bounds(bounds: &[Bound]) -> String {
    let mut text = "| bound | at most | figure | |\n| --- | --: | --: | --- |\n".to_owned();
    for bound in bounds {
        let Bound { what, figure, most, unit } = bound;
        let figure = figure.map_or("–".to_owned(), |figure| format!("{figure:.3}{unit}"));
        let _ = writeln!(text, "| {what} | {most}{unit} | {figure} | {} |", bound.verdict());
    }
    text
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("–".to_owned(), |figure| format!("{figure:.digits$}"))
}
