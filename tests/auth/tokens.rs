//! Short-lived tokens and access tokens: what they are good for, and when they are not any more.

use serde_json::json;

use super::house::{ADA, BOB, EVE, House};

const MANIFEST: &str = "/v2/vault/team/app/manifests/1";
const PULL: &str = "repository:vault/team/app:pull";

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_for_what_was_asked_and_granted() {
    let house = House::new().await;
    let with = |method: &str, path: &str, token: &str| house.request(method, path).bearer(token).send();
    let both = house.ticket(Some(ADA), &format!("{PULL}+repository:docker-local/team/app:*")).await;
    assert_eq!(with("GET", MANIFEST, &both).await.status, 200);
    let upload = with("POST", "/v2/docker-local/team/app/blobs/uploads/", &both).await.status;
    assert!(!matches!(upload, 401 | 403 | 404), "{upload}");
    // Another image of the same repository was not asked for: the client may ask for more.
    let other = with("GET", "/v2/vault/library/redis/manifests/7", &both).await;
    assert_eq!(other.status, 401);
    assert_eq!(other.challenge("error").as_deref(), Some("insufficient_scope"));
    assert_eq!(other.challenge("scope").as_deref(), Some("repository:vault/library/redis:pull"));
    // To push was not granted, and asking got no error.
    let too_much = house.ticket(Some(ADA), "repository:docker-local/other:pull,push").await;
    assert_eq!(with("POST", "/v2/docker-local/other/blobs/uploads/", &too_much).await.status, 404);
    // A ticket is no log-in: it gets no other ticket, and does not manage.
    let more = with("GET", &format!("/token?scope={PULL}"), &both).await;
    assert_eq!(more.status, 401);
    let admin = house.ticket(Some(EVE), PULL).await;
    assert_eq!(house.api("GET", "/api/users").bearer(&admin).send().await.status, 401);
}

/// What a path means is known after the first pull. All is one thread here, so that each request finds it known.
#[tokio::test]
async fn who_may_pull_is_asked_each_time() {
    let house = House::new().await;
    let [ada, bob] = [house.ticket(Some(ADA), PULL).await, house.ticket(Some(BOB), PULL).await];
    let pull = async |ticket: &str| {
        let answer = house.request("GET", MANIFEST).bearer(ticket).send().await;
        (answer.status, answer.header("x-cache").map(str::to_owned))
    };
    let hit = || Some("hit".to_owned());
    assert_eq!(pull(&ada).await.0, 200);
    for _ in 0..3 {
        assert_eq!(pull(&ada).await, (200, hit()));
        assert_eq!(pull(&bob).await, (404, None));
        assert_eq!(house.get(MANIFEST).await.status, 401);
    }
    let open = json!({ "anonymous_pull": true });
    assert_eq!(house.manage("PUT", "/api/repository/vault", Some(&open)).await.status, 200);
    assert_eq!(pull(&bob).await, (200, hit()));
    let closed = json!({ "anonymous_pull": false });
    assert_eq!(house.manage("PUT", "/api/repository/vault", Some(&closed)).await.status, 200);
    assert_eq!(pull(&bob).await, (404, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_dies_with_what_it_rests_on() {
    let house = House::new().await;
    let status = async |token: &str| house.request("GET", MANIFEST).bearer(token).send().await.status;
    let ticket = house.ticket(Some(ADA), PULL).await;
    assert_eq!(status(&ticket).await, 200);
    let taken = house.manage("DELETE", "/api/grants?user=ada&repository=vault&images=%2A", None).await;
    assert_eq!(taken.status, 204);
    assert_eq!(status(&ticket).await, 404);
    house.grant("ada", "vault", "team/*", "read").await;
    assert_eq!(status(&ticket).await, 200);
    let disabled = json!({ "disabled": true });
    assert_eq!(house.manage("PUT", "/api/users/ada", Some(&disabled)).await.status, 200);
    assert_eq!(status(&ticket).await, 401);
    assert_eq!(house.request("GET", "/v2/").basic(ADA.0, ADA.1).send().await.status, 401);
    assert_eq!(house.manage("PUT", "/api/users/ada", Some(&json!({ "disabled": false }))).await.status, 200);
    assert_eq!(status(&ticket).await, 200);
    // Somebody made anew under the same name is somebody else.
    assert_eq!(house.manage("DELETE", "/api/users/ada", None).await.status, 204);
    let again = json!({ "name": "ada", "password": ADA.1 });
    assert_eq!(house.manage("POST", "/api/users", Some(&again)).await.status, 201);
    house.grant("ada", "vault", "*", "read").await;
    assert_eq!(status(&ticket).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_in_force_at_once() {
    let house = House::new().await;
    let status =
        async |password: &str| house.request("GET", "/v2/").basic("bob", password).send().await.status;
    assert_eq!(status(BOB.1).await, 200);
    let changed = json!({ "password": "canary-another-password" });
    assert_eq!(house.manage("PUT", "/api/users/bob", Some(&changed)).await.status, 200);
    assert_eq!((status(BOB.1).await, status("canary-another-password").await), (401, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_stands_for_its_user_or_for_itself() {
    let house = House::new().await;
    let make = async |body: serde_json::Value| {
        let answer = house.manage("POST", "/api/tokens", Some(&body)).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        let body = answer.json();
        (body["id"].as_str().unwrap().to_owned(), body["token"].as_str().unwrap().to_owned())
    };
    let scope =
        |repository, images, role| json!({ "repository": repository, "images": images, "role": role });
    let (_, of_ada) = make(json!({ "name": "laptop", "user": "ada" })).await;
    let (_, narrow) =
        make(json!({ "name": "narrow", "user": "ada", "scopes": [scope("vault", "other/*", "admin")] }))
            .await;
    let (id, robot) =
        make(json!({ "name": "ci", "robot": true, "scopes": [scope("vault", "team/*", "read")] })).await;
    assert!(robot.starts_with("brt_") && robot.len() == 36, "{}", robot.len());
    // In a password's place, as a bearer, and at the token endpoint.
    for token in [&of_ada, &robot] {
        assert_eq!(house.request("GET", MANIFEST).basic("whoever", token).send().await.status, 200);
        assert_eq!(house.request("GET", MANIFEST).bearer(token).send().await.status, 200);
        let ticket = house.ticket(Some(("", token)), PULL).await;
        assert_eq!(house.request("GET", MANIFEST).bearer(&ticket).send().await.status, 200);
    }
    assert_eq!(house.request("GET", MANIFEST).basic("ada", &narrow).send().await.status, 404);
    let push = house.request("POST", "/v2/docker-local/team/app/blobs/uploads/");
    assert!(!matches!(push.clone().basic("x", &of_ada).send().await.status, 401 | 403 | 404));
    assert_eq!(push.basic("x", &robot).send().await.status, 404);
    // Revoked, with the tickets that it got.
    let ticket = house.ticket(Some(("ci", &robot)), PULL).await;
    assert_eq!(house.manage("DELETE", &format!("/api/tokens/{id}"), None).await.status, 204);
    assert_eq!(house.request("GET", MANIFEST).basic("ci", &robot).send().await.status, 401);
    assert_eq!(house.request("GET", MANIFEST).bearer(&ticket).send().await.status, 401);
    // What is listed holds no token.
    let listed = house.manage("GET", "/api/tokens", None).await;
    let text = String::from_utf8_lossy(&listed.body).into_owned();
    assert!(text.contains("laptop") && !text.contains("brt_") && !text.contains("\"ci\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_ends_when_it_was_said_to() {
    let house = House::new().await;
    let body = json!({ "name": "short", "user": "ada", "expires": "3s" });
    let made = house.manage("POST", "/api/tokens", Some(&body)).await.json();
    let token = made["token"].as_str().unwrap();
    let ticket = house.ticket(Some(("ada", token)), PULL).await;
    tokio::time::sleep(std::time::Duration::from_millis(3_100)).await;
    assert_eq!(house.request("GET", MANIFEST).basic("ada", token).send().await.status, 401);
    assert_eq!(house.request("GET", MANIFEST).bearer(&ticket).send().await.status, 401);
}

/// `redis` and `library/redis` are one image of Docker Hub: a grant or ticket for the one is for the other.
#[tokio::test(flavor = "multi_thread")]
async fn docker_hubs_short_names_mean_the_same_in_grants_and_tickets() {
    let house = House::new().await;
    house.grant("bob", "docker-remote", "redis", "read").await;
    for name in ["redis", "library/redis", "docker-remote/redis", "docker-remote/library/redis"] {
        let ticket = house.ticket(Some(BOB), &format!("repository:{name}:pull")).await;
        for path in ["/v2/redis/manifests/7", "/v2/docker-remote/library/redis/manifests/7"] {
            let pull = house.request("GET", path).bearer(&ticket).send().await;
            assert_eq!(pull.status, 200, "{name} {path}");
        }
    }
}
