//! Owns the small answers kept in memory: manifests and blobs up to 64 KiB, 32 MiB in all.
//! Must not know: rights. Who asks was let in before, each time.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::touched::QUIET_MS;
use crate::clock::Millis;
use crate::names::{Digest, ImageName, MediaType, Reference, RepositoryId};

/// Larger answers come from the store each time.
pub(super) const SMALL: u64 = 64 * 1024;
const TOTAL: u64 = 32 * 1024 * 1024;
const SHARDS: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AnswerKey {
    pub repository: RepositoryId,
    pub image: ImageName,
    pub of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Manifest(Reference),
    Blob(Digest),
}

#[derive(Debug)]
pub(super) struct Answer {
    pub digest: Digest,
    /// `None` for a blob.
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
    /// Of a tag's answer; what a digest names is good for ever.
    pub fresh: Option<Fresh>,
    pub told: Told,
}

impl Answer {
    /// Whether it is good still.
    pub fn is_fresh(&self, now: Millis) -> bool {
        self.fresh.is_none_or(|fresh| now < fresh.until)
    }

    /// Whether this use is news to whoever keeps the order of eviction: at most one in a span is. Costs next to nothing,
    /// since it is asked with each answer.
    pub fn is_news(&self, now: Millis) -> bool {
        let Told(last) = &self.told;
        if now.0.saturating_sub(last.load(Ordering::Relaxed)) < QUIET_MS {
            return false;
        }
        last.store(now.0, Ordering::Relaxed);
        true
    }
}

/// When a use of it was last told on; at first when the clock was started, since who makes an answer tells of that.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicU64);

/// How long a tag's answer is good, under the policy by which that was reckoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub until: Millis,
    pub tag_ttl: Duration,
}

/// A note of how things stood before the metadata was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generation {
    shard: usize,
    number: u64,
}

pub(super) struct Answers {
    cache: Cache<AnswerKey, Arc<Answer>, ByBytes>,
    /// One number for many images: a commit to one of them only keeps others from being inserted once.
    generations: Box<[AtomicU64]>,
    hasher: RandomState,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<AnswerKey, Arc<Answer>> for ByBytes {
    fn weight(&self, _: &AnswerKey, answer: &Arc<Answer>) -> u64 {
        // With what it takes to keep it.
        answer.bytes.len() as u64 + 1024
    }
}

impl Answers {
    pub fn new() -> Self {
        Self {
            cache: Cache::with_weighter(16 * 1024, TOTAL, ByBytes),
            generations: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    pub fn get(&self, key: &AnswerKey, now: Millis) -> Option<Arc<Answer>> {
        let answer = self.cache.get(key)?;
        answer.is_fresh(now).then_some(answer)
    }

    /// To be noted before the metadata is read, or an answer is taken from here to be given more than once.
    pub fn generation(&self, repository: RepositoryId, image: &ImageName) -> Generation {
        let shard = self.shard(repository, image);
        Generation { shard, number: self.generations[shard].load(Ordering::Acquire) }
    }

    /// Whether nothing was committed since `noted`: what was found then would be found now.
    pub fn is_current(&self, noted: Generation) -> bool {
        self.generations[noted.shard].load(Ordering::Acquire) == noted.number
    }

    /// Keeps an answer, unless something was committed since `noted`.
    pub fn insert(&self, key: AnswerKey, answer: Arc<Answer>, noted: Generation) {
        if answer.bytes.len() as u64 > SMALL {
            return;
        }
        if !self.is_current(noted) {
            return;
        }
        self.cache.insert(key.clone(), answer);
        // A commit may have come between the look and the insertion, and have found nothing to remove.
        if !self.is_current(noted) {
            self.cache.remove(&key);
        }
    }

    /// After a commit, before its reply: whatever was read earlier is no longer inserted, and `of` is gone.
    pub fn committed(&self, repository: RepositoryId, image: &ImageName, of: impl IntoIterator<Item = Of>) {
        let generation = &self.generations[self.shard(repository, image)];
        generation.fetch_add(1, Ordering::AcqRel);
        for of in of {
            self.cache.remove(&AnswerKey { repository, image: image.clone(), of });
        }
        // Once more: what was taken from here since the first time is not to be given again either.
        generation.fetch_add(1, Ordering::AcqRel);
    }

    /// After a change to many images at once.
    pub fn clear(&self) {
        self.renew();
        self.cache.clear();
        self.renew();
    }

    fn renew(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn shard(&self, repository: RepositoryId, image: &ImageName) -> usize {
        let hash = self.hasher.hash_one((repository, image));
        usize::try_from(hash % SHARDS as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Algorithm;

    fn key(tag: &str) -> AnswerKey {
        let of = Of::Manifest(tag.parse().expect("a tag"));
        AnswerKey { repository: RepositoryId(1), image: "a/b".parse().expect("a name"), of }
    }

    fn answer(bytes: &'static [u8], until: Option<u64>) -> Arc<Answer> {
        Arc::new(Answer {
            digest: Digest::of(Algorithm::Sha256, bytes),
            media_type: None,
            bytes: Bytes::from_static(bytes),
            fresh: until.map(|until| Fresh { until: Millis(until), tag_ttl: Duration::from_secs(60) }),
            told: Told::default(),
        })
    }

    #[test]
    fn one_use_in_a_while_is_news() {
        let answer = answer(b"x", None);
        let told: Vec<u64> =
            (0..4 * QUIET_MS).step_by(100).filter(|now| answer.is_news(Millis(*now))).collect();
        assert_eq!(told, [1, 2, 3].map(|span| span * QUIET_MS));
    }

    #[test]
    fn an_answer_read_before_a_commit_is_not_kept_after_it() {
        let answers = Answers::new();
        let key = key("latest");
        let noted = answers.generation(key.repository, &key.image);
        answers.committed(key.repository, &key.image, [key.of.clone()]);
        answers.insert(key.clone(), answer(b"old", None), noted);
        assert!(answers.get(&key, Millis(0)).is_none());
        let noted = answers.generation(key.repository, &key.image);
        answers.insert(key.clone(), answer(b"new", None), noted);
        assert!(answers.get(&key, Millis(0)).is_some());
    }

    #[test]
    fn what_is_taken_while_it_is_being_removed_is_not_given_again() {
        let (answers, key) = (Answers::new(), key("latest"));
        let noted = || answers.generation(key.repository, &key.image);
        let kept = noted();
        answers.insert(key.clone(), answer(b"old", None), kept);
        assert!(answers.is_current(kept));
        let mut late = kept;
        let being_removed = std::iter::once_with(|| {
            late = noted();
            assert!(answers.get(&key, Millis(0)).is_some(), "it is there still");
            key.of.clone()
        });
        answers.committed(key.repository, &key.image, being_removed);
        assert!(answers.get(&key, Millis(0)).is_none());
        assert!(!answers.is_current(kept));
        assert!(!answers.is_current(late));
        let kept = noted();
        answers.clear();
        assert!(!answers.is_current(kept));
    }

    #[test]
    fn a_tag_is_answered_until_its_time_is_over() {
        let answers = Answers::new();
        let key = key("latest");
        let noted = answers.generation(key.repository, &key.image);
        answers.insert(key.clone(), answer(b"x", Some(10)), noted);
        assert!(answers.get(&key, Millis(9)).is_some());
        assert!(answers.get(&key, Millis(10)).is_none());
    }
}
