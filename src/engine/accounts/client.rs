//! Owns who counts as one client where log-ins are slowed down and shared out.
//! Must not know: what is slowed down, and what is shared.

use std::net::{IpAddr, Ipv4Addr};

/// Where a log-in comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// This server's own people: who manages it, and the admin socket.
    House,
    V4(Ipv4Addr),
    /// Whoever has one address of version 6 has all of its network.
    V6([u8; 8]),
}

impl Client {
    pub fn of(address: Option<IpAddr>) -> Self {
        match address {
            None => Self::House,
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let client = |text: &str| Client::of(Some(text.parse().expect("an address")));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_ne!(client("192.0.2.1"), Client::of(None));
    }
}
