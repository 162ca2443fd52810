//! Repositories made, listed, changed and removed over the management API, by somebody on the server's machine.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::client::Ask;
use super::house::{House, manifest};
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::{Access, Options, Registry};

const URL: &str = "https://registry.test";

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_as_the_manual_shows() {
    let house = House::new().await;
    let form = json!({ "name": "quay", "repo_type": "remote", "package_type": "docker", "remote_url": URL });
    let made = house.api("POST", "/api/repository", &form).await;
    assert_eq!((made.status, made.header("location")), (201, Some("/api/repository/quay")));
    let shown = made.json();
    for (field, value) in form.as_object().unwrap() {
        assert_eq!(&shown[field], value);
    }
    assert_eq!(shown["tag_ttl"], "60s");
    assert_eq!(house.get("/api/repository/quay").await.json(), shown);
    let head = house.head("/api/repository/quay").await;
    assert_eq!((head.status, head.body.len()), (200, 0));

    // An older spelling of the same.
    let older = json!({ "name": "old", "repo_type": "remote", "package_type": "remote", "remote_url": URL });
    assert_eq!(house.api("POST", "/api/repository", &older).await.json()["package_type"], "docker");
    let local = json!({ "name": "team", "repo_type": "local", "package_type": "docker" });
    assert_eq!(house.api("POST", "/api/repository", &local).await.json()["repo_type"], "local");
}

fn names(list: &Value) -> Vec<&str> {
    list["repositories"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_is_listed_changed_and_removed_while_it_runs() {
    let registry = Registry::open().await;
    let image = Image::new(201, &[10]);
    registry.add_image("a/b", "1", &image);
    let house = House::new().await;
    assert_eq!(names(&house.get("/api/repository").await.json()), ["docker-local", "docker-remote"]);
    house.add_remote("quay", &registry, json!({})).await;
    assert_eq!(names(&house.get("/api/repository").await.json()), ["docker-local", "docker-remote", "quay"]);
    assert_eq!(house.get("/v2/quay/a/b/manifests/1").await.status, 200);

    let changed = house.api("PUT", "/api/repository/quay", &json!({ "tag_ttl": "5m" })).await.json();
    assert_eq!((&changed["tag_ttl"], &changed["negative_ttl"]), (&json!("5m"), &json!("10s")));
    let reset = house.api("PUT", "/api/repository/quay", &json!({ "tag_ttl": null })).await.json();
    assert_eq!(reset["tag_ttl"], "60s");

    let removed = house.send(Ask::new("DELETE", "/api/repository/quay")).await;
    assert_eq!((removed.status, removed.body.len()), (204, 0));
    assert_eq!(house.get("/api/repository/quay").await.api_error().0, 404);
    // Its name means something else now: an image of the default mirror.
    house.api("PUT", "/api/repository/docker-remote", &json!({ "default_mirror": false })).await;
    assert_eq!(house.get("/v2/quay/a/b/manifests/1").await.code(), (404, "NAME_UNKNOWN".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_with_the_field_that_is_wrong() {
    let house = House::new().await;
    let base = json!({ "name": "r", "repo_type": "remote", "package_type": "docker", "remote_url": URL });
    let with = |field: &str, value: Value| {
        let mut form = base.clone();
        form[field] = value;
        form
    };
    for (form, field, words) in [
        (with("tag_tll", json!("60s")), "tag_tll", "did you mean `tag_ttl`?"),
        (with("name", json!("No")), "name", "DNS label"),
        (with("name", json!("library")), "name", "reserved"),
        (with("repo_type", json!("virtual")), "repo_type", "\"local\" or \"remote\""),
        (with("package_type", json!("npm")), "package_type", "docker"),
        (with("remote_url", json!("registry.test")), "remote_url", "URL"),
        (with("remote_url", json!("https://u:canary@registry.test")), "remote_url", ""),
        (with("remote_url", json!("file:///etc/passwd")), "remote_url", ""),
        (with("tag_ttl", json!(60)), "tag_ttl", "duration"),
        (with("max_size", json!("10G")), "max_size", "10GiB"),
        (with("username", json!("ada")), "password", "is missing"),
        (with("default_mirror", json!(true)), "default_mirror", "docker-remote"),
        (with("upstream_namespace", json!("docker.io")), "upstream_namespace", "docker-remote"),
        (with("ca_file", json!("/nowhere/ca.pem")), "ca_file", "/nowhere/ca.pem"),
        (json!({ "name": "r", "repo_type": "remote" }), "remote_url", "is missing"),
        (json!({ "name": "r", "repo_type": "local", "tag_ttl": "60s" }), "tag_ttl", "remote"),
    ] {
        let answer = house.api("POST", "/api/repository", &form).await;
        let (status, found, message) = answer.api_error();
        assert_eq!((status, found.as_str()), (400, field), "{form}: {message}");
        assert!(message.contains(words), "{form}: {message}");
        assert!(!message.contains("canary"));
    }
    let missing =
        Ask::new("POST", "/api/repository").json(&with("password_file", json!("/nowhere/password")));
    let (status, field, _) = house.send(missing).await.api_error();
    assert_eq!((status, field.as_str()), (400, "username"), "a password needs a user name");
    assert_eq!(names(&house.get("/api/repository").await.json()), ["docker-local", "docker-remote"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_in_the_apis_form() {
    let house = House::new().await;
    let form = json!({ "name": "docker-local", "repo_type": "local" });
    let (status, _, message) = house.api("POST", "/api/repository", &form).await.api_error();
    assert_eq!(status, 409);
    assert!(message.contains("docker-local"), "{message}");

    let post = |body: &str| Ask::new("POST", "/api/repository").body(body);
    for body in ["", "{", "[]", "null", "\u{feff}{}", "{\"name\":\"a\",\"name\":\"b\"}"] {
        assert_eq!(house.send(post(body)).await.api_error().0, 400, "{body}");
    }
    assert_eq!(house.send(post(&" ".repeat(65 * 1024))).await.api_error().0, 413);

    let (status, _, message) = house.get("/api/repository/no-such").await.api_error();
    assert_eq!(status, 404);
    assert!(message.contains("docker-local, docker-remote"), "{message}");
    for (method, path, allowed) in [
        ("DELETE", "/api/repository", "GET, POST"),
        ("PATCH", "/api/repository/docker-remote", "GET, PUT, DELETE"),
        ("GET", "/api/purge", "POST"),
        ("POST", "/api/status", "GET"),
    ] {
        let answer = house.send(Ask::new(method, path)).await;
        assert_eq!((answer.api_error().0, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    for path in ["/api", "/api/", "/api/nonsense", "/api/repository/A%2f..", "/api/repository/a/b"] {
        assert_eq!(house.get(path).await.api_error().0, 404, "{path}");
    }
    let typo = house.send(Ask::new("DELETE", "/api/repository/docker-local?purg=true")).await;
    assert_eq!(typo.api_error().1, "purg");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_used_and_kept_and_never_shown() {
    let access = Access::basic("ada", "canary-password");
    let registry = Registry::start(Options { access, ..Options::default() }).await;
    let image = Image::new(202, &[10]);
    registry.add_image("library/redis", "7", &image);
    let fields = json!({ "username": "ada", "password": "canary-password" });
    let house = House::beside_with(&registry, &[], fields).await;
    let shown = async |house: &House| {
        for path in ["/api/repository", "/api/repository/docker-remote", "/api/status", "/metrics"] {
            let answer = house.get(path).await;
            assert_eq!(answer.status, 200);
            assert!(!answer.all().contains("canary"), "{path}: {}", answer.all());
        }
        house.get("/api/repository/docker-remote").await.json()
    };
    let before = shown(&house).await;
    assert_eq!((&before["username"], &before["password_set"]), (&json!("ada"), &json!(true)));
    for name in ["meta.redb", "admin.token"] {
        let mode = std::fs::metadata(house.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} may be read by others: {mode:o}");
    }
    let house = house.restart().await;
    assert_eq!(shown(&house).await, before);
    assert_eq!(house.get(&manifest("redis", "7")).await.body, image.manifest.bytes);

    // A change of something else keeps it.
    let changed = house.api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "0s" })).await;
    assert_eq!(changed.json()["password_set"], true);
    assert_eq!(house.get(&manifest("redis", "7")).await.cache(), Some("revalidated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_survives_a_restart() {
    let house = House::new().await;
    let form = json!({
        "name": "all", "repo_type": "remote", "package_type": "docker", "remote_url": "https://registry.test/below",
        "username": "ada", "password": "secret", "tag_ttl": "5m", "negative_ttl": "1s", "stale_if_error": "2d",
        "max_size": "10GiB", "upstream_namespace": "registry.test", "anonymous_pull": true,
        "allowed_hosts": ["auth.test", "cdn.test:8443"], "mirrors": ["https://mirror.test"],
    });
    let made = house.api("POST", "/api/repository", &form).await.json();
    assert_eq!((&made["max_size"], &made["mirrors"]), (&json!(10_u64 << 30), &form["mirrors"]));
    let local = json!({ "name": "team", "repo_type": "local" });
    house.api("POST", "/api/repository", &local).await;
    house.send(Ask::new("DELETE", "/api/repository/docker-local")).await;
    let house = house.restart().await;
    assert_eq!(house.get("/api/repository/all").await.json(), made);
    // What was removed stays removed: the first start's repositories come once.
    assert_eq!(names(&house.get("/api/repository").await.json()), ["all", "docker-remote", "team"]);
}

/// Another upstream is another repository under the old name: nothing of the former one is shown, and its
/// password goes to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn another_upstream_starts_from_nothing() {
    let access = Access::basic("ada", "secret");
    let old = Registry::start(Options { access, ..Options::default() }).await;
    let new = Registry::open().await;
    let (olds, news) = (Image::new(203, &[20_000]), Image::new(204, &[20_000]));
    old.add_image("library/redis", "7", &olds);
    old.add_image("library/redis", "old", &olds);
    new.add_image("library/redis", "7", &news);
    let house = House::beside_with(&old, &[], json!({ "username": "ada", "password": "secret" })).await;
    house.cache("redis", "7", &olds).await;
    house.cache("redis", "old", &olds).await;

    let form = json!({ "remote_url": new.url().as_str() });
    let moved = house.api("PUT", "/api/repository/docker-remote", &form).await.json();
    assert_eq!((moved.get("username"), &moved["password_set"]), (None, &json!(false)));
    house.cache("redis", "7", &news).await;
    let digest = olds.manifest.digest.to_string();
    for reference in ["old", digest.as_str()] {
        let gone = house.get(&manifest("redis", reference)).await;
        assert_eq!(gone.code(), (404, "MANIFEST_UNKNOWN".to_owned()), "{reference}");
    }
    let layer = house.get(&super::house::blob("redis", &olds.layers[0])).await;
    assert_eq!(layer.code(), (404, "BLOB_UNKNOWN".to_owned()));
    assert!(new.log().iter().all(|seen| !seen.authorized()), "a password went to another registry");

    // The same address, written again, changes nothing.
    house.api("PUT", "/api/repository/docker-remote", &form).await;
    new.always("/v2/", Fault::status(500));
    assert_eq!(house.get(&manifest("redis", "7")).await.cache(), Some("hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_made_anew_under_an_old_name_shows_nothing_of_it() {
    let (old, new) = (Registry::open().await, Registry::open().await);
    let image = Image::new(205, &[20_000]);
    old.add_image("a/b", "1", &image);
    let house = House::new().await;
    house.add_remote("r", &old, json!({})).await;
    assert_eq!(house.get("/v2/r/a/b/manifests/1").await.status, 200);
    house.send(Ask::new("DELETE", "/api/repository/r")).await;
    house.add_remote("r", &new, json!({})).await;
    assert_eq!(house.get("/v2/r/a/b/manifests/1").await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
    let by_digest = format!("/v2/r/a/b/manifests/{}", image.manifest.digest);
    assert_eq!(house.get(&by_digest).await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_keeps_to_its_share() {
    let registry = Registry::open().await;
    let images: Vec<Image> = (210..214).map(|seed| Image::new(seed, &[200_000])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.add_image(&format!("a/n{number}"), "1", image);
    }
    let house = House::beside_with(&registry, &[], json!({ "max_size": "500KiB" })).await;
    // The share counts from the next round of housekeeping on; a start begins with one.
    let house = house.restart().await;
    for (number, image) in images.iter().enumerate() {
        house.cache(&format!("a/n{number}"), "1", image).await;
    }
    let cached = async || house.get("/api/status").await.json()["cache"]["bytes"].as_u64().unwrap();
    found("the share is kept", async || (cached().await <= 500 * 1024).then_some(())).await;
    let last = house.get(&super::house::blob("a/n3", &images[3].layers[0])).await;
    assert_eq!(last.cache(), Some("hit"), "the least recently used went first");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_listed_and_purged() {
    let registry = Registry::open().await;
    let (redis, nginx) = (Image::new(206, &[30_000]), Image::new(207, &[40_000]));
    registry.add_image("library/redis", "7", &redis);
    registry.add_image("library/redis", "latest", &redis);
    registry.add_image("library/nginx", "1", &nginx);
    let house = House::beside(&registry).await;
    for tag in ["7", "latest"] {
        house.cache("redis", tag, &redis).await;
    }
    house.cache("nginx", "1", &nginx).await;
    let listed = house.get("/api/images?repository=docker-remote").await.json();
    let of = |name: &str| {
        let images = listed["images"].as_array().unwrap().iter();
        images.clone().find(|one| one["image"] == name).cloned().unwrap_or_else(|| panic!("{listed}"))
    };
    let tags: Vec<_> = of("library/redis")["tags"].as_array().unwrap().clone();
    assert_eq!(tags.len(), 2);
    assert_eq!(tags[0]["digest"], redis.manifest.digest.to_string());
    assert_eq!(of("library/nginx")["blobs"], 2);

    let purge = async |form: Value| house.api("POST", "/api/purge", &form).await;
    // `redis` and `library/redis` are one image here as well.
    purge(json!({ "repository": "docker-remote", "image": "redis", "tag": "latest" })).await.json();
    assert_eq!(house.get(&manifest("redis", "7")).await.cache(), Some("hit"));
    assert_eq!(house.get(&manifest("redis", "latest")).await.cache(), Some("miss"));
    let gone = purge(json!({ "repository": "docker-remote", "image": "redis" })).await.json();
    assert_eq!(gone["blobs"], 2, "{gone}");
    assert_eq!(house.get(&manifest("redis", "7")).await.cache(), Some("miss"));
    assert_eq!(house.get(&super::house::blob("redis", &redis.layers[0])).await.cache(), Some("miss"));
    // Cached through one remote and not through the other one.
    let second = json!({ "name": "a-second", "repo_type": "remote", "package_type": "docker", "remote_url": registry.url().as_str() });
    assert_eq!(house.api("POST", "/api/repository", &second).await.status, 201);
    let layer = nginx.layers[0].digest.to_string();
    assert_eq!(purge(json!({ "digest": layer })).await.json()["blobs"], 1);
    assert_eq!(house.get(&super::house::blob("nginx", &nginx.layers[0])).await.cache(), Some("miss"));
    assert_eq!(purge(json!({ "digest": redis.layers[0].digest.to_string() })).await.status, 200);
    assert_eq!(purge(json!({ "digest": format!("sha256:{}", "0".repeat(64)) })).await.api_error().0, 404);
    // What is still being noted belongs to no purge.
    house.settled().await;
    purge(json!({ "repository": "docker-remote", "all": true })).await.json();
    assert_eq!(house.get("/api/images").await.json(), json!({ "images": [] }));

    let (status, field, _) =
        purge(json!({ "repository": "docker-remote", "imag": "redis" })).await.api_error();
    assert_eq!((status, field.as_str()), (400, "imag"));
    assert_eq!(purge(json!({ "repository": "no-such", "all": true })).await.api_error().0, 404);
}
