//! Owns what a repository is while the server runs: its name, kind and policy.
//! Must not know: how it is stored, how it is addressed over HTTP.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use url::Url;

use crate::clock::{Millis, UnixMillis};
use crate::names::{ImageName, RepositoryId, RepositoryName};
use crate::upstream::Upstream;

/// A managed repository.
#[derive(Debug)]
pub struct Repository {
    pub id: RepositoryId,
    pub name: RepositoryName,
    pub kind: RepositoryKind,
    pub created: UnixMillis,
}

#[derive(Debug)]
pub enum RepositoryKind {
    Local(LocalSpec),
    Remote(Box<Remote>),
}

/// A pull-through cache of one upstream registry.
#[derive(Debug)]
pub struct Remote {
    pub spec: RemoteSpec,
    /// `remote_url`, then the mirrors.
    origins: Vec<Upstream>,
    /// When the upstream last failed to answer well; 0: it answers.
    failed_at: AtomicU64,
}

/// Hosts under which Docker Hub is known.
const DOCKER_HUB: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "docker.io"];

/// After a failure an upstream counts as failing for this long, unless it answers before.
const FAILING: Duration = Duration::from_secs(30);

impl Remote {
    pub fn new(spec: RemoteSpec, origins: Vec<Upstream>) -> Self {
        Self { spec, origins, failed_at: AtomicU64::new(0) }
    }
}

impl Repository {
    pub fn remote(&self) -> Option<&Remote> {
        match &self.kind {
            RepositoryKind::Remote(remote) => Some(remote),
            RepositoryKind::Local(_) => None,
        }
    }

    /// A local repository by the same name in which nothing ever was: what is looked for in it is answered as what
    /// is not there.
    pub fn emptied(&self) -> Option<Self> {
        let kind = RepositoryKind::Local(self.local()?.clone());
        Some(Self { id: RepositoryId::NONE, name: self.name.clone(), kind, created: self.created })
    }

    /// The policy of a local repository.
    pub fn local(&self) -> Option<&LocalSpec> {
        match &self.kind {
            RepositoryKind::Local(spec) => Some(spec),
            RepositoryKind::Remote(_) => None,
        }
    }

    /// The one name that an image has here: what Docker Hub calls `redis` is `library/redis`. To be asked before
    /// any key, link or tag is made of a name.
    pub fn canonical(&self, image: ImageName) -> ImageName {
        let is_hub = self.remote().is_some_and(|remote| remote.spec.is_docker_hub());
        if is_hub && image.is_single() { image.in_library() } else { image }
    }

    /// The upstreams of a remote, in the order in which they are asked.
    pub fn origins(&self) -> &[Upstream] {
        self.remote().map_or(&[], |remote| &remote.origins)
    }

    pub(super) fn note_health(&self, well: bool, now: Millis) {
        if let Some(remote) = self.remote() {
            remote.failed_at.store(if well { 0 } else { now.0.max(1) }, Ordering::Relaxed);
        }
    }

    pub(super) fn is_failing(&self, now: Millis) -> bool {
        self.remote().is_some_and(|remote| {
            let at = remote.failed_at.load(Ordering::Relaxed);
            at > 0 && now.since(Millis(at)) < FAILING
        })
    }

    pub fn spec(&self) -> RepositorySpec {
        match &self.kind {
            RepositoryKind::Local(spec) => RepositorySpec::Local(spec.clone()),
            RepositoryKind::Remote(remote) => RepositorySpec::Remote(Box::new(remote.spec.clone())),
        }
    }
}

/// What an administrator asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum RepositorySpec {
    Local(LocalSpec),
    Remote(Box<RemoteSpec>),
}

/// The policy of a local repository, the home of what is pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSpec {
    /// Whether it may be read without logging in, where there are users.
    pub anonymous_pull: bool,
    /// A tag that is there is neither moved to another manifest nor removed.
    pub immutable_tags: bool,
    /// A manifest may name what its image does not have: platforms or layers that are kept elsewhere, or come later.
    pub sparse_manifests: bool,
}

/// The policy of a remote repository.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteSpec {
    pub remote_url: Url,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Read at each start and change, instead of a stored password.
    pub password_file: Option<PathBuf>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// How long a tag is answered without asking the upstream.
    pub tag_ttl: Duration,
    /// How long an absence is remembered.
    pub negative_ttl: Duration,
    /// How old a tag may be when the upstream does not answer well.
    pub stale_if_error: Duration,
    /// Bytes of this remote's content that may lie here; `None`: only the whole cache's limit.
    pub max_size: Option<u64>,
    /// The registry that containerd's `?ns=` names: `docker.io`.
    pub upstream_namespace: Option<String>,
    /// Answers `/v2/<image>` without a repository, for dockerd's `registry-mirrors`.
    pub default_mirror: bool,
    /// Whether it may be read without logging in, even with stored credentials.
    pub anonymous_pull: bool,
    /// Hosts of token servers and CDNs that may be visited besides the upstream's own.
    pub allowed_hosts: Vec<String>,
    /// Other registries with the same content, asked in this order when `remote_url` fails.
    pub mirrors: Vec<Url>,
}

impl RemoteSpec {
    pub const TAG_TTL: Duration = Duration::from_secs(60);
    pub const NEGATIVE_TTL: Duration = Duration::from_secs(10);
    pub const STALE_IF_ERROR: Duration = Duration::from_secs(7 * 24 * 3600);
    /// What containerd and dockerd call Docker Hub.
    pub const DOCKER_HUB_NAMESPACE: &str = "docker.io";

    /// A remote with the defaults.
    pub fn new(remote_url: Url) -> Self {
        Self {
            remote_url,
            username: None,
            password: None,
            password_file: None,
            ca_file: None,
            tag_ttl: Self::TAG_TTL,
            negative_ttl: Self::NEGATIVE_TTL,
            stale_if_error: Self::STALE_IF_ERROR,
            max_size: None,
            upstream_namespace: None,
            default_mirror: false,
            anonymous_pull: false,
            allowed_hosts: Vec::new(),
            mirrors: Vec::new(),
        }
    }

    /// Docker Hub itself, or a mirror that stands for it.
    fn is_docker_hub(&self) -> bool {
        self.remote_url.host_str().is_some_and(|host| DOCKER_HUB.contains(&host))
            || self.upstream_namespace.as_deref() == Some(Self::DOCKER_HUB_NAMESPACE)
    }
}

/// What a repository has for itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub name: RepositoryName,
    pub upstream_namespace: Option<String>,
    pub default_mirror: bool,
}

impl Taken {
    pub fn of(name: &RepositoryName, spec: &RepositorySpec) -> Self {
        let (upstream_namespace, default_mirror) = match spec {
            RepositorySpec::Remote(spec) => (spec.upstream_namespace.clone(), spec.default_mirror),
            RepositorySpec::Local(_) => (None, false),
        };
        Self { name: name.clone(), upstream_namespace, default_mirror }
    }

    /// The setting that another repository cannot have beside this one.
    pub fn keeps_from(&self, other: &RemoteSpec) -> Option<&'static str> {
        let same = other.upstream_namespace.is_some() && other.upstream_namespace == self.upstream_namespace;
        let namespace = same.then_some("upstream_namespace");
        namespace.or((other.default_mirror && self.default_mirror).then_some("default_mirror"))
    }
}

/// A text that is never printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Each call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_name_of_docker_hub_lies_in_library() {
        let remote = |url: &str, namespace: Option<&str>| {
            let mut spec = RemoteSpec::new(Url::parse(url).expect("a URL"));
            spec.upstream_namespace = namespace.map(str::to_owned);
            RepositoryKind::Remote(Box::new(Remote::new(spec, Vec::new())))
        };
        let canonical = |kind, image: &str| {
            let name = "r".parse().expect("a legal name");
            let repository = Repository { id: RepositoryId(1), name, kind, created: UnixMillis(0) };
            repository.canonical(image.parse().expect("a legal name")).as_str().to_owned()
        };
        for (url, namespace) in [
            ("https://registry-1.docker.io", None),
            ("https://index.docker.io", None),
            ("https://hub-mirror.example", Some("docker.io")),
        ] {
            assert_eq!(canonical(remote(url, namespace), "redis"), "library/redis", "{url}");
            assert_eq!(canonical(remote(url, namespace), "library/redis"), "library/redis", "{url}");
            assert_eq!(canonical(remote(url, namespace), "a/redis"), "a/redis", "{url}");
        }
        assert_eq!(canonical(remote("https://quay.io", Some("quay.io")), "redis"), "redis");
        assert_eq!(canonical(remote("https://notdocker.io", None), "redis"), "redis");
        assert_eq!(canonical(RepositoryKind::Local(LocalSpec::default()), "redis"), "redis");
    }
}
