//! A mistake in a configuration file: where it is, what it is, what to do. The one renderer of such mistakes.

use crate::config::blot::{blotted, sentence};
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};
use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;

/// A report shows this many mistakes; a file with more of them is no configuration at all.
const MOST_SHOWN: usize = 50;

/// Texts are wrapped at this many columns, so that a report reads the same everywhere.
const WIDTH: usize = 110;

/// One file that was read, in the form that may be shown.
#[derive(Debug)]
pub(super) struct ShownFile {
    name: String,
    /// Same length and same lines as the file, with secrets and control characters blotted out.
    text: String,
}

impl ShownFile {
    pub(super) fn new(name: String, text: &str) -> Arc<Self> {
        Arc::new(Self { name: sentence(&name), text: blotted(text) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Line and column of a byte, both counted from one, columns in characters.
    fn position(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        (before.matches('\n').count() + 1, column)
    }

    fn line_start(&self, byte: usize) -> usize {
        self.text.get(..byte).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
    }

    fn line_end(&self, byte: usize) -> usize {
        self.text
            .get(byte..)
            .and_then(|rest| rest.find('\n'))
            .map_or(self.text.len(), |newline| byte + newline)
    }

    /// The nearest place that exists and does not cut a character.
    fn floor(&self, byte: usize) -> usize {
        let byte = byte.min(self.text.len());
        (0..=byte).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0)
    }
}

/// A place in one of the files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: Arc<ShownFile>,
    start: usize,
    end: usize,
}

impl Place {
    /// The first line of a span of bytes: a caret needs a place, not a page.
    pub(super) fn new(file: &Arc<ShownFile>, span: std::ops::Range<usize>) -> Self {
        let start = file.floor(span.start);
        let end = file.floor(span.end.clamp(start, file.line_end(start).max(start)));
        Self { file: Arc::clone(file), start, end }
    }

    pub(super) fn is_in_the_file_of(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.file.position(self.start);
        write!(f, "{}:{line}:{column}", self.file.name)
    }
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Problem {
    place: Place,
    message: String,
    label: String,
    hint: Option<String>,
    other: Option<(Place, String)>,
}

impl Problem {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: sentence(&message.into()),
            label: String::from("here"),
            hint: None,
            other: None,
        }
    }

    /// The words under the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// What to do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(sentence(&hint.into()));
        self
    }

    /// The line of the `[header]` that this place stands under, if there is one.
    pub(super) fn header_line(&self) -> Option<usize> {
        let text = self.place.file.text.get(..self.place.start)?;
        let above = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with('['));
        above.last().map(|(index, _)| index + 1)
    }

    /// Another place that belongs to this mistake.
    pub(super) fn other(mut self, place: Place, label: impl Into<String>) -> Self {
        self.other = Some((place, label.into()));
        self
    }

    /// The file as it was named on the command line or found beside it.
    #[must_use]
    pub fn file(&self) -> &str {
        self.place.file.name()
    }

    /// The line, counted from one.
    #[must_use]
    pub fn line(&self) -> usize {
        self.place.file.position(self.place.start).0
    }

    /// The column, counted from one, in characters.
    #[must_use]
    pub fn column(&self) -> usize {
        self.place.file.position(self.place.start).1
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// `file:line:column: message`, for editors and logs.
    #[must_use]
    pub fn one_line(&self) -> String {
        format!("{}: {}", self.place, self.message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.place.file)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = |place: &Place| place.start..place.end;
        let here = LabeledSpan::new_primary_with_span(Some(self.label.clone()), span(&self.place));
        let other = self
            .other
            .iter()
            .filter(|(place, _)| place.is_in_the_file_of(&self.place))
            .map(move |(place, label)| LabeledSpan::new_with_span(Some(label.clone()), span(place)));
        Some(Box::new(std::iter::once(here).chain(other)))
    }
}

// miette counts columns in bytes; people and editors count characters, and the two forms of a report must agree.
impl SourceCode for ShownFile {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let (line, column) = self.position(span.offset());
        let mut start = self.line_start(span.offset());
        for _ in 0..lines_before {
            start = self.line_start(start.saturating_sub(1));
        }
        let mut end = self.line_end(span.offset() + span.len());
        for _ in 0..lines_after {
            end = self.line_end((end + 1).min(self.text.len()));
        }
        let (first_line, first_column) =
            if lines_before == 0 { (line - 1, column - 1) } else { (self.position(start).0 - 1, 0) };
        let shown = self.text.get(start..end).ok_or(MietteError::OutOfBounds)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            shown.as_bytes(),
            (start, end - start).into(),
            first_line,
            first_column,
            shown.matches('\n').count() + 1,
        )))
    }
}

/// Whether a report may use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// For a terminal.
    On,
    /// For files, the journal, and people who asked for none.
    Off,
}

impl Colours {
    /// Colours where standard error is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn of_stderr() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if unwanted || !std::io::stderr().is_terminal() { Self::Off } else { Self::On }
    }
}

/// Every mistake of a refused configuration.
#[derive(Clone, Debug)]
pub struct Report {
    file: String,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(file: String, problems: Vec<Problem>) -> Self {
        Self { file, problems }
    }

    /// The mistakes, file by file from top to bottom.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The whole report: each mistake with its place, a caret and a hint, then all of them again, one per line.
    #[must_use]
    pub fn render(&self, colours: Colours) -> String {
        let theme = match colours {
            Colours::On => GraphicalTheme::unicode(),
            Colours::Off => GraphicalTheme::unicode_nocolor(),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_links(false);
        let mut text = String::new();
        for problem in self.problems.iter().take(MOST_SHOWN) {
            let before = text.len();
            if handler.render_report(&mut text, problem).is_err() {
                text.truncate(before);
            }
            text.push('\n');
        }
        for problem in self.problems.iter().take(MOST_SHOWN) {
            text.push_str(&problem.one_line());
            text.push('\n');
        }
        if let Some(more) = self.problems.len().checked_sub(MOST_SHOWN).filter(|&more| more > 0) {
            text.push_str(&format!("... and {more} more\n"));
        }
        let count = match self.problems.len() {
            1 => String::from("1 mistake"),
            many => format!("{many} mistakes"),
        };
        text.push_str(&format!("{count}; nothing of {} is used until all are mended\n", self.file));
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colours::Off))
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let file = ShownFile::new(String::from("x.toml"), "a = \"Zürich\" b\n");
        let place = Place::new(&file, 14..15);
        assert_eq!(place.to_string(), "x.toml:1:14");
    }

    #[test]
    fn a_place_outside_the_text_is_moved_to_its_end() {
        let file = ShownFile::new(String::from("x.toml"), "a\nü");
        assert_eq!(Place::new(&file, 99..100).to_string(), "x.toml:2:2");
        assert_eq!(Place::new(&file, 3..3).to_string(), "x.toml:2:1", "inside the ü");
    }
}
