//! `aoai usage`: sums up Envoy's access logs, as the rendered bootstrap has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{json, Map, Value};

use crate::document::{print_error, unreadable, Count};
use crate::outcome::Outcome;

/// Options.
#[derive(Args)]
pub(crate) struct Options {
    /// Access logs, or - for standard input
    #[arg(default_value = "-")]
    files: Vec<PathBuf>,
    /// What there is a row for, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "day,subscription,model")]
    by: Vec<Column>,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What requests can be told apart by.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// The day on which the request came, in UTC
    Day,
    Subscription,
    Model,
    Backend,
    Operation,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people, and a row with the sum
    Table,
    /// With a head (RFC 4180)
    Csv,
    /// A list of objects
    Json,
}

/// What a row counts.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    requests: u64,
    refused: u64,
    input_tokens: u64,
    output_tokens: u64,
    tokens: u64,
}

/// The rows by their texts, and how many lines were none of an access log.
#[derive(Default)]
struct Usage {
    rows: BTreeMap<Vec<String>, Sums>,
    other_lines: u64,
}

/// In place of what is not known of a request.
const NONE: &str = "none";

/// After how many bytes of a log there is a sign: about each half second.
const PROGRESS: u64 = 64 << 20;

impl Column {
    const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Subscription => "subscription",
            Self::Model => "model",
            Self::Backend => "backend",
            Self::Operation => "operation",
        }
    }

    fn of(self, line: &Map<String, Value>) -> String {
        let text = match self {
            // 2026-11-27T08:00:00.000Z
            Self::Day => text(line, "time").and_then(|time| time.get(.."2026-11-27".len())),
            _ => text(line, self.name()),
        };
        text.unwrap_or(NONE).to_owned()
    }
}

impl Sums {
    /// The names and the values.
    fn fields(&self) -> [(&'static str, u64); 5] {
        [
            ("requests", self.requests),
            ("refused", self.refused),
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
            ("tokens", self.tokens),
        ]
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }

    fn of(line: &Map<String, Value>) -> Self {
        Self {
            requests: 1,
            refused: u64::from(text(line, "reason").is_some()),
            input_tokens: count(line, "input_tokens"),
            output_tokens: count(line, "output_tokens"),
            tokens: count(line, "tokens"),
        }
    }
}

/// What is known: Envoy writes `null` or `-` where it knows nothing.
fn text<'l>(line: &'l Map<String, Value>, name: &str) -> Option<&'l str> {
    line.get(name).and_then(Value::as_str).filter(|text| !matches!(*text, "" | "-"))
}

/// A count: Envoy writes filter state as text.
fn count(line: &Map<String, Value>, name: &str) -> u64 {
    let value = line.get(name);
    let number = value.and_then(Value::as_u64);
    number.or_else(|| value?.as_str()?.parse().ok()).unwrap_or_default()
}

/// Sums up the logs.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut usage = Usage::default();
    for file in &options.files {
        if let Err(error) = usage.read(file, &options.by) {
            return unreadable(file, &error).into();
        }
    }
    if usage.other_lines > 0 {
        let lines = usize::try_from(usage.other_lines).unwrap_or(usize::MAX);
        let lines = Count(lines, "line");
        let _ = writeln!(io::stderr(), "aoai: skipped {lines} that no access log has");
    }
    if usage.rows.is_empty() {
        let _ = writeln!(
            io::stderr(),
            "aoai: found no line of an access log (listener.access_log: json)"
        );
        return Outcome::Problems.into();
    }
    let mut output = BufWriter::new(io::stdout().lock());
    let printed = match options.format {
        Format::Table => usage.print_table(&options.by, &mut output),
        Format::Csv => usage.print_csv(&options.by, &mut output),
        Format::Json => usage.print_json(&options.by, &mut output),
    };
    match printed.and_then(|()| output.flush()) {
        Ok(()) => Outcome::Success.into(),
        Err(error) => print_error(&error).into(),
    }
}

impl Usage {
    fn read(&mut self, file: &Path, by: &[Column]) -> io::Result<()> {
        if file == Path::new("-") {
            return self.read_lines(io::stdin().lock(), None, by);
        }
        let opened = File::open(file)?;
        let size = opened.metadata().ok().map(|about| about.len());
        self.read_lines(BufReader::with_capacity(1 << 20, opened), size, by)
    }

    fn read_lines(
        &mut self,
        mut lines: impl BufRead,
        size: Option<u64>,
        by: &[Column],
    ) -> io::Result<()> {
        let mut progress = Progress::new(size);
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                progress.end();
                return Ok(());
            }
            self.add(&line, by);
            progress.advance(line.len());
        }
    }

    /// Adds a line, whatever a collector of logs has put before its object.
    fn add(&mut self, line: &[u8], by: &[Column]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let start = line.iter().position(|byte| *byte == b'{').unwrap_or_default();
        let object = line.get(start..).unwrap_or_default();
        match serde_json::from_slice(object) {
            Ok(Value::Object(object)) if is_ours(&object) => {
                let key = by.iter().map(|column| column.of(&object)).collect();
                self.rows.entry(key).or_default().add(&Sums::of(&object));
            }
            _ => self.other_lines += 1,
        }
    }

    fn sum(&self) -> Sums {
        let mut sum = Sums::default();
        self.rows.values().for_each(|row| sum.add(row));
        sum
    }

    fn print_table(&self, by: &[Column], output: &mut impl Write) -> io::Result<()> {
        let head = by.iter().map(|column| column.name().to_owned());
        let names = Sums::default().fields().map(|(name, _)| name.to_owned());
        let mut table: Vec<Vec<String>> = vec![head.chain(names).collect()];
        let values = |sums: &Sums| sums.fields().map(|(_, value)| value.to_string());
        for (key, sums) in &self.rows {
            table.push(key.iter().cloned().chain(values(sums)).collect());
        }
        let rest = by.iter().skip(1).map(|_| String::new());
        let first = by.first().map(|_| "all".to_owned());
        table.push(first.into_iter().chain(rest).chain(values(&self.sum())).collect());
        let width = |column: usize| {
            let of = |row: &Vec<String>| row.get(column).map_or(0, |cell| cell.chars().count());
            table.iter().map(of).max().unwrap_or_default()
        };
        let columns = by.len() + Sums::default().fields().len();
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &table {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                match column < by.len() {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn print_csv(&self, by: &[Column], output: &mut impl Write) -> io::Result<()> {
        let names = by.iter().map(|column| column.name());
        let sums = Sums::default().fields().map(|(name, _)| name);
        writeln!(output, "{}", names.chain(sums).collect::<Vec<_>>().join(","))?;
        for (key, sums) in &self.rows {
            let cells = key.iter().map(|text| quoted(text));
            let values = sums.fields().map(|(_, value)| value.to_string());
            writeln!(output, "{}", cells.chain(values).collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }

    fn print_json(&self, by: &[Column], output: &mut impl Write) -> io::Result<()> {
        let rows: Vec<Value> = self.rows.iter().map(|(key, sums)| row(by, key, sums)).collect();
        writeln!(output, "{:#}", Value::Array(rows))
    }
}

/// Whether a line is one of the rendered access log: others have no such fields.
fn is_ours(line: &Map<String, Value>) -> bool {
    ["time", "subscription", "model", "status"].iter().all(|name| line.contains_key(*name))
}

fn row(by: &[Column], key: &[String], sums: &Sums) -> Value {
    let texts = by.iter().zip(key).map(|(column, text)| (column.name(), json!(text)));
    let values = sums.fields().map(|(name, value)| (name, json!(value)));
    texts.chain(values).map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

/// A cell of CSV.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// Says on a terminal how far a long log is read.
struct Progress {
    size: Option<u64>,
    read: u64,
    /// At how many bytes it says so next; none where nobody looks.
    due: Option<u64>,
}

impl Progress {
    /// Of a log of this size, where it is known.
    fn new(size: Option<u64>) -> Self {
        Self { size, read: 0, due: io::stderr().is_terminal().then_some(PROGRESS) }
    }

    fn advance(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes as u64);
        if self.due.is_none_or(|due| self.read < due) {
            return;
        }
        self.due = Some(self.read.saturating_add(PROGRESS));
        let part = self.size.and_then(|size| self.read.saturating_mul(100).checked_div(size));
        let part = part.map(|part| format!(", {part} %")).unwrap_or_default();
        let _ = write!(io::stderr(), "\raoai: {} MiB read{part}", self.read >> 20);
    }

    fn end(&self) {
        if self.due.is_some_and(|due| due > PROGRESS) {
            let _ = writeln!(io::stderr());
        }
    }
}
