//! Cached files that are not what they should be are set aside and fetched again; nobody sees it but who was reading.

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use binaryrepo::engine::{Verdict, Window};
use binaryrepo::store::Call;
use rustix::io::Errno;

use super::house::{House, roomy};
use super::rig::{Disk, Gate};
use super::support::image::Content;
use super::support::patience::found;
use super::support::upstream::Registry;

const SIZE: usize = 300_000;

async fn cached(registry: &Registry, size: usize) -> (House, Content) {
    let (house, layer) = House::cold(registry, size).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    (house, layer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_cannot_be_read_breaks_one_body_and_is_fetched_again() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, SIZE).await;
    house.disk.fail(Call::Read, Errno::IO);
    let got = house.pull("a/b", &layer.digest).await.unwrap();
    assert!(got.broken().len() < SIZE);
    house.eventually("it is set aside", |house| house.set_aside() == 1).await;
    house.disk.heal();
    house.rest().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 2);
    assert_eq!(house.metric("binaryrepo_disk_errors_total"), 1);
}

/// What goes from memory to a socket past our own memory is noticed all the same where it cannot be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_cannot_be_sent_is_set_aside_too() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, SIZE).await;
    let (near, _far) = UnixStream::pair().unwrap();
    let mut reader = house.blob("a/b", &layer.digest, "").await.unwrap().reader.unwrap();
    let mut window = reader.window(SIZE).expect("what was just written is in memory");
    assert_eq!(window.send(near.as_fd()).unwrap(), 0, "whether it can be had has not been asked");
    // A closed socket is no fault of the file's.
    let (closed, _) = UnixStream::pair().unwrap();
    poll_fn(|cx| window.poll_ready(cx)).await.unwrap();
    assert_eq!(window.send(closed.as_fd()).unwrap_err().kind(), ErrorKind::BrokenPipe);
    house.disk.fail(Call::Send, Errno::IO);
    assert_eq!(house.set_aside(), 0);
    poll_fn(|cx| window.poll_ready(cx)).await.unwrap();
    window.send(near.as_fd()).unwrap_err();
    house.eventually("it is set aside", |house| house.set_aside() == 1).await;
    assert_eq!(house.metric("binaryrepo_disk_errors_total"), 1);
}

/// Sends all of it, and answers how much that was.
async fn pour(window: &mut Window, socket: &UnixStream) -> usize {
    let mut poured = 0;
    while window.left() > 0 {
        poll_fn(|cx| window.poll_ready(cx)).await.unwrap();
        match window.send(socket.as_fd()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
            sent => poured += sent.unwrap(),
        }
    }
    poured
}

/// A client may be so slow that the bytes have left memory when it takes them: then the disk is waited for elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_memory_is_read_before_it_is_sent() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, SIZE).await;
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut reader = house.blob("a/b", &layer.digest, "").await.unwrap().reader.unwrap();
    let mut window = reader.window(SIZE).expect("what was just written is in memory");
    // As if nothing were in memory any more, and the disk took its time.
    let gate = Gate::default();
    house.disk.fail_times(1, Call::Read, Errno::AGAIN);
    house.disk.hold_after(0, Call::Read, &gate);
    let asked = poll_fn(|cx| Poll::Ready(window.poll_ready(cx).is_pending())).await;
    assert!(asked, "it is waited for on another thread");
    gate.open();
    let taking = std::thread::spawn(move || {
        let mut got = vec![0; SIZE];
        far.read_exact(&mut got).map(|()| got)
    });
    assert_eq!(pour(&mut window, &near).await, SIZE);
    assert!(taking.join().unwrap().unwrap() == layer.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_files_cannot_be_sent_their_bytes_are() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, SIZE).await;
    house.disk.fail(Call::Send, Errno::INVAL);
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut reader = house.blob("a/b", &layer.digest, "bytes=1000-").await.unwrap().reader.unwrap();
    let mut window = reader.window(usize::MAX).expect("what was just written is in memory");
    assert_eq!(window.left(), SIZE - 1000);
    let taking = std::thread::spawn(move || {
        let mut got = vec![0; SIZE - 1000];
        far.read_exact(&mut got).map(|()| got)
    });
    assert_eq!(pour(&mut window, &near).await, SIZE - 1000);
    assert!(taking.join().unwrap().unwrap() == layer.bytes[1000..]);
    assert!(reader.window(usize::MAX).is_none(), "that was all");
}

/// Its row goes first: who comes in between finds no row, and has the cache look for what was lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_set_aside_is_not_swept_away_meanwhile() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, SIZE).await;
    let (house, gate) = (Arc::new(house), Gate::default());
    house.disk.fail_times(1, Call::Read, Errno::IO);
    house.disk.hold_after(0, Call::SetAside, &gate);
    house.pull("a/b", &layer.digest).await.unwrap().broken();
    house.eventually("it is being set aside", |_| gate.is_reached()).await;
    let next = tokio::spawn({
        let (house, layer) = (house.clone(), layer.clone());
        async move { house.pulled("a/b", &layer).await }
    });
    let sweeping = async || (house.engine.status().await.counts.evicting > 0).then_some(());
    found("its sweep was started", sweeping).await;
    // Time enough for one that waits for nobody.
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.open();
    assert_eq!(next.await.unwrap(), Verdict::Miss);
    house.rest().await;
    assert_eq!(house.set_aside(), 1);
}

/// A small blob is read before its head goes out, so its client never notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_that_cannot_be_read_is_fetched_again_for_the_same_client() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, 2_000).await;
    house.disk.fail_times(1, Call::Read, Errno::IO);
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    assert_eq!(house.set_aside(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_put_there_or_took_away_is_fetched_again() {
    type Deed = fn(&std::path::Path);
    let deeds: [(&str, Deed); 5] = [
        ("removed", |path| std::fs::remove_file(path).unwrap()),
        ("cut short", |path| std::fs::write(path, "short").unwrap()),
        ("a link", |path| {
            std::fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
        ("a directory", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir_all(path).unwrap();
        }),
        ("not readable", |path| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
        }),
    ];
    for (name, deed) in deeds {
        for size in [2_000, SIZE] {
            let registry = Registry::open().await;
            let (house, layer) = cached(&registry, size).await;
            deed(&house.file_of(&layer.digest));
            house.pulled("a/b", &layer).await;
            house.rest().await;
            house.pulled("a/b", &layer).await;
            assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0, "{name}");
        }
    }
}

/// After a kill the bytes of cached files are not to be trusted, whatever their length.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_damaged_file_of_the_right_length_is_not_served() {
    for size in [2_000, SIZE] {
        let registry = Registry::open().await;
        let (house, layer) = cached(&registry, size).await;
        let image = house.crash_image().await;
        let path = image.path().join(house.file_of(&layer.digest).strip_prefix(house.dir.path()).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[size / 2] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let house = Arc::new(House::open(image, roomy(), Disk::default()).await);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (house, layer) = (house.clone(), layer.clone());
            clients.spawn(async move { house.pulled("a/b", &layer).await });
        }
        while let Some(verdict) = clients.join_next().await {
            assert!(matches!(verdict.unwrap(), Verdict::Miss | Verdict::Joined | Verdict::Hit));
        }
        assert_eq!(house.set_aside(), 1);
        assert_eq!(registry.asked(&layer.digest.to_string()).len(), 2);
    }
}

/// The file is whole, and the index of the files is not loaded yet: the cache does not know the key. It was hashed,
/// found good, and fetched from the upstream all the same.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_good_file_is_served_before_the_index_is_loaded() {
    let registry = Registry::open().await;
    let (house, layer) = cached(&registry, SIZE).await;
    let (disk, gate) = (Disk::default(), Gate::default());
    // The first list is that of the drafts.
    disk.hold_after(1, Call::List, &gate);
    let house = House::open(house.crash_image().await, roomy(), disk).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    gate.open();
    house.rest().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
}
