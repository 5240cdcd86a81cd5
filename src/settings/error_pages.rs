//! `error_pages`: HTML files in place of the plain text of an error, of a pool or of the server.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::StatusCode;
use serde::Serializer;

use super::reader::Section;
use crate::fleet::ErrorPages;
use crate::os::files;

/// The most bytes of a page.
const LONGEST: u64 = 64 << 10;

/// The page of one status.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorPage {
    /// The status.
    pub status: StatusCode,
    /// Where it was read from.
    pub file: PathBuf,
    /// What was read.
    pub html: Bytes,
}

/// Prints pages as a table of files.
pub(super) fn as_table<S: Serializer>(pages: &[ErrorPage], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pages.iter().map(|page| (page.status.as_str(), &page.file)))
}

/// Reads the table and every file in it. A pool has no page for a status that means that there is no pool.
pub(super) fn read(section: Section<'_>, is_of_pool: bool) -> Vec<ErrorPage> {
    let context = section.context();
    let fits = |status: &StatusCode| !is_of_pool || !ErrorPages::WITHOUT_POOL.contains(status);
    let statuses: Vec<_> = ErrorPages::STATUSES.into_iter().filter(fits).collect();
    let mut pages = Vec::new();
    for (key, name, file) in section.named_files() {
        let Some(&status) = statuses.iter().find(|status| status.as_str() == name) else {
            let list = statuses.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(", ");
            let without = ErrorPages::WITHOUT_POOL.iter().any(|status| status.as_str() == name);
            let hint = if without {
                "; that one has no pool, so its page is one of [server.error_pages]"
            } else {
                ""
            };
            context.problem(&key, format!("got {name:?}, takes a status that a pool or the server rejects requests with: {list}{hint}"));
            continue;
        };
        let Some(file) = file else { continue };
        match read_page(&file) {
            Ok(html) => pages.push(ErrorPage { status, file, html }),
            Err(why) => context.problem(&key, format!("{}: {why}", file.display())),
        }
    }
    pages
}

fn read_page(file: &Path) -> Result<Bytes, String> {
    let html = files::read_first(file, LONGEST + 1).map_err(|error| format!("can't be read: {error}"))?;
    if html.is_empty() {
        Err("it is empty, takes a file with HTML".to_owned())
    } else if html.len() as u64 > LONGEST {
        Err(format!("it has more than {} KiB, takes less", LONGEST >> 10))
    } else if std::str::from_utf8(&html).is_err() {
        Err("it is not valid UTF-8".to_owned())
    } else {
        Ok(html.into())
    }
}
