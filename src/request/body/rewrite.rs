//! Editing a body that passes in pieces, of which none is held: what is undecided at a piece's end waits
//! here, and goes on with the next one.

use super::edit::BodyEdit;

/// What changes in the bytes that have been read since the last time, counted from the body's first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rewrites {
    /// The edits, in order.
    pub edits: Vec<BodyEdit>,
    /// From where on it is not known yet: a few bytes.
    pub undecided: Option<usize>,
    /// How much of the reserve all edits so far have used.
    pub used: usize,
}

/// Edits a body, and fills it up to the length that its head has.
#[derive(Debug, Default)]
pub struct BodyRewriter {
    /// How many bytes have come.
    received: usize,
    /// What was undecided of them, and has not gone on.
    withheld: Vec<u8>,
    /// By how much the head says that the body is longer.
    reserve: usize,
}

impl BodyRewriter {
    /// For a body whose head says that it is longer by this.
    pub fn new(reserve: usize) -> Self {
        Self { reserve, ..Self::default() }
    }

    /// Lets so many bytes go on in which nothing has to change.
    pub fn skip(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// Takes the next piece, and returns what changes in it. What is left of the reserve becomes white space
    /// behind the last one: a JSON document may end so.
    pub fn next(&mut self, piece: &[u8], rewrites: Rewrites, is_last: bool) -> Option<BodyEdit> {
        let Rewrites { edits, undecided, used } = rewrites;
        let undecided = undecided.filter(|_| !is_last);
        let space =
            if is_last { std::mem::take(&mut self.reserve).saturating_sub(used) } else { 0 };
        let mut start = self.received - self.withheld.len();
        self.received += piece.len();
        if edits.is_empty() && undecided.is_none() && self.withheld.is_empty() {
            return (space > 0).then(|| BodyEdit::append(vec![b' '; space]));
        }
        // Most often nothing is withheld.
        let mut waiting = std::mem::take(&mut self.withheld);
        waiting.extend_from_slice(piece);
        let mut with = Vec::with_capacity(waiting.len() + space + 64);
        let mut rest = waiting.as_slice();
        for BodyEdit { at, with: text } in edits {
            let (before, behind) =
                rest.split_at_checked(at.start.saturating_sub(start)).unwrap_or((rest, &[]));
            with.extend_from_slice(before);
            with.extend_from_slice(&text);
            rest = behind.get(at.len()..).unwrap_or_default();
            start = at.end;
        }
        let decided = undecided.map_or(rest.len(), |undecided| undecided.saturating_sub(start));
        let (rest, withheld) = rest.split_at_checked(decided).unwrap_or((rest, &[]));
        with.extend_from_slice(rest);
        with.resize(with.len() + space, b' ');
        self.withheld = withheld.to_vec();
        Some(BodyEdit { at: 0..piece.len(), with })
    }
}
