//! A TOML file as its author wrote it: tables and values with their places, read by hand so that no mistake hides another.

use crate::config::blot::names_a_secret;
use crate::config::problem::{Place, Problem, ShownFile};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// After this many mistakes the rest is not looked for: finding places in a hopeless file costs time and helps nobody.
const ENOUGH: usize = 200;

/// Every mistake found so far, in all files.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    /// Names and lines whose TOML itself is broken: what else is wrong there is only a consequence.
    broken: BTreeSet<(String, usize)>,
    broken_files: BTreeSet<String>,
}

impl Findings {
    pub(super) fn add(&mut self, problem: Problem) {
        if self.problems.len() >= ENOUGH {
            return;
        }
        // Under a broken header everything stands in the wrong table.
        let header = problem.header_line();
        let is_consequence = |line: usize| self.broken.contains(&(problem.file().to_owned(), line));
        if !is_consequence(problem.line()) && !header.is_some_and(is_consequence) {
            self.problems.push(problem);
        }
    }

    fn add_broken_toml(&mut self, problem: Problem) {
        let line = (problem.file().to_owned(), problem.line());
        self.broken_files.insert(problem.file().to_owned());
        if self.broken.insert(line) {
            self.problems.push(problem);
        }
    }

    /// Something that should be in a file is not. In a file of broken TOML it may only be out of sight.
    pub(super) fn add_missing(&mut self, problem: Problem) {
        if self.problems.len() < ENOUGH && !self.broken_files.contains(problem.file()) {
            self.problems.push(problem);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// All of them, file by file as they were first read, each file from top to bottom.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        let mut files: Vec<String> = Vec::new();
        for problem in &self.problems {
            if !files.iter().any(|file| file == problem.file()) {
                files.push(problem.file().to_owned());
            }
        }
        self.problems.sort_by_cached_key(|problem| {
            let file = files.iter().position(|file| file == problem.file());
            (file, problem.line(), problem.column())
        });
        self.problems
    }
}

/// The text of one file and its TOML.
#[derive(Debug)]
pub(super) struct Document<'a> {
    file: Arc<ShownFile>,
    root: toml::Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Reads the text; what is no TOML goes to the findings and the rest is kept.
    pub(super) fn parse(file: &Arc<ShownFile>, text: &'a str, findings: &mut Findings) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors.into_iter().take(ENOUGH) {
            let place = Place::new(file, error.span().unwrap_or(0..0));
            let (message, hint) = in_plain_words(error.message());
            let problem = Problem::new(place, format!("this is no TOML: {message}"));
            findings.add_broken_toml(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
        Self { file: Arc::clone(file), root }
    }

    /// The file's own table.
    pub(super) fn table(&'a self) -> Table<'a> {
        let entries = self.root.get_ref().iter();
        Table::new(Arc::clone(&self.file), Place::new(&self.file, 0..0), String::from("this file"), entries)
    }
}

/// The parser's words for the slips people make, in words for people who do not write parsers.
fn in_plain_words(message: &str) -> (&str, Option<&'static str>) {
    if message.starts_with("string values must be quoted") {
        let hint = "after `=` comes a text in \"quotes\", a number, true or false, a [list] or a { table }";
        return ("a value is missing, or it is a text without quotes", Some(hint));
    }
    if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") {
        return ("this text has no end", Some("close it with the quote it began with, on the same line"));
    }
    if message == "duplicate key" {
        return (
            "this stands further up already",
            Some("each key and each [table] may stand once; only [[tables]] repeat"),
        );
    }
    (message, None)
}

/// One value with its key.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    file: Arc<ShownFile>,
    key: &'a str,
    key_span: Range<usize>,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    pub(super) fn key(&self) -> &'a str {
        self.key
    }

    /// The place of the value.
    pub(super) fn place(&self) -> Place {
        Place::new(&self.file, self.span.clone())
    }

    /// The place of the key.
    pub(super) fn key_place(&self) -> Place {
        Place::new(&self.file, self.key_span.clone())
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.place(), message)
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    fn wrong_type(&self, wanted: &str) -> Problem {
        let is = match self.value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.problem(format!("`{}` must be {wanted}", self.key)).label(format!("this is {is}"))
    }

    /// A text in quotes.
    pub(super) fn text(&self, findings: &mut Findings) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            findings.add(self.wrong_type("a text in \"quotes\""));
        }
        text
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, findings: &mut Findings) -> Option<bool> {
        let switch = self.value.as_bool();
        if switch.is_none() {
            findings.add(self.wrong_type("true or false"));
        }
        switch
    }

    /// A whole number between two others.
    pub(super) fn whole(&self, range: std::ops::RangeInclusive<i64>, findings: &mut Findings) -> Option<i64> {
        let Some(integer) = self.value.as_integer() else {
            findings.add(self.wrong_type("a whole number"));
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fitting = number.filter(|number| range.contains(number));
        if fitting.is_none() {
            let (low, high) = (range.start(), range.end());
            findings
                .add(self.problem(format!("`{}` must be {low} to {high}", self.key)).label("out of range"));
        }
        fitting
    }

    /// The elements of a list.
    pub(super) fn list(&self, findings: &mut Findings) -> Option<Vec<Item<'a>>> {
        let DeValue::Array(elements) = self.value else {
            findings.add(self.wrong_type("a list in [brackets]"));
            return None;
        };
        Some(elements.iter().map(|element| self.element(element)).collect())
    }

    /// A text, or a list of texts.
    pub(super) fn one_or_more(&self, findings: &mut Findings) -> Option<Vec<Item<'a>>> {
        match self.value {
            DeValue::Array(_) => self.list(findings),
            _ => Some(vec![self.clone()]),
        }
    }

    /// The keys of a table.
    pub(super) fn table(&self, findings: &mut Findings) -> Option<Table<'a>> {
        match self.value {
            DeValue::Table(table) => {
                let title = format!("`{}`", self.key);
                Some(Table::new(Arc::clone(&self.file), self.place(), title, table.iter()))
            }
            DeValue::Array(elements) if elements.iter().any(|element| element.get_ref().is_table()) => {
                let hint = format!("write [{}], with one pair of brackets", self.key);
                findings.add(self.problem(format!("there is only one `{}`", self.key)).hint(hint));
                None
            }
            _ => {
                findings.add(self.wrong_type("a table"));
                None
            }
        }
    }

    /// The tables written as `[[key]]`, in the order of the file.
    pub(super) fn tables(&self, findings: &mut Findings) -> Vec<Table<'a>> {
        let double = format!("[[{}]]", self.key);
        match self.value {
            DeValue::Array(elements) => {
                let elements = elements.iter().map(|element| self.element(element));
                elements.filter_map(|element| element.table(findings)).collect()
            }
            DeValue::Table(_) => {
                let hint = format!("write {double}, with two pairs of brackets: there can be several");
                findings.add(self.problem(format!("`{}` is a list of tables", self.key)).hint(hint));
                Vec::new()
            }
            _ => {
                findings.add(self.wrong_type(&format!("tables, each under {double}")));
                Vec::new()
            }
        }
    }

    fn element(&self, element: &'a toml::Spanned<DeValue<'a>>) -> Item<'a> {
        Item {
            file: Arc::clone(&self.file),
            key: self.key,
            key_span: self.key_span.clone(),
            span: element.span(),
            value: element.get_ref(),
        }
    }
}

/// One table. Whoever reads it takes the keys it knows; [`Table::finish`] reports what is left.
#[derive(Debug)]
pub(super) struct Table<'a> {
    place: Place,
    title: String,
    left: Vec<Item<'a>>,
    known: Vec<&'static str>,
}

type Entry<'a> = (&'a toml::Spanned<toml::de::DeString<'a>>, &'a toml::Spanned<DeValue<'a>>);

impl<'a> Table<'a> {
    fn new(
        file: Arc<ShownFile>,
        place: Place,
        title: String,
        entries: impl Iterator<Item = Entry<'a>>,
    ) -> Self {
        let mut left: Vec<Item<'a>> = entries
            .map(|(key, value)| Item {
                file: Arc::clone(&file),
                key: key.get_ref().as_ref(),
                key_span: key.span(),
                span: value.span(),
                value: value.get_ref(),
            })
            .collect();
        left.sort_by_key(|item| item.key_span.start);
        Self { place, title, left, known: Vec::new() }
    }

    /// The table's header, or its opening brace.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    /// The value of a key that may be missing.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let at = self.left.iter().position(|item| item.key == key)?;
        Some(self.left.remove(at))
    }

    /// The value of a key that must be there.
    pub(super) fn need(
        &mut self,
        key: &'static str,
        hint: &str,
        findings: &mut Findings,
    ) -> Option<Item<'a>> {
        let item = self.take(key);
        // A misspelt key is one mistake, and told where it stands.
        let misspelt = || self.left.iter().any(|item| nearest(item.key, std::iter::once(key)).is_some());
        if item.is_none() && !misspelt() {
            findings.add_missing(self.missing(key, hint));
        }
        item
    }

    /// That a key is missing from this table.
    pub(super) fn missing(&self, key: &str, hint: &str) -> Problem {
        Problem::new(self.place(), format!("`{key}` is missing from {}", self.title))
            .label("in here")
            .hint(hint)
    }

    /// Everything nobody has taken, for tables whose keys are a matter of the model's tables.
    pub(super) fn take_rest(&mut self) -> Vec<Item<'a>> {
        std::mem::take(&mut self.left)
    }

    /// The keys taken so far.
    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Gives up on the keys that are left without a word about them.
    pub(super) fn abandon(self) {}

    /// Reports each key that nobody has taken.
    pub(super) fn finish(self, findings: &mut Findings) {
        for item in &self.left {
            findings.add(unknown_key(item, &self.title, &self.known));
        }
    }
}

/// That a key is unknown, with the nearest known one.
pub(super) fn unknown_key(item: &Item<'_>, title: &str, known: &[&str]) -> Problem {
    if names_a_secret(item.key) {
        return Problem::new(item.key_place(), format!("`{}` is a secret, and secrets are never in TOML", item.key))
            .label("take it out, and change that secret: this file may have been copied")
            .hint("keys come from a systemd credential ({ credential = \"name\" }) or from a file of mode 0600 ({ file = \"path\" })");
    }
    let problem =
        Problem::new(item.key_place(), format!("{title} has no key `{}`", item.key)).label("unknown key");
    match nearest(item.key, known.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint(format!("known here: {}", listed(known.iter().copied()))),
    }
}

/// The nearest of several words, if any is near enough to be meant.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<&'k str> {
    // Distances cost the product of the lengths, and no key of ours is longer than this.
    let word = Some(word).filter(|word| word.len() <= 80)?.to_lowercase();
    let mut begun =
        known.clone().filter(|candidate| word.len() > 3 && candidate.to_lowercase().starts_with(&word));
    if let (Some(only), None) = (begun.next(), begun.next()) {
        return Some(only);
    }
    // In a word a letter may be wrong, however short it is; a number with another digit is another number.
    let allowed = |candidate: &str| match candidate.contains(char::is_alphabetic) {
        true => (candidate.len() / 3).max(1),
        false => 0,
    };
    known
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Words as a list for a sentence.
pub(super) fn listed<'k>(words: impl Iterator<Item = &'k str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
