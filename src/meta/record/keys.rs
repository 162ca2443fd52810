//! Owns the encoding of keys: bytes that sort as the keys do, so that a page is one range.
//! Must not know: the rows behind the keys.
//!
//! Numbers are big-endian. Text that something follows ends with a NUL, which no name holds and
//! which sorts before every other byte.

use std::borrow::Cow;
use std::str::FromStr;

use crate::names::{AccountId, Digest, ImageName, ImagePattern, RepositoryId, Tag, UploadId};

const NUL: u8 = 0;

/// A key of a table. `a < b` exactly if the encoding of `a` sorts before that of `b`.
pub trait RowKey: Sized {
    fn encode(&self, out: &mut Vec<u8>);

    /// `None` for bytes that no key encodes to.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// The leading parts of a key `K`: selects the rows whose keys begin with them.
pub trait Prefix<K> {
    fn encode_prefix(&self, out: &mut Vec<u8>);
}

/// Every row of the table.
impl<K> Prefix<K> for () {
    fn encode_prefix(&self, _: &mut Vec<u8>) {}
}

impl RowKey for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

impl RowKey for RepositoryId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        u64::decode(bytes).map(Self)
    }
}

impl RowKey for AccountId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        u64::decode(bytes).map(Self)
    }
}

/// What an account may do with some images of a repository; number 0 is every repository.
impl RowKey for (AccountId, RepositoryId, ImagePattern) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        out.extend(self.2.as_str().as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (account, rest) = bytes.split_first_chunk::<8>()?;
        let (repository, pattern) = rest.split_first_chunk::<8>()?;
        let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
        Some((AccountId(number(account)), RepositoryId(number(repository)), parse(pattern)?))
    }
}

impl Prefix<(AccountId, RepositoryId, ImagePattern)> for AccountId {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl RowKey for Digest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_string().into_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        parse(bytes)
    }
}

impl RowKey for Tag {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.as_str().as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        parse(bytes)
    }
}

/// Something that belongs to an image in a repository: a link's digest, a tag.
impl<L: RowKey> RowKey for (RepositoryId, ImageName, L) {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_image(self.0, &self.1, out);
        self.2.encode(out);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (repository, rest) = bytes.split_first_chunk::<8>()?;
        let end = rest.iter().position(|&byte| byte == NUL)?;
        let (image, last) = (&rest[..end], &rest[end + 1..]);
        Some((RepositoryId(u64::from_be_bytes(*repository)), parse(image)?, L::decode(last)?))
    }
}

impl<L: RowKey> Prefix<(RepositoryId, ImageName, L)> for RepositoryId {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl<L: RowKey> Prefix<(RepositoryId, ImageName, L)> for (RepositoryId, ImageName) {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        encode_image(self.0, &self.1, out);
    }
}

/// The n-th child of a document.
impl RowKey for (Digest, u32) {
    fn encode(&self, out: &mut Vec<u8>) {
        Prefix::<Self>::encode_prefix(&self.0, out);
        out.extend(self.1.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (rest, position) = bytes.split_last_chunk::<4>()?;
        let digest = rest.strip_suffix(&[NUL])?;
        Some((parse(digest)?, u32::from_be_bytes(*position)))
    }
}

impl Prefix<(Digest, u32)> for Digest {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
        out.push(NUL);
    }
}

/// An image that holds a digest, found by the digest.
impl RowKey for (Digest, RepositoryId, ImageName) {
    fn encode(&self, out: &mut Vec<u8>) {
        Prefix::<Self>::encode_prefix(&self.0, out);
        self.1.encode(out);
        out.extend(self.2.as_str().as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == NUL)?;
        let (repository, image) = bytes[end + 1..].split_first_chunk::<8>()?;
        Some((parse(&bytes[..end])?, RepositoryId(u64::from_be_bytes(*repository)), parse(image)?))
    }
}

impl Prefix<(Digest, RepositoryId, ImageName)> for Digest {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
        out.push(NUL);
    }
}

/// Within an image: what a manifest is about, and that manifest.
impl RowKey for (Digest, Digest) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        out.push(NUL);
        self.1.encode(out);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == NUL)?;
        Some((parse(&bytes[..end])?, parse(&bytes[end + 1..])?))
    }
}

impl Prefix<(RepositoryId, ImageName, (Digest, Digest))> for (RepositoryId, ImageName, Digest) {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
        out.push(NUL);
    }
}

impl RowKey for UploadId {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.node().to_be_bytes());
        out.extend(self.random().to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (node, random) = bytes.split_first_chunk::<2>()?;
        Some(Self::new(u16::from_be_bytes(*node), u128::from_be_bytes(random.try_into().ok()?)))
    }
}

/// The name of a setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SettingKey(Cow<'static, str>);

impl SettingKey {
    /// Whether the last stop was orderly. The store's own, as are the next two.
    pub const CLEAN: Self = Self::new("clean");
    /// How often the store was opened.
    pub const EPOCH: Self = Self::new("epoch");
    /// The layout of the tables.
    pub const SCHEMA: Self = Self::new("schema");
    /// The number that the next repository gets.
    pub const NEXT_REPOSITORY_ID: Self = Self::new("next_repository_id");
    /// The number that the next account gets.
    pub const NEXT_ACCOUNT_ID: Self = Self::new("next_account_id");
    /// What tickets are signed with.
    pub const TICKET_KEY: Self = Self::new("ticket_key");

    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RowKey for SettingKey {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.0.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let name = str::from_utf8(bytes).ok()?;
        Some(Self(Cow::Owned(name.to_owned())))
    }
}

fn encode_image(repository: RepositoryId, image: &ImageName, out: &mut Vec<u8>) {
    repository.encode(out);
    out.extend(image.as_str().as_bytes());
    out.push(NUL);
}

fn parse<T: FromStr>(bytes: &[u8]) -> Option<T> {
    str::from_utf8(bytes).ok()?.parse().ok()
}
