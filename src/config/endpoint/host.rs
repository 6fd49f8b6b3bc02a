//! The form of host names.

/// The port of `https`.
pub(super) const HTTPS_PORT: u16 = 443;

/// Whether a host is a domain or below it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|name| name.is_empty() || name.ends_with('.'))
}

/// Labels of lower-case letters within the bounds of DNS (RFC 1035, 2.3.4).
pub(super) fn is_host_name(host: &str) -> bool {
    let is_label = |label| is_label(label) && (1..=63).contains(&label.len());
    host.len() <= 253 && host.split('.').all(is_label)
}

/// A host name below a top-level domain of letters, which chance rarely makes.
pub(super) fn is_domain(host: &str) -> bool {
    let top = host.rsplit_once('.').map_or("", |(_, top)| top);
    is_host_name(host) && top.len() >= 2 && top.bytes().all(|b| b.is_ascii_lowercase())
}

/// Lower-case letters, digits and inner hyphens (RFC 1123, 2.1).
pub(super) fn is_label(label: &str) -> bool {
    label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}
