//! The second copy of the metadata: taken by the server itself, and what is left when the first one is damaged.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use super::house::{House, push};
use super::process::Process;
use super::support::image::Image;
use super::support::patience::found;

const APP: &str = "docker-local/team/app";

/// The newest last.
pub fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir.join("snapshots")) else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // Not the one that is being taken.
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("meta-"));
    found.sort();
    found
}

/// The newest that is not `before`.
pub async fn next(dir: &Path, before: Option<&PathBuf>) -> PathBuf {
    let newer = async || snapshots(dir).pop().filter(|newest| Some(newest) != before);
    found("a snapshot is taken", newer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_while_something_changes_and_two_are_kept() {
    let off = House::with(&[("storage.snapshots", "0s")]).await;
    let house = House::with(&[("storage.snapshots", "1s")]).await;
    let dir = house.dir.path();
    let mut seen = vec![next(dir, None).await];
    for number in 0..3 {
        push(house.address, APP, &format!("t{number}"), &Image::new(number, &[300])).await;
        let newer = next(dir, seen.last()).await;
        seen.push(newer);
    }
    // What is not on the disk yet, and what is used, may take one more; nobody asks anything now.
    let rests = async || {
        let before = snapshots(dir);
        sleep(Duration::from_secs(3)).await;
        (before == snapshots(dir)).then_some(before)
    };
    let kept = found("nothing changes, and none is taken", rests).await;
    assert_eq!(kept.len(), 2, "{kept:?}, of {seen:?}");
    assert!(kept[0] >= seen[2] && kept[1] >= seen[3], "the newest stay: {kept:?}, of {seen:?}");

    let stamp = kept[1].file_stem().unwrap().to_str().unwrap().strip_prefix("meta-").unwrap();
    let told = house.metric("binaryrepo_metadata_snapshot_timestamp_seconds").await;
    assert_eq!(told, stamp.parse::<u64>().unwrap() / 1_000_000);
    assert_eq!(house.metric("binaryrepo_metadata_snapshot_failures_total").await, 0);
    // They hold the passwords of upstreams.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.join("snapshots")), mode(&kept[0])), (0o700, 0o600));
    // Nothing of those that were being taken stays, and of one that was cut off nothing either.
    let crumb = dir.join("snapshots/backup-1795000000000000.redb");
    std::fs::write(&crumb, "half").unwrap();
    std::fs::write(crumb.with_extension("redb.new"), "half").unwrap();
    let house = house.restart().await;
    let cleared = async || {
        let all = std::fs::read_dir(house.dir.path().join("snapshots")).unwrap();
        (all.count() == snapshots(house.dir.path()).len()).then_some(())
    };
    found("what was cut off is removed", cleared).await;
    assert!(!off.dir.path().join("snapshots").exists(), "switched off is switched off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_taken_is_counted_and_told() {
    let failures = "binaryrepo_metadata_snapshot_failures_total";
    let often = ["--set", "storage.snapshots=100ms"];
    for (in_the_way, words, lines) in [
        (false, "the disk is short: no snapshot of the metadata is taken until there is room", 1),
        (true, "a snapshot of the metadata cannot be taken", 3),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut flags = often.to_vec();
        match in_the_way {
            true => std::fs::write(dir.path().join("snapshots"), "somebody's").unwrap(),
            false => flags.extend(["--set", "storage.min_free=1024TiB"]),
        }
        let mut server = Process::start(&dir, &flags);
        let counted = async || {
            let scrape = server.get("/metrics").await;
            (super::house::metric(&scrape, failures) >= 3).then_some(())
        };
        found("failures are counted", counted).await;
        assert_eq!(server.get("/readyz").await.status, 200);
        // With all that it had to say.
        server.signal(Signal::TERM);
        assert_eq!(server.wait(), 0);
        let told = server.log().iter().filter(|line| line.contains(words)).count();
        assert!(if lines == 1 { told == 1 } else { told >= lines }, "{told}: {:?}", server.log());
        assert_eq!(snapshots(dir.path()), [] as [PathBuf; 0]);
    }
}
