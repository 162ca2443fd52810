//! What goes on beside requests (clearing, comparing, cleaning up): it is bounded, and nobody waits for it. And changes
//! that come in one step or not at all.

use std::time::Duration;

use binaryrepo::engine::{
    BlobWant, ErrorKind, Grant, NewAccount, RemoteSpec, RepositorySpec, Secret, Settings, Verdict, Want,
};
use binaryrepo::meta::{MetaExt as _, RepositoryRow};
use binaryrepo::names::{Algorithm, Digest, RangeRequest, Reference, Role, Tag};
use binaryrepo::store::{Call, DraftId, Durability, FsStore, Store as _};
use rustix::io::Errno;

use super::house::{House, roomy, scope};
use super::rig::{Disk, Gate, Mood};
use super::support::image::{Content, Image};
use super::support::patience::found;
use super::support::upstream::Registry;

const SIZE: usize = 400_000;

/// Whoever needed room used to wait until all rows of a removed repository were gone.
#[tokio::test(flavor = "multi_thread")]
async fn clearing_what_was_removed_holds_up_nobody_who_needs_room() {
    let registry = Registry::open().await;
    let image = Image::new(95, &[SIZE, SIZE + 1]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    house.add("old", RemoteSpec::new(registry.url())).await;
    let old = scope(&house.engine, "old", "a/b");
    house.engine.manifest(&old, &"latest".parse().unwrap(), Want::Body).await.unwrap();
    house.rest().await;
    house.ledger.is(Mood::HoldsTags);
    house.engine.delete_repository(&"old".parse().unwrap(), false).await.unwrap();
    for layer in &image.layers {
        house.disk.fail_times(1, Call::Reserve, Errno::NOSPC);
        assert_eq!(house.pulled("a/b", layer).await, Verdict::Miss);
        house.rest().await;
    }
}

/// Comparing what lies there already takes as long as it is large. The writes of other fetches used to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_finds_its_bytes_there_already_holds_up_no_other() {
    let (dir, disk, gate) = (tempfile::tempdir().unwrap(), Disk::default(), Gate::default());
    let store = FsStore::open_with(dir.path(), disk.faults()).unwrap();
    let filled = async |id| {
        let mut draft = store.create_draft(DraftId(id), Algorithm::Sha256).unwrap();
        draft.append(vec![vec![7; SIZE].into()]).await.unwrap();
        draft
    };
    let first = filled(1).await;
    let digest = first.digest();
    first.publish(&digest, Durability::Relaxed).await.unwrap();
    let second = filled(2).await;
    disk.hold_after(0, Call::Read, &gate);
    let publishing = tokio::spawn(async move { second.publish(&digest, Durability::Relaxed).await });
    found("its bytes are being compared", async || gate.is_reached().then_some(())).await;
    // Enough for every writer thread.
    for id in 3..9 {
        filled(id).await;
    }
    assert!(!publishing.is_finished(), "they waited until it was done");
    gate.open();
    publishing.await.unwrap().unwrap();
}

/// It used to grow until a person looked.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = dir.path().join("quarantine");
    std::fs::create_dir(&quarantine).unwrap();
    let plant = |name: &str, mib: u64| {
        std::fs::File::create(quarantine.join(name)).unwrap().set_len(mib << 20).unwrap();
        // The kernel's clock for files goes in steps.
        std::thread::sleep(Duration::from_millis(50));
    };
    let name = |content: &[u8]| Digest::of(Algorithm::Sha256, content).to_string().replace(':', "-");
    let (oldest, older, new) = (name(b"oldest"), name(b"older"), name(b"new"));
    plant(&oldest, 500);
    plant("notes", 2_000);
    plant(&older, 600);
    plant(&new, 400);
    let house = House::open(dir, roomy(), Disk::default()).await;
    let left = |house: &House| {
        let names = std::fs::read_dir(house.dir.path().join("quarantine")).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut expected = [older, new, "notes".to_owned()];
    expected.sort();
    house.eventually("the oldest is gone", |house| left(house) == expected).await;
}

/// Killed between the two commits, a server used to have the repository and to have lost the grants.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_is_pointed_elsewhere_with_its_grants_or_not_at_all() {
    let (registry, other) = (Registry::open().await, Registry::open().await);
    let house = House::new(&registry).await;
    let accounts = house.engine.accounts();
    let (name, password) = ("ada".parse().unwrap(), Secret::new("long enough for all"));
    accounts.create(NewAccount { name, password, admin: false }).await.unwrap();
    let hub = house.engine.repositories().by_name("hub").unwrap().id;
    let grant = Grant { repository: Some(hub), images: "*".parse().unwrap(), role: Role::Read };
    accounts.grant(&"ada".parse().unwrap(), grant).await.unwrap();

    house.ledger.is(Mood::DiesAfterOne);
    let elsewhere = RepositorySpec::Remote(Box::new(RemoteSpec::new(other.url())));
    let moved = house.engine.update_repository(&"hub".parse().unwrap(), elsewhere).await;
    let moved = moved.expect("one commit is enough").id;
    house.ledger.is(Mood::Well);
    let granted = |house: &House| house.engine.accounts().list()[0].grants.clone();
    assert_ne!(moved, hub);
    assert_eq!(granted(&house)[0].repository, Some(moved));
    let house = house.restart().await;
    assert_eq!(granted(&house)[0].repository, Some(moved));

    // What the old one left is cleared from the start on, in commits of its own.
    let is_cleared = |house: &House| house.ledger.get::<RepositoryRow>(&hub).unwrap().is_none();
    house.eventually("the old one is cleared", is_cleared).await;
    house.ledger.is(Mood::DiesAfterOne);
    house.engine.delete_repository(&"hub".parse().unwrap(), false).await.expect("one commit is enough");
    house.ledger.is(Mood::Well);
    assert_eq!(granted(&house), []);
    let house = house.restart().await;
    assert_eq!(granted(&house), []);
}

/// A tag of a large image was removed by reading all of the image: every manifest, every blob.
#[tokio::test(flavor = "multi_thread")]
async fn who_removes_a_tag_reads_the_tags_alone() {
    let registry = Registry::open().await;
    let house = House::new(&registry).await;
    for (seed, tag) in [(96, "one"), (97, "two"), (97, "three")] {
        let image = Image::new(seed, &[100, 200, 300]);
        registry.add_image("a/b", tag, &image);
        house.manifest("a/b", tag, Want::Body).await.unwrap();
    }
    house.rest().await;
    let two = Image::new(97, &[100, 200, 300]).manifest.digest;
    house.ledger.take_rows_read();
    let place = house.scope("a/b");
    let named = house.engine.named_manifest(&place, &"two".parse().unwrap()).await.unwrap().unwrap();
    let read = house.ledger.take_rows_read();
    assert_eq!((named.digest, texts(&named.tags)), (two, vec!["three".to_owned(), "two".to_owned()]));
    assert!(read <= 4, "{read} rows");
    let by_digest = house.engine.named_manifest(&place, &Reference::Digest(two)).await.unwrap().unwrap();
    assert_eq!(by_digest, named);
    assert_eq!(house.engine.named_manifest(&place, &"none".parse().unwrap()).await.unwrap(), None);
}

fn texts(tags: &[Tag]) -> Vec<String> {
    tags.iter().map(ToString::to_string).collect()
}

/// What others change again and again used to be called lost: a client was told to push bytes that are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_blob_that_is_changed_all_the_time_is_not_called_lost() {
    let settings = Settings { collect_after: Duration::ZERO, ..roomy() };
    let house = House::open(tempfile::tempdir().unwrap(), settings, Disk::default()).await;
    house.add_local().await;
    let place = scope(&house.engine, "own", "a/b");
    let pushed = Content::random(7, SIZE);
    house.push(&pushed).await.unwrap();
    let head = async || {
        let want = BlobWant { want: Want::Head, range: RangeRequest::Whole };
        house.engine.blob(&place, &pushed.digest, want).await
    };
    house.ledger.is(Mood::ConflictsAtHolder);
    let refused = head().await.expect_err("somebody else was faster each time");
    assert!(
        refused.kind == ErrorKind::Overloaded && !refused.message.contains("push it again"),
        "{refused:?}"
    );
    assert!(refused.retry_after.is_some_and(|wait| wait < Duration::from_secs(10)), "{refused:?}");
    house.ledger.is(Mood::Well);
    assert!(head().await.is_ok());
}
