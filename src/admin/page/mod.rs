//! `GET /`: the status page, for people.
//!
//! All figures are in the HTML, so that it is readable without scripts; the script keeps them fresh by the API,
//! draws charts, and sends changes.
//!
//! # Trust
//! What settings say of pools and backends is escaped by the template, and set as text by the script. The content
//! security policy lets nothing run, load or be framed but what this listener serves itself. A token is kept in the
//! script's memory alone.

use std::hash::Hasher as _;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, REFERRER_POLICY, X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};

use super::AdminContext;
use super::problem::Problem;
use super::view::{Changes, Overview, StrategyView};
use crate::fleet::{EffectiveState, Priority};
use crate::metrics::LoadSource;
use crate::util::fairness::Measure;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'";

/// What the page needs beside itself.
const ASSETS: [Asset; 3] = [
    Asset { file: "page.css", kind: "text/css; charset=utf-8", text: include_str!("page.css") },
    Asset { file: "page.js", kind: "text/javascript; charset=utf-8", text: include_str!("page.js") },
    Asset { file: "icon.svg", kind: "image/svg+xml", text: include_str!("icon.svg") },
];

struct Asset {
    file: &'static str,
    kind: &'static str,
    text: &'static str,
}

#[derive(Template)]
#[template(path = "status.html", config = "src/admin/page/askama.toml")]
struct Page<'a> {
    overview: Overview<'a>,
}

/// `GET /`
pub(super) async fn page(
    State(shown): State<AdminContext>,
    Extension(changes): Extension<Changes>,
) -> Response {
    let fleet = shown.fleet.load_full();
    match (Page { overview: Overview::of(&shown, changes, &fleet) }).render() {
        Ok(html) => {
            let headers = [
                (CONTENT_TYPE, "text/html; charset=utf-8"),
                (CONTENT_SECURITY_POLICY, POLICY),
                (REFERRER_POLICY, "no-referrer"),
                (X_FRAME_OPTIONS, "DENY"),
                (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            ];
            (headers, html).into_response()
        }
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `GET /assets/{file}`
pub(super) async fn asset(
    file: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(file) = file?;
    let Some(asset) = ASSETS.iter().find(|asset| asset.file == file) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the status page has no such file"));
    };
    let tag = asset.tag();
    // Asked for each time and answered mostly without a body, so that a page never meets another version's script.
    let caching = [(CACHE_CONTROL, HeaderValue::from_static("no-cache")), (ETAG, tag.clone())];
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|field| field.to_str().ok());
    Ok(match known.flat_map(|field| field.split(',')).any(|known| known.trim() == tag) {
        true => (StatusCode::NOT_MODIFIED, caching).into_response(),
        false => (caching, [(CONTENT_TYPE, asset.kind)], asset.text).into_response(),
    })
}

impl Asset {
    /// Changes with the text. O(its length), which is some twenty kilobytes.
    fn tag(&self) -> HeaderValue {
        let mut hash = fnv::FnvHasher::default();
        hash.write(self.text.as_bytes());
        HeaderValue::from_str(&format!("\"{:016x}\"", hash.finish()))
            .unwrap_or(HeaderValue::from_static("\"\""))
    }
}
