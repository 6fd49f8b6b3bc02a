//! The lines of a document's values, for its problems.

use std::collections::BTreeMap;

use aoai_filter::config::{push_field, push_index, Problem};
use saphyr_parser::{Event, Parser, Span};

/// The line of each value of a document, by its path: of a field, that of its name.
#[derive(Default)]
pub(crate) struct Lines(BTreeMap<String, usize>);

/// What the parser is in, and has a path of its own.
enum Container {
    /// A list, and the index of its next item.
    List(usize),
    /// A mapping: the field whose value comes next, if its name has come.
    Mapping(Option<String>),
}

impl Lines {
    /// Those of a document in YAML or JSON. A text that is neither has the lines that were read before that shows.
    pub(crate) fn of(text: &str) -> Self {
        let mut lines = Self::default();
        let mut within: Vec<(String, Container)> = Vec::new();
        // A mark that was pasted along ends the parser's reading, but not that of libyaml.
        let text = text.replace('\u{feff}', " ");
        for (event, span) in Parser::new_from_str(&text).map_while(Result::ok) {
            match event {
                Event::Scalar(name, ..) if is_name(&within) => {
                    if let Some((path, Container::Mapping(field))) = within.last_mut() {
                        let mut path = path.clone();
                        push_field(&mut path, &name);
                        lines.0.insert(path.clone(), span.start.line());
                        *field = Some(path);
                    }
                }
                Event::Scalar(..) | Event::Alias(_) => {
                    lines.begin(&mut within, span);
                }
                Event::SequenceStart(..) => {
                    let path = lines.begin(&mut within, span);
                    within.push((path, Container::List(0)));
                }
                Event::MappingStart(..) => {
                    let path = lines.begin(&mut within, span);
                    within.push((path, Container::Mapping(None)));
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    within.pop();
                }
                _ => {}
            }
        }
        lines
    }

    /// A value begins. Its path.
    fn begin(&mut self, within: &mut [(String, Container)], span: Span) -> String {
        let path = match within.last_mut() {
            Some((list, Container::List(next))) => {
                let mut path = list.clone();
                push_index(&mut path, *next);
                *next += 1;
                path
            }
            Some((_, Container::Mapping(field))) => field.take().unwrap_or_default(),
            None => String::new(),
        };
        self.0.entry(path.clone()).or_insert(span.start.line());
        path
    }

    /// A problem with its line: that of the value, or of the nearest one around it. What is missing has none.
    pub(crate) fn locate(&self, problem: Problem) -> Problem {
        let path = problem.path();
        let around = path.rmatch_indices(['.', '[']).filter_map(|(end, _)| path.get(..end));
        let line = std::iter::once(path).chain(around).find_map(|path| self.0.get(path));
        match line.or_else(|| self.0.get("")) {
            Some(line) => problem.at_line(*line),
            None => problem,
        }
    }
}

/// Whether the next scalar is the name of a field.
fn is_name(within: &[(String, Container)]) -> bool {
    matches!(within.last(), Some((_, Container::Mapping(None))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_line_of_its_value_or_of_what_is_around_it() {
        let yaml = "\
# A comment.
identity: {managed_identity:
  {cluster: imds}}
backends:
- name: eastus
  endpoint: x
- &other
  name: sweden
  \"a b\": [1,
    2]
  alias: *other
models: >
  folded
  text
models: again
";
        for (path, line) in [
            ("identity", 2),
            ("identity.managed_identity.cluster", 3),
            ("identity.managed_identity.client_id", 2),
            ("backends[0]", 5),
            ("backends[0].endpoint", 6),
            ("backends[0].cluster", 5),
            ("backends[1].name", 8),
            ("backends[1][\"a b\"]", 9),
            ("backends[1][\"a b\"][1]", 10),
            ("backends[1][\"a.b[\"]", 7),
            ("backends[1].alias.name", 11),
            ("backends[7]", 4),
            // Given twice: the second one.
            ("models", 15),
            ("subscriptions", 2),
            ("", 2),
        ] {
            let problem = Lines::of(yaml).locate(Problem::new(path, "wrong"));
            assert_eq!(problem.line(), Some(line), "{path}");
        }
        let json = "\n{\"models\":\n\t[{\"name\":\n \"m\"}]}";
        for (path, line) in [("models", 2), ("models[0]", 3), ("models[0].name", 3), ("", 2)] {
            let problem = Lines::of(json).locate(Problem::new(path, "wrong"));
            assert_eq!(problem.line(), Some(line), "{path}");
        }
        let marked = "# a\u{feff}b\nmodels: 1\n";
        assert_eq!(Lines::of(marked).locate(Problem::new("models", "wrong")).line(), Some(2));
        assert_eq!(Lines::of("").locate(Problem::new("", "empty")).line(), None);
        assert_eq!(Lines::of("a: [}").locate(Problem::new("a", "wrong")).line(), Some(1));
    }
}
