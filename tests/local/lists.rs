//! Tags and the catalog, page by page.

use binaryrepo::meta::{Batch, Durability, Meta as _, MetaExt as _, Options, RedbMeta, TagRow};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Ask;
use super::house::House;
use super::pusher::{Pusher, blob, manifest, referrers, tags};
use super::rig::{Disk, Ledger};
use super::support::image::{Content, Image};
use super::workshop::Workshop;

/// All pages, each but the last of `n`.
async fn pages(client: Pusher, target: &str, field: &str, n: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = Some(format!("{target}?n={n}"));
    while let Some(target) = next {
        let answer = client.get(&target).await;
        assert_eq!(answer.status, 200, "{}", answer.all());
        let page: Vec<String> = serde_json::from_value(answer.json()[field].clone()).unwrap();
        next = answer
            .header("link")
            .map(|link| link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned());
        assert!(page.len() == n || next.is_none(), "{} of {n}", page.len());
        found.extend(page);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_in_order_and_in_pages() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let unknown = client.get(&tags("many")).await;
    assert_eq!(unknown.code(), (404, "NAME_UNKNOWN".to_owned()));
    let bytes = br#"{"schemaVersion":2,"layers":[]}"#;
    let mut expected: Vec<String> = (0..25).map(|number| format!("v{number}")).collect();
    for tag in &expected {
        assert_eq!(client.manifest("many", tag, Image::MEDIA_TYPE, bytes).await.status, 201);
    }
    // A neighbour whose name begins in the same way.
    client.manifest("many/more", "other", Image::MEDIA_TYPE, bytes).await;
    expected.sort();
    let all = client.get(&tags("many")).await;
    assert_eq!(all.json(), json!({ "name": "docker-local/many", "tags": expected }));
    assert_eq!((all.header("link"), all.header("x-cache")), (None, None));
    for n in [1, 7, 24, 25, 1000] {
        assert_eq!(pages(client, &tags("many"), "tags", n).await, expected);
    }
    let page = client.get(&format!("{}?n=3&last=v19x", tags("many"))).await;
    assert_eq!(page.json()["tags"], json!(["v2", "v20", "v21"]), "last need not be there");
    let none = client.get(&format!("{}?n=0", tags("many"))).await;
    assert_eq!((none.status, &none.json()["tags"], none.header("link")), (200, &json!([]), None));
    let end = client.get(&format!("{}?last=zzz", tags("many"))).await;
    assert_eq!((end.status, &end.json()["tags"]), (200, &json!([])));
    for wrong in ["n=-1", "n=x", "last=%00", "last=a/b"] {
        let answer = client.get(&format!("{}?{wrong}", tags("many"))).await;
        assert_eq!(answer.code(), (400, "PAGINATION_NUMBER_INVALID".to_owned()), "{wrong}");
    }
    // Without tags it is an image still, and nothing is left of it only when all is deleted.
    for tag in &expected {
        client.send(Ask::new("DELETE", &manifest("many", tag))).await;
    }
    assert_eq!(client.get(&tags("many")).await.json()["tags"], json!([]));
    let digest = Content::new(&bytes[..]).digest;
    client.send(Ask::new("DELETE", &manifest("many", &digest.to_string()))).await;
    assert_eq!(client.get(&tags("many")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_names_images_as_they_are_pulled() {
    let house = House::new().await;
    let client = Pusher(house.address);
    assert_eq!(client.get("/v2/_catalog").await.json(), json!({ "repositories": [] }));
    let second = json!({ "name": "team", "repo_type": "local" });
    assert_eq!(house.api("POST", "/api/repository", &second).await.status, 201);
    let content = Content::new(&b"x"[..]);
    let images = ["a", "a/b", "a-b", "b", "c/d/e"];
    for image in images {
        client.blob(image, &content).await;
    }
    let target = format!("/v2/team/z/blobs/uploads/?digest={}", content.digest);
    assert_eq!(client.send(Ask::new("POST", &target).body(&b"x"[..])).await.status, 201);
    let mut expected: Vec<String> = images.iter().map(|image| format!("docker-local/{image}")).collect();
    expected.sort();
    expected.push("team/z".to_owned());
    for n in [1, 2, 5, 6, 100] {
        assert_eq!(pages(client, "/v2/_catalog", "repositories", n).await, expected);
    }
    let here: Vec<&str> = vec!["a", "a-b", "a/b", "b", "c/d/e"];
    assert_eq!(pages(client, "/repo/docker-local/v2/_catalog", "repositories", 2).await, here);
    let by_host = client.send(Ask::get("/v2/_catalog").host("team.localhost")).await;
    assert_eq!(by_host.json(), json!({ "repositories": ["z"] }));
    let empty: Value = client.get("/v2/_catalog?n=0").await.json();
    assert_eq!(empty, json!({ "repositories": [] }));
    assert_eq!(client.get("/v2/_catalog?n=-1").await.status, 400);
    assert_eq!(client.get(&blob("a", &content.digest)).await.status, 200);
}

/// HEAD is GET without the body, for what is there and for what is not.
#[tokio::test(flavor = "multi_thread")]
async fn head_tells_what_get_tells() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(1, &[1000, 100_000]);
    client.image("heads", "v1", &image).await;
    client.image("heads", "v2", &image).await;
    let digest = image.manifest.digest;
    let absent = Content::new(&b"absent"[..]).digest;
    let targets = [
        "/v2/".to_owned(),
        "/v2/_catalog?n=1".to_owned(),
        format!("{}?n=1", tags("heads")),
        tags("nobody"),
        referrers("heads", &digest),
        manifest("heads", "v1"),
        manifest("heads", &digest.to_string()),
        manifest("heads", "absent"),
        blob("heads", &image.layers[0].digest),
        blob("heads", &image.layers[1].digest),
        blob("heads", &absent),
    ];
    for target in targets {
        let (get, head) = (client.get(&target).await, client.send(Ask::head(&target)).await);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{target}");
        assert!(!get.body.is_empty(), "{target}");
        for name in [
            "content-length",
            "content-type",
            "docker-content-digest",
            "etag",
            "link",
            "accept-ranges",
            "allow",
        ] {
            assert_eq!(head.header(name), get.header(name), "{name} of {target}");
        }
        assert_eq!(head.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
    let location = client.begin("heads").await;
    assert_eq!(client.patch(&location, b"hello").await.status, 202);
    let head = client.send(Ask::head(&location)).await;
    assert_eq!((head.status, head.header("range")), (204, Some("0-4")));
}

const TAGS: usize = 100_000;

/// A data directory whose one image has so many tags. One was pushed, the others are its copies.
async fn many_tags() -> TempDir {
    let house = House::new().await;
    let client = Pusher(house.address);
    let bytes = br#"{"schemaVersion":2,"layers":[]}"#;
    assert_eq!(client.manifest("huge", "t000000", Image::MEDIA_TYPE, bytes).await.status, 201);
    let dir = house.stop().await;
    let (meta, _) = RedbMeta::open(&dir.path().join("meta.redb"), Options::default()).unwrap();
    let ((repository, image, _), row) = meta.scan::<TagRow>(&(), None, 1).unwrap().remove(0);
    for chunk in (1..TAGS).collect::<Vec<_>>().chunks(10_000) {
        let mut batch = Batch::new(Durability::Relaxed);
        for number in chunk {
            let tag = format!("t{number:06}").parse().unwrap();
            batch.put(&(repository, image.clone(), tag), &row);
        }
        meta.apply(batch).await.unwrap();
    }
    meta.close().await.unwrap();
    dir
}

/// A page costs the page, not the list: wherever it is, as many rows are read as it shows, and a few to find it.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_costs_the_page() {
    let dir = many_tags().await;
    let (server, meta) = Workshop::open(dir, Disk::default(), |meta| Ledger::over(meta).into()).await;
    let client = Pusher(server.address);
    // What is looked up once for an image is known from here on.
    client.get(&tags("huge")).await;
    for n in [1, 100, 1000] {
        for first in [0, TAGS / 2, TAGS - 1 - n] {
            meta.take_rows_read();
            let page = client.get(&format!("{}?n={n}&last=t{first:06}", tags("huge"))).await;
            let expected: Vec<String> = (first + 1..=first + n).map(|tag| format!("t{tag:06}")).collect();
            assert_eq!(page.json()["tags"], json!(expected));
            assert_eq!(page.header("link").is_some(), first + n < TAGS - 1);
            let rows = meta.take_rows_read();
            assert!((n..n + 10).contains(&rows), "{rows} rows for {n} tags behind {first}");
        }
    }
    let all = pages(client, &tags("huge"), "tags", 1000).await;
    assert_eq!((all.len(), all.first(), all.is_sorted()), (TAGS, Some(&"t000000".to_owned()), true));
    // Whoever does not say how many wants gets a thousand, and where to go on.
    let unsaid = client.get(&tags("huge")).await;
    assert_eq!(unsaid.json()["tags"].as_array().unwrap().len(), 1000);
    assert!(unsaid.header("link").is_some());
    // Neither does the catalog read the tags.
    meta.take_rows_read();
    let catalog = client.get("/v2/_catalog").await;
    assert_eq!(catalog.json(), json!({ "repositories": ["docker-local/huge"] }));
    assert!(meta.take_rows_read() < 10);
    server.stop().await;
}
