//! Owns the fields of every row. A field is never given a new meaning; new ones come with a default.
//! Must not know: who reads and writes which row, and when.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Row, SettingKey, VERSION, write_json};
use crate::meta::Table;
use crate::names::{Algorithm, Digest, ImageName, RepositoryId, RepositoryName, Tag, UploadId};

/// Where a repository's content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepositoryType {
    Local,
    Remote,
}

/// The kind of packages in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageType {
    Docker,
}

/// A managed repository. What only remotes have is `None` or empty in a local one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRow {
    #[serde(with = "text")]
    pub name: RepositoryName,
    pub repo_type: RepositoryType,
    pub package_type: PackageType,
    pub remote_url: Option<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<String>,
    pub ca_file: Option<String>,
    pub tag_ttl_ms: Option<u64>,
    pub negative_ttl_ms: Option<u64>,
    pub stale_if_error_ms: Option<u64>,
    pub max_size: Option<u64>,
    pub upstream_namespace: Option<String>,
    #[serde(default)]
    pub default_mirror: bool,
    #[serde(default)]
    pub anonymous_pull: bool,
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Of a local one: a tag that is there is neither moved nor removed.
    #[serde(default)]
    pub immutable_tags: bool,
    /// Of a local one: manifests may name what their image does not have.
    #[serde(default)]
    pub sparse_manifests: bool,
    pub created_ms: u64,
    /// Deleted or pointed elsewhere: unreachable, its rows are being removed.
    #[serde(default)]
    pub retired: bool,
}

impl fmt::Debug for RepositoryRow {
    /// Leaves out what may be secret: the credentials, and the address, which may hold some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositoryRow")
            .field("name", &self.name)
            .field("repo_type", &self.repo_type)
            .field("retired", &self.retired)
            .finish_non_exhaustive()
    }
}

impl Row for RepositoryRow {
    const TABLE: Table = Table::Repository;
    type Key = RepositoryId;
}

/// The permission to read a digest through an image, and the size that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Of manifests; `None` for blobs.
    pub media_type: Option<String>,
    pub size: u64,
    /// When it was last given, by a manifest or a proof: as with a holder, who removes the link on what they saw of it
    /// requires that this has not changed. `None` in a local image, where the holder has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<u64>,
}

impl Row for LinkRow {
    const TABLE: Table = Table::Link;
    type Key = (RepositoryId, ImageName, Digest);
}

/// Content that is known, wherever its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentRow {
    pub size: u64,
    /// Somebody pushed it here: this is its home, it cannot be fetched again.
    #[serde(default)]
    pub pushed: bool,
}

impl Row for ContentRow {
    const TABLE: Table = Table::Content;
    type Key = Digest;
}

/// Bytes that lie in the blob store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRow {
    pub size: u64,
    /// They were synced before this row was written.
    #[serde(default)]
    pub durable: bool,
    /// In which opening of the store they were written.
    pub epoch: u64,
    pub last_used_ms: u64,
    /// The number of the upstream that they came from.
    pub upstream: u64,
}

impl Row for CopyRow {
    const TABLE: Table = Table::Copy;
    type Key = Digest;
}

/// A manifest with its bytes exactly as received: version, length of the head (4 bytes, big-endian), head in
/// JSON, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRow {
    pub media_type: String,
    pub last_used_ms: u64,
    #[serde(skip)]
    pub bytes: Bytes,
}

impl Row for DocumentRow {
    const TABLE: Table = Table::Document;
    /// Each is up to 4 MiB.
    const PAGE: usize = 16;
    type Key = Digest;

    fn encode(&self, out: &mut Vec<u8>) {
        let mut head = Vec::new();
        write_json(self, &mut head);
        let length = u32::try_from(head.len()).expect("a head is a media type and a number");
        out.extend(length.to_be_bytes());
        out.extend(head);
        out.extend_from_slice(&self.bytes);
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (&VERSION, rest) = value.split_first()? else { return None };
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (head, bytes) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let head: Self = serde_json::from_slice(head).ok()?;
        Some(Self { bytes: Bytes::copy_from_slice(bytes), ..head })
    }
}

/// What a tag pointed at when it was last asked for or pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRow {
    #[serde(with = "text")]
    pub digest: Digest,
    pub media_type: String,
    pub checked_ms: u64,
    pub size: u64,
}

impl Row for TagRow {
    const TABLE: Table = Table::Tag;
    type Key = (RepositoryId, ImageName, Tag);
}

/// A child that a document names or mentions, at its place in it: the same whichever image has the document, and whether
/// or not the child is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    #[serde(with = "text")]
    pub child: Digest,
    /// 0: it is only mentioned.
    pub size: u64,
    pub media_type: String,
}

impl Row for EdgeRow {
    const TABLE: Table = Table::Edge;
    type Key = (Digest, u32);
}

/// Beside the link of a pushed digest, found by the digest: by which images it is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRow {
    /// When it was last pushed, mounted, or named by a manifest that was: microseconds since 1970, never twice the
    /// same. Who removes the link on what they saw of it requires that this has not changed.
    pub stamp: u64,
}

impl Row for HolderRow {
    const TABLE: Table = Table::Holder;
    type Key = (Digest, RepositoryId, ImageName);
}

/// A manifest that is about another one: what the referrers listing says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferrerRow {
    pub media_type: String,
    pub size: u64,
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Row for ReferrerRow {
    const TABLE: Table = Table::Referrer;
    /// The subject, and the manifest that is about it.
    type Key = (RepositoryId, ImageName, (Digest, Digest));
}

/// An upload under way, so that it can go on after a restart. What came lies in the draft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    #[serde(with = "repository_id")]
    pub repository: RepositoryId,
    #[serde(with = "text")]
    pub image: ImageName,
    /// Who began it, and who alone may go on.
    pub owner: String,
    pub draft: u64,
    /// What the draft is hashed with.
    #[serde(with = "text")]
    pub algorithm: Algorithm,
    pub used_ms: u64,
}

impl Row for SessionRow {
    const TABLE: Table = Table::Session;
    type Key = UploadId;
}

/// An unfinished download, so that it can go on after a restart. The key is the draft's number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftRow {
    #[serde(with = "text")]
    pub digest: Digest,
    pub size: Option<u64>,
    /// Where it may be fetched from, the current one first. Nobody reads it: it is written since earlier versions of
    /// this schema take no row without it.
    pub sources: Vec<DraftSource>,
    /// Lengths, ascending, each with the digest of that many first bytes.
    #[serde(default)]
    pub checkpoints: Vec<(u64, String)>,
    pub created_ms: u64,
}

/// An image of a remote repository that has the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftSource {
    #[serde(with = "repository_id")]
    pub repository: RepositoryId,
    #[serde(with = "text")]
    pub image: ImageName,
}

impl Row for DraftRow {
    const TABLE: Table = Table::Draft;
    type Key = u64;
}

/// A single value under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingRow {
    pub value: serde_json::Value,
}

impl Row for SettingRow {
    const TABLE: Table = Table::Setting;
    type Key = SettingKey;
}

/// Names as their own text: a row with a malformed name does not decode.
pub(super) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod repository_id {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::names::RepositoryId;

    pub fn serialize<S: Serializer>(id: &RepositoryId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(id.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RepositoryId, D::Error> {
        u64::deserialize(deserializer).map(RepositoryId)
    }
}
