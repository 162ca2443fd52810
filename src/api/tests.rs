//! The management API by its routes and error answers, without a server.

use http::header::{ALLOW, RETRY_AFTER};
use http::{Method, StatusCode};
use serde_json::Value;

use super::error::ApiError;
use super::route::{Action, route};
use crate::engine::{EngineError, ErrorKind};
use crate::form::RepositoryForm;
use crate::reply::{Content, Reply};

fn body(reply: &Reply) -> Value {
    match &reply.content {
        Content::Bytes(bytes) => serde_json::from_slice(bytes).expect("the API answers with JSON"),
        other => panic!("no body: {other:?}"),
    }
}

fn refused(method: &Method, path: &str, query: Option<&str>) -> Reply {
    route(method, path, query).expect_err("no such action").into_reply()
}

#[test]
fn every_path_has_its_action() {
    let name = || "docker-remote".parse().expect("a legal name");
    for (method, path, query, action) in [
        (Method::GET, "/api/repository", None, Action::ListRepositories),
        (Method::GET, "/api/repository/", None, Action::ListRepositories),
        (Method::POST, "/api/repository", None, Action::CreateRepository),
        (Method::GET, "/api/repository/docker-remote", None, Action::ShowRepository(name())),
        (Method::PUT, "/api/repository/docker-remote", None, Action::ChangeRepository(name())),
        (
            Method::DELETE,
            "/api/repository/docker-remote",
            Some("purge=true"),
            Action::DeleteRepository { name: name(), purge: true },
        ),
        (
            Method::DELETE,
            "/api/repository/docker-remote",
            None,
            Action::DeleteRepository { name: name(), purge: false },
        ),
        (Method::GET, "/api/images", None, Action::ListImages { repository: None }),
        (
            Method::GET,
            "/api/images",
            Some("repository=docker-remote"),
            Action::ListImages { repository: Some(name()) },
        ),
        (
            Method::DELETE,
            "/api/images/docker-remote/a/b",
            Some("tag=1"),
            Action::RemoveImage {
                repository: name(),
                image: "a/b".parse().expect("a legal name"),
                reference: Some("1".parse().expect("a tag")),
            },
        ),
        (Method::POST, "/api/purge", None, Action::Purge),
        (Method::POST, "/api/backup", None, Action::Backup),
        (Method::GET, "/api/status", None, Action::Status),
    ] {
        assert_eq!(route(&method, path, query), Ok(action), "{method} {path}");
    }
}

#[test]
fn a_wrong_method_says_which_there_are() {
    for (method, path, allowed) in [
        (Method::PUT, "/api/repository", "GET, POST"),
        (Method::POST, "/api/repository/a", "GET, PUT, DELETE"),
        (Method::POST, "/api/images", "GET"),
        (Method::GET, "/api/purge", "POST"),
        (Method::DELETE, "/api/status", "GET"),
    ] {
        let reply = refused(&method, path, None);
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.headers.get(ALLOW).and_then(|value| value.to_str().ok()), Some(allowed));
    }
}

#[test]
fn a_strange_path_or_parameter_is_refused() {
    for path in
        ["/", "/api", "/api/repositories", "/api/repository/a/b", "/api/repository/..", "/api/repository/A"]
    {
        assert_eq!(refused(&Method::GET, path, None).status, StatusCode::NOT_FOUND, "{path}");
    }
    let field = |method, path, query| {
        let reply = refused(&method, path, Some(query));
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        body(&reply)["error"]["field"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(field(Method::DELETE, "/api/repository/a", "purg=true"), "purg");
    assert_eq!(field(Method::DELETE, "/api/repository/a", "purge=yes"), "purge");
    assert_eq!(field(Method::GET, "/api/images", "repository=A"), "repository");
    assert_eq!(field(Method::GET, "/api/repository", "x=1"), "x");
}

#[test]
fn a_wrong_field_is_named_in_the_answer() {
    let form = RepositoryForm::from_json(br#"{"name":"a","repo_type":"remote","tag_tll":"5m"}"#);
    let reply = ApiError::from(form.expect_err("misspelt")).into_reply();
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let error = &body(&reply)["error"];
    assert_eq!(error["field"], "tag_tll");
    assert_eq!(error["hint"], "did you mean `tag_ttl`?");
    assert!(error["message"].as_str().unwrap_or_default().contains("unknown field"));
}

#[test]
fn the_engines_errors_have_their_statuses() {
    for (kind, status) in [
        (ErrorKind::NameUnknown, 404),
        (ErrorKind::Conflict, 409),
        (ErrorKind::Invalid { field: "ca_file".to_owned() }, 400),
        (ErrorKind::Overloaded, 503),
        (ErrorKind::Internal, 500),
    ] {
        let error =
            EngineError::new(kind.clone(), "a sentence").with_retry_after(Some(std::time::Duration::ZERO));
        let reply = ApiError::from(error).into_reply();
        assert_eq!(reply.status.as_u16(), status);
        assert_eq!(body(&reply)["error"]["message"], "a sentence");
        assert_eq!(reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()), Some("1"));
        let field = body(&reply)["error"]["field"].as_str().map(str::to_owned);
        assert_eq!(field.is_some(), matches!(kind, ErrorKind::Invalid { .. }));
    }
}

#[test]
fn a_purge_says_what_exactly() {
    use super::content::check_purge;
    for good in [
        r#"{"repository":"r","image":"library/redis"}"#,
        r#"{"repository":"r","image":"redis","tag":"7"}"#,
        r#"{"repository":"r","all":true}"#,
        r#"{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#,
    ] {
        assert_eq!(check_purge(good.as_bytes()), Ok(()), "{good}");
    }
    for (bad, field) in [
        ("", None),
        ("[]", None),
        ("{}", None),
        (r#"{"repository":"r"}"#, None),
        (r#"{"repository":"r","all":false}"#, None),
        (r#"{"repository":"r","image":"a","all":true}"#, None),
        (r#"{"repository":"r","digest":"sha256:1"}"#, Some("digest")),
        (r#"{"repository":"r","image":"A"}"#, Some("image")),
        (r#"{"repository":"r","all":"yes"}"#, Some("all")),
        (r#"{"repository":"r","all":true,"tag":"7"}"#, Some("tag")),
        (r#"{"image":"redis"}"#, Some("repository")),
        (r#"{"repository":"r","imag":"redis"}"#, Some("imag")),
    ] {
        let reply = check_purge(bad.as_bytes()).expect_err(bad).into_reply();
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(body(&reply)["error"].get("field").and_then(Value::as_str), field, "{bad}");
    }
}
