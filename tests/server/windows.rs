//! How a cached blob gets out: seen by a client that waits with reading.

use std::os::unix::fs::FileExt as _;

use super::client::Ask;
use super::house::{blob, hub_with};
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::Options;

const SIZE: usize = 1 << 20;
/// Less than any socket takes that nobody reads from.
const PEEKED: usize = 32 << 10;

/// By `sendfile` the bytes that wait for their client are the file's own pages in memory: who writes into the file changes
/// what the client will read. What was copied stays as it was, as it does for what comes through a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_goes_out_as_the_pages_of_its_file() {
    let image = Image::new(1501, &[SIZE]);
    let settings = [("server.open_access", "true")];
    let (_registry, house) = hub_with(&image, Options::default(), &settings).await;
    house.cache("redis", "7", &image).await;
    let layer = &image.layers[0];
    let name = layer.digest.hex();
    let path = house.dir.path().join("cas/sha256").join(&name[..2]).join(&name);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let directly = Ask::get(&blob("redis", layer));
    let by_proxy = directly.clone().header("X-Forwarded-For", "203.0.113.9");
    for (ask, is_pages) in [(directly, true), (by_proxy, false)] {
        let what = format!("{ask:?}");
        let client = ask.unread(house.address).await;
        let peeked = async || {
            let mut bytes = vec![0; PEEKED];
            let there = client.peek(&mut bytes).await.unwrap();
            (there == PEEKED).then_some(bytes)
        };
        let before = found("the client could read", peeked).await;
        file.write_all_at(&[0; SIZE], 0).unwrap();
        let after = found("it still could", peeked).await;
        file.write_all_at(&layer.bytes, 0).unwrap();
        assert!(before.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&before[..1000]));
        assert_eq!(before != after, is_pages, "{what}");
    }
}
