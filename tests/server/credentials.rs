//! How the server shows itself to an upstream: passwords from files, tokens, certificates of one's own.

use serde_json::json;

use super::house::{House, blob, manifest};
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::upstream::{Access, Options, Registry};

async fn registry(options: Options, image: &Image) -> Registry {
    let registry = Registry::start(options).await;
    registry.add_image("library/redis", "7", image);
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_for_many_and_anew_when_it_is_refused() {
    let image = Image::new(301, &[50_000, 60_000, 70_000]);
    let access = Access::anonymous_token();
    let registry = registry(Options { access, ..Options::default() }, &image).await;
    let house = std::sync::Arc::new(House::beside(&registry).await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (house, image) = (house.clone(), image.clone());
        clients.spawn(async move { house.pull("redis", "7", &image).await });
    }
    clients.join_all().await;
    assert_eq!(registry.asked("GET /token").len(), 1);
    registry.revoke_tokens();
    house.api("POST", "/api/purge", &json!({ "repository": "docker-remote", "all": true })).await;
    house.cache("redis", "7", &image).await;
    assert_eq!(registry.asked("GET /token").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_may_lie_in_a_file_of_its_own() {
    let image = Image::new(302, &[50_000]);
    for access in [Access::basic("ada", "from-a-file"), Access::token_for("ada", "from-a-file")] {
        let registry = registry(Options { access, ..Options::default() }, &image).await;
        let secrets = tempfile::tempdir().unwrap();
        let file = secrets.path().join("password");
        std::fs::write(&file, "from-a-file\n").unwrap();
        let fields = json!({ "username": "ada", "password_file": file });
        let house = House::beside_with(&registry, &[], fields).await;
        let shown = house.get("/api/repository/docker-remote").await.json();
        assert_eq!((&shown["password_file"], &shown["password_set"]), (&json!(file), &json!(false)));
        house.cache("redis", "7", &image).await;
    }
}

/// The file is gone when the server starts again. The other repositories, and what is cached, must not suffer.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_of_one_remote_keeps_nothing_else_from_starting() {
    let image = Image::new(303, &[50_000, 60_000]);
    let access = Access::basic("ada", "secret");
    let registry = registry(Options { access, ..Options::default() }, &image).await;
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, "secret").unwrap();
    let fields = json!({ "username": "ada", "password_file": file });
    let house = House::beside_with(&registry, &[], fields).await;
    let (cached, other) = (&image.layers[0], &image.layers[1]);
    assert_eq!(house.get(&manifest("redis", "7")).await.status, 200);
    assert_eq!(house.get(&blob("redis", cached)).await.status, 200);
    std::fs::remove_file(&file).unwrap();

    let house = house.restart().await;
    assert_eq!(house.get(&blob("redis", cached)).await.body, cached.bytes);
    let (status, code, message) = house.get(&blob("redis", other)).await.error();
    assert_eq!((status, code.as_str()), (502, "UNAVAILABLE"));
    assert!(message.contains("name a file that could not be read"), "{message}");
    let (status, field, _) =
        house.api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "1m" })).await.api_error();
    assert_eq!((status, field.as_str()), (400, "password_file"), "a change tells what is wrong");

    std::fs::write(&file, "secret").unwrap();
    let mended = house.api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "1m" })).await;
    assert_eq!(mended.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert_eq!(house.get(&blob("redis", other)).await.body, other.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_certificate_of_its_own_is_trusted_by_name() {
    let image = Image::new(304, &[50_000]);
    let registry = registry(Options { tls: true, ..Options::default() }, &image).await;
    let house = House::beside(&registry).await;
    let (status, code, message) = house.get(&manifest("redis", "7")).await.error();
    assert_eq!((status, code.as_str()), (502, "UNAVAILABLE"), "not 404: {message}");
    assert!(message.to_lowercase().contains("certificate"), "{message}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, registry.ca_pem()).unwrap();
    let trusted = house.api("PUT", "/api/repository/docker-remote", &json!({ "ca_file": file })).await;
    assert_eq!(trusted.status, 200, "{}", trusted.all());
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    house.cache("redis", "7", &image).await;
    house.restart().await.cache("redis", "7", &image).await;
}

/// Our own credentials are wrong: that is an upstream which does not answer, and no affair of the client's. A 401
/// would make docker ask its user for a password, or send one.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_our_credentials_is_never_passed_on_as_a_log_in() {
    let image = Image::new(305, &[50_000]);
    for access in [Access::basic("ada", "right"), Access::token_for("ada", "right")] {
        let registry = registry(Options { access, ..Options::default() }, &image).await;
        let fields = json!({ "username": "ada", "password": "canary" });
        let house = House::beside_with(&registry, &[], fields).await;
        for path in [manifest("redis", "7"), blob("redis", &image.layers[0])] {
            let answer = house.get(&path).await;
            let (status, code, message) = answer.error();
            assert_eq!((status, code.as_str()), (502, "UNAVAILABLE"), "{path}");
            assert_eq!(answer.header("www-authenticate"), None);
            assert!(message.contains("refuses the configured user name and password"), "{message}");
            assert!(!message.contains("canary"), "{message}");
        }
    }
}

/// Blobs of large registries come from a CDN, at a signed address that takes no other authorisation.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_is_followed_without_the_password() {
    let image = Image::new(307, &[50_000]);
    let upstream =
        registry(Options { access: Access::basic("ada", "secret"), ..Options::default() }, &image).await;
    let cdn = registry(Options::default(), &image).await;
    let layer = &image.layers[0];
    let signed = format!("{}v2/library/redis/blobs/{}?signature=s", cdn.url_as("localhost"), layer.digest);
    upstream.always(&layer.digest.to_string(), Fault::Redirect(signed));
    let fields = json!({ "username": "ada", "password": "secret" });
    let house = House::beside_with(&upstream, &[], fields).await;
    assert_eq!(house.get(&manifest("redis", "7")).await.status, 200);
    // An address of this machine that no administrator wrote down is not visited.
    let (status, code, _) = house.get(&blob("redis", layer)).await.error();
    assert_eq!((status, code.as_str()), (502, "UNAVAILABLE"));
    assert!(cdn.log().is_empty());

    let allowed = json!({ "allowed_hosts": ["localhost"] });
    assert_eq!(house.api("PUT", "/api/repository/docker-remote", &allowed).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert_eq!(house.get(&blob("redis", layer)).await.body, layer.bytes);
    assert!(!cdn.log().is_empty());
    assert!(cdn.log().iter().all(|seen| !seen.authorized()));
}
