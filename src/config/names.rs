//! Names within the document: declared once, referred to, and mistyped.

use std::collections::BTreeMap;

use super::problem::quoted;
use super::reader::Reader;

/// The names that one list of the document gives to its items, whether the items are right or not.
pub(super) struct Names {
    /// The list's field, such as `backends`.
    list: &'static str,
    /// The field that holds the name.
    field: &'static str,
    positions: BTreeMap<String, usize>,
}

impl Names {
    /// No names of a list yet.
    pub(super) fn new(list: &'static str, field: &'static str) -> Self {
        Self { list, field, positions: BTreeMap::new() }
    }

    /// Takes the name of the item at a position. A name that is taken is a problem.
    pub(super) fn declare(&mut self, reader: &mut Reader, name: &str, position: usize) {
        match self.positions.get(name) {
            Some(first) => {
                let (name, list, field) = (quoted(name), self.list, self.field);
                reader.problem(format!(
                    "{name} is taken by {list}[{first}].{field}; names are unique"
                ));
            }
            None => {
                self.positions.insert(name.to_owned(), position);
            }
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Whether a name is taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.positions.contains_key(name)
    }

    /// The position of the item with a name. An unknown one is a problem, unless the list has no
    /// names at all: then the list is the problem, and is on record.
    pub(super) fn resolve(&self, reader: &mut Reader, name: &str) -> Option<usize> {
        let position = self.positions.get(name);
        if position.is_none() && !self.positions.is_empty() {
            let right = reader.nearest(name, self.positions.keys().map(String::as_str));
            let (name, list) = (quoted(name), self.list);
            reader.problem(format!("{name} is not one of the document's {list}; {right}"));
        }
        position.copied()
    }
}

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
