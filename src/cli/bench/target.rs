//! Owns what a herd pulls: a blob or an image, from the URL that a person writes.
//! Must not know: connections.

use std::str::FromStr;

use binaryrepo::names::{Digest, Reference};
use http::Uri;

/// One thing in one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Host and port as they were written, for the `Host` header.
    pub authority: String,
    /// The path of the image: `/v2/docker-remote/redis`.
    pub image: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Blob(Digest),
    Image(Reference),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
        let tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the URL begins with neither http:// nor https://".to_owned()),
        };
        let authority = url.authority().ok_or("the URL has no host")?;
        if authority.as_str().contains('@') || url.query().is_some() {
            return Err("a herd sends neither user nor query".to_owned());
        }
        let (image, what) = thing(url.path())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, authority: authority.to_string(), image, what })
    }
}

/// The image's path and what is meant in it.
fn thing(path: &str) -> Result<(String, What), String> {
    if !path.contains("/v2/") {
        return image(path);
    }
    let (before, last) = path.rsplit_once('/').unwrap_or_default();
    match before.rsplit_once('/') {
        Some((image, "blobs")) => {
            let digest = last.parse().map_err(|error| format!("`{last}` is no digest: {error}"))?;
            Ok((image.to_owned(), What::Blob(digest)))
        }
        Some((image, "manifests")) => Ok((image.to_owned(), What::Image(reference(last)?))),
        _ => Err("a path below /v2/ ends with blobs/DIGEST or manifests/REFERENCE".to_owned()),
    }
}

/// `/docker-remote/redis:7`, as one would write it behind `docker pull`.
fn image(path: &str) -> Result<(String, What), String> {
    let path = path.trim_start_matches('/');
    let (name, reference_text) = match path.split_once('@') {
        Some((name, digest)) => (name, digest),
        // A colon before the last slash would be a port.
        None => path.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((path, "latest")),
    };
    if name.is_empty() {
        return Err("the URL names no image".to_owned());
    }
    Ok((format!("/v2/{name}"), What::Image(reference(reference_text)?)))
}

fn reference(text: &str) -> Result<Reference, String> {
    text.parse().map_err(|error| format!("`{text}` is neither tag nor digest: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn images_and_blobs_are_written_in_several_ways() {
        let blob = What::Blob(DIGEST.parse().expect("a digest"));
        let tag = |tag: &str| What::Image(tag.parse().expect("a tag"));
        let by_digest = What::Image(DIGEST.parse().expect("a digest"));
        let digest = DIGEST;
        for (path, image, what) in [
            ("/docker-remote/redis", "/v2/docker-remote/redis", tag("latest")),
            ("/docker-remote/redis:7", "/v2/docker-remote/redis", tag("7")),
            (&format!("/docker-remote/redis@{digest}"), "/v2/docker-remote/redis", by_digest),
            ("/v2/a/b/manifests/7", "/v2/a/b", tag("7")),
            ("/repo/hub/v2/a/manifests/7", "/repo/hub/v2/a", tag("7")),
            (&format!("/v2/a/b/blobs/{digest}"), "/v2/a/b", blob),
        ] {
            let target: Target = format!("http://127.0.0.1:8081{path}").parse().expect(path);
            assert_eq!((target.image.as_str(), target.what), (image, what), "{path}");
        }
    }

    #[test]
    fn hosts_keep_their_port_and_lose_their_brackets() {
        let read = |url: &str| url.parse::<Target>().map(|target| (target.tls, target.host, target.port));
        assert_eq!(read("https://hub.localhost/a"), Ok((true, "hub.localhost".to_owned(), 443)));
        assert_eq!(read("http://[::1]:8081/a"), Ok((false, "::1".to_owned(), 8081)));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for url in [
            "localhost:8081/a",
            "ftp://host/a",
            "http://host",
            "http://host/",
            "http://user@host/a",
            "http://host/a?ns=docker.io",
            "http://host/v2/a/blobs/latest",
            "http://host/v2/a/tags/list",
            "http://host/a:",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }
}
