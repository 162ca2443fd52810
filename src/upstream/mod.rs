//! Owns fetching from a registry: addresses, connections, tokens, redirects, time-outs.
//! Must not know: cache, store, what is done with the bytes.
//!
//! Nothing here tries again, but for a token that was refused once and a pooled connection that turned
//! out to be closed: how often and how soon is for the caller to decide.

mod address;
mod auth;
mod body;
mod client;
mod dialer;
mod error;
mod headers;
mod model;
mod proxy;
mod redirect;
mod tls;
mod wire;

pub use body::BlobStream;
pub use error::{Kind, UpstreamError};
pub use model::{
    BlobResponse, Listing, ManifestBody, ManifestHead, Page, RateLimit, Resume, Settings, SettingsError,
    Timeouts,
};
pub use proxy::Proxies;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, IF_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use self::address::Written;
use self::auth::Auth;
use self::client::{Answer, Ask, Client};
use self::dialer::Dialer;
use self::headers::{ContentRange, is_strong, next_query, strong_etag, text};
use self::wire::Wire;
use crate::clock::Clock;
use crate::names::{Digest, ImageName, MediaType, Reference};
use crate::planted::Bug;

/// The longest manifest that is read.
const MOST_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// The longest page of tags or referrers that is read.
const MOST_PAGE_BYTES: u64 = 8 * 1024 * 1024;

const DIGEST: &str = "docker-content-digest";
const FILTERS_APPLIED: &str = "oci-filters-applied";

/// The client of one registry. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Upstream {
    base: Url,
    client: Arc<Client>,
}

impl Upstream {
    /// A client that uses the proxies of the environment.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        Self::with_proxies(settings, clock, Proxies::from_env())
    }

    pub fn with_proxies(settings: Settings, clock: Clock, proxies: Proxies) -> Result<Self, SettingsError> {
        let base = checked_base(settings.base)?;
        let basic = basic_credentials(settings.username.as_deref(), settings.password.as_ref())?;
        let written = Arc::new(Written::new(&base, &settings.allowed_hosts)?);
        let proxies = Arc::new(proxies);
        let tls = tls::client_config(settings.ca_file.as_deref())?;
        let timeouts = settings.timeouts;
        let dialer = Dialer::new(written.clone(), proxies.clone(), tls, timeouts.connect);
        let wire = Arc::new(Wire::new(dialer, proxies, timeouts.head));
        let auth = Auth::new(wire.clone(), base.clone(), written, basic, clock.clone(), timeouts.idle);
        Ok(Self { base, client: Arc::new(Client::new(wire, auth, clock, timeouts.idle)) })
    }

    pub fn base(&self) -> &Url {
        &self.base
    }

    /// For logs: host and port only.
    pub fn host_label(&self) -> String {
        wire::place(&self.base)
    }

    /// What the registry last said of its pull limit.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.client.rate_limit()
    }

    /// Starts to fetch a blob, from its beginning or from where an earlier answer broke off. Who asks
    /// to go on may get the whole all the same: see [`BlobResponse::offset`].
    pub async fn blob(
        &self,
        image: &ImageName,
        digest: &Digest,
        from: Option<Resume>,
    ) -> Result<BlobResponse, UpstreamError> {
        let from = from.filter(|resume| resume.at > 0);
        let mut ask = self.ask(Method::GET, image, &format!("blobs/{digest}"));
        if let Some(resume) = &from {
            ask.headers.insert(RANGE, ascii(&format!("bytes={}-", resume.at)));
            if let Some(tag) = resume.validator.as_deref().filter(|tag| is_strong(tag)) {
                ask.headers.extend(HeaderValue::from_str(tag).ok().map(|tag| (IF_RANGE, tag)));
            }
        }
        let answer = self.client.send(&ask).await?;
        let answer = if from.is_some() { answer.whole_or_part()? } else { answer.whole()? };
        let length = answer.length()?;
        let (offset, size) = match from {
            Some(resume) if answer.status == StatusCode::PARTIAL_CONTENT => {
                (resume.at, Some(continued(&answer, resume.at, length)?))
            }
            _ => (0, length),
        };
        let validator = strong_etag(&answer.headers);
        Ok(BlobResponse { offset, size, validator, body: answer.body })
    }

    /// Asks whether the image has this blob, and for its size, without a HEAD, which some refuse.
    pub async fn probe_blob(&self, image: &ImageName, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let mut ask = self.ask(Method::GET, image, &format!("blobs/{digest}"));
        ask.headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.client.send(&ask).await?;
        let range = ContentRange::read(&answer.headers);
        match (answer.status, range) {
            // The one blob that has no first byte.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(ContentRange::Unsatisfied { total: 0 })) => Ok(Some(0)),
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Part { first: 0, total, .. })) => {
                Ok(Some(total))
            }
            (StatusCode::PARTIAL_CONTENT, _) => {
                Err(answer.error(Kind::BadResponse, "another part than the one that was asked for"))
            }
            _ => answer.whole_or_part()?.length(),
        }
    }

    /// Costs no pull where pulls are counted.
    pub async fn head_manifest(
        &self,
        image: &ImageName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        let answer = self.client.send(&self.ask_manifest(Method::HEAD, image, reference)).await?;
        if matches!(answer.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
            return Err(answer.error(Kind::HeadUnsupported, "answers no HEAD of a manifest"));
        }
        let answer = answer.whole()?;
        Ok(ManifestHead {
            digest: text(&answer.headers, DIGEST).and_then(|digest| digest.parse().ok()),
            media_type: text(&answer.headers, CONTENT_TYPE).and_then(MediaType::parse),
            size: answer.length()?,
        })
    }

    /// A manifest, as it is: nothing about its bytes has been checked but their number.
    pub async fn manifest(
        &self,
        image: &ImageName,
        reference: &Reference,
    ) -> Result<ManifestBody, UpstreamError> {
        let answer = self.client.send(&self.ask_manifest(Method::GET, image, reference)).await?.whole()?;
        let Some(media_type) = text(&answer.headers, CONTENT_TYPE).and_then(MediaType::parse) else {
            return Err(answer.error(Kind::BadResponse, "a manifest without a media type"));
        };
        refuse_a_page_for_people(&answer, media_type.as_str())?;
        let claimed = text(&answer.headers, DIGEST).and_then(|digest| digest.parse().ok());
        let bytes = read_within(answer, MOST_MANIFEST_BYTES).await?;
        Ok(ManifestBody { media_type, bytes, claimed })
    }

    /// One page of a list. `query` is passed on; of the next page's address only the query comes back.
    pub async fn listing(
        &self,
        image: &ImageName,
        listing: &Listing,
        query: &str,
    ) -> Result<Page, UpstreamError> {
        let rest = match listing {
            Listing::Tags => "tags/list".to_owned(),
            Listing::Referrers(digest) => format!("referrers/{digest}"),
        };
        let mut ask = self.ask(Method::GET, image, &rest);
        ask.url.set_query((!query.is_empty()).then_some(query));
        ask.headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/vnd.oci.image.index.v1+json, application/json"),
        );
        let answer = self.client.send(&ask).await?.whole()?;
        let media_type = text(&answer.headers, CONTENT_TYPE).unwrap_or("application/json").to_owned();
        refuse_a_page_for_people(&answer, &media_type)?;
        let status = answer.status.as_u16();
        let next_query = next_query(&answer.headers, &ask.url);
        let filters_applied = text(&answer.headers, FILTERS_APPLIED).map(str::to_owned);
        let bytes = read_within(answer, MOST_PAGE_BYTES).await?;
        Ok(Page { status, media_type, bytes, next_query, filters_applied })
    }

    /// Whether the registry answers, and takes our credentials.
    pub async fn ping(&self) -> Result<(), UpstreamError> {
        let ask = Ask { method: Method::GET, url: self.url(""), headers: HeaderMap::new(), image: None };
        let answer = self.client.send(&ask).await?.whole()?;
        answer.body.drain().await;
        Ok(())
    }

    fn ask_manifest(&self, method: Method, image: &ImageName, reference: &Reference) -> Ask {
        let mut ask = self.ask(method, image, &format!("manifests/{reference}"));
        ask.headers.insert(ACCEPT, HeaderValue::from_static(MediaType::ACCEPT));
        ask
    }

    fn ask(&self, method: Method, image: &ImageName, rest: &str) -> Ask {
        let url = self.url(&format!("{}/{rest}", image.as_str()));
        Ask { method, url, headers: HeaderMap::new(), image: Some(image.clone()) }
    }

    /// Names, digests and tags hold nothing that would need escaping in a path.
    fn url(&self, rest: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/{rest}"));
        url
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

fn checked_base(base: Url) -> Result<Url, SettingsError> {
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err(SettingsError::Address);
    }
    let bare = base.username().is_empty() && base.password().is_none();
    if !bare || base.query().is_some() || base.fragment().is_some() {
        return Err(SettingsError::Extras);
    }
    Ok(base)
}

fn basic_credentials(
    username: Option<&str>,
    password: Option<&SecretString>,
) -> Result<Option<HeaderValue>, SettingsError> {
    let (username, password) = match (username, password) {
        (None, None) => return Ok(None),
        (Some(username), Some(password)) => (username, password),
        _ => return Err(SettingsError::HalfCredentials),
    };
    // A colon would end the user name early (RFC 7617).
    if username.contains(':') {
        return Err(SettingsError::Credentials);
    }
    let pair = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
    let mut basic = ascii(&format!("Basic {pair}"));
    basic.set_sensitive(true);
    Ok(Some(basic))
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits, words and base64 make a header value")
}

/// The size of the whole, if the answer goes on at `at` and goes on to the end.
fn continued(answer: &Answer, at: u64, length: Option<u64>) -> Result<u64, UpstreamError> {
    match ContentRange::read(&answer.headers) {
        Some(ContentRange::Part { first, last, total })
            if first == at && last + 1 == total || Bug::ContentRangeNotRead.is_planted() =>
        {
            if length.is_some_and(|length| length != total - at) && !Bug::ContentRangeNotRead.is_planted() {
                return Err(
                    answer.error(Kind::BadResponse, "the length of the part is not that of its range")
                );
            }
            Ok(total)
        }
        _ => Err(answer.error(Kind::BadResume, "goes on at another byte than was asked for")),
    }
}

/// A log-in page or a proxy's error page with status 200 is no answer of a registry.
fn refuse_a_page_for_people(answer: &Answer, media_type: &str) -> Result<(), UpstreamError> {
    if media_type.to_ascii_lowercase().starts_with("text/html") {
        return Err(answer.error(Kind::BadResponse, "an HTML page, which no registry sends"));
    }
    Ok(())
}

async fn read_within(answer: Answer, most: u64) -> Result<bytes::Bytes, UpstreamError> {
    if answer.length()?.is_some_and(|length| length > most) {
        return Err(answer.error(Kind::TooLarge, &format!("the answer is longer than {most} bytes")));
    }
    answer.body.read_all(most).await
}
