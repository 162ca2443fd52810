//! Uploads, in every form of the distribution-spec.

use binaryrepo::names::{Algorithm, Digest};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Ask, raw};
use super::house::House;
use super::pusher::{Pusher, blob, once_free, uploads};
use super::support::image::{Content, Image};
use super::support::patience::found;

fn drafts(house: &House) -> usize {
    std::fs::read_dir(house.dir.path().join("tmp")).unwrap().count()
}

async fn no_draft_is_left(house: &House) {
    found("no draft is left", async || (drafts(house) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_up_in_every_way_and_comes_back() {
    let house = House::new().await;
    let client = Pusher(house.address);
    for size in [0, 1, 1000, 70_000, 3 << 20] {
        let whole = Content::random(size as u64, size);
        let digest = whole.digest;

        let answer = client.blob("way/put", &whole).await;
        assert_eq!(answer.status, 201, "{}", answer.all());
        assert_eq!(answer.header("location"), Some(blob("way/put", &digest).as_str()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));

        let location = client.begin("way/patch").await;
        assert_eq!(client.patch(&location, &whole.bytes).await.status, 202);
        assert_eq!(client.finish(&location, &digest, &[]).await.status, 201);

        let target = format!("{}?digest={digest}", uploads("way/post"));
        let answer = client.send(Ask::new("POST", &target).body(&whole.bytes[..])).await;
        assert_eq!(answer.status, 201, "{}", answer.all());

        let location = client.begin("way/chunks").await;
        let (first, rest) = whole.bytes.split_at(size / 3);
        if !first.is_empty() {
            let range = format!("0-{}", first.len() - 1);
            let answer = client.chunk(&location, &range, first).await;
            assert_eq!((answer.status, answer.header("range")), (202, Some(range.as_str())));
        }
        assert_eq!(client.finish(&location, &digest, rest).await.status, 201);

        for name in ["way/put", "way/patch", "way/post", "way/chunks"] {
            let answer = client.get(&blob(name, &digest)).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &whole.bytes[..]), "{name} {size}");
            let head = client.send(Ask::head(&blob(name, &digest))).await;
            assert_eq!(head.header("content-length"), Some(size.to_string().as_str()));
            assert_eq!(head.header("x-cache"), None);
        }
    }
    no_draft_is_left(&house).await;
}

/// docker sends chunked transfer coding, no length and no type.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_length_is_taken() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("stream").await;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let answer = raw(house.address, format!("{head}5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n")).await;
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-11")));
    let digest = Digest::of(Algorithm::Sha256, b"hello, world");
    assert_eq!(client.finish(&location, &digest, &[]).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_hashed_as_announced_or_on_a_second_look() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let bytes = Content::random(512, 300_000).bytes;
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    let hints = ["", "?digest-algorithm=sha512", "?digest-algorithm=sha256", "?digest-algorithm=blake3"];
    for (number, hint) in hints.into_iter().enumerate() {
        let name = format!("long/n{number}");
        let answer = client.send(Ask::new("POST", &format!("{}{hint}", uploads(&name)))).await;
        let location = answer.header("location").unwrap().to_owned();
        assert_eq!(client.patch(&location, &bytes).await.status, 202);
        assert_eq!(client.finish(&location, &digest, &[]).await.status, 201, "{hint}");
        let answer = client.get(&blob(&name, &digest)).await;
        assert_eq!((answer.status, answer.body.len()), (200, bytes.len()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        // Another algorithm is another digest.
        let other = Digest::of(Algorithm::Sha256, &bytes);
        assert_eq!(client.get(&blob(&name, &other)).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_out_of_order_is_refused_and_says_where_to_go_on() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("order").await;
    assert_eq!(client.chunk(&location, "0-4", b"hello").await.status, 202);
    for (range, bytes) in [("0-4", &b"hello"[..]), ("6-11", b" world"), ("100-104", b"xxxxx")] {
        let answer = client.chunk(&location, range, bytes).await;
        assert_eq!(answer.code(), (416, "RANGE_INVALID".to_owned()));
        assert_eq!(answer.header("range"), Some("0-4"));
        assert_eq!(answer.header("location"), Some(location.as_str()));
    }
    let answer = client.get(&location).await;
    assert_eq!((answer.status, answer.header("range")), (204, Some("0-4")));
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert_eq!(client.chunk(&location, "5-10", b" world").await.status, 202);
    // The last chunk comes with the PUT, and is looked at in the same way.
    let digest = Digest::of(Algorithm::Sha256, b"hello world!");
    let target = format!("{location}?digest={digest}");
    let wrong = Ask::new("PUT", &target).header("Content-Range", "12-12").body(&b"!"[..]);
    assert_eq!(client.send(wrong).await.status, 416);
    let right = Ask::new("PUT", &target).header("Content-Range", "11-11").body(&b"!"[..]);
    assert_eq!(client.send(right).await.status, 201);
    let answer = client.chunk(&location, "garbage", b"x").await;
    assert_eq!(answer.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_another_writes_is_out_of_order() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("busy").await;
    let mut first = TcpStream::connect(house.address).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello");
    first.write_all(head.as_bytes()).await.unwrap();
    // Until the first one holds it.
    found("it is begun", async || (client.get(&location).await.header("range") == Some("0-4")).then_some(()))
        .await;
    let refused = client.chunk(&location, "5-9", b"hello").await;
    assert_eq!(refused.code(), (416, "RANGE_INVALID".to_owned()));
    assert_eq!(refused.header("range"), Some("0-4"));
    let digest = Digest::of(Algorithm::Sha256, b"hellohello");
    assert_eq!(client.finish(&location, &digest, &[]).await.status, 416);
    assert_eq!(client.get(&location).await.header("range"), Some("0-4"));
    // It goes away in the middle: what came stays.
    drop(first);
    let answer = once_free(async || client.chunk(&location, "5-9", b"hello").await).await;
    assert_eq!(answer.status, 202, "{}", answer.all());
    assert_eq!(client.finish(&location, &digest, &[]).await.status, 201);
}

/// A progress bar beside an upload asks again and again. It once took the upload for that moment, and what was
/// written in it was refused as out of order.
#[tokio::test(flavor = "multi_thread")]
async fn asking_how_far_an_upload_is_stands_in_nobodys_way() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("asked").await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let location = location.clone();
        asking.spawn(async move {
            loop {
                assert_eq!(client.get(&location).await.status, 204);
            }
        });
    }
    for at in 0..200 {
        let answer = client.chunk(&location, &format!("{at}-{at}"), b"x").await;
        assert_eq!(answer.status, 202, "byte {at}: {}", answer.all());
    }
    asking.abort_all();
    while let Some(ended) = asking.join_next().await {
        assert!(ended.is_err_and(|error| error.is_cancelled()), "every question was answered");
    }
    let digest = Digest::of(Algorithm::Sha256, &[b'x'; 200]);
    assert_eq!(client.finish(&location, &digest, &[]).await.status, 201);
}

/// A wrong digest leaves nothing behind; a client begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_forgotten() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let right = Content::new(&b"right"[..]);
    for rest in [&b"wrong"[..], b""] {
        let location = client.begin("wrong").await;
        let answer = client.finish(&location, &right.digest, rest).await;
        assert_eq!(answer.code(), (400, "DIGEST_INVALID".to_owned()));
        assert_eq!(client.get(&location).await.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    }
    let target = format!("{}?digest={}", uploads("wrong"), right.digest);
    let answer = client.send(Ask::new("POST", &target).body(&b"wrong"[..])).await;
    assert_eq!(answer.code(), (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(client.get(&blob("wrong", &right.digest)).await.status, 404);
    no_draft_is_left(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_was_lost_may_be_repeated() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let content = Content::random(1, 5000);
    let location = client.begin("again").await;
    for _ in 0..2 {
        let answer = client.finish(&location, &content.digest, &content.bytes).await;
        assert_eq!(answer.status, 201, "{}", answer.all());
    }
    let other = Content::random(2, 50);
    assert_eq!(client.finish(&location, &other.digest, &other.bytes).await.status, 404);
    // It was acknowledged once more after the image had lost the blob.
    let target = blob("again", &content.digest);
    assert_eq!(client.send(Ask::new("DELETE", &target)).await.status, 202);
    let answer = client.finish(&location, &content.digest, &content.bytes).await;
    assert_eq!(answer.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    assert_eq!(client.get(&target).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_is_gone() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("cancel").await;
    assert_eq!(client.patch(&location, &[7; 100_000]).await.status, 202);
    assert_eq!(drafts(&house), 1);
    assert_eq!(client.send(Ask::new("DELETE", &location)).await.status, 204);
    for method in ["GET", "PATCH", "DELETE"] {
        let answer = client.send(Ask::new(method, &location)).await;
        assert_eq!(answer.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()), "{method}");
    }
    no_draft_is_left(&house).await;
}

/// Who writes learns of it, and what was written goes.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_cancelled_while_somebody_writes() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let location = client.begin("cancel").await;
    let mut writer = TcpStream::connect(house.address).await.unwrap();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhello"
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    found("it is begun", async || (client.get(&location).await.header("range") == Some("0-4")).then_some(()))
        .await;
    assert_eq!(client.send(Ask::new("DELETE", &location)).await.status, 204);
    assert_eq!(client.get(&location).await.status, 404);
    writer.write_all(b"world").await.unwrap();
    let mut told = String::new();
    writer.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 404 ") && told.contains("BLOB_UPLOAD_UNKNOWN"), "{told}");
    no_draft_is_left(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_restart() {
    let house = House::new().await;
    let content = Content::random(5, 400_000);
    let (first, rest) = content.bytes.split_at(150_000);
    let (begun, empty) = {
        let client = Pusher(house.address);
        let begun = client.begin("restart").await;
        assert_eq!(client.patch(&begun, first).await.status, 202);
        (begun, client.begin("restart").await)
    };
    let house = house.restart().await;
    let client = Pusher(house.address);
    let answer = client.get(&begun).await;
    assert_eq!((answer.status, answer.header("range")), (204, Some("0-149999")));
    assert_eq!(client.chunk(&begun, "150000-399999", rest).await.status, 202);
    assert_eq!(client.finish(&begun, &content.digest, &[]).await.status, 201);
    assert_eq!(client.finish(&empty, &content.digest, &content.bytes).await.status, 201);
    assert_eq!(client.get(&blob("restart", &content.digest)).await.body, content.bytes);
    no_draft_is_left(&house).await;
}

/// 64 clients push the same bytes and bytes of their own; all are acknowledged, and each blob lies here once.
#[tokio::test(flavor = "multi_thread")]
async fn many_push_at_once() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let shared = Content::random(9, 200_000);
    let pushes = (0..64_u64).map(|number| {
        let shared = shared.clone();
        tokio::spawn(async move {
            let own = Content::random(100 + number, 3000);
            let name = format!("many/n{number}");
            for content in [&shared, &own] {
                let answer = client.blob(&name, content).await;
                assert_eq!(answer.status, 201, "{}", answer.all());
            }
            for content in [&shared, &own] {
                assert_eq!(client.get(&blob(&name, &content.digest)).await.body, content.bytes);
            }
        })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.unwrap();
    }
    no_draft_is_left(&house).await;
    // The same commits serve many.
    let commits = house.metric("binaryrepo_meta_commits_total").await;
    assert!((1..64 * 6).contains(&commits), "{commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_blob_is_served_in_parts() {
    let house = House::new().await;
    let client = Pusher(house.address);
    for size in [1000, 100_000] {
        let content = Content::random(size, usize::try_from(size).unwrap());
        assert_eq!(client.blob("parts", &content).await.status, 201);
        let target = blob("parts", &content.digest);
        let part = |range: &str| Ask::get(&target).header("Range", range);
        let answer = client.send(part("bytes=10-19")).await;
        assert_eq!((answer.status, &answer.body[..]), (206, &content.bytes[10..20]));
        assert_eq!(answer.header("content-range"), Some(format!("bytes 10-19/{size}").as_str()));
        let answer = client.send(part("bytes=-5")).await;
        assert_eq!((answer.status, &answer.body[..]), (206, &content.bytes[content.bytes.len() - 5..]));
        let answer = client.send(part("bytes=990-99999999")).await;
        assert_eq!((answer.status, &answer.body[..]), (206, &content.bytes[990..]));
        // Several parts at once are the whole, which the specification of HTTP allows.
        let answer = client.send(part("bytes=0-1,5-6")).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &content.bytes[..]));
        let answer = client.send(part(&format!("bytes={size}-"))).await;
        assert_eq!(answer.code(), (416, "RANGE_INVALID".to_owned()));
        assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
        let etag = format!("\"{}\"", content.digest);
        for (condition, status) in [(etag.as_str(), 206), ("\"other\"", 200)] {
            let answer = client.send(part("bytes=0-9").header("If-Range", condition)).await;
            assert_eq!(answer.status, status, "If-Range: {condition}");
        }
        let answer = client.send(Ask::get(&target).header("If-None-Match", &etag)).await;
        assert_eq!((answer.status, answer.header("etag")), (304, Some(etag.as_str())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_file_is_an_alarm_and_heals_by_a_push() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let content = Content::new(Bytes::from(vec![3; 200_000]));
    assert_eq!(client.blob("lost", &content).await.status, 201);
    let hex = content.digest.hex();
    let file = house.dir.path().join("cas/sha256").join(&hex[..2]).join(&hex);
    std::fs::remove_file(&file).unwrap();
    let answer = client.get(&blob("lost", &content.digest)).await;
    assert_eq!(answer.code(), (503, "UNAVAILABLE".to_owned()));
    let house = house.restart().await;
    let client = Pusher(house.address);
    assert_eq!(client.get(&blob("lost", &content.digest)).await.status, 503);
    // Nothing is acknowledged that names it: the client is told to push it again.
    let mut image = Image::new(9, &[]);
    let descriptor = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": content.digest.to_string(), "size": content.size() });
    let mut manifest_json: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    manifest_json["layers"] = json!([descriptor]);
    image.manifest = Content::new(manifest_json.to_string());
    assert_eq!(client.blob("lost", &image.config).await.status, 201);
    let named = async || client.manifest("lost", "v1", Image::MEDIA_TYPE, &image.manifest.bytes).await;
    // Once that is known: the files are looked through while it serves.
    let refused = async || Some(named().await).filter(|answer| answer.status != 201);
    let refused = found("the loss is known", refused).await;
    assert_eq!(refused.code(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    assert_eq!(client.blob("lost", &content).await.status, 201);
    assert_eq!(client.get(&blob("lost", &content.digest)).await.body, content.bytes);
    assert_eq!(named().await.status, 201);
}
