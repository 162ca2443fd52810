//! What a client does to push, one request after the other.

use std::net::SocketAddr;

use binaryrepo::names::Digest;

use super::client::{Answer, Ask};
use super::support::image::{Content, Image};
use super::support::patience::found;

pub const OCTETS: &str = "application/octet-stream";

/// A client of one server.
#[derive(Clone, Copy, Debug)]
pub struct Pusher(pub SocketAddr);

impl Pusher {
    pub async fn send(self, ask: Ask) -> Answer {
        ask.send(self.0).await
    }

    pub async fn get(self, target: &str) -> Answer {
        self.send(Ask::get(target)).await
    }

    /// Begins an upload. Where it goes on.
    pub async fn begin(self, name: &str) -> String {
        let answer = self.send(Ask::new("POST", &uploads(name))).await;
        assert_eq!(answer.status, 202, "{}", answer.all());
        assert_eq!(answer.header("range"), Some("0-0"));
        assert_eq!(answer.header("oci-chunk-min-length"), Some("65536"));
        assert!(answer.header("docker-upload-uuid").is_some());
        answer.header("location").unwrap().to_owned()
    }

    pub async fn patch(self, location: &str, bytes: &[u8]) -> Answer {
        self.send(Ask::new("PATCH", location).header("Content-Type", OCTETS).body(bytes)).await
    }

    pub async fn chunk(self, location: &str, range: &str, bytes: &[u8]) -> Answer {
        self.send(Ask::new("PATCH", location).header("Content-Range", range).body(bytes)).await
    }

    pub async fn finish(self, location: &str, digest: &Digest, rest: &[u8]) -> Answer {
        self.send(Ask::new("PUT", &format!("{location}?digest={digest}")).body(rest)).await
    }

    /// As containerd does: POST, then PUT with all of it.
    pub async fn blob(self, name: &str, content: &Content) -> Answer {
        let location = self.begin(name).await;
        self.finish(&location, &content.digest, &content.bytes).await
    }

    pub async fn manifest(self, name: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Answer {
        let target = manifest(name, reference);
        self.send(Ask::new("PUT", &target).header("Content-Type", media_type).body(bytes)).await
    }

    /// All of an image, under a tag.
    pub async fn image(self, name: &str, tag: &str, image: &Image) {
        for content in image.blobs() {
            let answer = self.blob(name, content).await;
            assert_eq!(answer.status, 201, "{}", answer.all());
        }
        let answer = self.manifest(name, tag, Image::MEDIA_TYPE, &image.manifest.bytes).await;
        assert_eq!(answer.status, 201, "{}", answer.all());
        assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.digest.to_string().as_str()));
    }

    /// Pulls an image back, byte for byte.
    pub async fn pull(self, name: &str, reference: &str, image: &Image) {
        let answer = self.get(&manifest(name, reference)).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &image.manifest.bytes[..]), "{}", answer.all());
        assert_eq!(answer.header("content-type"), Some(Image::MEDIA_TYPE));
        for content in image.blobs() {
            let answer = self.get(&blob(name, &content.digest)).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &content.bytes[..]));
            assert!(answer.is_whole());
        }
    }
}

/// What is answered when nobody else works on the upload any more.
pub async fn once_free(mut ask: impl AsyncFnMut() -> Answer) -> Answer {
    found("nobody works on it", async || Some(ask().await).filter(|answer| answer.status != 416)).await
}

/// Paths of `docker-local`.
pub fn uploads(name: &str) -> String {
    format!("/v2/docker-local/{name}/blobs/uploads/")
}

pub fn blob(name: &str, digest: &Digest) -> String {
    format!("/v2/docker-local/{name}/blobs/{digest}")
}

pub fn manifest(name: &str, reference: &str) -> String {
    format!("/v2/docker-local/{name}/manifests/{reference}")
}

pub fn tags(name: &str) -> String {
    format!("/v2/docker-local/{name}/tags/list")
}

pub fn referrers(name: &str, digest: &Digest) -> String {
    format!("/v2/docker-local/{name}/referrers/{digest}")
}
