//! Owns media types of manifests: the text without parameters, and which kinds there are.
//! Must not know: what the bodies look like inside.

use std::fmt;
use std::sync::Arc;

/// A media type without parameters, as a manifest was pushed or fetched with. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    pub const DOCKER_LIST: &'static str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &'static str = "application/vnd.docker.distribution.manifest.v2+json";

    /// What to ask an upstream for: all four, lists first, since one digest has one representation.
    pub const ACCEPT: &'static str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

    /// Drops parameters and surrounding space. `None` for what cannot be a header value of this kind.
    pub fn parse(value: &str) -> Option<Self> {
        let bare = value.split(';').next().unwrap_or_default().trim();
        let legal = |byte: u8| byte.is_ascii_graphic();
        let shaped = bare.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
        (shaped && bare.len() <= 255 && bare.bytes().all(legal)).then(|| Self(bare.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A list of manifests, rather than an image.
    pub fn is_index(&self) -> bool {
        matches!(self.as_str(), Self::OCI_INDEX | Self::DOCKER_LIST)
    }

    /// One image, rather than a list.
    pub fn is_image(&self) -> bool {
        matches!(self.as_str(), Self::OCI_MANIFEST | Self::DOCKER_MANIFEST)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_dropped_and_nonsense_is_refused() {
        let parsed = MediaType::parse(" application/json ; charset=utf-8").map(|m| m.to_string());
        assert_eq!(parsed.as_deref(), Some("application/json"));
        for bad in ["", "json", "/json", "a/", "a/b\u{7f}c", "a /b"] {
            assert_eq!(MediaType::parse(bad), None, "{bad}");
        }
    }
}
