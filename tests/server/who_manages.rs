//! Who may manage: callers on this machine whom nobody borrows, and holders of the token.

use super::client::Ask;
use super::house::House;

const TRUSTING: super::house::Settings<'_> = &[
    ("server.trusted_proxies", "127.0.0.2/32"),
    ("server.open_access", "true"),
    ("server.api_hosts", "manage.test"),
];

fn list() -> Ask {
    Ask::get("/api/repository")
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_manages_and_nobody_borrows_it() {
    let house = House::with(TRUSTING).await;
    for host in ["localhost", "127.0.0.1", "[::1]:8081", "api.localhost"] {
        assert_eq!(house.send(list().host(host)).await.status, 200, "{host}");
    }
    // A proxy on this machine, trusted or not; a page of another site in a browser here.
    for (ask, status) in [
        (list().header("X-Forwarded-For", "127.0.0.1"), 401),
        (list().header("X-Real-IP", "127.0.0.1"), 401),
        (list().header("Forwarded", "for=127.0.0.1"), 401),
        (list().header("Via", "1.1 proxy"), 401),
        (list().from("127.0.0.2").header("X-Forwarded-Host", "localhost"), 401),
        (list().host("api.binaryrepo.local"), 401),
        (list().host("manage.test"), 401),
        (list().header("Authorization", "Bearer wrong"), 401),
        (list().header("Authorization", "Basic Og=="), 401),
        (list().header("Origin", "http://evil.test"), 403),
        (list().header("Origin", "null"), 403),
        (list().header("Sec-Fetch-Site", "cross-site"), 403),
    ] {
        let shown = format!("{ask:?}");
        let answer = house.send(ask).await;
        assert_eq!(answer.api_error().0, status, "{shown}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, (status == 401).then_some("Bearer realm=\"binaryrepo\""), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_what_a_stranger_does_not_see() {
    let house = House::with(TRUSTING).await;
    let bearer = format!("Bearer {}", house.token());
    let with_token = |ask: Ask| ask.header("Authorization", &bearer);
    for ask in [
        list().host("api.binaryrepo.local"),
        list().host("manage.test"),
        list().from("127.0.0.2").header("X-Forwarded-For", "203.0.113.1").host("api.example.com"),
        list().host("manage.test").header("Origin", "https://manage.test"),
    ] {
        let shown = format!("{ask:?}");
        assert_eq!(house.send(with_token(ask)).await.status, 200, "{shown}");
    }
    let foreign = with_token(list().header("Origin", "https://evil.test"));
    assert_eq!(house.send(foreign).await.api_error().0, 403, "a token does not excuse a foreign page");
    let made_under_another = house.restart().await;
    let answer = with_token(list().host("manage.test"));
    assert_eq!(made_under_another.send(answer).await.status, 200, "the token outlives a restart");
}

/// Where the management API is not, its paths look like any other that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_repositorys_host_shows_nothing_of_the_server() {
    let house = House::with(TRUSTING).await;
    let bearer = format!("Bearer {}", house.token());
    for host in ["docker-remote.binaryrepo.local", "docker-remote.localhost", "no-such.localhost"] {
        for path in ["/api", "/api/repository", "/api/repository/docker-remote", "/metrics"] {
            let answer = house.send(Ask::get(path).host(host).header("Authorization", &bearer)).await;
            assert_eq!(answer.code(), (404, "UNSUPPORTED".to_owned()), "{host}{path}");
        }
        assert_eq!(house.send(Ask::get("/healthz").host(host)).await.status, 200);
    }
    // A name that leads here by a trick with DNS.
    let answer = house.send(list().host("evil.test").header("Authorization", &bearer)).await;
    assert_eq!(answer.code(), (404, "UNSUPPORTED".to_owned()));
}

/// Who may not manage is told so before the body is looked at, and nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_changes_nothing() {
    let house = House::new().await;
    let form = serde_json::json!({ "name": "mine", "repo_type": "local" });
    for (method, path) in [
        ("POST", "/api/repository"),
        ("PUT", "/api/repository/docker-remote"),
        ("DELETE", "/api/repository/docker-local"),
        ("POST", "/api/purge"),
    ] {
        let ask = Ask::new(method, path).json(&form).header("X-Forwarded-For", "203.0.113.1");
        assert_eq!(house.send(ask).await.api_error().0, 401, "{method} {path}");
    }
    let listed = house.get("/api/repository").await.json();
    assert_eq!(listed["repositories"].as_array().unwrap().len(), 2);
}
