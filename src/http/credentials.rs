//! Owns what a request shows of who sends it: the Authorization header, read and handed to those who know accounts.
//! Must not know: who may do what.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::auth::{self, Gate};
use super::caller::{Caller, Peer};
use crate::docker::{BadCredentials, Openness, Site};
use crate::engine::{Accounts, Identity, Principal};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The content of an Authorization header.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing; or an empty name with an empty password, which containers/image sends when it has none.
    Nothing,
    /// As the bytes are: clients send what people type.
    Basic {
        user: Vec<u8>,
        password: Vec<u8>,
    },
    Bearer(String),
    Malformed,
}

impl Credentials {
    pub fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) => value.to_str().ok().and_then(parse).unwrap_or(Self::Malformed),
            (Some(_), Some(_)) => Self::Malformed,
        }
    }
}

fn parse(text: &str) -> Option<Credentials> {
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return (!rest.is_empty()).then(|| Credentials::Bearer(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64.decode(rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = (decoded[..colon].to_vec(), decoded[colon + 1..].to_vec());
    let empty = user.is_empty() && password.is_empty();
    Some(if empty { Credentials::Nothing } else { Credentials::Basic { user, password } })
}

/// Who sends a request to a registry, or what must be checked to know it.
pub enum Shown {
    Identity(Result<Identity, BadCredentials>),
    /// Checking it takes time.
    Password {
        user: Vec<u8>,
        password: Vec<u8>,
    },
}

/// What a request shows of who sends it.
///
/// While nobody can log in, credentials mean nothing: a proxy in front may have asked for them. Then this machine
/// itself may do everything, unless a browser or a proxy may be borrowing it.
pub fn shown(
    accounts: &Accounts,
    gate: &Gate,
    site: &Site,
    openness: Openness,
    caller: &Caller,
    headers: &HeaderMap,
) -> Shown {
    let credentials = Credentials::read(headers);
    if caller.peer == Peer::Admin || matches!(&credentials, Credentials::Bearer(text) if gate.is_token(text))
    {
        return Shown::Identity(Ok(Principal::Operator.into()));
    }
    if !openness.closed {
        let here = auth::is_from_here(caller, headers, site);
        return Shown::Identity(Ok(if here { Principal::Operator.into() } else { Identity::ANONYMOUS }));
    }
    Shown::Identity(match credentials {
        Credentials::Nothing => Ok(Identity::ANONYMOUS),
        Credentials::Malformed => Err(BadCredentials::Malformed),
        Credentials::Basic { user, password } => return Shown::Password { user, password },
        Credentials::Bearer(text) => match accounts.by_token(&text) {
            Some(principal) => Ok(principal.into()),
            None => accounts.redeem(&text).map_err(BadCredentials::Ticket),
        },
    })
}

impl Shown {
    pub async fn identify(self, accounts: &Accounts, caller: &Caller) -> Result<Identity, BadCredentials> {
        match self {
            Self::Identity(known) => known,
            Self::Password { user, password } => {
                let logged_in = accounts.log_in(&user, &password, caller.client).await;
                logged_in.map(Identity::from).map_err(BadCredentials::LogIn)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&[u8]]) -> Credentials {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).expect("a header value"));
        }
        Credentials::read(&headers)
    }

    fn basic(user: &[u8], password: &[u8]) -> Credentials {
        Credentials::Basic { user: user.to_vec(), password: password.to_vec() }
    }

    /// No `{:?}` of a password, not even in a failing test.
    fn check(values: &[&[u8]], expected: &Credentials) {
        assert!(read(values) == *expected, "{:?}", values.iter().map(|v| v.escape_ascii().to_string()));
    }

    #[test]
    fn names_and_passwords_are_read_as_they_were_sent() {
        check(&[], &Credentials::Nothing);
        check(&[b"Basic Og=="], &Credentials::Nothing);
        check(&[b"Basic Og"], &Credentials::Nothing);
        check(&[b"Basic YWRhOnNlY3JldA=="], &basic(b"ada", b"secret"));
        check(&[b"bAsIc YWRhOnNlY3JldA"], &basic(b"ada", b"secret"));
        check(&[b"Basic YWRhOmE6Yjpj"], &basic(b"ada", b"a:b:c"));
        check(&[b"Basic OnRva2Vu"], &basic(b"", b"token"));
        check(&[b"Basic YWRhOgD//g=="], &basic(b"ada", b"\0\xff\xfe"));
        check(&[b"Bearer  abc "], &Credentials::Bearer("abc".into()));
        check(&[b"bearer a.b.c"], &Credentials::Bearer("a.b.c".into()));
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        let long = [b"Basic ".as_slice(), &vec![b'!'; 64 * 1024]].concat();
        for value in [
            b"".as_slice(),
            b"x",
            b"Basic",
            b"Basic ",
            b"Basic YWRh",
            b"Basic %%%",
            b"Basic \xff\xfe",
            b"Bearer ",
            b"Bearer \xe9",
            b"Negotiate YII=",
            b"YWRhOnNlY3JldA==",
            &long,
        ] {
            check(&[value], &Credentials::Malformed);
        }
        check(&[b"Bearer a", b"Bearer a"], &Credentials::Malformed);
    }
}
