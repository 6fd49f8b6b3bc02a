//! The problems of a document, with what is expected instead.

use std::fmt::{self, Write as _};

/// How much of a found value a message shows.
const SHOWN_CHARACTERS: usize = 80;

/// One thing that is wrong with the document, at one place of it.
///
/// It displays as `backends[1].endpoint: "…" is a regional endpoint; …`: the place, what was found
/// there, and what would be right. It is one line, and never repeats what is in the place of a key's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    path: String,
    what: String,
    line: Option<usize>,
    column: Option<usize>,
}

impl Problem {
    /// A problem at a place of the document; an empty path is the document itself.
    pub fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into(), line: None, column: None }
    }

    /// A document that is not of its syntax at all, JSON or YAML, and where it ceases to be.
    pub fn of_syntax(line: usize, column: usize, what: &str) -> Self {
        let problem = Self::new(format!("line {line}, column {column}"), escaped(what));
        Self { line: Some(line), column: Some(column), ..problem }
    }

    /// The same, where the line of its place is known, unless it has one.
    #[must_use]
    pub fn at_line(self, line: usize) -> Self {
        Self { line: self.line.or(Some(line)), ..self }
    }

    /// Where: `backends[1].endpoint`, `line 3, column 7`, or `document`.
    pub fn path(&self) -> &str {
        if self.path.is_empty() {
            "document"
        } else {
            &self.path
        }
    }

    /// The line of the place, from 1 on, where the document is a text and it is known.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The column where the document ceases to be of its syntax; other problems have none.
    pub fn column(&self) -> Option<usize> {
        self.column
    }

    /// What was found and what would be right.
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), None) = (self.line, self.column) {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.path(), self.what)
    }
}

/// Everything that is wrong with a document: at least one problem, in the order of reading.
///
/// It displays one problem a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    first: Problem,
    rest: Vec<Problem>,
}

impl Problems {
    /// These problems, or `None` where there are none.
    pub fn from_list(problems: Vec<Problem>) -> Option<Self> {
        let mut problems = problems.into_iter();
        let first = problems.next()?;
        Some(Self { first, rest: problems.collect() })
    }

    /// The same number of problems, each made of one of these.
    #[must_use]
    pub fn map(self, change: impl Fn(Problem) -> Problem) -> Self {
        Self { first: change(self.first), rest: self.rest.into_iter().map(change).collect() }
    }

    /// Each problem.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// How many there are: at least one.
    pub fn count(&self) -> usize {
        1 + self.rest.len()
    }
}

impl From<Problem> for Problems {
    fn from(first: Problem) -> Self {
        Self { first, rest: Vec::new() }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.rest.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// Appends a field to the path of an object: `.name`, or `["name"]` where it is not a plain word.
pub fn push_field(path: &mut String, name: &str) {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        *path += &format!("[{}]", quoted(name));
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        *path += name;
    }
}

/// Appends an index to the path of a list.
pub fn push_index(path: &mut String, index: usize) {
    // Writing to a string cannot fail.
    let _ = write!(path, "[{index}]");
}

/// A found value in quotes: shortened, and on one line whatever it holds.
pub(super) fn quoted(found: &str) -> String {
    let mut text = String::from('"');
    for (count, character) in found.chars().enumerate() {
        if count == SHOWN_CHARACTERS {
            text.push('…');
            break;
        }
        match character {
            '"' | '\\' => text.extend(character.escape_default()),
            _ => push_escaped(&mut text, character),
        }
    }
    text.push('"');
    text
}

/// A message that may carry what was found, on one line.
fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    message.chars().for_each(|character| push_escaped(&mut text, character));
    text
}

/// Control characters could forge lines of a log, and what turns the writing direction could make
/// a line read as another.
fn push_escaped(text: &mut String, character: char) {
    match character {
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => {
            text.extend(character.escape_unicode());
        }
        _ if character.is_control() => text.extend(character.escape_default()),
        _ => text.push(character),
    }
}

/// All that a message may contain of a text that could be a secret.
pub(super) fn shape(text: &str) -> String {
    match text.chars().count() {
        0 => "an empty string".to_owned(),
        1 => "a string of 1 character".to_owned(),
        count => format!("a string of {count} characters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_found_value_stays_on_its_line_and_short() {
        for (name, found, expected) in [
            ("plain", "gpt-4o", r#""gpt-4o""#.to_owned()),
            ("quotes", r#"a"b\c'd"#, r#""a\"b\\c'd""#.to_owned()),
            ("new line", "a\r\nb\u{1b}[31m", r#""a\r\nb\u{1b}[31m""#.to_owned()),
            ("direction", "a\u{202e}b", r#""a\u{202e}b""#.to_owned()),
            ("not ASCII", "schön", r#""schön""#.to_owned()),
            ("as long as may be", &"x".repeat(80), format!("\"{}\"", "x".repeat(80))),
            ("too long", &"é".repeat(81), format!("\"{}…\"", "é".repeat(80))),
        ] {
            assert_eq!(quoted(found), expected, "{name}");
        }
    }

    #[test]
    fn problems_display_one_a_line() {
        let problems = Problems::from_list(vec![
            Problem::new("models[0].name", "missing; expected a name"),
            Problem::new("", "found a list; expected an object"),
            Problem::of_syntax(3, 7, "bad\nline").at_line(9),
            Problem::new("models", "wrong").at_line(4),
        ])
        .unwrap();
        assert_eq!(
            problems.to_string(),
            "models[0].name: missing; expected a name\n\
             document: found a list; expected an object\n\
             line 3, column 7: bad\\nline\n\
             line 4: models: wrong"
        );
        assert_eq!(problems.count(), 4);
        assert_eq!(problems.iter().count(), 4);
        assert_eq!(Problems::from_list(Vec::new()), None);
    }
}
