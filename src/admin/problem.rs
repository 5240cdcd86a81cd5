//! What went wrong, for a program: `application/problem+json`, RFC 9457.

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer of the API that is an error.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// One line each, where there are several.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct ProblemDocument<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    problems: &'a [String],
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), problems: Vec::new() }
    }

    pub(super) fn with_problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "the path has escapes that are no UTF-8")
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        let detail = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is too large, takes 64 KiB at most",
            _ => "the body can't be read to its end",
        };
        Self::new(rejection.status(), detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            problems: &self.problems,
        };
        // Strings and numbers always serialize.
        let body = serde_json::to_string(&document).unwrap_or_default();
        (self.status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
