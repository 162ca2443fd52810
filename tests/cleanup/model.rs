//! What local images should hold: the reference that the engine is held against. No clock, no files, no tasks.

use std::collections::{BTreeMap, BTreeSet};

use binaryrepo::names::{Digest, MediaType};
use serde_json::{Value, json};

use super::support::image::{CONFIG, Content, LAYER};

/// Some content, with what it names.
#[derive(Clone, Debug)]
pub struct Thing {
    pub content: Content,
    /// `None`: a blob.
    pub names: Option<Vec<Digest>>,
    pub subject: Option<Digest>,
}

impl Thing {
    pub fn blob(content: Content) -> Self {
        Self { content, names: None, subject: None }
    }

    /// A manifest of these blobs, perhaps about another manifest.
    pub fn manifest(config: &Content, layers: &[&Content], subject: Option<&Content>) -> Self {
        let mut body = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": named(config, CONFIG),
            "layers": layers.iter().map(|layer| named(layer, LAYER)).collect::<Vec<_>>(),
        });
        if let Some(subject) = subject {
            body["subject"] = named(subject, MediaType::OCI_MANIFEST);
        }
        let names = std::iter::once(config).chain(layers.iter().copied()).map(|one| one.digest).collect();
        let subject = subject.map(|subject| subject.digest);
        Self { content: Content::new(body.to_string()), names: Some(names), subject }
    }

    pub fn index(manifests: &[&Content]) -> Self {
        let body = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX,
            "manifests": manifests.iter().map(|one| named(one, MediaType::OCI_MANIFEST)).collect::<Vec<_>>(),
        });
        let names = manifests.iter().map(|one| one.digest).collect();
        Self { content: Content::new(body.to_string()), names: Some(names), subject: None }
    }

    pub fn digest(&self) -> Digest {
        self.content.digest
    }
}

fn named(content: &Content, media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": content.digest.to_string(), "size": content.bytes.len() })
}

/// One image: which things it may show, and its tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub links: BTreeSet<Digest>,
    pub tags: BTreeMap<String, Digest>,
}

impl Image {
    /// What a manifest of this image keeps here.
    pub fn is_kept(&self, digest: &Digest, things: &BTreeMap<Digest, Thing>) -> bool {
        let keeps = |keeper: &Digest| {
            let names = things[keeper].names.as_deref().unwrap_or_default();
            names.contains(digest) || things[digest].subject == Some(*keeper)
        };
        self.links.iter().any(keeps)
    }

    /// Everything unneeded goes.
    pub fn collect(&mut self, things: &BTreeMap<Digest, Thing>, untagged: bool) {
        while self.collect_layer(things, untagged) {}
    }

    /// What is unneeded now goes, and what only that kept is unneeded from then on. `false`: nothing is.
    pub fn collect_layer(&mut self, things: &BTreeMap<Digest, Thing>, untagged: bool) -> bool {
        let needed = |digest: &Digest| {
            let stays = things[digest].names.is_some()
                && (!untagged || self.tags.values().any(|tagged| tagged == digest));
            stays || self.is_kept(digest, things)
        };
        let links: BTreeSet<Digest> = self.links.iter().copied().filter(needed).collect();
        let before = std::mem::replace(&mut self.links, links);
        self.links != before
    }

    pub fn remove(&mut self, digest: &Digest) {
        self.links.remove(digest);
        self.tags.retain(|_, tagged| tagged != digest);
    }
}
