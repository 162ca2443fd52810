//! Pushes to a disk that is full or fails: refused for their reason, and nothing that was acknowledged is lost.

use std::time::Duration;

use binaryrepo::names::{Algorithm, Digest};
use binaryrepo::store::Call;
use rustix::io::Errno;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::client::{Answer, Ask, raw};
use super::pusher::{Pusher, blob, manifest, once_free, uploads};
use super::rig::{Disk, Gate, Ledger, Mood, Step};
use super::support::image::{Content, Image};
use super::support::patience::found;
use super::vectors;
use super::workshop::Workshop;

async fn workshop() -> Workshop {
    Workshop::open(tempfile::tempdir().unwrap(), Disk::default(), |meta| Ledger::over(meta).into()).await.0
}

/// 503 with the reason, and when to come again.
fn is_refused(answer: &Answer, reason: &str) {
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (503, "UNAVAILABLE"));
    assert!(message.contains(reason), "{message}");
    assert!(answer.header("retry-after").is_some());
}

/// Sends the rest of an upload from where the server says that it is.
async fn go_on(client: Pusher, location: &str, whole: &Content) -> Answer {
    let status = client.get(location).await;
    assert_eq!(status.status, 204, "{}", status.all());
    let last: usize = status.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
    // `0-0` is one byte or none.
    let there = if last == 0 { 0 } else { last + 1 };
    client.finish(location, &whole.digest, &whole.bytes[there..]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_an_upload_which_goes_on_when_there_is_room() {
    let server = workshop().await;
    let client = Pusher(server.address);
    let before = Image::new(1, &[50_000]);
    client.image("full", "before", &before).await;
    // More than three pieces, however much of it gathers while another is written.
    let content = Content::random(2, 9 << 20);
    let (first, rest) = content.bytes.split_at(1 << 20);
    for spare in [0, 1, 2] {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let name = format!("full/after{spare}");
            let location = client.begin(&name).await;
            assert_eq!(client.patch(&location, first).await.status, 202);
            server.disk.fail_after(spare, Call::Write, errno);
            let range = format!("{}-{}", first.len(), content.bytes.len() - 1);
            let refused = client.chunk(&location, &range, rest).await;
            is_refused(&refused, "no space left on the disk; the upload can go on when there is");
            // Still full: the last bytes of the blob are refused as well, and its upload is there.
            is_refused(&go_on(client, &location, &content).await, "no space left on the disk");
            client.pull("full", "before", &before).await;
            server.disk.heal();
            let answer = go_on(client, &location, &content).await;
            assert_eq!(answer.status, 201, "{}", answer.all());
            assert_eq!(client.get(&blob(&name, &content.digest)).await.body, content.bytes);
        }
    }
    server.no_draft_is_left().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_with_a_disk_that_does_not_answer_and_comes_back_with_it() {
    let server = workshop().await;
    let client = Pusher(server.address);
    assert_eq!(client.get("/readyz").await.status, 200);
    server.disk.fail(Call::Space, Errno::IO);
    let ill = client.get("/readyz").await;
    assert_eq!(ill.status, 503, "{}", ill.all());
    let json = ill.json();
    assert_eq!(json["ready"], false);
    let failed = json["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false);
    let failed: Vec<_> = failed.map(|check| (check["name"].clone(), check["detail"].to_string())).collect();
    let [(name, detail)] = &failed[..] else { panic!("one check fails: {json}") };
    assert!(name == "storage" && detail.contains("could not be read"), "{detail}");
    // It is alive all the same: nobody gains by a restart.
    assert_eq!(client.get("/healthz").await.status, 200);
    server.disk.heal();
    assert_eq!(client.get("/readyz").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_new_file_refuses_the_first_bytes() {
    let server = workshop().await;
    let client = Pusher(server.address);
    let content = Content::random(3, 10_000);
    let location = client.begin("first").await;
    server.disk.fail(Call::Create, Errno::NOSPC);
    is_refused(&client.patch(&location, &content.bytes).await, "no space left on the disk");
    server.disk.heal();
    assert_eq!(go_on(client, &location, &content).await.status, 201);
    server.stop().await;
}

/// An upload whose file could not be opened for want of descriptors was given up, and its file forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn want_of_descriptors_ends_no_upload() {
    let mut server = workshop().await;
    let content = Content::random(8, 200_000);
    let location = Pusher(server.address).begin("few").await;
    assert_eq!(Pusher(server.address).patch(&location, &content.bytes[..100_000]).await.status, 202);
    // At rest since a moment ago, and left by an earlier run.
    for restart in [false, true] {
        if restart {
            server = Workshop::open(server.stop().await, Disk::default(), |meta| Ledger::over(meta).into())
                .await
                .0;
        }
        server.disk.fail(Call::Open, Errno::MFILE);
        let refused = Pusher(server.address).patch(&location, b"x").await;
        is_refused(&refused, "short of files or memory");
        server.disk.heal();
    }
    let answer = go_on(Pusher(server.address), &location, &content).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
    server.no_draft_is_left().await;
    server.stop().await;
}

/// The kernel tells of a lost write once. An upload was refused for it only as long as this run lasted: after a restart
/// its file was taken up, synced without a complaint, and acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_lost_a_write_is_over_for_good() {
    let content = Content::random(20, 17 << 20);
    for is_told in [false, true] {
        let server = workshop().await;
        let client = Pusher(server.address);
        let location = client.begin("lost").await;
        assert_eq!(client.patch(&location, &content.bytes).await.status, 202);
        server.disk.fail_times(1, Call::Sync, Errno::IO);
        server.disk.trail.begin();
        // So much lies there that the disk is to begin with it, beside whatever comes.
        assert_eq!(client.patch(&location, b"x").await.status, 202);
        let synced = async || server.disk.trail.so_far().contains(&Step::Call(Call::Sync)).then_some(());
        found("the sync has failed", synced).await;
        if is_told {
            let refusal = async || Some(client.patch(&location, b"x").await).filter(|it| it.status != 202);
            is_refused(&found("it is refused", refusal).await, "push it again");
            assert_eq!(client.get(&location).await.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
        }
        let (server, _) =
            Workshop::open(server.stop().await, Disk::default(), |meta| Ledger::over(meta).into()).await;
        let client = Pusher(server.address);
        if is_told {
            assert_eq!(client.get(&location).await.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
        }
        let whole = Digest::of(Algorithm::Sha256, &[&content.bytes, &b"x"[..]].concat());
        let answer = client.finish(&location, &whole, &[]).await;
        assert!([400, 404].contains(&answer.status), "{}", answer.all());
        server.no_draft_is_left().await;
        server.stop().await;
    }
}

/// Nobody was told the name of its upload, which is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_sent_in_one_request_is_to_be_pushed_again() {
    let server = workshop().await;
    let client = Pusher(server.address);
    let content = Content::random(21, 100_000);
    let target = format!("{}?digest={}", uploads("once"), content.digest);
    for call in [Call::Create, Call::Write] {
        server.disk.fail(call, Errno::NOSPC);
        let refused = client.send(Ask::new("POST", &target).body(&content.bytes[..])).await;
        is_refused(&refused, "no space left on the disk; push the blob again when there is");
        server.disk.heal();
    }
    assert_eq!(client.send(Ask::new("POST", &target).body(&content.bytes[..])).await.status, 201);
    server.no_draft_is_left().await;
    server.stop().await;
}

/// After a sync that failed nobody knows what the disk has, so the upload is over; and without its name made durable a
/// blob is not acknowledged either.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_durable_is_not_acknowledged() {
    let server = workshop().await;
    let client = Pusher(server.address);
    let full = "no space left on the disk; push the blob again when there is";
    let cases = [
        (Call::Sync, Errno::IO, "push it again"),
        (Call::Sync, Errno::NOSPC, full),
        (Call::Rename, Errno::NOSPC, full),
        (Call::Rename, Errno::ROFS, "push it again"),
        (Call::SyncDirectory, Errno::IO, "push it again"),
    ];
    for (number, (call, errno, reason)) in cases.into_iter().enumerate() {
        let content = Content::random(10 + number as u64, 100_000);
        let location = client.begin("durable").await;
        assert_eq!(client.patch(&location, &content.bytes).await.status, 202);
        server.disk.fail(call, errno);
        is_refused(&client.finish(&location, &content.digest, &[]).await, reason);
        server.disk.heal();
        assert_eq!(client.get(&blob("durable", &content.digest)).await.status, 404, "{call:?} {errno:?}");
        let again = client.finish(&location, &content.digest, &[]).await;
        assert_eq!(again.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
        assert_eq!(client.blob("durable", &content).await.status, 201);
        assert_eq!(client.get(&blob("durable", &content.digest)).await.body, content.bytes);
    }
    server.no_draft_is_left().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metadata_nothing_is_acknowledged_and_all_that_was_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (server, ledger) = Workshop::open(dir, Disk::default(), |meta| Ledger::over(meta).into()).await;
    let client = Pusher(server.address);
    let (image, other) = (Image::new(4, &[1000]), Image::new(5, &[1000]));
    client.image("rows", "v1", &image).await;
    let location = client.begin("rows").await;
    for content in other.blobs() {
        assert_eq!(client.blob("rows", content).await.status, 201);
    }
    ledger.is(Mood::Dead);
    let put = client.manifest("rows", "v1", Image::MEDIA_TYPE, &other.manifest.bytes).await;
    is_refused(&put, "metadata");
    let content = Content::random(6, 1000);
    is_refused(&client.finish(&location, &content.digest, &content.bytes).await, "metadata");
    let delete = client.send(Ask::new("DELETE", &manifest("rows", "v1"))).await;
    is_refused(&delete, "metadata");
    client.pull("rows", "v1", &image).await;
    ledger.is(Mood::Well);
    client.pull("rows", "v1", &image).await;
    assert_eq!(client.get(&blob("rows", &content.digest)).await.status, 404);
    assert_eq!(client.blob("rows", &content).await.status, 201);
    client.image("rows", "v1", &other).await;
    client.pull("rows", "v1", &other).await;
    server.no_draft_is_left().await;
    server.stop().await;
}

/// The bytes of an earlier run are read again before an upload goes on, which takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_waiting_finds_its_upload_again() {
    let server = workshop().await;
    let content = Content::random(7, 200_000);
    let location = Pusher(server.address).begin("wait").await;
    assert_eq!(Pusher(server.address).patch(&location, &content.bytes[..100_000]).await.status, 202);
    let (dir, disk, gate) = (server.stop().await, Disk::default(), Gate::default());
    let (server, _) = Workshop::open(dir, disk, |meta| Ledger::over(meta).into()).await;
    server.disk.hold_after(0, Call::Open, &gate);
    let mut impatient = TcpStream::connect(server.address).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n");
    impatient.write_all(head.as_bytes()).await.unwrap();
    let client = Pusher(server.address);
    found("it is being read", async || gate.is_reached().then_some(())).await;
    // It is being read for that one: nobody else waits for the gate, and who only asks is told at once.
    assert_eq!(client.get(&location).await.header("range"), Some("0-99999"));
    let other = client.chunk(&location, "100000-100000", &content.bytes[100_000..=100_000]).await;
    assert_eq!(other.code(), (416, "RANGE_INVALID".to_owned()));
    drop(impatient);
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    let rest = &content.bytes[100_000..];
    let answer = once_free(async || client.chunk(&location, "100000-199999", rest).await).await;
    assert_eq!(answer.status, 202, "{}", answer.all());
    assert_eq!(client.finish(&location, &content.digest, &[]).await.status, 201);
    server.stop().await;
}

/// Names that cannot be are found out before anything is looked for under them.
#[tokio::test(flavor = "multi_thread")]
async fn paths_and_digests_that_cannot_be_ask_the_disk_for_nothing() {
    let server = workshop().await;
    let client = Pusher(server.address);
    let there = Content::random(30, 10);
    assert_eq!(client.blob("a", &there).await.status, 201);
    let calls = || {
        let steps = server.disk.trail.so_far();
        // Housekeeping asks for the space in its own time.
        steps.into_iter().filter(|step| *step != Step::Call(Call::Space)).collect::<Vec<_>>()
    };
    server.knows_what_is_here().await;
    server.disk.trail.begin();
    assert_eq!(client.get(&blob("a", &there.digest)).await.status, 200);
    assert!(calls().contains(&Step::Call(Call::Open)), "what is there is opened");

    let hostile: Vec<_> = vectors::all().into_iter().filter(|vector| [4, 6].contains(&vector.row)).collect();
    assert!(hostile.len() > 20);
    server.disk.trail.begin();
    for vector in hostile {
        assert!(raw(server.address, &vector.bytes).await.status >= 400, "{}", vector.what);
        assert_eq!(calls(), [], "{}", vector.what);
    }
    for digest in ["sha256:..%2f..%2fadmin.token", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e", ""] {
        let begun = uploads("a");
        for (method, target) in [
            ("HEAD", format!("/v2/docker-local/a/blobs/{digest}")),
            ("DELETE", format!("/v2/docker-local/a/blobs/{digest}")),
            ("DELETE", format!("/v2/docker-local/a/manifests/{digest}")),
            ("GET", format!("/v2/docker-local/a/referrers/{digest}")),
            ("POST", format!("{begun}?digest={digest}")),
            ("PUT", format!("{begun}1-00000000000000000000000000000000?digest={digest}")),
        ] {
            let answer = client.send(Ask::new(method, &target).body(&there.bytes[..])).await;
            assert!((400..500).contains(&answer.status), "{method} {target}: {}", answer.all());
            assert_eq!(calls(), [], "{method} {target}");
        }
    }
    server.stop().await;
}
