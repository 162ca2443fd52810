//! Owns the way from method and path to an action. Pure.
//! Must not know: what there is, and how an action is performed.

use std::fmt::Display;
use std::str::FromStr;

use http::Method;

use super::error::ApiError;
use crate::names::{AccountName, ImageName, ImagePattern, Reference, RepositoryName};
use crate::reply::Note;

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    ListRepositories,
    CreateRepository,
    ShowRepository(RepositoryName),
    ChangeRepository(RepositoryName),
    DeleteRepository {
        name: RepositoryName,
        purge: bool,
    },
    ListImages {
        repository: Option<RepositoryName>,
    },
    ShowImage {
        repository: RepositoryName,
        image: ImageName,
    },
    /// Without a reference: all of it.
    RemoveImage {
        repository: RepositoryName,
        image: ImageName,
        reference: Option<Reference>,
    },
    Purge,
    Backup,
    Collect {
        dry_run: bool,
    },
    Scrub,
    StartScrub {
        rate: Option<String>,
    },
    StopScrub,
    Status,
    ListUsers,
    CreateUser,
    ShowUser(AccountName),
    ChangeUser(AccountName),
    RemoveUser(AccountName),
    ListTokens {
        user: Option<AccountName>,
    },
    CreateToken,
    RevokeToken(String),
    ListGrants {
        user: Option<AccountName>,
        repository: Option<RepositoryName>,
    },
    Grant,
    /// Without a repository: what was granted in all of them.
    TakeBack {
        user: AccountName,
        repository: Option<RepositoryName>,
        images: Option<ImagePattern>,
    },
}

impl Action {
    /// For log and metrics.
    pub fn note(&self) -> Note {
        let (action, repository) = match self {
            Self::ListRepositories => ("api.repository.list", None),
            Self::CreateRepository => ("api.repository.create", None),
            Self::ShowRepository(name) => ("api.repository.show", Some(name)),
            Self::ChangeRepository(name) => ("api.repository.change", Some(name)),
            Self::DeleteRepository { name, .. } => ("api.repository.delete", Some(name)),
            Self::ListImages { repository } => ("api.image.list", repository.as_ref()),
            Self::ShowImage { repository, .. } => ("api.image.show", Some(repository)),
            Self::RemoveImage { repository, .. } => ("api.image.remove", Some(repository)),
            Self::Purge => ("api.purge", None),
            Self::Backup => ("api.backup", None),
            Self::Collect { .. } => ("api.gc", None),
            Self::Scrub => ("api.scrub.show", None),
            Self::StartScrub { .. } => ("api.scrub.start", None),
            Self::StopScrub => ("api.scrub.stop", None),
            Self::Status => ("api.status", None),
            Self::ListUsers => ("api.user.list", None),
            Self::CreateUser => ("api.user.create", None),
            Self::ShowUser(_) => ("api.user.show", None),
            Self::ChangeUser(_) => ("api.user.change", None),
            Self::RemoveUser(_) => ("api.user.remove", None),
            Self::ListTokens { .. } => ("api.token.list", None),
            Self::CreateToken => ("api.token.create", None),
            Self::RevokeToken(_) => ("api.token.revoke", None),
            Self::ListGrants { repository, .. } => ("api.grant.list", repository.as_ref()),
            Self::Grant => ("api.grant.add", None),
            Self::TakeBack { repository, .. } => ("api.grant.remove", repository.as_ref()),
        };
        let note = Note::of(action);
        match repository {
            Some(repository) => note.on(repository.clone()),
            None => note,
        }
    }
}

pub(super) fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Action, ApiError> {
    let segments: Vec<&str> = path.trim_end_matches('/').split('/').skip(1).collect();
    let query = Query(query.unwrap_or_default());
    match segments.as_slice() {
        ["api", "repository"] => {
            query.allow(&[])?;
            match *method {
                Method::GET => Ok(Action::ListRepositories),
                Method::POST => Ok(Action::CreateRepository),
                _ => Err(ApiError::method("GET, POST")),
            }
        }
        ["api", "repository", name] => {
            let Ok(name) = name.parse() else {
                return Err(ApiError::not_found(format!("there is no repository `{name}`")));
            };
            query.allow(if *method == Method::DELETE { &["purge"] } else { &[] })?;
            match *method {
                Method::GET => Ok(Action::ShowRepository(name)),
                Method::PUT => Ok(Action::ChangeRepository(name)),
                Method::DELETE => Ok(Action::DeleteRepository { name, purge: query.flag("purge")? }),
                _ => Err(ApiError::method("GET, PUT, DELETE")),
            }
        }
        ["api", "images", below @ ..] => images(method, below, &query),
        ["api", "purge"] => {
            only(method, &Method::POST)?;
            query.allow(&[])?;
            Ok(Action::Purge)
        }
        ["api", "backup"] => {
            only(method, &Method::POST)?;
            query.allow(&[])?;
            Ok(Action::Backup)
        }
        ["api", "gc"] => {
            only(method, &Method::POST)?;
            query.allow(&["dry_run"])?;
            Ok(Action::Collect { dry_run: query.flag("dry_run")? })
        }
        ["api", "scrub"] => {
            query.allow(if *method == Method::POST { &["rate"] } else { &[] })?;
            match *method {
                Method::GET => Ok(Action::Scrub),
                Method::POST => Ok(Action::StartScrub { rate: query.value("rate") }),
                Method::DELETE => Ok(Action::StopScrub),
                _ => Err(ApiError::method("GET, POST, DELETE")),
            }
        }
        ["api", "status"] => {
            only(method, &Method::GET)?;
            query.allow(&[])?;
            Ok(Action::Status)
        }
        ["api", "users" | "tokens" | "grants", ..] => people(method, &segments[1..], &query),
        _ => Err(nowhere()),
    }
}

/// `images`, or `images/<repository>/<image>`.
fn images(method: &Method, below: &[&str], query: &Query<'_>) -> Result<Action, ApiError> {
    let Some((repository, image)) = below.split_first() else {
        only(method, &Method::GET)?;
        query.allow(&["repository"])?;
        return Ok(Action::ListImages { repository: query.parsed("repository")? });
    };
    let image = image.join("/");
    let (Ok(repository), Ok(image)) = (repository.parse(), image.parse()) else {
        return Err(ApiError::not_found(format!("there is no image `{repository}/{image}`"))
            .with_hint("write /api/images/REPOSITORY/IMAGE"));
    };
    query.allow(if *method == Method::DELETE { &["tag", "digest"] } else { &[] })?;
    match *method {
        Method::GET => Ok(Action::ShowImage { repository, image }),
        Method::DELETE => {
            let tag = query.parsed("tag")?.map(Reference::Tag);
            let digest = query.parsed("digest")?.map(Reference::Digest);
            if tag.is_some() && digest.is_some() {
                return Err(ApiError::field("digest", "say either a tag or a digest"));
            }
            Ok(Action::RemoveImage { repository, image, reference: tag.or(digest) })
        }
        _ => Err(ApiError::method("GET, DELETE")),
    }
}

/// What concerns users, their tokens and what was granted to them.
fn people(method: &Method, segments: &[&str], query: &Query<'_>) -> Result<Action, ApiError> {
    match segments {
        ["users"] => {
            query.allow(&[])?;
            match *method {
                Method::GET => Ok(Action::ListUsers),
                Method::POST => Ok(Action::CreateUser),
                _ => Err(ApiError::method("GET, POST")),
            }
        }
        ["users", name] => {
            let Ok(name) = name.parse() else {
                return Err(ApiError::not_found(format!("there is no user {name}")));
            };
            query.allow(&[])?;
            match *method {
                Method::GET => Ok(Action::ShowUser(name)),
                Method::PUT => Ok(Action::ChangeUser(name)),
                Method::DELETE => Ok(Action::RemoveUser(name)),
                _ => Err(ApiError::method("GET, PUT, DELETE")),
            }
        }
        ["tokens"] => {
            query.allow(if *method == Method::GET { &["user"] } else { &[] })?;
            match *method {
                Method::GET => Ok(Action::ListTokens { user: query.parsed("user")? }),
                Method::POST => Ok(Action::CreateToken),
                _ => Err(ApiError::method("GET, POST")),
            }
        }
        ["tokens", id] => {
            only(method, &Method::DELETE)?;
            query.allow(&[])?;
            Ok(Action::RevokeToken((*id).to_owned()))
        }
        ["grants"] => grants(method, query),
        _ => Err(nowhere()),
    }
}

fn grants(method: &Method, query: &Query<'_>) -> Result<Action, ApiError> {
    match *method {
        Method::GET => {
            query.allow(&["user", "repository"])?;
            let (user, repository) = (query.parsed("user")?, query.parsed("repository")?);
            Ok(Action::ListGrants { user, repository })
        }
        Method::POST => {
            query.allow(&[])?;
            Ok(Action::Grant)
        }
        Method::DELETE => {
            query.allow(&["user", "repository", "images"])?;
            let missing = |field| ApiError::field(field, "is missing from the query");
            let user = query.parsed("user")?.ok_or_else(|| missing("user"))?;
            let repository = match query.value("repository").as_deref() {
                None => return Err(missing("repository")),
                Some("*") => None,
                Some(_) => query.parsed("repository")?,
            };
            Ok(Action::TakeBack { user, repository, images: query.parsed("images")? })
        }
        _ => Err(ApiError::method("GET, POST, DELETE")),
    }
}

fn nowhere() -> ApiError {
    ApiError::not_found("the management API has no such path").with_hint(
        "there are /api/repository, /api/repository/NAME, /api/images, /api/images/REPOSITORY/IMAGE, /api/purge, /api/gc, /api/scrub, /api/users, /api/users/NAME, \
         /api/tokens, /api/tokens/ID, /api/grants, /api/backup and /api/status",
    )
}

fn only(method: &Method, allowed: &Method) -> Result<(), ApiError> {
    if method == allowed { Ok(()) } else { Err(ApiError::method(allowed.as_str())) }
}

struct Query<'a>(&'a str);

impl Query<'_> {
    /// A misspelt `purge` must not be taken for its absence.
    fn allow(&self, known: &[&str]) -> Result<(), ApiError> {
        let mut pairs = url::form_urlencoded::parse(self.0.as_bytes());
        match pairs.find(|(key, _)| !known.contains(&key.as_ref())) {
            Some((key, _)) => Err(ApiError::field(&key, "unknown parameter of the query")),
            None => Ok(()),
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.0.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let parse = |text: String| text.parse().map_err(|error| ApiError::field(name, format!("{error}")));
        self.value(name).map(parse).transpose()
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.value(name).as_deref() {
            Some("true") => Ok(true),
            None | Some("false") => Ok(false),
            Some(_) => Err(ApiError::field(name, "expected true or false")),
        }
    }
}
