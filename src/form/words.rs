//! Owns the values that only a repository's form has.
//! Must not know: which field holds them.

use crate::engine::{RepositorySpec, Secret};
use crate::text::Parse;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepoType {
    Local,
    Remote,
}

impl RepoType {
    pub const fn of(spec: &RepositorySpec) -> Self {
        match spec {
            RepositorySpec::Local(_) => Self::Local,
            RepositorySpec::Remote(_) => Self::Remote,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

impl Parse for RepoType {
    const EXPECTED: &'static str = "\"local\" or \"remote\"";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "remote" => Ok(Self::Remote),
            _ => Err(format!("unknown type `{text}`: expected {}", Self::EXPECTED)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackageType {
    Docker,
    Remote,
}

impl Parse for PackageType {
    const EXPECTED: &'static str = "\"docker\"";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "docker" => Ok(Self::Docker),
            "remote" => Ok(Self::Remote),
            _ => Err(format!("unknown package type `{text}`: expected {}", Self::EXPECTED)),
        }
    }
}

/// HTTP Basic has no way to send a colon in a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Username(pub(super) String);

impl Parse for Username {
    const EXPECTED: &'static str = "a user name";

    fn parse(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return Err("must not contain a colon".to_owned());
        }
        String::parse(text).map(Self)
    }
}

impl Parse for Secret {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty; leave it out where there is none".to_owned());
        }
        Ok(Self::new(text))
    }
}
