//! What a scripted upstream holds, and the answers that a registry without faults would give.

use std::collections::{BTreeMap, HashMap, HashSet};

use binaryrepo::names::{Digest, MediaType, RangeRequest};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::image::{Content, Image, Index};

/// All images of one upstream.
#[derive(Debug, Default)]
pub struct Shelf {
    blobs: HashMap<Digest, Bytes>,
    images: HashMap<String, Held>,
}

#[derive(Debug, Default)]
struct Held {
    blobs: HashSet<Digest>,
    manifests: HashMap<Digest, (String, Bytes)>,
    tags: BTreeMap<String, Digest>,
    referrers: HashMap<Digest, Vec<Value>>,
}

/// An answer before anything goes wrong with it.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { status, headers: HeaderMap::new(), body: body.into() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }

    fn error(status: u16, code: &str) -> Self {
        let body = json!({ "errors": [{ "code": code, "message": code.to_lowercase() }] });
        Self::new(status, body.to_string()).with("content-type", "application/json")
    }
}

impl Shelf {
    pub fn add_blob(&mut self, image: &str, content: &Content) {
        self.blobs.insert(content.digest, content.bytes.clone());
        self.held(image).blobs.insert(content.digest);
    }

    pub fn add_manifest(&mut self, image: &str, media_type: &str, content: &Content) {
        let manifest = (media_type.to_owned(), content.bytes.clone());
        self.held(image).manifests.insert(content.digest, manifest);
    }

    pub fn add_image(&mut self, name: &str, image: &Image) {
        for blob in image.blobs() {
            self.add_blob(name, blob);
        }
        self.add_manifest(name, Image::MEDIA_TYPE, &image.manifest);
    }

    pub fn add_index(&mut self, name: &str, index: &Index) {
        for image in &index.images {
            self.add_image(name, image);
        }
        self.add_manifest(name, Index::MEDIA_TYPE, &index.manifest);
    }

    pub fn tag(&mut self, image: &str, tag: &str, digest: Digest) {
        self.held(image).tags.insert(tag.to_owned(), digest);
    }

    pub fn untag(&mut self, image: &str, tag: &str) {
        self.held(image).tags.remove(tag);
    }

    /// `descriptor` is one entry of the index that the referrers of `subject` are listed in.
    pub fn add_referrer(&mut self, image: &str, subject: Digest, descriptor: Value) {
        self.held(image).referrers.entry(subject).or_default().push(descriptor);
    }

    fn held(&mut self, image: &str) -> &mut Held {
        self.images.entry(image.to_owned()).or_default()
    }

    /// `path` is what follows `/v2/`.
    pub fn answer(&self, path: &str, query: &str, range: Option<&str>) -> Answer {
        if path.is_empty() {
            return Answer::new(200, "{}").with("content-type", "application/json");
        }
        for (word, code) in
            [("/manifests/", "MANIFEST_UNKNOWN"), ("/blobs/", "BLOB_UNKNOWN"), ("/referrers/", "")]
        {
            let Some((name, rest)) = path.rsplit_once(word) else {
                continue;
            };
            let Some(held) = self.images.get(name) else {
                return Answer::error(404, "NAME_UNKNOWN");
            };
            let found = match word {
                "/manifests/" => held.manifest(rest),
                "/blobs/" => self.blob(held, rest, range),
                _ => Some(held.referrers(rest, query)),
            };
            return found.unwrap_or_else(|| Answer::error(404, code));
        }
        match path.strip_suffix("/tags/list").and_then(|name| Some((name, self.images.get(name)?))) {
            Some((name, held)) => held.tags(name, query),
            None => Answer::error(404, "NAME_UNKNOWN"),
        }
    }

    fn blob(&self, held: &Held, digest: &str, range: Option<&str>) -> Option<Answer> {
        let digest: Digest = digest.parse().ok()?;
        let whole = self.blobs.get(&digest).filter(|_| held.blobs.contains(&digest))?;
        let size = whole.len() as u64;
        let answer = match RangeRequest::parse(range.unwrap_or_default()).resolve(size) {
            Ok(None) => Answer::new(200, whole.clone()),
            Ok(Some(part)) => {
                let bounds = usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap();
                let said = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                Answer::new(206, whole.slice(bounds)).with("content-range", &said)
            }
            Err(_) => Answer::new(416, "").with("content-range", &format!("bytes */{size}")),
        };
        let answer = answer.with("content-type", "application/octet-stream").with("accept-ranges", "bytes");
        let answer = answer.with("etag", &format!("\"{digest}\""));
        Some(answer.with("docker-content-digest", &digest.to_string()))
    }
}

impl Held {
    fn manifest(&self, reference: &str) -> Option<Answer> {
        let digest = match reference.parse() {
            Ok(digest) => digest,
            Err(_) => *self.tags.get(reference)?,
        };
        let (media_type, bytes) = self.manifests.get(&digest)?;
        let answer = Answer::new(200, bytes.clone()).with("content-type", media_type);
        Some(answer.with("docker-content-digest", &digest.to_string()))
    }

    fn tags(&self, name: &str, query: &str) -> Answer {
        let most = parameter(query, "n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let last = parameter(query, "last").unwrap_or_default();
        let mut rest = self.tags.keys().filter(|tag| **tag > last);
        let page: Vec<&String> = rest.by_ref().take(most).collect();
        let link = page
            .last()
            .filter(|_| rest.next().is_some())
            .map(|last| format!("</v2/{name}/tags/list?n={most}&last={last}>; rel=\"next\""));
        let answer = Answer::new(200, json!({ "name": name, "tags": page }).to_string());
        let answer = answer.with("content-type", "application/json");
        link.map(|link| ("link", link))
            .into_iter()
            .fold(answer, |answer, (name, value)| answer.with(name, &value))
    }

    fn referrers(&self, subject: &str, query: &str) -> Answer {
        let wanted = parameter(query, "artifactType");
        let known = subject.parse().ok().and_then(|subject: Digest| self.referrers.get(&subject));
        let manifests: Vec<&Value> = known
            .into_iter()
            .flatten()
            .filter(|descriptor| wanted.as_deref().is_none_or(|wanted| descriptor["artifactType"] == wanted))
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests });
        let answer = Answer::new(200, index.to_string()).with("content-type", MediaType::OCI_INDEX);
        if wanted.is_some() { answer.with("oci-filters-applied", "artifactType") } else { answer }
    }
}

/// One parameter of a query, decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
