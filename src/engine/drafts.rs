//! Owns which drafts an earlier run left, until a fill of their digest takes them up or their time is over.
//! Must not know: what is in them.

use dashmap::DashMap;

use crate::clock::UnixMillis;
use crate::names::Digest;
use crate::store::{Checkpoint, DraftId};

/// A draft that can be continued.
#[derive(Clone, Debug)]
pub(super) struct Leftover {
    pub id: DraftId,
    pub checkpoints: Vec<Checkpoint>,
    pub noted: UnixMillis,
}

impl Leftover {
    fn reaches(&self) -> u64 {
        self.checkpoints.iter().map(|checkpoint| checkpoint.len).max().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Drafts {
    left: DashMap<Digest, Leftover>,
}

impl Drafts {
    /// Of two for one digest the further one stays; the other is answered, for the caller to remove.
    pub fn leave(&self, digest: Digest, leftover: Leftover) -> Option<Leftover> {
        let other = self.left.insert(digest, leftover.clone())?;
        if other.reaches() <= leftover.reaches() {
            return Some(other);
        }
        self.left.insert(digest, other);
        Some(leftover)
    }

    /// The caller owns the draft from now on.
    pub fn take(&self, digest: &Digest) -> Option<Leftover> {
        self.left.remove(digest).map(|(_, leftover)| leftover)
    }

    /// Those that were last noted before `oldest`; the caller owns them from now on.
    pub fn take_older(&self, oldest: UnixMillis) -> Vec<Leftover> {
        let old: Vec<Digest> =
            self.left.iter().filter(|one| one.noted < oldest).map(|one| *one.key()).collect();
        old.iter().filter_map(|digest| self.take(digest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Algorithm;

    fn leftover(id: u64, len: u64) -> Leftover {
        let prefix = Digest::of(Algorithm::Sha256, b"");
        let checkpoints = vec![Checkpoint { len, prefix }];
        Leftover { id: DraftId(id), checkpoints, noted: UnixMillis(id) }
    }

    #[test]
    fn the_further_one_of_two_stays_and_the_other_is_not_forgotten() {
        let (drafts, digest) = (Drafts::default(), Digest::of(Algorithm::Sha256, b"x"));
        assert!(drafts.leave(digest, leftover(1, 50)).is_none());
        assert_eq!(drafts.leave(digest, leftover(2, 10)).unwrap().id, DraftId(2));
        assert_eq!(drafts.leave(digest, leftover(3, 90)).unwrap().id, DraftId(1));
        assert!(drafts.take_older(UnixMillis(3)).is_empty());
        assert_eq!(drafts.take_older(UnixMillis(4)).len(), 1);
        assert!(drafts.take(&digest).is_none());
    }
}
