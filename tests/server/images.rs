//! `image ls`, `show` and `rm`: what lies here for people, and what stays when something of it goes.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::client::Ask;
use super::house::{House, hub, push, put_manifest};
use super::process::{Process, failed, good};
use super::support::image::{Image, Index};

/// The year is enough: the clock is not the test's.
fn is_a_date(text: &Value) -> bool {
    text.as_str().is_some_and(|text| text.len() == 20 && text.starts_with("20") && text.ends_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_shown_with_sizes_and_dates_and_removed_with_a_clear_answer() {
    let home = tempfile::tempdir().unwrap();
    let (dir, app) = (home.path(), Image::new(1, &[5_000, 300]));
    let mut server = Process::start(&home, &[]);
    for tag in ["1.0", "latest"] {
        push(server.address, "docker-local/team/app", tag, &app).await;
    }
    let whole = app.manifest.size() + app.blobs().map(super::support::image::Content::size).sum::<u64>();

    let shown: Value =
        serde_json::from_str(&good(dir, &["image", "show", "docker-local/team/app", "--json"])).unwrap();
    let tags = shown["tags"].as_array().unwrap();
    assert_eq!(
        (tags.len(), &tags[0]["tag"], &tags[0]["bytes"]),
        (2, &json!("1.0"), &json!(whole)),
        "{shown}"
    );
    assert!(is_a_date(&tags[0]["updated"]), "{shown}");
    assert_eq!(
        (&shown["manifests"], &shown["blobs"], &shown["bytes"]),
        (&json!(1), &json!(3), &json!(whole))
    );
    let table = good(dir, &["image", "show", "docker-local/team/app"]);
    assert!(table.contains("\n1.0     ") && table.contains("image  sha256:"), "{table}");
    assert_eq!(good(dir, &["image", "ls"]), good(dir, &["ls"]));
    assert!(good(dir, &["ls", "--tags"]).contains("docker-local/team/app:latest"));

    let digest = app.manifest.digest;
    let gone = good(dir, &["image", "rm", "docker-local/team/app:latest"]);
    assert_eq!(gone, "removed the tag docker-local/team/app:latest\nits manifest stays: 1.0\n");
    assert_eq!(server.get("/v2/docker-local/team/app/manifests/latest").await.status, 404);
    assert_eq!(server.get("/v2/docker-local/team/app/manifests/1.0").await.status, 200);
    let gone = good(dir, &["image", "rm", "docker-local/team/app:1.0"]);
    assert!(gone.contains(&format!("no tag names docker-local/team/app@{digest} now")), "{gone}");
    let by_digest = format!("docker-local/team/app@{digest}");
    assert_eq!(server.get(&format!("/v2/docker-local/team/app/manifests/{digest}")).await.status, 200);

    // The rest without a server: the same words.
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
    assert_eq!(good(dir, &["image", "rm", &by_digest]), format!("removed {by_digest}, which had no tags\n"));
    let (code, err) = failed(dir, &["image", "rm", &by_digest]);
    assert!(code == 1 && err.contains(&format!("has no manifest {digest}")), "{err}");
    let (code, err) = failed(dir, &["image", "rm", "docker-local/team/app"]);
    assert!(code == 2 && err.contains("hint: say which tag or digest, or --all"), "{err}");
    let gone = good(dir, &["image", "rm", "docker-local/team/app", "--all"]);
    assert!(gone.starts_with("removed docker-local/team/app: 0 tags, 0 manifests, 3 blobs"), "{gone}");
    let (code, err) = failed(dir, &["image", "show", "docker-local/team/app"]);
    assert!(code == 1 && err.contains("docker-local has no image team/app"), "{err}");
    let (code, err) = failed(dir, &["image", "rm", "docker-remote/library/redis:7"]);
    assert!(
        code == 2 && err.contains("docker-remote is a cache") && err.contains("binaryrepo purge"),
        "{err}"
    );
    assert_eq!(good(dir, &["ls"]), "there are no images yet\n");
}

/// An index counts what its images share once; a page of a removal is a thousand rows.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_many_tags_goes_as_a_whole_and_leaves_its_neighbours() {
    let house = House::new().await;
    let index = Index::new(4, &["amd64", "arm64"], &[2_000]);
    let name = "docker-local/team/app";
    for image in &index.images {
        push(house.address, name, &image.architecture, image).await;
    }
    put_manifest(house.address, name, "all", (Index::MEDIA_TYPE, &index.manifest)).await;
    // A neighbour whose name begins alike, with the same content.
    push(house.address, "docker-local/team/app2", "1", &index.images[0]).await;
    let tags: Vec<String> = (0..1_100).map(|number| format!("tag=t{number}")).collect();
    for some in tags.chunks(10) {
        let path = format!("/v2/{name}/manifests/{}?{}", index.manifest.digest, some.join("&"));
        let put = Ask::new("PUT", &path).header("Content-Type", Index::MEDIA_TYPE);
        assert_eq!(put.body(&index.manifest.bytes[..]).send(house.address).await.status, 201);
    }
    let shown = house.get("/api/images/docker-local/team/app").await.json();
    let all = shown["tags"].as_array().unwrap().iter().find(|tag| tag["tag"] == "all").unwrap();
    let once = index.images.iter().flat_map(|image| image.blobs().chain([&image.manifest]));
    let expected: u64 = once.map(super::support::image::Content::size).sum::<u64>() + index.manifest.size();
    assert_eq!(all["bytes"], expected, "{all}");

    let answer = house.send(Ask::new("DELETE", "/api/images/docker-local/team/app")).await;
    assert_eq!(answer.status, 200, "{}", answer.all());
    assert_eq!(answer.json()["removed"]["tags"].as_array().unwrap().len(), 1_103);
    assert_eq!(house.get("/api/images/docker-local/team/app").await.status, 404);
    assert_eq!(house.get(&format!("/v2/{name}/manifests/{}", index.manifest.digest)).await.status, 404);
    assert_eq!(house.get(&format!("/v2/{name}/tags/list")).await.status, 404);
    let neighbour = house.get("/v2/docker-local/team/app2/manifests/1").await;
    assert_eq!(neighbour.body, index.images[0].manifest.bytes);
    let blob = format!("/v2/docker-local/team/app2/blobs/{}", index.images[0].layers[0].digest);
    assert_eq!(house.get(&blob).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn immutable_tags_are_not_removed_either() {
    let house = House::new().await;
    let (one, two) = (Image::new(1, &[100]), Image::new(2, &[100]));
    push(house.address, "docker-local/a", "1", &one).await;
    push(house.address, "docker-local/a", "2", &two).await;
    let untag = Ask::new("DELETE", "/v2/docker-local/a/manifests/2");
    assert_eq!(house.send(untag.clone()).await.status, 202);
    let set = async |on: bool| {
        let answer = house.api("PUT", "/api/repository/docker-local", &json!({ "immutable_tags": on })).await;
        assert_eq!(answer.status, 200, "{}", answer.all());
    };
    set(true).await;
    let digest = one.manifest.digest;
    for query in ["".to_owned(), "?tag=1".to_owned(), format!("?digest={digest}")] {
        let refused = house.send(Ask::new("DELETE", &format!("/api/images/docker-local/a{query}"))).await;
        let (status, _, message) = refused.api_error();
        assert_eq!(status, 403, "{query}: {message}");
        assert!(
            message.contains("the tag 1 stays") && message.contains("immutable_tags"),
            "{query}: {message}"
        );
    }
    for reference in ["1".to_owned(), digest.to_string()] {
        let path = format!("/v2/docker-local/a/manifests/{reference}");
        let refused = house.send(Ask::new("DELETE", &path)).await;
        assert_eq!((refused.status, refused.json()["errors"][0]["code"].clone()), (403, json!("DENIED")));
        assert_eq!(house.get(&path).await.body, one.manifest.bytes);
    }
    // What no tag names may go.
    let other = format!("/v2/docker-local/a/manifests/{}", two.manifest.digest);
    assert_eq!(house.send(Ask::new("DELETE", &other)).await.status, 202);
    set(false).await;
    assert_eq!(house.send(Ask::new("DELETE", "/v2/docker-local/a/manifests/1")).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_image_says_what_a_pull_needs_and_what_lies_here() {
    let image = Image::new(9, &[4_000]);
    let (_registry, house) = hub(&image).await;
    house.get(&super::house::manifest("redis", "7")).await;
    let shown = house.get("/api/images/docker-remote/redis").await.json();
    let whole = image.manifest.size() + image.blobs().map(super::support::image::Content::size).sum::<u64>();
    assert_eq!(shown["image"], "library/redis");
    assert_eq!((&shown["tags"][0]["bytes"], &shown["bytes"]), (&json!(whole), &json!(image.manifest.size())));
    for (path, status) in [
        ("/api/images/docker-remote", 404),
        ("/api/images/docker-remote/nginx", 404),
        ("/api/images/no-such/redis", 404),
        ("/api/images/docker-remote/REDIS", 404),
        ("/api/images/docker-remote/redis?tag=7", 400),
    ] {
        assert_eq!(house.get(path).await.status, status, "{path}");
    }
    let both = format!("/api/images/docker-local/a?tag=1&digest={}", image.manifest.digest);
    let (status, field, _) = house.send(Ask::new("DELETE", &both)).await.api_error();
    assert_eq!((status, field.as_str()), (400, "digest"));
    let (status, field, _) =
        house.send(Ask::new("DELETE", "/api/images/docker-local/a?digest=x")).await.api_error();
    assert_eq!((status, field.as_str()), (400, "digest"));
}
