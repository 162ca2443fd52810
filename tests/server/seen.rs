//! What machines look at: probes, the index, the access log.

use serde_json::json;

use super::client::Ask;
use super::house::{House, blob, manifest};
use super::process::Process;
use super::support::fault::{Fault, Gate};
use super::support::image::Image;
use super::support::upstream::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn probes_tell_strangers_no_details() {
    let house = House::new().await;
    let stranger =
        |path: &str| Ask::get(path).header("X-Forwarded-For", "203.0.113.9").host("elsewhere.test");
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(house.send(stranger(path)).await.status, 200, "{path}");
        let head = house.head(path).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    let ready = house.get("/readyz").await.json();
    assert_eq!(ready["ready"], true);
    let names: Vec<_> =
        ready["checks"].as_array().unwrap().iter().map(|check| check["name"].clone()).collect();
    assert_eq!(names, ["metadata", "storage", "running"]);
    assert!(ready["checks"][0]["detail"].is_string());
    assert!(house.send(stranger("/readyz")).await.json()["checks"][0].get("detail").is_none());
    let index = house.get("/").await.json();
    assert_eq!((&index["name"], &index["registry"]), (&json!("binaryrepo"), &json!("/v2/")));
    let metrics = house.get("/metrics").await;
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(openmetrics));
    assert!(metrics.all().ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_line_that_can_be_found_by_its_id() {
    let registry = Registry::open().await;
    let image = Image::new(1401, &[100_000]);
    registry.add_image("library/redis", "7", &image);
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--open-access", "--set", "server.trusted_proxies=127.0.0.2/32"];
    let server = Process::start(&dir, &flags);
    let form = json!({ "remote_url": registry.url().as_str() });
    server.send(Ask::new("PUT", "/api/repository/docker-remote").json(&form)).await;

    let path = blob("redis", &image.layers[0]);
    let agent = "docker/20.10 \"quoted\" UpstreamClient(x)";
    let ask = Ask::get(&format!("{path}?signature=hidden"))
        .header("User-Agent", agent)
        .header("Range", "bytes=0-9");
    let answer = server.send(ask).await;
    let line = server.access_line(&path, 0);
    assert_eq!(line["req_id"].as_str(), answer.header("x-request-id"));
    for (field, value) in [
        ("method", json!("GET")),
        ("status", json!(206)),
        ("bytes", json!(10)),
        ("client", json!("127.0.0.1")),
        ("action", json!("blob.get")),
        ("repository", json!("docker-remote")),
        ("image", json!("library/redis")),
        ("reference", json!(image.layers[0].digest.to_string())),
        ("cache", json!("miss")),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["dur_ms"].is_u64() && line["ttfb_ms"].is_u64(), "{line}");
    assert!(line["user_agent"].as_str().unwrap().starts_with("docker/20.10 "), "{line}");
    assert!(!line.to_string().contains("hidden"), "a query may hold a signature: {line}");

    // The same where it was understood long before, by each of the threads that serve.
    let path = manifest("redis", "7");
    for number in 0..40 {
        let answer = server.get(&path).await;
        let line = server.access_line(&path, number);
        assert_eq!(line["req_id"].as_str(), answer.header("x-request-id"));
        let named = ["path", "action", "repository", "image", "reference"].map(|field| line[field].as_str());
        let expected = [path.as_str(), "manifest.get", "docker-remote", "library/redis", "7"].map(Some);
        assert_eq!(named, expected, "{line}");
    }

    // What a trusted proxy says is written down, and what anybody else says is not.
    let by_proxy = |from: &str, path: &str| {
        let ask = Ask::get(path).from(from).header("X-Request-Id", "from-nginx");
        ask.header("X-Forwarded-For", "198.51.100.1, 203.0.113.9")
    };
    assert_eq!(
        server.send(by_proxy("127.0.0.2", "/v2/trusted")).await.header("x-request-id"),
        Some("from-nginx")
    );
    let line = server.access_line("/v2/trusted", 0);
    assert_eq!((&line["req_id"], &line["client"]), (&json!("from-nginx"), &json!("203.0.113.9")));
    server.send(by_proxy("127.0.0.1", "/v2/untrusted")).await;
    let line = server.access_line("/v2/untrusted", 0);
    assert_eq!(line["client"], "127.0.0.1");
    assert_ne!(line["req_id"], "from-nginx");

    // A fault of the upstream's: the client can name the line.
    registry.stop().await;
    let failed = server.get(&manifest("redis", "8")).await;
    let id = failed.json()["errors"][0]["detail"]["request_id"].clone();
    assert_eq!(server.access_line(&manifest("redis", "8"), 0)["req_id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_has_its_line_and_the_fetch_goes_on() {
    let registry = Registry::open().await;
    let image = Image::new(1402, &[200_000]);
    registry.add_image("library/redis", "7", &image);
    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::HoldAt(150_000, gate.clone())]);
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(&dir, &[]);
    let form = json!({ "remote_url": registry.url().as_str() });
    server.send(Ask::new("PUT", "/api/repository/docker-remote").json(&form)).await;
    let path = blob("redis", &image.layers[0]);
    let mut leaving = Ask::get(&path).open(server.address).await;
    leaving.until(1).await;
    drop(leaving);
    let line = server.access_line(&path, 0);
    assert_eq!((&line["status"], &line["aborted"]), (&json!(200), &json!(true)), "{line}");
    assert!(line["bytes"].as_u64().unwrap() < 200_000, "{line}");
    gate.open();
    let whole = server.get(&path).await;
    assert_eq!(whole.body, image.layers[0].bytes);
    assert_eq!(registry.asked(&image.layers[0].digest.to_string()).len(), 1);

    // One that leaves before there was a head.
    registry.always("/manifests/8", Fault::silence());
    let gone = manifest("redis", "8");
    let leaving = tokio::spawn(Ask::get(&gone).send(server.address));
    server.eventually("the upstream is asked", |_| registry.asked("/manifests/8").first().cloned());
    leaving.abort();
    assert_eq!(server.access_line(&gone, 0)["status"], 499);
}
