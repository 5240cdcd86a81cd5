//! Who may read the API, and who may change something by it.
//!
//! # Trust
//! A listener on loopback is reached by every web page that the operator has open: a page can send requests to
//! `127.0.0.1`, and with a name that resolves there it can even read the answers (Caddy's CVE-2026-27589 was
//! the first of these, DNS rebinding is the second). So `Host` must be an address, `localhost` or a name from
//! the settings, and a change must not come from another site's page, nor from the same host by another scheme: the
//! admin listener speaks plain HTTP, and who serves `https://` on its host is somebody else, unless the browser itself
//! says `Sec-Fetch-Site: same-origin`, as it does when a proxy in front adds TLS. No field that access depends on may
//! be there twice: a proxy may have looked at the other one. A token is compared in constant time; off
//! loopback there is no change without one. Backends push their load with a token of their own: every one of them has
//! it, so it opens nothing else, and the admin's does not stand in for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use super::view::Changes;
use super::{API_BASE, LOAD};
use crate::fleet::Host;
use crate::settings::{AdminSettings, HostPattern, Secret};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the settings say of who may do what.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<AccessRules>);

#[derive(Debug)]
struct AccessRules {
    /// Names besides addresses and `localhost`.
    hosts: Vec<HostPattern>,
    /// For changes by the operator.
    admin: AccessToken,
    /// For backends that push their load.
    load: AccessToken,
    on_loopback: bool,
}

/// What must be shown for some of the changes.
#[derive(Debug)]
struct AccessToken {
    /// A hash of the token: of one length whatever the token's.
    token: Option<[u8; 32]>,
    /// What is told who has none, and none is set.
    none: &'static str,
    /// What is told who does not show it.
    wrong: &'static str,
}

impl Guard {
    pub(super) fn new(settings: &AdminSettings, address: SocketAddr) -> Self {
        let hash = |token: &Option<Secret>| token.as_ref().map(|token| Sha256::digest(token.expose()).into());
        Self(Arc::new(AccessRules {
            hosts: settings.allowed_hosts.clone(),
            admin: AccessToken {
                token: hash(&settings.token),
                none: "changes need admin.token where the listener is not on loopback",
                wrong: "changes need the admin token as a bearer token",
            },
            load: AccessToken {
                token: hash(&settings.load_token),
                none: "pushes need admin.load_token where the listener is not on loopback",
                wrong: "pushes need the load token as a bearer token",
            },
            on_loopback: address.ip().is_loopback(),
        }))
    }
}

/// Lets a request of the API through, or says why not.
/// What is behind it finds [`Changes`] among the request's extensions.
pub(super) async fn guard(State(Guard(rules)): State<Guard>, mut request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let path =
        request.extensions().get::<MatchedPath>().and_then(|path| path.as_str().strip_prefix(API_BASE));
    let key = if path == Some(LOAD) { &rules.load } else { &rules.admin };
    let verdict = CredentialFields::read(request.headers()).and_then(|fields| {
        rules.host(&fields)?;
        if changes { rules.change(&fields, request.headers(), key) } else { Ok(()) }
    });
    match verdict {
        Ok(()) => {
            request.extensions_mut().insert(rules.changes());
            next.run(request).await
        }
        Err(problem) => {
            let mut answer = problem.into_response();
            if answer.status() == StatusCode::UNAUTHORIZED {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            answer
        }
    }
}

impl AccessRules {
    /// Whether changes are taken.
    fn changes(&self) -> Changes {
        match (&self.admin.token, self.on_loopback) {
            (Some(_), _) => Changes::Token,
            (None, true) => Changes::Open,
            (None, false) => Changes::Refused,
        }
    }

    fn host(&self, fields: &CredentialFields<'_>) -> Result<(), Problem> {
        let text = fields.host.and_then(|host| host.to_str().ok());
        let name = text.and_then(|text| Some(&text[..Host::parse(text.as_bytes())?.name.len()]));
        let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let name =
            name.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "the request's Host is not valid"))?;
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let asked = HostPattern::Exact(name);
        let known = asked == HostPattern::Exact("localhost".to_owned())
            || self.hosts.iter().any(|pattern| pattern.overlaps(&asked));
        if is_address || known {
            Ok(())
        } else {
            Err(Problem::new(StatusCode::FORBIDDEN, "this Host is not among admin.allowed_hosts"))
        }
    }

    fn change(
        &self,
        fields: &CredentialFields<'_>,
        headers: &HeaderMap,
        key: &AccessToken,
    ) -> Result<(), Problem> {
        let forbidden = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
        let site = fields.site.map(HeaderValue::as_bytes);
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return forbidden("a web page of another site may not change anything here");
        }
        if !fields.origin.is_none_or(|origin| same_origin(origin, fields)) {
            return forbidden("a web page of another origin may not change anything here");
        }
        let has_body = headers.contains_key("transfer-encoding")
            || headers.get("content-length").is_some_and(|length| length != "0");
        let kind = fields.content_type.and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if has_body && !kind.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be application/json",
            ));
        }
        match &key.token {
            None if self.on_loopback => Ok(()),
            None => forbidden(key.none),
            Some(token) => {
                let given = fields.authorization.and_then(bearer).map(Sha256::digest);
                if given.is_some_and(|given| bool::from(given.as_slice().ct_eq(token))) {
                    Ok(())
                } else {
                    Err(Problem::new(StatusCode::UNAUTHORIZED, key.wrong))
                }
            }
        }
    }
}

/// The fields that access depends on.
struct CredentialFields<'a> {
    host: Option<&'a HeaderValue>,
    origin: Option<&'a HeaderValue>,
    site: Option<&'a HeaderValue>,
    authorization: Option<&'a HeaderValue>,
    content_type: Option<&'a HeaderValue>,
}

impl<'a> CredentialFields<'a> {
    /// Returns the one value of each.
    ///
    /// # Errors
    /// The request has one of them twice.
    fn read(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let one = |name: HeaderName| {
            let mut values = headers.get_all(&name).iter();
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                (_, Some(_)) => {
                    let detail = format!("the request has more than one {name} field");
                    Err(Problem::new(StatusCode::BAD_REQUEST, detail))
                }
            }
        };
        Ok(Self {
            host: one(HOST)?,
            origin: one(ORIGIN)?,
            site: one(SEC_FETCH_SITE)?,
            authorization: one(AUTHORIZATION)?,
            content_type: one(CONTENT_TYPE)?,
        })
    }
}

/// Whether an `Origin` is the one this request was sent to: the same host and port, by plain HTTP, or by HTTPS if the
/// browser says that it is the same origin.
fn same_origin(origin: &HeaderValue, fields: &CredentialFields<'_>) -> bool {
    let (origin, host) = (origin.to_str().ok(), fields.host.and_then(|host| host.to_str().ok()));
    let Some(((scheme, authority), host)) = origin.and_then(|origin| origin.split_once("://")).zip(host)
    else {
        return false;
    };
    let is_vouched_for = fields.site.is_some_and(|site| site == "same-origin");
    let scheme_fits =
        scheme.eq_ignore_ascii_case("http") || (scheme.eq_ignore_ascii_case("https") && is_vouched_for);
    scheme_fits && authority.eq_ignore_ascii_case(host)
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
