//! Owns which addresses an upstream's answer may lead us to.
//! Must not know: names, connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Url;

use super::model::SettingsError;

/// Whether an address belongs to the public internet (IANA special-purpose address registries).
/// What is neither known to be public nor written down by the administrator is not visited.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]              // this network, private, loopback
            | [100, 64..=127, ..]       // shared by carriers
            | [169, 254, ..]            // link-local, where clouds keep their metadata
            | [172, 16..=31, ..]        // private
            | [192, 0, 0 | 2, _]        // protocol assignments, documentation
            | [192, 88, 99, _]          // 6to4 relays
            | [192, 168, ..]            // private
            | [198, 18 | 19, ..]        // benchmarks
            | [198, 51, 100, _]         // documentation
            | [203, 0, 113, _]          // documentation
            | [224..=255, ..] // multicast, reserved, broadcast
    )
}

/// Only global unicast, less what embeds or stands for something else. Mapped (`::ffff:0:0/96`),
/// translated (`64:ff9b::/96`), unique-local, link-local and multicast lie outside `2000::/3`.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let special = matches!(
        segments,
        [0x2001, 0..=0x1ff, ..]         // protocol assignments, Teredo
            | [0x2001, 0xdb8, ..]       // documentation
            | [0x2002, ..]              // 6to4: an IPv4 address in disguise
            | [0x3fff, 0..=0xfff, ..] // documentation
    );
    global && !special
}

/// The hosts that the administrator wrote down.
#[derive(Clone, Debug)]
pub(super) struct Written {
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    host: String,
    /// `None`: any.
    port: Option<u16>,
}

impl Written {
    pub(super) fn new(base: &Url, allowed: &[String]) -> Result<Self, SettingsError> {
        let own = Place { host: base.host_str().unwrap_or_default().to_owned(), port: None };
        let mut places = vec![own];
        for entry in allowed {
            let place = Place::parse(entry).ok_or_else(|| SettingsError::AllowedHost(entry.clone()))?;
            places.push(place);
        }
        Ok(Self { places })
    }

    /// `host` as a `Url` spells it: lower case, IPv6 in brackets.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        self.places.iter().any(|place| place.host == host && place.port.is_none_or(|own| own == port))
    }
}

impl Place {
    /// The URL parser spells hosts as it will spell them in redirects, odd forms of IP addresses too.
    fn parse(entry: &str) -> Option<Self> {
        let url = Url::parse(&format!("https://{entry}/")).ok()?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || entry.contains(['@', '/', '\\']) {
            return None;
        }
        let port = url.port().or_else(|| entry.ends_with(":443").then_some(443));
        Some(Self { host: url.host_str()?.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in ["8.8.8.8", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1", "2001:4860::8"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        let forbidden = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for address in forbidden {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn written_hosts_are_matched_exactly() {
        let base = Url::parse("https://Registry.example.com:5000").unwrap();
        let allowed = ["cdn.example.net", "10.0.0.9:9000", "0x7f000001", "[fd00::1]:443"].map(String::from);
        let written = Written::new(&base, &allowed).unwrap();
        assert!(written.covers("registry.example.com", 443));
        assert!(written.covers("cdn.example.net", 8443));
        assert!(written.covers("10.0.0.9", 9000));
        assert!(written.covers("127.0.0.1", 80));
        assert!(written.covers("[fd00::1]", 443));
        assert!(!written.covers("10.0.0.9", 9001));
        assert!(!written.covers("[fd00::1]", 80));
        assert!(!written.covers("evil.cdn.example.net", 443));
        assert!(!written.covers("example.com", 443));
        for bad in ["", "https://a", "a/b", "user@a", "a b", "a:99999", "a?b"] {
            assert!(Written::new(&base, &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
