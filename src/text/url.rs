//! Owns the addresses that an administrator writes down: a registry's URL, a host's name.
//! Must not know: what is fetched from there.

use url::{Host as UrlHost, Url};

use super::Parse;

/// `https://host[:port][/path]`, without user, query or fragment. Errors never repeat the text, since
/// it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl(pub Url);

impl Parse for WebUrl {
    const EXPECTED: &'static str = "a URL such as \"https://registry-1.docker.io\"";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text)
            .map_err(|error| format!("is not a URL ({error}): expected {}", Self::EXPECTED))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("must begin with https:// or http://: expected {}", Self::EXPECTED));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user or password: they have fields of their own".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not hold a query (`?`) or a fragment (`#`)".to_owned());
        }
        if matches!(url.host_str(), Some("docker.io" | "hub.docker.com" | "www.docker.com")) {
            return Err("is Docker's web site: its registry is https://registry-1.docker.io".to_owned());
        }
        if url.path().trim_end_matches('/').ends_with("/v2") {
            return Err("must not end in /v2: that part is added to every request".to_owned());
        }
        Ok(Self(url))
    }
}

/// The URL as people write it: without the slash that stands for no path.
pub fn url_text(url: &Url) -> &str {
    if url.path() == "/" { url.as_str().trim_end_matches('/') } else { url.as_str() }
}

/// `host` or `host:port`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(pub String);

impl Parse for Host {
    const EXPECTED: &'static str = "a host such as \"auth.docker.io\" or \"cdn.example.com:8443\"";

    fn parse(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("`{text}` is not a host: write \"auth.docker.io\" or \"cdn.example.com:8443\"");
        if text.contains('@') {
            return Err("is not a host: it holds an `@`".to_owned());
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
            _ => (text, None),
        };
        let valid_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let parsed = UrlHost::parse(name).map_err(|_| refuse())?;
        let valid_name = !matches!(&parsed, UrlHost::Domain(name) if !is_dns_name(name));
        if !valid_port || !valid_name {
            return Err(refuse());
        }
        Ok(Self(port.map_or_else(|| parsed.to_string(), |port| format!("{parsed}:{port}"))))
    }
}

/// A domain's name: no port, never an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(pub String);

impl Parse for Domain {
    const EXPECTED: &'static str = "a domain such as \"registry.example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        match UrlHost::parse(text) {
            Ok(UrlHost::Domain(name)) if is_dns_name(&name) => Ok(Self(name)),
            _ => Err(format!("`{text}` is not a domain: expected {}", Self::EXPECTED)),
        }
    }
}

/// URLs allow more than names have; a `*` would match nothing, silently.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.bytes().all(legal) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_urls_without_trimmings() {
        for good in
            ["https://registry-1.docker.io", "http://127.0.0.1:5000", "https://h/artifactory/api/docker/x"]
        {
            assert!(WebUrl::parse(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("registry-1.docker.io", "not a URL"),
            ("ftp://host", "https://"),
            ("https://host/?a=b", "query"),
            ("https://host/v2/", "/v2"),
            ("https://hub.docker.com", "registry-1.docker.io"),
        ] {
            let error = WebUrl::parse(bad).err().unwrap_or_default();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let error = WebUrl::parse("https://user:canary@host").err().unwrap_or_default();
        assert!(error.contains("fields of their own") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn domains_are_neither_addresses_nor_urls() {
        assert_eq!(
            Domain::parse("Registry.example.com").map(|domain| domain.0).as_deref(),
            Ok("registry.example.com")
        );
        for bad in ["", "10.0.0.1", "[::1]", "host:80", "https://host", "*.example.com"] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_have_a_name_and_perhaps_a_port() {
        for (text, stored) in [
            ("auth.docker.io", "auth.docker.io"),
            ("CDN.example.com:8443", "cdn.example.com:8443"),
            ("127.0.0.1:5001", "127.0.0.1:5001"),
            ("[::1]:5001", "[::1]:5001"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(Host::parse(text).map(|host| host.0).as_deref(), Ok(stored));
        }
        for bad in [
            "",
            "https://host",
            "host/path",
            "host:",
            "host:0",
            "host:70000",
            "user@host",
            "a b",
            "*.cdn.net",
            "a..b",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }
}
