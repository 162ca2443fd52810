//! The configuration as a whole: layers, errors that show the place, warnings, and what is never shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use binaryrepo::config::{Config, ConfigError, Setting, Sources};
use binaryrepo::engine::{LocalSpec, RepositorySpec, Secret};
use binaryrepo::telemetry::LogFormat;
use binaryrepo::text::Limit;

/// A file that lives as long as the test.
struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

#[expect(clippy::disallowed_methods, reason = "a test writes the file that is read")]
fn file(text: &str) -> File {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("binaryrepo.toml");
    std::fs::write(&path, text).expect("a temporary file");
    File { _dir: dir, path }
}

fn sources(env: &[(&str, &str)]) -> Sources {
    let mut all = BTreeMap::from([("HOME".to_owned(), "/home/ada".to_owned())]);
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Sources { env: all, ..Sources::default() }
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = file(text);
    Config::load(&Sources { file: Some(file.path.clone()), ..sources(env) })
}

fn error(text: &str, env: &[(&str, &str)]) -> (String, String) {
    match load(text, env) {
        Err(error) => (error.to_string(), error.hint().unwrap_or_default().to_owned()),
        Ok(config) => panic!("{text} was taken as {config:?}"),
    }
}

#[test]
fn none_is_needed() {
    let config = Config::load(&sources(&[])).expect("the defaults are right");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.server.base_domains, ["binaryrepo.local", "localhost"]);
    assert_eq!(config.server.idle_timeout, Duration::from_secs(75));
    assert_eq!(config.storage.path, PathBuf::from("/home/ada/.local/share/binaryrepo"));
    assert_eq!(config.storage.max_size, Limit::Percent(80));
    assert_eq!(config.log.format, LogFormat::Auto);
    assert!(config.check_serving(false).is_ok());
    assert_eq!(config.warnings(), []);
}

#[test]
fn the_data_directory_follows_the_user() {
    let path = |sources: &Sources| Config::load(sources).map(|config| config.storage.path);
    let xdg = sources(&[("XDG_DATA_HOME", "/data/ada")]);
    assert_eq!(path(&xdg), Ok(PathBuf::from("/data/ada/binaryrepo")));
    let root = Sources { root: true, ..sources(&[]) };
    assert_eq!(path(&root), Ok(PathBuf::from("/var/lib/binaryrepo")));
    let homeless = Config::load(&Sources::default()).expect_err("there is no place");
    assert!(homeless.hint().unwrap_or_default().contains("--data-dir"), "{homeless}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = file("[server]\nlisten = \"127.0.0.1:1\"\nmax_connections = 1\nidle_timeout = \"61s\"\n");
    let env = [("BINARYREPO_SERVER__LISTEN", "127.0.0.1:2"), ("BINARYREPO_SERVER__MAX_CONNECTIONS", "2")];
    let flags = vec![Setting::new("--listen", "server", "listen", "127.0.0.1:3")];
    let config =
        Config::load(&Sources { file: Some(file.path.clone()), flags, ..sources(&env) }).expect("right");
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.max_connections, 2);
    assert_eq!(config.server.idle_timeout, Duration::from_secs(61));
    assert_eq!(config.origin("server.listen"), Some("--listen"));
    assert_eq!(config.origin("server.max_connections"), Some("BINARYREPO_SERVER__MAX_CONNECTIONS"));
    assert_eq!(config.origin("server.idle_timeout"), file.path.to_str());
    assert_eq!(config.origin("server.header_timeout"), None);
}

#[test]
fn every_kind_of_value_comes_through_the_environment() {
    let env = [
        ("BINARYREPO_SERVER__BASE_DOMAINS", "a.example.com, b.example.com"),
        ("BINARYREPO_SERVER__TRUSTED_PROXIES", "10.0.0.0/8,192.168.1.7"),
        ("BINARYREPO_SERVER__OPEN_ACCESS", "true"),
        ("BINARYREPO_SERVER__PUBLIC_URL", "https://reg.example.com"),
        ("BINARYREPO_STORAGE__MAX_SIZE", "50%"),
        ("BINARYREPO_STORAGE__MIN_FREE", "1024"),
        ("BINARYREPO_LOG__FORMAT", "json"),
        ("BINARYREPO_LOG__LEVEL", "warn,binaryrepo=debug"),
        ("BINARYREPO_ADMIN_TOKEN", "canary"),
        // Left behind empty by a compose file, and made by an orchestrator for a service of our name.
        ("BINARYREPO_SERVER__LISTEN", ""),
        ("BINARYREPO_PORT_8081_TCP", "tcp://10.0.0.1:8081"),
    ];
    let config = load("", &env).expect("all right");
    assert_eq!(config.server.base_domains, ["a.example.com", "b.example.com"]);
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert!(config.server.open_access);
    assert_eq!(config.storage.max_size, Limit::Percent(50));
    assert_eq!(config.storage.min_free, Some(1024));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "warn,binaryrepo=debug");
    assert_eq!(config.admin_token.as_ref().map(Secret::expose), Some("canary"));
    assert!(!format!("{config:?}{}", config.effective()).contains("canary"));
}

#[test]
fn a_wrong_key_is_shown_with_its_line_and_what_was_meant() {
    let (message, hint) = error("# ours\n[server]\nmax_conections = 10\n", &[]);
    for part in [
        "binaryrepo.toml, line 3, column 1",
        "3 | max_conections = 10",
        "  | ^^^^^^^^^^^^^^\n",
        "expected one of `listen`",
    ] {
        assert!(message.contains(part), "no `{part}` in:\n{message}");
    }
    assert_eq!(hint, "did you mean `max_connections`?");
}

#[test]
fn a_wrong_value_is_shown_with_what_was_expected() {
    for (text, place, expected) in [
        ("[server]\nlisten = \"8081\"", "line 2, column 10", "127.0.0.1:8081"),
        ("[server]\nidle_timeout = 75", "line 2, column 16", "expected a duration such as \"60s\""),
        ("[server]\nheader_timeout = \"0s\"", "line 2, column 18", "longer than nothing"),
        ("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy\"]", "line 2, column 34", "10.0.0.0/8"),
        ("[server]\nbase_domains = [\"10.0.0.1\"]", "line 2, column 17", "not a domain"),
        ("[server]\nmax_connections = 0", "line 2, column 19", "nonzero"),
        ("[storage]\nmax_size = \"120%\"", "line 2, column 12", "\"1%\" to \"100%\""),
        ("[storage]\nmin_free = \"5G\"", "line 2, column 12", "10GiB"),
        ("[log]\nlevel = \"inof\"", "line 2, column 9", "expected off, error"),
        ("[log]\nformat = \"xml\"", "line 2, column 10", "\"auto\", \"text\" or \"json\""),
        ("[sever]\n", "line 1, column 2", "unknown field `sever`"),
        ("[server\n", "line 1", "expected"),
        ("[[repository]]\nname = \"A\"", "line 2, column 8", "DNS label"),
        ("\n[[repository]]\nname = \"a\"\nrepo_type = \"remote\"", "line 2", "a: remote_url: is missing"),
    ] {
        let (message, _) = error(text, &[]);
        assert!(message.contains(place) && message.contains(expected), "{text}\n{message}");
    }
}

#[test]
fn a_wrong_variable_is_named() {
    for (name, value, expected, hint) in [
        ("BINARYREPO_SERVER__LISTN", "x", "unknown field `listn`", "did you mean BINARYREPO_SERVER__LISTEN?"),
        ("BINARYREPO_SEVER__LISTEN", "x", "no section `SEVER`", "BINARYREPO_SERVER__LISTEN=0.0.0.0:8081"),
        ("BINARYREPO_SERVER__LISTEN", "8081", "127.0.0.1:8081", ""),
        ("BINARYREPO_SERVER__MAX_CONNECTIONS", "many", "expected a nonzero u32", ""),
        ("BINARYREPO_SERVER__MAX_CONNECTIONS", "0", "expected a nonzero u32", ""),
        ("BINARYREPO_SERVER__OPEN_ACCESS", "yes", "expected a boolean", ""),
        ("BINARYREPO_SERVER__TRUSTED_PROXIES", "10.0.0.0/8,proxy", "`proxy` is not a network", ""),
        ("BINARYREPO_STORAGE__MAX_SIZE", "most", "as in \"80%\"", ""),
    ] {
        let (message, found) = error("", &[(name, value)]);
        assert!(message.starts_with(name) && message.contains(expected), "{message}");
        assert!(found.contains(hint), "{found}");
    }
}

#[test]
fn a_missing_file_is_an_error() {
    let missing = Sources { file: Some(PathBuf::from("/nowhere/binaryrepo.toml")), ..sources(&[]) };
    let error = Config::load(&missing).expect_err("there is no such file");
    assert!(error.to_string().contains("/nowhere/binaryrepo.toml"), "{error}");
}

#[test]
fn repositories_come_from_the_file() {
    let text = r#"
[[repository]]
name = "docker-remote"
repo_type = "remote"
remote_url = "https://registry-1.docker.io"
username = "ada"
password_env = "HUB_PASSWORD"
default_mirror = true
tag_ttl = "10m"
max_size = "20GiB"

[[repository]]
name = "docker-local"
repo_type = "local"
package_type = "docker"
"#;
    let config = load(text, &[("HUB_PASSWORD", "canary")]).expect("all right");
    let [remote, local] = config.repositories.as_slice() else { panic!("two entries") };
    assert_eq!(local.spec, RepositorySpec::Local(LocalSpec::default()));
    let RepositorySpec::Remote(spec) = &remote.spec else { panic!("a remote") };
    assert_eq!(spec.password.as_ref().map(Secret::expose), Some("canary"));
    assert_eq!(spec.tag_ttl, Duration::from_secs(600));
    let warnings = config.warnings();
    assert!(warnings.iter().any(|warning| warning.message.contains("dockerd sends none")), "{warnings:?}");
    assert!(!format!("{config:?}{}{warnings:?}", config.effective()).contains("canary"));
    let (message, hint) = error(text, &[]);
    assert!(message.contains("no `HUB_PASSWORD`") && hint.contains("password_file"), "{message} {hint}");
}

#[test]
fn a_password_shows_in_no_error() {
    let entry = "[[repository]]\nname = \"r\"\nrepo_type = \"remote\"\nremote_url = \"https://h\"\nusername = \"u\"\n";
    for wrong in [
        "password = canary\n",
        "password = [\"canary\"]\n",
        "password = \"canary\n",
        "password = \"canary\" x\n",
        "pasword = 1\npassword = \"canary\"\npassword = \"canary\"\n",
        "password = \"\"\"\ncanary\n\\q\n\"\"\"\n",
        "mirrors = [\"https://u:canary@h\"]\n",
        "passwort = \"x\" # password: canary\n",
    ] {
        let (message, hint) = error(&format!("{entry}{wrong}"), &[]);
        assert!(!message.contains("canary") && !hint.contains("canary"), "{message}");
        assert!(message.contains("line "), "{message}");
    }
    let (message, _) = error(&format!("{entry}password = 48151623\n"), &[]);
    assert!(!message.contains("48151623"), "{message}");
}

#[test]
fn beyond_loopback_takes_a_word() {
    let open = load("[server]\nlisten = \"0.0.0.0:8081\"", &[]).expect("readable for commands");
    assert!(open.check_serving(true).is_ok(), "there is somebody to ask for");
    let error = open.check_serving(false).expect_err("nobody said so");
    assert!(error.hint().unwrap_or_default().contains("--open-access"), "{error}");
    let said = load("[server]\nlisten = \"[::]:8081\"\nopen_access = true", &[]).expect("right");
    assert!(said.check_serving(false).is_ok());
}

#[test]
fn a_proxy_on_this_machine_is_beyond_it() {
    for proxy in ["127.0.0.1", "::1", "127.0.0.0/8", "10.1.2.3"] {
        let behind = format!("[server]\ntrusted_proxies = [\"{proxy}\"]\n");
        let open = load(&behind, &[]).expect("readable for commands");
        assert!(open.check_serving(true).is_ok(), "there is somebody to ask for");
        let error = open.check_serving(false).expect_err("nobody said so");
        assert!(error.to_string().contains("trusted_proxies"), "{error}");
        assert!(error.hint().unwrap_or_default().contains("--open-access"), "{error}");
        let said = load(&format!("{behind}open_access = true\n"), &[]).expect("right");
        assert!(said.check_serving(false).is_ok());
        assert_eq!(said.warnings(), [], "the word is needed");
    }
}

#[test]
fn two_repositories_cannot_be_the_same_thing() {
    let entry = |name: &str, more: &str| {
        format!(
            "[[repository]]\nname = \"{name}\"\nrepo_type = \"remote\"\nremote_url = \"https://h\"\n{more}\n"
        )
    };
    for (first, second, more) in [
        ("a", "a", ""),
        ("a", "b", "default_mirror = true"),
        ("a", "b", "upstream_namespace = \"docker.io\""),
    ] {
        let (message, _) = error(&format!("{}{}", entry(first, more), entry(second, more)), &[]);
        assert!(message.contains("twice") || message.contains("both a and b"), "{message}");
    }
}

#[test]
fn what_is_in_force_can_be_used_as_a_file() {
    let text = r#"
[server]
listen = "0.0.0.0:8081"
public_url = "https://reg.example.com"
open_access = true
trusted_proxies = ["10.0.0.0/8"]
[storage]
path = "/srv/\"odd\" name"
max_size = "500GiB"
[[repository]]
name = "r"
repo_type = "remote"
remote_url = "https://h:5000/path"
max_size = "10GiB"
allowed_hosts = ["auth.h"]
mirrors = ["https://m"]
"#;
    let first = load(text, &[]).expect("right");
    let second = load(&first.effective(), &[]).expect("what is shown can be read");
    assert_eq!(first.server, second.server);
    assert_eq!(first.storage, second.storage);
    assert_eq!(first.repositories, second.repositories);
}

#[test]
fn likely_mistakes_are_pointed_out() {
    let text = r#"
[server]
listen = "0.0.0.0:8081"
open_access = true
idle_timeout = "60s"
trusted_proxies = ["0.0.0.0/0"]
[[repository]]
name = "r"
repo_type = "remote"
remote_url = "http://h"
username = "u"
password = "canary"
anonymous_pull = true
ca_file = "/nowhere/ca.pem"
"#;
    let warnings = load(text, &[]).expect("it works").warnings();
    let all: String =
        warnings.iter().map(|warning| format!("{} {}\n", warning.message, warning.hint)).collect();
    for part in ["0.0.0.0/0", "idle_timeout", "in the clear", "with its credentials", "/nowhere/ca.pem"] {
        assert!(all.contains(part), "no `{part}` in:\n{all}");
    }
    assert!(!all.contains("canary"));
}
