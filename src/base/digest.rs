//! SHA-256 digests of subscription keys: all that the configuration ever holds of a key.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// What a digest starts with in the configuration.
const PREFIX: &str = "sha256:";

/// What "no key at all" hashes to (FIPS 180-4, the empty message). As an entry it would let in
/// every caller whose key is empty.
const OF_EMPTY: Digest = Digest([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// The SHA-256 digest of a subscription key.
///
/// It is written `sha256:` and 64 hex digits of either case; [`fmt::Display`] writes lower case.
/// Its `Debug` shows the first eight digits only: enough to distinguish two keys in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a key as a client presents it.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Its 64 hex digits, in lower case.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Its first 64 bits as a number.
    pub fn leading(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix(PREFIX).ok_or(DigestError::MissingPrefix)?;
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(DigestError::NotHex);
        }
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() {
            return Err(DigestError::WrongLength { found: hex.len() });
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = pair.iter().fold(0, |high, digit| high << 4 | hex_value(*digit));
        }
        match Self(bytes) {
            OF_EMPTY => Err(DigestError::OfEmpty),
            digest => Ok(digest),
        }
    }
}

/// The value of an ASCII hex digit.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Digest({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// Why a text is not a usable digest. It never holds the text, which may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Perhaps the key itself.
    #[error("it has no sha256: in front")]
    MissingPrefix,
    /// Something else than hex digits follows the prefix.
    #[error("it has something else than hex digits after sha256:")]
    NotHex,
    /// Hex digits, but not 64.
    #[error("it has {found} hex digits after sha256:, not 64")]
    WrongLength {
        /// How many there are.
        found: usize,
    },
    /// The digest of no key at all.
    #[error("it is the digest of an empty key")]
    OfEmpty,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf test | sha256sum`
    const OF_TEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_digest_reads_as_it_prints() {
        let digest: Digest = OF_TEST.parse().unwrap();
        assert_eq!(digest, Digest::of(b"test"));
        assert_eq!(digest.to_string(), OF_TEST);
        let upper = OF_TEST.to_uppercase().replace("SHA256", "sha256");
        assert_eq!(upper.parse(), Ok(digest));
    }

    #[test]
    fn debug_shows_eight_digits_and_no_more() {
        assert_eq!(format!("{:?}", Digest::of(b"test")), "Digest(9f86d081…)");
    }

    #[test]
    fn each_mistake_has_its_error() {
        let of_empty = Digest::of(b"").to_string();
        let sixty_four_g = format!("sha256:{}", "g".repeat(64));
        let sixty_five = format!("{OF_TEST}0");
        for (name, text, expected) in [
            ("empty", "", DigestError::MissingPrefix),
            ("no prefix", OF_TEST.strip_prefix("sha256:").unwrap(), DigestError::MissingPrefix),
            ("other algorithm", "sha512:00", DigestError::MissingPrefix),
            ("upper-case prefix", "SHA256:00", DigestError::MissingPrefix),
            ("prefix alone", "sha256:", DigestError::WrongLength { found: 0 }),
            ("short", "sha256:9f86d081", DigestError::WrongLength { found: 8 }),
            ("long", &sixty_five, DigestError::WrongLength { found: 65 }),
            ("ellipsis of the docs", "sha256:9f86d081…", DigestError::NotHex),
            ("not hex", &sixty_four_g, DigestError::NotHex),
            ("trailing space", &format!("{OF_TEST} "), DigestError::NotHex),
            ("of the empty string", &of_empty, DigestError::OfEmpty),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{name}");
        }
    }
}
