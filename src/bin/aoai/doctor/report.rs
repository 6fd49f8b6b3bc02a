//! The doctor's report: a line for each step as soon as it is done, or one JSON document at the end.

use std::io::{self, IsTerminal, Write};

use aoai_filter::config::Config;
use serde_json::{json, Map, Value};

use crate::document::Count;
use crate::outcome::Outcome;

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As expected.
    Ok,
    /// The proxy can serve, but something looks wrong.
    Warn,
    /// The proxy cannot serve.
    Fail,
    /// Not done: a previous step failed, or there is nothing to do.
    Skip,
}

impl Verdict {
    /// Its word, and its colour on a terminal.
    fn word(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("ok", "\x1b[32m"),
            Self::Warn => ("warn", "\x1b[33m"),
            Self::Fail => ("FAIL", "\x1b[31m"),
            Self::Skip => ("skip", "\x1b[2m"),
        }
    }
}

/// A step and its result.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) verdict: Verdict,
    /// What the step examines: `identity default`, `backend eastus`.
    pub(super) subject: String,
    /// What was done: `dns`, `tls`, `deployment gpt-4o`.
    pub(super) what: String,
    /// What was found, on one line.
    pub(super) text: String,
    /// The same for programs.
    pub(super) facts: Vec<(&'static str, Value)>,
}

impl Step {
    /// A step without facts.
    pub(super) fn new(
        verdict: Verdict,
        subject: &str,
        what: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        let (subject, what, text) = (subject.to_owned(), what.into(), text.into());
        Self { verdict, subject, what, text, facts: Vec::new() }
    }

    /// The same, where what was done has this name.
    pub(super) fn named(self, what: &str) -> Self {
        Self { what: what.to_owned(), ..self }
    }

    /// The name of the error that was found, where it is known.
    fn diagnosis(&self) -> Option<&str> {
        let (_, slug) = self.facts.iter().find(|(name, _)| *name == "diagnosis")?;
        slug.as_str()
    }

    /// The same with one more fact; null is not added.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.facts.push((name, value));
        }
        self
    }
}

/// All steps.
pub(super) struct Report {
    json: bool,
    colours: bool,
    /// How wide the columns of subjects and steps are.
    widths: (usize, usize),
    steps: Vec<Step>,
    /// Whether standard output is still open.
    is_read: bool,
}

impl Report {
    /// An empty one.
    pub(super) fn new(json: bool) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colours, widths: ("configuration".len(), 0), steps: Vec::new(), is_read: true }
    }

    /// Makes the columns wide enough for the names of a configuration.
    pub(super) fn fit(&mut self, config: &Config) {
        let identities = config.credentials.iter().map(|one| "identity ".len() + one.name.len());
        let backends = config.backends.iter().map(|one| "backend ".len() + one.name.len());
        let placements = config.models.values().flat_map(|model| &model.placements);
        let deployments = placements.map(|one| "deployment ".len() + one.deployment.len());
        let (subjects, steps) = self.widths;
        self.widths = (
            identities.chain(backends).chain([subjects]).max().unwrap_or_default(),
            deployments.chain([steps]).max().unwrap_or_default(),
        );
    }

    /// Adds a step, and prints it.
    pub(super) fn add(&mut self, step: Step) {
        if !self.json {
            let shown = self.show(&step);
            self.is_read &= shown.is_ok();
        }
        self.steps.push(step);
    }

    fn show(&self, step: &Step) -> io::Result<()> {
        let (word, colour) = step.verdict.word();
        let (begin, end) = if self.colours { (colour, "\x1b[0m") } else { ("", "") };
        let Step { subject, what, text, .. } = step;
        let text = match step.diagnosis().filter(|_| self.has_said(step)) {
            Some(slug) => format!("{slug}, as above"),
            None => text.clone(),
        };
        let (wide, wider) = self.widths;
        writeln!(io::stdout(), "{begin}{word:4}{end}  {subject:wide$}  {what:wider$}  {text}")
    }

    /// Whether a step before has the same text about the same subject.
    fn has_said(&self, step: &Step) -> bool {
        self.steps.iter().any(|one| one.subject == step.subject && one.text == step.text)
    }

    /// Prints the summary.
    pub(super) fn finish(self) -> Outcome {
        let count = |verdict| self.steps.iter().filter(|step| step.verdict == verdict).count();
        let (problems, warnings) = (count(Verdict::Fail), count(Verdict::Warn));
        let printed = if self.json {
            self.print_json(problems, warnings)
        } else {
            let (problems, warnings) = (Count(problems, "problem"), Count(warnings, "warning"));
            match (problems.0, warnings.0) {
                (0, 0) => writeln!(io::stdout(), "\nno problems found"),
                (0, _) => writeln!(io::stdout(), "\nno problems found, {warnings}"),
                (_, 0) => writeln!(io::stdout(), "\n{problems}"),
                _ => writeln!(io::stdout(), "\n{problems}, {warnings}"),
            }
        };
        match (printed, self.is_read, problems) {
            (Ok(()), true, 0) => Outcome::Success,
            (Ok(()), true, _) => Outcome::Problems,
            _ => Outcome::Unusable,
        }
    }

    fn print_json(&self, problems: usize, warnings: usize) -> io::Result<()> {
        let steps: Vec<_> = self.steps.iter().map(as_json).collect();
        let verdict = if problems == 0 { "ok" } else { "fail" };
        let whole = json!({
            "verdict": verdict, "problems": problems, "warnings": warnings, "steps": steps,
        });
        writeln!(io::stdout(), "{whole:#}")
    }
}

fn as_json(step: &Step) -> Value {
    let word = step.verdict.word().0.to_ascii_lowercase();
    let fixed = [
        ("result", word.into()),
        ("subject", step.subject.as_str().into()),
        ("step", step.what.as_str().into()),
        ("text", step.text.as_str().into()),
    ];
    let all = fixed.into_iter().chain(step.facts.iter().cloned());
    Value::Object(all.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}
