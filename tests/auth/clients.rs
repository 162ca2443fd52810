//! What clients send, in the order in which they send it, as it was recorded: docker, podman and its kin, containerd.

use super::client::{Answer, Request};
use super::house::{ADA, BOB, CLIENT, House};

/// The path and query of the realm, with these parameters: the server is where it always is.
fn token_path(challenge: &Answer, parameters: &str) -> String {
    let realm = challenge.challenge("realm").expect("a Bearer challenge");
    let (_, rest) = realm.split_once("//").expect("an absolute URL");
    let path = rest.find('/').map_or("/", |slash| &rest[slash..]);
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{parameters}")
}

fn service(challenge: &Answer) -> String {
    challenge.challenge("service").expect("a service").replace(':', "%3A")
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in() {
    let house = House::new().await;
    let ping = house.get("/v2/").await;
    assert_eq!(ping.status, 401);
    let service = service(&ping);
    let path = |user: &str| {
        let parameters = format!("account={user}&client_id=docker&offline_token=true&service={service}");
        token_path(&ping, &parameters)
    };
    let answer = house.request("GET", &path("bob")).basic(BOB.0, BOB.1).send().await;
    let body = answer.json();
    assert_eq!(body["token"], body["access_token"]);
    assert_eq!(body["expires_in"], 300);
    assert!(body["issued_at"].as_str().unwrap().ends_with('Z'));
    assert!(body.get("refresh_token").is_none(), "podman refuses to read an identity token");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(house.request("GET", "/v2/").bearer(&answer.token()).send().await.status, 200);
    let wrong = house.request("GET", &path("bob")).basic(BOB.0, "wrong").send().await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "UNAUTHORIZED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_without_a_log_in_and_pushes_with_one_to_the_same_host() {
    let house = House::new().await;
    let ping = house.get("/v2/").await;
    let service = service(&ping);
    let scope = "repository%3Aopen-remote%2Fteam%2Fapp%3Apull";
    let path = token_path(&ping, &format!("scope={scope}&service={service}"));
    let token = house.get(&path).await.token();
    for path in ["/v2/open-remote/team/app/manifests/1", "/v2/"] {
        assert_eq!(house.request("HEAD", path).bearer(&token).send().await.status, 200, "{path}");
    }
    // A push asks for both, and once more for each mount.
    let scopes = "scope=repository%3Adocker-local%2Fteam%2Fapp%3Apush%2Cpull\
                  &scope=repository%3Adocker-local%2Fteam%2Fbase%3Apull";
    let path = token_path(&ping, &format!("account=ada&{scopes}&service={service}"));
    let token = house.request("GET", &path).basic(ADA.0, ADA.1).send().await.token();
    let upload =
        house.request("POST", "/v2/docker-local/team/app/blobs/uploads/").bearer(&token).send().await;
    assert!(!matches!(upload.status, 401 | 403 | 404), "{}", upload.status);
    let read = house.request("HEAD", "/v2/docker-local/team/base/manifests/1").bearer(&token).send().await;
    assert_eq!(read.status, 404, "it may be read, and is not there");
    // What nobody granted is left out, and no error.
    let token = house.get(&token_path(&ping, &format!("{scopes}&service={service}"))).await.token();
    let upload =
        house.request("POST", "/v2/docker-local/team/app/blobs/uploads/").bearer(&token).send().await;
    assert_eq!(upload.status, 401);
}

/// An older docker may have kept an identity token from elsewhere under this name.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_no_way_in() {
    let house = House::new().await;
    let form =
        "client_id=docker&grant_type=refresh_token&refresh_token=x&scope=repository%3Ax%3Apull&service=s";
    for request in [house.request("POST", "/token"), house.request("POST", "/token").chunked()] {
        let answer = request.form(form).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_and_skopeo_pull_and_push() {
    let house = House::new().await;
    let ping = house.get("/v2/").await;
    let service = service(&ping);
    let scope = "repository%3Adocker-local%2Fteam%2Fapp%3Apull%2Cpush";
    let path = token_path(&ping, &format!("account=ada&scope={scope}&service={service}"));
    // Six layers at once, each with a token of its own.
    let mut tokens = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let request = house.request("GET", &path).basic(ADA.0, ADA.1);
        tokens.spawn(async move { request.send().await.token() });
    }
    for token in tokens.join_all().await {
        let start = house.request("POST", "/v2/docker-local/team/app/blobs/uploads/").bearer(&token);
        assert!(!matches!(start.send().await.status, 401 | 403 | 404));
    }
    // Without a log-in, some send an empty name and an empty password.
    let scope = "repository%3Aopen-remote%2Fteam%2Fapp%3Apull";
    let path = token_path(&ping, &format!("scope={scope}&service={service}"));
    let token = house.request("GET", &path).basic("", "").send().await.token();
    let pull = house.request("GET", "/v2/open-remote/team/app/manifests/1").bearer(&token).send().await;
    assert_eq!(pull.status, 200);
}

/// containerd tries first, then posts the password, and falls back to GET where that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn containerd_logs_in_by_form_in_both_framings() {
    let house = House::new().await;
    let first = house.request("HEAD", "/v2/vault/team/app/manifests/1").send().await;
    assert_eq!(first.status, 401);
    let scope = first.challenge("scope").expect("a scope").replace(':', "%3A").replace('/', "%2F");
    let (service, path) = (service(&first), token_path(&first, "x=y"));
    let form = format!(
        "client_id=containerd-client&grant_type=password&password={}&scope={scope}&service={service}&username={}",
        ADA.1, ADA.0
    );
    for request in [house.request("POST", &path), house.request("POST", &path).chunked()] {
        let answer = request.form(&form).send().await;
        let body = answer.json();
        assert_eq!(body["scope"], "repository:vault/team/app:pull", "{body}");
        assert_eq!(body["access_token"], body["token"]);
        let pull = house.request("HEAD", "/v2/vault/team/app/manifests/1").bearer(&answer.token());
        assert_eq!(pull.send().await.status, 200);
    }
    let wrong = house.request("POST", &path).form(&form.replace(ADA.1, "wrong")).send().await;
    assert_eq!(wrong.status, 401);
    // Anonymous is a GET.
    let first = house.request("HEAD", "/v2/docker-local/x/manifests/1").send().await;
    let token = house.get(&token_path(&first, "scope=repository%3Adocker-local%2Fx%3Apull")).await.token();
    let pull = house.request("HEAD", "/v2/docker-local/x/manifests/1").bearer(&token).send().await;
    assert_eq!(pull.status, 401);
}

/// Thirteen at once may meet the 401 before the first of them has a token.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_log_in_as_one() {
    let house = House::new().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..13 {
        let request = house.request("GET", "/v2/vault/team/app/manifests/1").basic(ADA.0, ADA.1);
        requests.spawn(async move { request.send().await.status });
    }
    let statuses = requests.join_all().await;
    // Eight may wait while the first is checked; those behind them are told to come again.
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 200).count() >= 9, "{statuses:?}");
    assert_eq!(house.request("GET", "/v2/").basic(ADA.0, ADA.1).send().await.status, 200);
}

/// Through whichever door a client came, the realm leads it to a token for what it asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_realm_fits_every_way_to_address_a_repository() {
    let house = House::new().await;
    let port = house.port();
    let plain = format!("localhost:{port}");
    let by_host = format!("vault.localhost:{port}");
    let cases = [
        (plain.as_str(), None, "/v2/vault/team/app/manifests/1", "vault/team/app", "/token"),
        (&by_host, None, "/v2/team/app/manifests/1", "team/app", "/token"),
        (&plain, None, "/repo/vault/v2/team/app/manifests/1", "team/app", "/repo/vault/token"),
        (&plain, None, "/v2/team/app/manifests/1?ns=vault.test", "team/app", "/token?ns=vault.test"),
    ];
    for (host, prefix, path, name, realm) in cases {
        walk(&house, host, prefix, path, name, &format!("http://{host}{realm}")).await;
    }
    // Behind a proxy that speaks TLS and rewrites: what clients see has no prefix, or another.
    let mapped = "/repo/vault/v2/team/app/manifests/1";
    for (prefix, realm) in
        [("/", "https://vault.example.com/token"), ("/a", "https://vault.example.com/a/token")]
    {
        let first = proxied(&house, "GET", mapped, prefix).send().await;
        assert_eq!(first.challenge("realm").as_deref(), Some(realm));
        assert_eq!(first.challenge("scope").as_deref(), Some("repository:team/app:pull"));
        let token = proxied(&house, "GET", "/repo/vault/token?scope=repository:team/app:pull", prefix);
        let token = token.basic(ADA.0, ADA.1).send().await.token();
        assert_eq!(proxied(&house, "GET", mapped, prefix).bearer(&token).send().await.status, 200);
    }
}

fn proxied(house: &House, method: &str, path: &str, prefix: &str) -> Request {
    Request::new(house.address, method, path)
        .host("127.0.0.1")
        .header("X-Forwarded-For", CLIENT)
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "vault.example.com")
        .header("X-Forwarded-Prefix", prefix)
}

async fn walk(house: &House, host: &str, prefix: Option<&str>, path: &str, name: &str, realm: &str) {
    let request = |path: &str| {
        let request = house.request("GET", path).host(host);
        prefix.map_or(request.clone(), |prefix| request.header("X-Forwarded-Prefix", prefix))
    };
    let first = request(path).send().await;
    assert_eq!(first.status, 401, "{path}");
    assert_eq!(first.challenge("realm").as_deref(), Some(realm), "{path}");
    assert_eq!(first.challenge("scope"), Some(format!("repository:{name}:pull")), "{path}");
    let service = service(&first);
    let asked = token_path(&first, &format!("scope=repository:{name}:pull&service={service}"));
    let token = request(&asked).basic(ADA.0, ADA.1).send().await.token();
    assert_eq!(request(path).bearer(&token).send().await.status, 200, "{path}");
}

/// All are sent to one public name, and come from many: the service tells which name meant what.
#[tokio::test(flavor = "multi_thread")]
async fn a_public_url_is_the_realm_of_all() {
    let house = House::with_users("public_url = \"https://registry.example.com\"").await;
    let host = format!("vault.localhost:{}", house.port());
    let first = house.request("GET", "/v2/team/app/manifests/1").host(&host).send().await;
    assert_eq!(first.challenge("realm").as_deref(), Some("https://registry.example.com/token"));
    assert_eq!(first.challenge("service").as_deref(), Some(host.as_str()));
    let path = format!("/token?scope=repository:team/app:pull&service={}", service(&first));
    let token =
        house.request("GET", &path).host("registry.example.com").basic(ADA.0, ADA.1).send().await.token();
    let pull = house.request("GET", "/v2/team/app/manifests/1").host(&host).bearer(&token).send().await;
    assert_eq!(pull.status, 200);
}

/// curl, and containerd with a Basic challenge: the password with every request is hashed once.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_with_every_request_is_good_too() {
    let house = House::new().await;
    for _ in 0..20 {
        let pull = house.request("GET", "/v2/vault/team/app/manifests/1").basic(ADA.0, ADA.1).send().await;
        assert_eq!(pull.status, 200);
    }
}
