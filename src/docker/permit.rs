//! Owns who may do what: the one place that every path to bytes asks before anything is looked up.
//! Must not know: where the bytes are, and how the caller is recognised.
//!
//! Whether something exists is told only to who may see it: without a log-in the answer is 401 either way, after
//! one it is that of something that is not there. A remote that everybody may read never answers 401 to a pull,
//! whatever was sent with it: dockerd answers that by sending its user's Docker Hub password to a mirror.

use super::Context;
use super::wire::{Code, WireError};
use crate::engine::{Identity, Principal, Repository, RepositoryKind};
use crate::names::{ImageName, Role};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Pull,
    Push,
    Delete,
}

impl Right {
    /// The least that somebody must have been granted.
    pub const fn role(self) -> Role {
        match self {
            Self::Pull => Role::Read,
            Self::Push => Role::Write,
            Self::Delete => Role::Delete,
        }
    }
}

/// What is open to those who have not logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Openness {
    /// What is not open needs a log-in: there are users, or strangers were never meant to come in.
    pub closed: bool,
    /// Remotes without stored credentials are open even so.
    pub open_access: bool,
}

/// Whether this caller may do this with this image. What hides the image is [`Code::NameUnknown`].
pub fn may(
    context: &Context<'_>,
    repository: &Repository,
    image: &ImageName,
    right: Right,
) -> Result<(), WireError> {
    // A cache takes no pushes from anybody, and says so itself.
    let right = if repository.remote().is_some() { Right::Pull } else { right };
    let open = right == Right::Pull && is_open(context.openness, repository);
    if open && repository.remote().is_some() {
        return Ok(());
    }
    let Identity { principal, limit } = known(context)?;
    if open {
        return Ok(());
    }
    if !allows(context.openness, principal, repository, image, right.role()) {
        return Err(refusal(context, principal, repository, image));
    }
    match limit {
        Some(limit) if !limit.allows(repository.id, image, right.role()) => {
            Err(WireError::unauthorized("the token is for something else", Some("insufficient_scope")))
        }
        _ => Ok(()),
    }
}

/// Whether this caller may see that there is this image, in a listing of many.
pub fn readable(context: &Context<'_>, repository: &Repository, image: &ImageName) -> bool {
    known(context)
        .is_ok_and(|identity| allows(context.openness, &identity.principal, repository, image, Role::Read))
}

/// Whether `GET /v2/` is answered with 200 here, where path or host may name a repository. Clients decide by it
/// whether to get a token at all, so what needs one for pushes must ask for it on pulls too.
pub fn may_enter(context: &Context<'_>, named: Option<&Repository>) -> Result<(), WireError> {
    let Openness { closed, .. } = context.openness;
    let identity = known(context)?;
    let mirror = |named: &Repository| named.remote().is_some() && is_open(context.openness, named);
    let shown = !identity.principal.is_anonymous() || identity.limit.is_some();
    if !closed || shown || named.is_some_and(mirror) { Ok(()) } else { Err(log_in_first()) }
}

/// Whether this caller may list images at all; which of them, [`readable`] says.
pub fn may_list(context: &Context<'_>) -> Result<(), WireError> {
    let identity = known(context)?;
    match &identity.limit {
        _ if context.openness.closed && identity.principal.is_anonymous() => Err(log_in_first()),
        Some(limit) if !limit.listing => {
            Err(WireError::unauthorized("the token is not for listing", Some("insufficient_scope")))
        }
        _ => Ok(()),
    }
}

/// Whether this caller may know that there is such a repository.
pub fn sees(context: &Context<'_>, repository: &Repository) -> bool {
    is_open(context.openness, repository)
        || known(context).is_ok_and(|identity| identity.principal.knows(repository.id))
}

/// What is said where an address leads nowhere.
pub fn nowhere(context: &Context<'_>, error: WireError) -> WireError {
    match known(context) {
        _ if error.code != Code::NameUnknown => error,
        Ok(identity) if context.openness.closed && identity.principal.is_anonymous() => log_in_first(),
        Ok(_) => error,
        Err(refused) => refused,
    }
}

/// Whether this principal was granted it, or everybody may.
pub fn allows(
    openness: Openness,
    principal: &Principal,
    repository: &Repository,
    image: &ImageName,
    right: Role,
) -> bool {
    let granted = principal.role(repository.id, image).is_some_and(|role| role >= right);
    granted || (right == Role::Read && is_open(openness, repository))
}

/// Whether everybody may read it.
pub fn is_open(openness: Openness, repository: &Repository) -> bool {
    match &repository.kind {
        RepositoryKind::Local(spec) => spec.anonymous_pull || !openness.closed,
        RepositoryKind::Remote(remote) => {
            let spec = &remote.spec;
            let secret = spec.password.is_some() || spec.password_file.is_some();
            spec.anonymous_pull || (!secret && (!openness.closed || openness.open_access))
        }
    }
}

fn known<'a>(context: &Context<'a>) -> Result<&'a Identity, WireError> {
    context.identity.as_ref().map_err(WireError::from)
}

/// Not in the words `authentication required`: docker takes those for no reason at all, and tries again for a minute.
fn log_in_first() -> WireError {
    WireError::unauthorized("log in first", None)
}

/// What is said to who may not.
fn refusal(
    context: &Context<'_>,
    principal: &Principal,
    repository: &Repository,
    image: &ImageName,
) -> WireError {
    let name = &repository.name;
    if !context.openness.closed && principal.is_anonymous() {
        let message = match &repository.kind {
            RepositoryKind::Local(_) => format!(
                "{name} takes pushes and deletions from its own machine only, until there is a user to log in as \
                 (`binaryrepo user add`)"
            ),
            RepositoryKind::Remote(_) => format!(
                "{name} pulls with stored credentials and is readable from its own machine only; \
                 its setting anonymous_pull would open it"
            ),
        };
        return WireError::new(Code::Denied, message);
    }
    if principal.is_anonymous() {
        return log_in_first();
    }
    if allows(context.openness, principal, repository, image, Role::Read) {
        let who = principal.label();
        return WireError::new(Code::Denied, format!("{who} may read {name}/{image}, and not do this"));
    }
    WireError::new(Code::NameUnknown, "there is no such image, or none that you may see")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::docker::address::tests::{remote, repository};
    use crate::docker::challenge::{BadCredentials, tests::context};
    use crate::engine::{Access, Limit, LocalSpec, Secret};

    const URL: &str = "https://registry.test";
    const OPEN: Openness = Openness { closed: false, open_access: false };
    const CLOSED: Openness = Openness { closed: true, open_access: false };
    const MIRROR: Openness = Openness { closed: true, open_access: true };

    fn local(anonymous_pull: bool) -> Arc<Repository> {
        repository(5, "local", RepositoryKind::Local(LocalSpec { anonymous_pull, ..LocalSpec::default() }))
    }

    fn image() -> ImageName {
        "team/app".parse().expect("a name")
    }

    fn status(
        openness: Openness,
        identity: Result<Identity, BadCredentials>,
        repository: &Repository,
        right: Right,
    ) -> u16 {
        let allowed = may(&context(openness, &identity), repository, &image(), right);
        allowed.map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    fn anonymous() -> Result<Identity, BadCredentials> {
        Ok(Identity::ANONYMOUS)
    }

    fn operator() -> Result<Identity, BadCredentials> {
        Ok(Principal::Operator.into())
    }

    #[test]
    fn what_is_open_to_everybody() {
        let secret = |spec: &mut crate::engine::RemoteSpec| spec.password = Some(Secret::new("x"));
        let by_file = |spec: &mut crate::engine::RemoteSpec| spec.password_file = Some("/run/secret".into());
        let anonymous_pull = |spec: &mut crate::engine::RemoteSpec| spec.anonymous_pull = true;
        let expected = [
            // without users; with users; with users and open_access
            (remote(1, "plain", URL, |_| {}), [true, false, true]),
            (remote(2, "secret", URL, secret), [false, false, false]),
            (remote(3, "by-file", URL, by_file), [false, false, false]),
            (remote(4, "opened", URL, anonymous_pull), [true, true, true]),
            (
                remote(4, "both", URL, |spec| {
                    secret(spec);
                    anonymous_pull(spec);
                }),
                [true, true, true],
            ),
            (local(false), [true, false, false]),
            (local(true), [true, true, true]),
        ];
        for (repository, open) in expected {
            let found = [OPEN, CLOSED, MIRROR].map(|openness| is_open(openness, &repository));
            assert_eq!(found, open, "{}", repository.name);
        }
    }

    #[test]
    fn without_users_this_machine_writes_and_others_are_told_why_they_may_not() {
        let secret = remote(2, "secret", URL, |spec| spec.password = Some(Secret::new("x")));
        for right in [Right::Pull, Right::Push, Right::Delete] {
            assert_eq!(status(OPEN, operator(), &local(false), right), 200);
            assert_eq!(status(OPEN, operator(), &secret, right), 200);
            assert_eq!(status(OPEN, anonymous(), &secret, right), 403);
        }
        assert_eq!(status(OPEN, anonymous(), &local(false), Right::Pull), 200);
        assert_eq!(status(OPEN, anonymous(), &local(false), Right::Push), 403);
    }

    #[test]
    fn with_users_strangers_are_asked_who_they_are() {
        for right in [Right::Pull, Right::Push, Right::Delete] {
            assert_eq!(status(CLOSED, anonymous(), &local(false), right), 401);
        }
        assert_eq!(status(CLOSED, anonymous(), &local(true), Right::Pull), 200);
        assert_eq!(status(CLOSED, anonymous(), &local(true), Right::Push), 401);
    }

    #[test]
    fn a_pull_from_an_open_remote_is_never_asked_for_a_log_in() {
        let open = remote(1, "plain", URL, |_| {});
        for bad in [BadCredentials::Malformed, BadCredentials::LogIn(crate::engine::LogInFault::Wrong)] {
            assert_eq!(status(MIRROR, Err(bad), &open, Right::Pull), 200);
            assert_eq!(status(CLOSED, Err(bad), &open, Right::Pull), 401);
            assert_eq!(status(MIRROR, Err(bad), &local(true), Right::Pull), 401);
        }
    }

    #[test]
    fn a_ticket_opens_what_it_names_and_only_as_long_as_its_holder_may() {
        let of = |rights: &[Role]| {
            let access = Access { repository: local(false).id, image: image(), rights: rights.to_vec() };
            Limit { access: vec![access], listing: false }
        };
        let with = |principal, rights| Ok(Identity { principal, limit: Some(of(rights)) });
        let local = local(false);
        assert_eq!(status(CLOSED, with(Principal::Operator, &[Role::Read]), &local, Right::Pull), 200);
        assert_eq!(status(CLOSED, with(Principal::Operator, &[Role::Read]), &local, Right::Push), 401);
        assert_eq!(status(CLOSED, with(Principal::Anonymous, &[Role::Read]), &local, Right::Pull), 401);
        let error =
            may(&context(CLOSED, &with(Principal::Operator, &[Role::Read])), &local, &image(), Right::Delete);
        assert_eq!(error.expect_err("not in the ticket").code, Code::Unauthorized);
    }

    #[test]
    fn listing_needs_a_log_in_and_a_ticket_for_it() {
        let list = |openness, identity: Result<Identity, BadCredentials>| {
            may_list(&context(openness, &identity)).map_err(|error| error.status.as_u16())
        };
        let ticket = |listing| {
            Ok(Identity {
                principal: Principal::Operator,
                limit: Some(Limit { access: Vec::new(), listing }),
            })
        };
        assert_eq!(list(OPEN, anonymous()), Ok(()));
        assert_eq!(list(CLOSED, anonymous()), Err(401));
        assert_eq!(list(CLOSED, operator()), Ok(()));
        assert_eq!(list(CLOSED, ticket(true)), Ok(()));
        assert_eq!(list(CLOSED, ticket(false)), Err(401));
        assert_eq!(list(CLOSED, Err(BadCredentials::Malformed)), Err(401));
    }
}
