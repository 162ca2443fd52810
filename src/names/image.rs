//! Owns the names of repositories and images (OCI distribution-spec, "Pulling manifests": `<name>`).
//! Must not know: which of them exist.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The number of a repository. Never used again after a deletion, so that whatever holds it
/// (rows, keys, tokens, cursors) can never show the content of a namesake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryId(pub u64);

impl RepositoryId {
    /// Of no repository.
    pub const NONE: Self = Self(u64::MAX);
}

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {0} characters")]
    Long(usize),
    #[error(
        "each part of an image name is lower-case letters and digits, \
         joined by one dot, one or two underscores, or hyphens"
    )]
    Component,
    #[error(
        "a repository name is a DNS label: lower-case letters, digits and hyphens, \
         no hyphen at either end"
    )]
    Label,
    #[error("this name is reserved: library, v2, repo, api and token mean something else in a path")]
    Reserved,
}

/// The name of a managed repository: one DNS label, since it is also a host name's first part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// Longest legal name, in characters (RFC 1035, labels).
    pub const MAX: usize = 63;
    const RESERVED: [&'static str; 5] = ["library", "v2", "repo", "api", "token"];

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX {
            return Err(NameError::Long(Self::MAX));
        }
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !text.bytes().all(legal) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Label);
        }
        if Self::RESERVED.contains(&text) {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

/// The OCI `<name>` inside a repository: `library/redis`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(Arc<str>);

impl ImageName {
    /// Longest legal name, in characters; clients cap host and name together at 255.
    pub const MAX: usize = 255;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is a single component, as `redis` is.
    pub fn is_single(&self) -> bool {
        !self.0.contains('/')
    }

    /// `library/` and this name: what Docker Hub means by a single component.
    pub fn in_library(&self) -> Self {
        Self(format!("library/{}", self.0).into())
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX {
            return Err(NameError::Long(Self::MAX));
        }
        if is_image(text.as_bytes()) { Ok(Self(text.into())) } else { Err(NameError::Component) }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`, in one go: every request comes this way.
fn is_image(text: &[u8]) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    // What stands before this byte, from the last letter or digit on.
    let mut separator: &[u8] = b"/";
    for (at, byte) in text.iter().enumerate() {
        if is_word(*byte) {
            separator = b"";
            continue;
        }
        let longer = &text[at - separator.len().min(at)..=at];
        separator = match (separator, longer) {
            (b"", b"/" | b"." | b"_" | b"-") | (b"_", b"__") => longer,
            ([b'-', ..], [.., b'-']) => longer,
            _ => return false,
        };
    }
    separator.is_empty()
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Hash and equality are those of the text, so a map by name is asked with a text.
impl Borrow<str> for RepositoryName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_image_names_pass() {
        for name in
            ["redis", "library/redis", "a/b/c", "foo/blobs", "tags/list", "a.b", "a_b", "a__b", "a---b", "0"]
        {
            assert_eq!(name.parse::<ImageName>().map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn illegal_image_names_are_refused() {
        let long = "a".repeat(256);
        for name in
            ["", "A", "a/../b", "a___b", "-a", "a-", "a//b", "/a", "a/", "a..b", "a._b", "é", "a b", &long]
        {
            assert!(name.parse::<ImageName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_repository_name_is_one_dns_label() {
        assert!("docker-remote".parse::<RepositoryName>().is_ok());
        for name in
            ["", "a.b", "a_b", "-a", "a-", "A", "v2", "library", "repo", "api", "token", &"a".repeat(64)]
        {
            assert!(name.parse::<RepositoryName>().is_err(), "{name}");
        }
    }
}
