//! Logs to the journal or to stderr, with fields kept as fields, and nothing in them that a cable or a patient said.

use crate::clock;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// No field is longer than this; what is longer was never meant for a log.
const MAX_TEXT: usize = 400;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of `--log` is none.
    #[error(
        "understand the log filter; write error, warn, info, debug or trace, or a list like \
         `info,chairside::poll=debug`"
    )]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Something else in this process logs already.
    #[error("start logging twice in one process")]
    Twice,
}

/// Starts logging for the whole process: to the journal when the service manager connected us to it, else to stderr.
///
/// # Errors
/// [`TelemetryError`] when the filter cannot be understood.
pub fn start(filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(filter).map_err(TelemetryError::Filter)?;
    let sink = match connected_to_journal().then(JournalLog::new) {
        Some(Ok(journal)) => Sink::Journal(journal.with_syslog_identifier("chairside".to_owned())),
        Some(Err(_)) | None => Sink::Stderr,
    };
    tracing_subscriber::registry()
        .with(Lines { sink }.with_filter(filter).with_filter(filter_fn(may_speak)))
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        // A panic's message may hold the value that caused it, so only its place is told.
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!(place, "a task of ours panicked");
    }));
    Ok(())
}

/// An error with all its causes, `a: b: c`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}

/// Whether a call site may speak at all. Below `warn` other people's code prints headers and bodies.
fn may_speak(site: &Metadata<'_>) -> bool {
    is_ours(site) || *site.level() <= Level::WARN
}

fn is_ours(site: &Metadata<'_>) -> bool {
    let target = site.target();
    target == "chairside" || target.starts_with("chairside::") || target.starts_with("chairside_drivers")
}

/// One event with the fields of the spans around it.
#[derive(Debug)]
struct Told {
    level: Level,
    target: &'static str,
    file: Option<&'static str>,
    line: Option<u32>,
    message: String,
    fields: Vec<(&'static str, String)>,
}

/// Where lines go.
enum Sink {
    Journal(JournalLog),
    Stderr,
    #[cfg(test)]
    Kept(std::sync::Arc<std::sync::Mutex<Vec<String>>>),
}

impl Sink {
    fn write(&self, told: &Told) {
        match self {
            // A log that cannot be written must not stop the gateway: there is nobody left to tell.
            Self::Journal(journal) => {
                let _ = send_to_journal(journal, told);
            }
            Self::Stderr => {
                let line = format!("{} {}\n", clock::stamp(clock::wall_clock()), as_line(told));
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
            }
            #[cfg(test)]
            Self::Kept(lines) => lines.lock().unwrap().push(as_line(told)),
        }
    }
}

/// The journal gets each field under its own name: `CHAIR=`, `MACHINE=`, `SEQ=`.
fn send_to_journal(journal: &JournalLog, told: &Told) -> std::io::Result<()> {
    let level = match told.level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        _ => log::Level::Trace,
    };
    let pairs: Vec<(&str, &str)> = told.fields.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let pairs = pairs.as_slice();
    journal.journal_send(
        &log::Record::builder()
            .level(level)
            .target(told.target)
            .file_static(told.file)
            .line(told.line)
            .key_values(&pairs)
            .args(format_args!("{}", told.message))
            .build(),
    )
}

fn as_line(told: &Told) -> String {
    let mut line = format!("{:>5} {}: {}", told.level, told.target, told.message);
    for (name, text) in &told.fields {
        let quoted = text.is_empty() || text.contains([' ', '"', '=']);
        let _ = if quoted {
            write!(line, " {name}=\"{}\"", text.replace('"', "'"))
        } else {
            write!(line, " {name}={text}")
        };
    }
    line
}

/// Turns events into lines.
struct Lines {
    sink: Sink,
}

/// The fields of one span, kept with it.
struct SpanFields(Vec<(&'static str, String)>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        if is_ours(attributes.metadata()) {
            attributes.record(&mut fields);
        }
        span.extensions_mut().insert(SpanFields(fields.pairs));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|span| is_ours(span.metadata())) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(kept) = span.extensions_mut().get_mut::<SpanFields>() {
            kept.0.extend(fields.pairs);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let site = event.metadata();
        let mut fields = Fields::default();
        if is_ours(site) {
            event.record(&mut fields);
        } else {
            // What another crate says may quote what it carries; where it said it is enough to look it up.
            fields.message = "a library warned; see its source".to_owned();
        }
        let around = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        for span in around {
            if let Some(kept) = span.extensions().get::<SpanFields>() {
                pairs.extend(kept.0.iter().cloned());
            }
        }
        pairs.extend(fields.pairs);
        if !is_ours(site) {
            pairs.push(("place", format!("{}:{}", site.file().unwrap_or("?"), site.line().unwrap_or(0))));
        }
        self.sink.write(&Told {
            level: *site.level(),
            target: site.target(),
            file: site.file(),
            line: site.line(),
            message: fields.message,
            fields: pairs,
        });
    }
}

/// Collects fields. Numbers, truths and short text pass; byte strings do not.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(&'static str, String)>,
}

impl Fields {
    fn keep(&mut self, field: &Field, text: impl fmt::Display) {
        let mut short = Short::default();
        let _ = write!(short, "{text}");
        if field.name() == "message" {
            self.message = short.0;
        } else {
            self.pairs.push((field.name(), short.0));
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.keep(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value);
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        // Bytes come off a wire or out of a key; their number is all that may be told.
        self.keep(field, format_args!("{} bytes", value.len()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.keep(field, chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format_args!("{value:?}"));
    }
}

/// Text on one line: control characters are replaced, so nothing can forge a second line, and the length is bounded.
#[derive(Default)]
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.0.len() >= MAX_TEXT {
                return Ok(());
            }
            self.0.push(if letter.is_control() { ' ' } else { letter });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chairside_drivers::kit::sensitive::Sensitive;
    use std::sync::{Arc, Mutex};

    /// What reaches the log at `trace` while `speak` runs.
    fn heard(speak: impl FnOnce()) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines { sink: Sink::Kept(Arc::clone(&kept)) }
            .with_filter(EnvFilter::new("trace"))
            .with_filter(filter_fn(may_speak));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), speak);
        kept.lock().unwrap().clone()
    }

    #[test]
    fn an_event_carries_its_own_fields_and_those_of_the_spans_around_it() {
        let lines = heard(|| {
            let _chair = tracing::info_span!("chair", chair = "chair-1").entered();
            tracing::info!(slot = 5_u64, "machine answered again");
        });
        assert_eq!(lines, [" INFO chairside::telemetry::tests: machine answered again chair=chair-1 slot=5"]);
    }

    #[test]
    fn a_library_is_heard_from_warn_upwards_and_never_quoted() {
        let lines = heard(|| {
            tracing::trace!(target: "hyper::proto", "read 16 bytes: Mustermann");
            tracing::info!(target: "h2::codec", headers = "Mustermann", "send");
            tracing::warn!(target: "reqwest::retry", body = "Mustermann", "body was Mustermann");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("WARN reqwest::retry: a library warned"), "{lines:?}");
        assert!(!lines[0].contains("Mustermann"), "{lines:?}");
    }

    #[test]
    fn sensitive_text_and_bytes_are_not_in_a_line() {
        let name = Sensitive::new(String::from("Mustermann"));
        let wire: &[u8] = b"Mustermann";
        let lines = heard(|| tracing::error!(?name, wire, "odd"));
        assert_eq!(
            lines,
            ["ERROR chairside::telemetry::tests: odd name=Sensitive(hidden) wire=\"10 bytes\""]
        );
    }

    #[test]
    fn a_line_break_in_a_field_cannot_forge_a_second_line() {
        let lines = heard(|| tracing::warn!(what = "one\n2026 ERROR two", "odd"));
        assert!(!lines[0].contains('\n'), "{lines:?}");
    }

    #[test]
    fn a_field_is_bounded() {
        let lines = heard(|| tracing::warn!(what = "x".repeat(10_000), "odd"));
        assert!(lines[0].len() < 2 * MAX_TEXT, "{}", lines[0].len());
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = std::io::Error::other("no space");
        let outer = crate::spool::SpoolError::Disk { act: "append", source: inner.into() };
        assert_eq!(chain(&outer), "append in the spool: no space");
    }
}
