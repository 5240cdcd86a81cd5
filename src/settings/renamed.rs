//! Keys that had another name before the first release.
//!
//! They are not accepted: an error names the present key. Names alone would not find it, because few old names
//! resemble the new ones.

/// Each former key, with the name that it has now in the same table. `NAME` stands for any pool; a list has no indexes.
const RENAMED: [(&str, &str); 14] = [
    ("server.watch", "watch_interval"),
    ("server.forwarded_by", "client_ip_header"),
    ("server.tls.upgrade_listen", "redirect_listen"),
    ("server.tls.upgrade_port", "redirect_port"),
    ("pools.NAME.status_other", "status_non_get"),
    ("pools.NAME.max_rate", "max_requests_per_second"),
    ("pools.NAME.backends.max_rate", "max_requests_per_second"),
    ("pools.NAME.hash.bound", "balance_factor"),
    ("pools.NAME.rotate", "rotation_interval"),
    ("pools.NAME.pin.hold", "grace_period"),
    ("pools.NAME.load.field", "json_pointer"),
    ("pools.NAME.load.expires", "max_age"),
    ("pools.NAME.first.max_utilisation", "max_utilization"),
    ("admin.hosts", "allowed_hosts"),
];

/// Returns the present name of the last part of a former key.
pub(super) fn present_name(path: &str) -> Option<&'static str> {
    let general = general(path);
    RENAMED.iter().find(|(former, _)| *former == general).map(|(_, name)| *name)
}

/// Returns a path with `NAME` for the pool and without the indexes of lists.
fn general(path: &str) -> String {
    let mut parts: Vec<_> = path.split('.').map(|part| part.split('[').next().unwrap_or_default()).collect();
    if let ["pools", pool, ..] = &mut parts[..] {
        *pool = "NAME";
    }
    parts.join(".")
}
