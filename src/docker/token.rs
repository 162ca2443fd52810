//! Owns the token endpoint: credentials and scopes in, a short-lived token for what of it may be had out. Docker's
//! GET and OAuth2's POST with a password; refresh tokens are not issued, since docker would keep one as an identity
//! that podman refuses to read. Must not know: how a password is checked, how a token is signed.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, PRAGMA, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use super::address::{Directory, Entrance};
use super::route::parameter;
use super::scope::{self, Scope};
use super::wire::{Code, WireError};
use super::{Context, Visible, permit};
use crate::engine::{Access, Engine, Limit, Principal, TICKET_LIFETIME};
use crate::names::Role;
use crate::reply::{Note, Reply};

/// Largest form. A password has 1,024 bytes, and 64 scopes fit.
pub const MAX_FORM: usize = 32 * 1024;

/// Whether the path is that of the token endpoint, and which repository it names: `/repo/<repository>/token`.
pub fn token_path(path: &str) -> Option<Option<&str>> {
    if path == "/token" {
        return Some(None);
    }
    let repository = path.strip_prefix("/repo/")?.strip_suffix("/token")?;
    (!repository.is_empty() && !repository.contains('/')).then_some(Some(repository))
}

/// Answers a request for a token. `form` is the body of a POST, `client` where it comes from.
pub async fn token(
    engine: &Engine,
    context: &Context<'_>,
    request: &Parts,
    form: &Bytes,
    client: Option<IpAddr>,
) -> Reply {
    let mut note = Note::of("token");
    let answered = match Asked::read(request, form) {
        Ok(asked) => answer(engine, context, request, &asked, client, &mut note).await,
        Err(error) => Err(error),
    };
    let reply = answered.unwrap_or_else(|error| {
        let basic = error.asks_for_log_in().is_some();
        let reply = error.into_reply(context.request_id);
        if basic { reply.with_header(WWW_AUTHENTICATE, "Basic realm=\"binaryrepo\"") } else { reply }
    });
    reply.with_header(CACHE_CONTROL, "no-store").with_header(PRAGMA, "no-cache").with_note(note)
}

/// What a client asks for, however it asks.
struct Asked {
    service: Option<String>,
    scopes: Vec<Scope>,
    by: By,
}

/// How the client shows who it is.
enum By {
    /// In the Authorization header, or not at all.
    Header,
    Password {
        user: String,
        password: String,
    },
}

impl Asked {
    fn read(request: &Parts, form: &Bytes) -> Result<Self, WireError> {
        match request.method {
            Method::GET | Method::HEAD => {
                Self::from_query(request.uri.query().unwrap_or_default().as_bytes())
            }
            Method::POST => Self::from_form(form),
            _ => Err(WireError::method("GET, POST")),
        }
    }

    fn from_query(query: &[u8]) -> Result<Self, WireError> {
        let pairs: Vec<_> = url::form_urlencoded::parse(query).collect();
        Ok(Self { service: value(&pairs, "service"), scopes: scopes(&pairs), by: By::Header })
    }

    fn from_form(form: &[u8]) -> Result<Self, WireError> {
        let pairs: Vec<_> = url::form_urlencoded::parse(form).collect();
        let text = |name| value(&pairs, name).unwrap_or_default();
        let by = match text("grant_type").as_str() {
            "password" => match (text("username"), text("password")) {
                (user, password) if user.is_empty() && password.is_empty() => By::Header,
                (user, password) => By::Password { user, password },
            },
            "refresh_token" => {
                let message = "refresh tokens are not issued here; log in with a user name and a password";
                return Err(WireError::unauthorized(message, None));
            }
            _ => {
                let message = "grant_type is password: nothing else is granted here";
                return Err(WireError::new(Code::Unsupported, message).with_status(StatusCode::BAD_REQUEST));
            }
        };
        Ok(Self { service: value(&pairs, "service"), scopes: scopes(&pairs), by })
    }
}

type Pairs<'a> = [(std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)];

fn value(pairs: &Pairs<'_>, name: &str) -> Option<String> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone().into_owned())
}

fn scopes(pairs: &Pairs<'_>) -> Vec<Scope> {
    scope::scopes(pairs.iter().filter(|(key, _)| key == "scope").map(|(_, value)| value.as_ref()))
}

async fn answer(
    engine: &Engine,
    context: &Context<'_>,
    request: &Parts,
    asked: &Asked,
    client: Option<IpAddr>,
    note: &mut Note,
) -> Result<Reply, WireError> {
    let principal = who(engine, context, asked, client).await?;
    note.user = (!principal.is_anonymous()).then(|| principal.label().to_owned());
    let namespace = parameter(request.uri.query(), "ns");
    let entrance = Entrance {
        site: context.site,
        // The service is the host that the client was answered from; this may be the one of the public URL.
        host: asked.service.as_deref().unwrap_or(context.host),
        path_repository: token_path(request.uri.path()).flatten(),
        prefix: context.prefix,
        namespace: namespace.as_deref(),
    };
    let directory = Visible { repositories: engine.repositories(), context };
    let (limit, scope) = grant(context, &principal, &entrance, &directory, &asked.scopes);
    let ticket = engine.accounts().issue(&principal, &limit)?;
    let issued = UNIX_EPOCH + Duration::from_millis(ticket.issued.0);
    let mut body = json!({
        "token": ticket.text,
        "access_token": ticket.text,
        "expires_in": TICKET_LIFETIME.as_secs(),
        "issued_at": humantime::format_rfc3339_seconds(issued).to_string(),
    });
    if request.method == Method::POST {
        body["scope"] = scope.into();
        body["token_type"] = "Bearer".into();
    }
    Ok(Reply::json(StatusCode::OK, &body))
}

async fn who(
    engine: &Engine,
    context: &Context<'_>,
    asked: &Asked,
    client: Option<IpAddr>,
) -> Result<Principal, WireError> {
    match &asked.by {
        By::Password { user, password } if context.openness.closed => {
            let logged_in = engine.accounts().log_in(user.as_bytes(), password.as_bytes(), client).await;
            logged_in.map_err(|fault| WireError::from(&super::BadCredentials::LogIn(fault)))
        }
        By::Password { .. } | By::Header => {
            let identity = context.identity.as_ref().map_err(WireError::from)?;
            match identity.limit {
                None => Ok(identity.principal.clone()),
                // Else a short-lived token would last for ever, and grow.
                Some(_) => Err(WireError::unauthorized("a token gets no other token; log in", None)),
            }
        }
    }
}

/// What of the scopes may be had: never an error, and what may not is as if it had not been asked for.
fn grant(
    context: &Context<'_>,
    principal: &Principal,
    entrance: &Entrance<'_>,
    directory: &impl Directory,
    scopes: &[Scope],
) -> (Limit, String) {
    let mut limit = Limit::default();
    let mut words: Vec<String> = Vec::new();
    for scope in scopes {
        let Scope::Image { name, rights } = scope else {
            let listing = !(principal.is_anonymous() && context.openness.closed);
            limit.listing |= listing;
            words.extend(listing.then(|| super::challenge::LISTING_SCOPE.to_owned()));
            continue;
        };
        let Ok(address) = entrance.resolve(directory, name) else {
            continue;
        };
        let (repository, image) = (&address.scope.repository, &address.scope.image);
        let may = |right: &&Role| {
            let kind = repository.remote().is_none() || **right == Role::Read;
            kind && permit::allows(context.openness, principal, repository, image, **right)
        };
        let rights: Vec<Role> = rights.iter().filter(may).copied().collect();
        if !rights.is_empty() {
            words.push(scope::granted(name, &rights));
            limit.access.push(Access { repository: repository.id, image: image.clone(), rights });
        }
    }
    (limit, words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_where_the_challenge_says() {
        assert_eq!(token_path("/token"), Some(None));
        assert_eq!(token_path("/repo/hub/token"), Some(Some("hub")));
        for other in ["/token/", "/v2/token", "/repo/token", "/repo//token", "/repo/a/b/token", "/tokens"] {
            assert_eq!(token_path(other), None, "{other}");
        }
    }

    fn form(text: &str) -> Result<Asked, u16> {
        Asked::from_form(text.as_bytes()).map_err(|error| error.status.as_u16())
    }

    #[test]
    fn a_form_asks_with_a_password_and_with_nothing_else() {
        let asked = form(
            "client_id=containerd-client&grant_type=password&password=a%2Bb+c%26&service=s\
             &scope=repository%3Aa%3Apull+repository%3Ab%3Apull&username=bob&access_type=offline",
        );
        let Ok(Asked { service, scopes, by: By::Password { user, password } }) = asked else {
            panic!("a password");
        };
        assert_eq!((user.as_str(), password.as_str(), service.as_deref()), ("bob", "a+b c&", Some("s")));
        assert_eq!(scopes.len(), 2);
        assert!(matches!(form("grant_type=password"), Ok(Asked { by: By::Header, .. })));
        assert_eq!(form("grant_type=refresh_token&refresh_token=x").map(drop), Err(401));
        for bad in ["", "grant_type=implicit", "\u{0}", "%%%"] {
            assert_eq!(form(bad).map(drop), Err(400), "{bad}");
        }
    }

    #[test]
    fn a_query_may_hold_many_scopes() {
        let asked = Asked::from_query(
            b"account=bob&client_id=docker&offline_token=true&service=h%3A80\
              &scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull",
        );
        let asked = asked.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!((asked.scopes.len(), asked.service.as_deref()), (2, Some("h:80")));
    }
}
