//! The processor time of a request as bars, row by row.

use std::fmt::Write;

use crate::results::Results;
use crate::rows::ROWS;
use crate::servers::Kind;

const WIDTH: f64 = 800.0;
/// Where bars begin, and how long the longest is; what is left is for its figure.
const LEFT: f64 = 110.0;
const LONGEST: f64 = 560.0;
const BAR: f64 = 16.0;
const GAP: f64 = 4.0;
const HEADING: f64 = 34.0;

/// A chart whose rows have a scale each, since a handshake takes ten times what a request does.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for name in results.rows() {
        let Some(row) = ROWS.iter().find(|row| row.name == name) else { continue };
        let bars: Vec<_> = Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, results.median(name, kind, |sample| sample.processor)?)))
            .collect();
        let most = bars.iter().map(|(_, figure)| *figure).fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(
            body,
            r#"<text class="row" x="0" y="{:.0}">{name}<tspan class="what" dx="10">{}</tspan></text>"#,
            y + HEADING - 12.0,
            row.what
        );
        y += HEADING;
        for (kind, figure) in bars {
            let length = (LONGEST * figure / most).max(1.0);
            let text = y + BAR - 4.0;
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{text:.0}" text-anchor="end">{kind}</text><rect class="{}" x="{LEFT:.0}" y="{y:.0}" width="{length:.1}" height="{BAR:.0}" rx="2"/><text x="{:.1}" y="{text:.0}">{figure:.1}</text>"#,
                LEFT - 8.0,
                class(kind),
                LEFT + length + 6.0,
            );
            y += BAR + GAP;
        }
    }
    let height = y + 10.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {height:.0}" width="{WIDTH:.0}" height="{height:.0}" role="img">
<title>Processor time of a request in microseconds</title>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #1f2328; }}
.title {{ font-size: 16px; font-weight: 600; }}
.row {{ font-weight: 600; }}
.what {{ font-weight: 400; fill: #59636e; }}
.own {{ fill: #1a7f37; }}
.peer {{ fill: #8c959f; }}
.floor {{ fill: #c8ced6; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #f0f6fc; }}
.what {{ fill: #9198a1; }}
.own {{ fill: #3fb950; }}
.peer {{ fill: #6e7681; }}
.floor {{ fill: #3d444d; }}
}}
</style>
<text class="title" x="0" y="20">Processor time of a request, µs, median; shorter is better; each row has its own scale</text>
{body}</svg>
"##
    )
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Signpost => "own",
        Kind::Nginx | Kind::Haproxy => "peer",
        Kind::Bare => "floor",
    }
}
