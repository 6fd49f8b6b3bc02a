//! The host and the port that an authority names.

/// Takes apart what stands between `//` and the path of a URL: `localhost:42356`, `[::1]:80`, or a host
/// alone, which has the default port. An IPv6 address comes without its brackets. `None` where there
/// is no host or no port of that number.
pub fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons within an IPv6 address are no port's.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        // Parsing alone would take a sign as well.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
        Some(_) => None,
        None => Some(default),
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.contains(':'),
        None => !host.is_empty() && !host.contains([':', '[', ']']),
    };
    let port = port.filter(|port| *port != 0 && is_host)?;
    Some((address.unwrap_or(host), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        for (text, expected) in [
            ("localhost:42356", Some(("localhost", 42356))),
            ("login.microsoftonline.com", Some(("login.microsoftonline.com", 443))),
            ("172.16.0.5:8081", Some(("172.16.0.5", 8081))),
            ("[::1]:80", Some(("::1", 80))),
            ("[::1]", Some(("::1", 443))),
            ("::1", None),
            ("[::1", None),
            ("[]:80", None),
            ("[host]:80", None),
            ("a:b:80", None),
            ("a:", None),
            ("a:b", None),
            ("a:+80", None),
            ("a:0", None),
            ("a:65536", None),
            (":80", None),
            ("", None),
        ] {
            assert_eq!(host_and_port(text, 443), expected, "{text}");
        }
    }
}
