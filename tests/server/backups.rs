//! `backup` and `restore`: what was acknowledged before a backup is whole in it, a damaged one is refused by the name of
//! what is bad, and an interrupted one is never taken for a whole one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use binaryrepo::names::{Algorithm, Digest};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Ask;
use super::house::{House, push, put_manifest};
use super::process::{Process, binary, failed, good, on, said};
use super::support::image::{Content, Image, Index};
use super::support::upstream::Registry;

/// Every file below a directory but what the server itself keeps there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn blob_in(dir: &Path, content: &Content) -> PathBuf {
    let hex = content.digest.hex();
    dir.join("cas/sha256").join(&hex[..2]).join(hex)
}

/// The data directory of a stopped server with two images, and the directory that its backup is in.
async fn saved(more: &[&str]) -> (TempDir, TempDir, [Image; 2]) {
    let house = House::new().await;
    let images = [1, 2].map(|seed| Image::new(seed, &[30_000, 200]));
    for (image, tag) in images.iter().zip(["one", "two"]) {
        push(house.address, "docker-local/team/app", tag, image).await;
    }
    let dir = house.stop().await;
    let room = tempfile::tempdir().unwrap();
    let backup = room.path().join("backup");
    good(dir.path(), &[&["backup", text(&backup)], more].concat());
    (dir, room, images)
}

pub async fn pulls(server: &Process, name: &str, tag: &str, image: &Image) {
    let manifest = server.get(&format!("/v2/{name}/manifests/{tag}")).await;
    assert_eq!(manifest.body, image.manifest.bytes, "{name}:{tag} {}", manifest.all());
    for content in image.blobs() {
        let blob = server.get(&format!("/v2/{name}/blobs/{}", content.digest)).await;
        assert_eq!(blob.body, content.bytes, "{name}:{tag} {}", content.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_while_pushes_go_on_has_all_that_was_acknowledged_before() {
    let registry = Registry::open().await;
    registry.add_image("library/redis", "7", &Image::new(900, &[20_000]));
    let (home, room) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, backup) = (home.path(), room.path().join("backup"));
    let server = Process::start(&home, &[]);
    good(dir, &["repo", "update", "docker-remote", "--url", registry.url().as_str()]);
    good(dir, &["repo", "add", "team", "--local", "--immutable-tags"]);
    server.get("/v2/docker-remote/library/redis/manifests/7").await;
    let image = |number: u64| Image::new(number, &[40_000, 300]);
    for number in 0..8 {
        push(server.address, "team/app", &format!("t{number}"), &image(number)).await;
    }

    let (address, stop, pushed) =
        (server.address, Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(8)));
    let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&pushed));
    let pusher = tokio::spawn(async move {
        while !stopping.load(Ordering::Relaxed) {
            let number = counted.load(Ordering::Relaxed);
            push(address, "team/app", &format!("t{number}"), &image(number)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Each adds to the last one, and has all that was pushed before it began.
    let mut before = 0;
    for round in 0..3 {
        before = pushed.load(Ordering::Relaxed);
        let (dir, backup) = (dir.to_owned(), backup.clone());
        let told = tokio::task::spawn_blocking(move || good(&dir, &["backup", text(&backup), "--json"]));
        let told: Value = serde_json::from_str(&told.await.unwrap()).unwrap();
        assert_eq!((&told["repositories"], &told["missing"]), (&json!(3), &json!([])), "{told}");
        let (all, new) = (told["blobs"].as_u64().unwrap(), told["copied"].as_u64().unwrap());
        assert!(all >= before * 3 && if round == 0 { new == all } else { new < all }, "{told}");
    }
    stop.store(true, Ordering::Relaxed);
    pusher.await.unwrap();
    let after = pushed.load(Ordering::Relaxed);
    assert!(before > 8 && after > before, "nothing was pushed meanwhile: {before}, {after}");
    // The server's own copy of the metadata is gone with the commands.
    assert!(!files(dir).iter().any(|path| text(path).contains("/backup-")), "{:?}", files(dir));

    let restored = tempfile::tempdir().unwrap();
    let told = good(restored.path(), &["restore", text(&backup)]);
    assert!(told.contains("3 repositories") && told.contains("start the server"), "{told}");
    // With upstream and pusher gone.
    drop(server);
    let server = Process::start(&restored, &[]);
    for number in 0..before {
        pulls(&server, "team/app", &format!("t{number}"), &image(number)).await;
    }
    let tags = server.get("/v2/team/app/tags/list?n=1000").await.json();
    for tag in tags["tags"].as_array().unwrap() {
        let tag = tag.as_str().unwrap();
        pulls(&server, "team/app", tag, &image(tag[1..].parse().unwrap())).await;
    }
    // The cached manifest came along, its blobs did not; the settings did.
    assert_eq!(server.get("/v2/docker-remote/library/redis/manifests/7").await.status, 200);
    let shown = server.get("/api/repository/team").await.json();
    assert_eq!(shown["immutable_tags"], true, "{shown}");
    // And it takes pushes.
    push(server.address, "team/app", "later", &Image::new(5_000, &[100])).await;
}

/// What was never pushed is missing nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_image_is_whole_in_a_backup() {
    let (home, room) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, backup) = (home.path(), room.path().join("backup"));
    let server = Process::start(&home, &[]);
    good(dir, &["repo", "add", "mirror", "--local", "--sparse-manifests"]);
    let index = Index::new(1, &["amd64", "arm64"], &[30_000, 200]);
    let [here, elsewhere] = [&index.images[0], &index.images[1]];
    push(server.address, "mirror/app", "amd64", here).await;
    put_manifest(server.address, "mirror/app", "all", (Index::MEDIA_TYPE, &index.manifest)).await;
    let told = said(dir, &["backup", text(&backup)]);
    assert_eq!((&told["blobs"], &told["missing"]), (&json!(3), &json!([])), "{told}");

    let restored = tempfile::tempdir().unwrap();
    good(restored.path(), &["restore", text(&backup)]);
    drop(server);
    let server = Process::start(&restored, &[]);
    pulls(&server, "mirror/app", "amd64", here).await;
    assert_eq!(server.get("/v2/mirror/app/manifests/all").await.body, index.manifest.bytes);
    // And it may come later.
    push(server.address, "mirror/app", "arm64", elsewhere).await;
    put_manifest(server.address, "mirror/more", "all", (Index::MEDIA_TYPE, &index.manifest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_by_the_name_of_what_is_bad() {
    let (dir, room, images) = saved(&[]).await;
    let backup = room.path().join("backup");
    let layer = &images[1].layers[0];
    let (blob, digest) = (blob_in(&backup, layer), layer.digest.to_string());
    let (new, manifest) = (tempfile::tempdir().unwrap(), backup.join("backup.json"));
    let refused = |path: &Path, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>, by_check: bool, named: &str| {
        let before = std::fs::read(path).unwrap();
        match change(before.clone()) {
            Some(after) => std::fs::write(path, after).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let empty = new.path().join("data");
        let (code, err) = failed(&empty, &["restore", text(&backup)]);
        assert!(code == 1 && err.contains(named), "{named}: {code} {err}");
        assert!(!empty.exists() || files(&empty).is_empty(), "{named}: {:?}", files(&empty));
        let checked = failed(&empty, &["restore", text(&backup), "--check"]);
        assert!(!by_check || (checked.0 == 1 && checked.1.contains(named)), "{named}: {checked:?}");
        std::fs::write(path, before).unwrap();
    };
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Some(bytes)
    };
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() / 2);
        Some(bytes)
    };
    let form = |name: &'static str, value: Value| {
        move |bytes: Vec<u8>| {
            let mut form: Value = serde_json::from_slice(&bytes).unwrap();
            form[name] = value.clone();
            Some(form.to_string().into_bytes())
        }
    };
    refused(&blob, &flip, true, &format!("{digest} has other bytes than its digest says"));
    refused(&blob, &cut, true, &format!("{digest} has 15000 bytes, not 30000"));
    refused(&blob, &|_| None, true, &format!("{digest} is missing"));
    refused(&backup.join("metadata-1.redb"), &flip, true, "metadata-1.redb has other bytes");
    refused(&backup.join("metadata-1.redb"), &|_| None, true, "metadata-1.redb: No such file");
    refused(&backup.join("blobs-1.txt"), &cut, true, "blobs-1.txt has other bytes");
    refused(&manifest, &|_| None, true, "is no whole backup: it has no backup.json");
    refused(&manifest, &cut, true, "is no whole backup: backup.json");
    refused(&manifest, &form("format", json!(2)), true, "it has form 2, of a newer version");
    refused(&manifest, &form("schema", json!(99)), true, "schema 99, of a newer version");
    let part = json!({ "file": "../meta.redb", "bytes": 1, "digest": "x" });
    refused(&manifest, &form("metadata", part), true, "backup.json names \"../meta.redb\"");
    // Whole again, so what was refused was what was changed.
    assert!(good(new.path(), &["restore", text(&backup), "--check"]).contains("the backup is whole"));

    // Never over anything.
    let (code, err) = failed(dir.path(), &["restore", text(&backup)]);
    assert!(code == 3 && err.contains("is not empty"), "{code} {err}");
    let (code, err) = failed(dir.path(), &["backup", text(dir.path())]);
    assert!(code == 3 && err.contains("is not empty and holds no backup"), "{code} {err}");
}

/// As an older version took it: its metadata is of the older schema, and the manifest says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_an_older_schema_is_upgraded_as_it_is_brought_back() {
    let (_dir, room, _) = saved(&[]).await;
    let backup = room.path().join("backup");
    let metadata =
        std::fs::read(format!("{}/fixtures/schema-1/meta.redb", env!("CARGO_MANIFEST_DIR"))).unwrap();
    std::fs::write(backup.join("metadata-1.redb"), &metadata).unwrap();
    let mut form: Value =
        serde_json::from_slice(&std::fs::read(backup.join("backup.json")).unwrap()).unwrap();
    form["schema"] = json!(1);
    form["metadata"]["bytes"] = json!(metadata.len());
    form["metadata"]["digest"] = json!(Digest::of(Algorithm::Sha256, &metadata).to_string());
    std::fs::write(backup.join("backup.json"), form.to_string()).unwrap();

    let restored = tempfile::tempdir().unwrap();
    let ended = on(restored.path(), &["restore", text(&backup)]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let kept = files(restored.path()).iter().any(|path| text(path).contains("schema-1"));
    assert!(!kept, "it is in the backup as it was");
    assert_eq!(std::fs::read(backup.join("metadata-1.redb")).unwrap(), metadata);
    let server = Process::start(&restored, &[]);
    assert_eq!(said(restored.path(), &["repo", "show", "docker-remote"])["username"], "somebody");
    let log = server.whole_log();
    assert!(!log.iter().any(|line| line.contains("was upgraded")), "it was before: {log:?}");
}

/// Killed at any moment, the first backup is none and a later one leaves the last one whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_is_never_taken_for_a_whole_one() {
    let home = tempfile::tempdir().unwrap();
    let room = tempfile::tempdir().unwrap();
    let (dir, backup) = (home.path(), room.path().join("backup"));
    let server = Process::start(&home, &[]);
    for number in 0..20 {
        push(server.address, "docker-local/app", &format!("t{number}"), &Image::new(number, &[20_000])).await;
    }
    let check = || failed(dir, &["restore", text(&backup), "--check"]);
    let kill_after = |wait: u64| {
        let mut child = binary(&["backup", text(&backup), "--data-dir", text(dir)]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        // It may have ended.
        let _ = child.kill();
        child.wait().unwrap().success()
    };
    let (mut interrupted, mut wait) = (0, 0);
    loop {
        let ended = kill_after(wait);
        let (code, err) = check();
        if code == 0 {
            break;
        }
        interrupted += 1;
        assert!(!ended && err.contains("is no whole backup"), "{code} {err}");
        // Later and later, so that every part of it is cut somewhere, on a slow machine as well.
        wait += 4.max(wait / 10);
        assert!(wait < 60_000, "none was finished");
    }
    assert!(interrupted > 0, "none was interrupted");
    for number in 20..24 {
        push(server.address, "docker-local/app", &format!("t{number}"), &Image::new(number, &[20_000])).await;
        for part in [0, 1, 3, 6, 9] {
            kill_after(wait * part / 8 + number);
            assert_eq!(check(), (0, String::new()), "the last one is whole until the next one is");
        }
    }
    good(dir, &["backup", text(&backup)]);
    let restored = tempfile::tempdir().unwrap();
    good(restored.path(), &["restore", text(&backup)]);
    let server = Process::start(&restored, &[]);
    for number in 0..24 {
        pulls(&server, "docker-local/app", &format!("t{number}"), &Image::new(number, &[20_000])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_is_not_served() {
    let (_dir, room, _) = saved(&[]).await;
    let backup = room.path().join("backup");
    let new = tempfile::tempdir().unwrap();
    let data = new.path().join("data");
    let (mut interrupted, mut wait, mut ended) = (0, 0, 0);
    while ended == 0 || (interrupted == 0 && ended < 10) {
        let mut child = binary(&["restore", text(&backup), "--data-dir", text(&data)]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        let whole = child.wait().unwrap().success();
        if data.join("restore.unfinished").exists() {
            interrupted += 1;
            assert!(!whole);
            let served = on(&data, &["serve", "--listen", "127.0.0.1:0"]);
            assert_eq!(served.code, 3, "{served:?}");
            assert!(served.err.contains("a backup was being brought back into it"), "{served:?}");
            let (code, err) = failed(&data, &["ls"]);
            assert!(code == 3 && err.contains("hint: empty it"), "{err}");
        }
        if data.exists() {
            std::fs::remove_dir_all(&data).unwrap();
        }
        // Later and later, until it ends before it is killed, on a slow machine as well.
        ended += u32::from(whole);
        wait = if whole { 0 } else { wait + 1.max(wait / 20) };
    }
    assert!(interrupted > 0, "none was interrupted");
}

/// What was deleted is not in the next backup; what is lost here is told, and the rest is saved.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_blob_is_told_and_does_not_keep_the_rest_from_being_saved() {
    let (dir, room, images) = saved(&["--link"]).await;
    let backup = room.path().join("backup");
    let (lost, sound) = (&images[0].layers[0], &images[1]);
    let linked = std::fs::metadata(blob_in(&backup, lost)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&linked), 2);
    std::fs::remove_file(blob_in(dir.path(), lost)).unwrap();
    // It is still in the last backup, from which it can be pushed again.
    let ended = on(dir.path(), &["backup", text(&backup)]);
    assert_eq!(ended.code, 0, "{ended:?}");

    std::fs::remove_dir_all(&backup).unwrap();
    let ended = on(dir.path(), &["backup", text(&backup)]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("1 blob that was pushed here is lost"), "{ended:?}");
    assert!(ended.err.contains(&format!("{} is missing", lost.digest)), "{ended:?}");
    let restored = tempfile::tempdir().unwrap();
    let told = on(restored.path(), &["restore", text(&backup)]);
    assert!(told.code == 0 && told.err.contains(&lost.digest.to_string()), "{told:?}");
    let mut server = Process::start(&restored, &[]);
    pulls(&server, "docker-local/team/app", "two", sound).await;
    let path = format!("/v2/docker-local/team/app/blobs/{}", lost.digest);
    assert_eq!(server.get(&path).await.status, 503, "lost is not the same as never there");
    // Pushed again it is whole.
    push(server.address, "docker-local/team/app", "one", &images[0]).await;
    pulls(&server, "docker-local/team/app", "one", &images[0]).await;
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
}

/// As docs/operations.md says: stop, copy everything, start.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_copy_is_a_data_directory() {
    let registry = Registry::open().await;
    let (cached, pushed) = (Image::new(71, &[9_000]), Image::new(72, &[8_000]));
    registry.add_image("library/redis", "7", &cached);
    let house = House::beside(&registry).await;
    house.cache("redis", "7", &cached).await;
    push(house.address, "docker-local/app", "1", &pushed).await;
    let dir = house.stop().await;
    let copy = tempfile::tempdir().unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(dir.path().join(".")).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    drop(dir);
    let server = Process::start(&copy, &[]);
    pulls(&server, "docker-local/app", "1", &pushed).await;
    for content in cached.blobs() {
        let answer = server.get(&super::house::blob("redis", content)).await;
        assert_eq!((answer.cache(), &answer.body[..]), (Some("hit"), &content.bytes[..]));
    }
    let deleted = server.send(Ask::new("DELETE", "/v2/docker-local/app/manifests/1")).await;
    assert_eq!(deleted.status, 202, "{}", deleted.all());
}
