//! Owns who may manage this server: the rules of `/api`. Pure.
//! Must not know: what the management API does.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{AUTHORIZATION, ORIGIN};
use subtle::ConstantTimeEq;
use url::Url;

use super::caller::{Caller, Peer};
use crate::docker::bare_host;
use crate::engine::Secret;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

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
    #[error("the management API needs the administrator's token, as Authorization: Bearer …")]
    NoToken,
}

/// Whether this caller may use the management API.
///
/// A peer on this machine needs no token, unless a proxy or a browser may be borrowing it: then it sends a
/// forwarding header, or names another host than this machine.
pub fn may_manage(gate: &Gate, caller: &Caller, headers: &HeaderMap) -> Result<(), Refusal> {
    if caller.peer == Peer::Admin {
        return Ok(());
    }
    let host = bare_host(&caller.host);
    let by_loopback = is_loopback_name(&host);
    if !by_loopback && !host.starts_with("api.") && !gate.hosts.contains(&host) {
        return Err(Refusal::Elsewhere);
    }
    if is_foreign(headers, &caller.host) {
        return Err(Refusal::ForeignSite);
    }
    match headers.get(AUTHORIZATION) {
        Some(given) if is_token(gate, given.as_bytes()) => Ok(()),
        Some(_) => Err(Refusal::NoToken),
        None if caller.direct && by_loopback => Ok(()),
        None => Err(Refusal::NoToken),
    }
}

fn is_loopback_name(host: &str) -> bool {
    host == "localhost" || host == "api.localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// A browser says from where a page asks; no other client sends these.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let from_elsewhere = headers.get_all(ORIGIN).iter().any(|origin| {
        let url = origin.to_str().ok().and_then(|text| Url::parse(text).ok());
        !url.is_some_and(|url| names(&url, host))
    });
    let site = headers.get_all(SEC_FETCH_SITE).iter();
    from_elsewhere || site.into_iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// Whether an origin is the host that was asked, port and all.
fn names(origin: &Url, host: &str) -> bool {
    let asked = Url::parse(&format!("{}://{host}/", origin.scheme()));
    asked.is_ok_and(|asked| asked.origin() == origin.origin() && origin.origin().is_tuple())
}

/// Compares in a time that tells nothing of how much was right.
fn is_token(gate: &Gate, authorization: &[u8]) -> bool {
    let Some(token) = &gate.token else {
        return false;
    };
    let Some((scheme, given)) = authorization.split_at_checked("bearer ".len()) else {
        return false;
    };
    let same = given.trim_ascii().ct_eq(token.expose().as_bytes());
    scheme.eq_ignore_ascii_case(b"bearer ") && !token.expose().is_empty() && same.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "correct-horse";

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
        may_manage(&gate, &caller, &parts.headers)
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
        assert!(!is_token(&gate, b"Bearer "));
        assert!(!is_token(&Gate::default(), b"Bearer "));
    }
}
