//! The tables on the page that people read.

use std::fs;
use std::path::Path;

/// Puts text into BENCHMARKS.md, between the two lines that say where this bench's begins and ends.
pub fn write(bench: &str, text: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("BENCHMARKS.md");
    let [begin, end] = ["begin", "end"].map(|word| format!("<!-- {bench}: {word} -->\n"));
    let old = fs::read_to_string(&page).unwrap();
    let (before, rest) = old.split_once(&begin).expect("the first mark in BENCHMARKS.md");
    let (_, after) = rest.split_once(&end).expect("the second mark in BENCHMARKS.md");
    fs::write(&page, format!("{before}{begin}{text}{end}{after}")).unwrap();
}
