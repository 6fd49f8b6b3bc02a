//! How far a name is from another one that may have been meant.

/// How many single-character edits apart two names are, where that is few enough for a typing error.
pub(super) fn distance(found: &str, known: &str) -> Option<usize> {
    /// Longer names are not typed by hand.
    const LONGEST: usize = 64;

    let limit = (known.len() / 3).clamp(1, 3);
    if found.len() > LONGEST || found.len().abs_diff(known.len()) > limit {
        return None;
    }
    // Levenshtein, a row at a time; case is worth nothing.
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (index, a) in found.bytes().enumerate() {
        let mut diagonal = std::mem::replace(row.first_mut()?, index + 1);
        let mut left = index + 1;
        for (b, cell) in known.bytes().zip(row.iter_mut().skip(1)) {
            let substituted = diagonal + usize::from(!a.eq_ignore_ascii_case(&b));
            diagonal = *cell;
            left = substituted.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_suggested() {
        for (found, known, expected) in [
            ("endpont", "endpoint", Some(1)),
            ("Endpoint", "endpoint", Some(0)),
            ("end_point", "endpoint", Some(1)),
            ("kyes", "keys", None),
            ("key", "keys", Some(1)),
            ("gpt4o", "gpt-4o", Some(1)),
            ("", "a", Some(1)),
            ("model", "weight", None),
            (&"x".repeat(65), &"x".repeat(65), None),
        ] {
            assert_eq!(distance(found, known), expected, "{found} {known}");
        }
    }
}
