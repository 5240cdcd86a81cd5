//! An axum application with a page of its own, and Signpost behind it.
//!
//! ```text
//! cargo run --example embed
//! curl -i http://127.0.0.1:8080/about     the application's own page
//! curl -i http://127.0.0.1:8080/file      302 to a mirror
//! curl -i http://127.0.0.1:8080/media/a   302 to a media server, /media removed
//! curl -i http://127.0.0.1:8080/metrics   Signpost's metrics
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use signpost::Engine;
use signpost::settings::Settings;

/// The pools of this application. A file does as well: `Settings::load`.
pub const SETTINGS: &str = r#"
    [pools.mirrors]
    strategy = "consistent_hash"
    backends = ["https://mirror1.example.com/pub", "https://mirror2.example.com/pub"]
    health.kind = "none"

    [pools.media]
    hosts = ["media.example.com"]
    pin = {}
    backends = ["https://media1.example.com", "https://media2.example.com"]
    health.kind = "none"
"#;

/// The application: its own routes first, Signpost for the rest.
pub fn app(engine: &Arc<Engine>) -> Router {
    Router::new()
        .route("/about", get("We redirect downloads.\n"))
        .route("/metrics", get(metrics).with_state(Arc::clone(engine)))
        .nest_service("/media", engine.dispatcher())
        .fallback_service(engine.dispatcher())
}

async fn metrics(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    match engine.metrics() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[allow(dead_code)] // A test has its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::from_toml(SETTINGS).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })?;
    let engine = Arc::new(Engine::start(&settings)?);
    engine.ready().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    // With the client's address, by which `consistent_hash` picks.
    axum::serve(listener, app(&engine).into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
