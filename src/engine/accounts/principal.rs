//! Owns who asks, as a value, and what that value may do. Pure.
//! Must not know: how somebody showed who they are, and what is open to nobody in particular.

use std::sync::Arc;

use super::book::{AccessToken, Account, role_among};
use crate::names::{ImageName, RepositoryId, Role};

/// Who asks.
#[derive(Clone, Debug)]
pub enum Principal {
    /// Nobody has shown who they are.
    Anonymous,
    /// Whoever runs this server: holds its own token, or is on its own machine.
    Operator,
    Account(Arc<Account>),
    Token {
        token: Arc<AccessToken>,
        /// The account that it stands for; `None`: it stands for itself.
        owner: Option<Arc<Account>>,
    },
}

impl Principal {
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    /// May do everything.
    pub fn is_admin(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Operator => true,
            Self::Account(account) => account.admin,
            Self::Token { token, owner } => {
                token.scopes.is_empty() && owner.as_ref().is_some_and(|owner| owner.admin)
            }
        }
    }

    /// The account that acts, whatever it showed.
    pub fn account(&self) -> Option<&Arc<Account>> {
        match self {
            Self::Anonymous | Self::Operator => None,
            Self::Account(account) => Some(account),
            Self::Token { owner, .. } => owner.as_ref(),
        }
    }

    /// What it was granted with this image.
    pub fn role(&self, repository: RepositoryId, image: &ImageName) -> Option<Role> {
        match self {
            Self::Anonymous => None,
            Self::Operator => Some(Role::Admin),
            Self::Account(account) => account.role(repository, image),
            Self::Token { token, owner } => {
                let scoped = || role_among(&token.scopes, repository, image);
                match owner {
                    None => scoped(),
                    Some(owner) if token.scopes.is_empty() => owner.role(repository, image),
                    Some(owner) => Some(owner.role(repository, image)?.min(scoped()?)),
                }
            }
        }
    }

    /// Whether it was granted anything at all in this repository.
    pub fn knows(&self, repository: RepositoryId) -> bool {
        self.best(repository, |_| true).is_some()
    }

    /// Whether it may say who else may do what in this repository, and remove what is cached.
    pub fn manages(&self, repository: RepositoryId) -> bool {
        self.best(repository, |whole| whole) == Some(Role::Admin)
    }

    /// The best role in the repository; `counts` is told of each grant whether it is for all images.
    fn best(&self, repository: RepositoryId, counts: impl Fn(bool) -> bool) -> Option<Role> {
        let among = |grants: &[super::Grant]| {
            let here = grants.iter().filter(|grant| grant.covers(repository) && counts(grant.is_for_all()));
            here.map(|grant| grant.role).max()
        };
        let of = |account: &Account| if account.admin { Some(Role::Admin) } else { among(&account.grants) };
        match self {
            Self::Anonymous => None,
            Self::Operator => Some(Role::Admin),
            Self::Account(account) => of(account),
            Self::Token { token, owner: None } => among(&token.scopes),
            Self::Token { token, owner: Some(owner) } if token.scopes.is_empty() => of(owner),
            Self::Token { token, owner: Some(owner) } => Some(of(owner)?.min(among(&token.scopes)?)),
        }
    }

    /// Tells this one from all others, as long as it exists.
    pub fn key(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".to_owned(),
            Self::Operator => "operator".to_owned(),
            Self::Account(account) | Self::Token { owner: Some(account), .. } => {
                format!("account {}", account.id.0)
            }
            Self::Token { token, owner: None } => format!("token {}", token.id),
        }
    }

    /// For logs and messages.
    pub fn label(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Operator => "operator",
            Self::Account(account) => account.name.as_str(),
            Self::Token { owner: Some(owner), .. } => owner.name.as_str(),
            Self::Token { token, owner: None } => &token.name,
        }
    }
}

/// One image, and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub repository: RepositoryId,
    pub image: ImageName,
    /// Each stands for itself: a ticket for writing alone does not read.
    pub rights: Vec<Role>,
}

/// To what a ticket is limited, whatever its holder may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    pub access: Vec<Access>,
    /// Whether it may list the images there are.
    pub listing: bool,
}

impl Limit {
    pub fn allows(&self, repository: RepositoryId, image: &ImageName, right: Role) -> bool {
        let of_image = |access: &&Access| access.repository == repository && access.image == *image;
        self.access.iter().filter(of_image).any(|access| access.rights.contains(&right))
    }
}

/// Who asks, and with what in hand.
#[derive(Clone, Debug)]
pub struct Identity {
    pub principal: Principal,
    /// `None`: all that the principal may.
    pub limit: Option<Limit>,
}

impl Identity {
    pub const ANONYMOUS: Self = Self { principal: Principal::Anonymous, limit: None };
}

impl From<Principal> for Identity {
    fn from(principal: Principal) -> Self {
        Self { principal, limit: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::engine::accounts::Grant;
    use crate::engine::accounts::book::tests::account;

    const TEAM: RepositoryId = RepositoryId(3);
    const OTHER: RepositoryId = RepositoryId(4);

    fn grant(repository: Option<RepositoryId>, images: &str, role: Role) -> Grant {
        Grant { repository, images: images.parse().expect("a pattern"), role }
    }

    fn token(scopes: Vec<Grant>, owner: Option<&Arc<Account>>) -> Principal {
        let token = AccessToken {
            id: "0123".into(),
            name: "ci".into(),
            owner: owner.map(|owner| owner.id),
            scopes,
            created: UnixMillis(0),
            expires: None,
        };
        Principal::Token { token: Arc::new(token), owner: owner.cloned() }
    }

    fn roles(principal: &Principal) -> [Option<Role>; 3] {
        let of =
            |repository, image: &str| principal.role(repository, &image.parse().expect("an image's name"));
        [of(TEAM, "app/web"), of(TEAM, "base"), of(OTHER, "app/web")]
    }

    #[test]
    fn the_best_of_all_grants_counts() {
        let ada = account(
            1,
            "ada",
            false,
            vec![
                grant(Some(TEAM), "*", Role::Read),
                grant(Some(TEAM), "app/*", Role::Delete),
                grant(Some(TEAM), "app/*", Role::Write),
            ],
        );
        let principal = Principal::Account(ada.clone());
        assert_eq!(roles(&principal), [Some(Role::Delete), Some(Role::Read), None]);
        assert!(principal.knows(TEAM) && !principal.knows(OTHER) && !principal.manages(TEAM));
        let everywhere = Principal::Account(account(2, "bob", false, vec![grant(None, "app/*", Role::Read)]));
        assert_eq!(roles(&everywhere), [Some(Role::Read), None, Some(Role::Read)]);
        let admin = Principal::Account(account(3, "eve", true, Vec::new()));
        assert_eq!(roles(&admin), [Some(Role::Admin); 3]);
        assert!(admin.is_admin() && admin.manages(OTHER));
        assert_eq!(roles(&Principal::Anonymous), [None; 3]);
        assert_eq!(roles(&Principal::Operator), [Some(Role::Admin); 3]);
    }

    #[test]
    fn a_token_never_may_more_than_its_owner() {
        let ada = account(1, "ada", false, vec![grant(Some(TEAM), "app/*", Role::Write)]);
        let admin = account(2, "eve", true, Vec::new());
        let read_all = || vec![grant(None, "*", Role::Read)];
        let admin_all = || vec![grant(None, "*", Role::Admin)];
        assert_eq!(roles(&token(Vec::new(), Some(&ada))), [Some(Role::Write), None, None]);
        assert_eq!(roles(&token(read_all(), Some(&ada))), [Some(Role::Read), None, None]);
        assert_eq!(roles(&token(admin_all(), Some(&ada))), [Some(Role::Write), None, None]);
        assert_eq!(roles(&token(read_all(), None)), [Some(Role::Read); 3]);
        assert_eq!(roles(&token(Vec::new(), None)), [None; 3]);
        assert!(token(Vec::new(), Some(&admin)).is_admin());
        assert!(!token(admin_all(), Some(&admin)).is_admin(), "a token with scopes is no administrator");
        assert!(token(admin_all(), Some(&admin)).manages(TEAM));
        assert!(!token(admin_all(), Some(&ada)).manages(TEAM));
    }

    #[test]
    fn only_a_grant_for_all_images_manages_a_repository() {
        let of =
            |images| Principal::Account(account(1, "a", false, vec![grant(Some(TEAM), images, Role::Admin)]));
        assert!(of("*").manages(TEAM) && !of("*").manages(OTHER) && !of("app/*").manages(TEAM));
    }

    #[test]
    fn a_limit_names_each_image_and_right() {
        let image = |name: &str| name.parse().expect("a name");
        let access = Access { repository: TEAM, image: image("a"), rights: vec![Role::Write] };
        let limit = Limit { access: vec![access], listing: false };
        assert!(limit.allows(TEAM, &image("a"), Role::Write));
        assert!(!limit.allows(TEAM, &image("a"), Role::Read));
        assert!(!limit.allows(TEAM, &image("b"), Role::Write));
        assert!(!limit.allows(OTHER, &image("a"), Role::Write));
    }
}
