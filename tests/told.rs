//! What the README and the Makefile say of the program is what it does: every setting with its default, every target.
#![expect(clippy::disallowed_methods, reason = "tests read the project's own files")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(project(name)).expect("it is part of the project")
}

/// The rows of the README's table whose head begins with these words: name and default, as written.
fn table(head: &str) -> BTreeMap<String, String> {
    let readme = text("README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let mut found = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let plain = |cell: &str| cell.trim_matches('`').trim_matches('"').to_owned();
        for name in cells[0].split(", ") {
            found.insert(plain(name), plain(cells[1]));
        }
    }
    assert!(!found.is_empty(), "the README has no table {head}");
    found
}

/// What `check-config` prints of a section: name and value.
fn section(printed: &str, head: &str) -> BTreeMap<String, String> {
    let lines = printed.lines().skip_while(|line| *line != head).skip(1);
    let lines = lines.take_while(|line| !line.is_empty() && !line.starts_with('['));
    let pair = |line: &str| {
        let line =
            line.split("  #").next().unwrap_or_default().split(" # ").next().unwrap_or_default().trim();
        let line = line.strip_prefix("# ").unwrap_or(line);
        match line.split_once(" = ") {
            Some((name, value)) => (name.to_owned(), value.trim_matches('"').replace("\",\"", "\", \"")),
            None => (line.split(' ').next().unwrap_or_default().to_owned(), "not set".to_owned()),
        }
    };
    lines.map(pair).collect()
}

/// Of whoever runs the program here.
const HOME: &str = "/nowhere/home";

fn check_config(config: Option<&Path>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_binaryrepo"));
    command.arg("check-config").env_clear().env("HOME", HOME);
    if let Some(file) = config {
        command.arg("--config").arg(file);
    }
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a text")
}

fn names<T>(map: &BTreeMap<String, T>) -> BTreeSet<&str> {
    map.keys().map(String::as_str).collect()
}

#[test]
fn every_setting_of_the_readme_exists_with_its_default_and_no_other_does() {
    let printed = check_config(None);
    for name in ["server", "storage", "log"] {
        let (written, real) = (table(&format!("| `[{name}]` ")), section(&printed, &format!("[{name}]")));
        assert_eq!(
            names(&written),
            names(&real),
            "[{name}]: the README on the left, the program on the right"
        );
        for (key, default) in &written {
            let real = real[key].as_str();
            let same = match (default.as_str(), real) {
                ("none", "[]") | ("from the request", "not set") => true,
                // Whoever runs the tests is the one or the other.
                (written, real) if key == "path" => {
                    let written = written.replace('~', HOME);
                    written.split("`, as root `").any(|one| one == real)
                }
                // The lesser of this and a share of the disk.
                (written, real) if key == "min_free" => real.contains(written),
                (written, real) => written == real,
            };
            assert!(same, "{name}.{key}: the README says {default}, the program {real}");
        }
    }
}

#[test]
fn every_field_of_a_repository_is_in_the_readme_with_its_default() {
    let written = table("| field ");
    let mut fields: BTreeSet<&str> = binaryrepo::form::FIELDS.into_iter().collect();
    // Other ways to the same password, written in its row.
    for other in ["password_file", "password_env"] {
        assert!(fields.remove(other) && text("README.md").contains(&format!("`{other}`")), "{other}");
    }
    assert_eq!(names(&written), fields, "the README on the left, the program on the right");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("binaryrepo.toml");
    let remote = "[[repository]]\nname = \"r\"\nrepo_type = \"remote\"\nremote_url = \"https://r.test\"\n";
    let local = "[[repository]]\nname = \"l\"\nrepo_type = \"local\"\n";
    for (entry, own) in [(remote, "immutable_tags"), (local, "tag_ttl")] {
        std::fs::write(&file, entry).expect("written");
        let real = section(&check_config(Some(&file)), "[[repository]]");
        assert!(!real.contains_key(own), "{real:?}");
        for (key, default) in written.iter().filter(|(_, default)| !default.is_empty()) {
            if let Some(real) = real.get(key) {
                assert_eq!(real, default, "{key}: the program on the left, the README on the right");
            }
        }
        let told = written.iter().filter(|(key, default)| !default.is_empty() && real.contains_key(*key));
        assert!(told.count() >= 2, "{real:?}");
    }
}

#[test]
fn every_variable_of_the_environment_is_in_the_readme_and_no_other_is() {
    let written = table("| variable ");
    let mut read = BTreeSet::new();
    let mut pending = vec![project("src")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).expect("read").map(|entry| entry.expect("read").path()));
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("a text");
        let words = source.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let ours = words.filter(|word| word.starts_with("BINARYREPO_") && word.len() > "BINARYREPO_".len());
        // Settings have a row for all of them, and a planted bug is in no real build.
        let ours = ours.filter(|word| !word.contains("__") && !word.contains("PLANTED"));
        read.extend(ours.map(str::to_owned));
    }
    assert!(read.len() >= 6, "{read:?}");
    let ours =
        names(&written).into_iter().filter(|name| name.starts_with("BINARYREPO_") && !name.contains('<'));
    assert_eq!(
        ours.collect::<BTreeSet<_>>(),
        read.iter().map(String::as_str).collect(),
        "README, then sources"
    );
    for name in ["BINARYREPO_<SECTION>__<KEY>", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"] {
        assert!(written.contains_key(name), "{name}");
    }
}

/// Without one of these nginx spools layers to its disk, or breaks off whoever waits for a cold one. Nothing that goes
/// through nginx in a test is large or slow enough to show it.
#[test]
fn the_shipped_proxy_streams_and_is_patient() {
    let proxy = text("nginx/proxy.conf");
    let value = |name: &str| {
        let lines = proxy.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' '));
        let values: Vec<&str> = lines.map(|value| value.trim_end_matches(';').trim()).collect();
        let [value] = values[..] else { panic!("{name} is said {} times", values.len()) };
        value
    };
    for name in ["proxy_buffering", "proxy_request_buffering"] {
        assert_eq!(value(name), "off", "{name}");
    }
    for name in ["proxy_read_timeout", "proxy_send_timeout"] {
        let seconds: u64 = value(name).trim_end_matches('s').parse().expect("in seconds");
        assert!(seconds >= 900, "{name}: an upstream may take minutes until a layer's first byte");
    }
    // Every place from which something is passed on has them.
    let servers = text("nginx/binaryrepo.conf");
    let passes = servers.matches("proxy_pass ").count();
    assert!(passes >= 2 && servers.matches("include binaryrepo/proxy.conf;").count() == passes);
    for own in ["proxy_buffering", "proxy_request_buffering", "proxy_read_timeout", "proxy_send_timeout"] {
        assert!(!servers.contains(own) && !text("nginx/server.conf").contains(own), "{own} is overridden");
    }
}

/// A status without a message of its own would be told as a failure of the proxy; and what binaryrepo answers is not
/// nginx's to say.
#[test]
fn the_shipped_proxy_says_its_own_errors_and_no_others() {
    let (servers, errors) = (text("nginx/binaryrepo.conf"), text("nginx/errors.conf"));
    let messages = text("nginx/messages.conf");
    let all = ["binaryrepo.conf", "server.conf", "proxy.conf", "errors.conf", "messages.conf"];
    for name in all {
        let text = text(&format!("nginx/{name}"));
        let mut lines = text.lines().map(str::trim_start);
        assert!(!lines.any(|line| line.starts_with("proxy_intercept_errors")), "{name}");
    }
    // Each server by itself, or by what the TLS servers have in common.
    assert!(text("nginx/server.conf").contains("include binaryrepo/errors.conf;"));
    let with_errors = servers.matches("include binaryrepo/server.conf;").count()
        + servers.matches("include binaryrepo/errors.conf;").count();
    assert_eq!(with_errors, servers.lines().filter(|line| *line == "server {").count());

    let pages = errors.lines().filter_map(|line| line.strip_prefix("error_page ")?.strip_suffix("/error;"));
    let told: BTreeSet<&str> = pages
        .flat_map(|page| page.trim_end_matches(" /binaryrepo-proxy").split(' '))
        .map(|status| status.trim_start_matches('='))
        .filter(|status| *status != "494")
        .collect();
    let json = messages.lines().filter_map(|line| line.trim().split_once(" '"));
    let mut said = BTreeSet::new();
    for (status, message) in json {
        let message: serde_json::Value =
            serde_json::from_str(message.trim_end_matches("';")).unwrap_or_else(|_| panic!("{message}"));
        for name in ["code", "message"] {
            assert!(message["errors"][0][name].as_str().is_some_and(|text| !text.is_empty()), "{message}");
        }
        said.insert(status.trim());
    }
    // 500 is what the default is for.
    assert!(said.remove("default") && said.insert("500"));
    assert_eq!(told, said, "errors.conf on the left, messages.conf on the right");
}

/// An alert on a metric that is called otherwise never fires.
#[test]
fn every_alert_watches_a_metric_that_there_is() {
    let (alerts, metrics) = (text("ops/prometheus/alerts.yml"), text("src/telemetry/metrics.rs"));
    let words = alerts.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let watched: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix("binaryrepo_")).collect();
    for name in &watched {
        let plain = name.trim_end_matches("_total");
        assert!(metrics.contains(&format!("\"{plain}\"")), "no metric is called binaryrepo_{name}");
    }
    // docs/operations.md calls these worth one.
    for name in ["damaged_blobs_total", "disk_errors_total", "cache_bypass_total"] {
        assert!(watched.contains(name), "no alert watches binaryrepo_{name}");
    }
}

/// Those that people are told of, and that CI and other targets call.
const TARGETS: [&str; 13] = [
    "help",
    "run",
    "test",
    "lint",
    "e2e",
    "demo",
    "bench",
    "build",
    "setup-certs",
    "check-remote-pull",
    "up",
    "down",
    "nightly",
];

#[test]
fn every_target_exists_says_what_it_does_and_calls_what_there_is() {
    let make = |args: &[&str]| {
        let output =
            Command::new("make").args(args).current_dir(project("")).output().expect("make is installed");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "make {args:?}: {err}");
        out.into_owned()
    };
    let help = make(&["help"]);
    let told: BTreeMap<&str, &str> = help.lines().filter_map(|line| line.split_once(' ')).collect();
    for target in TARGETS {
        assert!(told.get(target).is_some_and(|what| what.trim().len() > 10), "no `{target}` in:\n{help}");
        // Every line that would be run. A script that it calls must be there and be a script.
        let steps = make(&["--dry-run", "--no-print-directory", target]);
        assert!(!steps.trim().is_empty(), "{target} does nothing");
        for word in steps.split_whitespace().filter(|word| word.starts_with("ops/")) {
            let path = project(word.trim_end_matches(';'));
            let is_sound = Command::new("bash").arg("-n").arg(&path).status().expect("bash is installed");
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(&path).unwrap_or_else(|_| panic!("{target} calls {word}")).permissions(),
            );
            assert!(is_sound.success() && mode & 0o111 != 0, "{target} calls {word}");
        }
    }
}

#[test]
fn certificates_are_made_once_and_the_place_to_trust_them_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certs = dir.path().join("certs");
    let make = || {
        let mut command = Command::new("make");
        command.args(["--no-print-directory", "setup-certs"]).current_dir(project(""));
        let output = command.env("CERTS_DIR", &certs).output().expect("make is installed");
        let all = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&all));
        String::from_utf8_lossy(&all).into_owned()
    };
    let told = make();
    assert!(told.contains(certs.to_str().expect("a text")), "{told}");
    let seen = || {
        let files = std::fs::read_dir(&certs).expect("made").map(|entry| entry.expect("read").path());
        files.map(|path| (path.clone(), std::fs::read(&path).expect("read"))).collect::<BTreeMap<_, _>>()
    };
    let first = seen();
    assert!(first.len() >= 3, "{:?}", first.keys());
    make();
    assert!(first == seen(), "a CA that is trusted somewhere must not be replaced");
}
