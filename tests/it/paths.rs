//! Paths in the settings: where a relative one starts.

use std::path::Path;
use std::sync::Arc;

use crate::certificates::{Site, client, connect};
use crate::harness::{Signpost, command, run, stderr};

const POOL: &str = "[pools.p]\nbackends = ['http://127.0.0.1:9001']\n";
const SECRET: &str = "a secret of thirty-two bytes or so";

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
}

#[test]
fn a_relative_path_starts_at_the_folder_of_its_settings_file() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    write(&one, "site.toml", &format!("{POOL}[pools.p.pin]\nsecrets_file = 'keys/pin'\n"));
    write(&one.join("keys"), "pin", SECRET);
    let tls =
        "[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{ cert = './a.pem', key = 'a.key' }]\n";
    let health = "[pools.p.health]\nca_file = '../two/a.pem'\n";
    write(&two, "tls.toml", &format!("{tls}{health}[admin]\ntoken_file = 'token'\n"));
    write(&two, "token", SECRET);
    Site::write(&two, "a", &["a.test"]);
    // A variable is relative to the working directory, and so are the settings files themselves.
    write(root.path(), "load_token", "another secret of thirty-two bytes");
    let check = |folder: &Path, files: [&str; 2]| {
        let mut command = command(["check", "-s", files[0], "-s", files[1]]);
        let output =
            command.current_dir(folder).env("SIGNPOST__ADMIN__LOAD_TOKEN_FILE", "load_token").output();
        output.unwrap()
    };
    let output = check(root.path(), ["one/site.toml", "two/tls.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let root = root.path().display();
    for line in [
        format!("secrets_file = \"{root}/one/keys/pin\""),
        format!("cert = \"{root}/two/a.pem\""),
        format!("key = \"{root}/two/a.key\""),
        format!("token_file = \"{root}/two/token\""),
        format!("load_token_file = \"{root}/load_token\""),
        format!("ca_file = \"{root}/two/../two/a.pem\""),
    ] {
        assert!(printed.contains(&line), "{line} in\n{printed}");
    }
    let output = check(&one, ["site.toml", "../two/tls.toml"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("1 error") && said.contains("admin.load_token_file: "), "{said}");
    assert!(said.contains(&format!("{}/load_token can't be read", one.display())), "{said}");
}

#[test]
fn an_empty_path_is_rejected() {
    let file = crate::harness::settings_file(&format!("{POOL}[pools.p.pin]\nsecrets_file = ''"));
    let output = run(["check", "-s", file.path().to_str().unwrap()]);
    assert!(
        stderr(&output).contains("pools.p.pin.secrets_file: got \"\", takes the path of a file"),
        "{output:?}"
    );
}

#[test]
fn relative_files_are_watched_and_survive_a_takeover_from_another_folder() {
    let root = tempfile::tempdir().unwrap();
    let conf = root.path().join("conf");
    std::fs::create_dir(&conf).unwrap();
    let first = Site::write(&conf, "a", &["a.test"]);
    let settings = "[server]\nlisten = []\nwatch_interval = '100ms'\n[server.tls]\nlisten = ['127.0.0.1:0']\n\
                    certificates = [{ cert = 'a.pem', key = 'a.key' }]\n";
    write(
        &conf,
        "site.toml",
        &format!("{settings}{POOL}[pools.p.pin]\nsecrets_file = 'pin'\n[pools.p.health]\nkind = 'none'\n"),
    );
    write(&conf, "pin", SECRET);
    let mut command = command(["-s", "conf/site.toml", "--admin", "127.0.0.1:0"]);
    let mut old = Signpost::start_command(command.current_dir(root.path()));
    let served = |signpost: &Signpost, site: &Site| {
        let connection = connect(signpost.tls.unwrap(), "a.test", &Arc::new(client(&[site], &[])));
        connection.ok().map(|mut connection| connection.request("GET", "/", &[]).status)
    };
    assert_eq!(served(&old, &first), Some(302));

    let reloads = |count| {
        old.wait_for_metric("signpost_config_reloads_total", &[("result", "success")], count);
    };
    write(&conf, "pin", "another secret of thirty-two bytes");
    reloads(1.0);
    let second = Site::write(&conf, "a", &["a.test"]);
    old.signal("HUP");
    reloads(2.0);
    crate::harness::wait_until("the new certificate is served", || served(&old, &second) == Some(302));

    let admin = old.admin.to_string();
    let mut command = crate::harness::command(["-s", "site.toml", "--admin", &admin, "--takeover"]);
    let next = Signpost::start_command(command.current_dir(&conf));
    assert!(old.wait().success());
    assert_eq!(served(&next, &second), Some(302));
}
