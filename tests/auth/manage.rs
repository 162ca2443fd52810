//! The management API: who may use which part of it, and what it says of users, tokens and grants.

use serde_json::{Value, json};

use super::client::Answer;
use super::house::{ADA, ADMIN_TOKEN, BOB, EVE, House};

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"]["field"].as_str().unwrap_or_default().to_owned())
}

async fn as_user(
    house: &House,
    (user, password): (&str, &str),
    method: &str,
    path: &str,
    body: Value,
) -> Answer {
    let request = house.api(method, path).basic(user, password);
    if body.is_null() { request.send().await } else { request.json(&body).send().await }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_listed_changed_and_removed() {
    let house = House::open().await;
    let made = house
        .manage("POST", "/api/users", Some(&json!({ "name": "eve", "password": EVE.1, "admin": true })))
        .await;
    assert_eq!((made.status, made.header("location")), (201, Some("/api/users/eve")));
    let shown = made.json();
    assert_eq!(
        (&shown["name"], &shown["admin"], &shown["disabled"]),
        (&json!("eve"), &json!(true), &json!(false))
    );
    assert!(shown.get("password").is_none() && shown["created"].as_str().unwrap().ends_with('Z'));
    let cases = [
        (json!({ "name": "eve", "password": EVE.1 }), (409, "")),
        (json!({ "name": "Eve", "password": EVE.1 }), (400, "name")),
        (json!({ "name": "a:b", "password": EVE.1 }), (400, "name")),
        (json!({ "password": EVE.1 }), (400, "name")),
        (json!({ "name": "a" }), (400, "password")),
        (json!({ "name": "a", "password": "" }), (400, "password")),
        (json!({ "name": "a", "password": "short" }), (400, "password")),
        (json!({ "name": "a", "password": "x".repeat(1025) }), (400, "password")),
        (json!({ "name": "a", "password": "brt_looks-like-a-token" }), (400, "password")),
        (json!({ "name": "a", "password": 7 }), (400, "password")),
        (json!({ "name": "a", "password": EVE.1, "admin": "yes" }), (400, "admin")),
        (json!({ "name": "a", "password": EVE.1, "colour": 1 }), (400, "colour")),
        (json!([]), (400, "")),
    ];
    for (body, expected) in cases {
        let answer = house.manage("POST", "/api/users", Some(&body)).await;
        assert_eq!(error(&answer), (expected.0, expected.1.to_owned()), "{body}");
    }
    let changed = house.manage("PUT", "/api/users/eve", Some(&json!({ "admin": false }))).await.json();
    assert_eq!(changed["admin"], false);
    let renamed = house.manage("PUT", "/api/users/eve", Some(&json!({ "name": "ada" }))).await;
    assert_eq!(error(&renamed), (400, "name".to_owned()));
    let listed = house.manage("GET", "/api/users", None).await.json();
    assert_eq!(listed["users"].as_array().unwrap().len(), 1);
    for (method, status) in [("GET", 200), ("DELETE", 204), ("GET", 404), ("DELETE", 404)] {
        assert_eq!(house.manage(method, "/api/users/eve", None).await.status, status, "{method}");
    }
    assert_eq!(house.manage("GET", "/api/users/A%20B", None).await.status, 404);
    assert_eq!(house.manage("PATCH", "/api/users", None).await.header("allow"), Some("GET, POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_made_listed_and_taken_back() {
    let house = House::new().await;
    let grant = |body: Value| async { house.manage("POST", "/api/grants", Some(&{ body })).await };
    let made = grant(json!({ "user": "bob", "repository": "docker-local", "role": "read" })).await;
    assert_eq!(
        (made.status, made.json()),
        (201, json!({ "user": "bob", "repository": "docker-local", "images": "*", "role": "read" }))
    );
    // Once more for the same images: another role, and no second grant.
    grant(json!({ "user": "bob", "repository": "docker-local", "role": "write" })).await;
    grant(json!({ "user": "bob", "repository": "*", "images": "base/*", "role": "read" })).await;
    let listed = house.manage("GET", "/api/grants?user=bob", None).await.json();
    let roles: Vec<&str> =
        listed["grants"].as_array().unwrap().iter().map(|grant| grant["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["write", "read"], "{listed}");
    let listed = house.manage("GET", "/api/grants?repository=vault", None).await.json();
    assert_eq!(listed["grants"].as_array().unwrap().len(), 2, "{listed}");
    for (body, field) in [
        (json!({}), "user"),
        (json!({ "user": "bob", "role": "read" }), "repository"),
        (json!({ "user": "bob", "repository": "docker-local" }), "role"),
        (json!({ "user": "bob", "repository": "docker-local", "role": "owner" }), "role"),
        (json!({ "user": "bob", "repository": "docker-local", "images": "A", "role": "read" }), "images"),
        (json!({ "user": "bob", "repository": "A", "role": "read" }), "repository"),
    ] {
        assert_eq!(error(&grant(body.clone()).await), (400, field.to_owned()), "{body}");
    }
    assert_eq!(grant(json!({ "user": "zoe", "repository": "vault", "role": "read" })).await.status, 404);
    assert_eq!(grant(json!({ "user": "bob", "repository": "typo", "role": "read" })).await.status, 404);
    for (query, status) in [
        ("user=bob&repository=%2A&images=base%2F%2A", 204),
        ("user=bob&repository=%2A&images=base%2F%2A", 404),
        ("user=bob&repository=docker-local", 204),
        ("user=bob", 400),
        ("repository=vault", 400),
        ("user=bob&repository=vault&image=x", 400),
    ] {
        assert_eq!(
            house.manage("DELETE", &format!("/api/grants?{query}"), None).await.status,
            status,
            "{query}"
        );
    }
    let listed = house.manage("GET", "/api/grants?user=bob", None).await.json();
    assert_eq!(listed, json!({ "grants": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_named() {
    let house = House::new().await;
    let scope = json!({ "repository": "vault", "role": "read" });
    for (body, expected) in [
        (json!({ "user": "ada" }), (400, "name")),
        (json!({ "name": "", "user": "ada" }), (400, "name")),
        (json!({ "name": "x\u{0}", "user": "ada" }), (400, "name")),
        (json!({ "name": "x" }), (400, "user")),
        (json!({ "name": "x", "robot": true }), (400, "scopes")),
        (json!({ "name": "x", "robot": true, "user": "ada", "scopes": [scope] }), (400, "robot")),
        (json!({ "name": "x", "user": "ada", "expires": "soon" }), (400, "expires")),
        (json!({ "name": "x", "user": "ada", "expires": "0s" }), (400, "expires")),
        (json!({ "name": "x", "user": "ada", "scopes": [{ "role": "read" }] }), (400, "repository")),
        (
            json!({ "name": "x", "user": "ada", "scopes": [{ "repository": "typo", "role": "read" }] }),
            (404, ""),
        ),
        (json!({ "name": "x", "user": "zoe" }), (404, "")),
        (json!({ "name": "x", "user": "ada", "scopes": vec![scope.clone(); 65] }), (400, "scopes")),
    ] {
        let answer = house.manage("POST", "/api/tokens", Some(&body)).await;
        assert_eq!(error(&answer), (expected.0, expected.1.to_owned()), "{body}");
    }
    assert_eq!(house.manage("DELETE", "/api/tokens/000000000000", None).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_manage_whatever_they_show() {
    let house = House::new().await;
    let token = json!({ "name": "t", "user": "eve" });
    let token = house.manage("POST", "/api/tokens", Some(&token)).await.json()["token"].clone();
    for request in [
        house.api("GET", "/api/users").bearer(ADMIN_TOKEN),
        house.api("GET", "/api/users").basic(EVE.0, EVE.1),
        house.api("GET", "/api/users").bearer(token.as_str().unwrap()),
        house.api("GET", "/api/users").basic("x", token.as_str().unwrap()),
    ] {
        assert_eq!(request.send().await.status, 200);
    }
    for request in [
        house.api("GET", "/api/users"),
        house.api("GET", "/api/users").basic(EVE.0, "wrong"),
        house.api("GET", "/api/users").basic("", ""),
        house.api("GET", "/api/users").bearer("brt_nonsense"),
    ] {
        let answer = request.send().await;
        assert_eq!(answer.status, 401);
        assert!(answer.header("www-authenticate").is_some());
    }
    // A proxy on this machine may look just like a person there: it was let in as the administrator.
    let near = super::client::Request::new(house.address, "GET", "/api/users");
    assert_eq!(near.send().await.status, 401);
    // The rules about names and pages hold for all.
    let page = house.api("GET", "/api/users").basic(EVE.0, EVE.1).header("Origin", "http://evil.test");
    assert_eq!(page.send().await.status, 403);
    let elsewhere = house.request("GET", "/api/users").host("vault.localhost").basic(EVE.0, EVE.1);
    assert_eq!(elsewhere.send().await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_manage_what_is_theirs_and_nothing_else() {
    let house = House::new().await;
    let ada =
        |method: &'static str, path: &'static str, body: Value| as_user(&house, ADA, method, path, body);
    for (method, path, body) in [
        ("GET", "/api/users", Value::Null),
        ("POST", "/api/users", json!({ "name": "x", "password": "long enough" })),
        ("GET", "/api/users/bob", Value::Null),
        ("PUT", "/api/users/bob", json!({ "password": "long enough" })),
        ("DELETE", "/api/users/ada", Value::Null),
        ("PUT", "/api/users/ada", json!({ "admin": true })),
        ("PUT", "/api/users/ada", json!({ "disabled": false })),
        ("POST", "/api/repository", json!({ "name": "x", "repo_type": "local" })),
        ("GET", "/api/repository/vault", Value::Null),
        ("PUT", "/api/repository/vault", json!({ "password_file": "/etc/shadow" })),
        ("DELETE", "/api/repository/vault", Value::Null),
        ("GET", "/api/images", Value::Null),
        ("GET", "/api/images?repository=vault", Value::Null),
        ("GET", "/api/images/vault/team/app", Value::Null),
        ("DELETE", "/api/images/vault/team/app", Value::Null),
        ("POST", "/api/purge", json!({ "repository": "vault", "all": true })),
        ("POST", "/api/backup", Value::Null),
        ("GET", "/api/status", Value::Null),
        ("POST", "/api/grants", json!({ "user": "ada", "repository": "vault", "role": "admin" })),
        ("POST", "/api/grants", json!({ "user": "ada", "repository": "*", "role": "read" })),
        ("DELETE", "/api/grants?user=ada&repository=vault", Value::Null),
        ("POST", "/api/tokens", json!({ "name": "x", "user": "eve" })),
        (
            "POST",
            "/api/tokens",
            json!({ "name": "x", "robot": true, "scopes": [{ "repository": "vault", "role": "read" }] }),
        ),
    ] {
        let answer = ada(method, path, body).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    }
    // What she knows nothing of is not there.
    for (method, path, body) in [
        ("GET", "/api/repository/docker-remote", Value::Null),
        ("GET", "/api/repository/typo", Value::Null),
        ("POST", "/api/grants", json!({ "user": "ada", "repository": "docker-remote", "role": "read" })),
        ("POST", "/api/purge", json!({ "repository": "docker-remote", "all": true })),
        ("GET", "/api/grants?repository=docker-remote", Value::Null),
        ("GET", "/api/images/docker-remote/library/redis", Value::Null),
        ("DELETE", "/api/images/docker-remote/library/redis", Value::Null),
    ] {
        let answer = ada(method, path, body).await;
        assert_eq!(answer.status, 404, "{method} {path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("open-remote"));
    }
    assert_eq!(ada("GET", "/api/repository", Value::Null).await.json(), json!({ "repositories": [] }));
    // Her own.
    assert_eq!(ada("GET", "/api/users/ada", Value::Null).await.status, 200);
    assert_eq!(ada("GET", "/api/grants", Value::Null).await.json()["grants"].as_array().unwrap().len(), 2);
    let made = ada("POST", "/api/tokens", json!({ "name": "mine" })).await.json();
    assert_eq!(made["user"], "ada");
    let tokens = ada("GET", "/api/tokens", Value::Null).await.json();
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1);
    let id = format!("/api/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(as_user(&house, BOB, "DELETE", &id, Value::Null).await.status, 404, "somebody else's");
    // A token is no way to more tokens, nor to the password.
    let token = made["token"].as_str().unwrap();
    for (method, path, body) in [
        ("POST", "/api/tokens", json!({ "name": "x" })),
        ("PUT", "/api/users/ada", json!({ "password": "long enough" })),
    ] {
        assert_eq!(house.api(method, path).bearer(token).json(&body).send().await.status, 403, "{path}");
    }
    assert_eq!(as_user(&house, ADA, "DELETE", &id, Value::Null).await.status, 204);
    assert_eq!(ada("PUT", "/api/users/ada", json!({ "password": "canary-new-password" })).await.status, 200);
    assert_eq!(ada("GET", "/api/users/ada", Value::Null).await.status, 401, "the old one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repositorys_administrator_lets_others_in_and_cleans_up() {
    let house = House::new().await;
    house.grant("ada", "vault", "*", "admin").await;
    let ada =
        |method: &'static str, path: &'static str, body: Value| as_user(&house, ADA, method, path, body);
    let grant = |repository: &str| json!({ "user": "bob", "repository": repository, "role": "read" });
    assert_eq!(ada("POST", "/api/grants", grant("vault")).await.status, 201);
    assert_eq!(ada("POST", "/api/grants", grant("docker-local")).await.status, 403);
    assert_eq!(ada("POST", "/api/grants", grant("*")).await.status, 403);
    let shown = ada("GET", "/api/grants?repository=vault", Value::Null).await.json();
    assert_eq!(shown["grants"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(ada("GET", "/api/repository/vault", Value::Null).await.status, 200);
    let own = ada("GET", "/api/repository", Value::Null).await.json();
    assert_eq!(own["repositories"].as_array().unwrap().len(), 1);
    let pull = house.request("GET", "/v2/vault/team/app/manifests/1").basic(ADA.0, ADA.1).send().await;
    assert_eq!(pull.status, 200);
    let cached = ada("GET", "/api/images?repository=vault", Value::Null).await.json();
    assert_eq!(cached["images"][0]["image"], "team/app", "{cached}");
    assert_eq!(ada("POST", "/api/purge", json!({ "repository": "vault", "all": true })).await.status, 200);
    assert_eq!(
        ada("POST", "/api/purge", json!({ "digest": house.image.manifest.digest.to_string() })).await.status,
        403
    );
    // Its upstream and password are the server's administrator's: a file could be sent anywhere by them.
    let file = json!({ "password_file": "/etc/shadow", "remote_url": "http://evil.test" });
    assert_eq!(ada("PUT", "/api/repository/vault", file).await.status, 403);
    assert_eq!(ada("DELETE", "/api/grants?user=bob&repository=vault", Value::Null).await.status, 204);
}
