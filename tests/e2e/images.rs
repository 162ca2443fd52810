//! Owns images made on the spot: layers of any size, manifests and indexes. Must not know: where they go.

use crate::process::run;
use crate::trouble::Outcome;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const TAR_BLOCK: usize = 512;
/// The largest piece that deflate can store without compressing it.
const STORED: usize = 0xffff;

/// The two families of media types.
#[derive(Clone, Copy)]
pub enum Family {
    Docker,
    Oci,
}

impl Family {
    fn manifest(self) -> &'static str {
        match self {
            Family::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Family::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Family::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Family::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Family::Docker => "application/vnd.docker.container.image.v1+json",
            Family::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Family::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Family::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
}

#[derive(Clone)]
pub struct Blob {
    pub digest: String,
    pub media_type: &'static str,
    pub bytes: Bytes,
}

impl Blob {
    fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: digest_of(&bytes), media_type, bytes }
    }

    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// One platform's image: what a client must fetch, in the order in which it names them.
#[derive(Clone)]
pub struct Image {
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Blob>,
    pub architecture: &'static str,
    family: Family,
}

impl Image {
    /// The digests of the config and the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    pub fn blob_bytes(&self) -> usize {
        self.blobs().map(|blob| blob.bytes.len()).sum()
    }
}

#[derive(Clone)]
pub struct Index {
    pub manifest: Blob,
    pub images: Vec<Image>,
}

/// Makes images that share nothing but the program: every layer is random, so nothing is cached by accident.
#[derive(Clone)]
pub struct Maker {
    /// A static program that prints "hello from" and its arguments; `/hello` in every image.
    program: Arc<Vec<u8>>,
}

impl Maker {
    pub fn new(dir: &Path) -> Outcome<Maker> {
        let (source, program) = (dir.join("hello.c"), dir.join("hello"));
        fs::write(&source, HELLO)?;
        run("cc").args(["-static", "-Os", "-s", "-o"]).args([&program, &source]).success()?;
        Ok(Maker { program: Arc::new(fs::read(&program)?) })
    }

    /// An image for this machine that runs, with one further layer of each size.
    pub fn image(&self, family: Family, sizes: &[usize]) -> Image {
        self.image_for(native(), family, sizes)
    }

    /// amd64 and arm64 under one name; only this machine's own can run.
    pub fn index(&self, family: Family, sizes: &[usize]) -> Index {
        let images: Vec<Image> = ["amd64", "arm64"].map(|name| self.image_for(name, family, sizes)).into();
        let manifests: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": family.index(), "manifests": manifests });
        Index { manifest: Blob::new(family.index(), index.to_string()), images }
    }

    fn image_for(&self, architecture: &'static str, family: Family, sizes: &[usize]) -> Image {
        let mark = format!("{:032x}", fastrand::u128(..));
        let mut tars =
            vec![tar(&[("hello", 0o755, self.program.as_slice()), ("mark", 0o644, mark.as_bytes())])];
        for (number, size) in sizes.iter().enumerate() {
            let content = std::iter::repeat_with(|| fastrand::u64(..).to_le_bytes()).flatten();
            let content: Vec<u8> = content.take(*size).collect();
            tars.push(tar(&[(&format!("layer-{number}"), 0o644, &content)]));
        }
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": { "Entrypoint": ["/hello"], "Cmd": [mark] },
            "rootfs": { "type": "layers", "diff_ids": tars.iter().map(|tar| digest_of(tar)).collect::<Vec<_>>() },
            "history": tars.iter().map(|_| json!({ "created": "2026-01-01T00:00:00Z" })).collect::<Vec<_>>(),
        });
        let config = Blob::new(family.config(), config.to_string());
        let layers: Vec<Blob> = tars.iter().map(|tar| Blob::new(family.layer(), gzip(tar))).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": family.manifest(), "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(family.manifest(), manifest.to_string());
        Image { manifest, config, layers, architecture, family }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} with {} layers", self.family.manifest(), self.manifest.digest, self.layers.len())
    }
}

/// This machine's architecture, as images spell it.
pub fn native() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub fn digest_of(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

pub fn digest_text(hash: &[u8]) -> String {
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A ustar archive of plain files.
fn tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in files {
        let mut header = [0_u8; TAR_BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        put(&mut header, 100, &format!("{mode:07o}"));
        put(&mut header, 108, "0000000");
        put(&mut header, 116, "0000000");
        put(&mut header, 124, &format!("{:011o}", content.len()));
        put(&mut header, 136, "00000000000");
        put(&mut header, 148, "        ");
        put(&mut header, 156, "0");
        put(&mut header, 257, "ustar\u{0}00");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        put(&mut header, 148, &format!("{sum:06o}\u{0}"));
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(TAR_BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * TAR_BLOCK, 0);
    archive
}

fn put(header: &mut [u8], at: usize, text: &str) {
    header[at..at + text.len()].copy_from_slice(text.as_bytes());
}

/// A gzip member that stores: random bytes do not shrink, and 200 MB are made in no time.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut pieces = content.chunks(STORED).peekable();
    while let Some(piece) = pieces.next() {
        let length = u16::try_from(piece.len()).expect("a piece has at most 65535 bytes");
        out.push(u8::from(pieces.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&crc32(content).to_le_bytes());
    // The format wants the length modulo 2^32.
    #[expect(clippy::cast_possible_truncation, reason = "gzip keeps the low 32 bits of the length")]
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out
}

fn crc32(content: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        let byte = u32::try_from(byte).expect("256 entries");
        (0..8).fold(byte, |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    });
    !content.iter().fold(!0, |crc, byte| table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

const HELLO: &str = r#"
#include <stdio.h>
int main(int count, char **words) {
    printf("hello from");
    for (int i = 1; i < count; i++) printf(" %s", words[i]);
    printf("\n");
    return 0;
}
"#;
