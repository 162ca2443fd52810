//! Owns which drafts an earlier run left, until a fill of their digest takes them up.
//! Must not know: what is in them.

use dashmap::DashMap;

use crate::names::Digest;
use crate::store::{Checkpoint, DraftId};

/// A draft that can be continued.
#[derive(Clone, Debug)]
pub(super) struct Leftover {
    pub id: DraftId,
    pub checkpoints: Vec<Checkpoint>,
}

#[derive(Debug, Default)]
pub(super) struct Drafts {
    left: DashMap<Digest, Leftover>,
}

impl Drafts {
    pub fn leave(&self, digest: Digest, leftover: Leftover) {
        self.left.insert(digest, leftover);
    }

    /// The caller owns the draft from now on.
    pub fn take(&self, digest: &Digest) -> Option<Leftover> {
        self.left.remove(digest).map(|(_, leftover)| leftover)
    }
}
