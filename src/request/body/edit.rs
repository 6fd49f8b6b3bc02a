//! Replacing some of a body that passes in pieces.

use std::ops::Range;

/// Where a body names its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInBody {
    /// Which bytes, counted from the body's first.
    pub at: Range<usize>,
    /// How a name is written there.
    pub syntax: NameSyntax,
}

/// How a body writes a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSyntax {
    /// In quotes, as JSON does.
    Quoted,
    /// As it is, as a form does.
    Plain,
}

/// A replacement of some of a body's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyEdit {
    /// Which bytes, counted from the body's first, or from the first that are held.
    pub at: Range<usize>,
    /// What replaces them.
    pub with: Vec<u8>,
}

impl NameSyntax {
    /// Writes a deployment's name, which has no character that would need an escape
    /// ([`crate::config::Placement`]).
    pub fn encode(self, name: &str) -> String {
        match self {
            Self::Quoted => format!("\"{name}\""),
            Self::Plain => name.to_owned(),
        }
    }
}

impl ModelInBody {
    /// The edit by which the body names a deployment.
    pub fn edit(&self, deployment: &str) -> BodyEdit {
        BodyEdit { at: self.at.clone(), with: self.syntax.encode(deployment).into_bytes() }
    }
}

impl BodyEdit {
    /// Puts something behind all that is held of a body.
    pub fn append(with: Vec<u8>) -> Self {
        Self { at: usize::MAX..usize::MAX, with }
    }

    /// Whether it is such an edit.
    pub fn is_append(&self) -> bool {
        self.at.start == usize::MAX
    }

    /// How long a body of this length becomes.
    pub fn length_of(&self, length: u64) -> u64 {
        length.saturating_sub(self.at.len() as u64).saturating_add(self.with.len() as u64)
    }
}

/// Edits a body that passes in pieces.
#[derive(Debug)]
pub struct BodyEditor {
    edit: BodyEdit,
    /// How many bytes have been forwarded.
    forwarded: usize,
}

/// What becomes of the bytes that are held now.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// They are forwarded as they are.
    Unchanged,
    /// They wait for more.
    Incomplete,
    /// Some of them, counted from their own first, are replaced, and then all are forwarded.
    Edited(BodyEdit),
}

impl BodyEditor {
    /// For a body of which nothing has been forwarded.
    pub fn new(edit: BodyEdit) -> Self {
        Self { edit, forwarded: 0 }
    }

    /// Looks at the bytes that are held, so many of them.
    pub fn next(&mut self, held: usize) -> Piece {
        let Range { start, end } = self.edit.at;
        let until = self.forwarded + held;
        if until <= start || self.forwarded >= end {
            self.forwarded = until;
            return Piece::Unchanged;
        }
        if until < end {
            return Piece::Incomplete;
        }
        let at = start.saturating_sub(self.forwarded)..end - self.forwarded;
        self.forwarded = until;
        Piece::Edited(BodyEdit { at, with: self.edit.with.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends a body through an editor in pieces of a size, as Envoy's buffer would.
    fn edited(body: &[u8], edit: &BodyEdit, size: usize) -> Vec<u8> {
        let mut editor = BodyEditor::new(edit.clone());
        let (mut sent, mut held) = (Vec::new(), Vec::new());
        for piece in body.chunks(size) {
            held.extend_from_slice(piece);
            match editor.next(held.len()) {
                Piece::Incomplete => continue,
                Piece::Unchanged => {}
                Piece::Edited(BodyEdit { at, with }) => {
                    held.splice(at, with);
                }
            }
            sent.append(&mut held);
        }
        sent
    }

    #[test]
    fn a_name_is_written_in_the_bodys_own_syntax() {
        let edit = |syntax| ModelInBody { at: 3..6, syntax }.edit("d");
        assert_eq!(edit(NameSyntax::Quoted), BodyEdit { at: 3..6, with: b"\"d\"".to_vec() });
        assert_eq!(edit(NameSyntax::Plain), BodyEdit { at: 3..6, with: b"d".to_vec() });
        assert_eq!(edit(NameSyntax::Plain).length_of(10), 8);
    }

    proptest! {
        #[test]
        fn a_body_is_changed_at_its_place_however_it_is_cut(
            body in prop::collection::vec(any::<u8>(), 1..60),
            ends in (0_usize..60, 0_usize..60),
            size in 1_usize..70,
        ) {
            let start = ends.0.min(ends.1).min(body.len() - 1);
            let end = (ends.0.max(ends.1) + 1).min(body.len()).max(start + 1);
            let edit = BodyEdit { at: start..end, with: b"name".to_vec() };
            let mut expected = body.clone();
            expected.splice(start..end, *b"name");
            prop_assert_eq!(edited(&body, &edit, size), expected);
        }
    }
}
