//! Metadata that is damaged: a start refuses it and says what to do, and `recover` brings back what the last snapshot
//! knew, without losing a copy of anything and without serving what is not what its digest says.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::backups::{blob_in, pulls};
use super::client::Ask;
use super::house::{blob, manifest, push};
use super::process::{Ended, Process, binary, failed, good, on, run_with, said};
use super::snapshots::{next, snapshots};
use super::support::image::Image;
use super::support::upstream::Registry;

const APP: &str = "docker-local/team/app";
const OFTEN: [&str; 2] = ["--set", "storage.snapshots=1s"];

/// Runs a server until there is a snapshot of all that lies here.
async fn snapshot(dir: &TempDir) -> PathBuf {
    let before = snapshots(dir.path()).pop();
    let server = Process::start(dir, &OFTEN);
    let taken = next(dir.path(), before.as_ref()).await;
    server.end();
    taken
}

fn flip(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

/// So that no version could read it.
fn damage(dir: &Path) -> Vec<u8> {
    let metadata = dir.join("meta.redb");
    let mut bytes = flip(&metadata);
    bytes[..64].fill(7);
    std::fs::write(&metadata, &bytes).unwrap();
    bytes
}

fn served(dir: &Path) -> Ended {
    on(dir, &["serve", "--listen", "127.0.0.1:0"])
}

/// When it was taken, as people read it.
fn taken(snapshot: &Path) -> String {
    let stamp = snapshot.file_stem().unwrap().to_str().unwrap().strip_prefix("meta-").unwrap();
    binaryrepo::text::time_text(stamp.parse::<u64>().unwrap() / 1_000)
}

async fn user(dir: &Path, name: &str) {
    let args = ["user", "add", name, "--password-stdin", "--data-dir", dir.to_str().unwrap()];
    let made = run_with(binary(&args), "a long password");
    assert_eq!(made.code, 0, "{made:?}");
}

fn users(dir: &Path) -> Vec<Value> {
    let listed = said(dir, &["user", "list"]);
    listed["users"].as_array().unwrap().iter().map(|user| user["name"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_snapshot_knew_is_served_again() {
    let [cached, stays, goes, later] = [(1, 30_000), (2, 20_000), (3, 10_000), (4, 5_000)]
        .map(|(seed, size)| Image::new(seed, &[size, 9_000]));
    let registry = Registry::open().await;
    registry.add_image("library/redis", "7", &cached);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let server = Process::start(&home, &[]);
    good(dir, &["repo", "update", "docker-remote", "--url", registry.url().as_str(), "--tag-ttl", "7d"]);
    pulls(&server, "docker-remote/library/redis", "7", &cached).await;
    super::house::settled(server.address).await;
    push(server.address, APP, "stays", &stays).await;
    push(server.address, APP, "goes", &goes).await;
    server.end();
    let snapshot = snapshot(&home).await;

    // After it: one more is pushed, and one is deleted with its bytes.
    let server = Process::start(&home, &["--set", "storage.gc_grace=0s"]);
    push(server.address, APP, "later", &later).await;
    good(dir, &["image", "rm", &format!("{APP}@{}", goes.manifest.digest)]);
    good(dir, &["gc"]);
    assert!(!blob_in(dir, &goes.layers[0]).exists());
    server.end();
    flip(&blob_in(dir, &cached.layers[0]));
    flip(&blob_in(dir, &stays.layers[1]));
    let damaged = damage(dir);

    let advice = format!("`binaryrepo recover --data-dir {}`", dir.display());
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["ls"]] {
        let ended = on(dir, command);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.err.contains(&advice) && ended.err.contains(&taken(&snapshot)), "{ended:?}");
    }
    let told = good(dir, &["recover"]);
    assert!(told.contains(&format!("has the metadata of {}", taken(&snapshot))), "{told}");
    assert!(told.contains("push again what was pushed") && told.contains("`binaryrepo scrub`"), "{told}");
    let kept = told.lines().find_map(|line| line.strip_prefix("the damaged file is kept: ")).unwrap();
    assert_eq!(std::fs::read(kept).unwrap(), damaged);

    registry.stop().await;
    let server = Process::start(&home, &[]);
    let warm = server.get(&manifest("redis", "7")).await;
    assert_eq!((warm.cache(), &warm.body[..]), (Some("hit"), &cached.manifest.bytes[..]), "{}", warm.all());
    let whole = server.get(&blob("redis", &cached.layers[1])).await;
    assert_eq!(
        (whole.cache(), &whole.body[..]),
        (Some("hit"), &cached.layers[1].bytes[..]),
        "{}",
        whole.all()
    );
    // Nobody is there to fetch it from.
    assert!(server.get(&blob("redis", &cached.layers[0])).await.status >= 500);
    let local = |image: &Image, layer: usize| format!("/v2/{APP}/blobs/{}", image.layers[layer].digest);
    let layer = server.get(&local(&stays, 0)).await;
    assert_eq!((layer.status, &layer.body[..]), (200, &stays.layers[0].bytes[..]), "{}", layer.all());
    assert_eq!(
        server.get(&local(&stays, 1)).await.status,
        503,
        "what was pushed is hashed before it is served"
    );

    // What came after the snapshot is not known, but its bytes are still there; it is pushed as ever.
    assert_eq!(server.get(&format!("/v2/{APP}/manifests/later")).await.status, 404);
    assert!(blob_in(dir, &later.layers[0]).exists());
    // What was deleted is listed, lost, and named.
    assert_eq!(server.get(&format!("/v2/{APP}/manifests/goes")).await.status, 200);
    assert_eq!(server.get(&local(&goes, 0)).await.status, 503);
    let Ended { code, out: scrubbed, .. } = on(dir, &["scrub"]);
    assert_eq!(code, 1, "{scrubbed}");
    let named = |digest: &str| scrubbed.matches(digest).count();
    let digests = goes.blobs().chain([&stays.layers[1]]).map(|content| content.digest.to_string());
    for digest in digests {
        assert_eq!(named(&digest), 1, "{digest}: {scrubbed}");
    }
    assert_eq!(named("LOST"), goes.blobs().count() + 1, "{scrubbed}");
    for (tag, image) in [("stays", &stays), ("goes", &goes), ("later", &later)] {
        push(server.address, APP, tag, image).await;
        pulls(&server, APP, tag, image).await;
    }
    assert_eq!(on(dir, &["scrub"]).code, 0, "all is whole again");

    let running = failed(dir, &["recover"]);
    assert!(running.0 == 3 && running.1.contains("in use by another binaryrepo"), "{running:?}");
    server.end();
    let sound = failed(dir, &["recover"]);
    assert!(sound.0 == 3 && sound.1.contains("is not damaged: nothing was changed"), "{sound:?}");
    let server = Process::start(&home, &[]);
    pulls(&server, APP, "later", &later).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_makes_way_for_the_older_one() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    user(dir, "ada").await;
    let older = snapshot(&home).await;
    user(dir, "bob").await;
    let newer = snapshot(&home).await;
    let before = std::fs::read(&older).unwrap();
    damage(dir);
    flip(&newer);
    let ended = on(dir, &["recover", "--json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(told["snapshot"], taken(&older), "{told}");
    assert!(ended.err.contains(&format!("passed over: {}", newer.display())), "{ended:?}");
    assert_eq!(std::fs::read(&older).unwrap(), before, "it stays as it was");
    assert_eq!(users(dir), ["ada"]);

    // The next damage finds none that is whole: nothing is changed, and the backup is what is left.
    let damaged = damage(dir);
    flip(&older);
    let (code, err) = failed(dir, &["recover"]);
    assert!(code == 3 && err.contains("its snapshots are damaged as well"), "{code} {err}");
    assert!(err.contains(older.to_str().unwrap()) && err.contains("`binaryrepo restore <backup>"), "{err}");
    assert_eq!(std::fs::read(dir.join("meta.redb")).unwrap(), damaged);
    std::fs::remove_dir_all(dir.join("snapshots")).unwrap();
    let (code, err) = failed(dir, &["recover"]);
    assert!(code == 3 && err.contains("there is no snapshot of it"), "{code} {err}");
    assert!(err.contains("`binaryrepo restore <backup>"), "{err}");
    assert!(served(dir).err.contains("`binaryrepo restore <backup>"));
}

/// An empty one made in its place would have snapshots of its own, before long the only ones.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_missing_beside_its_snapshots_is_not_made_anew() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    user(dir, "ada").await;
    snapshot(&home).await;
    std::fs::remove_file(dir.join("meta.redb")).unwrap();
    let ended = served(dir);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("meta.redb is missing") && ended.err.contains("recover"), "{ended:?}");
    assert!(!dir.join("meta.redb").exists());
    // As whoever owns the directory, whoever recovers.
    let owner = std::fs::metadata(dir).unwrap().uid();
    let other = if owner == 0 { 4_711 } else { owner };
    chown(dir, Some(other), None).unwrap();
    good(dir, &["recover"]);
    assert_eq!(std::fs::metadata(dir.join("meta.redb")).unwrap().uid(), other);
    assert_eq!(users(dir), ["ada"]);
}

/// At any moment; what a kill leaves is gone on with, and nothing that there was is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_killed_is_run_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    user(dir, "ada").await;
    let snapshot = snapshot(&home).await;
    let (good_one, damaged) = (std::fs::read(&snapshot).unwrap(), damage(dir));
    let kept = || {
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("meta.redb");
        names.filter(named).filter(|path| std::fs::read(path).unwrap() == damaged).count()
    };
    let (mut killed, mut wait, mut ended) = (0, 0, false);
    while !ended {
        let mut child = binary(&["recover", "--data-dir", dir.to_str().unwrap()]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        // It may have ended.
        let _ = child.kill();
        ended = child.wait().unwrap().success();
        killed += u32::from(!ended);
        assert_eq!((kept(), std::fs::read(&snapshot).unwrap() == good_one), (1, true), "after {wait} ms");
        // Killed when all was done: it is no longer damaged.
        ended |= std::fs::read(dir.join("meta.redb")).is_ok_and(|now| now != damaged);
        wait += 2.max(wait / 10);
        assert!(wait < 60_000, "none was finished");
    }
    assert!(killed > 0, "none was killed");
    assert_eq!(users(dir), ["ada"]);

    // Between its two steps, where a kill seldom falls.
    let metadata = dir.join("meta.redb");
    std::fs::rename(&metadata, dir.join("meta.redb.damaged-1")).unwrap();
    std::fs::write(dir.join("meta.redb.recovered"), "half").unwrap();
    assert_eq!(served(dir).code, 3);
    let told = good(dir, &["recover"]);
    assert!(told.contains("the damaged file is kept: "), "{told}");
    assert!(dir.join("meta.redb.damaged-1").exists() && !dir.join("meta.redb.recovered").exists());
    assert_eq!((users(dir), kept()), (vec![Value::from("ada")], 1));
}

/// Numbers are given again, so what was signed for the one who had a number counts no more.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_before_a_recovery_are_void() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    user(dir, "ada").await;
    snapshot(&home).await;
    let server = Process::start(&home, &[]);
    let basic = "Basic YWRhOmEgbG9uZyBwYXNzd29yZA==";
    let token = server.send(Ask::get("/token?service=a").header("Authorization", basic)).await.json();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let ask = || Ask::get("/v2/").header("Authorization", &bearer);
    assert_eq!(server.send(ask()).await.status, 200);
    server.end();
    damage(dir);
    good(dir, &["recover"]);
    let server = Process::start(&home, &[]);
    assert_eq!(server.send(ask()).await.status, 401);
    assert_eq!(server.send(Ask::get("/v2/").header("Authorization", basic)).await.status, 200);
}
