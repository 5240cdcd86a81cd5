//! What came of a comparison, as a page that needs nothing else: no script, no link.

use std::fmt::Write;

use super::{Compared, Point, Scenario};

/// The coordinates of a chart's drawing, which is stretched to the page. Its numbers stand beside it as text of the page,
/// so that they are readable at any width.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1c1e;--back:#fff;--faint:#d8d8dc;--muted:#5c5c66;--load:#0a62b8;--band:#8fbfeb}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ea;--back:#18181b;--faint:#3c3c42;--muted:#a0a0aa;--load:#7cc0ff;--band:#2a5078}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:60rem;margin:0 auto;padding:1rem}\
table{border-collapse:collapse}th,td{text-align:right;padding:.2rem .7rem;border-bottom:1px solid var(--faint)}\
tr>:first-child{text-align:left}pre{border:1px solid var(--faint);padding:.7rem;overflow-x:auto}\
figure{display:grid;grid-template-columns:3rem 1fr;gap:.2rem .5rem;margin:0;font-size:.8125rem}\
figure svg{width:100%;height:9.5rem;overflow:visible}\
.band{fill:var(--band);stroke:none}.mean{fill:none;stroke:var(--load);stroke-width:1.5}.grid{stroke:var(--faint)}\
.grid,.mean{vector-effect:non-scaling-stroke}\
.levels,.times{display:flex;justify-content:space-between}.levels{flex-direction:column;text-align:right}\
.levels span{height:0;line-height:0}.times{grid-column:2}\
@media(max-width:40rem){table,tbody,td{display:block}thead{display:none}\
tr{display:grid;grid-template-columns:1fr 1fr;gap:.5rem 1rem;padding:.7rem 0;border-bottom:1px solid var(--faint)}\
td{padding:0;border:0;text-align:left}td:first-child{grid-column:1/-1;font-weight:600}\
td[data-label]::before{content:attr(data-label);display:block;color:var(--muted);font-size:.8125rem}}";

/// A page with the table, a chart for each strategy, and the scenario. Charts are of the first seed and have one scale.
pub fn page(scenario: &Scenario, compared: &[Compared]) -> String {
    let mut html = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    html.push_str(
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Strategies compared</title>",
    );
    let _ = write!(html, "<style>{STYLE}</style><h1>Strategies compared</h1>");
    let columns = [
        "strategy",
        "load: highest over mean",
        "lowest to highest seed",
        "variation",
        "Jain",
        "dispatches: highest over mean",
        "lost",
    ];
    let _ = write!(html, "<table><thead><tr><th>{}</tr></thead><tbody>", columns.join("<th>"));
    for of in compared {
        let figures = match &of.load {
            Some(load) => {
                let mean = &load.mean;
                [
                    format!("{:.4}", mean.highest_over_mean),
                    format!("{:.4} to {:.4}", load.lowest, load.highest),
                    format!("{:.4}", mean.variation),
                    format!("{:.4}", mean.jain),
                ]
            }
            None => ["-", "-", "-", "-"].map(str::to_owned),
        };
        let dispatches = of.dispatches.map_or(0.0, |spread| spread.mean.highest_over_mean);
        let figures = figures.into_iter().chain([format!("{dispatches:.4}"), of.lost.to_string()]);
        let _ = write!(html, "<tr><td>{}", of.strategy);
        for (column, figure) in columns[1..].iter().zip(figures) {
            let _ = write!(html, "<td data-label=\"{column}\">{figure}");
        }
        html.push_str("</tr>");
    }
    html.push_str(
        "</tbody></table><p>Load is utilization: sessions over capacity. Its figures are means over time; what is even has \
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

/// Utilization over time.
fn chart(html: &mut String, strategy: &str, points: &[Point], top: f64) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    let step = nice(top / 3.0);
    let top = (top / step).ceil().max(1.0) * step;
    let x = |at: f64| (at - first.at) / (last.at - first.at).max(1e-9) * WIDTH;
    let y = |level: f64| HEIGHT * (1.0 - level / top);
    let levels: Vec<f64> = (0..=(top / step).round() as u32).map(|number| f64::from(number) * step).collect();
    html.push_str("<figure><div class=\"levels\">");
    for level in levels.iter().rev() {
        let _ = write!(html, "<span>{}</span>", (level * 1e6).round() / 1e6);
    }
    let _ = write!(
        html,
        "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Utilization over time by {strategy}\">"
    );
    for y in levels.into_iter().map(y) {
        let _ = write!(html, "<line class=\"grid\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
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
    html.push_str("</svg><div class=\"times\">");
    for at in [first.at, f64::midpoint(first.at, last.at), last.at] {
        let _ = write!(html, "<span>{at:.0} s</span>");
    }
    html.push_str("</div></figure>");
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
