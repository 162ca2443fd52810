//! Owns the words of a flight: its key, its source, what it brings back.
//! Must not know: how flights are scheduled, how bytes are fetched.

use std::sync::{Arc, OnceLock};

use super::model::Manifest;
use crate::cache::{self, Failure, Lane};
use crate::names::{Digest, Hasher, ImageName, MediaType, Reference, RepositoryId, Tag};
use crate::store::{End, Tail};

/// What is fetched once, however many ask.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum FlightKey {
    /// The bytes of a digest, whoever names it.
    Content(Digest),
    /// A document, within one image of one repository.
    Pointer(Arc<Pointer>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pointer {
    pub source: Source,
    pub task: Task,
}

/// What a pointer flight finds out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Task {
    /// Which digest a tag names now, by HEAD.
    Resolve(Tag),
    /// A manifest's bytes.
    Fetch(Reference),
    /// Whether this image may show this digest, and how large it is.
    Prove(Digest),
    /// Whether a file that lay here through an unclean stop still has its bytes.
    Verify(Digest),
    Tags {
        query: String,
    },
    Referrers {
        digest: Digest,
        query: String,
    },
}

/// Through whom: one image of one repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Source {
    pub repository: RepositoryId,
    pub image: ImageName,
}

impl cache::Key for FlightKey {
    fn lane(&self) -> Lane {
        match self {
            Self::Content(_) => Lane::Content,
            Self::Pointer(_) => Lane::Pointer,
        }
    }
}

impl cache::Source for Source {
    fn upstream(&self) -> u64 {
        self.repository.0
    }
}

/// What a tag names, as the upstream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolution {
    pub digest: Digest,
    pub media_type: MediaType,
    pub size: u64,
}

/// One page of a listing, as it came.
#[derive(Clone, Debug)]
pub(super) struct ListingPage {
    pub bytes: bytes::Bytes,
    pub next_query: Option<String>,
    pub filters_applied: Option<String>,
}

/// What a pointer flight brings back, shared by all who waited.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Resolved(Resolution),
    Fetched(Manifest),
    /// The image has the digest, of this size; its link is noted, if the metadata takes it.
    Proven(u64),
    Verified(bool),
    Page(ListingPage),
}

/// What the readers of a fill share besides the tail.
#[derive(Clone, Debug)]
pub(super) struct FlightTail {
    pub tail: Tail,
    /// Set before the tail ends, where it ends badly and there is something to say to who reads along.
    pub parting: Arc<OnceLock<Parting>>,
}

impl FlightTail {
    /// Who reads holds the parting. Asked by the actor, which holds it too, of a fill that runs, and holds it as well.
    pub fn is_read(&self) -> bool {
        Arc::strong_count(&self.parting) > 2
    }

    /// Its last byte is out.
    pub fn is_whole(&self) -> bool {
        self.tail.progress().end == Some(End::Complete)
    }
}

/// What a fill that failed leaves to who reads along.
#[derive(Debug)]
pub(super) enum Parting {
    /// The disk filled up: where and how to go on without the cache.
    Salvage(Salvage),
    /// The upstream's failure, for all who read through the same source. Another source may still have it.
    Failed { source: Source, failure: Failure, story: Option<Story> },
}

/// The state of a fill that ran out of disk space at `at` bytes.
#[derive(Clone, Debug)]
pub(super) struct Salvage {
    pub at: u64,
    pub hasher: Hasher,
}

/// A failure in words for the client, with what the upstream asked for.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub message: Arc<str>,
    pub timed_out: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Coordinator, Event, Limits};
    use crate::clock::Millis;
    use crate::names::Algorithm;

    /// The figure in docs/reliability.md: `cargo test --lib -- --ignored --nocapture bytes_per_entry`. Alone in its
    /// process, since it reads the memory of all of it.
    #[test]
    #[ignore = "measures, and takes some hundreds of megabytes"]
    #[expect(clippy::disallowed_methods, reason = "a test asks the kernel for its own memory")]
    fn bytes_per_entry() {
        const ENTRIES: u64 = 1_000_000;
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
            let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
            resident.expect("a number of pages") * 4_096
        };
        let mut out = Vec::new();
        let mut coordinator = Coordinator::<FlightKey, Source>::new(Limits::default());
        let before = resident();
        for number in 0..ENTRIES {
            let key = FlightKey::Content(Digest::of(Algorithm::Sha256, &number.to_be_bytes()));
            let load = Event::Load { key, upstream: number % 3, size: 1, used: number, pinned: false };
            coordinator.step(Millis(0), load, &mut out);
        }
        coordinator.step(Millis(0), Event::Loaded, &mut out);
        let loaded = resident();
        for number in (0..ENTRIES).rev() {
            let key = FlightKey::Content(Digest::of(Algorithm::Sha256, &number.to_be_bytes()));
            coordinator.step(Millis(number % 1_000), Event::Touch { key }, &mut out);
        }
        let touched = resident();
        println!(
            "{} bytes an entry when loaded, {} after a touch of each",
            (loaded - before) / ENTRIES,
            (touched - before) / ENTRIES
        );
        assert_eq!(coordinator.counts().present, 1_000_000);
    }
}
