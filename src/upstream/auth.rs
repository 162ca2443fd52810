//! Owns showing who we are: challenges, the trust in a token server, tokens fetched once for many.
//! Must not know: what is asked for behind the token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::address::Written;
use super::body::BlobStream;
use super::error::{Kind, UpstreamError};
use super::headers::retry_after;
use super::wire::{Wire, place};
use crate::clock::{Clock, Millis};
use crate::names::ImageName;
use crate::planted::Bug;

/// The longest answer of a token server that is read.
const MOST_TOKEN_BYTES: u64 = 64 * 1024;
/// What a token lives that does not say.
const DEFAULT_LIFETIME: u64 = 60;
/// A token that says more is fetched anew all the same.
const LONGEST_LIFETIME: u64 = 24 * 3600;
/// Tokens are kept for this many images; over that, those that nobody is waiting for go.
const MOST_TOKENS: usize = 4096;

/// What to send with a request.
#[derive(Clone, Debug)]
pub(super) enum Pass {
    Nothing,
    Basic(HeaderValue),
    /// `granted`: just now, so that a refusal is not about its age.
    Token {
        text: HeaderValue,
        granted: bool,
    },
}

impl Pass {
    /// Whether a refusal of it is about what was asked for.
    pub(super) fn is_just_granted(&self) -> bool {
        matches!(self, Self::Token { granted: true, .. })
    }

    pub(super) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::Basic(text) | Self::Token { text, .. } => Some(text),
        }
    }
}

/// How the upstream wants to be convinced, as it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// Credentials and tokens for one upstream.
pub(super) struct Auth {
    wire: Arc<Wire>,
    base: Url,
    written: Arc<Written>,
    basic: Option<HeaderValue>,
    clock: Clock,
    idle: Duration,
    challenge: ArcSwapOption<Challenge>,
    /// By the token's address. There is one credential here, so that it is part of every key.
    tokens: DashMap<Url, Arc<Slot>>,
}

/// One token, and the queue of those who want it.
struct Slot {
    /// How often it has been asked for. Whoever sees it change while queueing takes that outcome,
    /// good or bad, instead of asking again.
    asked: AtomicU64,
    last: Mutex<Option<Result<Token, UpstreamError>>>,
}

#[derive(Clone, Debug)]
struct Token {
    text: HeaderValue,
    expires: Millis,
}

impl Auth {
    /// `basic`: the credentials as an `Authorization` header.
    pub(super) fn new(
        wire: Arc<Wire>,
        base: Url,
        written: Arc<Written>,
        basic: Option<HeaderValue>,
        clock: Clock,
        idle: Duration,
    ) -> Self {
        let (challenge, tokens) = (ArcSwapOption::empty(), DashMap::new());
        Self { wire, base, written, basic, clock, idle, challenge, tokens }
    }

    /// What to send at first: nothing until the upstream has asked once.
    pub(super) async fn pass(&self, image: Option<&ImageName>) -> Result<Pass, UpstreamError> {
        match self.challenge.load_full().as_deref() {
            None => Ok(Pass::Nothing),
            Some(Challenge::Basic) => Ok(self.basic.clone().map_or(Pass::Nothing, Pass::Basic)),
            Some(Challenge::Bearer { realm, service }) => {
                self.token(token_url(realm, service.as_deref(), image), None).await
            }
        }
    }

    /// What to send after a 401 to `pass`. Ends after at most three: nothing, an old token, a new one.
    pub(super) async fn after_refusal(
        &self,
        pass: &Pass,
        headers: &HeaderMap,
        image: Option<&ImageName>,
    ) -> Result<Pass, UpstreamError> {
        let is_token = matches!(pass, Pass::Token { .. });
        if pass.is_just_granted() || is_token && Bug::TokenNeverRenewed.is_planted() {
            return Err(
                self.refused(Kind::Denied, "access is refused, although a token has just been granted")
            );
        }
        let offered = challenges(headers);
        match (offered.bearer, &self.basic, pass) {
            (Some((realm, service)), ..) => {
                let realm = self.trusted_realm(&realm)?;
                let url = token_url(&realm, service.as_deref(), image);
                if pass.header().is_some() {
                    tracing::info!(
                        upstream = place(&self.base),
                        "token_refresh: an upstream takes its token no more"
                    );
                }
                self.remember(Challenge::Bearer { realm, service });
                self.token(url, pass.header()).await
            }
            (None, Some(_), Pass::Basic(_)) => {
                Err(self.refused(Kind::OwnCredentials, "refuses the configured user name and password"))
            }
            (None, Some(basic), _) if offered.basic => {
                self.remember(Challenge::Basic);
                Ok(Pass::Basic(basic.clone()))
            }
            (None, None, _) if offered.basic => Err(self
                .refused(Kind::OwnCredentials, "wants a user name and a password, and none are configured")),
            _ => Err(self.refused(Kind::BadResponse, "answers 401 without a challenge that we can meet")),
        }
    }

    fn remember(&self, challenge: Challenge) {
        if self.challenge.load().as_deref() != Some(&challenge) {
            self.challenge.store(Some(Arc::new(challenge)));
        }
    }

    fn refused(&self, kind: Kind, what: &str) -> UpstreamError {
        let status = Some(StatusCode::UNAUTHORIZED.as_u16());
        UpstreamError { status, ..UpstreamError::new(kind, format!("{} {what}", place(&self.base))) }
    }

    /// A token server is asked only where it can be no stranger: it gets our password, and its answer
    /// decides what we show the registry. Its address is judged when it is connected to.
    fn trusted_realm(&self, realm: &str) -> Result<Url, UpstreamError> {
        let refuse = |what: &str| {
            Err(UpstreamError::new(Kind::Realm, format!("{}: its token server {what}", place(&self.base))))
        };
        let Ok(url) = Url::parse(realm) else {
            return refuse("has no valid address");
        };
        let Some(host) = url.host_str() else {
            return refuse("has no host in its address");
        };
        if url.scheme() != "https" && (url.scheme() != "http" || self.base.scheme() != "http") {
            return refuse(&format!("{host} is not reached by https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(&format!("{host} is named with credentials of its own"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !self.written.covers(host, port) && !share_a_domain(&self.base, &url) {
            return refuse(&format!(
                "lies at another host, {host}, which is not among the allowed hosts; \
                 list it there if it may have the credentials"
            ));
        }
        Ok(url)
    }

    /// A token for what `url` asks, other than `rejected`.
    async fn token(&self, url: Url, rejected: Option<&HeaderValue>) -> Result<Pass, UpstreamError> {
        let slot = self.slot(&url);
        let before = slot.asked.load(Ordering::Acquire);
        let mut last = slot.last.lock().await;
        let asked_meanwhile = slot.asked.load(Ordering::Acquire) != before;
        match &*last {
            Some(Ok(token)) if asked_meanwhile => return Ok(token.pass(true)),
            Some(Err(error)) if asked_meanwhile => return Err(error.clone()),
            Some(Ok(token)) if token.is_usable(self.clock.now()) && Some(&token.text) != rejected => {
                return Ok(token.pass(false));
            }
            _ => {}
        }
        let outcome = self.fetch(&url).await;
        slot.asked.fetch_add(1, Ordering::AcqRel);
        *last = Some(outcome.clone());
        Ok(outcome?.pass(true))
    }

    fn slot(&self, url: &Url) -> Arc<Slot> {
        if self.tokens.len() >= MOST_TOKENS {
            self.tokens.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let empty = || Arc::new(Slot { asked: AtomicU64::new(0), last: Mutex::new(None) });
        self.tokens.entry(url.clone()).or_insert_with(empty).clone()
    }

    async fn fetch(&self, url: &Url) -> Result<Token, UpstreamError> {
        let headers = self.basic.iter().map(|basic| (AUTHORIZATION, basic.clone())).collect();
        let asked_at = self.clock.now();
        let response = self.wire.exchange(&Method::GET, url, &headers, Kind::Realm).await?;
        let (head, body) = response.into_parts();
        let body = BlobStream::new(body, self.clock.clone(), place(url), self.idle);
        let fail = |kind, what: &str| UpstreamError {
            status: Some(head.status.as_u16()),
            retry_after: retry_after(&head.headers, self.clock.wall()),
            ..UpstreamError::new(kind, format!("token server {}: {what}", place(url)))
        };
        match head.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED if self.basic.is_none() => {
                return Err(fail(
                    Kind::OwnCredentials,
                    "wants a user name and a password; none are configured",
                ));
            }
            StatusCode::UNAUTHORIZED => {
                return Err(fail(Kind::OwnCredentials, "refuses the configured user name and password"));
            }
            StatusCode::FORBIDDEN => return Err(fail(Kind::Forbidden, "grants no access")),
            StatusCode::TOO_MANY_REQUESTS => return Err(fail(Kind::RateLimited, "too many requests")),
            status if status.is_server_error() => return Err(fail(Kind::Status5xx, status.as_str())),
            status if status.is_redirection() => {
                return Err(fail(Kind::Realm, "redirects, which is not followed with credentials"));
            }
            status => return Err(fail(Kind::BadResponse, &format!("unexpected status {}", status.as_str()))),
        }
        let bytes = body.read_all(MOST_TOKEN_BYTES).await.map_err(|error| match error.kind {
            Kind::TooLarge => fail(Kind::BadResponse, "the answer is longer than 64 KiB"),
            _ => error,
        })?;
        Token::read(&bytes, asked_at).ok_or_else(|| fail(Kind::BadResponse, "the answer holds no token"))
    }
}

impl Token {
    fn read(json: &[u8], asked_at: Millis) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<serde_json::Value>,
        }
        let answer: Answer = serde_json::from_slice(json).ok()?;
        let given = |text: &String| !text.is_empty();
        let bearer = answer.token.filter(given).or(answer.access_token.filter(given))?;
        let mut text = HeaderValue::try_from(format!("Bearer {bearer}")).ok()?;
        text.set_sensitive(true);
        let said = answer.expires_in.as_ref().and_then(serde_json::Value::as_u64);
        let lifetime = said.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_LIFETIME).min(LONGEST_LIFETIME);
        // A tenth of its life, 30 s at most, is left for the way there and for clocks that differ.
        let usable = Duration::from_secs(lifetime)
            - Duration::from_millis(lifetime * 100).min(Duration::from_secs(30));
        Some(Self { text, expires: asked_at.after(usable) })
    }

    fn is_usable(&self, now: Millis) -> bool {
        now < self.expires
    }

    fn pass(&self, granted: bool) -> Pass {
        Pass::Token { text: self.text.clone(), granted }
    }
}

/// Asks for no more than reading the one image, whatever scope the challenge names: some registries
/// send a placeholder, and some refuse more than is granted.
fn token_url(realm: &Url, service: Option<&str>, image: Option<&ImageName>) -> Url {
    let mut url = realm.clone();
    url.set_fragment(None);
    let mut query = url.query_pairs_mut();
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    if let Some(image) = image {
        query.append_pair("scope", &format!("repository:{}:pull", image.as_str()));
    }
    drop(query);
    url
}

/// Whether two names belong to one registrant, by the public suffix list. Addresses never do.
fn share_a_domain(one: &Url, other: &Url) -> bool {
    let (Some(one), Some(other)) = (one.domain(), other.domain()) else {
        return false;
    };
    let registrable = psl::domain_str(one);
    registrable.is_some() && registrable == psl::domain_str(other)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Offered {
    /// Realm, still unjudged, and service.
    bearer: Option<(String, Option<String>)>,
    basic: bool,
}

/// What the `WWW-Authenticate` headers offer; a header that cannot be parsed offers nothing.
fn challenges(headers: &HeaderMap) -> Offered {
    let mut offered = Offered::default();
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        for challenge in http_auth::parse_challenges(value).unwrap_or_default() {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                offered.basic = true;
            } else if challenge.scheme.eq_ignore_ascii_case("bearer") && offered.bearer.is_none() {
                offered.bearer = parameter("realm").map(|realm| (realm, parameter("service")));
            }
        }
    }
    offered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn challenges_are_found_among_others() {
        let offered = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
            }
            challenges(&headers)
        };
        let bearer = Some(("https://auth.example/t".to_owned(), Some("a, \"b\"".to_owned())));
        let text = r#"Negotiate, bearer realm="https://auth.example/t",service="a, \"b\"",scope="x""#;
        assert_eq!(offered(&[text]), Offered { bearer: bearer.clone(), basic: false });
        assert_eq!(offered(&["Basic realm=\"r\"", text]), Offered { bearer, basic: true });
        assert_eq!(offered(&["Bearer service=\"no realm\""]), Offered::default());
        assert_eq!(offered(&["=,=\"", ""]), Offered::default());
    }

    #[test]
    fn the_challenges_of_known_registries_are_understood_and_trusted() {
        let lines: Vec<_> = include_str!("../../fixtures/challenges.txt").lines().collect();
        assert!(lines.len() > 5);
        for line in lines {
            let (registry, header) = line.split_once(" | ").unwrap();
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, header.parse().unwrap());
            let Offered { bearer, basic } = challenges(&headers);
            assert_eq!(basic, header.starts_with("Basic"), "{line}");
            if let Some((realm, _)) = &bearer {
                let (base, realm) = (url(registry), url(realm));
                let trusted = base.host_str() == realm.host_str() || share_a_domain(&base, &realm);
                assert!(trusted, "{line}");
            }
            assert!(bearer.is_some() != basic, "{line}");
        }
    }

    #[test]
    fn a_domain_is_shared_by_one_registrant_only() {
        let base = url("https://registry.gitlab.com");
        assert!(share_a_domain(&base, &url("https://gitlab.com/jwt/auth")));
        assert!(share_a_domain(&url("https://a.foo.co.uk"), &url("https://b.foo.co.uk")));
        for stranger in ["https://gitlab.com.evil.org", "https://evilgitlab.com", "https://com"] {
            assert!(!share_a_domain(&base, &url(stranger)), "{stranger}");
        }
        assert!(!share_a_domain(&url("https://a.co.uk"), &url("https://b.co.uk")));
        assert!(!share_a_domain(&url("https://a.github.io"), &url("https://b.github.io")));
        assert!(!share_a_domain(&url("https://10.0.0.1"), &url("https://127.0.0.1")));
        assert!(!share_a_domain(&url("https://localhost"), &url("https://127.0.0.1")));
    }

    #[test]
    fn a_token_without_a_lifetime_lives_a_minute_less_its_margin() {
        let read = |json: &str| Token::read(json.as_bytes(), Millis(0)).map(|token| token.expires.0);
        assert_eq!(read(r#"{"token":"t"}"#), Some(54_000));
        assert_eq!(read(r#"{"access_token":"t","expires_in":0}"#), Some(54_000));
        assert_eq!(read(r#"{"token":"","access_token":"t","expires_in":300}"#), Some(270_000));
        assert_eq!(read(r#"{"token":"t","expires_in":3600}"#), Some(3_570_000));
        assert_eq!(read(r#"{"token":"t","expires_in":"soon"}"#), Some(54_000));
        assert_eq!(read(r#"{"token":"t","expires_in":99999999999999}"#), Some(86_370_000));
        for none in ["", "{}", "[]", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":5}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn the_scope_is_our_own_and_the_realm_keeps_its_query() {
        let image: ImageName = "library/redis".parse().unwrap();
        let asked = token_url(&url("https://auth.example/t?x=1#y"), Some("reg istry"), Some(&image));
        assert_eq!(
            asked.as_str(),
            "https://auth.example/t?x=1&service=reg+istry&scope=repository%3Alibrary%2Fredis%3Apull"
        );
    }
}
