//! Owns what HEADs of tags said a moment ago, for those whose manifest was not fetched since.
//! Must not know: the metadata; this is forgotten at a restart.

use quick_cache::sync::Cache;

use super::flight::{Resolution, Source};
use crate::clock::Millis;
use crate::names::{Digest, Tag};

/// Tags of which a HEAD is remembered. One more costs one HEAD more.
const TAGS: usize = 16 * 1024;

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub resolution: Resolution,
    pub at: Millis,
}

pub(super) struct Resolutions {
    by_tag: Cache<(Source, Tag), Seen>,
    /// The other way round: the tag that a client is about to fetch by digest.
    by_digest: Cache<(Source, Digest), Tag>,
}

impl Resolutions {
    pub fn new() -> Self {
        Self { by_tag: Cache::new(TAGS), by_digest: Cache::new(TAGS) }
    }

    pub fn note(&self, source: &Source, tag: &Tag, resolution: &Resolution, at: Millis) {
        self.by_digest.insert((source.clone(), resolution.digest), tag.clone());
        let seen = Seen { resolution: resolution.clone(), at };
        self.by_tag.insert((source.clone(), tag.clone()), seen);
    }

    pub fn get(&self, source: &Source, tag: &Tag) -> Option<Seen> {
        self.by_tag.get(&(source.clone(), tag.clone()))
    }

    /// The tags that were last seen to name this digest.
    pub fn tags_of(&self, source: &Source, digest: &Digest) -> Vec<Tag> {
        let tag = self.by_digest.get(&(source.clone(), *digest));
        let still = |tag: &Tag| self.get(source, tag).is_some_and(|seen| seen.resolution.digest == *digest);
        tag.into_iter().filter(still).collect()
    }

    pub fn forget(&self, source: &Source, tag: &Tag) {
        self.by_tag.remove(&(source.clone(), tag.clone()));
    }

    pub fn clear(&self) {
        self.by_tag.clear();
        self.by_digest.clear();
    }
}
