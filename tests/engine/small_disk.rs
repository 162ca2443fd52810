//! A disk that is really full: a file system of 24 MiB in a mount namespace of its own, which blobs and metadata
//! share with a neighbour who takes what there is.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use binaryrepo::engine::{Purge, RemoteSpec, Settings, Verdict, Want};

use super::house::House;
use super::rig::Disk;
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::Registry;

const NAME: &str = "small_disk::a_full_disk_refuses_nobody";
const WHERE: &str = "BINARYREPO_SMALL_DISK";
const MIB: usize = 1 << 20;

/// Runs itself once more, inside.
#[test]
fn a_full_disk_refuses_nobody() {
    if let Some(dir) = std::env::var_os(WHERE) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(on_a_small_disk(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=24m small "$1" || exit 77; exec "$2" --exact "$3" --nocapture"#;
    // Root needs no user namespace, and may not be allowed one.
    for options in [["--mount"].as_slice(), ["--user", "--map-root-user", "--mount"].as_slice()] {
        let mut inside = Command::new("unshare");
        inside.args(options).args(["sh", "-c", script, "sh"]).arg(dir.path());
        inside.arg(std::env::current_exe().unwrap()).arg(NAME).env(WHERE, dir.path());
        match inside.output() {
            Ok(output) if output.status.success() => return,
            Ok(output) if matches!(output.status.code(), Some(77 | 1)) && output.stdout.is_empty() => {}
            Ok(output) => panic!(
                "{}\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(_) => {}
        }
    }
    let all = std::env::var_os("NOTHING_SKIPPED").is_some();
    assert!(!all, "this machine lets nobody mount a file system of their own");
    eprintln!("not tried: this machine lets nobody mount a file system of their own");
}

async fn on_a_small_disk(mount: &Path) {
    let registry = Registry::open().await;
    let images: Vec<Image> = (1..9).map(|seed| Image::new(200 + seed, &[4 * MIB])).collect();
    let large = Image::new(300, &[30 * MIB]);
    for (number, image) in images.iter().chain([&large]).enumerate() {
        registry.add_image(&format!("a/n{number}"), "latest", image);
    }
    let dir = tempfile::tempdir_in(mount).unwrap();
    let house = House::open(dir, Settings::default(), Disk::default()).await;
    house.add("hub", RemoteSpec::new(registry.url())).await;

    // More than fits: the oldest go, and nobody sees it.
    for (number, image) in images.iter().enumerate() {
        pulled(&house, number, image).await;
        house.rest().await;
    }
    assert!(house.files().len() < 8);
    assert_eq!(house.metric("binaryrepo_cache_bypass_total"), 0, "there was always something to evict");

    // A neighbour takes all that is free. Room is made by a fresh account, for which nobody waits longer than five
    // seconds; that they are enough is shown where the disk is scripted.
    let neighbour = mount.join("neighbour");
    fill_up(&neighbour);
    assert_ne!(pulled(&house, 0, &images[0]).await, Verdict::Hit);
    house.rest().await;
    assert!(becomes_a_hit(&house, 0, &images[0]).await);

    // What is larger than the disk goes past the cache.
    assert_eq!(pulled(&house, 8, &large).await, Verdict::Bypass);

    // Nothing is left that could go. The metadata had no room either, and comes back by itself.
    std::fs::remove_file(&neighbour).unwrap();
    let purged = async || house.engine.purge(&"hub".parse().unwrap(), Purge::All).await.ok();
    found("the metadata comes back", purged).await;
    house.rest().await;
    assert!(house.files().is_empty());
    fill_up(&neighbour);
    for (number, image) in images.iter().enumerate() {
        assert_eq!(pulled(&house, number, image).await, Verdict::Bypass, "{number}");
        house.rest().await;
        fill_up(&neighbour);
    }
    assert!(house.engine.status().await.ready);

    // The neighbour goes. The space is looked at every ten seconds.
    std::fs::remove_file(&neighbour).unwrap();
    for (number, image) in images.iter().enumerate().take(3) {
        assert!(becomes_a_hit(&house, number, image).await, "{number}");
    }
    house.eventually("no draft is left", |house| house.drafts() == 0).await;
    assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0);
}

/// The whole image; answers how its layer was come by.
async fn pulled(house: &House, number: usize, image: &Image) -> Verdict {
    let name = format!("a/n{number}");
    let manifest = house.manifest(&name, "latest", Want::Body).await.unwrap();
    assert_eq!(manifest.bytes, image.manifest.bytes);
    house.pulled(&name, &image.layers[0]).await
}

async fn becomes_a_hit(house: &House, number: usize, image: &Image) -> bool {
    for _ in 0..100 {
        if pulled(house, number, image).await == Verdict::Hit {
            return true;
        }
        house.rest().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    false
}

/// Takes every byte that is left.
fn fill_up(path: &Path) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for piece in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
}
