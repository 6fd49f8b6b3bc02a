//! Every cloud's endpoints, and every mistake with its message.

use proptest::prelude::*;

use super::*;

#[test]
fn every_cloud_has_its_endpoints() {
    for (text, authority) in [
        ("https://contoso-eastus.openai.azure.com", "contoso-eastus.openai.azure.com"),
        ("https://contoso-eastus.openai.azure.com/", "contoso-eastus.openai.azure.com"),
        ("HTTPS://Contoso-EastUS.OpenAI.Azure.COM", "contoso-eastus.openai.azure.com"),
        ("https://contoso.openai.azure.com:443", "contoso.openai.azure.com"),
        ("https://contoso.openai.azure.com.", "contoso.openai.azure.com"),
        ("https://contoso.openai.azure.com.:443/", "contoso.openai.azure.com"),
        ("https://c0.cognitiveservices.azure.com", "c0.cognitiveservices.azure.com"),
        ("https://eastus.cognitiveservices.azure.com", "eastus.cognitiveservices.azure.com"),
        ("https://contoso.services.ai.azure.com", "contoso.services.ai.azure.com"),
        ("https://contoso.openai.azure.us", "contoso.openai.azure.us"),
        ("https://contoso.cognitiveservices.azure.us", "contoso.cognitiveservices.azure.us"),
        ("https://contoso.openai.azure.cn", "contoso.openai.azure.cn"),
        ("https://contoso.cognitiveservices.azure.cn", "contoso.cognitiveservices.azure.cn"),
        ("https://0-0.openai.azure.com", "0-0.openai.azure.com"),
    ] {
        for endpoint in [Endpoint::parse(text), Endpoint::parse_custom_domain(text)] {
            let endpoint = endpoint.unwrap();
            assert_eq!(endpoint.authority(), authority, "{text}");
            assert_eq!(endpoint.host(), authority, "{text}");
            assert_eq!(endpoint.port(), 443, "{text}");
        }
    }
}

#[test]
fn a_name_has_2_to_64_characters() {
    for (length, is_right) in [(1, false), (2, true), (64, true), (65, false)] {
        let url = format!("https://{}.openai.azure.com", "n".repeat(length));
        assert_eq!(Endpoint::parse(&url).is_ok(), is_right, "{length}");
    }
}

#[test]
fn a_custom_domain_keeps_the_bounds_of_dns() {
    let label = |length: usize| "n".repeat(length);
    let of_253 = format!("{0}.{0}.{0}.{1}", label(63), label(61));
    for (host, is_right) in [
        (label(63), true),
        (label(64), false),
        (of_253.clone(), true),
        (format!("{of_253}n"), false),
    ] {
        let outcome = Endpoint::parse_custom_domain(&format!("https://{host}"));
        let expected = if is_right {
            Ok(host.clone())
        } else {
            Err(EndpointError::BadHost { host: host.clone() })
        };
        assert_eq!(outcome.map(|endpoint| endpoint.host().to_owned()), expected, "{host}");
    }
}

#[test]
fn a_custom_domain_is_any_host_name_and_port() {
    for (text, authority, host, port) in [
        ("https://ai.contoso.example", "ai.contoso.example", "ai.contoso.example", 443),
        ("https://AI.contoso.example:8443/", "ai.contoso.example:8443", "ai.contoso.example", 8443),
        ("https://azure-sim:10443", "azure-sim:10443", "azure-sim", 10443),
        (
            "https://xn--knstlich-65a.example",
            "xn--knstlich-65a.example",
            "xn--knstlich-65a.example",
            443,
        ),
        (
            "https://contoso.openai.azure.com:8443",
            "contoso.openai.azure.com:8443",
            "contoso.openai.azure.com",
            8443,
        ),
    ] {
        let endpoint = Endpoint::parse_custom_domain(text).unwrap();
        let found = (endpoint.authority(), endpoint.host(), endpoint.port());
        assert_eq!(found, (authority, host, port), "{text}");
        assert!(Endpoint::parse(text).is_err(), "{text}");
    }
}

#[test]
fn regional_endpoints_are_refused_however_written() {
    for (text, host, cloud) in [
        (
            "https://eastus.api.cognitive.microsoft.com",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://eastus.api.cognitive.microsoft.com/",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://EastUS.API.Cognitive.Microsoft.COM",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://eastus.api.cognitive.microsoft.com.",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://eastus.api.cognitive.microsoft.com:443",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://eastus.api.cognitive.microsoft.com.:8443/openai?a=b",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "eastus.api.cognitive.microsoft.com",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "http://eastus.api.cognitive.microsoft.com",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://user@eastus.api.cognitive.microsoft.com",
            "eastus.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        ("https://api.cognitive.microsoft.com", "api.cognitive.microsoft.com", "openai.azure.com"),
        (
            "https://a.b.api.cognitive.microsoft.com",
            "a.b.api.cognitive.microsoft.com",
            "openai.azure.com",
        ),
        (
            "https://virginia.api.cognitive.microsoft.us",
            "virginia.api.cognitive.microsoft.us",
            "openai.azure.us",
        ),
        (
            "https://virginia.api.cognitive.azure.us",
            "virginia.api.cognitive.azure.us",
            "openai.azure.us",
        ),
        (
            "https://chinaeast2.api.cognitive.azure.cn",
            "chinaeast2.api.cognitive.azure.cn",
            "openai.azure.cn",
        ),
    ] {
        let expected = EndpointError::Regional { host: host.to_owned(), cloud };
        assert_eq!(Endpoint::parse(text), Err(expected.clone()), "{text}");
        assert_eq!(Endpoint::parse_custom_domain(text), Err(expected), "{text}");
    }
    for text in [
        "https://api-cognitive.microsoft.com.example",
        "https://eastusapi.cognitive.microsoft.com",
        "https://eastus.api.cognitive.microsoft.com.example",
        "https://api.cognitive.microsoft.cn",
    ] {
        assert!(Endpoint::parse_custom_domain(text).is_ok(), "{text}");
    }
}

#[test]
fn each_mistake_has_its_message() {
    const PRIVATE: &str = "is the name of a private endpoint as well: the certificate is for that name, and DNS resolves it to the private address";
    const UNKNOWN: &str = "is not a custom subdomain of Azure OpenAI; expected one such as https://NAME.openai.azure.com, or custom_domain: true on this backend if it is a name of yours for such a resource";
    const NOT_URL: &str = "that is not a URL; expected one such as https://NAME.openai.azure.com";
    const IP: &str = "is an IP address; expected the resource's name, https://NAME.openai.azure.com: the Envoy cluster determines the address";
    const OPEN_AI: &str = "is OpenAI's own service, which takes no Azure identity; expected a resource on Azure, https://NAME.openai.azure.com";
    const NAME: &str = "expected 2 to 64 of a-z, 0-9 and inner hyphens, as in https://contoso-eastus.openai.azure.com";
    const HOST: &str = "is not a host name; expected one such as NAME.openai.azure.com";
    const PORT: &str = "expected 1 to 65535, or none for 443";
    const USER: &str = "found an @, as after a user name or password; expected neither, because the proxy signs in with its identity";
    for (name, text, expected) in [
        ("nothing", "", "found an empty string; expected the resource's URL, https://NAME.openai.azure.com".into()),
        ("regional", "https://eastus.api.cognitive.microsoft.com", r#""eastus.api.cognitive.microsoft.com" is a regional endpoint; it accepts API keys only, and would respond to the proxy's Entra ID token with 400 "Resource Id is badly formed: NA"; expected the resource's own endpoint, which looks like https://NAME.openai.azure.com: Azure portal → the Azure OpenAI resource → Resource Management → Keys and Endpoint; a resource that shows a regional endpoint there needs a custom subdomain first, which cannot be changed later: Overview → Generate Custom Domain Name, or az cognitiveservices account update --name RESOURCE --resource-group GROUP --custom-domain NAME"#.into()),
        ("regional of another cloud", "https://x.api.cognitive.azure.cn", Endpoint::parse("https://x.api.cognitive.microsoft.com").unwrap_err().to_string().replace("x.api.cognitive.microsoft.com", "x.api.cognitive.azure.cn").replace("NAME.openai.azure.com", "NAME.openai.azure.cn")),
        ("private link", "https://contoso.privatelink.openai.azure.com", format!(r#""contoso.privatelink.openai.azure.com" is a name of the private DNS zone; expected https://contoso.openai.azure.com, which {PRIVATE}"#)),
        ("private link zone", "https://privatelink.openai.azure.us", format!(r#""privatelink.openai.azure.us" is a name of the private DNS zone; expected https://NAME.openai.azure.us, which {PRIVATE}"#)),
        ("OpenAI", "https://api.openai.com/v1", format!(r#""api.openai.com" {OPEN_AI}"#)),
        ("OpenAI without scheme", "api.openai.com", format!(r#""api.openai.com" {OPEN_AI}"#)),
        ("no scheme", "contoso.openai.azure.com", r#""contoso.openai.azure.com" has no scheme; expected https://contoso.openai.azure.com"#.into()),
        ("no scheme but a path", "contoso.openai.azure.com/openai", r#""contoso.openai.azure.com" has no scheme; expected https://contoso.openai.azure.com"#.into()),
        ("http", "http://contoso.openai.azure.com", r#""http" is not the scheme of "contoso.openai.azure.com"; expected https, because tokens travel over TLS only"#.into()),
        ("WebSocket", "wss://contoso.openai.azure.com", r#""wss" is not the scheme of "contoso.openai.azure.com"; expected https, because tokens travel over TLS only"#.into()),
        ("space before", " https://contoso.openai.azure.com", r#"" https" is not the scheme of "contoso.openai.azure.com"; expected https, because tokens travel over TLS only"#.into()),
        ("a key", "aoai_5ecre7", format!("found a string of 11 characters {NOT_URL}")),
        ("a token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln", format!("found a string of 40 characters {NOT_URL}")),
        ("one slash", "https:/contoso.openai.azure.com", format!("found a string of 5 characters {NOT_URL}")),
        ("scheme alone", "https://", "found a URL without a host; expected one such as https://NAME.openai.azure.com".into()),
        ("no host", "https:///openai", "found a URL without a host; expected one such as https://NAME.openai.azure.com".into()),
        ("path alone", "/openai", "found a URL without a host; expected one such as https://NAME.openai.azure.com".into()),
        ("user", "https://me:secret@contoso.openai.azure.com", USER.into()),
        ("password with a slash", "https://me:sec/ret@contoso.openai.azure.com", USER.into()),
        ("query", "https://contoso.openai.azure.com/?api-key=secret", r#"found a query after "contoso.openai.azure.com"; expected none, because the callers choose the api-version"#.into()),
        ("query without path", "https://contoso.openai.azure.com?", r#"found a query after "contoso.openai.azure.com"; expected none, because the callers choose the api-version"#.into()),
        ("path and query", "https://contoso.openai.azure.com/openai?api-version=1", r#"found a query after "contoso.openai.azure.com"; expected none, because the callers choose the api-version"#.into()),
        ("fragment", "https://contoso.openai.azure.com/#top", r#"found a fragment after "contoso.openai.azure.com"; expected none"#.into()),
        ("path", "https://contoso.openai.azure.com/openai/v1", r#"found the path "/openai/v1" after "contoso.openai.azure.com"; expected none, because the callers choose the path"#.into()),
        ("two slashes", "https://contoso.openai.azure.com//", r#"found the path "//" after "contoso.openai.azure.com"; expected none, because the callers choose the path"#.into()),
        ("port", "https://contoso.openai.azure.com:8443", r#"found port 8443 of "contoso.openai.azure.com"; Azure listens on 443: expected no port, or custom_domain: true on this backend if a server of your own listens there"#.into()),
        ("port 0", "https://contoso.openai.azure.com:0", format!(r#""0" is not a port of "contoso.openai.azure.com"; {PORT}"#)),
        ("port too large", "https://contoso.openai.azure.com:65536", format!(r#""65536" is not a port of "contoso.openai.azure.com"; {PORT}"#)),
        ("port with a sign", "https://contoso.openai.azure.com:+443", format!(r#""+443" is not a port of "contoso.openai.azure.com"; {PORT}"#)),
        ("port left out", "https://contoso.openai.azure.com:", format!(r#""" is not a port of "contoso.openai.azure.com"; {PORT}"#)),
        ("IPv4", "https://10.0.0.4", format!(r#""10.0.0.4" {IP}"#)),
        ("IPv4 with a port", "https://10.0.0.4:443", format!(r#""10.0.0.4" {IP}"#)),
        ("IPv4 as a number", "https://167772164", format!(r#""167772164" {IP}"#)),
        ("IPv6", "https://[::1]", format!(r#""[::1]" {IP}"#)),
        ("IPv6 with a port", "https://[fe80::1]:443/", format!(r#""[fe80::1]" {IP}"#)),
        ("not ASCII", "https://künstlich.example", r#""künstlich.example" is not ASCII; expected the name's DNS form, with xn-- labels"#.into()),
        ("domain alone", "https://openai.azure.com", format!(r#""" is not a custom subdomain of openai.azure.com; {NAME}"#)),
        ("name too short", "https://c.openai.azure.com", format!(r#""c" is not a custom subdomain of openai.azure.com; {NAME}"#)),
        ("hyphen at the end", "https://contoso-.openai.azure.com", format!(r#""contoso-" is not a custom subdomain of openai.azure.com; {NAME}"#)),
        ("hyphen at the start", "https://-contoso.openai.azure.com", format!(r#""-contoso" is not a custom subdomain of openai.azure.com; {NAME}"#)),
        ("underscore", "https://my_ai.openai.azure.com", format!(r#""my_ai" is not a custom subdomain of openai.azure.com; {NAME}"#)),
        ("two labels", "https://a.contoso.openai.azure.com", format!(r#""a.contoso" is not a custom subdomain of openai.azure.com; {NAME}"#)),
        ("space in the host", "https://con toso.example", format!(r#""con toso.example" {HOST}"#)),
        ("new line after the host", "https://contoso.openai.azure.com\n", format!(r#""contoso.openai.azure.com\n" {HOST}"#)),
        ("empty label", "https://contoso..example", format!(r#""contoso..example" {HOST}"#)),
        ("two last dots", "https://contoso.openai.azure.com..", format!(r#""contoso.openai.azure.com." {HOST}"#)),
        ("percent-encoding", "https://contoso%2eopenai.azure.com", format!(r#""contoso%2eopenai.azure.com" {HOST}"#)),
        ("backslash", "https://contoso.openai.azure.com\\x", format!(r#""contoso.openai.azure.com\\x" {HOST}"#)),
        ("another suffix", "https://contosoopenai.azure.com", format!(r#""contosoopenai.azure.com" {UNKNOWN}"#)),
        ("suffix within", "https://contoso.openai.azure.com.evil.example", format!(r#""contoso.openai.azure.com.evil.example" {UNKNOWN}"#)),
        ("API management", "https://contoso.azure-api.net", format!(r#""contoso.azure-api.net" {UNKNOWN}"#)),
    ] {
        let error = Endpoint::parse(text).unwrap_err();
        assert_eq!(error.to_string(), expected, "{name}");
        let outcome = Endpoint::parse_custom_domain(text);
        if matches!(error, EndpointError::UnknownHost { .. } | EndpointError::Port { .. }) {
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        } else {
            assert_eq!(outcome, Err(error), "{name}");
        }
    }
}

#[test]
fn what_may_be_a_credential_is_not_repeated() {
    for text in [
        "https://me:5ecre7@contoso.openai.azure.com",
        "https://me:a/5ecre7@contoso.openai.azure.com",
        "https://me:a?5ecre7@contoso.openai.azure.com",
        "https://me:a#5ecre7@contoso.openai.azure.com",
        "https://contoso.openai.azure.com/?api-key=5ecre7",
        "https://contoso.openai.azure.com/#5ecre7",
        "http://me:5ecre7@contoso.openai.azure.com",
        "me:5ecre7@contoso.openai.azure.com",
        "5ecre7",
        "sk-5ecre7",
        "5ecre7:5ecre7",
        "Bearer eyJ.5ecre7.x",
    ] {
        for outcome in [Endpoint::parse(text), Endpoint::parse_custom_domain(text)] {
            let error = outcome.unwrap_err();
            assert!(!error.to_string().contains("5ecre7"), "{text}: {error}");
            assert!(!format!("{error:?}").contains("5ecre7"), "{text}: {error:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Endpoint::parse(&text);
        let _ = Endpoint::parse_custom_domain(&text);
    }

    #[test]
    fn what_is_accepted_is_right(
        text in "(https?://)?([a-z.:@-]{0,6})?[a-zA-Z0-9.-]{0,9}(\\.openai\\.azure\\.com|\\.api\\.cognitive\\.microsoft\\.com|\\.example|\\.privatelink\\.openai\\.azure\\.us)?\\.?(:[0-9]{0,6})?/?[?#]?"
    ) {
        if let Ok(endpoint) = Endpoint::parse_custom_domain(&text) {
            let host = endpoint.host();
            let start = format!("https://{host}");
            prop_assert!(text.to_lowercase().starts_with(&start));
            prop_assert!(host.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
            prop_assert!(!host.ends_with("api.cognitive.microsoft.com"));
            prop_assert!(!host.contains("privatelink.openai"));
            let authority = match endpoint.port() {
                443 => host.to_owned(),
                port => format!("{host}:{port}"),
            };
            prop_assert_eq!(endpoint.authority(), authority);
        }
        if let Ok(endpoint) = Endpoint::parse(&text) {
            prop_assert!(endpoint.authority().ends_with(".openai.azure.com"));
        }
    }
}
