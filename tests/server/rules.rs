//! Facts about registry clients, each of which breaks pulls where a registry forgets it; in the order of the harm
//! done. The numbers that are missing are about pushes and log-ins, and tested there.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Ask;
use super::house::{House, Settings, blob, hub, hub_with, manifest};
use super::support::fault::Fault;
use super::support::image::{Content, Image};
use super::support::patience::found;
use super::support::upstream::{Access, Options, Registry};

const SIZE: usize = 400_000;

/// containerd keeps wrong bytes for ever, and no client tries a wrong digest again.
#[tokio::test(flavor = "multi_thread")]
async fn rule_01_no_answer_is_complete_and_wrong() {
    // Below 64 KiB the head waits for the proof; above, the last byte does.
    for size in [1_000, SIZE] {
        let image = Image::new(801, &[size]);
        let (registry, house) = hub(&image).await;
        let layer = &image.layers[0];
        house.get(&manifest("redis", "7")).await;
        registry.always(&layer.digest.to_string(), Fault::WrongByteAt(10));
        let last = format!("bytes={}-", size - 10);
        for ask in [
            Ask::get(&blob("redis", layer)),
            Ask::get(&blob("redis", layer)).header("Range", "bytes=0-"),
            Ask::get(&blob("redis", layer)).header("Range", &last),
        ] {
            let answer = house.send(ask).await;
            let refused = answer.status == 502;
            assert!(refused || !answer.is_whole(), "{size}: {}", answer.status);
        }
        assert_eq!(house.get(&blob("redis", layer)).await.code(), (502, "UNAVAILABLE".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_02_a_range_is_a_part_whether_cold_under_way_or_cached() {
    let image = Image::new(802, &[SIZE, SIZE]);
    let slow = Options { connection_rate: Some(400_000), ..Options::default() };
    let (registry, house) = hub_with(&image, slow, &[]).await;
    house.get(&manifest("redis", "7")).await;
    let part = async |content: &Content, from: usize, state: &str| {
        let ask = Ask::get(&blob("redis", content)).header("Range", &format!("bytes={from}-"));
        let part = house.send(ask).await;
        assert_eq!(part.status, 206, "{state}");
        let said = format!("bytes {from}-{}/{SIZE}", SIZE - 1);
        assert_eq!(part.header("content-range"), Some(said.as_str()), "{state}");
        assert!(part.is_whole());
        assert_eq!(part.body, content.bytes[from..], "{state}");
        assert_eq!(part.cache(), Some(state));
    };
    part(&image.layers[0], 100_000, "miss").await;
    house.settled().await;
    part(&image.layers[0], 100_000, "hit").await;
    let layer = &image.layers[1];
    let mut whole = Ask::get(&blob("redis", layer)).open(house.address).await;
    whole.until(1).await;
    let parts = [0, 100_000, SIZE - 1].map(|from| part(layer, from, "joined"));
    futures_util::future::join_all(parts).await;
    assert_eq!(whole.rest().await.body, layer.bytes);
    for layer in &image.layers {
        assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
    }
}

/// Behind nginx a break looks like a clean end, and podman and skopeo do not try again.
#[tokio::test(flavor = "multi_thread")]
async fn rule_03_a_break_of_the_upstreams_is_resumed_here() {
    let image = Image::new(803, &[SIZE]);
    let (registry, house) = hub(&image).await;
    let layer = &image.layers[0];
    registry.script(&layer.digest.to_string(), [Fault::CloseAt(150_000), Fault::ResetAt(100_000)]);
    let answer = house.get(&blob("redis", layer)).await;
    assert!(answer.is_whole());
    assert_eq!(answer.body, layer.bytes);
    let seen = registry.asked(&layer.digest.to_string());
    assert_eq!(seen.len(), 3);
    assert!(seen[1..].iter().all(|seen| seen.range().is_some_and(|range| range != "bytes=0-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_04_nothing_is_written_into_a_body_that_failed() {
    let image = Image::new(804, &[SIZE]);
    let (registry, house) = hub(&image).await;
    let layer = &image.layers[0];
    house.get(&manifest("redis", "7")).await;
    let digest = layer.digest.to_string();
    registry.script(&digest, [Fault::CloseAt(150_000)]);
    registry.always(&digest, Fault::status(503));
    let answer = house.get(&blob("redis", layer)).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("400000")));
    assert!(!answer.is_whole());
    assert!(!answer.body.is_empty());
    assert_eq!(answer.body, layer.bytes[..answer.body.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_05_every_answer_with_content_says_its_length() {
    let image = Image::new(805, &[SIZE, 0, 1]);
    let (registry, house) =
        hub_with(&image, Options { connection_rate: Some(800_000), ..Options::default() }, &[]).await;
    let said = async |ask: Ask, size: usize| {
        let shown = format!("{ask:?}");
        let answer = house.send(ask).await;
        assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()), "{shown}");
        assert_eq!(answer.header("transfer-encoding"), None, "{shown}");
        assert!(answer.is_whole());
    };
    for _ in ["cold", "cached"] {
        for ask in [Ask::head, Ask::get] {
            said(ask(&manifest("redis", "7")), image.manifest.bytes.len()).await;
            for content in image.blobs() {
                said(ask(&blob("redis", content)), content.bytes.len()).await;
            }
        }
    }
    // Also where the upstream does not say it.
    let unknown = registry.add_blob("library/redis", 806, SIZE);
    registry.script(&unknown.digest.to_string(), [Fault::NoLength]);
    said(Ask::get(&blob("redis", &unknown)), SIZE).await;
}

/// Some clients choose a mirror by its manifest and never fall back when a layer is missing.
#[tokio::test(flavor = "multi_thread")]
async fn rule_06_no_manifest_is_promised_whose_layers_cannot_be_had() {
    let registry = Registry::open().await;
    let image = Image::new(603, &[100_000]);
    registry.add_image("library/redis", "7", &image);
    let house = House::beside_with(&registry, &[], json!({ "tag_ttl": "1h" })).await;
    let by_digest = manifest("redis", &image.manifest.digest.to_string());
    // Twice, so that it is kept in memory as well.
    for path in [manifest("redis", "7"), by_digest.clone()] {
        for _ in 0..3 {
            assert_eq!(house.get(&path).await.status, 200);
        }
    }
    registry.always("/v2/", Fault::status(503));
    assert_eq!(house.get(&blob("redis", &image.layers[0])).await.code().0, 502);
    for path in [manifest("redis", "7"), by_digest] {
        let (status, _, message) = house.get(&path).await.error();
        assert_eq!(status, 502, "{path}");
        assert!(message.contains("layers"), "{message}");
    }
    registry.behave();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(house.get(&manifest("redis", "7")).await.status, 200, "it answers again: so do we");
    assert_eq!(house.get(&blob("redis", &image.layers[0])).await.status, 200);
}

/// On a 401 dockerd sends its user's Docker Hub password to the mirror.
#[tokio::test(flavor = "multi_thread")]
async fn rule_08_a_mirror_never_asks_for_a_log_in() {
    let image = Image::new(808, &[10]);
    let access = || Access::basic("ada", "secret");
    let registry = Registry::start(Options { access: access(), ..Options::default() }).await;
    registry.add_image("library/redis", "7", &image);
    let house =
        House::with(&[("server.trusted_proxies", "127.0.0.2/32"), ("server.open_access", "true")]).await;
    let put = async |form| house.api("PUT", "/api/repository/docker-remote", &form).await;
    let url = registry.url().to_string();
    let paths = [
        "/v2/".to_owned(),
        "/v2/library/redis/manifests/7".to_owned(),
        format!("/v2/library/redis/blobs/{}", image.layers[0].digest),
        "/v2/library/redis/manifests/7?ns=docker.io".to_owned(),
        "/v2/library/redis/tags/list".to_owned(),
    ];
    for (form, here, beyond) in [
        // No credentials, wrong ones, right ones; and right ones that everybody may use.
        (json!({ "remote_url": url }), 502, 502),
        (json!({ "username": "ada", "password": "wrong" }), 502, 403),
        (json!({ "username": "ada", "password": "secret" }), 200, 403),
        (json!({ "anonymous_pull": true }), 200, 200),
    ] {
        assert_eq!(put(form.clone()).await.status, 200);
        for (path, is_base) in paths.iter().zip([true, false, false, false, false]) {
            let strange = Ask::get(path).from("127.0.0.2").header("X-Forwarded-For", "203.0.113.9");
            for (ask, expected) in [(Ask::get(path), here), (strange, beyond)] {
                let answer = house.send(ask).await;
                let expected = if is_base { 200 } else { expected };
                assert_eq!(answer.status, expected, "{form} {path}: {}", answer.all());
                assert_eq!(answer.header("www-authenticate"), None);
            }
        }
        tokio::time::sleep(Duration::from_millis(2_100)).await;
    }
}

/// docker gives up on it after 15 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn rule_09_the_base_waits_for_nobody() {
    let image = Image::new(809, &[10]);
    let (registry, house) = hub(&image).await;
    registry.always("/v2/", Fault::silence());
    let waiting = tokio::spawn(Ask::get(&manifest("redis", "7")).send(house.address));
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(house.get("/v2/").await.status, 200);
    }
    // A few milliseconds each.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!waiting.is_finished());
    assert!(registry.asked("GET /v2/").iter().all(|seen| seen.path != "/v2/"));
}

/// podman, skopeo and buildah give up on anything but 200 and 401.
#[tokio::test(flavor = "multi_thread")]
async fn rule_10_the_base_is_a_registrys_under_every_name() {
    let house = House::new().await;
    for (path, host) in [
        ("/v2/", "localhost"),
        ("/v2/", "docker-remote.localhost"),
        ("/v2/", "docker-local.binaryrepo.local"),
        ("/v2/", "no-such.binaryrepo.local"),
        ("/v2/", "elsewhere.test"),
        ("/v2/?ns=docker.io", "localhost"),
        ("/v2/?ns=unknown.test", "localhost"),
        ("/repo/docker-remote/v2/", "localhost"),
    ] {
        for ask in [Ask::get(path), Ask::head(path)] {
            let answer = house.send(ask.host(host).header("Authorization", "Bearer stale")).await;
            assert_eq!(answer.status, 200, "{host}{path}");
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
            assert_eq!(
                (answer.header("content-type"), answer.header("content-length")),
                (Some("application/json"), Some("2"))
            );
        }
    }
}

/// Anything else gives users sentences like "invalid character '<' looking for beginning of value".
#[tokio::test(flavor = "multi_thread")]
async fn rule_11_every_error_of_the_registry_is_json() {
    let image = Image::new(811, &[10]);
    let (registry, house) = hub(&image).await;
    let long = format!("/v2/{}", "a/".repeat(5_000));
    let mut statuses = Vec::new();
    for (fault, ask) in [
        (Fault::None, Ask::get("/v2/docker-remote/Redis/manifests/7")),
        (Fault::None, Ask::get("/v2/nonsense")),
        (Fault::None, Ask::new("POST", "/v2/")),
        (Fault::None, Ask::get(&long)),
        (Fault::None, Ask::get("/v2/").header("X-Large", &"a".repeat(33 * 1024))),
        (Fault::None, Ask::get("/v2/").body("a body")),
        (Fault::answer(429, &[], "<html>"), Ask::get(&manifest("redis", "a"))),
        (Fault::answer(500, &[], "<html>"), Ask::get(&manifest("redis", "b"))),
        (Fault::answer(404, &[], "<html>"), Ask::get(&manifest("redis", "c"))),
    ] {
        registry.behave();
        registry.always("/v2/library/", fault);
        let (status, code, message) = house.send(ask).await.error();
        assert!(code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{code}");
        assert!(!message.contains('<'), "{message}");
        statuses.push(status);
    }
    assert_eq!(statuses, [400, 404, 405, 414, 431, 400, 429, 502, 404]);
}

/// docker never retries a 429, and containerd five times at once.
#[tokio::test(flavor = "multi_thread")]
async fn rule_12_a_rate_limit_of_the_upstreams_is_absorbed_while_something_can_be_served() {
    let image = Image::new(812, &[SIZE]);
    let (registry, house) = hub(&image).await;
    house.api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "0s" })).await;
    house.cache("redis", "7", &image).await;
    registry.always("/v2/", Fault::answer(429, &[("retry-after", "60")], "slow down"));
    registry.forget();
    for _ in 0..20 {
        house.pull("redis", "7", &image).await;
    }
    assert!(registry.log().len() <= 2, "its wish is respected meanwhile: {:?}", registry.log().len());
    let other = house.get(&manifest("redis", "8")).await;
    assert_eq!((other.code().0, other.header("retry-after")), (429, Some("60")));
}

/// Docker Hub counts GETs of manifests and gives HEADs away: at its limit it still says that a tag has moved.
#[tokio::test(flavor = "multi_thread")]
async fn rule_12_nor_does_a_tag_that_moved_meanwhile_let_it_through() {
    const TTL: Duration = Duration::from_millis(200);
    let (old, new) = (Image::new(814, &[SIZE]), Image::new(815, &[SIZE]));
    let (registry, house) = hub(&old).await;
    house.api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "200ms" })).await;
    house.cache("redis", "7", &old).await;
    registry.add_image("library/redis", "7", &new);
    let limit = Fault::answer(429, &[("retry-after", "1")], "slow down");
    let tag = manifest("redis", "7");
    for fault in [limit, Fault::status(503), Fault::ResetBeforeHead] {
        registry.behave();
        registry.always("GET /v2/library/redis/manifests/", fault.clone());
        tokio::time::sleep(TTL).await;
        // Now, while it is known where the tag points, and when that has to be asked again.
        for wait in [Duration::ZERO, Duration::ZERO, TTL] {
            tokio::time::sleep(wait).await;
            let answer = house.get(&tag).await;
            assert_eq!((answer.status, answer.cache()), (200, Some("stale")), "{fault:?}: {}", answer.all());
            assert_eq!(answer.body, old.manifest.bytes, "{fault:?}");
            // docker and containerd ask for the digest that the HEAD names: it must be one that can be had.
            let head = house.head(&tag).await;
            assert_eq!((head.status, head.cache()), (200, Some("stale")), "{fault:?}");
            let digest = head.header("docker-content-digest").unwrap();
            assert_eq!(digest, old.manifest.digest.to_string(), "{fault:?}");
        }
        house.pull("redis", "7", &old).await;
    }
    registry.behave();
    let moved = async || {
        let head = house.head(&tag).await;
        let digest = head.header("docker-content-digest").map(str::to_owned);
        (digest == Some(new.manifest.digest.to_string())).then_some(())
    };
    found("the tag is followed once it can be", moved).await;
    house.pull("redis", "7", &new).await;
}

/// An address with the wrong scheme, host or port is where a proxy's clients get lost.
#[tokio::test(flavor = "multi_thread")]
async fn rule_13_addresses_that_are_handed_out_are_the_clients_own() {
    let image = Image::new(813, &[10]);
    let registry = Registry::open().await;
    for tag in ["7", "8"] {
        registry.add_image("library/redis", tag, &image);
    }
    let settings: Settings<'_> =
        &[("server.trusted_proxies", "127.0.0.2/32"), ("server.open_access", "true")];
    let house = House::beside_with(&registry, settings, json!({})).await;
    for from in ["127.0.0.1", "127.0.0.2"] {
        let through = |ask: Ask| {
            let ask =
                ask.from(from).header("X-Forwarded-Proto", "https").header("X-Forwarded-For", "203.0.113.9");
            ask.header("X-Forwarded-Host", "registry.example:8443").header("X-Forwarded-Port", "8443")
        };
        let moved = house.send(through(Ask::get("/v2"))).await;
        assert_eq!(moved.header("location"), Some("/v2/"));
        let page = house.send(through(Ask::get("/v2/docker-remote/redis/tags/list?n=1"))).await;
        let link = page.header("link").unwrap();
        assert!(link.starts_with("</v2/docker-remote/redis/tags/list?"), "{link}");
    }
}

/// podman and skopeo send an empty user name and password where they have none.
#[tokio::test(flavor = "multi_thread")]
async fn rule_17_an_empty_log_in_is_none() {
    let image = Image::new(817, &[10]);
    let (registry, house) = hub(&image).await;
    for authorization in ["Basic Og==", "basic Og=="] {
        for path in ["/v2/", &manifest("redis", "7"), &blob("redis", &image.layers[0])] {
            let answer = house.send(Ask::get(path).header("Authorization", authorization)).await;
            assert_eq!(answer.status, 200, "{path}");
        }
    }
    assert!(registry.log().iter().all(|seen| !seen.authorized()), "a client's log-in went upstream");
}

/// The table decides. Whatever `ns` says, nothing is dialled that no administrator wrote down.
#[tokio::test(flavor = "multi_thread")]
async fn rule_18_a_namespace_is_looked_up_and_never_dialled() {
    let image = Image::new(108, &[10]);
    let (registry, house) = hub(&image).await;
    let bystander = Registry::open().await;
    bystander.add_image("redis", "7", &image);
    let place = bystander.address().to_string();
    for namespace in [place.as_str(), "ghcr.io", "169.254.169.254", "docker.io.evil.test", "DOCKER.IO"] {
        let answer = house.get(&format!("/v2/redis/manifests/7?ns={namespace}")).await;
        let (status, code, message) = answer.error();
        assert_eq!((status, code.as_str()), (404, "NAME_UNKNOWN"), "{namespace}");
        assert!(message.contains("docker-local, docker-remote"), "{message}");
    }
    assert!(bystander.log().is_empty());
    assert!(registry.log().is_empty());

    // Beside an address that names a repository it is only checked: another remote's is refused, others mean nothing.
    let other = Registry::open().await;
    house.add_remote("other", &other, json!({ "upstream_namespace": "other.test" })).await;
    let contradiction = house.get("/v2/docker-remote/redis/manifests/7?ns=other.test").await;
    assert_eq!(contradiction.code(), (404, "NAME_UNKNOWN".to_owned()));
    let own = house.address.to_string();
    for ignored in ["unheard-of.test", "docker.io", &own] {
        let answer = house.get(&format!("/v2/docker-remote/redis/manifests/7?ns={ignored}")).await;
        assert_eq!((answer.status, answer.header("oci-namespace")), (200, None), "{ignored}");
    }
    // A client that names us as the namespace says nothing by it.
    let ours = Ask::get(&format!("/v2/redis/manifests/7?ns={own}")).host(&own);
    assert_eq!(house.send(ours).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_19_a_password_goes_to_no_token_server_but_the_registrys() {
    let image = Image::new(819, &[10]);
    let options = || Options { access: Access::token_for("ada", "secret"), ..Options::default() };
    let (upstream, thief) = (Registry::start(options()).await, Registry::start(options()).await);
    upstream.add_image("library/redis", "7", &image);
    upstream.set_realm(thief.url_as("localhost").join("/token").unwrap().as_str());
    let fields = json!({ "username": "ada", "password": "secret" });
    let house = House::beside_with(&upstream, &[], fields).await;
    let (status, code, message) = house.get(&manifest("redis", "7")).await.error();
    assert_eq!((status, code.as_str()), (502, "UNAVAILABLE"), "{message}");
    assert!(message.contains("not among the allowed hosts"), "{message}");
    assert!(thief.log().is_empty(), "{:?}", thief.log());
}

/// Every Go client offers gzip; whoever takes it up loses lengths and ranges.
#[tokio::test(flavor = "multi_thread")]
async fn rule_20_nothing_is_encoded() {
    let image = Image::new(820, &[SIZE]);
    let (registry, house) = hub(&image).await;
    let paths =
        ["/v2/".to_owned(), manifest("redis", "7"), blob("redis", &image.layers[0]), "/metrics".to_owned()];
    for path in &paths {
        let ask = Ask::get(path).header("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5");
        let answer = house.send(ask).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{path}");
        assert!(answer.is_whole());
    }
    let asked = registry.log();
    let offered = |seen: &super::support::upstream::Seen| {
        seen.header("accept-encoding").is_some_and(|value| value != "identity")
    };
    assert!(!asked.iter().any(offered), "an encoding was offered upstream: {asked:?}");
}
