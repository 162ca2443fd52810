//! Owns the written form of a backup: its manifest and its list of blobs.
//! Must not know: files and directories, beyond their names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Summary;
use crate::names::Digest;

pub(super) const MANIFEST: &str = "backup.json";
pub(super) const LOCK: &str = "backup.lock";
/// The form that this version writes and reads.
pub(super) const FORMAT: u32 = 1;

/// `backup.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: u32,
    /// The version that took it.
    pub binaryrepo: String,
    pub taken: String,
    /// The layout of the metadata.
    pub schema: u32,
    pub repositories: u64,
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    pub bytes: u64,
    pub metadata: Part,
    pub list: Part,
    #[serde(default)]
    pub missing: Vec<String>,
}

/// A file that belongs to the backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub file: String,
    pub bytes: u64,
    pub digest: String,
}

impl Part {
    pub fn is(&self, (bytes, digest): (u64, Digest)) -> bool {
        self.bytes == bytes && self.digest == digest.to_string()
    }

    /// A name alone: a manifest is no way to other directories.
    pub fn has_plain_name(&self) -> bool {
        !self.file.is_empty() && !self.file.starts_with('.') && !self.file.contains('/')
    }
}

impl Manifest {
    pub fn summary(&self) -> Summary {
        Summary {
            taken: self.taken.clone(),
            repositories: self.repositories,
            tags: self.tags,
            manifests: self.manifests,
            blobs: self.blobs,
            bytes: self.bytes,
            copied: 0,
            copied_bytes: 0,
            missing: self.missing.clone(),
        }
    }
}

/// The number of a generation of files, in `metadata-<n>.redb`.
pub(super) fn metadata_name(number: u64) -> String {
    format!("metadata-{number}.redb")
}

pub(super) fn list_name(number: u64) -> String {
    format!("blobs-{number}.txt")
}

/// The number in either name.
pub(super) fn number(name: &str) -> Option<u64> {
    let metadata = name.strip_prefix("metadata-").and_then(|rest| rest.strip_suffix(".redb"));
    let list = name.strip_prefix("blobs-").and_then(|rest| rest.strip_suffix(".txt"));
    metadata.or(list)?.parse().ok()
}

pub(super) fn write_list(blobs: &BTreeMap<Digest, u64>) -> String {
    blobs.iter().map(|(digest, size)| format!("{digest} {size}\n")).collect()
}

/// `Err` holds the line that is none.
pub(super) fn read_list(text: &str) -> Result<BTreeMap<Digest, u64>, String> {
    let line = |line: &str| {
        let (digest, size) = line.split_once(' ')?;
        Some((digest.parse().ok()?, size.parse().ok()?))
    };
    text.lines().map(|text| line(text).ok_or_else(|| text.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Algorithm;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let blobs: BTreeMap<_, _> = [("a", 0), ("b", 7), ("c", u64::MAX)]
            .map(|(text, size)| (Digest::of(Algorithm::Sha512, text.as_bytes()), size))
            .into();
        assert_eq!(read_list(&write_list(&blobs)), Ok(blobs));
        assert_eq!(read_list("sha256:00 1\n"), Err("sha256:00 1".to_owned()));
    }

    #[test]
    fn generations_are_told_from_other_files() {
        assert_eq!(number(&metadata_name(7)), Some(7));
        assert_eq!(number(&list_name(8)), Some(8));
        for other in ["backup.json", "metadata-7.redb.new", "metadata-x.redb", "blobs-1.redb"] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
