//! What came of a comparison, as text.

use std::fmt::Write;

use super::{Compared, Spread};

/// A table in Markdown. Load and dispatches are told apart: what is even in one may be uneven in the other.
pub fn table(compared: &[Compared]) -> String {
    let mut rows = vec![
        [
            "strategy",
            "load: highest over mean",
            "lowest to highest seed",
            "variation",
            "Jain",
            "dispatches: highest over mean",
            "lost",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for of in compared {
        let figure = |spread: &Option<Spread>, figure: fn(&Spread) -> String| {
            spread.as_ref().map_or_else(|| "-".to_owned(), figure)
        };
        rows.push(vec![
            of.strategy.to_owned(),
            figure(&of.load, |spread| format!("{:.4}", spread.mean.highest_over_mean)),
            figure(&of.load, |spread| format!("{:.4} to {:.4}", spread.lowest, spread.highest)),
            figure(&of.load, |spread| format!("{:.4}", spread.mean.variation)),
            figure(&of.load, |spread| format!("{:.4}", spread.mean.jain)),
            figure(&of.dispatches, |spread| format!("{:.4}", spread.mean.highest_over_mean)),
            of.lost.to_string(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, &width) in row.iter().zip(&widths) {
            // Writing to a string can't fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}
