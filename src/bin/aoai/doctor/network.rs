//! DNS: the addresses of endpoints, as this machine resolves them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::report::{Step, Verdict};

/// The address of an endpoint, and whether the connection uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
}

/// Resolves an endpoint's host name as the proxy does: to its first IPv4 address, or its first IPv6
/// address where it has no IPv4 address.
pub(super) fn look_up(
    subject: &str,
    host: &str,
    port: u16,
    timeout: Duration,
) -> (Step, Option<SocketAddr>) {
    let step = |verdict, text| Step::new(verdict, subject, "dns", text).with("host", host);
    let found = match addresses(host, port, timeout) {
        Ok(found) => found,
        Err(error) => {
            let text = format!(
                "{host} does not resolve: {error}. Check the spelling (a custom subdomain without a \
                 resource does not resolve), and the DNS of this machine"
            );
            return (step(Verdict::Fail, text), None);
        }
    };
    let is_public = found.iter().all(|one| Kind::of(one.ip()) == Kind::Public);
    let zone = private_link(host).filter(|_| is_public);
    let private = zone.filter(|name| addresses(name, port, timeout).is_ok());
    let text = describe(host, &found, private.as_deref());
    let all: Vec<_> = found.iter().map(|one| one.ip().to_string()).collect();
    let step = step(Verdict::Ok, text).with("addresses", all).with("private_link", private);
    (step, found.first().copied())
}

/// The addresses of a name: IPv4 if it has any, else IPv6.
pub(super) fn addresses(
    host: &str,
    port: u16,
    timeout: Duration,
) -> Result<Vec<SocketAddr>, String> {
    let name = host.to_owned();
    let looked_up = within(timeout, move || {
        (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
    });
    let all = match looked_up {
        Some(Ok(all)) => all,
        Some(Err(error)) => return Err(plain(&error)),
        None => return Err(format!("no response within {}", humantime::format_duration(timeout))),
    };
    match preferred(all) {
        found if found.is_empty() => Err("the name has no address".to_owned()),
        found => Ok(found),
    }
}

/// The addresses that Envoy uses (`V4_PREFERRED`): IPv6 only where there is no IPv4 address.
fn preferred(all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (four, six): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
    if four.is_empty() {
        six
    } else {
        four
    }
}

/// The system's message without Rust's prefix.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// Runs work that may hang, and waits for it no longer than this.
pub(super) fn within<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // After a timeout the thread is left behind; it ends with the tool.
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(timeout).ok()
}

/// The kind of network that an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Loopback,
    Private,
    Public,
}

impl Kind {
    fn of(address: IpAddr) -> Self {
        let is_private = match address.to_canonical() {
            IpAddr::V4(four) => four.is_private() || four.is_link_local() || is_shared(four),
            IpAddr::V6(six) => is_unique_local(six),
        };
        match is_private {
            _ if address.to_canonical().is_loopback() => Self::Loopback,
            true => Self::Private,
            false => Self::Public,
        }
    }
}

/// 100.64.0.0/10 (RFC 6598), which some virtual networks use.
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 0x40
}

/// fc00::/7 (RFC 4193) and fe80::/10.
fn is_unique_local(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
}

/// The addresses of a host name, in words. `private` is its name in the zone of private endpoints, if
/// the zone has one.
fn describe(host: &str, addresses: &[SocketAddr], private: Option<&str>) -> String {
    let all: Vec<_> = addresses.iter().map(|one| one.ip().to_string()).collect();
    let all = all.join(", ");
    let kinds: Vec<_> = addresses.iter().map(|one| Kind::of(one.ip())).collect();
    let what = match (kinds.as_slice(), private) {
        (kinds, _) if kinds.contains(&Kind::Loopback) => "a loopback address, on this machine".to_owned(),
        (kinds, _) if kinds.contains(&Kind::Private) => {
            "a private address, for example of a private endpoint".to_owned()
        }
        (_, Some(name)) => format!(
            "a public address, although the resource has a private endpoint ({name} exists): the DNS \
             of this machine does not use the private zone"
        ),
        _ => "a public address".to_owned(),
    };
    format!("{host} resolves to {all}: {what}")
}

/// The name of a resource in the zone of its private endpoint: `NAME.privatelink.openai.azure.com`.
///
/// Source: Microsoft Learn, "Azure Private Endpoint private DNS zone values".
fn private_link(host: &str) -> Option<String> {
    let (name, domain) = host.split_once('.')?;
    let is_azure = [".azure.com", ".azure.us", ".azure.cn"].iter().any(|end| domain.ends_with(end));
    is_azure.then(|| format!("{name}.privatelink.{domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_which_way_leads_to_a_resource() {
        let private = "a private address, for example of a private endpoint";
        let unlinked = "a public address, although the resource has a private endpoint \
                        (a.privatelink.b exists): the DNS of this machine does not use the private zone";
        for (addresses, link, expected) in [
            (&["20.1.2.3:443"][..], None, "20.1.2.3: a public address".to_owned()),
            (&["20.1.2.3:443"], Some("a.privatelink.b"), format!("20.1.2.3: {unlinked}")),
            (&["10.1.2.3:443", "10.1.2.4:443"], None, format!("10.1.2.3, 10.1.2.4: {private}")),
            (&["172.31.0.1:443"], None, format!("172.31.0.1: {private}")),
            (&["172.32.0.1:443"], None, "172.32.0.1: a public address".to_owned()),
            (&["100.64.0.1:443"], None, format!("100.64.0.1: {private}")),
            (&["100.128.0.1:443"], None, "100.128.0.1: a public address".to_owned()),
            (&["[fd00::1]:443"], None, format!("fd00::1: {private}")),
            (&["[2603::1]:443"], None, "2603::1: a public address".to_owned()),
            (&["127.0.0.1:443"], None, "127.0.0.1: a loopback address, on this machine".to_owned()),
            (&["[::1]:443"], None, "::1: a loopback address, on this machine".to_owned()),
        ] {
            let parsed: Vec<_> = addresses.iter().map(|one| one.parse().unwrap()).collect();
            assert_eq!(describe("a.b", &parsed, link), format!("a.b resolves to {expected}"));
        }
    }

    #[test]
    fn only_resources_of_azure_have_a_private_zone() {
        for (host, expected) in [
            ("contoso.openai.azure.com", Some("contoso.privatelink.openai.azure.com")),
            ("contoso.openai.azure.us", Some("contoso.privatelink.openai.azure.us")),
            ("contoso.services.ai.azure.com", Some("contoso.privatelink.services.ai.azure.com")),
            ("login.microsoftonline.com", None),
            ("gateway.example", None),
            ("localhost", None),
        ] {
            assert_eq!(private_link(host).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn ipv4_is_preferred_as_envoy_prefers_it() {
        let parsed = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<_>>();
        let (four, other, six) = ("10.0.0.1:443", "10.0.0.2:443", "[fd00::1]:443");
        for (all, expected) in
            [(&[six, four, other][..], &[four, other][..]), (&[six], &[six]), (&[], &[])]
        {
            assert_eq!(preferred(parsed(all)), parsed(expected));
        }
    }

    #[test]
    fn what_hangs_is_given_up() {
        assert_eq!(within(Duration::from_secs(60), || 1), Some(1));
        let (_keep, never) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || never.recv()), None);
    }
}
