//! Reads a tree as typed values and gathers everything that is wrong with it, each with its path.
//!
//! A read that returns `None` has recorded its problem. Reading continues with
//! whatever can still be checked, and what was built is discarded at the end: [`Reader::finish`].

use std::ops::RangeInclusive;

use super::problem::{push_field, push_index, quoted, Problem, Problems};
use super::spelling::distance;
use crate::base::json::Node;

/// The largest whole number that Envoy's YAML has as a number in a `google.protobuf.Struct`.
const LARGEST_IN_STRUCT: u32 = i32::MAX as u32;

/// More suggestions than this are not read, and each is compared with every name.
const SUGGESTIONS: usize = 100;

/// The path of the value that is being read, and the problems found so far.
#[derive(Default)]
pub(super) struct Reader {
    path: String,
    problems: Vec<Problem>,
    suggested: usize,
}

impl Reader {
    /// The value, unless there was a problem anywhere.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        match (Problems::from_list(std::mem::take(&mut self.problems)), value) {
            (None, Some(value)) => Ok(value),
            (Some(problems), _) => Err(problems),
            // Not reached: what is missing is recorded. A document is refused all the same.
            (None, None) => Err(Problem::new("", "cannot be read").into()),
        }
    }

    /// Records a problem of the value at hand.
    pub(super) fn problem(&mut self, what: impl Into<String>) {
        self.record(what.into());
    }

    // Not inlined, as `enter` below: once for each field that is read, they are 19 KB of the module.
    #[inline(never)]
    fn record(&mut self, what: String) {
        self.problems.push(Problem::new(self.path.as_str(), what));
    }

    /// Reads one step further down, at a field.
    pub(super) fn at_field<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.enter(name);
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// Appends a field to the path, and returns how long the path was before.
    #[inline(never)]
    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        push_field(&mut self.path, name);
        length
    }

    /// Reads one step further down, at an item of a list.
    pub(super) fn at_index<T>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        push_index(&mut self.path, index);
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// The value as an object that has none but these fields, each at most once.
    pub(super) fn object<'n>(&mut self, node: &'n Node, known: &[&str]) -> Option<Object<'n>> {
        let fields = node.as_object().or_else(|| self.wrong_kind(node, "an object"))?;
        let mut seen = vec![false; known.len()];
        for (name, _) in fields {
            let slot = known.iter().zip(&mut seen).find(|(field, _)| *field == name);
            match slot {
                Some((_, seen @ false)) => *seen = true,
                Some(_) => self.at_field(name, |r| r.problem("given twice; keep one")),
                None => {
                    let right = self.nearest(name, known.iter().copied());
                    self.at_field(name, |r| r.problem(format!("unknown field; {right}")));
                }
            }
        }
        Some(Object(fields))
    }

    /// A required field. `expected` describes its value.
    pub(super) fn required<T>(
        &mut self,
        object: Object<'_>,
        name: &str,
        expected: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        self.at_field(name, |reader| match object.field(name) {
            Some(node) => read(reader, node),
            None => {
                reader.problem(format!("missing; expected {expected}"));
                None
            }
        })
    }

    /// A field that may be absent, which reads as `None` as well.
    pub(super) fn optional<T>(
        &mut self,
        object: Object<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = object.field(name)?;
        self.at_field(name, |reader| read(reader, node))
    }

    /// Each item of a list with its index. `what` names one: an empty list is a problem.
    pub(super) fn items<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        mut read: impl FnMut(&mut Self, usize, &'n Node),
    ) -> Option<()> {
        let items = node.as_array().or_else(|| self.wrong_kind(node, "a list"))?;
        if items.is_empty() {
            self.problem(format!("found an empty list; expected at least one {what}"));
            return None;
        }
        for (index, item) in items.iter().enumerate() {
            self.at_index(index, |reader| read(reader, index, item));
        }
        Some(())
    }

    /// A text.
    pub(super) fn string<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        node.as_str().or_else(|| self.wrong_kind(node, "a string"))
    }

    /// A text of a given form; `expected` describes the form.
    pub(super) fn text(
        &mut self,
        node: &Node,
        is_right: impl FnOnce(&str) -> bool,
        expected: &str,
    ) -> Option<String> {
        let text = self.string(node)?;
        if is_right(text) {
            return Some(text.to_owned());
        }
        self.found(text, expected)
    }

    /// Records what a text was found to be, and what would be right.
    fn found<T>(&mut self, text: &str, expected: &str) -> Option<T> {
        self.problem(format!("found {}; expected {expected}", quoted(text)));
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        node.as_bool().or_else(|| self.wrong_kind(node, "true or false"))
    }

    /// A whole number within bounds.
    pub(super) fn integer(&mut self, node: &Node, bounds: RangeInclusive<u32>) -> Option<u32> {
        let number = match node {
            // What Envoy makes of a larger number in its YAML, where a document is part of that.
            Node::String(text) => text.parse().ok().filter(|number| *number > LARGEST_IN_STRUCT),
            _ => node.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        number.filter(|number| bounds.contains(number)).or_else(|| {
            let found = match node {
                Node::Unsigned(number) => number.to_string(),
                Node::Negative(number) => number.to_string(),
                // Formatting floats is 14 KB of the module.
                Node::Float(_) => "a number with a fraction, or far too large".to_owned(),
                _ => node.kind().to_owned(),
            };
            let (low, high) = (bounds.start(), bounds.end());
            self.problem(format!("found {found}; expected a whole number from {low} to {high}"));
            None
        })
    }

    /// Records that a value is of another kind. It names kinds only: the value may be a key.
    pub(super) fn wrong_kind<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let advice = match (node, expected) {
            (
                Node::Unsigned(_) | Node::Negative(_) | Node::Float(_) | Node::Bool(_),
                "a string",
            ) => "; put it in quotes",
            (Node::Null, _) => "; give it a value or leave the field out",
            _ => "",
        };
        self.problem(format!("found {}; expected {expected}{advice}", node.kind()));
        None
    }

    /// What would be right instead of a name that is not one of these.
    pub(super) fn nearest<'k>(
        &mut self,
        name: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> String {
        if self.suggested < SUGGESTIONS {
            self.suggested += 1;
            let near = known.clone().filter_map(|known| Some((distance(name, known)?, known)));
            if let Some((_, near)) = near.min_by_key(|(distance, _)| *distance) {
                return format!("did you mean {}?", quoted(near));
            }
        }
        let mut text = String::from("expected ");
        let mut known = known.enumerate().peekable();
        while let Some((index, name)) = known.next() {
            match (index, known.peek()) {
                (0, _) => {}
                (10, Some(_)) => {
                    text.push_str(" or another of the document's");
                    break;
                }
                (_, Some(_)) => text.push_str(", "),
                (_, None) => text.push_str(" or "),
            }
            text.push_str(name);
        }
        text
    }
}

/// An object whose field names were checked.
#[derive(Clone, Copy)]
pub(super) struct Object<'n>(&'n [(String, Node)]);

impl<'n> Object<'n> {
    /// A field's value; of duplicates, which are recorded already, the first.
    pub(super) fn field(self, name: &str) -> Option<&'n Node> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, node)| node)
    }

    /// The names of its fields.
    pub(super) fn names(self) -> impl Iterator<Item = &'n str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_end_and_problems_do_not() {
        let mut reader = Reader::default();
        for _ in 0..SUGGESTIONS {
            assert_eq!(reader.nearest("nmae", ["name"].into_iter()), "expected name");
            assert_eq!(reader.suggested.min(1), 1);
        }
        assert_eq!(reader.nearest("nam", ["name"].into_iter()), "expected name");
    }

    #[test]
    fn what_is_expected_is_listed_up_to_a_bound() {
        let names: Vec<String> = (0..12).map(|n| format!("m{n}xxxxxx")).collect();
        for (count, expected) in [
            (1, "expected m0xxxxxx"),
            (2, "expected m0xxxxxx or m1xxxxxx"),
            (3, "expected m0xxxxxx, m1xxxxxx or m2xxxxxx"),
        ] {
            let known = names.iter().take(count).map(String::as_str);
            assert_eq!(Reader::default().nearest("z", known), expected);
        }
        let all = Reader::default().nearest("z", names.iter().map(String::as_str));
        assert!(all.ends_with("m8xxxxxx, m9xxxxxx or another of the document's"), "{all}");
    }
}
