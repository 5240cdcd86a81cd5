//! `admin.state_file`: what the operator has set by the API survives a restart.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{Connection, Signpost, command, run, series, skipped, stderr, wait_until};

const SAVED: &str = "signpost_state_file_last_write_successful";

/// A folder with a settings file that names a state file beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.write_settings("state_file = 'state/overrides.json'", &["a", "b", "c"]);
        std::fs::create_dir(this.path("state")).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("state/overrides.json")
    }

    fn write_settings(&self, admin: &str, ids: &[&str]) {
        let backends = ids.iter().map(|id| format!("{{ id = '{id}', url = 'http://127.0.0.1:9001/{id}' }}"));
        let backends = backends.collect::<Vec<_>>().join(", ");
        let settings = format!(
            "[server]\nwatch_interval = '0s'\n[admin]\n{admin}\n[pools.p]\nbackends = [{backends}]\npin = {{}}\n\
             health = {{ kind = 'none' }}"
        );
        std::fs::write(self.path("site.toml"), settings).unwrap();
    }

    fn start(&self) -> Signpost {
        Signpost::start(&["--settings", self.path("site.toml").to_str().unwrap()])
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap()
    }

    /// The contents of all files beside the state file whose names end so.
    fn kept(&self, suffix: &str) -> Vec<Vec<u8>> {
        let names = self.others().into_iter().filter(|name| name.ends_with(suffix));
        let mut kept: Vec<_> =
            names.map(|name| std::fs::read(self.path("state").join(name)).unwrap()).collect();
        kept.sort();
        kept
    }

    /// The names of all files beside the state file.
    fn others(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("state")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "overrides.json").collect()
    }
}

/// A file with one override.
fn document_with(entry: &str) -> Vec<u8> {
    format!("{{\"version\": 1, \"overrides\": [{entry}]}}").into_bytes()
}

/// Backend `a` in maintenance.
const A_IS_OFF: &str = r#"{"pool": "p", "backend": "a", "admin": "maintenance"}"#;

fn set(signpost: &Signpost, backend: &str, change: &Value) {
    let change = change.to_string();
    let mut operator = Connection::to(signpost.admin);
    let path = format!("/api/v1/pools/p/backends/{backend}");
    operator.send(
        format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{change}",
            change.len()
        )
        .as_bytes(),
    );
    let answer = operator.read_answer().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Where six new clients are sent.
fn picks(signpost: &Signpost) -> String {
    let mut ids: Vec<_> = (0..6).map(|_| signpost.get("/").location()[22..23].to_owned()).collect();
    ids.sort_unstable();
    ids.concat()
}

/// `GET /api/v1/pools`, its backends.
fn backends(signpost: &Signpost) -> Value {
    let host = signpost.admin.to_string();
    let answer = Connection::to(signpost.admin).request("GET", "/api/v1/pools", &[("Host", &host)]);
    serde_json::from_slice::<Value>(&answer.body).unwrap()["pools"][0]["backends"].take()
}

/// The series appears when the file was looked at for the first time.
fn wait_for_saved(signpost: &Signpost, saved: f64) {
    wait_until("the file is written, or not", || series(&signpost.metrics(), SAVED, &[]) == Some(saved));
}

fn restart(mut signpost: Signpost, place: &Place) -> Signpost {
    signpost.signal("KILL");
    signpost.wait();
    place.start()
}

#[test]
fn overrides_survive_a_kill() {
    let place = Place::new();
    let signpost = place.start();
    wait_for_saved(&signpost, 1.0);
    assert_eq!(place.document(), json!({ "version": 1, "overrides": [] }));

    set(&signpost, "a", &json!({ "admin": "draining" }));
    set(&signpost, "b", &json!({ "weight": 0 }));
    let drained_at = backends(&signpost)[0]["drained_at"].clone();
    let expected = json!([
        { "pool": "p", "backend": "a", "admin": "draining", "drained_at": drained_at },
        { "pool": "p", "backend": "b", "weight": 0 },
    ]);
    assert_eq!(place.document()["overrides"], expected, "it is in the file once the API has answered");
    assert!(std::fs::read_to_string(place.file()).unwrap().lines().count() > 10, "one member a line");

    let signpost = restart(signpost, &place);
    assert_eq!(picks(&signpost), "cccccc");
    let shown = backends(&signpost);
    assert_eq!((&shown[0]["state"], &shown[0]["set_at_run_time"]), (&json!("draining"), &json!(["admin"])));
    assert_eq!(shown[0]["drained_at"], drained_at, "pins to it end when they would have ended");
    assert_eq!((&shown[1]["weight"], &shown[1]["set_at_run_time"]), (&json!(0), &json!(["weight"])));

    // What is taken back is gone from the file.
    set(&signpost, "a", &json!({ "admin": null }));
    set(&signpost, "b", &json!({ "weight": null, "admin": "maintenance" }));
    let signpost = restart(signpost, &place);
    assert_eq!(picks(&signpost), "aaaccc");
    let expected = json!([{ "pool": "p", "backend": "b", "admin": "maintenance" }]);
    assert_eq!(place.document()["overrides"], expected);
    wait_for_saved(&signpost, 1.0);
    assert_eq!(place.others(), [""; 0]);
}

#[test]
fn without_the_setting_overrides_end_with_the_process() {
    let place = Place::new();
    place.write_settings("", &["a", "b", "c"]);
    let signpost = place.start();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    let signpost = restart(signpost, &place);
    assert_eq!(picks(&signpost), "aabbcc");
    assert!(!signpost.metrics().contains(SAVED));
    assert!(!place.file().exists());
}

#[test]
fn a_broken_file_is_reported_ignored_and_kept() {
    let (entry, good) = (document_with, A_IS_OFF);
    for (bytes, reason) in [
        (Vec::new(), "EOF while parsing"),
        (b"\xff\xfe".to_vec(), "expected value"),
        (b"[]".to_vec(), "invalid length"),
        (b"{\"version\": 1}".to_vec(), "missing field `overrides`"),
        (b"{\"version\": 2, \"overrides\": [], \"more\": true}".to_vec(), "version 2 (version 1 expected)"),
        (entry(&format!("{good}, {good}")).split_at(60).0.to_vec(), "EOF while parsing"),
        (
            entry(&format!("{good}, {{\"pool\": \"p\", \"backend\": \"b\", \"wieght\": 1}}")),
            "unknown field `wieght`",
        ),
        (entry(r#"{"pool": "p", "backend": "a", "admin": "drained"}"#), "unknown variant `drained`"),
        (entry(r#"{"pool": "p", "backend": "a", "weight": 257}"#), "weight 257 (0 to 256 expected)"),
        (entry(r#"{"pool": "p", "backend": "a", "drained_at": "soon"}"#), "drained_at \\\"soon\\\""),
        (vec![b' '; (8 << 20) + 1], "at most 8388608 expected"),
    ] {
        let place = Place::new();
        std::fs::write(place.file(), &bytes).unwrap();
        let signpost = place.start();
        signpost.wait_for_log("broken state file ignored");
        let log = signpost.log();
        assert!(log.contains(reason) && log.contains("overrides.json"), "{reason}: {log}");
        assert_eq!(picks(&signpost), "aabbcc", "{reason}");
        assert!(
            std::fs::read(place.file()).unwrap() == bytes,
            "{reason}: nothing is changed before the first write"
        );
        wait_for_saved(&signpost, 0.0);
        set(&signpost, "b", &json!({ "admin": "maintenance" }));
        assert!(place.kept(".broken") == [bytes] && place.others().len() == 1, "{reason}");
        wait_for_saved(&signpost, 1.0);
        let signpost = restart(signpost, &place);
        assert_eq!(picks(&signpost), "aaaccc", "{reason}");
    }
}

#[test]
fn every_broken_file_is_kept() {
    let place = Place::new();
    for broken in ["first", "second"] {
        std::fs::write(place.file(), broken).unwrap();
        let signpost = place.start();
        set(&signpost, "a", &json!({ "admin": "maintenance" }));
    }
    assert_eq!(place.kept(".broken"), [b"first".to_vec(), b"second".to_vec()]);

    // Of a link, what it leads to is kept, and the link stays.
    let target = place.path("elsewhere.json");
    std::fs::rename(place.file(), &target).unwrap();
    std::fs::write(&target, "third").unwrap();
    symlink(&target, place.file()).unwrap();
    let signpost = place.start();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    assert!(place.file().is_symlink() && !target.is_symlink());
    assert_eq!(place.document()["overrides"][0]["backend"], "a");
    assert_eq!(place.kept(".broken").len(), 2, "the third is beside its own place");
}

#[test]
fn what_is_no_regular_file_is_neither_read_nor_replaced() {
    let mkfifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let place = Place::new();
    mkfifo(&place.file());
    let check = run(["check", "--settings", place.path("site.toml").to_str().unwrap()]);
    assert!(stderr(&check).contains("admin.state_file") && stderr(&check).contains("is a device, pipe or"));

    // One that comes later.
    std::fs::remove_file(place.file()).unwrap();
    let signpost = place.start();
    wait_for_saved(&signpost, 1.0);
    std::fs::remove_file(place.file()).unwrap();
    mkfifo(&place.file());
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    signpost.wait_for_log("not a regular file");
    assert_eq!((picks(&signpost).as_str(), signpost.metric(SAVED, &[])), ("bbbccc", 0.0));
    assert!(!place.file().symlink_metadata().unwrap().is_file());
    assert_eq!(place.others(), [""; 0]);
}

#[test]
fn a_new_file_is_private_and_a_replaced_one_keeps_mode_and_owner() {
    let place = Place::new();
    let about = || {
        let about = place.file().metadata().unwrap();
        (about.mode() & 0o777, about.uid(), about.gid())
    };
    let signpost = place.start();
    wait_for_saved(&signpost, 1.0);
    let (mode, uid, gid) = about();
    assert_eq!(mode, 0o600);
    std::fs::set_permissions(place.file(), PermissionsExt::from_mode(0o664)).unwrap();
    // Only root may give files away.
    let owner = match chown(place.file(), Some(1234), Some(5678)) {
        Ok(()) => (1234, 5678),
        Err(_) => (uid, gid),
    };
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    assert_eq!(place.document()["overrides"][0]["backend"], "a");
    assert_eq!(about(), (0o664, owner.0, owner.1));
}

#[test]
fn no_file_of_another_process_is_removed() {
    let place = Place::new();
    let signpost = place.start();
    // In containers, every process has the same id.
    let other = format!("overrides.json.{}.tmp", signpost.pid());
    std::fs::write(place.path("state").join(&other), "being written").unwrap();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    assert_eq!(place.document()["overrides"][0]["backend"], "a");
    assert_eq!(place.others(), [other]);
}

#[test]
fn a_change_takes_effect_although_it_cannot_be_saved() {
    let place = Place::new();
    let signpost = place.start();
    wait_for_saved(&signpost, 1.0);
    std::fs::remove_dir_all(place.path("state")).unwrap();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    assert_eq!(picks(&signpost), "bbbccc");
    assert_eq!(signpost.metric(SAVED, &[]), 0.0);
    signpost.wait_for_log("state file not written");

    std::fs::create_dir(place.path("state")).unwrap();
    set(&signpost, "b", &json!({ "admin": "maintenance" }));
    assert_eq!(signpost.metric(SAVED, &[]), 1.0);
    signpost.wait_for_log("state file written again");
    assert_eq!(picks(&restart(signpost, &place)), "cccccc");

    // A folder that may not be written to shows at the start, before an override is lost.
    let signpost = {
        std::fs::remove_dir_all(place.path("state")).unwrap();
        symlink("/proc/self", place.path("state")).unwrap();
        place.start()
    };
    wait_for_saved(&signpost, 0.0);
    assert_eq!(picks(&signpost), "aabbcc");
}

/// Starts a dispatcher that has the state file on a disk of its own, once a command has run there. Returns the folder as that
/// process sees it, too.
fn start_on_disk(place: &Place, options: &str, prepare: &str) -> Option<(Signpost, PathBuf)> {
    let mut unshare = Command::new("unshare");
    if !unshare
        .args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output()
        .is_ok_and(|run| run.status.success())
    {
        skipped("no file system can be mounted; `apt-get install util-linux` has unshare");
        return None;
    }
    let (settings, state) = (place.path("site.toml"), place.path("state"));
    let script = format!(
        "mount -t tmpfs -o {options} none {state} && cd {state} && {prepare} && \
         exec {} --settings {} --listen 127.0.0.1:0 --admin 127.0.0.1:0",
        env!("CARGO_BIN_EXE_signpost"),
        settings.display(),
        state = state.display(),
    );
    let mut command = Command::new("unshare");
    let signpost = Signpost::start_command(command.args(["-rm", "sh", "-c", &script]).env_clear());
    let inside = PathBuf::from(format!("/proc/{}/root{}", signpost.pid(), state.display()));
    Some((signpost, inside))
}

#[test]
fn a_full_disk_keeps_the_file_and_no_change_from_taking_effect() {
    let place = Place::new();
    let Some((signpost, inside)) = start_on_disk(&place, "size=64k", "true") else { return };
    wait_for_saved(&signpost, 1.0);
    let overrides = || std::fs::read_to_string(inside.join("overrides.json")).unwrap();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    let before = overrides();
    assert!(before.contains("maintenance"));

    let filled = std::fs::write(inside.join("fill"), vec![0; 1 << 20]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    set(&signpost, "b", &json!({ "admin": "maintenance" }));
    assert_eq!(picks(&signpost), "cccccc");
    assert_eq!((signpost.metric(SAVED, &[]), overrides()), (0.0, before));
    signpost.wait_for_log("No space left on device");
    let names = std::fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 2, "nothing half written is left");

    std::fs::remove_file(inside.join("fill")).unwrap();
    set(&signpost, "b", &json!({ "weight": 0 }));
    assert_eq!(signpost.metric(SAVED, &[]), 1.0);
    assert_eq!(overrides().matches("maintenance").count(), 2);
}

#[test]
fn a_file_that_cannot_be_written_at_the_start_is_tried_again() {
    let place = Place::new();
    std::fs::write(place.path("before.json"), document_with(A_IS_OFF)).unwrap();
    // No file more fits there.
    let prepare = "cp ../before.json overrides.json && touch fill";
    let Some((signpost, inside)) = start_on_disk(&place, "nr_inodes=3", prepare) else { return };
    wait_for_saved(&signpost, 0.0);
    signpost.wait_for_log("state file cannot be written");
    std::fs::remove_file(inside.join("fill")).unwrap();
    wait_for_saved(&signpost, 1.0);
    signpost.wait_for_log("state file can be written again");
    assert_eq!(std::fs::read(inside.join("overrides.json")).unwrap(), document_with(A_IS_OFF));
}

#[test]
fn overrides_of_unknown_backends_are_dropped_with_the_next_change() {
    let place = Place::new();
    let signpost = place.start();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    set(&signpost, "b", &json!({ "admin": "maintenance" }));
    let before = std::fs::read(place.file()).unwrap();
    place.write_settings("state_file = 'state/overrides.json'", &["b", "c"]);
    let signpost = restart(signpost, &place);
    signpost.wait_for_log("operator override dropped: no such backend");
    assert_eq!(picks(&signpost), "cccccc");
    // A start with settings that are wrong somewhere loses nothing.
    assert_eq!(std::fs::read(place.file()).unwrap(), before);
    set(&signpost, "b", &json!({ "admin": null }));
    assert_eq!(place.document()["overrides"], json!([]));
}

#[test]
fn a_reload_moves_the_file_and_drops_overrides_with_their_backends() {
    let place = Place::new();
    place.write_settings("", &["a", "b", "c"]);
    let signpost = place.start();
    set(&signpost, "a", &json!({ "admin": "maintenance" }));
    set(&signpost, "b", &json!({ "weight": 7 }));
    let overrides = || place.file().exists().then(|| place.document()["overrides"].clone());
    place.write_settings("state_file = 'state/overrides.json'", &["a", "b", "c"]);
    signpost.signal("HUP");
    let (a, b) = (
        json!({ "pool": "p", "backend": "a", "admin": "maintenance" }),
        json!({ "pool": "p", "backend": "b", "weight": 7 }),
    );
    wait_until("it is on", || overrides() == Some(json!([a, b])));
    wait_for_saved(&signpost, 1.0);
    place.write_settings("state_file = 'state/overrides.json'", &["b", "c"]);
    signpost.signal("HUP");
    wait_until("the override of a removed backend is dropped", || overrides() == Some(json!([b])));
    place.write_settings("", &["b", "c"]);
    signpost.signal("HUP");
    wait_until("it is off", || !signpost.metrics().contains(SAVED));
    set(&signpost, "c", &json!({ "admin": "draining" }));
    assert_eq!(overrides(), Some(json!([b])));
}

#[test]
fn a_reload_to_a_file_with_overrides_loses_none_of_them() {
    let place = Place::new();
    let before = document_with(A_IS_OFF);
    let reload = |signpost: &Signpost| {
        place.write_settings("state_file = 'state/overrides.json'", &["a", "b", "c"]);
        signpost.signal("HUP");
        wait_for_saved(signpost, 1.0);
    };
    // A process without overrides restores those of the file, as at a start; of backends that are new with it, too.
    for is_set in [false, true] {
        place.write_settings("", &["b", "c"]);
        let signpost = place.start();
        if is_set {
            set(&signpost, "b", &json!({ "admin": "maintenance" }));
        }
        std::fs::write(place.file(), &before).unwrap();
        reload(&signpost);
        let (file, expected) = (place.document(), if is_set { "aaaccc" } else { "bbbccc" });
        assert_eq!(file["overrides"].as_array().unwrap().len(), 1);
        assert_eq!(file["overrides"][0]["backend"], if is_set { "b" } else { "a" });
        assert_eq!(picks(&signpost), expected);
        if is_set {
            signpost.wait_for_log("state file moved aside");
            assert_eq!(place.kept(".old"), std::slice::from_ref(&before));
        } else {
            signpost.wait_for_log("operator override restored");
        }
        assert_eq!(place.others().len(), usize::from(is_set));
    }
}

#[test]
fn a_takeover_counts_for_more_than_the_file() {
    let place = Place::new();
    let mut old = place.start();
    set(&old, "a", &json!({ "admin": "maintenance" }));
    let stale = document_with(r#"{"pool": "p", "backend": "b", "admin": "maintenance"}"#);
    std::fs::write(place.file(), &stale).unwrap();
    let settings = place.path("site.toml");
    let (traffic, admin) = (old.traffic.to_string(), old.admin.to_string());
    let args =
        ["--settings", settings.to_str().unwrap(), "--listen", &traffic, "--admin", &admin, "--takeover"];
    let next = Signpost::start_command(&mut command(args));
    assert!(old.wait().success());
    assert_eq!(picks(&next), "bbbccc");
    let of_file = || place.document()["overrides"].clone();
    wait_until("the successor has written it", || of_file()[0]["backend"] == "a");
    assert_eq!(place.kept(".old"), [stale]);
    set(&next, "a", &json!({ "admin": null }));
    assert_eq!(of_file(), json!([]));
    assert_eq!(picks(&restart(next, &place)), "aabbcc");
}

#[test]
fn a_second_process_on_the_file_is_reported() {
    let place = Place::new();
    let (one, other) = (place.start(), place.start());
    set(&one, "a", &json!({ "admin": "maintenance" }));
    set(&other, "b", &json!({ "admin": "maintenance" }));
    other.wait_for_log("another process has changed it");
    assert_eq!(place.document()["overrides"].as_array().unwrap().len(), 1, "the last one to write wins");
}

#[test]
fn a_reader_finds_a_whole_file_at_any_time() {
    let place = Place::new();
    let signpost = place.start();
    set(&signpost, "a", &json!({ "weight": 0 }));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(place.document()["version"], 1);
                count += 1;
            }
            count
        });
        for weight in 0..50 {
            set(&signpost, "a", &json!({ "weight": weight }));
        }
        done.store(true, Ordering::Relaxed);
        assert!(read.join().unwrap() > 0);
    });
    assert_eq!(place.document()["overrides"][0]["weight"], 49);
}

#[test]
fn a_symbolic_link_keeps_leading_where_it_led() {
    let place = Place::new();
    let target = place.path("elsewhere.json");
    std::fs::write(&target, r#"{"version": 1, "overrides": []}"#).unwrap();
    symlink(&target, place.file()).unwrap();
    let signpost = place.start();
    set(&signpost, "a", &json!({ "weight": 0 }));
    let is_link = |path: &Path| path.symlink_metadata().unwrap().is_symlink();
    assert!(is_link(&place.file()) && !is_link(&target));
    assert!(std::fs::read_to_string(&target).unwrap().contains("\"weight\": 0"));

    // Also to a file that is not there yet.
    std::fs::remove_file(&target).unwrap();
    set(&signpost, "a", &json!({ "weight": 1 }));
    assert!(is_link(&place.file()) && !is_link(&target));
    assert!(std::fs::read_to_string(&target).unwrap().contains("\"weight\": 1"));
}

/// Its first write would move that file aside.
#[test]
fn a_file_of_another_setting_is_no_state_file() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = dir.path().join("secrets");
    std::fs::write(&secrets, "0123456789abcdef0123456789abcdef").unwrap();
    symlink(&secrets, dir.path().join("link")).unwrap();
    let settings = dir.path().join("site.toml");
    for (state_file, code) in [("site.toml", 2), ("secrets", 2), ("./link", 2), ("state.json", 0)] {
        let text = format!(
            "[admin]\nstate_file = '{state_file}'\n[pools.p]\nbackends = ['http://127.0.0.1:9001']\n\
             [pools.p.pin]\nsecrets_file = 'secrets'\n"
        );
        std::fs::write(&settings, text).unwrap();
        let output = run(["check", "--settings", settings.to_str().unwrap()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{state_file}: {said}");
        assert_eq!(
            said.contains("admin.state_file") && said.contains("another setting"),
            code == 2,
            "{said}"
        );
    }
}
