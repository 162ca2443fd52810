//! Hostile and broken pushes, and what each is told.

use binaryrepo::names::{Algorithm, Digest};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::client::{Ask, raw};
use super::house::House;
use super::pusher::{Pusher, blob, manifest, once_free, uploads};
use super::support::image::{Content, Image};
use super::support::patience::found;

const ID: &str = "1-00000000000000000000000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_for_its_own_image() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("mine").await;
    let id = location.rsplit('/').next().unwrap();
    let forged = [
        format!("{}{id}", uploads("yours")),
        format!("{}{ID}", uploads("mine")),
        format!("{}x", uploads("mine")),
        format!("{}{}", uploads("mine"), id.to_uppercase()),
        format!("{}{id}0", uploads("mine")),
    ];
    for target in forged.iter().filter(|target| **target != location) {
        for method in ["GET", "PATCH", "DELETE"] {
            let answer = client.send(Ask::new(method, target)).await;
            assert_eq!(answer.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()), "{method} {target}");
        }
        let digest = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(client.finish(target, &digest, &[]).await.status, 404);
    }
    assert_eq!(client.get(&location).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terabyte_is_refused_before_it_is_sent() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("large").await;
    let huge = u64::MAX >> 1;
    for expect in ["", "Expect: 100-continue\r\n"] {
        let head =
            format!("PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {huge}\r\n{expect}\r\n");
        let answer = raw(house.address, head).await;
        assert_eq!(answer.code(), (413, "SIZE_INVALID".to_owned()));
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {huge}\r\n\r\n",
        manifest("large", "x")
    );
    assert_eq!(raw(house.address, head).await.code(), (413, "MANIFEST_INVALID".to_owned()));
    // The upload can go on with something that fits.
    let digest = Digest::of(Algorithm::Sha256, b"small");
    assert_eq!(client.finish(&location, &digest, b"small").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_contradicts_the_length_is_refused() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("range").await;
    let answer = client.chunk(&location, "0-9", b"hello").await;
    assert_eq!(answer.code(), (400, "SIZE_INVALID".to_owned()));
    for wrong in ["bytes 0-4/5", "0", "4-0", "-4"] {
        let answer = client.chunk(&location, wrong, b"hello").await;
        assert_eq!(answer.code(), (400, "BLOB_UPLOAD_INVALID".to_owned()), "{wrong}");
    }
    assert_eq!(client.get(&location).await.header("range"), Some("0-0"));
    // Where no length was announced it shows at the end. What came is there, and is told.
    for (range, sent) in [("0-9", "hello"), ("5-6", "world")] {
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Range: {range}\r\n");
        let body = format!("Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{sent}\r\n0\r\n\r\n");
        assert_eq!(raw(house.address, head + &body).await.code(), (400, "SIZE_INVALID".to_owned()));
    }
    assert_eq!(client.get(&location).await.header("range"), Some("0-9"));
}

/// The upload keeps what came, and can be gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_or_breaks_off_leaves_the_upload() {
    let house = House::with(&[("server.body_timeout", "300ms")]).await;
    let client = Pusher(house.address);
    let location = client.begin("stall").await;
    let half = |bytes: &str| {
        format!("PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{bytes}")
    };
    let answer = raw(house.address, half("hello")).await;
    assert_eq!(answer.code(), (408, "BLOB_UPLOAD_INVALID".to_owned()));
    assert_eq!(client.get(&location).await.header("range"), Some("0-4"));
    let mut broken = TcpStream::connect(house.address).await.unwrap();
    broken.write_all(half(", world").as_bytes()).await.unwrap();
    drop(broken);
    found("both words are written", async || {
        (client.get(&location).await.header("range") == Some("0-11")).then_some(())
    })
    .await;
    let digest = Digest::of(Algorithm::Sha256, b"hello, world");
    let finished = once_free(async || client.finish(&location, &digest, &[]).await).await;
    assert_eq!(finished.status, 201, "{}", finished.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_and_tags_are_looked_at_first() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("form").await;
    let cases = [
        (Ask::new("PUT", &location), (400, "DIGEST_INVALID")),
        (Ask::new("PUT", &format!("{location}?digest=")), (400, "DIGEST_INVALID")),
        (Ask::new("PUT", &format!("{location}?digest=sha256:abc")), (400, "DIGEST_INVALID")),
        (
            Ask::new("PUT", &format!("{location}?digest=md5:d41d8cd98f00b204e9800998ecf8427e")),
            (400, "DIGEST_INVALID"),
        ),
        (Ask::new("POST", &format!("{}?digest=sha256:..", uploads("form"))), (400, "DIGEST_INVALID")),
        (Ask::new("POST", &format!("{}?mount=nonsense", uploads("form"))), (400, "DIGEST_INVALID")),
        (Ask::new("PUT", &manifest("form", ".x")), (400, "TAG_INVALID")),
        (Ask::new("PUT", &manifest("form", "sha256:baddigeststring")), (400, "DIGEST_INVALID")),
        (Ask::new("DELETE", &manifest("form", "sha256:baddigeststring")), (400, "DIGEST_INVALID")),
        (Ask::new("DELETE", &manifest("form", ".x")), (404, "MANIFEST_UNKNOWN")),
        (Ask::new("POST", "/v2/docker-local/UPPER/blobs/uploads/"), (400, "NAME_INVALID")),
        (Ask::new("POST", "/v2/docker-local/a___b/blobs/uploads/"), (400, "NAME_INVALID")),
        (Ask::new("POST", "/v2/docker-local/a%2fb/blobs/uploads/"), (400, "NAME_INVALID")),
    ];
    for (ask, (status, code)) in cases {
        let told = format!("{ask:?}");
        assert_eq!(client.send(ask).await.code(), (status, code.to_owned()), "{told}");
    }
    let long = format!("/v2/docker-local/{}/blobs/uploads/", "a".repeat(256));
    assert_eq!(client.send(Ask::new("POST", &long)).await.code(), (400, "NAME_INVALID".to_owned()));
    // Nothing of it has touched the upload.
    assert_eq!(client.get(&location).await.header("range"), Some("0-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_is_refused_for_its_reason() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let oci = Image::MEDIA_TYPE;
    let bomb = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
    let two = json!({ "layers": [], "manifests": [] }).to_string();
    let strange = json!({ "layers": [{ "digest": "blake3:00", "size": 1 }] }).to_string();
    let other =
        json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] }).to_string();
    let doubled = "{\"layers\":[],\"layers\":[]}";
    let deep = "{\"layers\":[],\"note\":{\"x\":1,\"x\":2}}";
    let digest = Digest::of(Algorithm::Sha256, b"x").to_string();
    let children = json!({ "manifests": [] }).to_string();
    let mixed = json!({ "config": { "digest": digest, "size": 1 }, "manifests": [] }).to_string();
    let sizes =
        json!({ "layers": [{ "digest": digest, "size": 1 }, { "digest": digest, "size": 2 }] }).to_string();
    let index = "application/vnd.oci.image.index.v1+json";
    let cases: [(&str, &[u8]); 15] = [
        (oci, b""),
        (oci, b"[]"),
        (oci, b"<html>"),
        (oci, b"\xef\xbb\xbf{}"),
        (oci, b"{\"mediaType\":\"\xff\"}"),
        (oci, bomb.as_bytes()),
        (oci, two.as_bytes()),
        (oci, strange.as_bytes()),
        (oci, other.as_bytes()),
        (oci, doubled.as_bytes()),
        (oci, deep.as_bytes()),
        (oci, children.as_bytes()),
        (index, b"{\"layers\":[]}"),
        ("application/vnd.test.own+json", mixed.as_bytes()),
        (oci, sizes.as_bytes()),
    ];
    for (media_type, bytes) in cases {
        let answer = client.manifest("no", "x", media_type, bytes).await;
        let told = String::from_utf8_lossy(bytes).chars().take(80).collect::<String>();
        assert_eq!(answer.code(), (400, "MANIFEST_INVALID".to_owned()), "{told}");
    }
    let untyped = Ask::new("PUT", &manifest("no", "x")).body(&b"{\"layers\":[]}"[..]);
    assert_eq!(client.send(untyped).await.code(), (400, "MANIFEST_INVALID".to_owned()));
    let answer = client.manifest("no", "x", "nonsense", b"{}").await;
    assert_eq!(answer.code(), (400, "MANIFEST_INVALID".to_owned()));
    let wrong = Digest::of(Algorithm::Sha256, b"other");
    let answer = client.manifest("no", &wrong.to_string(), oci, b"{\"layers\":[]}").await;
    assert_eq!(answer.code(), (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(client.get(&manifest("no", "x")).await.status, 404);
}

/// At most 4 MiB, and exactly that is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_has_a_largest_size() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let of_size = |size: usize| {
        let empty = json!({ "layers": [], "annotations": { "a": "" } }).to_string();
        let filler = "x".repeat(size - empty.len());
        json!({ "layers": [], "annotations": { "a": filler } }).to_string()
    };
    let largest = of_size(4 << 20);
    let answer = client.manifest("size", "x", Image::MEDIA_TYPE, largest.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
    assert_eq!(client.get(&manifest("size", "x")).await.body, largest.as_bytes());
    // Refused as soon as it is known, which a client that only writes learns by a broken connection.
    let larger = of_size((4 << 20) + 1);
    let chunked = format!("{:x}\r\n{larger}\r\n0\r\n\r\n", larger.len());
    let length = format!("Content-Length: {}", larger.len());
    for (framing, body) in [(length.as_str(), &larger), ("Transfer-Encoding: chunked", &chunked)] {
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {}\r\n{framing}\r\n\r\n",
            manifest("size", "y"),
            Image::MEDIA_TYPE
        );
        let answer = raw(house.address, head + body).await;
        assert_eq!(answer.code(), (413, "MANIFEST_INVALID".to_owned()), "{framing}");
    }
    assert_eq!(client.get(&manifest("size", "y")).await.status, 404);
}

/// A remote is a cache: whoever pushes to it is told where to go.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_takes_no_push() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let digest = Digest::of(Algorithm::Sha256, b"");
    for ask in [
        Ask::new("POST", "/v2/docker-remote/a/b/blobs/uploads/"),
        Ask::new("PUT", "/v2/docker-remote/a/b/manifests/x"),
        Ask::new("DELETE", "/v2/docker-remote/a/b/manifests/x"),
        Ask::new("DELETE", &format!("/v2/docker-remote/a/b/blobs/{digest}")),
        Ask::new("PATCH", &format!("/v2/docker-remote/a/b/blobs/uploads/{ID}")),
    ] {
        let answer = client.send(ask).await;
        assert_eq!(answer.code(), (405, "UNSUPPORTED".to_owned()));
    }
}

/// A layer that lives elsewhere is not asked for, neither here nor there.
#[tokio::test(flavor = "multi_thread")]
async fn urls_are_kept_and_never_followed() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let config = Content::new(&b"{}"[..]);
    assert_eq!(client.blob("urls", &config).await.status, 201);
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    let bytes = json!({
        "schemaVersion": 2,
        "mediaType": Image::MEDIA_TYPE,
        "config": { "mediaType": "application/x", "digest": config.digest.to_string(), "size": 2 },
        "layers": [{ "mediaType": "application/x", "digest": absent.to_string(), "size": 6,
            "urls": ["http://169.254.169.254/latest"] }],
    })
    .to_string();
    let answer = client.manifest("urls", "x", Image::MEDIA_TYPE, bytes.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
    assert_eq!(client.get(&manifest("urls", "x")).await.body, bytes.as_bytes());
    assert_eq!(client.get(&blob("urls", &absent)).await.status, 404);
}
