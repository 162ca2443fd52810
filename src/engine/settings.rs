//! Owns the limits that the engine works within.
//! Must not know: where they were configured.

use std::path::PathBuf;
use std::time::Duration;

use crate::upstream::Timeouts;

/// How much cached content may lie here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxSize {
    Bytes(u64),
    /// Of the file system's size.
    Percent(u8),
}

/// The engine's limits.
#[derive(Clone, Debug)]
pub struct Settings {
    pub max_size: MaxSize,
    /// Bytes of the file system that stay free, whatever `max_size` says. `None`: 5 GiB, or a twentieth of a
    /// smaller file system.
    pub min_free: Option<u64>,
    /// Bytes of manifests of remotes; the least recently used go first.
    pub document_cap: u64,
    /// Where copies of the metadata are put together for backups; `None`: there are none.
    pub copies: Option<PathBuf>,
    /// How often a snapshot of the metadata is taken beside it, where something has changed; `None`: never.
    pub snapshots: Option<Duration>,
    /// How long an upload that nobody goes on with is kept.
    pub upload_life: Duration,
    /// How long what no manifest names is kept in an image, counted from when it was last pushed, mounted, named or
    /// asked for: at least as long as the slowest push takes.
    pub collect_after: Duration,
    /// Manifests without a tag go as well, unless another manifest names them or they are about one that stays.
    pub collect_untagged: bool,
    /// How long a stop waits for fills to put down their drafts.
    pub stop_grace: Duration,
    /// How long the silence of an upstream is borne.
    pub timeouts: Timeouts,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_size: MaxSize::Percent(80),
            min_free: None,
            document_cap: 1 << 30,
            copies: None,
            snapshots: None,
            upload_life: Duration::from_secs(24 * 3600),
            collect_after: Duration::from_secs(24 * 3600),
            collect_untagged: false,
            stop_grace: Duration::from_secs(10),
            timeouts: Timeouts::default(),
        }
    }
}

impl Settings {
    /// Bytes of cached content that may lie here now: no more than `max_size`, and no more than leaves
    /// `min_free` to others.
    pub fn limit(&self, cached: u64, free: u64, total: u64) -> u64 {
        let wished = match self.max_size {
            MaxSize::Bytes(bytes) => bytes,
            MaxSize::Percent(percent) => total / 100 * u64::from(percent),
        };
        wished.min(cached.saturating_add(free).saturating_sub(self.keep_free(total)))
    }

    /// Bytes of a file system of this size that are left to others.
    pub fn keep_free(&self, total: u64) -> u64 {
        self.min_free.unwrap_or_else(|| (5 << 30).min(total / 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_leaves_room_for_others() {
        let settings = Settings { max_size: MaxSize::Bytes(80), min_free: Some(10), ..Settings::default() };
        assert_eq!(settings.limit(0, 1_000, 1_000), 80);
        assert_eq!(settings.limit(50, 20, 1_000), 60);
        assert_eq!(settings.limit(0, 5, 1_000), 0);
        let share = Settings { max_size: MaxSize::Percent(80), ..settings };
        assert_eq!(share.limit(0, 1_000, 1_000), 800);
    }

    #[test]
    fn a_small_disk_keeps_less_free() {
        let settings = Settings { max_size: MaxSize::Percent(100), min_free: None, ..Settings::default() };
        let kept = |total: u64| total - settings.limit(0, total, total);
        assert_eq!([10_000 << 30, 20 << 30].map(kept), [5 << 30, 1 << 30]);
        let set = Settings { min_free: Some(7 << 30), ..settings };
        assert_eq!(set.limit(0, 20 << 30, 20 << 30), 13 << 30);
    }
}
