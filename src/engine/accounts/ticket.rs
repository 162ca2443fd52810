//! Owns tickets: short-lived signed statements of who may do what with which images, so that nobody's password is
//! checked for every request. A ticket is a JWT, signed and checked with one symmetric key.
//! Must not know: who asks for one, and whether its holder still may what it says.

use std::str::FromStr;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::principal::{Access, Limit};
use crate::clock::UnixMillis;
use crate::names::{self, AccountId, RepositoryId};

/// How long a ticket is good for.
pub const LIFETIME: Duration = Duration::from_secs(300);
/// Issuer and audience: of this server, for reading and writing content.
const ISSUER: &str = "binaryrepo";
const AUDIENCE: &str = "registry";
/// A client sends its ticket with every request, in a head of 32 KiB at most.
const MOST_NAMES: usize = 8 * 1024;
/// What a claim takes beside the image's name.
const CLAIM: usize = 80;

/// Whose ticket it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Anonymous,
    Account(AccountId),
    /// An access token, by its id.
    Token(String),
}

/// Why a ticket is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketFault {
    #[error("the token has expired")]
    Expired,
    #[error("this is no token of this server")]
    Foreign,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    exp: u64,
    access: Vec<Claim>,
    #[serde(default)]
    listing: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    repository: u64,
    image: String,
    rights: Vec<String>,
}

pub(super) struct Tickets {
    encoding: EncodingKey,
    decoding: DecodingKey,
    header: Header,
    validation: Validation,
}

impl Tickets {
    pub fn new(key: &[u8]) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        let fingerprint = names::Digest::of(names::Algorithm::Sha256, key).to_string();
        header.kid = fingerprint.get("sha256:".len()..).and_then(|hex| hex.get(..8)).map(str::to_owned);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // The clock is ours.
        validation.validate_exp = false;
        Self {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            header,
            validation,
        }
    }

    /// Grants that would make the ticket too long to send are left out: their holder asks again with fewer.
    pub fn issue(
        &self,
        subject: &Subject,
        limit: &Limit,
        now: UnixMillis,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let mut names = 0;
        let fits = |access: &&Access| {
            names += access.image.as_str().len() + CLAIM;
            names <= MOST_NAMES
        };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: subject.to_string(),
            iat: now.0 / 1000,
            exp: now.0 / 1000 + LIFETIME.as_secs(),
            access: limit.access.iter().take_while(fits).map(claim).collect(),
            listing: limit.listing,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.encoding)
    }

    pub fn redeem(&self, ticket: &str, now: UnixMillis) -> Result<(Subject, Limit), TicketFault> {
        let read = jsonwebtoken::decode::<Claims>(ticket, &self.decoding, &self.validation);
        let read = read.map_err(|_| TicketFault::Foreign)?;
        if read.header.kid != self.header.kid {
            return Err(TicketFault::Foreign);
        }
        if read.claims.exp <= now.0 / 1000 {
            return Err(TicketFault::Expired);
        }
        let subject = read.claims.sub.parse().map_err(|()| TicketFault::Foreign)?;
        let access: Option<Vec<Access>> = read.claims.access.into_iter().map(access).collect();
        Ok((subject, Limit { access: access.ok_or(TicketFault::Foreign)?, listing: read.claims.listing }))
    }
}

fn claim(access: &Access) -> Claim {
    Claim {
        repository: access.repository.0,
        image: access.image.as_str().to_owned(),
        rights: access.rights.iter().map(|right| right.as_str().to_owned()).collect(),
    }
}

fn access(claim: Claim) -> Option<Access> {
    Some(Access {
        repository: RepositoryId(claim.repository),
        image: claim.image.parse().ok()?,
        rights: claim.rights.iter().map(|right| right.parse().ok()).collect::<Option<_>>()?,
    })
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Account(id) => write!(f, "account:{id}"),
            Self::Token(id) => write!(f, "token:{id}"),
        }
    }
}

impl FromStr for Subject {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None if text == "anonymous" => Ok(Self::Anonymous),
            Some(("account", id)) => id.parse().map(|id| Self::Account(AccountId(id))).map_err(drop),
            Some(("token", id)) => Ok(Self::Token(id.to_owned())),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::names::Role;

    const KEY: &[u8] = &[7; 32];
    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn limit(images: &[&str]) -> Limit {
        let access = |image: &&str| Access {
            repository: RepositoryId(3),
            image: image.parse().expect("a name"),
            rights: vec![Role::Read, Role::Write],
        };
        Limit { access: images.iter().map(access).collect(), listing: true }
    }

    fn later(seconds: u64) -> UnixMillis {
        UnixMillis(NOW.0 + seconds * 1000)
    }

    #[test]
    fn a_ticket_says_later_what_it_was_issued_with() {
        let tickets = Tickets::new(KEY);
        for subject in [Subject::Anonymous, Subject::Account(AccountId(7)), Subject::Token("ab12".into())] {
            let ticket = tickets.issue(&subject, &limit(&["team/app", "b"]), NOW).expect("issued");
            assert_eq!(tickets.redeem(&ticket, later(299)), Ok((subject, limit(&["team/app", "b"]))));
            assert_eq!(tickets.redeem(&ticket, later(300)), Err(TicketFault::Expired));
            assert_eq!(Tickets::new(KEY).redeem(&ticket, NOW).map(drop), Ok(()), "after a restart");
            assert_eq!(Tickets::new(&[8; 32]).redeem(&ticket, NOW), Err(TicketFault::Foreign));
        }
    }

    #[test]
    fn a_ticket_stays_short_enough_to_be_sent() {
        let tickets = Tickets::new(KEY);
        let long: Vec<String> = (0..200).map(|n| format!("{}/{n}", "a".repeat(240))).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let ticket = tickets.issue(&Subject::Anonymous, &limit(&long), NOW).expect("issued");
        assert!(ticket.len() < 16 * 1024, "{}", ticket.len());
        let (_, kept) = tickets.redeem(&ticket, NOW).expect("good");
        assert!(!kept.access.is_empty() && kept.access.len() < long.len());
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn claims() -> Value {
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "account:1", "iat": NOW.0 / 1000,
                "exp": NOW.0 / 1000 + 300, "access": [] })
    }

    /// A ticket that is signed with our key, and says what it likes.
    fn signed(change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let tickets = Tickets::new(KEY);
        let (mut header, mut claims) = (tickets.header.clone(), claims());
        change(&mut header, &mut claims);
        jsonwebtoken::encode(&header, &claims, &tickets.encoding).expect("encoded")
    }

    #[test]
    fn what_this_server_did_not_say_is_refused() {
        let tickets = Tickets::new(KEY);
        assert!(tickets.redeem(&signed(|_, _| {}), NOW).is_ok());
        let good = signed(|_, _| {});
        let (head_and_claims, signature) = good.rsplit_once('.').expect("three parts");
        let (head, _) = head_and_claims.split_once('.').expect("two parts");
        let none = part(&json!({ "alg": "none", "typ": "JWT", "kid": tickets.header.kid }));
        let mut forged = claims();
        forged["sub"] = json!("account:2");
        let foreign = [
            String::new(),
            "x".into(),
            "..".into(),
            "a.b.c".into(),
            "\u{e9}".into(),
            "A".repeat(30_000),
            format!("{none}.{}.", part(&claims())),
            format!("{none}.{}.{signature}", part(&claims())),
            format!("{head}.{}.{signature}", part(&forged)),
            format!("{head_and_claims}."),
            format!("{head_and_claims}.{}", "A".repeat(43)),
            signed(|header, _| header.kid = None),
            signed(|header, _| header.kid = Some("deadbeef".into())),
            signed(|header, _| header.alg = Algorithm::HS384),
            signed(|_, claims| claims["aud"] = json!("management")),
            signed(|_, claims| claims["aud"] = Value::Null),
            signed(|_, claims| claims["iss"] = json!("elsewhere")),
            signed(|_, claims| claims["sub"] = json!("root")),
            signed(|_, claims| claims["sub"] = json!("account:x")),
            signed(|_, claims| claims["access"] = json!([{ "repository": 1, "image": "A", "rights": [] }])),
            signed(|_, claims| {
                claims["access"] = json!([{ "repository": 1, "image": "a", "rights": ["x"] }])
            }),
            signed(|_, claims| claims["exp"] = json!("never")),
        ];
        for ticket in foreign {
            assert_eq!(tickets.redeem(&ticket, NOW), Err(TicketFault::Foreign), "{ticket:.100}");
        }
    }
}
