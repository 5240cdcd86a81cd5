//! HTML pages in place of the plain text of an error.

use bytes::Bytes;
use http::StatusCode;

/// The page of each status that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages(Box<[(StatusCode, Bytes)]>);

impl ErrorPages {
    /// The statuses that a rejected request may get, in order. A head that can't be read (400, 431) gets no page.
    pub const STATUSES: [StatusCode; 9] = [
        StatusCode::BAD_REQUEST,
        StatusCode::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED,
        StatusCode::URI_TOO_LONG,
        StatusCode::MISDIRECTED_REQUEST,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    /// Those of them that mean that there is no pool.
    pub const WITHOUT_POOL: [StatusCode; 2] = [StatusCode::NOT_FOUND, StatusCode::MISDIRECTED_REQUEST];

    /// Each status once.
    pub fn new(pages: impl IntoIterator<Item = (StatusCode, Bytes)>) -> Self {
        Self(pages.into_iter().collect())
    }

    /// The page of a status. O(number of pages).
    pub fn get(&self, status: StatusCode) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| *known == status).map(|(_, page)| page)
    }
}
