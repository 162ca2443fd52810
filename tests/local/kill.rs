//! A server that is killed, again and again, while it takes pushes. What it has acknowledged is there afterwards,
//! whole; what it shows is whole as well.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use binaryrepo::names::{Algorithm, Digest, MediaType};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::process::Process;
use super::pusher::{Pusher, blob, manifest, uploads};
use super::support::image::{Content, Image};
use super::support::patience::found;

/// Kills, unless `KILL_ROUNDS` says how many; the nightly run does.
const ROUNDS: u64 = 20;
const CLIENTS: u64 = 4;

/// What the server has said of something that was pushed, or was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Nothing, so far: it may be there whole, or not at all.
    Nothing,
    Here,
    Gone,
}

/// Everything that any client has tried, by where it is pulled.
#[derive(Default)]
struct Book {
    pushed: BTreeMap<String, (Bytes, Said)>,
    /// How often each kind of thing was acknowledged.
    told: BTreeMap<&'static str, usize>,
}

impl Book {
    fn told(&self) -> usize {
        self.told.values().sum()
    }
}

/// A client's hand on the book of all.
#[derive(Clone, Default)]
struct Pen(Arc<Mutex<Book>>);

impl Pen {
    /// From now on nobody knows.
    fn doubt(&self, target: &str, bytes: &Bytes) {
        self.0.lock().unwrap().pushed.insert(target.to_owned(), (bytes.clone(), Said::Nothing));
    }

    fn told(&self, kind: &'static str, target: &str, said: Said) {
        let mut book = self.0.lock().unwrap();
        book.pushed.get_mut(target).expect("it was tried").1 = said;
        *book.told.entry(kind).or_default() += 1;
    }
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
        self.exchange(&[head.as_bytes(), body].concat()).await
    }

    /// The same with a body whose length is not said.
    async fn stream(&mut self, head: &str, body: &[u8]) -> Option<(u16, String, Vec<u8>)> {
        let head = format!("{head}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut bytes = head.into_bytes();
        for chunk in body.chunks(10_000) {
            bytes.extend(
                format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()).chain(*b"\r\n"),
            );
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        self.exchange(&bytes).await
    }

    async fn exchange(&mut self, request: &[u8]) -> Option<(u16, String, Vec<u8>)> {
        self.stream.write_all(request).await.ok()?;
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

    /// A blob, in one of the ways that there are: acknowledged, or the server has died.
    async fn blob(&mut self, way: u64, name: &str, content: &Content, pen: &Pen) -> Option<()> {
        let target = blob(name, &content.digest);
        pen.doubt(&target, &content.bytes);
        let uploads = uploads(name);
        if way == 0 {
            let head = format!("POST {uploads}?digest={} HTTP/1.1", content.digest);
            assert_eq!(self.ask(&head, &content.bytes).await?.0, 201);
            pen.told("in one POST", &target, Said::Here);
            return Some(());
        }
        let (status, location, _) = self.ask(&format!("POST {uploads} HTTP/1.1"), &[]).await?;
        assert_eq!(status, 202);
        let (first, rest) = content.bytes.split_at(content.bytes.len() / 2);
        let patch = format!("PATCH {location} HTTP/1.1");
        let (kind, answer, rest) = match way {
            1 => ("by PATCH and PUT", self.ask(&patch, first).await?, rest),
            2 => ("by a streamed PATCH", self.stream(&patch, &content.bytes).await?, &[][..]),
            _ => ("by PUT", (202, String::new(), Vec::new()), &content.bytes[..]),
        };
        assert_eq!(answer.0, 202);
        let head = format!("PUT {location}?digest={} HTTP/1.1", content.digest);
        assert_eq!(self.ask(&head, rest).await?.0, 201);
        pen.told(kind, &target, Said::Here);
        Some(())
    }

    async fn mount(&mut self, name: &str, from: &str, content: &Content, pen: &Pen) -> Option<()> {
        let target = blob(name, &content.digest);
        pen.doubt(&target, &content.bytes);
        let uploads = uploads(name);
        let head = format!("POST {uploads}?mount={}&from=docker-local/{from} HTTP/1.1", content.digest);
        assert_eq!(self.ask(&head, &[]).await?.0, 201);
        pen.told("by mount", &target, Said::Here);
        Some(())
    }

    async fn delete(&mut self, target: &str, bytes: &Bytes, pen: &Pen) -> Option<()> {
        pen.doubt(target, bytes);
        assert_eq!(self.ask(&format!("DELETE {target} HTTP/1.1"), &[]).await?.0, 202);
        pen.told("deletions", target, Said::Gone);
        Some(())
    }

    async fn manifest(&mut self, name: &str, tag: &str, image: &Image, pen: &Pen) -> Option<()> {
        let bytes = &image.manifest.bytes;
        let targets = [manifest(name, tag), manifest(name, &image.manifest.digest.to_string())];
        for target in &targets {
            pen.doubt(target, bytes);
        }
        let head = format!("PUT {} HTTP/1.1\r\nContent-Type: {}", targets[0], MediaType::OCI_MANIFEST);
        assert_eq!(self.ask(&head, bytes).await?.0, 201);
        for target in &targets {
            pen.told("manifests, by tag and digest", target, Said::Here);
        }
        Some(())
    }
}

/// Pushes images until the server is gone.
async fn push(address: SocketAddr, seed: u64, pen: Pen) -> Option<()> {
    let mut line = Line::open(address).await?;
    for number in 0.. {
        let seed = seed * 1000 + number;
        let image = Image::new(seed, &[usize::try_from(1 + seed * 7919 % 60_000).unwrap()]);
        // Images that share a name meet in the same rows; those that do not, in the same commits.
        let name = format!("killed/n{}", seed % 3);
        let mut random = fastrand::Rng::with_seed(seed);
        if random.bool() {
            let stray = Content::random(seed, 2_000);
            line.blob(random.u64(..4), &name, &stray, &pen).await?;
            line.delete(&blob(&name, &stray.digest), &stray.bytes, &pen).await?;
        }
        for content in image.blobs() {
            line.blob(random.u64(..4), &name, content, &pen).await?;
        }
        line.mount("killed/mounted", &name, &image.layers[0], &pen).await?;
        line.manifest(&name, &format!("t{seed}"), &image, &pen).await?;
    }
    None
}

async fn get(line: &mut Line, target: &str) -> (u16, Vec<u8>) {
    let (status, _, body) = line.ask(&format!("GET {target} HTTP/1.1"), &[]).await.expect("it answers");
    (status, body)
}

/// What was acknowledged is whole, or gone; what was not is the one or the other.
async fn all_is_as_told<'a>(
    address: SocketAddr,
    pushed: impl IntoIterator<Item = (&'a String, &'a (Bytes, Said))>,
) {
    let mut line = Line::open(address).await.expect("it listens");
    for (target, (bytes, said)) in pushed {
        let (status, body) = get(&mut line, target).await;
        let allowed: &[u16] = match said {
            Said::Nothing => &[200, 404],
            Said::Here => &[200],
            Said::Gone => &[404],
        };
        assert!(allowed.contains(&status), "{said:?} was said of {target}, which is {status} now");
        assert!(status == 404 || body == *bytes, "damaged: {target}, of which {said:?} was said");
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
    // All of it, to the end: what was right at the next start may be lost in a later one.
    let mut all: BTreeMap<String, (Bytes, Said)> = BTreeMap::new();
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last = BTreeMap::new();
    let mut since = BTreeMap::new();
    for round in 0..rounds {
        let server = Process::start(&dir, &["--set", "storage.max_size=1GiB"]);
        all_is_as_told(server.address, &last).await;
        nothing_is_half(server.address, &mut since).await;
        let pen = Pen::default();
        let mut pushes = JoinSet::new();
        for client in 0..CLIENTS {
            let number = (seed % 1000) * 1_000_000 + round * 100 + client;
            pushes.spawn(push(server.address, number, pen.clone()));
        }
        // So far that every part of a push is cut somewhere, and on a slow machine some are acknowledged as well.
        let enough = random.usize(..32);
        found("enough is acknowledged", async || (pen.0.lock().unwrap().told() >= enough).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_micros(random.u64(..20_000))).await;
        // SIGKILL: nothing of the server runs after this.
        drop(server);
        while let Some(push) = pushes.join_next().await {
            push.unwrap();
        }
        let book = std::mem::take(&mut *pen.0.lock().unwrap());
        last = book.pushed;
        all.extend(last.clone());
        for (kind, times) in book.told {
            *told.entry(kind).or_default() += times;
        }
    }
    let server = Process::start(&dir, &[]);
    all_is_as_told(server.address, &all).await;
    since.clear();
    nothing_is_half(server.address, &mut since).await;
    let doubtful = all.values().filter(|(_, said)| *said == Said::Nothing).count();
    println!("{rounds} kills, {told:?} acknowledged and as told, {doubtful} cut off: whole or not there");
    assert_eq!(told.len(), 7, "every kind of upload was acknowledged at least once");
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
    let target = blob("cut", &content.digest);
    assert_eq!(client.get(&target).await.body, content.bytes);
}
