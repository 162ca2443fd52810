//! Images made of pseudo-random layers: the same seed makes the same bytes.

use binaryrepo::names::{Algorithm, Digest, MediaType};
use bytes::Bytes;
use serde_json::{Value, json};

pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Some content with its digest.
#[derive(Clone, Debug)]
pub struct Content {
    pub digest: Digest,
    pub bytes: Bytes,
}

impl Content {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(Algorithm::Sha256, &bytes), bytes }
    }

    /// `size` bytes that do not compress.
    pub fn random(seed: u64, size: usize) -> Self {
        let mut bytes = vec![0; size];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        Self::new(bytes)
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

/// An image for one architecture.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Content,
    pub config: Content,
    pub layers: Vec<Content>,
    pub architecture: String,
}

impl Image {
    pub const MEDIA_TYPE: &str = MediaType::OCI_MANIFEST;

    /// Layers of these sizes, for `amd64`.
    pub fn new(seed: u64, layers: &[usize]) -> Self {
        Self::for_architecture("amd64", seed, layers)
    }

    pub fn for_architecture(architecture: &str, seed: u64, sizes: &[usize]) -> Self {
        let layers: Vec<Content> = (1..)
            .zip(sizes)
            .map(|(number, size)| Content::random(seed.wrapping_mul(1000).wrapping_add(number), *size))
            .collect();
        let layer_digests: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": layer_digests },
        });
        let config = Content::new(config.to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": Self::MEDIA_TYPE,
            "config": config.descriptor(CONFIG),
            "layers": layers.iter().map(|layer| layer.descriptor(LAYER)).collect::<Vec<_>>(),
        });
        let manifest = Content::new(manifest.to_string());
        Self { manifest, config, layers, architecture: architecture.to_owned() }
    }

    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Content> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// An image for several architectures.
#[derive(Clone, Debug)]
pub struct Index {
    pub manifest: Content,
    pub images: Vec<Image>,
}

impl Index {
    pub const MEDIA_TYPE: &str = MediaType::OCI_INDEX;

    pub fn new(seed: u64, architectures: &[&str], layers: &[usize]) -> Self {
        let images: Vec<Image> = (1..)
            .zip(architectures)
            .map(|(number, name)| Image::for_architecture(name, seed.wrapping_mul(100) + number, layers))
            .collect();
        let manifests = images.iter().map(|image| {
            let mut descriptor = image.manifest.descriptor(Image::MEDIA_TYPE);
            descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
            descriptor
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": Self::MEDIA_TYPE,
            "manifests": manifests.collect::<Vec<_>>(),
        });
        Self { manifest: Content::new(manifest.to_string()), images }
    }
}
