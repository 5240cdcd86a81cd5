//! `/metrics`: requests that come together share one text.
//!
//! A text takes milliseconds on the thread that also answers `/healthz`. So it is made once for all requests that have
//! come until then, and never before a request: what has happened before the request is in it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;

use super::AdminContext;

/// The requests that wait for the next text. Cheap to clone: clones share it.
#[derive(Clone, Debug, Default)]
pub struct Scrapes(Arc<Mutex<Vec<oneshot::Sender<Option<Bytes>>>>>);

impl Scrapes {
    /// Adds a request; whether it is the first.
    fn add(&self, request: oneshot::Sender<Option<Bytes>>) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(request);
        waiting.len() == 1
    }

    fn take(&self) -> Vec<oneshot::Sender<Option<Bytes>>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(shown): State<AdminContext>) -> Response {
    let (request, text) = oneshot::channel();
    if shown.scrapes.add(request) {
        // A task of its own, because the connection of the first request may be closed before the text is made.
        tokio::spawn(async move {
            // Requests that have come already are read first.
            tokio::task::yield_now().await;
            let waiting = shown.scrapes.take();
            let text = shown.registry.text().map(Bytes::from);
            if let Err(error) = &text {
                tracing::error!(%error, "metrics can't be shown");
            }
            for request in waiting {
                // It fails if the connection was closed in the meantime.
                let _ = request.send(text.as_ref().ok().cloned());
            }
        });
    }
    match text.await {
        Ok(Some(text)) => {
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Ok(None) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be shown; see the log\n").into_response()
        }
    }
}
