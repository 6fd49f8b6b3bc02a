//! An error as a service writes it into a body, whatever shape it has.

use super::json::Node;

/// The code and the message of an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// The code, where there is one: a word or a number.
    pub code: String,
    /// The message; the whole text where it has no shape that is known.
    pub message: String,
}

/// What stands in a phrase for a word that differs.
const GAP: char = '…';

impl ErrorBody {
    /// Reads an error: the object of the data plane, `{"error":{"code":…,"message":…}}`, the flat one of
    /// its front door and of App Service, `{"statusCode":…,"message":…}`, the one of OAuth 2.0 (RFC 6749,
    /// 5.2), `{"error":…,"error_description":…}`, or any text.
    pub fn read(body: &[u8]) -> Self {
        let Ok(tree) = Node::from_json(body) else {
            let message = String::from_utf8_lossy(body).into_owned();
            return Self { code: String::new(), message };
        };
        let inner = tree.field("error").filter(|error| error.as_object().is_some());
        let error = inner.unwrap_or(&tree);
        let text = |names: [&str; 3]| {
            let found = names.into_iter().find_map(|name| error.field(name));
            found.map(word).unwrap_or_default()
        };
        Self {
            code: text(["code", "statusCode", "error"]),
            message: text(["message", "error_description", "Message"]),
        }
    }

    /// Whether it has this code: as its own, as a number of Entra ID's in the message, or as a word of
    /// a text without shape.
    pub fn has_code(&self, code: &str) -> bool {
        let is_word = self.code.is_empty() && code.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_in_message = is_word || code.starts_with("AADSTS");
        self.code == code
            || is_in_message
                && self.message.split(code).skip(1).any(|after| {
                    // AADSTS70021 is not AADSTS700213.
                    !after.starts_with(|c: char| c.is_ascii_alphanumeric())
                })
    }

    /// Whether its message contains this somewhere. Some responses have a sentence as their code. Where the
    /// phrase has a gap (`…`), what stands behind the gap is enough.
    pub fn has_phrase(&self, phrase: &str) -> bool {
        let phrase = phrase.split_once(GAP).map_or(phrase, |(_, rest)| rest);
        self.message.contains(phrase) || self.code.contains(phrase)
    }

    /// Whether its message or its code begins with this, and so does not quote it. A gap (`…`) stands for
    /// one word.
    pub fn begins_with(&self, phrase: &str) -> bool {
        self.behind(phrase).any(|behind| behind.is_some())
    }

    /// Whether its message or its code is this and nothing more, but for a full stop. A gap (`…`) stands for
    /// one word.
    pub fn is(&self, phrase: &str) -> bool {
        self.behind(phrase).flatten().any(|behind| matches!(behind.trim_end(), "" | "."))
    }

    /// What follows a phrase that its message begins with, and its code.
    fn behind<'a>(&'a self, phrase: &'a str) -> impl Iterator<Item = Option<&'a str>> {
        let is_end = |c: char| c.is_whitespace() || c == '`';
        [&self.message, &self.code].into_iter().map(move |text| {
            let text = text.trim_start();
            match phrase.split_once(GAP) {
                None => text.strip_prefix(phrase),
                Some((start, rest)) => {
                    text.strip_prefix(start)?.trim_start_matches(|c| !is_end(c)).strip_prefix(rest)
                }
            }
        })
    }

    /// What the message has between this and the next backtick: a principal, an action.
    pub fn after(&self, start: &str) -> Option<&str> {
        let (_, rest) = self.message.split_once(start)?;
        let (name, _) = rest.split_once('`')?;
        // It goes into a log, and a backend could send anything.
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-/._".contains(&b);
        (!name.is_empty() && name.len() <= 128 && name.bytes().all(is_name)).then_some(name)
    }
}

fn word(node: &Node) -> String {
    match node {
        Node::String(text) => text.clone(),
        Node::Unsigned(number) => number.to_string(),
        _ => String::new(),
    }
}
