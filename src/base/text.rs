//! Texts from outside, made fit for a line of a log.

/// The text without control characters, cut to 200 characters.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = chars.by_ref().take(LONGEST).collect();
    if chars.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}
