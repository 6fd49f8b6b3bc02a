//! How far the attempts of a request have come: what each leaves beside the request, for the attempts
//! after it and for the gateway stage.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is known of a request's attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How far the last one came.
    pub last: Last,
    /// When one of them first had the whole request.
    pub whole_since: Option<SystemTime>,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Last {
    /// There was none.
    #[default]
    None,
    /// This backend was asked, and has not answered.
    Tried(String),
    /// This backend's answer has begun; no name where the filter itself has answered.
    Answered(String),
}

impl Progress {
    /// For how long backends have had the whole request, all attempts together. The time that its
    /// caller takes to send it does not count.
    pub fn waited(&self, now: SystemTime) -> Duration {
        let waited = self.whole_since.and_then(|since| now.duration_since(since).ok());
        waited.unwrap_or_default()
    }

    /// The progress as bytes, to the millisecond.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, backend) = match &self.last {
            Last::None => return Vec::new(),
            Last::Tried(backend) => ("tried", backend),
            Last::Answered(backend) => ("answered", backend),
        };
        let mut text = [kind, backend, ""].join(" ");
        if let Some(since) = self.whole_since {
            let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
            text.push_str(&since.as_millis().to_string());
        }
        text.into_bytes()
    }

    /// Reads such bytes; what is none is no progress.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let mut fields = text.split(' ');
        let last = match (fields.next(), fields.next()) {
            (Some("tried"), Some(backend)) => Last::Tried(backend.to_owned()),
            (Some("answered"), Some(backend)) => Last::Answered(backend.to_owned()),
            _ => return Self::default(),
        };
        let since = fields.next().and_then(|millis| millis.parse().ok());
        let since = since.and_then(|since| UNIX_EPOCH.checked_add(Duration::from_millis(since)));
        Self { last, whole_since: since }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis)
    }

    #[test]
    fn it_reads_as_it_was_written() {
        let (tried, answered) = (Last::Tried("eastus".into()), Last::Answered("eastus".into()));
        for last in [Last::None, tried, answered.clone(), Last::Answered(String::new())] {
            let progress = Progress { last, whole_since: None };
            assert_eq!(Progress::from_bytes(&progress.to_bytes()), progress);
        }
        let progress = Progress { last: answered, whole_since: Some(at(123)) };
        assert_eq!(Progress::from_bytes(&progress.to_bytes()), progress);
    }

    #[test]
    fn the_wait_is_of_all_attempts_together_and_never_negative() {
        let progress = |whole_since| Progress { whole_since, ..Progress::default() };
        assert_eq!(progress(Some(at(500))).waited(at(3200)), Duration::from_millis(2700));
        assert_eq!(progress(Some(at(500))).waited(at(0)), Duration::ZERO);
        assert_eq!(progress(None).waited(at(3200)), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
            let _ = Progress::from_bytes(&bytes);
        }
    }
}
