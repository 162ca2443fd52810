//! Owns the small names of the simulated world.

use binaryrepo::cache::{Key, Lane, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    Blob(u8),
    Document(u8),
}

impl Key for Name {
    fn lane(&self) -> Lane {
        match self {
            Self::Blob(_) => Lane::Content,
            Self::Document(_) => Lane::Pointer,
        }
    }
}

/// Repositories 0 and 1 share an upstream, 2 and 3 the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via(pub u8);

impl Source for Via {
    fn upstream(&self) -> u64 {
        u64::from(self.0 / 2)
    }
}

/// The upstream to which pushes are booked.
pub const LOCAL: u64 = 7;

/// How long a 404 counts here.
pub const NEGATIVE_MS: u64 = 500;

/// How long a client with a deadline waits.
pub const PATIENCE_MS: u64 = 200;

pub fn size_of(blob: u8) -> u64 {
    [4, 7, 10, 60][usize::from(blob) % 4]
}
