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
    /// Whether a name may be a secret that was put into the wrong place.
    is_hidden: bool,
}

impl Names {
    /// No names of a list yet.
    pub(super) fn new(list: &'static str, field: &'static str) -> Self {
        Self { list, field, positions: BTreeMap::new(), is_hidden: false }
    }

    /// The same, where no problem repeats a name.
    pub(super) fn hidden(self) -> Self {
        Self { is_hidden: true, ..self }
    }

    /// Takes the name of the item at a position. A name that is taken is a problem.
    pub(super) fn declare(&mut self, reader: &mut Reader, name: &str, position: usize) {
        match self.positions.get(name) {
            Some(first) => {
                let (list, field) = (self.list, self.field);
                let same = match self.is_hidden {
                    true => "same as".to_owned(),
                    false => format!("{} is taken by", quoted(name)),
                };
                reader.problem(format!("{same} {list}[{first}].{field}; names are unique"));
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
    /// names at all: then the list is the problem, and is recorded.
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
