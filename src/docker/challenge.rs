//! Owns what is said to a client that must log in, or whose credentials are not good: the `WWW-Authenticate` of the
//! token flow. Must not know: who may do what.

use http::header::WWW_AUTHENTICATE;

use super::address::Entrance;
use super::permit::Right;
use super::wire::{Code, WireError};
use super::{Context, Origin};
use crate::engine::{LogInFault, TicketFault};
use crate::names::{ImageName, RepositoryName};
use crate::reply::Reply;

/// Credentials were sent, and they are not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCredentials {
    /// Neither Basic nor Bearer, or not well-formed.
    Malformed,
    Ticket(TicketFault),
    LogIn(LogInFault),
}

impl From<&BadCredentials> for WireError {
    fn from(bad: &BadCredentials) -> Self {
        match bad {
            BadCredentials::Malformed => {
                Self::unauthorized("the Authorization header is neither Basic nor Bearer", None)
            }
            BadCredentials::Ticket(fault) => Self::unauthorized(fault.to_string(), Some("invalid_token")),
            BadCredentials::LogIn(fault @ LogInFault::Wrong) => Self::unauthorized(fault.to_string(), None),
            BadCredentials::LogIn(fault @ LogInFault::TooMany { retry_after }) => {
                Self::new(Code::TooManyRequests, fault.to_string()).with_wait(*retry_after)
            }
            BadCredentials::LogIn(fault @ LogInFault::Busy) => {
                Self::new(Code::Unavailable, fault.to_string()).with_wait(std::time::Duration::from_secs(1))
            }
        }
    }
}

/// Where a client gets a token for what it asked.
#[derive(Clone, Debug)]
pub struct Challenge {
    realm: String,
    service: String,
    scope: Option<String>,
}

impl Challenge {
    /// The realm leads back through the same entrance, so that names mean there what they mean here.
    pub fn new(context: &Context<'_>, entrance: &Entrance<'_>, scope: Option<String>) -> Self {
        // A path may hold what would end a quoted string, where it names no repository.
        let named = entrance.path_repository.is_none_or(|name| name.parse::<RepositoryName>().is_ok());
        let front = match context.origin {
            _ if !named => String::new(),
            // Its address is not the one that was asked, so neither is a proxy's prefix.
            Origin::Set(_) => entrance.path(),
            Origin::Asked { .. } => entrance.front(),
        };
        let mut realm = format!("{}{front}/token", context.origin);
        if let Some(namespace) = entrance.namespace {
            let encoded: String = url::form_urlencoded::byte_serialize(namespace.as_bytes()).collect();
            realm.push_str(&format!("?ns={encoded}"));
        }
        Self { realm, service: context.host.to_owned(), scope }
    }

    /// Adds to a 401 how to do better; any other error stays as it is.
    pub fn complete(&self, reply: Reply, error: &WireError) -> Reply {
        match error.asks_for_log_in() {
            Some(reason) => reply.with_header(WWW_AUTHENTICATE, &self.text(reason)),
            None => reply,
        }
    }

    fn text(&self, reason: Option<&'static str>) -> String {
        let mut text = format!("Bearer realm=\"{}\",service=\"{}\"", self.realm, self.service);
        if let Some(scope) = &self.scope {
            text.push_str(&format!(",scope=\"{scope}\""));
        }
        if let Some(reason) = reason {
            text.push_str(&format!(",error=\"{reason}\""));
        }
        text
    }
}

/// The scope of an image by the name in the path; none for what is no name.
pub fn image_scope(name: &str, right: Right) -> Option<String> {
    let name: ImageName = name.parse().ok()?;
    let actions = match right {
        Right::Pull => "pull",
        Right::Push => "pull,push",
        Right::Delete => "delete",
    };
    Some(format!("repository:{name}:{actions}"))
}

pub const LISTING_SCOPE: &str = "registry:catalog:*";

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::docker::permit::Openness;
    use crate::docker::{Origin, Site};
    use crate::engine::Identity;

    pub fn context<'a>(openness: Openness, identity: &'a Result<Identity, BadCredentials>) -> Context<'a> {
        static SITE: std::sync::LazyLock<Site> = std::sync::LazyLock::new(Site::default);
        Context {
            site: &SITE,
            host: "registry.test:8081",
            prefix: None,
            origin: Origin::Asked { secure: false, host: "registry.test:8081" },
            identity,
            openness,
            request_id: "",
        }
    }

    fn header(path_repository: Option<&str>, prefix: Option<&str>, namespace: Option<&str>) -> String {
        header_of(None, path_repository, prefix, namespace)
    }

    fn header_of(
        public_url: Option<&'static str>,
        path_repository: Option<&str>,
        prefix: Option<&str>,
        namespace: Option<&str>,
    ) -> String {
        let identity = Ok(Identity::ANONYMOUS);
        let mut context = context(Openness { closed: true, open_access: false }, &identity);
        context.origin = public_url.map_or(context.origin, Origin::Set);
        let entrance =
            Entrance { site: context.site, host: context.host, path_repository, prefix, namespace };
        let challenge = Challenge::new(&context, &entrance, image_scope("team/app", Right::Push));
        challenge.text(Some("invalid_token"))
    }

    #[test]
    fn the_realm_leads_through_the_same_entrance() {
        let with = |realm: &str| {
            format!(
                "Bearer realm=\"http://registry.test:8081{realm}\",service=\"registry.test:8081\",\
                 scope=\"repository:team/app:pull,push\",error=\"invalid_token\""
            )
        };
        assert_eq!(header(None, None, None), with("/token"));
        assert_eq!(header(Some("hub"), None, None), with("/repo/hub/token"));
        assert_eq!(header(Some("hub"), Some(""), None), with("/token"));
        assert_eq!(header(Some("hub"), Some("/artifacts"), None), with("/artifacts/token"));
        assert_eq!(header(None, None, Some("quay.io")), with("/token?ns=quay.io"));
    }

    /// Where a proxy maps a name of its own to a repository, the public URL's realm once led to the default mirror.
    #[test]
    fn the_realm_at_the_public_url_names_the_repository() {
        for prefix in [None, Some(""), Some("/artifacts")] {
            let header = header_of(Some("https://pub.test"), Some("hub"), prefix, None);
            assert!(header.starts_with("Bearer realm=\"https://pub.test/repo/hub/token\""), "{header}");
        }
        let header = header_of(Some("https://pub.test"), None, None, None);
        assert!(header.starts_with("Bearer realm=\"https://pub.test/token\""), "{header}");
    }

    #[test]
    fn nothing_that_a_client_wrote_ends_the_quoted_string() {
        assert!(header(Some("a\"b"), None, None).contains("8081/token\""));
        assert!(header(None, None, Some("a\"b")).contains("?ns=a%22b\""));
        assert_eq!(image_scope("a\"b", Right::Pull), None);
        assert_eq!(image_scope("A", Right::Pull), None);
    }

    #[test]
    fn bad_credentials_have_the_status_that_says_what_to_do() {
        let wait = std::time::Duration::from_secs(8);
        let expected = [
            (BadCredentials::Malformed, 401),
            (BadCredentials::Ticket(TicketFault::Expired), 401),
            (BadCredentials::LogIn(LogInFault::Wrong), 401),
            (BadCredentials::LogIn(LogInFault::TooMany { retry_after: wait }), 429),
            (BadCredentials::LogIn(LogInFault::Busy), 503),
        ];
        for (bad, status) in expected {
            assert_eq!(WireError::from(&bad).status.as_u16(), status, "{bad:?}");
        }
    }
}
