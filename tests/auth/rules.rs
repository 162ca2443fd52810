//! The rules: who is asked to log in, who is told that there is nothing, and who gets it.

use super::client::Answer;
use super::house::{ADA, ADMIN_TOKEN, BOB, CLIENT, EVE, House};

const MANIFEST: &str = "/v2/vault/team/app/manifests/1";

fn upload(repository: &str, image: &str) -> String {
    format!("/v2/{repository}/{image}/blobs/uploads/")
}

/// Whether the request got past the question who may.
fn passed(answer: &Answer) -> bool {
    !matches!(answer.status, 401 | 403 | 404 | 429 | 500..)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_users_everybody_pulls_and_this_machine_pushes() {
    let house = House::open().await;
    assert_eq!(house.get("/v2/").await.status, 200);
    assert_eq!(house.get("/v2/docker-remote/redis/manifests/7").await.status, 200);
    assert_eq!(house.get("/v2/docker-local/x/manifests/7").await.status, 404);
    // Stored credentials are for this machine, or for whom the settings say.
    let refused = house.get(MANIFEST).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "DENIED"));
    assert!(refused.header("www-authenticate").is_none());
    let near = super::client::Request::new(house.address, "GET", MANIFEST);
    assert_eq!(near.send().await.status, 200);
    // Pushes are from here.
    let near = super::client::Request::new(house.address, "POST", &upload("docker-local", "x"));
    assert!(passed(&near.clone().send().await));
    assert_eq!(near.clone().host("evil.test").send().await.status, 403);
    assert_eq!(near.header("Origin", "http://evil.test").send().await.status, 403);
    assert_eq!(house.request("POST", &upload("docker-local", "x")).send().await.status, 403);
}

/// A proxy in front may have asked for a password of its own, and passes it on.
#[tokio::test(flavor = "multi_thread")]
async fn without_users_credentials_mean_nothing() {
    let house = House::open().await;
    for path in ["/v2/", "/v2/docker-remote/redis/manifests/7"] {
        assert_eq!(house.request("GET", path).basic("proxy", "user").send().await.status, 200);
        assert_eq!(house.request("GET", path).bearer("x").send().await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_users_the_base_asks_for_a_token() {
    let house = House::new().await;
    let answer = house.get("/v2/").await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"));
    let port = house.port();
    let expected = format!("Bearer realm=\"http://localhost:{port}/token\",service=\"localhost:{port}\"");
    assert_eq!(answer.header("www-authenticate"), Some(expected.as_str()));
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    assert_eq!(house.request("GET", "/v2/").basic(ADA.0, ADA.1).send().await.status, 200);
    assert_eq!(house.request("GET", "/v2/").bearer(ADMIN_TOKEN).send().await.status, 200);
    // An empty name with an empty password is nobody.
    assert_eq!(house.request("GET", "/v2/").basic("", "").send().await.status, 401);
}

/// Anonymous or wrong: the same answer whether there is something or not.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_asked_to_log_in_whether_there_is_something_or_not() {
    let house = House::new().await;
    let digest = house.image.layers[0].digest;
    let paths = [
        (MANIFEST.to_owned(), "vault/team/app:pull"),
        ("/v2/vault/team/nothing/manifests/1".to_owned(), "vault/team/nothing:pull"),
        (format!("/v2/vault/team/app/blobs/{digest}"), "vault/team/app:pull"),
        ("/v2/vault/team/app/tags/list".to_owned(), "vault/team/app:pull"),
        ("/v2/docker-local/team/app/manifests/1".to_owned(), "docker-local/team/app:pull"),
        ("/v2/redis/manifests/7".to_owned(), "redis:pull"),
        ("/v2/typo/redis/manifests/7".to_owned(), "typo/redis:pull"),
        ("/v2/redis/manifests/7?ns=nowhere.test".to_owned(), "redis:pull"),
        ("/repo/typo/v2/redis/manifests/7".to_owned(), "redis:pull"),
        ("/repo/vault/v2/team/app/manifests/1".to_owned(), "team/app:pull"),
    ];
    let seen = house.registry.asked("").len();
    for (path, scope) in &paths {
        for answer in [house.get(path).await, house.request("GET", path).basic("", "").send().await] {
            assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{path}");
            assert_eq!(answer.challenge("scope"), Some(format!("repository:{scope}")), "{path}");
        }
    }
    for host in ["typo.localhost", "vault.localhost"] {
        let answer = house.request("GET", "/v2/team/app/manifests/1").host(host).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{host}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("docker-local"));
    }
    let push = house.request("POST", &upload("docker-local", "team/app")).send().await;
    assert_eq!(push.status, 401);
    assert_eq!(push.challenge("scope").as_deref(), Some("repository:docker-local/team/app:pull,push"));
    let delete = house.request("DELETE", "/v2/docker-local/team/app/manifests/1").send().await;
    assert_eq!(delete.challenge("scope").as_deref(), Some("repository:docker-local/team/app:delete"));
    let catalog = house.get("/v2/_catalog").await;
    assert_eq!((catalog.status, catalog.challenge("scope").as_deref()), (401, Some("registry:catalog:*")));
    assert_eq!(house.registry.asked("").len(), seen, "nothing was looked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_granted_something_gets_that_and_no_more() {
    let house = House::new().await;
    let as_user = |method: &str, path: &str, (user, password): (&str, &str)| {
        house.request(method, path).basic(user, password).send()
    };
    assert_eq!(as_user("GET", MANIFEST, ADA).await.status, 200);
    assert_eq!(as_user("GET", MANIFEST, EVE).await.status, 200);
    assert!(passed(&as_user("POST", &upload("docker-local", "team/app"), ADA).await));
    assert!(passed(&as_user("POST", &upload("docker-local", "other"), EVE).await));
    // Known, and not for this: that may be said.
    let delete = as_user("DELETE", "/v2/docker-local/team/app/manifests/1", ADA).await;
    assert_eq!((delete.status, delete.code().as_str()), (403, "DENIED"));
    // A remote takes no pushes from anybody who may read it.
    assert_eq!(as_user("POST", &upload("vault", "team/app"), ADA).await.status, 405);
    house.grant("ada", "docker-local", "team/*", "delete").await;
    let delete = as_user("DELETE", "/v2/docker-local/team/app/manifests/1", ADA).await;
    assert!(!matches!(delete.status, 401 | 403), "{}", delete.status);
    // Taken back.
    let path = "/api/grants?user=ada&repository=vault&images=%2A";
    assert_eq!(house.manage("DELETE", path, None).await.status, 204);
    assert_eq!(as_user("GET", MANIFEST, ADA).await.status, 404);
}

/// What somebody who logged in may not see is answered as what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_see_does_not_exist() {
    let house = House::new().await;
    house.grant("bob", "docker-local", "mine/*", "read").await;
    let digest = house.image.layers[0].digest;
    let bob = |method: &str, path: &str| house.request(method, path).basic(BOB.0, BOB.1).send();
    // An image beside one's own, and one that nobody has.
    for rest in ["manifests/1", &format!("blobs/{digest}"), "tags/list", &format!("referrers/{digest}")] {
        let hidden = bob("GET", &format!("/v2/docker-local/team/app/{rest}")).await;
        let absent = bob("GET", &format!("/v2/docker-local/mine/app/{rest}")).await;
        assert_eq!(hidden.status, absent.status, "{rest}");
        let (hidden, absent) = (hidden.body, String::from_utf8_lossy(&absent.body).replace("mine/", "team/"));
        assert_eq!(String::from_utf8_lossy(&hidden), absent, "{rest}");
    }
    // A repository that one knows nothing of, and one that is not there.
    let text = |answer: Answer, name: &str| String::from_utf8_lossy(&answer.body).replace(name, "NAME");
    for (method, rest) in [
        ("GET", "team/app/manifests/1"),
        ("GET", "team/app/tags/list"),
        ("POST", "team/app/blobs/uploads/"),
        ("DELETE", "team/app/manifests/1"),
    ] {
        let hidden = bob(method, &format!("/repo/vault/v2/{rest}")).await;
        let absent = bob(method, &format!("/repo/typo/v2/{rest}")).await;
        assert_eq!((hidden.status, absent.status), (404, 404), "{rest}");
        let hidden = text(hidden, "vault");
        assert_eq!(hidden, text(absent, "typo"), "{rest}");
        assert!(hidden.contains("docker-local") && hidden.contains("open-remote"), "{hidden}");
        assert!(!hidden.contains("docker-remote"), "{hidden}");
    }
    let host = |host: &'static str| {
        house.request("GET", "/v2/team/app/manifests/1").host(host).basic(BOB.0, BOB.1).send()
    };
    assert_eq!(text(host("vault.localhost").await, "vault"), text(host("typo.localhost").await, "typo"));
    assert_eq!(bob("GET", "/v2/vault/team/app/manifests/1").await.status, 404);
    assert_eq!(house.registry.asked("team/app").len(), 0, "nothing was looked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_everybody_may_read_needs_no_log_in_and_a_push_there_does() {
    let house = House::new().await;
    assert_eq!(house.get("/v2/open-remote/team/app/manifests/1").await.status, 200);
    // Nothing was pushed yet.
    assert_eq!(house.get("/v2/public-local/app/manifests/1").await.status, 404);
    let push = house.request("POST", &upload("public-local", "app")).send().await;
    assert_eq!((push.status, push.challenge("scope").is_some()), (401, true));
    let push = house.request("POST", &upload("public-local", "app")).basic(BOB.0, BOB.1).send().await;
    assert_eq!((push.status, push.code().as_str()), (403, "DENIED"));
    // The password of somebody else's account, which dockerd would send to a mirror, is nothing to a mirror.
    let mirror = "/v2/team/app/manifests/1?ns=open.test";
    assert_eq!(house.request("GET", mirror).basic("hub-user", "hub-password").send().await.status, 200);
    assert_eq!(house.request("GET", mirror).bearer("nonsense").send().await.status, 200);
}

/// A dockerd that mirrors cannot log in: its way in is the host of a remote that everybody may read.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_for_dockerd_never_answers_401() {
    let house = House::new().await;
    let host = format!("open-remote.localhost:{}", house.port());
    let ask = |path: &str| house.request("GET", path).host(&host).send();
    assert_eq!(ask("/v2/").await.status, 200);
    assert_eq!(ask("/v2/team/app/manifests/1").await.status, 200);
    let digest = house.image.layers[0].digest;
    assert_eq!(ask(&format!("/v2/team/app/blobs/{digest}")).await.status, 200);
    assert_eq!(ask("/v2/team/nothing/manifests/1").await.status, 404);
    // By path alike; and what is not open, or takes pushes, asks.
    assert_eq!(house.get("/repo/open-remote/v2/").await.status, 200);
    for closed in ["/repo/vault/v2/", "/repo/docker-local/v2/", "/repo/public-local/v2/", "/repo/typo/v2/"] {
        assert_eq!(house.get(closed).await.status, 401, "{closed}");
    }
    // The default mirror by the plain address, once it is open.
    assert_eq!(house.get("/v2/redis/manifests/7").await.status, 401);
    let open = serde_json::json!({ "anonymous_pull": true });
    assert_eq!(house.manage("PUT", "/api/repository/docker-remote", Some(&open)).await.status, 200);
    assert_eq!(house.get("/v2/redis/manifests/7").await.status, 200);
    assert_eq!(house.get("/v2/library/redis/manifests/7?ns=docker.io").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_access_keeps_remotes_without_credentials_open() {
    let house = House::with_users("open_access = true").await;
    assert_eq!(house.get("/v2/docker-remote/redis/manifests/7").await.status, 200);
    assert_eq!(house.get("/v2/redis/manifests/7").await.status, 200);
    assert_eq!(house.get(MANIFEST).await.status, 401);
    assert_eq!(house.get("/v2/docker-local/team/app/manifests/1").await.status, 401);
}

/// An upstream that is changed gives the repository another number. Grants were lost with the old one.
#[tokio::test(flavor = "multi_thread")]
async fn grants_outlive_another_upstream_and_die_with_the_repository() {
    let house = House::new().await;
    let ada = |path: &'static str| house.request("GET", path).basic(ADA.0, ADA.1).send();
    let elsewhere = format!("http://localhost:{}", house.registry.url().port().unwrap());
    let moved = serde_json::json!({ "remote_url": elsewhere, "username": "u", "password": "canary-moved" });
    assert_eq!(house.manage("PUT", "/api/repository/vault", Some(&moved)).await.status, 200);
    assert_eq!(ada(MANIFEST).await.status, 200);
    assert_eq!(house.manage("DELETE", "/api/repository/vault", None).await.status, 204);
    let again = serde_json::json!({ "name": "vault", "repo_type": "remote", "remote_url": elsewhere });
    assert_eq!(house.manage("POST", "/api/repository", Some(&again)).await.status, 201);
    assert_eq!(ada(MANIFEST).await.status, 404, "a namesake inherits nothing");
    let grants = house.manage("GET", "/api/grants?user=ada", None).await.json();
    assert_eq!(grants["grants"].as_array().unwrap().len(), 1, "{grants}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_survive_a_restart_with_all_that_belongs_to_them() {
    let house = House::new().await;
    let ticket = house.ticket(Some(ADA), "repository:vault/team/app:pull").await;
    let house = house.restart().await;
    assert_eq!(house.request("GET", MANIFEST).basic(ADA.0, ADA.1).send().await.status, 200);
    assert_eq!(house.request("GET", MANIFEST).basic(BOB.0, BOB.1).send().await.status, 404);
    assert_eq!(house.request("GET", MANIFEST).bearer(&ticket).send().await.status, 200);
    assert_eq!(house.request("GET", MANIFEST).through_proxy(CLIENT).send().await.status, 401);
}
