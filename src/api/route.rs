//! Owns the way from method and path to an action. Pure.
//! Must not know: what there is, and how an action is performed.

use http::Method;

use super::error::ApiError;
use crate::names::RepositoryName;
use crate::reply::Note;

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    ListRepositories,
    CreateRepository,
    ShowRepository(RepositoryName),
    ChangeRepository(RepositoryName),
    DeleteRepository { name: RepositoryName, purge: bool },
    ListCached { repository: Option<RepositoryName> },
    Purge,
    Status,
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
            Self::ListCached { repository } => ("api.cached", repository.as_ref()),
            Self::Purge => ("api.purge", None),
            Self::Status => ("api.status", None),
        };
        Note { repository: repository.cloned(), ..Note::of(action) }
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
        ["api", "cached"] => {
            only(method, &Method::GET)?;
            query.allow(&["repository"])?;
            let parse = |text: String| {
                text.parse().map_err(|error| ApiError::field("repository", format!("{error}")))
            };
            Ok(Action::ListCached { repository: query.value("repository").map(parse).transpose()? })
        }
        ["api", "purge"] => {
            only(method, &Method::POST)?;
            query.allow(&[])?;
            Ok(Action::Purge)
        }
        ["api", "status"] => {
            only(method, &Method::GET)?;
            query.allow(&[])?;
            Ok(Action::Status)
        }
        _ => Err(ApiError::not_found("the management API has no such path").with_hint(
            "there are /api/repository, /api/repository/NAME, /api/cached, /api/purge and /api/status",
        )),
    }
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

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.value(name).as_deref() {
            Some("true") => Ok(true),
            None | Some("false") => Ok(false),
            Some(_) => Err(ApiError::field(name, "expected true or false")),
        }
    }
}
