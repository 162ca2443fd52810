//! The five ways to address a repository, and the forms of what is handed out in each.

use serde_json::json;

use super::client::{Answer, Ask};
use super::house::{House, hub_with};
use super::support::image::{Content, Image};
use super::support::upstream::{Options, Registry};

/// Trusted in these tests; 127.0.0.1 is not.
const PROXY: &str = "127.0.0.2";
const TRUSTING: super::house::Settings<'_> =
    &[("server.trusted_proxies", "127.0.0.2/32"), ("server.open_access", "true")];

/// One image in its five ways: before `/manifests/`, behind it, and the host, where it matters.
const WAYS: [(&str, &str, Option<&str>); 8] = [
    ("/repo/docker-remote/v2/redis", "", None),
    ("/v2/redis", "", Some("docker-remote.localhost")),
    ("/v2/library/redis", "", Some("DOCKER-REMOTE.binaryrepo.local:443")),
    ("/v2/docker-remote/redis", "", None),
    ("/v2/redis", "?ns=docker.io", None),
    ("/v2/library/redis", "?ns=docker.io", None),
    ("/v2/redis", "", None),
    ("/v2/library/redis", "", None),
];

fn ask(base: &str, path: &str, query: &str, host: Option<&str>) -> Ask {
    let ask = Ask::get(&format!("{base}{path}{query}"));
    match host {
        Some(host) => ask.host(host),
        None => ask,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_is_found_in_all_five_ways_and_fetched_once() {
    let image = Image::new(101, &[100_000]);
    let (registry, house) = hub_with(&image, Options::default(), TRUSTING).await;
    let layer = &image.layers[0];
    for (number, (base, query, host)) in WAYS.into_iter().enumerate() {
        let manifest = house.send(ask(base, "/manifests/7", query, host)).await;
        assert_eq!(manifest.status, 200, "{base}{query} {host:?}: {}", manifest.all());
        assert_eq!(manifest.body, image.manifest.bytes);
        let blob = house.send(ask(base, &format!("/blobs/{}", layer.digest), query, host)).await;
        assert_eq!(blob.body, layer.bytes, "{base}{query}");
        let word = if number == 0 { "miss" } else { "hit" };
        assert_eq!((manifest.cache(), blob.cache()), (Some(word), Some(word)), "{base}{query} {host:?}");
        house.settled().await;
        let namespace = if query.is_empty() { None } else { Some("docker.io") };
        assert_eq!(blob.header("oci-namespace"), namespace, "{base}{query}");
    }
    // `redis` and `library/redis` are one image, to the upstream as well.
    assert_eq!(registry.asked("GET /v2/library/redis/manifests/").len(), 1);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
    assert!(registry.asked("/v2/redis/").is_empty());
    let listed = house.get("/api/images").await.json();
    assert_eq!(listed["images"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["images"][0]["image"], "library/redis");
}

/// The target of the one `Link`.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let target = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    Some(target.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_leads_on_in_the_form_in_which_the_request_came() {
    let image = Image::new(102, &[10]);
    let (registry, house) = hub_with(&image, Options::default(), TRUSTING).await;
    for tag in ["a", "b"] {
        registry.shelf().tag("library/redis", tag, image.manifest.digest);
    }
    for (base, query, host) in WAYS {
        let query = if query.is_empty() { "?n=2".to_owned() } else { format!("{query}&n=2") };
        let first = house.send(ask(base, "/tags/list", &query, host)).await;
        let spelt = base.split_once("/v2/").unwrap().1;
        assert_eq!(first.json(), json!({ "name": spelt, "tags": ["7", "a"] }), "{base}");
        let target = next(&first).expect("there is more");
        assert!(target.starts_with(&format!("{base}/tags/list?")), "{target} for {base}");
        // It leads on for this very client: the same host, nothing added.
        let rest = house.send(ask("", &target, "", host)).await;
        assert_eq!(rest.json(), json!({ "name": spelt, "tags": ["b"] }), "{target}");
        assert_eq!(next(&rest), None);
    }
}

/// A proxy that maps a name to `/repo/docker-remote` says what its clients see before `/v2/`. nginx sends no header
/// that is empty, so that "nothing" is written `/`.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_prefix_replaces_the_path_of_the_repository() {
    let image = Image::new(103, &[10]);
    let (registry, house) = hub_with(&image, Options::default(), TRUSTING).await;
    registry.shelf().tag("library/redis", "8", image.manifest.digest);
    let page = |from: &str, prefix: Option<&str>| {
        let ask = Ask::get("/repo/docker-remote/v2/redis/tags/list?n=1").from(from);
        prefix.map_or(ask.clone(), |prefix| ask.header("X-Forwarded-Prefix", prefix))
    };
    for (from, prefix, expected) in [
        (PROXY, Some("/"), "/v2/redis/tags/list?"),
        (PROXY, Some(""), "/v2/redis/tags/list?"),
        (PROXY, Some("/artifacts"), "/artifacts/v2/redis/tags/list?"),
        (PROXY, Some("/artifacts/"), "/artifacts/v2/redis/tags/list?"),
        (PROXY, None, "/repo/docker-remote/v2/redis/tags/list?"),
        // What would lead elsewhere is no prefix.
        (PROXY, Some("//evil.test"), "/repo/docker-remote/v2/redis/tags/list?"),
        (PROXY, Some("https://evil.test"), "/repo/docker-remote/v2/redis/tags/list?"),
        // A stranger's word does not count.
        ("127.0.0.1", Some("/"), "/repo/docker-remote/v2/redis/tags/list?"),
        ("127.0.0.1", Some("/evil"), "/repo/docker-remote/v2/redis/tags/list?"),
    ] {
        let answer = house.send(page(from, prefix)).await;
        let target = next(&answer).expect("there is more");
        assert!(target.starts_with(expected), "{from} {prefix:?}: {target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_without_its_slash_is_moved_within_the_clients_view() {
    let house = House::with(TRUSTING).await;
    for (ask, expected) in [
        (Ask::get("/v2"), "/v2/"),
        (Ask::get("/repo/docker-remote/v2"), "/repo/docker-remote/v2/"),
        (Ask::get("/v2").host("docker-remote.localhost"), "/v2/"),
        (Ask::get("/repo/docker-remote/v2").from(PROXY).header("X-Forwarded-Prefix", "/"), "/v2/"),
        (Ask::get("/repo/docker-remote/v2").from(PROXY).header("X-Forwarded-Prefix", "/x"), "/x/v2/"),
    ] {
        let answer = house.send(ask).await;
        assert_eq!((answer.status, answer.header("location")), (301, Some(expected)));
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_way_that_matches_wins() {
    let image = Image::new(104, &[10]);
    let (hub_registry, house) = hub_with(&image, Options::default(), TRUSTING).await;
    let other = Registry::open().await;
    let others = Image::new(105, &[10]);
    // The same names in the other registry, with other content.
    for name in ["redis", "library/redis", "docker-remote/redis"] {
        other.add_image(name, "7", &others);
    }
    house.add_remote("other", &other, json!({ "upstream_namespace": "other.test" })).await;
    hub_registry.add_image("other.test/redis", "7", &image);
    for (ask, expected) in [
        // Path over host, host over name, name over namespace.
        (Ask::get("/repo/other/v2/redis/manifests/7").host("docker-remote.localhost"), &others),
        (Ask::get("/v2/docker-remote/redis/manifests/7").host("other.localhost"), &others),
        (Ask::get("/v2/docker-remote/redis/manifests/7"), &image),
        (Ask::get("/v2/other/redis/manifests/7?ns=other.test"), &others),
        (Ask::get("/v2/redis/manifests/7?ns=other.test"), &others),
        // An address of numbers is no repository's host, whatever it ends in.
        (Ask::get("/v2/redis/manifests/7").host("127.0.0.1"), &image),
        (Ask::get("/v2/redis/manifests/7").host("[::1]:5000"), &image),
        (Ask::get("/v2/redis/manifests/7").host("a.other.localhost"), &image),
        (Ask::get("/v2/redis/manifests/7").host("api.localhost"), &image),
    ] {
        let shown = format!("{ask:?}");
        let answer = house.send(ask).await;
        assert_eq!(answer.body, expected.manifest.bytes, "{shown}: {}", answer.all());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_a_proxy_saw_counts_only_if_the_proxy_is_trusted() {
    let image = Image::new(106, &[10]);
    let (_hub, house) = hub_with(&image, Options::default(), TRUSTING).await;
    let other = Registry::open().await;
    let others = Image::new(107, &[10]);
    other.add_image("redis", "7", &others);
    house.add_remote("other", &other, json!({})).await;
    let ask = || {
        Ask::get("/v2/redis/manifests/7").host("inner").header("X-Forwarded-Host", "other.binaryrepo.local")
    };
    assert_eq!(house.send(ask().from(PROXY)).await.body, others.manifest.bytes);
    assert_eq!(house.send(ask()).await.body, image.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_way_leads_to_is_unknown_and_says_what_there_is() {
    let house = House::new().await;
    let form = json!({ "default_mirror": false, "upstream_namespace": null });
    assert_eq!(house.api("PUT", "/api/repository/docker-remote", &form).await.status, 200);
    let digest = Content::random(1, 10).digest;
    for ask in [
        Ask::get("/v2/redis/manifests/7"),
        Ask::get(&format!("/v2/no-such/redis/blobs/{digest}")),
        Ask::get("/v2/redis/tags/list").host("no-such.localhost"),
        Ask::get(&format!("/repo/no-such/v2/redis/referrers/{digest}")),
        Ask::get("/v2/redis/manifests/7?ns=docker.io"),
    ] {
        let shown = format!("{ask:?}");
        let (status, code, message) = house.send(ask).await.error();
        assert_eq!((status, code.as_str()), (404, "NAME_UNKNOWN"), "{shown}");
        assert!(message.contains("docker-local, docker-remote"), "{shown}: {message}");
    }
}
