//! What came of a comparison, as a page that needs nothing else: no script, no link.

use std::fmt::Write;

use super::{Compared, Point, Scenario};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
/// Room for the numbers of the axes.
const LEFT: f64 = 50.0;
const BELOW: f64 = 22.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1c1e;--back:#fff;--faint:#d8d8dc;--load:#0a62b8;--band:#8fbfeb}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ea;--back:#18181b;--faint:#3c3c42;--load:#7cc0ff;--band:#2a5078}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:60rem;margin:0 auto;padding:1rem}\
svg{width:100%;height:auto}svg text{fill:var(--ink);font:12px system-ui,sans-serif}\
.band{fill:var(--band);stroke:none}.mean{fill:none;stroke:var(--load);stroke-width:1.5}.grid{stroke:var(--faint)}\
div{overflow-x:auto}table{border-collapse:collapse}th,td{text-align:right;padding:.2rem .7rem;border-bottom:1px solid var(--faint)}\
th:first-child,td:first-child{text-align:left}pre{border:1px solid var(--faint);padding:.7rem;overflow-x:auto}";

/// A page with the table, a chart for each strategy, and the scenario. Charts are of the first seed and have one scale.
pub fn page(scenario: &Scenario, compared: &[Compared]) -> String {
    let mut html = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    html.push_str(
        "<meta name=\"viewport\" content=\"width=device-width\"><title>Strategies compared</title>",
    );
    let _ = write!(html, "<style>{STYLE}</style><h1>Strategies compared</h1>");
    html.push_str(
        "<div><table><tr><th>strategy<th>load: highest over mean<th>lowest to highest seed<th>variation<th>Jain\
         <th>dispatches: highest over mean<th>lost</tr>",
    );
    for of in compared {
        let _ = write!(html, "<tr><td>{}", of.strategy);
        match &of.load {
            Some(load) => {
                let mean = &load.mean;
                let _ = write!(
                    html,
                    "<td>{:.4}<td>{:.4} to {:.4}<td>{:.4}<td>{:.4}",
                    mean.highest_over_mean, load.lowest, load.highest, mean.variation, mean.jain
                );
            }
            None => html.push_str("<td>-<td>-<td>-<td>-"),
        }
        let dispatches = of.dispatches.map_or(0.0, |spread| spread.mean.highest_over_mean);
        let _ = write!(html, "<td>{dispatches:.4}<td>{}</tr>", of.lost);
    }
    html.push_str(
        "</table></div><p>Load is utilisation: sessions over capacity. Its figures are means over time; what is even has \
         1, 0 and 1. Dispatches are counted per weight, and are something else than load.</p>",
    );
    let charts = || compared.iter().filter_map(|of| Some((of.strategy, &*of.runs.first()?.points)));
    let top = charts().flat_map(|(_, points)| points).map(|point| point.highest).fold(0.0, f64::max);
    for (strategy, points) in charts() {
        let _ = write!(html, "<h2>{strategy}</h2>");
        chart(&mut html, strategy, points, top);
    }
    html.push_str("<p>The band reaches from the emptiest to the fullest backend, the line is all load over all capacity.</p>");
    let toml = toml::to_string(scenario).unwrap_or_default();
    let _ = write!(html, "<h2>Scenario</h2><pre>{}</pre></html>", escaped(&toml));
    html.push('\n');
    html
}

/// Utilisation over time.
fn chart(html: &mut String, strategy: &str, points: &[Point], top: f64) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    let step = nice(top / 3.0);
    let top = (top / step).ceil().max(1.0) * step;
    let x = |at: f64| LEFT + (at - first.at) / (last.at - first.at).max(1e-9) * WIDTH;
    let y = |level: f64| 8.0 + HEIGHT * (1.0 - level / top);
    let (width, height) = (LEFT + WIDTH + 8.0, 8.0 + HEIGHT + BELOW);
    let _ = write!(
        html,
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Utilisation over time by {strategy}\">"
    );
    let mut level = 0.0;
    while level <= top + step / 2.0 {
        let y = y(level);
        let _ = write!(
            html,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
            LEFT + WIDTH
        );
        let _ = write!(
            html,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            (level * 1e6).round() / 1e6
        );
        level += step;
    }
    for (at, anchor) in [(first.at, "start"), (f64::midpoint(first.at, last.at), "middle"), (last.at, "end")]
    {
        let _ = write!(
            html,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{at:.0} s</text>",
            x(at),
            height - 4.0
        );
    }
    let mut line = |class: &str, points: &mut dyn Iterator<Item = (f64, f64)>| {
        let tag = if class == "band" { "polygon" } else { "polyline" };
        let _ = write!(html, "<{tag} class=\"{class}\" points=\"");
        for (at, level) in points {
            let _ = write!(html, "{:.1},{:.1} ", x(at), y(level));
        }
        html.push_str("\"/>");
    };
    let upper = points.iter().map(|point| (point.at, point.highest));
    let lower = points.iter().rev().map(|point| (point.at, point.lowest));
    line("band", &mut upper.chain(lower));
    line("mean", &mut points.iter().map(|point| (point.at, point.mean)));
    html.push_str("</svg>");
}

/// 1, 2 or 5 times a power of ten, from a number up.
fn nice(number: f64) -> f64 {
    if !(number > 0.0 && number.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(number.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|nice| *nice >= number).unwrap_or(power)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
