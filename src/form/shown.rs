//! Owns what is shown of a repository: the form in which it is stored, without its password.
//! Must not know: who reads it.

use serde::{Serialize, Serializer};

use crate::engine::{LocalSpec, RemoteSpec, Repository, RepositorySpec};
use crate::names::RepositoryName;
use crate::text::{duration_text, url_text};

/// A repository as listings, answers and `check-config` show it.
#[derive(Debug)]
pub struct Shown<'a> {
    name: &'a RepositoryName,
    spec: RepositorySpec,
}

impl<'a> Shown<'a> {
    pub fn new(name: &'a RepositoryName, spec: RepositorySpec) -> Self {
        Self { name, spec }
    }
}

impl<'a> From<&'a Repository> for Shown<'a> {
    fn from(repository: &'a Repository) -> Self {
        Self::new(&repository.name, repository.spec())
    }
}

#[derive(Serialize)]
struct Fields<'a> {
    name: &'a str,
    repo_type: &'static str,
    package_type: &'static str,
    #[serde(flatten)]
    local: Option<LocalFields>,
    #[serde(flatten)]
    remote: Option<RemoteFields<'a>>,
}

#[derive(Serialize)]
struct LocalFields {
    anonymous_pull: bool,
    immutable_tags: bool,
    sparse_manifests: bool,
}

impl From<&LocalSpec> for LocalFields {
    fn from(spec: &LocalSpec) -> Self {
        Self {
            anonymous_pull: spec.anonymous_pull,
            immutable_tags: spec.immutable_tags,
            sparse_manifests: spec.sparse_manifests,
        }
    }
}

#[derive(Serialize)]
struct RemoteFields<'a> {
    remote_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    /// Instead of the password, which is never shown.
    password_set: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    tag_ttl: String,
    negative_ttl: String,
    stale_if_error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_namespace: Option<&'a str>,
    default_mirror: bool,
    anonymous_pull: bool,
    allowed_hosts: &'a [String],
    mirrors: Vec<&'a str>,
}

impl<'a> From<&'a RemoteSpec> for RemoteFields<'a> {
    fn from(spec: &'a RemoteSpec) -> Self {
        Self {
            remote_url: url_text(&spec.remote_url),
            username: spec.username.as_deref(),
            password_set: spec.password.is_some(),
            password_file: spec.password_file.as_ref().map(|path| path.display().to_string()),
            ca_file: spec.ca_file.as_ref().map(|path| path.display().to_string()),
            tag_ttl: duration_text(spec.tag_ttl),
            negative_ttl: duration_text(spec.negative_ttl),
            stale_if_error: duration_text(spec.stale_if_error),
            max_size: spec.max_size,
            upstream_namespace: spec.upstream_namespace.as_deref(),
            default_mirror: spec.default_mirror,
            anonymous_pull: spec.anonymous_pull,
            allowed_hosts: &spec.allowed_hosts,
            mirrors: spec.mirrors.iter().map(url_text).collect(),
        }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (repo_type, local, remote) = match &self.spec {
            RepositorySpec::Local(spec) => ("local", Some(LocalFields::from(spec)), None),
            RepositorySpec::Remote(spec) => ("remote", None, Some(RemoteFields::from(spec.as_ref()))),
        };
        let fields = Fields { name: self.name.as_str(), repo_type, package_type: "docker", local, remote };
        fields.serialize(serializer)
    }
}
