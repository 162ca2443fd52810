//! What a repository's JSON form takes, refuses and shows.

use serde_json::Value;

use super::*;
use crate::clock::UnixMillis;
use crate::engine::{LocalSpec, Remote, RepositoryKind};
use crate::names::RepositoryId;

const HUB: &str = r#"{"name":"docker-remote","repo_type":"remote","package_type":"docker",
    "remote_url":"https://registry-1.docker.io"}"#;

fn error(json: &str) -> FormError {
    match RepositoryForm::from_json(json.as_bytes()).and_then(RepositoryForm::create) {
        Err(error) => error,
        Ok(made) => panic!("{json} made {made:?}"),
    }
}

/// A whole form with one field more.
fn error_with(field: &str, value: &str) -> FormError {
    let base = HUB.trim_end_matches('}');
    error(&format!("{base},\"{field}\":{value}}}"))
}

fn remote(json: &str) -> RemoteSpec {
    match RepositoryForm::from_json(json.as_bytes()).and_then(RepositoryForm::create) {
        Ok((_, RepositorySpec::Remote(spec))) => *spec,
        other => panic!("{json}: {other:?}"),
    }
}

fn stored(spec: RemoteSpec) -> Repository {
    Repository {
        id: RepositoryId(1),
        name: "docker-remote".parse().expect("a legal name"),
        kind: RepositoryKind::Remote(Box::new(Remote::new(spec, Vec::new()))),
        created: UnixMillis(0),
    }
}

fn changed(current: &Repository, json: &str) -> RemoteSpec {
    match RepositoryForm::from_json(json.as_bytes()).and_then(|form| form.change(current)) {
        Ok(RepositorySpec::Remote(spec)) => *spec,
        other => panic!("{json}: {other:?}"),
    }
}

#[test]
fn the_documented_forms_are_taken() {
    assert_eq!(remote(HUB), RemoteSpec::new(remote(HUB).remote_url));
    let old = HUB.replace("\"docker\",", "\"remote\",");
    assert_eq!(remote(&old), remote(HUB));
    let local = br#"{"name":"docker-local","repo_type":"local","package_type":"docker"}"#;
    let made = RepositoryForm::from_json(local).and_then(RepositoryForm::create);
    assert!(matches!(made, Ok((_, RepositorySpec::Local(spec))) if spec == LocalSpec::default()));
}

#[test]
fn a_local_repository_may_be_opened_for_reading() {
    let local = br#"{"name":"docker-local","repo_type":"local","anonymous_pull":true}"#;
    let made = RepositoryForm::from_json(local).and_then(RepositoryForm::create);
    let Ok((_, RepositorySpec::Local(spec))) = made else { panic!("{made:?}") };
    assert!(spec.anonymous_pull);
    let mut repository = stored(remote(HUB));
    repository.kind = RepositoryKind::Local(spec);
    let shown = serde_json::to_value(Shown::from(&repository)).unwrap_or_default();
    assert_eq!(shown.get("anonymous_pull"), Some(&Value::Bool(true)));
    let closed =
        RepositoryForm::from_json(br#"{"anonymous_pull":null}"#).and_then(|form| form.change(&repository));
    assert_eq!(closed, Ok(RepositorySpec::Local(LocalSpec::default())));
}

#[test]
fn every_optional_field_arrives() {
    let spec = remote(
        r#"{"name":"r","repo_type":"remote","remote_url":"http://127.0.0.1:5000","username":"u","password":"p",
        "ca_file":"/ca.pem","tag_ttl":"5m","negative_ttl":"0s","stale_if_error":"1d","max_size":"10GiB",
        "upstream_namespace":"docker.io","default_mirror":true,"anonymous_pull":true,
        "allowed_hosts":["auth.docker.io"],"mirrors":["https://mirror.example.com"]}"#,
    );
    assert_eq!(spec.username.as_deref(), Some("u"));
    assert_eq!(spec.password.as_ref().map(Secret::expose), Some("p"));
    assert_eq!(spec.ca_file, Some(PathBuf::from("/ca.pem")));
    assert_eq!(spec.tag_ttl, Duration::from_secs(300));
    assert_eq!(spec.negative_ttl, Duration::ZERO);
    assert_eq!(spec.stale_if_error, Duration::from_secs(86_400));
    assert_eq!(spec.max_size, Some(10 << 30));
    assert_eq!(spec.upstream_namespace.as_deref(), Some("docker.io"));
    assert!(spec.default_mirror && spec.anonymous_pull);
    assert_eq!(spec.allowed_hosts, ["auth.docker.io"]);
    assert_eq!(spec.mirrors.len(), 1);
}

#[test]
fn a_local_repository_has_fields_of_its_own() {
    for field in ["immutable_tags", "sparse_manifests"] {
        let local = format!(r#"{{"name":"team","repo_type":"local","{field}":true}}"#);
        let made = RepositoryForm::from_json(local.as_bytes()).and_then(RepositoryForm::create);
        let Ok((_, RepositorySpec::Local(spec))) = made else { panic!("{made:?}") };
        let given = |name: &str| name == field;
        let expected = (given("immutable_tags"), given("sparse_manifests"));
        assert_eq!((spec.immutable_tags, spec.sparse_manifests), expected);
        let kind = RepositoryKind::Local(spec);
        let stored = Repository { kind, ..stored(remote(HUB)) };
        let shown = serde_json::to_value(Shown::from(&stored)).expect("JSON");
        assert_eq!(shown[field], true);
        assert_eq!(shown.get("remote_url"), None);
        let reset = format!(r#"{{"{field}":null}}"#);
        let reset = RepositoryForm::from_json(reset.as_bytes()).and_then(|form| form.change(&stored));
        assert_eq!(reset, Ok(RepositorySpec::Local(LocalSpec::default())));
        assert_eq!(error_with(field, "true").field.as_deref(), Some(field));
    }
}

#[test]
fn each_wrong_field_is_named() {
    for (field, value, word) in [
        ("username", "\"a:b\"", "colon"),
        ("username", "\"u\"", "password"),
        ("password", "\"p\"", "user name"),
        ("password_file", "7", "expected a path"),
        ("password_env", "\"HUB\"", "configuration file"),
        ("ca_file", "\"\"", "not a path"),
        ("tag_ttl", "60", "expected a duration"),
        ("tag_ttl", "\"soon\"", "60s"),
        ("negative_ttl", "\"-1s\"", "not a duration"),
        ("stale_if_error", "true", "expected a duration"),
        ("max_size", "\"10G\"", "10GiB"),
        ("max_size", "-1", "expected a number of bytes"),
        ("upstream_namespace", "\"https://docker.io\"", "not a host"),
        ("default_mirror", "\"yes\"", "expected a boolean"),
        ("anonymous_pull", "1", "expected a boolean"),
        ("allowed_hosts", "\"auth.docker.io\"", "expected a sequence"),
        ("allowed_hosts", "[\"a/b\"]", "not a host"),
        ("mirrors", "[\"mirror\"]", "not a URL"),
        ("mirrors", "[\"https://registry-1.docker.io\"]", "itself"),
        ("colour", "\"red\"", "unknown field"),
    ] {
        let found = error_with(field, value);
        // A name without a password is told at the password, and the other way round.
        let expected = match (field, word) {
            ("username", "password") => "password",
            ("password", _) => "username",
            _ => field,
        };
        assert_eq!(found.field.as_deref(), Some(expected), "{found}");
        assert!(found.message.contains(word), "{found}");
    }
}

#[test]
fn each_missing_or_wrong_head_field_is_named() {
    for (json, field) in [
        ("{}", "name"),
        (r#"{"name":"library"}"#, "name"),
        (r#"{"name":"A"}"#, "name"),
        (r#"{"name":"a"}"#, "repo_type"),
        (r#"{"name":"a","repo_type":"virtual"}"#, "repo_type"),
        (r#"{"name":"a","repo_type":"local","package_type":"npm"}"#, "package_type"),
        (r#"{"name":"a","repo_type":"local","package_type":"remote"}"#, "package_type"),
        (r#"{"name":"a","repo_type":"local","remote_url":"https://h"}"#, "remote_url"),
        (r#"{"name":"a","repo_type":"remote"}"#, "remote_url"),
        (r#"{"name":"a","repo_type":"remote","remote_url":"h"}"#, "remote_url"),
        (r#"{"name":"a","repo_type":"remote","remote_url":null}"#, "remote_url"),
        (r#"{"name":"a","name":"b","repo_type":"local"}"#, "name"),
    ] {
        assert_eq!(error(json).field.as_deref(), Some(field), "{json}");
    }
    for json in ["", "[]", "7", "{", "{\"name\":}"] {
        assert_eq!(error(json).field, None, "{json}");
    }
}

#[test]
fn a_misspelt_field_gets_a_hint() {
    assert_eq!(error_with("tag_tll", "\"5m\"").hint.as_deref(), Some("did you mean `tag_ttl`?"));
}

#[test]
fn a_deep_body_ends_as_an_error() {
    let deep = format!("{{\"name\":{}", "[".repeat(50_000));
    assert_eq!(error(&deep).field, None);
}

#[test]
fn the_list_of_fields_is_the_forms() {
    let unknown = r#"{"zzz":1}"#;
    let message = serde_json::from_str::<RepositoryForm>(unknown).err().map(|error| error.to_string());
    let message = message.unwrap_or_default();
    let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    assert_eq!(known, FIELDS);
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let base = HUB.trim_end_matches('}');
    let old = remote(&format!(r#"{base},"username":"u","password":"p","tag_ttl":"5m","max_size":7}}"#));
    let current = stored(old.clone());
    assert_eq!(changed(&current, "{}"), old);
    let new = changed(&current, r#"{"tag_ttl":"1m","max_size":null}"#);
    assert_eq!((new.tag_ttl, new.max_size), (Duration::from_secs(60), None));
    assert_eq!(new.password, old.password);
    let without = changed(&current, r#"{"username":null,"password":null}"#);
    assert_eq!((without.username, without.password), (None, None));
    let file = changed(&current, r#"{"password_file":"/run/secrets/hub"}"#);
    assert_eq!((file.password, file.password_file), (None, Some(PathBuf::from("/run/secrets/hub"))));
}

#[test]
fn another_upstream_does_not_inherit_the_password() {
    let base = HUB.trim_end_matches('}');
    let current = stored(remote(&format!(r#"{base},"username":"u","password":"p"}}"#)));
    let moved = changed(&current, r#"{"remote_url":"https://evil.example.com"}"#);
    assert_eq!((moved.username, moved.password), (None, None));
    let same = changed(&current, r#"{"remote_url":"https://registry-1.docker.io"}"#);
    assert!(same.password.is_some());
    let given = r#"{"remote_url":"https://other.example.com","username":"v","password":"q"}"#;
    assert_eq!(changed(&current, given).password.as_ref().map(Secret::expose), Some("q"));
}

#[test]
fn name_and_type_stay() {
    let current = stored(remote(HUB));
    for (json, field) in [
        (r#"{"name":"other"}"#, "name"),
        (r#"{"repo_type":"local"}"#, "repo_type"),
        (r#"{"remote_url":null}"#, "remote_url"),
    ] {
        let found = RepositoryForm::from_json(json.as_bytes()).and_then(|form| form.change(&current)).err();
        assert_eq!(found.and_then(|error| error.field).as_deref(), Some(field));
    }
}

#[test]
fn a_password_is_shown_nowhere() {
    let base = HUB.trim_end_matches('}');
    let json = format!(r#"{base},"username":"u","password":"canary"}}"#);
    let form = RepositoryForm::from_json(json.as_bytes());
    assert!(!format!("{form:?}").contains("canary"));
    let repository = stored(remote(&json));
    assert!(!format!("{repository:?}").contains("canary"));
    let shown = serde_json::to_value(Shown::from(&repository)).unwrap_or_default();
    assert!(!shown.to_string().contains("canary"));
    assert_eq!(shown.get("password_set"), Some(&Value::Bool(true)));
    for wrong in ["[\"canary\"]", "{\"a\":\"canary\"}"] {
        assert!(!error_with("password", wrong).to_string().contains("canary"));
    }
    assert!(!error_with("password", "48151623").to_string().contains("48151623"));
    let url = HUB.replace("https://", "https://u:canary@");
    assert!(!error(&url).to_string().contains("canary"));
}

#[test]
fn what_is_shown_has_the_documented_form() {
    let repository = stored(remote(HUB));
    let shown = serde_json::to_value(Shown::from(&repository)).unwrap_or_default();
    assert_eq!(
        shown,
        serde_json::json!({
            "name": "docker-remote", "repo_type": "remote", "package_type": "docker",
            "remote_url": "https://registry-1.docker.io", "password_set": false,
            "tag_ttl": "60s", "negative_ttl": "10s", "stale_if_error": "7d",
            "default_mirror": false, "anonymous_pull": false, "allowed_hosts": [], "mirrors": [],
        })
    );
}

#[test]
fn a_variable_of_the_environment_may_hold_the_password() {
    let base = HUB.trim_end_matches('}');
    let json = format!(r#"{base},"username":"u","password_env":"HUB"}}"#);
    let form = || RepositoryForm::from_json(json.as_bytes());
    let found = form().and_then(|form| form.resolve_env(|name| (name == "HUB").then(|| "p".to_owned())));
    let Ok((_, RepositorySpec::Remote(spec))) = found.and_then(RepositoryForm::create) else {
        panic!("the form is right");
    };
    assert_eq!(spec.password.as_ref().map(Secret::expose), Some("p"));
    let missing = form().and_then(|form| form.resolve_env(|_| None)).err();
    assert_eq!(missing.and_then(|error| error.field).as_deref(), Some("password_env"));
}
