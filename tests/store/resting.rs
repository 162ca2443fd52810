//! Drafts of uploads: put to rest between two requests, taken up after a restart, hashed anew.

use super::*;

#[tokio::test]
async fn a_resting_draft_wakes_as_it_was() {
    let house = House::new();
    let content = content(300 * KIB);
    let mut draft = house.draft(1);
    draft.append(vec![Bytes::copy_from_slice(&content[..100 * KIB])]).await.unwrap();
    draft.sync_ahead(1).await.unwrap();
    let resting = draft.rest();
    assert_eq!((resting.id(), resting.len()), (DraftId(1), 100 * KIB as u64));
    let mut draft = house.store.wake_draft(Box::new(resting)).unwrap().unwrap();
    draft.append(vec![Bytes::copy_from_slice(&content[100 * KIB..])]).await.unwrap();
    draft.sync_ahead(1).await.unwrap();
    let blob = draft.publish(&digest(&content), Durability::Durable).await.unwrap();
    assert_eq!(blob.read_all().unwrap(), content);
    assert!(!house.draft_path(1).exists());
}

/// A client that leaves leaves pieces on their way. Should the next request end the upload before they are written, they
/// would be written into a published blob.
#[tokio::test]
async fn a_draft_wakes_when_nothing_is_written_to_it_any_more() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let house = House::with(Faults::new(move |call| {
        if call == Call::Write {
            // Once nobody holds the other end all go on.
            let _ = gate.lock().unwrap().recv();
        }
        None
    }));
    let mut draft = house.draft(1);
    draft.append_behind(vec![Bytes::from_static(b"on its ")]).await.unwrap();
    let resting = draft.rest();
    assert!(resting.is_empty());
    let store = Arc::new(house.store);
    let waking = tokio::task::spawn_blocking({
        let store = Arc::clone(&store);
        move || store.wake_draft(Box::new(resting))
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waking.is_finished());
    drop(release);
    let mut draft = waking.await.unwrap().unwrap().unwrap();
    assert_eq!(draft.digest(), digest(b"on its "));
    draft.append(vec![Bytes::from_static(b"way")]).await.unwrap();
    let blob = draft.publish(&digest(b"on its way"), Durability::Durable).await.unwrap();
    assert_eq!(blob.read_all().unwrap(), "on its way");
}

#[tokio::test]
async fn a_draft_whose_file_is_gone_does_not_wake() {
    let house = House::new();
    let resting = house.filled(1, b"abc").await.rest();
    assert!(house.store.remove_draft(DraftId(1)).unwrap());
    assert!(house.store.wake_draft(Box::new(resting)).unwrap().is_none());
    assert!(house.store.resume_draft(DraftId(1), Algorithm::Sha256).unwrap().is_none());
}

#[tokio::test]
async fn all_that_an_earlier_run_left_is_taken_up() {
    let house = House::new();
    drop(house.filled(1, b"hello, ").await.rest());
    let mut draft = house.store.resume_draft(DraftId(1), Algorithm::Sha512).unwrap().unwrap();
    assert_eq!(draft.len(), 7);
    draft.append(vec![Bytes::from_static(b"world")]).await.unwrap();
    let expected = Digest::of(Algorithm::Sha512, b"hello, world");
    assert_eq!(draft.digest(), expected);
    let blob = draft.publish(&expected, Durability::Durable).await.unwrap();
    assert_eq!(blob.hash(Algorithm::Sha512).unwrap(), expected);
}

#[tokio::test]
async fn a_draft_can_be_hashed_with_the_other_algorithm() {
    let house = House::new();
    let mut draft = house.filled(1, b"abc").await;
    draft.rehash(Algorithm::Sha512).await.unwrap();
    assert_eq!(draft.digest(), Digest::of(Algorithm::Sha512, b"abc"));
    draft.rehash(Algorithm::Sha512).await.unwrap();
    draft.rehash(Algorithm::Sha256).await.unwrap();
    assert_eq!(draft.digest(), digest(b"abc"));
}
