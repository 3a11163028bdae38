//! Which addresses may be asked. A message must not make a worker speak to its own network: loopback, private and link-local ranges (with the
//! metadata services of clouds) are refused unless they are allowed.

use crate::fetcher::{Failed, FetchConfig, reject};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// The rules.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    hosts: Vec<String>,
    private: bool,
}

impl Guard {
    pub(crate) fn new(config: &FetchConfig) -> Self {
        let hosts = config.hosts_allowed.iter().map(|h| h.to_ascii_lowercase()).collect();
        Self { hosts, private: config.private_addresses_allowed }
    }

    /// Checks scheme, host name and literal address: for literals no resolver is asked, so nothing else would.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), Failed> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(reject("payload.denied", format!("redirected to scheme `{}`", url.scheme())));
        }
        let host = url.host().ok_or_else(|| reject("payload.uri", "no host"))?;
        let name = host.to_string().to_ascii_lowercase();
        if !self.hosts.is_empty() && !self.hosts.contains(&name) {
            return Err(reject("payload.denied", format!("host {name} is not among fetch.http_hosts")));
        }
        let address = match host {
            Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
            Host::Domain(_) => None,
        };
        match address.filter(|a| !self.allows(*a)) {
            Some(address) => Err(denied(address)),
            None => Ok(()),
        }
    }

    /// Whether an address may be asked.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        self.private || is_public(address)
    }
}

pub(crate) fn denied(address: IpAddr) -> Failed {
    reject("payload.denied", format!("{address} is not a public address, and fetch.http_private is off"))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| is_public_v6(v6), is_public_v4),
    }
}

/// Ranges of RFC 6890 that no public host has.
fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.is_unspecified()
        || v4.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b)))
}

/// Only 2000::/3 is given out. Within it, 2001::/23 (Teredo and other protocols) and 2002::/16 (6to4) carry IPv4 addresses that would have
/// to be checked in turn, and 2001:db8::/32 and 3fff::/20 are for documentation.
fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    (first & 0xe000) == 0x2000
        && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
        && first != 0x2002
        && !(first == 0x3fff && second < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_pass() {
        for (address, public) in [
            ("93.184.216.34", true),
            ("2606:2800:220:1::1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("169.254.169.254", false),
            ("100.100.100.200", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("64:ff9b::a00:1", false),
            ("::7f00:1", false),
            ("2002:7f00:1::", false),
            ("2001:0:53aa:64c::1", false),
            ("fec0::1", false),
        ] {
            assert_eq!(is_public(address.parse().expect("an address")), public, "{address}");
        }
    }
}
