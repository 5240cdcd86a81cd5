//! Settings that change while visitors are served.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Connection, OnDrop, Signpost, settings_file};

/// A pool of backends by id, each with its id as path.
fn pool(ids: &[&str], more: &str) -> String {
    let backends: Vec<_> =
        ids.iter().map(|id| format!("{{ id = '{id}', url = 'http://127.0.0.1:9001/{id}' }}")).collect();
    format!("[pools.p]\nbackends = [{}]\n{more}\n", backends.join(","))
}

/// The same, reloaded on SIGHUP alone, with connections that last.
fn unwatched(ids: &[&str], more: &str) -> String {
    let lasting = "[server.limits]\nmax_requests_per_connection = 0\n";
    format!("[server]\nwatch_interval = '0s'\n{lasting}{}", pool(ids, more))
}

fn start(file: &Path) -> Signpost {
    Signpost::start(&["--settings", file.to_str().unwrap()])
}

fn reloads(signpost: &Signpost, result: &str) -> f64 {
    signpost.metric("signpost_config_reloads_total", &[("result", result)])
}

/// Asks for a reload and waits until it is counted.
fn hang_up(signpost: &Signpost, result: &str) {
    let before = reloads(signpost, result);
    signpost.signal("HUP");
    signpost.wait_for_metric("signpost_config_reloads_total", &[("result", result)], before + 1.0);
}

fn id(signpost: &Signpost) -> String {
    signpost.get("/").location().split('/').nth(3).unwrap().to_owned()
}

#[test]
fn what_stays_goes_on_and_what_is_new_is_served() {
    let file = settings_file(&unwatched(&["a", "b", "c"], "pin = {}"));
    let signpost = start(file.path());
    let to_a = signpost.get_to("/a/").cookie().unwrap().to_owned();
    assert_eq!(id(&signpost), "b");

    // The same backends: the turn is c's, and the next one a's.
    std::fs::write(file.path(), unwatched(&["a", "b", "c"], "pin = {}\nstatus_non_get = 303")).unwrap();
    hang_up(&signpost, "success");
    assert_eq!([id(&signpost), id(&signpost), id(&signpost)], ["c", "a", "b"]);

    // Another one: each has its turn, the count of a stays, and so does the random secret.
    let of_a = [("backend", "a"), ("decision", "picked")];
    let before = signpost.metric("signpost_redirects_total", &of_a);
    std::fs::write(file.path(), unwatched(&["a", "b", "c", "d"], "pin = {}")).unwrap();
    hang_up(&signpost, "success");
    let mut four: Vec<_> = (0..4).map(|_| id(&signpost)).collect();
    four.sort();
    assert_eq!(four, ["a", "b", "c", "d"]);
    let pinned = signpost.request("GET", "/", &[("Cookie", &to_a)]);
    assert_eq!((pinned.location(), pinned.cookie()), ("http://127.0.0.1:9001/a/", None));
    assert_eq!(signpost.metric("signpost_redirects_total", &of_a), before + 1.0);

    // A backend less: nobody is sent there any more, pinned or not.
    std::fs::write(file.path(), unwatched(&["b", "c"], "pin = {}")).unwrap();
    hang_up(&signpost, "success");
    let reassigned = signpost.request("GET", "/", &[("Cookie", &to_a)]);
    assert!(reassigned.cookie().is_some() && !reassigned.location().contains("/a/"));
    assert!((0..10).all(|_| ["b", "c"].contains(&id(&signpost).as_str())));
}

#[test]
fn wrong_settings_change_nothing_and_are_told_in_full() {
    let file = settings_file(&unwatched(&["a"], ""));
    let signpost = start(file.path());
    std::fs::write(file.path(), unwatched(&["b"], "strategy = 'x'\nstatus = 301")).unwrap();
    hang_up(&signpost, "error");
    assert_eq!(id(&signpost), "a");
    assert_eq!(signpost.metric("signpost_config_last_reload_successful", &[]), 0.0);
    let mut log = String::new();
    crate::harness::wait_until("both problems are in the log", || {
        log += &signpost.log();
        log.contains("pools.p.status: got 301") && log.contains("pools.p.strategy: got \\\"x\\\"")
    });

    std::fs::write(file.path(), unwatched(&["b"], "[log]\nlevel = 'debug'")).unwrap();
    hang_up(&signpost, "success");
    assert_eq!(id(&signpost), "b");
    assert_eq!(signpost.metric("signpost_config_last_reload_successful", &[]), 1.0);
    crate::harness::wait_until("it says what needs a restart", || {
        log += &signpost.log();
        log.contains("[log] has changed, which takes effect at the next start")
    });
}

#[test]
fn a_changed_file_is_seen_however_it_was_changed() {
    let watched = |ids: &[&str]| pool(ids, "[server]\nwatch_interval = '100ms'");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("settings.toml");

    // As an editor does: written beside, then renamed over.
    std::fs::write(&file, watched(&["a"])).unwrap();
    let signpost = start(&file);
    assert_eq!(id(&signpost), "a");
    let beside = dir.path().join("settings.toml~");
    std::fs::write(&beside, watched(&["b"])).unwrap();
    std::fs::rename(&beside, &file).unwrap();
    crate::harness::wait_until("the renamed file is read", || id(&signpost) == "b");

    // As Kubernetes does: the file is a link through ..data, a link that is swapped.
    let mounted = dir.path().join("mounted");
    for (version, ids) in [("..1", ["a"]), ("..2", ["b"])] {
        std::fs::create_dir_all(mounted.join(version)).unwrap();
        std::fs::write(mounted.join(version).join("s.toml"), watched(&ids)).unwrap();
    }
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, mounted.join(from)).unwrap();
    link("..1", "..data");
    link("..data/s.toml", "s.toml");
    let signpost = start(&mounted.join("s.toml"));
    assert_eq!(id(&signpost), "a");
    link("..2", "..data_tmp");
    std::fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
    crate::harness::wait_until("the swapped link is followed", || id(&signpost) == "b");

    // A file that is gone changes nothing, and is said once, not at every look.
    std::fs::remove_file(mounted.join("..2/s.toml")).unwrap();
    signpost.wait_for_metric("signpost_config_last_reload_successful", &[], 0.0);
    assert_eq!(id(&signpost), "b");
}

/// A folder with a settings file that is looked at often, and Signpost with that; with how to write the file anew, with
/// more before the pool and in it.
fn watched() -> (tempfile::TempDir, impl Fn(&str, &str), Signpost) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let write = {
        let file = file.clone();
        move |before: &str, more: &str| {
            let text = format!("server.watch_interval = '100ms'\n{before}\n{}", pool(&["a"], more));
            std::fs::write(&file, text).unwrap();
        }
    };
    write("", "");
    let signpost = start(&file);
    (folder, write, signpost)
}

#[test]
fn a_file_that_was_missing_is_seen_once_it_is_there() {
    let (folder, write, signpost) = watched();
    let site = crate::support::tls::Pair::of(&["site.test"], 2999);
    let secret = "0123456789abcdef0123456789abcdef";
    let tls = "server.tls.certificates = [{ cert = 'site.pem', key = 'site.key' }]";
    std::fs::write(folder.path().join("site.pem"), &site.cert).unwrap();
    for (before, more, file, contents) in [
        ("server.error_pages.421 = 'sorry.html'", "", "sorry.html", "sorry"),
        ("", "error_pages.503 = 'busy.html'", "busy.html", "busy"),
        ("", "pin.secrets_file = 'secrets'", "secrets", secret),
        ("admin.token_file = 'token'", "", "token", secret),
        ("admin.load_token_file = 'push'", "", "push", secret),
        ("", "health = { kind = 'tcp', ca_file = 'ca.pem' }", "ca.pem", &site.cert),
        (tls, "", "site.key", &site.key),
    ] {
        let last_successful = |value| {
            signpost.wait_for_metric("signpost_config_last_reload_successful", &[], value);
        };
        write(before, more);
        last_successful(0.0);
        let path = folder.path().join(file);
        std::fs::write(&path, contents).unwrap();
        last_successful(1.0);
        if !before.contains("tls") {
            // Opening a pipe that nobody writes to would block.
            std::fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            last_successful(0.0);
            signpost.wait_for_log("not a regular file");
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, contents).unwrap();
            last_successful(1.0);
        }
    }
}

#[test]
fn a_file_of_any_length_costs_bounded_memory() {
    let (folder, write, signpost) = watched();
    let page = folder.path().join("page.html");
    std::fs::write(&page, "page").unwrap();
    write("server.error_pages.503 = 'page.html'", "");
    signpost.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], 1.0);
    std::fs::File::create(&page).unwrap().set_len(512 << 20).unwrap();
    signpost.wait_for_log("more than 64 KiB");
    let status = std::fs::read_to_string(format!("/proc/{}/status", signpost.pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    assert!(most.unwrap().parse::<u32>().unwrap() < 128 << 10, "{most:?} KiB");
}

#[test]
fn no_request_fails_while_settings_come_and_go() {
    let file = settings_file(&unwatched(&["a", "b"], ""));
    let signpost = start(file.path());
    let address = signpost.traffic;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::to(address);
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(connection.request("GET", "/", &[]).status, 302);
                }
            });
        }
        // Also where an assertion below fails: the threads would go on for ever.
        let _done = OnDrop(|| done.store(true, Ordering::Relaxed));
        for round in 0..40 {
            let ids: &[&str] = if round % 2 == 0 { &["a", "c", "d"] } else { &["a", "b"] };
            std::fs::write(file.path(), unwatched(ids, "")).unwrap();
            hang_up(&signpost, "success");
            // Counted is published: nobody who asks from now on is sent to a backend that is gone.
            assert!((0..6).all(|_| ids.contains(&id(&signpost).as_str())), "{ids:?}");
            std::fs::write(file.path(), "nonsense").unwrap();
            hang_up(&signpost, "error");
        }
    });
    assert_eq!((reloads(&signpost, "success"), reloads(&signpost, "error")), (40.0, 40.0));
}
