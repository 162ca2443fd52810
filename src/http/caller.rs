//! Owns who sends a request and under which name this server was reached. What a proxy says counts only where
//! the proxy is trusted. Must not know: what is asked, and who may do what.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue, VIA};
use http::request::Parts;
use ipnet::IpNet;

use crate::docker::bare_host;
use crate::reply::X_REQUEST_ID;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// A name of 253 characters, a final dot, and a port.
const LONGEST_HOST: usize = 260;

/// Any of these shows that a proxy stands between, trusted or not.
static TRACES_OF_A_PROXY: [HeaderName; 7] = [
    FORWARDED,
    VIA,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PREFIX,
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// What stands in the log for an address where there is none.
pub const ADMIN_SOCKET: &str = "admin-socket";

/// The host that a client named, with its port: in order, and looked at once.
#[derive(Clone, Debug)]
pub struct Host(Arc<Named>);

#[derive(Debug)]
struct Named {
    text: String,
    is_loopback: bool,
}

impl Host {
    /// Clients come to the same host again and again, so each thread has the last one at hand.
    fn of(text: &str) -> Result<Self, HostFault> {
        thread_local! {
            static LAST: RefCell<Option<Host>> = const { RefCell::new(None) };
        }
        LAST.with_borrow_mut(|last| match last {
            Some(host) if host.0.text == text => Ok(host.clone()),
            _ => {
                let text = checked_host(text)?;
                let named = Named { text: text.to_owned(), is_loopback: is_loopback(&bare_host(text)) };
                Ok(last.insert(Self(Arc::new(named))).clone())
            }
        })
    }

    /// Whether it is a name of this machine, whoever asks.
    pub fn is_loopback(&self) -> bool {
        self.0.is_loopback
    }
}

impl Deref for Host {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "api.localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// The socket in the data directory: only this server's own user can open it.
    Admin,
}

impl Peer {
    /// The address, with an IPv4 address in its own form even on a socket of both.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(socket) => Some(socket.ip().to_canonical()),
            Self::Admin => None,
        }
    }

    pub fn is_any_of(self, nets: &[IpNet]) -> bool {
        self.address().is_some_and(|address| nets.iter().any(|net| net.contains(&address)))
    }

    /// A program on this machine; it may still be a proxy.
    pub fn is_loopback(self) -> bool {
        self.address().is_none_or(|address| address.is_loopback())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => f.write_str(ADMIN_SOCKET),
        }
    }
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub peer: Peer,
    /// The client's own address, as far as trusted proxies tell; `None` on the admin socket.
    pub client: Option<IpAddr>,
    pub host: Host,
    /// A trusted proxy says that the client speaks TLS to it.
    pub secure: bool,
    /// `X-Forwarded-Prefix` of a trusted proxy, without a slash at its end.
    pub prefix: Option<String>,
    /// A proxy stands between, trusted or not.
    pub proxied: bool,
    /// From this machine, and no proxy has left a trace.
    pub direct: bool,
}

/// The word under which a request is found again in the log. It can stand in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    text: [u8; Self::LONGEST],
    len: usize,
}

impl RequestId {
    const LONGEST: usize = 64;

    /// That of a trusted proxy, where it is a plain word, else a new one.
    pub fn of(parts: &Parts, peer: Peer, trusted: &[IpNet]) -> Self {
        let given = if peer.is_any_of(trusted) { only(&parts.headers, &X_REQUEST_ID) } else { None };
        given.and_then(|id| Self::given(id.as_bytes())).unwrap_or_else(Self::new)
    }

    fn given(id: &[u8]) -> Option<Self> {
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let mut text = [0; Self::LONGEST];
        text.get_mut(..id.len()).filter(|_| !id.is_empty() && id.iter().all(legal))?.copy_from_slice(id);
        Some(Self { text, len: id.len() })
    }

    /// 128 random bits. No secret: it only has to be found again.
    fn new() -> Self {
        // By arithmetic, for many at once.
        let digit = |nibble: u8| nibble + b'0' + u8::from(nibble > 9) * (b'a' - b'9' - 1);
        let mut text = [0; Self::LONGEST];
        for (pair, byte) in text.chunks_exact_mut(2).zip(fastrand::u128(..).to_be_bytes()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self { text, len: 32 }
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text[..self.len]).expect("a plain word")
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.text[..self.len]).expect("a plain word")
    }
}

/// Why a request's host cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    #[error("a request needs exactly one Host header")]
    NotOne,
    #[error("the Host header is no host name with an optional port")]
    Malformed,
    #[error("the request target names another host than the Host header")]
    Contradiction,
}

impl Caller {
    /// Reads the head of a request.
    pub fn read(parts: &Parts, peer: Peer, trusted: &[IpNet]) -> Result<Self, HostFault> {
        let headers = &parts.headers;
        let own = host(parts)?;
        let trusts = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        let by_proxy = peer.is_any_of(trusted);
        let forwarded = |name: HeaderName| if by_proxy { only_text(headers, &name) } else { None };
        let client = match peer.address() {
            Some(address) if by_proxy => Some(client(headers, address, trusts)),
            address => address,
        };
        let host = forwarded(X_FORWARDED_HOST).map_or(Ok(own), Host::of)?;
        let traced = headers.keys().any(|name| TRACES_OF_A_PROXY.contains(name));
        Ok(Self {
            peer,
            client,
            host,
            secure: forwarded(X_FORWARDED_PROTO).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            prefix: forwarded(X_FORWARDED_PREFIX).and_then(prefix).map(str::to_owned),
            proxied: by_proxy || traced,
            direct: peer.is_loopback() && !traced,
        })
    }
}

/// The value of a header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn only_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    only(headers, name)?.to_str().ok()
}

fn host(parts: &Parts) -> Result<Host, HostFault> {
    let host = Host::of(only_text(&parts.headers, &http::header::HOST).ok_or(HostFault::NotOne)?)?;
    match parts.uri.authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(&host) => Err(HostFault::Contradiction),
        _ => Ok(host),
    }
}

fn checked_host(text: &str) -> Result<&str, HostFault> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (name, port) =
                text.split_at(text.bytes().position(|byte| byte == b':').unwrap_or(text.len()));
            let legal =
                |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
            (!name.is_empty() && name.bytes().all(legal), port)
        }
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(digits);
    if name && port && text.len() <= LONGEST_HOST { Ok(text) } else { Err(HostFault::Malformed) }
}

/// The last address of the chain that no trusted proxy has; each proxy adds the one that it saw.
fn client(headers: &HeaderMap, peer: IpAddr, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
    let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let mut known = peer;
    for hop in hops.iter().rev() {
        let Ok(address) = hop.parse::<IpAddr>() else {
            break;
        };
        known = address.to_canonical();
        if !trusts(known) {
            break;
        }
    }
    known
}

/// A path that can stand before ours: empty, or `/a/b`. Anything else would make a link lead elsewhere.
fn prefix(text: &str) -> Option<&str> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let shaped = text.is_empty() || text.starts_with('/');
    let climbs = text.contains("//") || text.split('/').any(|part| part == "." || part == "..");
    (shaped && !climbs && text.bytes().all(legal)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: &str = "127.0.0.1:5000";
    const FAR: &str = "192.0.2.7:5000";

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn peer(address: &str) -> Peer {
        Peer::Tcp(address.parse().expect("an address"))
    }

    fn trusted() -> [IpNet; 2] {
        ["10.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a net"))
    }

    fn read(address: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Caller, HostFault> {
        Caller::read(&parts(uri, headers), peer(address), &trusted())
    }

    fn request_id(address: &str, headers: &[(&str, &str)]) -> RequestId {
        RequestId::of(&parts("/", headers), peer(address), &trusted())
    }

    #[test]
    fn a_request_names_one_host_and_no_other() {
        for host in ["a.b", "a.b:80", "localhost:8081", "[::1]:80", "a_b", "127.0.0.1"] {
            assert_eq!(read(NEAR, "/", &[("host", host)]).map(|c| c.host).as_deref(), Ok(host));
        }
        for host in [
            "",
            "h/../x?y#z",
            "a@b",
            "a b",
            "a:b",
            "a:",
            "a:80:80",
            "a:65536",
            "a:+80",
            "a]",
            "[::1]x",
            "[a]",
            "a,b",
            "a\u{e9}",
            ":80",
            "[::1",
        ] {
            assert!(read(NEAR, "/", &[("host", host)]).is_err(), "{host}");
        }
        assert_eq!(read(NEAR, "/", &[]).err(), Some(HostFault::NotOne));
        assert_eq!(read(NEAR, "/", &[("host", "a"), ("host", "a")]).err(), Some(HostFault::NotOne));
        assert!(read(NEAR, "http://a:80/v2/", &[("host", "A:80")]).is_ok());
        let other = read(NEAR, "http://b/v2/", &[("host", "a")]);
        assert_eq!(other.err(), Some(HostFault::Contradiction));
    }

    const SPOOFED: [(&str, &str); 6] = [
        ("host", "real"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "forged"),
        ("x-forwarded-prefix", "/forged"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "forged"),
    ];

    #[test]
    fn nobody_is_believed_about_others_but_trusted_proxies() {
        let caller = read(FAR, "/", &SPOOFED).expect("a caller");
        assert_eq!(caller.client, Some("192.0.2.7".parse().expect("an address")));
        assert_eq!((&*caller.host, caller.prefix, caller.secure), ("real", None, false));
        assert_eq!(request_id(FAR, &SPOOFED).as_str().len(), 32);

        let caller = read("10.0.0.2:5000", "/", &SPOOFED).expect("a caller");
        assert_eq!(caller.client, Some("203.0.113.9".parse().expect("an address")));
        assert_eq!((&*caller.host, caller.prefix.as_deref()), ("forged", Some("/forged")));
        assert!(caller.secure);
        assert_eq!(request_id("10.0.0.2:5000", &SPOOFED).as_str(), "forged");
    }

    #[test]
    fn the_client_is_the_last_hop_that_no_trusted_proxy_has() {
        let cases = [
            ("1.1.1.1, 2.2.2.2, 10.9.9.9", "2.2.2.2"),
            ("1.1.1.1,junk, 10.9.9.9", "10.9.9.9"),
            ("junk", "10.0.0.2"),
            ("", "10.0.0.2"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ];
        for (chain, expected) in cases {
            let caller =
                read("10.0.0.2:1", "/", &[("host", "a"), ("x-forwarded-for", chain)]).expect("a caller");
            assert_eq!(caller.client, Some(expected.parse().expect("an address")), "{chain}");
        }
    }

    #[test]
    fn direct_means_from_here_with_no_trace_of_a_proxy() {
        assert!(read(NEAR, "/", &[("host", "a")]).expect("a caller").direct);
        assert!(read("[::ffff:127.0.0.1]:1", "/", &[("host", "a")]).expect("a caller").direct);
        assert!(!read(FAR, "/", &[("host", "a")]).expect("a caller").direct);
        for trace in &TRACES_OF_A_PROXY {
            let caller = read(NEAR, "/", &[("host", "a"), (trace.as_str(), "x")]).expect("a caller");
            assert!(!caller.direct && caller.proxied, "{trace}");
        }
        for (address, proxied) in [(NEAR, false), (FAR, false), ("10.0.0.2:5000", true)] {
            assert_eq!(read(address, "/", &[("host", "a")]).expect("a caller").proxied, proxied, "{address}");
        }
    }

    #[test]
    fn a_prefix_is_a_plain_path() {
        for (given, expected) in [("", ""), ("/", ""), ("/a/b", "/a/b"), ("/a/", "/a")] {
            assert_eq!(prefix(given), Some(expected), "{given}");
        }
        for hostile in ["a", "//evil.test", "/a/../b", "/a\"b", "/a>b", "https://evil.test", "/a%2f"] {
            assert_eq!(prefix(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn a_strange_request_id_is_replaced() {
        for strange in ["", "a b", "a\"b", "\u{e9}", &"a".repeat(65)] {
            let id = request_id("10.0.0.2:1", &[("x-request-id", strange)]);
            assert!(
                id.as_str().len() == 32 && id.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{strange}"
            );
        }
    }
}
