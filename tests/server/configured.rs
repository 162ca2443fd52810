//! Configured repositories: `check-config` and `serve` come to the same verdict, on a new data directory and on one
//! that has repositories of its own.

use std::path::Path;

use tempfile::TempDir;

use super::process::{Ended, Process, run, said};

/// A remote that asks nobody.
const ENTRY: &str =
    "[[repository]]\nname = \"hub\"\nrepo_type = \"remote\"\nremote_url = \"http://127.0.0.1:9\"\n";
const CLAIMS: &str = "upstream_namespace = \"docker.io\"\ndefault_mirror = true\n";

/// A file with this entry, besides other lines, and a data directory beside it that nobody has made yet.
fn configured(fields: &str) -> (TempDir, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("binaryrepo.toml");
    std::fs::write(&file, format!("# ours\n{ENTRY}{fields}")).unwrap();
    let data = dir.path().join("data").display().to_string();
    let file = file.display().to_string();
    (dir, file, data)
}

fn check(file: &str, data: &str) -> Ended {
    run(&["check-config", "--config", file, "--data-dir", data])
}

fn serve(file: &str, data: &str) -> Ended {
    run(&["serve", "--config", file, "--data-dir", data, "--listen", "127.0.0.1:0"])
}

fn refused_alike(file: &str, data: &str, why: &[&str]) {
    for ended in [check(file, data), serve(file, data)] {
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(!ended.err.contains("can be used\n"), "{ended:?}");
        for part in [&["binaryrepo.toml, line 2, column 1", "2 | [[repository]]", "hub: "], why].concat() {
            assert!(ended.err.contains(part), "no `{part}` in:\n{}", ended.err);
        }
    }
}

#[test]
fn what_a_configured_repository_claims_is_left_to_it() {
    let (_dir, file, data) = configured(CLAIMS);
    let checked = check(&file, &data);
    assert!(checked.code == 0 && checked.err.ends_with("the configuration can be used\n"), "{checked:?}");
    let server = Process::launch(&["--config", &file, "--data-dir", &data, "--log-format", "json"]);
    let shown = |name| said(Path::new(&data), &["repo", "show", name]);
    let (hub, first) = (shown("hub"), shown("docker-remote"));
    assert_eq!((&hub["upstream_namespace"], &hub["default_mirror"]), (&"docker.io".into(), &true.into()));
    assert_eq!(
        (&first["upstream_namespace"], &first["default_mirror"]),
        (&().into(), &false.into()),
        "{first}"
    );
    // Of the server that runs, and of what it left.
    assert_eq!(check(&file, &data).code, 0);
    server.end();
    assert_eq!(check(&file, &data).code, 0);
}

#[test]
fn a_claim_of_what_another_has_is_refused_until_that_gives_it_up() {
    let (dir, file, data) = configured(CLAIMS);
    let path = dir.path().join("data");
    Process::launch(&["--data-dir", &data, "--log-format", "json"]).end();
    for (setting, other) in [("upstream_namespace", "default_mirror"), ("default_mirror", "")] {
        let hint = format!("binaryrepo repo update docker-remote --reset {setting}");
        refused_alike(&file, &data, &[setting, "docker-remote", &hint]);
        let update = ["repo", "update", "docker-remote", "--reset", setting];
        // The command mends what the start was refused for, though it comes with the same file.
        let mended = run(&[&update[..], &["--config", &file, "--data-dir", &data]].concat());
        assert_eq!(mended.code, 0, "{mended:?}");
        assert!(other.is_empty() || mended.err.contains("is not made"), "{mended:?}");
    }
    assert_eq!(check(&file, &data).code, 0);
    Process::launch(&["--config", &file, "--data-dir", &data, "--log-format", "json"]).end();
    assert_eq!(said(&path, &["repo", "show", "hub"])["default_mirror"], true);
}

#[test]
fn a_file_that_an_entry_names_must_be_there_before_its_repository_is_made() {
    for (fields, field) in [
        ("ca_file = \"/nowhere/ca.pem\"\n", "ca_file"),
        ("username = \"ada\"\npassword_file = \"/nowhere/password\"\n", "password_file"),
    ] {
        let (dir, file, data) = configured(fields);
        refused_alike(&file, &data, &[field, "/nowhere/"]);
        assert!(!dir.path().join("data").exists(), "nothing is made for a server that will not start");
    }
}

#[test]
fn a_file_that_goes_later_keeps_no_server_from_starting() {
    let (dir, file, data) = configured("");
    let password = dir.path().join("password");
    std::fs::write(&password, "canary\n").unwrap();
    let named = format!("# ours\n{ENTRY}username = \"ada\"\npassword_file = \"{}\"\n", password.display());
    std::fs::write(&file, named).unwrap();
    let start = || Process::launch(&["--config", &file, "--data-dir", &data, "--log-format", "json"]);
    start().end();
    std::fs::remove_file(&password).unwrap();
    let checked = check(&file, &data);
    assert!(checked.code == 0 && checked.err.contains("password_file"), "{checked:?}");
    let log = start().whole_log();
    assert!(log.iter().any(|line| line.contains("cannot ask its upstream")), "{log:?}");
}
