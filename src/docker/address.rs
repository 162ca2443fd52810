//! Owns the five ways to address a repository: path, host, image name, `?ns=`, default mirror. The first that
//! matches wins. Must not know: methods, what is asked of the image, whether the caller may have it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::wire::{Code, WireError};
use crate::engine::{Repository, Scope};
use crate::names::ImageName;

/// `api.<base>` is the management host, never a repository's.
const API_LABEL: &str = "api";

/// The table of repositories, as far as addresses need it.
pub trait Directory {
    fn by_name(&self, name: &str) -> Option<Arc<Repository>>;
    fn by_namespace(&self, namespace: &str) -> Option<Arc<Repository>>;
    fn default_mirror(&self) -> Option<Arc<Repository>>;
    fn list(&self) -> Vec<Arc<Repository>>;
}

/// The host names under which this server is known.
#[derive(Clone, Debug)]
pub struct Site {
    /// `<repository>.<base>` is the host of a repository. In lower case.
    pub base_domains: Vec<String>,
    /// The host of the public URL: never a repository's, whatever it looks like.
    pub public_host: Option<String>,
}

impl Default for Site {
    fn default() -> Self {
        let base_domains = ["binaryrepo.local", "localhost"].map(str::to_owned).to_vec();
        Self { base_domains, public_host: None }
    }
}

impl Site {
    /// The first label of a repository's host, in lower case. Whether that repository exists is another matter.
    pub fn repository_label(&self, host: &str) -> Option<String> {
        let host = bare_host(host);
        let label = self.base_domains.iter().find_map(|base| {
            let label = host.strip_suffix(base.as_str())?.strip_suffix('.')?;
            (!label.is_empty() && !label.contains('.') && label != API_LABEL).then_some(label)
        })?;
        let is_ours = self.public_host.as_deref() == Some(&host) || host.parse::<IpAddr>().is_ok();
        (!is_ours).then(|| label.to_owned())
    }
}

/// A host without port and final dot, in lower case; an IPv6 address without its brackets.
pub fn bare_host(host: &str) -> Cow<'_, str> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => &host[..host.bytes().position(|byte| byte == b':').unwrap_or(host.len())],
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub struct Entrance<'a> {
    pub site: &'a Site,
    pub host: &'a str,
    /// From the path `/repo/<repository>/…`.
    pub path_repository: Option<&'a str>,
    /// `X-Forwarded-Prefix` of a trusted proxy, without a slash at its end; may be empty.
    pub prefix: Option<&'a str>,
    /// `?ns=`
    pub namespace: Option<&'a str>,
}

/// Which image of which repository is meant, and how the client spells it.
#[derive(Clone, Debug)]
pub struct Address<'a> {
    /// With the canonical name: `redis` and `library/redis` of Docker Hub are one image.
    pub scope: Scope,
    /// The name as the client reads it.
    pub spelling: &'a str,
    /// What stands before `/v2/` for the client.
    pub front: String,
    /// The namespace, where it chose the repository.
    pub namespace: Option<&'a str>,
}

impl Address<'_> {
    /// The path of the image in the form in which the request came, for `Location` and `Link`.
    pub fn base(&self) -> String {
        [&*self.front, "/v2/", self.spelling].concat()
    }
}

impl<'a> Entrance<'a> {
    /// Finds the image that `name` means, as it stands in the path.
    pub fn resolve(&self, directory: &impl Directory, name: &'a str) -> Result<Address<'a>, WireError> {
        if let Some(found) = self.repository(directory)? {
            self.check_namespace(directory, &found)?;
            return self.address(found, name, name, None);
        }
        if let Some((first, image)) = name.split_once('/')
            && let Some(found) = directory.by_name(first)
        {
            self.check_namespace(directory, &found)?;
            return self.address(found, name, image, None);
        }
        // A client that names this very host says nothing by it.
        if let Some(namespace) = self.namespace.filter(|namespace| !namespace.eq_ignore_ascii_case(self.host))
        {
            let found =
                directory.by_namespace(namespace).ok_or_else(|| unknown_namespace(directory, namespace))?;
            return self.address(found, name, name, Some(namespace));
        }
        let found = directory.default_mirror().ok_or_else(|| no_repository_named(directory, name))?;
        self.address(found, name, name, None)
    }

    /// The repository that path or host name, whatever the image.
    pub fn repository(&self, directory: &impl Directory) -> Result<Option<Arc<Repository>>, WireError> {
        let label = self.site.repository_label(self.host);
        let Some(wanted) = self.path_repository.or(label.as_deref()) else { return Ok(None) };
        directory.by_name(wanted).map(Some).ok_or_else(|| unknown_repository(directory, wanted))
    }

    /// Where the address names a repository already, a namespace may not name another.
    fn check_namespace(&self, directory: &impl Directory, found: &Repository) -> Result<(), WireError> {
        let named = self.namespace.and_then(|namespace| directory.by_namespace(namespace));
        match named {
            Some(other) if other.id != found.id => {
                // Without the other's name: the caller may not be one who may know it.
                let message = format!("ns names another registry than the one that {} caches", found.name);
                Err(WireError::new(Code::NameUnknown, message))
            }
            _ => Ok(()),
        }
    }

    fn address(
        &self,
        repository: Arc<Repository>,
        spelling: &'a str,
        image: &str,
        namespace: Option<&'a str>,
    ) -> Result<Address<'a>, WireError> {
        let image: ImageName =
            image.parse().map_err(|error| WireError::new(Code::NameInvalid, format!("{error}")))?;
        let image = repository.canonical(image);
        Ok(Address { scope: Scope { repository, image }, spelling, front: self.front(), namespace })
    }

    /// What stands before `/v2/` for the client.
    pub fn front(&self) -> String {
        self.prefix.map_or_else(|| self.path(), str::to_owned)
    }

    /// What stands before `/v2/` for this server.
    pub fn path(&self) -> String {
        self.path_repository.map_or_else(String::new, |repository| format!("/repo/{repository}"))
    }
}

pub fn unknown_repository(directory: &impl Directory, wanted: &str) -> WireError {
    let message = format!("there is no repository {wanted:?}; {}", those_there_are(directory));
    WireError::new(Code::NameUnknown, message)
}

fn unknown_namespace(directory: &impl Directory, namespace: &str) -> WireError {
    let message = format!(
        "no repository here caches {namespace:?} (its upstream_namespace would say so); {}",
        those_there_are(directory)
    );
    WireError::new(Code::NameUnknown, message)
}

fn no_repository_named(directory: &impl Directory, name: &str) -> WireError {
    let message = format!(
        "{name:?} names no repository, and none is the default mirror; {}",
        those_there_are(directory)
    );
    WireError::new(Code::NameUnknown, message)
}

fn those_there_are(directory: &impl Directory) -> String {
    let names: Vec<String> = directory.list().iter().map(|found| found.name.to_string()).collect();
    if names.is_empty() { "there are none".to_owned() } else { format!("there are: {}", names.join(", ")) }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::docker::route::{Action, Target, route};
    use crate::engine::{LocalSpec, Remote, RemoteSpec, RepositoryKind, Want};
    use crate::names::{Reference, RepositoryId};

    /// Repositories in a list.
    pub struct Table(pub Vec<Arc<Repository>>);

    impl Directory for Table {
        fn by_name(&self, name: &str) -> Option<Arc<Repository>> {
            self.0.iter().find(|found| found.name.as_str() == name).cloned()
        }
        fn by_namespace(&self, namespace: &str) -> Option<Arc<Repository>> {
            let named = |found: &&Arc<Repository>| {
                found.remote().and_then(|r| r.spec.upstream_namespace.as_deref()) == Some(namespace)
            };
            self.0.iter().find(named).cloned()
        }
        fn default_mirror(&self) -> Option<Arc<Repository>> {
            self.0.iter().find(|found| found.remote().is_some_and(|r| r.spec.default_mirror)).cloned()
        }
        fn list(&self) -> Vec<Arc<Repository>> {
            self.0.clone()
        }
    }

    pub fn repository(id: u64, name: &str, kind: RepositoryKind) -> Arc<Repository> {
        let name = name.parse().expect("a legal name");
        Arc::new(Repository { id: RepositoryId(id), name, kind, created: UnixMillis(0) })
    }

    pub fn remote(id: u64, name: &str, url: &str, change: impl FnOnce(&mut RemoteSpec)) -> Arc<Repository> {
        let mut spec = RemoteSpec::new(url.parse().expect("a URL"));
        change(&mut spec);
        repository(id, name, RepositoryKind::Remote(Box::new(Remote::new(spec, Vec::new()))))
    }

    fn table() -> Table {
        Table(vec![
            remote(1, "docker-remote", "https://registry-1.docker.io", |spec| {
                spec.upstream_namespace = Some("docker.io".into());
                spec.default_mirror = true;
            }),
            remote(2, "quay", "https://quay.io", |spec| spec.upstream_namespace = Some("quay.io".into())),
            repository(3, "docker-local", RepositoryKind::Local(LocalSpec::default())),
        ])
    }

    fn site() -> Site {
        Site { public_host: Some("reg.localhost".into()), ..Site::default() }
    }

    /// The repository, the image, and how the client reads them.
    fn find(host: &str, path: &str, query: Option<&str>) -> Result<(Scope, String, String), WireError> {
        let site = site();
        let route = route(&http::Method::GET, path, query)?;
        let namespace = crate::docker::route::parameter(query, "ns");
        let entrance = Entrance {
            site: &site,
            host,
            path_repository: route.repository,
            prefix: None,
            namespace: namespace.as_deref(),
        };
        match route.target {
            Target::Content { name, .. } => {
                let found = entrance.resolve(&table(), name)?;
                let base = found.base();
                Ok((found.scope, found.spelling.to_owned(), base))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_way_that_matches_wins() {
        // host, path, query -> repository, image, spelling, base
        let cases = [
            ("x:8081", "/repo/quay/v2/a/b/tags/list", None, "quay a/b a/b /repo/quay/v2/a/b"),
            ("docker-remote.localhost", "/repo/quay/v2/a/tags/list", None, "quay a a /repo/quay/v2/a"),
            ("quay.binaryrepo.local:443", "/v2/a/tags/list", None, "quay a a /v2/a"),
            (
                "QUAY.LocalHost.",
                "/v2/docker-remote/a/tags/list",
                None,
                "quay docker-remote/a docker-remote/a /v2/docker-remote/a",
            ),
            ("x", "/v2/quay/a/tags/list", None, "quay a quay/a /v2/quay/a"),
            (
                "x",
                "/v2/docker-remote/redis/tags/list",
                None,
                "docker-remote library/redis docker-remote/redis /v2/docker-remote/redis",
            ),
            (
                "x",
                "/v2/docker-local/redis/tags/list",
                None,
                "docker-local redis docker-local/redis /v2/docker-local/redis",
            ),
            ("x", "/v2/quay/tags/list", None, "docker-remote library/quay quay /v2/quay"),
            ("x", "/v2/redis/tags/list", Some("ns=docker.io"), "docker-remote library/redis redis /v2/redis"),
            ("x", "/v2/a/tags/list", Some("n=1&ns=quay.io"), "quay a a /v2/a"),
            ("x:80", "/v2/a/b/tags/list", Some("ns=x:80"), "docker-remote a/b a/b /v2/a/b"),
            (
                "x",
                "/v2/library/redis/tags/list",
                None,
                "docker-remote library/redis library/redis /v2/library/redis",
            ),
            ("api.localhost", "/v2/a/b/tags/list", None, "docker-remote a/b a/b /v2/a/b"),
            ("reg.localhost", "/v2/a/b/tags/list", None, "docker-remote a/b a/b /v2/a/b"),
            ("quay.localhost", "/v2/a/tags/list", Some("ns=quay.io"), "quay a a /v2/a"),
            ("quay.localhost", "/v2/a/tags/list", Some("ns=elsewhere.test"), "quay a a /v2/a"),
        ];
        for (host, path, query, expected) in cases {
            let (scope, spelling, base) =
                find(host, path, query).unwrap_or_else(|e| panic!("{host} {path}: {e:?}"));
            let line = format!("{} {} {spelling} {base}", scope.repository.name, scope.image);
            assert_eq!(line, expected, "{host} {path} {query:?}");
        }
    }

    #[test]
    fn what_no_way_leads_to_is_unknown_and_says_what_there_is() {
        let cases = [
            ("typo.localhost", "/v2/a/tags/list", None),
            ("x", "/repo/typo/v2/a/tags/list", None),
            ("x", "/v2/a/tags/list", Some("ns=ghcr.io")),
        ];
        for (host, path, query) in cases {
            let error = find(host, path, query).expect_err(path);
            assert_eq!((error.code, error.status.as_u16()), (Code::NameUnknown, 404), "{host} {path}");
            assert!(error.message.contains("docker-remote, quay, docker-local"), "{}", error.message);
        }
        let error = find("quay.localhost", "/v2/a/tags/list", Some("ns=docker.io")).expect_err("another");
        assert_eq!(error.code, Code::NameUnknown);
    }

    #[test]
    fn hosts_are_read_without_port_case_and_final_dot() {
        let cases = [("A.b:80", "a.b"), ("a.b.", "a.b"), ("[::1]:8081", "::1"), ("[::1]", "::1"), ("", "")];
        for (host, expected) in cases {
            assert_eq!(bare_host(host), expected);
        }
        let numbers = Site { base_domains: vec!["0.0.1".into()], public_host: None };
        assert_eq!(numbers.repository_label("127.0.0.1:80"), None);
        assert_eq!(Site::default().repository_label("a.b.localhost"), None);
        assert_eq!(Site::default().repository_label("evillocalhost"), None);
    }

    #[test]
    fn a_trusted_prefix_stands_before_every_link() {
        let site = Site::default();
        let mut entrance = Entrance {
            site: &site,
            host: "x",
            path_repository: Some("quay"),
            prefix: Some(""),
            namespace: None,
        };
        assert_eq!(entrance.front(), "");
        entrance.prefix = Some("/artifacts");
        assert_eq!(entrance.front(), "/artifacts");
    }

    fn component() -> impl Strategy<Value = String> {
        "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}"
    }

    fn image() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            4 => component(),
            1 => prop::sample::select(vec!["blobs", "manifests", "tags", "list", "uploads", "referrers", "v2"])
                .prop_map(str::to_owned),
        ];
        prop::collection::vec(word, 1..5).prop_map(|parts| parts.join("/"))
    }

    fn reference() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,30}",
            "[0-9a-f]{64}".prop_map(|hex| format!("sha256:{hex}")),
            "[0-9a-f]{128}".prop_map(|hex| format!("sha512:{hex}")),
        ]
    }

    proptest! {
        /// However an image is addressed, the same image and reference are meant.
        #[test]
        fn every_form_leads_to_the_same_image(image in image(), reference in reference(), encoded: bool) {
            let text = if encoded { reference.replace(':', "%3A") } else { reference.clone() };
            let forms = [
                ("x", format!("/repo/quay/v2/{image}/manifests/{text}"), None),
                ("quay.localhost:8081", format!("/v2/{image}/manifests/{text}"), None),
                ("x", format!("/v2/quay/{image}/manifests/{text}"), None),
                ("x", format!("/v2/{image}/manifests/{text}"), Some("ns=quay.io")),
            ];
            for (host, path, query) in forms {
                // An image whose own first part is a repository can be meant by the first three forms only.
                if query.is_some() && image.split_once('/').is_some_and(|(first, _)| table().by_name(first).is_some()) {
                    continue;
                }
                let (found, ..) = find(host, &path, query).expect("a legal address");
                prop_assert_eq!(found.repository.name.as_str(), "quay");
                prop_assert_eq!(found.image.as_str(), &image);
                let routed = route(&http::Method::GET, &path, query).expect("a legal path");
                let Target::Content { action: Action::Manifest { reference: read, want: Want::Body }, .. } = routed.target else {
                    return Err(TestCaseError::fail("another action"));
                };
                prop_assert_eq!(read, reference.parse::<Reference>().expect("a legal reference"));
            }
        }
    }
}
