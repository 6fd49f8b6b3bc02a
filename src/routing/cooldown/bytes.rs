//! Cooldowns as bytes, for the store that all workers share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Cause, Cooldowns, Entry, State, Unconfirmed};
use crate::base::codec::{Reader, Writer};

/// Changes with the format.
const VERSION: u64 = 4;

impl Cooldowns {
    /// The memory as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(VERSION).number(self.entries.len() as u64);
        for entry in &self.entries {
            let (state, until) = match entry.state {
                State::Counting => (0, UNIX_EPOCH),
                State::Cooldown(until) => (1, until),
                State::Probing { until, is_whole: false } => (2, until),
                State::Probing { until, is_whole: true } => (3, until),
            };
            let (cause, diagnosis) = match &entry.cause {
                Cause::Throttled => (0, ""),
                Cause::Failed => (1, ""),
                Cause::Misconfigured(diagnosis) => (2, diagnosis.as_str()),
            };
            let unconfirmed = entry.unconfirmed;
            // No model has an empty name.
            writer.text(&entry.backend).text(entry.model.as_deref().unwrap_or_default());
            writer.number(cause).text(diagnosis);
            for count in [entry.throttled, entry.failed, entry.misconfigured] {
                writer.number(count.into());
            }
            writer.optional(unconfirmed.map(|one| one.subscription));
            writer.number(unconfirmed.map_or(0, |one| one.count).into());
            writer.number(state).number(millis(until)).number(millis(entry.since));
            writer.optional(entry.subscription).number(millis(entry.trickled));
        }
        writer.finish()
    }

    /// Reads such bytes; what another version wrote is no memory.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.number()? != VERSION {
            return None;
        }
        let count = reader.number()?;
        let entries = (0..count).map(|_| read(&mut reader)).collect::<Option<_>>()?;
        reader.is_empty().then_some(Self { entries })
    }
}

fn read(reader: &mut Reader<'_>) -> Option<Entry> {
    let backend = reader.text()?.to_owned();
    let model = Some(reader.text()?).filter(|model| !model.is_empty()).map(str::to_owned);
    let (cause, diagnosis) = (reader.number()?, reader.text()?);
    let cause = match cause {
        0 => Cause::Throttled,
        1 => Cause::Failed,
        2 => Cause::Misconfigured(diagnosis.to_owned()),
        _ => return None,
    };
    let mut count = || u32::try_from(reader.number()?).ok();
    let (throttled, failed, misconfigured) = (count()?, count()?, count()?);
    let subscription = reader.optional()?;
    let count = u32::try_from(reader.number()?).ok()?;
    let unconfirmed = subscription.map(|subscription| Unconfirmed { subscription, count });
    let (state, until) = (reader.number()?, time(reader.number()?)?);
    let state = match state {
        0 => State::Counting,
        1 => State::Cooldown(until),
        2 => State::Probing { until, is_whole: false },
        3 => State::Probing { until, is_whole: true },
        _ => return None,
    };
    let since = time(reader.number()?)?;
    let subscription = reader.optional()?;
    let trickled = time(reader.number()?)?;
    Some(Entry {
        backend,
        model,
        cause,
        throttled,
        failed,
        misconfigured,
        unconfirmed,
        state,
        since,
        subscription,
        trickled,
    })
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}
