//! `[admin]`: the admin listener, and what its clients must show.

use std::path::PathBuf;

use serde::Serialize;

use super::address::{AdminListenAddress, ListenAddress};
use super::names::{AdminHost, HostPattern};
use super::pool;
use super::reader::Section;
use super::values::Secret;

/// `[admin]`: the listener for the operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdminSettings {
    /// Its address.
    pub listen: ListenAddress,
    /// What a change must show as a bearer token; none: changes on loopback alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds it, instead of `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// What a backend must show as a bearer token to push its load; none: pushes on loopback alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_token: Option<Secret>,
    /// A file that holds it, instead of `load_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_token_file: Option<PathBuf>,
    /// The values of `Host` with which the API accepts requests, besides addresses and `localhost`.
    pub allowed_hosts: Vec<HostPattern>,
    /// The file that keeps operator overrides over a restart; none: they end with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: ListenAddress((std::net::Ipv4Addr::LOCALHOST, 9090).into()),
            token: None,
            token_file: None,
            load_token: None,
            load_token_file: None,
            allowed_hosts: Vec::new(),
            state_file: None,
        }
    }
}

impl AdminSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let token = section.optional("token").into_iter().collect();
        let (tokens, token_file) = pool::or_from_file(&mut section, "token", token, "token_file");
        let load_token = section.optional("load_token").into_iter().collect();
        let (load_tokens, load_token_file) =
            pool::or_from_file(&mut section, "load_token", load_token, "load_token_file");
        for (key, tokens) in [("token_file", &tokens), ("load_token_file", &load_tokens)] {
            if tokens.len() > 1 {
                section.context().problem(
                    &section.key(key),
                    "got a file of several lines, takes one with the token alone",
                );
            }
        }
        let hosts = section.list("allowed_hosts").unwrap_or_default();
        let admin = Self {
            listen: section
                .optional("listen")
                .map_or(Self::default().listen, |AdminListenAddress(listen)| listen),
            token: tokens.into_iter().next(),
            token_file,
            load_token: load_tokens.into_iter().next(),
            load_token_file,
            allowed_hosts: hosts.into_iter().map(|AdminHost(host)| host).collect(),
            state_file: section.path("state_file"),
        };
        section.finish();
        admin
    }
}
