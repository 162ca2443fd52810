//! A server that is killed, again and again, while it takes pushes. What it has acknowledged is there afterwards,
//! whole; what it shows is whole as well.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use binaryrepo::names::{Algorithm, Digest, MediaType};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::process::Process;
use super::pusher::Pusher;
use super::support::image::{Content, Image};
use super::support::patience::found;

/// Kills, unless `KILL_ROUNDS` says how many; the nightly run does.
const ROUNDS: u64 = 20;
const CLIENTS: u64 = 4;

/// What the server has said that it has.
#[derive(Default)]
struct Acknowledged {
    /// By image.
    blobs: Vec<(String, Content)>,
    /// By image: the manifest, and under which tag.
    manifests: Vec<(String, String, Content)>,
}

/// A connection that may break at any time. It is the client's, so that a push is cut wherever the server dies.
struct Line {
    stream: TcpStream,
}

impl Line {
    async fn open(address: SocketAddr) -> Option<Self> {
        Some(Self { stream: TcpStream::connect(address).await.ok()? })
    }

    /// Status, `Location` and body, if the answer came whole.
    async fn ask(&mut self, head: &str, body: &[u8]) -> Option<(u16, String, Vec<u8>)> {
        let head = format!("{head}\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).ok()?.to_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let length: usize = field("content-length:").map_or(0, |text| text.parse().unwrap());
        let mut body = bytes[end + 4..].to_vec();
        while body.len() < length {
            if self.stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, field("location:").unwrap_or_default(), body))
    }

    /// A blob: acknowledged, or the server has died.
    async fn blob(&mut self, name: &str, content: &Content) -> Option<()> {
        let head = format!("POST /v2/docker-local/{name}/blobs/uploads/ HTTP/1.1");
        let (status, location, _) = self.ask(&head, &[]).await?;
        assert_eq!(status, 202);
        let (first, rest) = content.bytes.split_at(content.bytes.len() / 2);
        let (status, ..) = self.ask(&format!("PATCH {location} HTTP/1.1"), first).await?;
        assert_eq!(status, 202);
        let head = format!("PUT {location}?digest={} HTTP/1.1", content.digest);
        let (status, ..) = self.ask(&head, rest).await?;
        assert_eq!(status, 201);
        Some(())
    }
}

/// Pushes images until the server is gone.
async fn push(address: SocketAddr, seed: u64, acknowledged: Arc<Mutex<Acknowledged>>) -> Option<()> {
    let mut line = Line::open(address).await?;
    for number in 0.. {
        let seed = seed * 1000 + number;
        let image = Image::new(seed, &[usize::try_from(1 + seed * 7919 % 60_000).unwrap()]);
        // Images that share a name meet in the same rows; those that do not, in the same commits.
        let name = format!("killed/n{}", seed % 3);
        for content in image.blobs() {
            line.blob(&name, content).await?;
            acknowledged.lock().unwrap().blobs.push((name.clone(), content.clone()));
        }
        let tag = format!("t{seed}");
        let head = format!(
            "PUT /v2/docker-local/{name}/manifests/{tag} HTTP/1.1\r\nContent-Type: {}",
            MediaType::OCI_MANIFEST
        );
        let (status, ..) = line.ask(&head, &image.manifest.bytes).await?;
        assert_eq!(status, 201);
        acknowledged.lock().unwrap().manifests.push((name, tag, image.manifest));
    }
    None
}

async fn get(line: &mut Line, target: &str) -> (u16, Vec<u8>) {
    let (status, _, body) = line.ask(&format!("GET {target} HTTP/1.1"), &[]).await.expect("it answers");
    (status, body)
}

async fn all_is_there(address: SocketAddr, acknowledged: &Acknowledged) {
    let mut line = Line::open(address).await.expect("it listens");
    for (name, content) in &acknowledged.blobs {
        let (status, body) =
            get(&mut line, &format!("/v2/docker-local/{name}/blobs/{}", content.digest)).await;
        assert_eq!(status, 200, "lost: {} of {name}", content.digest);
        assert!(body == content.bytes, "damaged: {} of {name}", content.digest);
    }
    for (name, tag, content) in &acknowledged.manifests {
        for reference in [tag, &content.digest.to_string()] {
            let (status, body) =
                get(&mut line, &format!("/v2/docker-local/{name}/manifests/{reference}")).await;
            assert_eq!(status, 200, "lost: {reference} of {name}");
            assert!(body == content.bytes, "damaged: {reference} of {name}");
        }
    }
}

/// Whatever a tag names can be pulled, also where nobody was told that it was there.
async fn nothing_is_half(address: SocketAddr, since: &mut BTreeMap<String, String>) {
    let mut line = Line::open(address).await.expect("it listens");
    for number in 0..3 {
        let name = format!("killed/n{number}");
        let last = since.entry(name.clone()).or_default();
        let (status, body) =
            get(&mut line, &format!("/v2/docker-local/{name}/tags/list?n=1000&last={last}")).await;
        if status == 404 {
            continue;
        }
        let list: Value = serde_json::from_slice(&body).unwrap();
        for tag in list["tags"].as_array().unwrap() {
            let tag = tag.as_str().unwrap();
            let (status, bytes) = get(&mut line, &format!("/v2/docker-local/{name}/manifests/{tag}")).await;
            assert_eq!(status, 200, "{tag} of {name}");
            let image: Value = serde_json::from_slice(&bytes).unwrap();
            let layers = image["layers"].as_array().unwrap();
            for named in layers.iter().chain([&image["config"]]) {
                let digest: Digest = named["digest"].as_str().unwrap().parse().unwrap();
                let (status, bytes) =
                    get(&mut line, &format!("/v2/docker-local/{name}/blobs/{digest}")).await;
                assert_eq!(status, 200, "{digest} of {name}:{tag}");
                assert_eq!(Digest::of(Algorithm::Sha256, &bytes), digest);
            }
            last.clear();
            last.push_str(tag);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let rounds = std::env::var("KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let seed = fastrand::u64(1..1_000_000);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut before = Acknowledged::default();
    let mut since = BTreeMap::new();
    let (mut blobs, mut manifests) = (0, 0);
    for round in 0..rounds {
        let server = Process::start(&dir, &["--set", "storage.max_size=1GiB"]);
        all_is_there(server.address, &before).await;
        nothing_is_half(server.address, &mut since).await;
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        let mut pushes = JoinSet::new();
        for client in 0..CLIENTS {
            let number = (seed % 1000) * 1_000_000 + round * 100 + client;
            pushes.spawn(push(server.address, number, Arc::clone(&acknowledged)));
        }
        // So far that every part of a push is cut somewhere, and on a slow machine some are acknowledged as well.
        let enough = random.usize(..24);
        let so_far = || {
            let told = acknowledged.lock().unwrap();
            told.blobs.len() + told.manifests.len()
        };
        found("enough is acknowledged", async || (so_far() >= enough).then_some(())).await;
        tokio::time::sleep(Duration::from_micros(random.u64(..20_000))).await;
        // SIGKILL: nothing of the server runs after this.
        drop(server);
        while let Some(push) = pushes.join_next().await {
            push.unwrap();
        }
        before = std::mem::take(&mut *acknowledged.lock().unwrap());
        blobs += before.blobs.len();
        manifests += before.manifests.len();
    }
    let server = Process::start(&dir, &[]);
    all_is_there(server.address, &before).await;
    since.clear();
    nothing_is_half(server.address, &mut since).await;
    println!("{rounds} kills, {blobs} blobs and {manifests} manifests acknowledged, none lost");
    assert!(blobs > 0 && manifests > 0);
}

/// What an answer has acknowledged of an upload is there after a kill, and perhaps more; the client asks, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_a_kill_cut_it() {
    const CHUNK: usize = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let content = Content::random(77, 12 * CHUNK);
    let mut server = Process::start(&dir, &[]);
    let location = Pusher(server.address).begin("cut").await;
    // A durable write takes along what came before it: from now on the disk knows of the upload.
    assert_eq!(Pusher(server.address).blob("other", &Content::random(78, 10)).await.status, 201);
    let mut there = 0;
    for _ in 0..3 {
        let client = Pusher(server.address);
        for _ in 0..2 {
            let range = format!("{there}-{}", there + CHUNK - 1);
            let answer = client.chunk(&location, &range, &content.bytes[there..there + CHUNK]).await;
            assert_eq!(answer.status, 202, "{}", answer.all());
            there += CHUNK;
        }
        // Another one is cut in its middle.
        let mut line = TcpStream::connect(server.address).await.unwrap();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {CHUNK}\r\n\r\n");
        let half = &content.bytes[there..there + CHUNK / 2];
        line.write_all(&[head.as_bytes(), half].concat()).await.unwrap();
        drop(server);
        server = Process::start(&dir, &[]);
        let answer = Pusher(server.address).get(&location).await;
        assert_eq!(answer.status, 204, "{}", answer.all());
        let last: usize = answer.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
        assert!(
            (there..=there + CHUNK / 2).contains(&(last + 1)),
            "{there} were acknowledged, {last} is the last"
        );
        there = last + 1;
    }
    let client = Pusher(server.address);
    let answer = client.finish(&location, &content.digest, &content.bytes[there..]).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
    let target = format!("/v2/docker-local/cut/blobs/{}", content.digest);
    assert_eq!(client.get(&target).await.body, content.bytes);
}
