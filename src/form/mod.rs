//! Owns the one way from what people write about a repository (JSON body, `[[repository]]` entry, flags
//! sent as JSON) to a `RepositorySpec`, and back to what is shown of it. It stands above `engine` and
//! beside neither `api` nor `config`, so that both can use it.
//! Must not know: HTTP, files, how a specification is stored.

mod json;
mod shown;
mod words;

pub use shown::Shown;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::engine::{LocalSpec, RemoteSpec, Repository, RepositorySpec, Secret};
use crate::names::RepositoryName;
use crate::text::{ByteSize, Given, Host, Parse, Text, WebUrl};
use words::{PackageType, RepoType, Username};

/// Longest list of hosts or mirrors.
const MAX_LIST: usize = 64;

/// A repository as somebody writes it. Left out: the default when it is made, no change when it is
/// changed. `null`: back to the default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object with the fields of a repository")]
pub struct RepositoryForm {
    name: Given<Text<RepositoryName>>,
    repo_type: Given<Text<RepoType>>,
    package_type: Given<Text<PackageType>>,
    remote_url: Given<Text<WebUrl>>,
    username: Given<Text<Username>>,
    password: Given<Text<Secret>>,
    password_file: Given<Text<PathBuf>>,
    password_env: Given<Text<String>>,
    ca_file: Given<Text<PathBuf>>,
    tag_ttl: Given<Text<Duration>>,
    negative_ttl: Given<Text<Duration>>,
    stale_if_error: Given<Text<Duration>>,
    max_size: Given<Text<ByteSize>>,
    upstream_namespace: Given<Text<Host>>,
    default_mirror: Given<bool>,
    anonymous_pull: Given<bool>,
    allowed_hosts: Given<Vec<Text<Host>>>,
    mirrors: Given<Vec<Text<WebUrl>>>,
    immutable_tags: Given<bool>,
    sparse_manifests: Given<bool>,
}

/// Every field, for the word that a misspelt one was meant to be.
pub const FIELDS: [&str; 20] = [
    "name",
    "repo_type",
    "package_type",
    "remote_url",
    "username",
    "password",
    "password_file",
    "password_env",
    "ca_file",
    "tag_ttl",
    "negative_ttl",
    "stale_if_error",
    "max_size",
    "upstream_namespace",
    "default_mirror",
    "anonymous_pull",
    "allowed_hosts",
    "mirrors",
    "immutable_tags",
    "sparse_manifests",
];

/// What is wrong with a form. Never holds a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FormError {
    /// `None` where the whole is wrong: not JSON, not an object.
    pub field: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

impl FormError {
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), message: message.into(), hint: None }
    }

    pub fn whole(message: impl Into<String>) -> Self {
        Self { field: None, message: message.into(), hint: None }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl RepositoryForm {
    /// The name, where one is given.
    pub fn name(&self) -> Option<&RepositoryName> {
        match &self.name {
            Given::Set(Text(name)) => Some(name),
            Given::Absent | Given::Reset => None,
        }
    }

    /// Replaces `password_env` by the password that the variable holds.
    pub fn resolve_env(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, FormError> {
        let Given::Set(Text(name)) = std::mem::take(&mut self.password_env) else {
            return Ok(self);
        };
        if self.password.is_set() {
            return Err(FormError::new("password_env", "give password or password_env, not both"));
        }
        let missing = || {
            FormError::new("password_env", format!("the environment has no `{name}`"))
                .with_hint(format!("set {name}, or use password_file"))
        };
        let password = variable(&name).filter(|text| !text.is_empty()).ok_or_else(missing)?;
        self.password = Given::Set(Text(Secret::new(password)));
        Ok(self)
    }

    /// A new repository.
    pub fn create(self) -> Result<(RepositoryName, RepositorySpec), FormError> {
        let Some(name) = self.name().cloned() else {
            return Err(FormError::new("name", format!("is missing: expected {}", RepositoryName::EXPECTED)));
        };
        let Given::Set(Text(repo_type)) = self.repo_type else {
            return Err(FormError::new("repo_type", format!("is missing: expected {}", RepoType::EXPECTED)));
        };
        self.check_package_type(repo_type)?;
        let spec = match repo_type {
            RepoType::Local => self.local(LocalSpec::default())?,
            RepoType::Remote => {
                let Given::Set(Text(WebUrl(url))) = self.remote_url.clone() else {
                    return Err(FormError::new(
                        "remote_url",
                        format!("is missing: expected {}", WebUrl::EXPECTED),
                    ));
                };
                self.remote(RemoteSpec::new(url))?
            }
        };
        Ok((name, spec))
    }

    /// `current` with the fields that this form names changed. Another `remote_url` drops the stored
    /// credentials unless the form gives them again: they belong to the registry they were made for.
    pub fn change(self, current: &Repository) -> Result<RepositorySpec, FormError> {
        if self.name().is_some_and(|name| *name != current.name) {
            return Err(FormError::new(
                "name",
                format!("a repository cannot be renamed: this is {}", current.name),
            ));
        }
        let repo_type = RepoType::of(&current.spec());
        if matches!(self.repo_type, Given::Set(Text(given)) if given != repo_type) {
            let why = format!("cannot be changed: {} is {}", current.name, repo_type.as_str());
            return Err(FormError::new("repo_type", why).with_hint("make another repository"));
        }
        self.check_package_type(repo_type)?;
        match current.spec() {
            RepositorySpec::Local(spec) => self.local(spec),
            RepositorySpec::Remote(mut spec) => {
                match &self.remote_url {
                    Given::Set(Text(WebUrl(url))) if *url != spec.remote_url => {
                        spec.remote_url = url.clone();
                        spec.username = None;
                        spec.password = None;
                        spec.password_file = None;
                    }
                    Given::Reset => return Err(FormError::new("remote_url", "a remote needs one")),
                    Given::Set(_) | Given::Absent => {}
                }
                self.remote(*spec)
            }
        }
    }

    /// `remote` is an older spelling of `docker`, for remotes.
    fn check_package_type(&self, repo_type: RepoType) -> Result<(), FormError> {
        match (&self.package_type, repo_type) {
            (Given::Set(Text(PackageType::Remote)), RepoType::Local) => {
                Err(FormError::new("package_type", "`remote` is no package type: expected \"docker\""))
            }
            _ => Ok(()),
        }
    }

    /// `spec` with the fields that this form names.
    fn local(self, mut spec: LocalSpec) -> Result<RepositorySpec, FormError> {
        let remote_only = [
            ("remote_url", self.remote_url.is_set()),
            ("username", self.username.is_set()),
            ("password", self.password.is_set()),
            ("password_file", self.password_file.is_set()),
            ("password_env", self.password_env.is_set()),
            ("ca_file", self.ca_file.is_set()),
            ("tag_ttl", self.tag_ttl.is_set()),
            ("negative_ttl", self.negative_ttl.is_set()),
            ("stale_if_error", self.stale_if_error.is_set()),
            ("max_size", self.max_size.is_set()),
            ("upstream_namespace", self.upstream_namespace.is_set()),
            ("default_mirror", self.default_mirror.is_set()),
            ("allowed_hosts", self.allowed_hosts.is_set()),
            ("mirrors", self.mirrors.is_set()),
        ];
        if let Some((field, _)) = remote_only.into_iter().find(|(_, given)| *given) {
            return Err(FormError::new(field, "is a remote's field; this repository is local"));
        }
        set(&mut spec.anonymous_pull, self.anonymous_pull, false, |flag| flag);
        set(&mut spec.immutable_tags, self.immutable_tags, false, |flag| flag);
        set(&mut spec.sparse_manifests, self.sparse_manifests, false, |flag| flag);
        Ok(RepositorySpec::Local(spec))
    }

    /// `spec` with the fields that this form names.
    fn remote(self, mut spec: RemoteSpec) -> Result<RepositorySpec, FormError> {
        let local_only = [
            ("immutable_tags", self.immutable_tags.is_set(), "the tags of a remote are its upstream's"),
            ("sparse_manifests", self.sparse_manifests.is_set(), "a remote has what its upstream has"),
        ];
        if let Some((field, _, why)) = local_only.into_iter().find(|(_, given, _)| *given) {
            return Err(FormError::new(field, format!("is a local repository's field; {why}")));
        }
        if self.password_env.is_set() {
            let why =
                "only an entry of the configuration file may name a variable of the server's environment";
            return Err(
                FormError::new("password_env", why).with_hint("send password, or name a password_file")
            );
        }
        // A new place for the password takes the old one's place.
        if self.password.is_set() && self.password_file.is_absent() {
            spec.password_file = None;
        }
        if self.password_file.is_set() && self.password.is_absent() {
            spec.password = None;
        }
        set_option(&mut spec.username, self.username, |Text(Username(name))| name);
        set_option(&mut spec.password, self.password, |Text(secret)| secret);
        set_option(&mut spec.password_file, self.password_file, |Text(path)| path);
        set_option(&mut spec.ca_file, self.ca_file, |Text(path)| path);
        set_option(&mut spec.max_size, self.max_size, |Text(ByteSize(bytes))| bytes);
        set_option(&mut spec.upstream_namespace, self.upstream_namespace, |Text(Host(host))| host);
        set(&mut spec.tag_ttl, self.tag_ttl, RemoteSpec::TAG_TTL, |Text(span)| span);
        set(&mut spec.negative_ttl, self.negative_ttl, RemoteSpec::NEGATIVE_TTL, |Text(span)| span);
        set(&mut spec.stale_if_error, self.stale_if_error, RemoteSpec::STALE_IF_ERROR, |Text(span)| span);
        set(&mut spec.default_mirror, self.default_mirror, false, |flag| flag);
        set(&mut spec.anonymous_pull, self.anonymous_pull, false, |flag| flag);
        let hosts = |hosts: Vec<Text<Host>>| hosts.into_iter().map(|Text(Host(host))| host).collect();
        set(&mut spec.allowed_hosts, self.allowed_hosts, Vec::new(), hosts);
        let urls = |urls: Vec<Text<WebUrl>>| urls.into_iter().map(|Text(WebUrl(url))| url).collect();
        set(&mut spec.mirrors, self.mirrors, Vec::new(), urls);
        check(&spec)?;
        Ok(RepositorySpec::Remote(Box::new(spec)))
    }
}

fn set<T, U>(place: &mut U, given: Given<T>, default: U, unwrap: impl FnOnce(T) -> U) {
    match given {
        Given::Absent => {}
        Given::Reset => *place = default,
        Given::Set(value) => *place = unwrap(value),
    }
}

fn set_option<T, U>(place: &mut Option<U>, given: Given<T>, unwrap: impl FnOnce(T) -> U) {
    set(place, given, None, |value| Some(unwrap(value)));
}

/// What no single field shows.
fn check(spec: &RemoteSpec) -> Result<(), FormError> {
    let has_password = spec.password.is_some() || spec.password_file.is_some();
    if spec.password.is_some() && spec.password_file.is_some() {
        return Err(FormError::new("password_file", "give password or password_file, not both"));
    }
    if has_password && spec.username.is_none() {
        return Err(FormError::new("username", "is missing: the password needs a user name")
            .with_hint("a registry that takes a bare token ignores the name; write any"));
    }
    if spec.username.is_some() && !has_password {
        return Err(FormError::new("password", "is missing: the user name needs a password")
            .with_hint("password_file names a file that the server reads"));
    }
    for (field, length) in [("allowed_hosts", spec.allowed_hosts.len()), ("mirrors", spec.mirrors.len())] {
        if length > MAX_LIST {
            return Err(FormError::new(
                field,
                format!("has {length} entries; at most {MAX_LIST} are allowed"),
            ));
        }
    }
    if let Some(twice) = spec.mirrors.iter().find(|mirror| **mirror == spec.remote_url) {
        return Err(FormError::new("mirrors", format!("{twice} is the remote_url itself")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
