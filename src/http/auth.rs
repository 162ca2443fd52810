//! Owns who comes to the management API: the rules of `/api`, and what may stand for the administrator's token.
//! Must not know: what the management API does, and which of it whom is allowed.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, ORIGIN};
use subtle::ConstantTimeEq;
use url::Url;

use super::caller::{Caller, Peer};
use super::credentials::Credentials;
use crate::docker::{Site, bare_host};
use crate::engine::{Accounts, LogInFault, Principal, Secret};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What may manage, and under which names.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// The administrator's token; without one, only callers on this machine manage.
    pub token: Option<Secret>,
    /// Host names that lead to the management API besides loopback and `api.*`, without port.
    pub hosts: Vec<String>,
}

/// Why somebody may not manage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404: the API is not under this name.
    #[error("nothing is served under this path")]
    Elsewhere,
    /// 403: a web page of another site asks.
    #[error("requests from pages of other sites are refused")]
    ForeignSite,
    /// 401: no token, or a wrong one.
    #[error(
        "the management API needs the administrator's token, as Authorization: Bearer …, or a user's log-in"
    )]
    NoToken,
    /// 429 or 503: too many wrong log-ins for this user, or too many at once.
    #[error(transparent)]
    Later(LogInFault),
}

/// What somebody shows at the gate.
#[derive(Clone, PartialEq, Eq)]
pub enum Shows {
    /// The administrator's token, or being on this machine.
    Operator,
    /// Credentials of an account.
    Account(Credentials),
}

/// Who comes to the management API. What they may do there, it decides itself.
pub async fn manager(
    accounts: &Accounts,
    gate: &Gate,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Principal, Refusal> {
    match shows(gate, caller, headers, accounts.is_empty())? {
        Shows::Operator => Ok(Principal::Operator),
        Shows::Account(Credentials::Basic { user, password }) => {
            accounts.log_in(&user, &password, caller.client).await.map_err(|fault| match fault {
                LogInFault::Wrong => Refusal::NoToken,
                fault @ (LogInFault::TooMany { .. } | LogInFault::Busy) => Refusal::Later(fault),
            })
        }
        Shows::Account(Credentials::Bearer(text)) => accounts.by_token(&text).ok_or(Refusal::NoToken),
        Shows::Account(Credentials::Nothing | Credentials::Malformed) => Err(Refusal::NoToken),
    }
}

/// What this caller shows. Pure.
///
/// While nobody can log in, a peer on this machine needs no token, unless a proxy or a browser may be borrowing it: then
/// it sends a forwarding header, or names another host than this machine. A proxy that sends none of that cannot be told
/// from a person, so with users everybody shows who they are; commands come by the socket.
pub fn shows(
    gate: &Gate,
    caller: &Caller,
    headers: &HeaderMap,
    nobody_can_log_in: bool,
) -> Result<Shows, Refusal> {
    if caller.peer == Peer::Admin {
        return Ok(Shows::Operator);
    }
    let host = bare_host(&caller.host);
    let by_loopback = caller.host.is_loopback();
    if !by_loopback && !host.starts_with("api.") && !gate.hosts.iter().any(|known| *known == host) {
        return Err(Refusal::Elsewhere);
    }
    if is_foreign(headers, &caller.host) {
        return Err(Refusal::ForeignSite);
    }
    match Credentials::read(headers) {
        Credentials::Bearer(text) if gate.is_token(&text) => Ok(Shows::Operator),
        Credentials::Nothing if headers.contains_key(AUTHORIZATION) => Err(Refusal::NoToken),
        Credentials::Nothing if nobody_can_log_in && caller.direct && by_loopback => Ok(Shows::Operator),
        Credentials::Nothing | Credentials::Malformed => Err(Refusal::NoToken),
        shown @ (Credentials::Basic { .. } | Credentials::Bearer(_)) => Ok(Shows::Account(shown)),
    }
}

/// Whether a request comes from this machine, to a name of this machine or of a repository, and from no page that
/// a browser shows: another name may lead here by somebody else's DNS.
pub fn is_from_here(caller: &Caller, headers: &HeaderMap, site: &Site) -> bool {
    let host = &caller.host;
    let is_own = || host.is_loopback() || site.repository_label(host).is_some();
    caller.direct && is_own() && !is_foreign(headers, host)
}

/// A browser says from where a page asks; no other client sends these.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    headers.iter().any(|(name, value)| match name {
        name if *name == ORIGIN => {
            let url = value.to_str().ok().and_then(|text| Url::parse(text).ok());
            !url.is_some_and(|url| names(&url, host))
        }
        name if *name == SEC_FETCH_SITE => !matches!(value.as_bytes(), b"same-origin" | b"none"),
        _ => false,
    })
}

/// Whether an origin is the host that was asked, port and all.
fn names(origin: &Url, host: &str) -> bool {
    let asked = Url::parse(&format!("{}://{host}/", origin.scheme()));
    asked.is_ok_and(|asked| asked.origin() == origin.origin() && origin.origin().is_tuple())
}

impl Gate {
    /// Compares in a time that tells nothing of how much was right.
    pub fn is_token(&self, given: &str) -> bool {
        let Some(token) = &self.token else {
            return false;
        };
        let same = given.as_bytes().ct_eq(token.expose().as_bytes());
        !token.expose().is_empty() && bool::from(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "correct-horse";

    /// Nobody has an account here.
    fn decide(peer: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let trusted = ["10.0.0.0/8".parse().expect("a net")];
        let peer = match peer {
            "admin" => Peer::Admin,
            address => Peer::Tcp(address.parse().expect("an address")),
        };
        let caller = Caller::read(&parts, peer, &trusted).expect("a caller");
        let gate = Gate { token: Some(Secret::new(TOKEN)), hosts: vec!["manage.test".into()] };
        match shows(&gate, &caller, &parts.headers, true) {
            Ok(Shows::Operator) => Ok(()),
            Ok(Shows::Account(_)) => Err(Refusal::NoToken),
            Err(refusal) => Err(refusal),
        }
    }

    const NEAR: &str = "127.0.0.1:9";
    const FAR: &str = "192.0.2.1:9";
    const PROXY: &str = "10.0.0.1:9";

    #[test]
    fn this_machine_manages_without_a_token() {
        for host in ["localhost:8081", "127.0.0.1:8081", "[::1]:8081", "api.localhost", "LOCALHOST"] {
            assert_eq!(decide(NEAR, &[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(decide("[::1]:9", &[("host", "localhost")]), Ok(()));
        assert_eq!(decide("admin", &[("host", "localhost")]), Ok(()));
    }

    #[test]
    fn nobody_borrows_this_machine() {
        let refused = [
            // A proxy on this machine.
            (NEAR, vec![("host", "localhost"), ("x-forwarded-for", "203.0.113.1")], Refusal::NoToken),
            (NEAR, vec![("host", "localhost"), ("forwarded", "for=203.0.113.1")], Refusal::NoToken),
            // A name that leads here by DNS rebinding.
            (NEAR, vec![("host", "evil.test")], Refusal::Elsewhere),
            (NEAR, vec![("host", "api.evil.test")], Refusal::NoToken),
            // A page of another site, in a browser on this machine.
            (NEAR, vec![("host", "localhost:8081"), ("origin", "http://evil.test")], Refusal::ForeignSite),
            (NEAR, vec![("host", "localhost:8081"), ("origin", "null")], Refusal::ForeignSite),
            (
                NEAR,
                vec![("host", "localhost:8081"), ("origin", "http://localhost:3000")],
                Refusal::ForeignSite,
            ),
            (NEAR, vec![("host", "localhost:8081"), ("sec-fetch-site", "cross-site")], Refusal::ForeignSite),
            (NEAR, vec![("host", "localhost:8081"), ("sec-fetch-site", "same-site")], Refusal::ForeignSite),
            // From elsewhere.
            (FAR, vec![("host", "localhost")], Refusal::NoToken),
            (FAR, vec![("host", "api.binaryrepo.local")], Refusal::NoToken),
            (FAR, vec![("host", "docker-remote.binaryrepo.local")], Refusal::Elsewhere),
            (FAR, vec![("host", "192.0.2.1")], Refusal::Elsewhere),
            (PROXY, vec![("host", "x"), ("x-forwarded-host", "localhost")], Refusal::NoToken),
        ];
        for (peer, headers, refusal) in refused {
            assert_eq!(decide(peer, &headers), Err(refusal), "{peer} {headers:?}");
        }
    }

    #[test]
    fn the_token_opens_from_anywhere_and_a_wrong_one_nowhere() {
        let bearer = format!("Bearer {TOKEN}");
        for host in ["api.binaryrepo.local", "manage.test:443", "localhost"] {
            assert_eq!(decide(FAR, &[("host", host), ("authorization", &bearer)]), Ok(()), "{host}");
        }
        let page = [("host", "manage.test"), ("origin", "https://manage.test"), ("authorization", &bearer)];
        assert_eq!(decide(FAR, &page), Ok(()));
        assert_eq!(decide(NEAR, &[("host", "localhost"), ("authorization", "bearer correct-horse")]), Ok(()));
        for wrong in ["Bearer correct-hors", "Bearer correct-horse1", "Bearer ", "Basic Og==", "x", TOKEN, ""]
        {
            let refused = decide(NEAR, &[("host", "localhost"), ("authorization", wrong)]);
            assert_eq!(refused, Err(Refusal::NoToken), "{wrong}");
        }
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        let gate = Gate { token: Some(Secret::new("")), hosts: Vec::new() };
        assert!(!gate.is_token("") && !Gate::default().is_token(""));
    }

    #[test]
    fn a_page_or_a_foreign_name_does_not_borrow_this_machine_for_a_push() {
        let from_here = |peer: &str, headers: &[(&str, &str)]| {
            let mut request = http::Request::builder();
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            let peer = Peer::Tcp(peer.parse().expect("an address"));
            let caller = Caller::read(&parts, peer, &[]).expect("a caller");
            is_from_here(&caller, &parts.headers, &Site::default())
        };
        for host in ["localhost:8081", "127.0.0.1:8081", "[::1]", "docker-local.localhost:8081"] {
            assert!(from_here(NEAR, &[("host", host)]), "{host}");
            assert!(!from_here(FAR, &[("host", host)]), "{host}");
        }
        assert!(!from_here(NEAR, &[("host", "evil.test")]));
        assert!(!from_here(NEAR, &[("host", "localhost"), ("origin", "http://evil.test")]));
        assert!(!from_here(NEAR, &[("host", "localhost"), ("x-forwarded-for", "203.0.113.1")]));
    }
}
