//! Owns who may do what: the one function that every path to bytes asks before anything is looked up.
//! Must not know: where the bytes are, and how the caller is recognised.

use super::Context;
use super::wire::{Code, WireError};
use crate::engine::{Repository, RepositoryKind};
use crate::names::ImageName;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Pull,
    Push,
    Delete,
}

/// Whether this caller may do this with this image. Pushes and deletions are for callers on this machine.
pub fn may(
    context: &Context<'_>,
    repository: &Repository,
    _: &ImageName,
    right: Right,
) -> Result<(), WireError> {
    may_pull(repository, context.direct)?;
    match (right, &repository.kind) {
        (Right::Pull, _) => Ok(()),
        // A cache takes none from anybody, and says so itself.
        (Right::Push | Right::Delete, RepositoryKind::Remote(_)) => Ok(()),
        (Right::Push | Right::Delete, RepositoryKind::Local(_)) if context.direct => Ok(()),
        (Right::Push | Right::Delete, RepositoryKind::Local(_)) => {
            let message = format!("{} takes pushes and deletions from its own machine only", repository.name);
            Err(WireError::new(Code::Denied, message))
        }
    }
}

/// A remote that uses somebody's credentials shows what that account may see. Beyond this machine it is open
/// only where its settings say so.
///
/// Never 401: dockerd answers that by sending its user's Docker Hub password to a mirror.
pub fn may_pull(repository: &Repository, direct: bool) -> Result<(), WireError> {
    let Some(remote) = repository.remote() else {
        return Ok(());
    };
    let spec = &remote.spec;
    let secret = spec.password.is_some() || spec.password_file.is_some();
    if direct || !secret || spec.anonymous_pull {
        return Ok(());
    }
    let message = format!(
        "{} pulls with stored credentials and is readable from its own machine only; \
         its setting anonymous_pull would open it",
        repository.name
    );
    Err(WireError::new(Code::Denied, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Site;
    use crate::docker::address::tests::{remote, repository};
    use crate::engine::{LocalSpec, Secret};

    #[test]
    fn a_local_repository_is_written_from_its_own_machine() {
        let local = repository(5, "local", RepositoryKind::Local(LocalSpec::default()));
        let image = "team/app".parse().expect("a name");
        let site = Site::default();
        let context =
            |direct| Context { site: &site, host: "localhost", prefix: None, direct, request_id: "" };
        for right in [Right::Push, Right::Delete] {
            assert_eq!(may(&context(true), &local, &image, right), Ok(()));
            let error = may(&context(false), &local, &image, right).expect_err("from elsewhere");
            assert_eq!(error.status.as_u16(), 403);
        }
        assert_eq!(may(&context(false), &local, &image, Right::Pull), Ok(()));
    }

    #[test]
    fn stored_credentials_close_a_remote_to_strangers() {
        let url = "https://registry.test";
        let open = remote(1, "open", url, |_| {});
        let closed = remote(2, "closed", url, |spec| spec.password = Some(Secret::new("x")));
        let by_file = remote(3, "by-file", url, |spec| spec.password_file = Some("/run/secret".into()));
        let opened = remote(4, "opened", url, |spec| {
            spec.password = Some(Secret::new("x"));
            spec.anonymous_pull = true;
        });
        let local = repository(5, "local", RepositoryKind::Local(LocalSpec::default()));
        for allowed in [&open, &opened, &local] {
            assert_eq!(may_pull(allowed, false), Ok(()), "{}", allowed.name);
        }
        for refused in [&closed, &by_file] {
            assert_eq!(may_pull(refused, true), Ok(()), "{}", refused.name);
            let error = may_pull(refused, false).expect_err("closed");
            assert_eq!(error.status.as_u16(), 403);
        }
    }
}
