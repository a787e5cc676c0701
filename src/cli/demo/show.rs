//! What the demo shows while it runs and at its end: a board on a terminal, plain lines elsewhere.

use crate::sim::demo::View;
use crate::sim::report::Verdict;
use crate::sim::stage::{Plan, Stage};
use crate::status::{Chair, Doing, Line, Seat};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stdout};
use std::time::Duration;

/// Without a terminal, progress is told this often.
const PLAIN: Duration = Duration::from_secs(5);
/// What is shown of each chair: key, heading, width.
const COLUMNS: &[(&str, &str, usize)] = &[
    ("treatment_time_elapsed", "min", 5),
    ("uf_removed_volume", "UF mL", 8),
    ("blood_flow_rate", "QB", 6),
    ("venous_pressure", "VP", 6),
    ("nibp_systolic", "sys", 5),
    ("nibp_diastolic", "dia", 5),
];

/// Shows progress.
#[derive(Debug)]
pub(super) struct Show {
    kind: Kind,
    /// Lines on the screen that the next look replaces.
    drawn: usize,
    next: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Silent,
    Plain,
    Board,
}

impl Show {
    pub(super) fn new(json: bool, plan: &Plan, stage: &Stage) -> Self {
        let kind = match (json, stdout().is_terminal()) {
            (true, _) => Kind::Silent,
            (false, false) => Kind::Plain,
            (false, true) => Kind::Board,
        };
        if kind != Kind::Silent {
            say(&format!(
                "Simulated (HTEST): {} machines at {} times their speed, each asked every {} ms; receiver {} with mutual \
                 TLS, cut off for {} s.\nConfiguration: {}\n\n",
                plan.chairs,
                plan.speed,
                plan.every().as_millis(),
                stage.receiver.url(),
                plan.outage.as_secs(),
                stage.settings.file.display(),
            ));
        }
        Self { kind, drawn: 0, next: Duration::ZERO }
    }

    pub(super) fn look(&mut self, view: &View) {
        match self.kind {
            Kind::Silent => {}
            Kind::Plain if view.elapsed < self.next => {}
            Kind::Plain => {
                self.next = view.elapsed + PLAIN;
                say(&(summary(view) + "\n"));
            }
            Kind::Board => self.draw(view),
        }
    }

    pub(super) fn end(&mut self) {
        if self.kind == Kind::Board {
            say("\n");
        }
    }

    fn draw(&mut self, view: &View) {
        let (rows, columns) = size();
        let mut lines = vec![heading()];
        // Heading, summary and a line to spare.
        let room = rows.saturating_sub(4).max(1);
        lines.extend(view.board.chairs.iter().take(room).map(line));
        if let Some(more) = view.board.chairs.len().checked_sub(room).filter(|more| *more > 0) {
            lines.push(format!("... and {more} more"));
        }
        lines.push(summary(view));
        let mut text = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        for line in &lines {
            let fitting: String = line.chars().take(columns).collect();
            // Writing to a string cannot go wrong.
            let _ = writeln!(text, "\r{fitting}\x1b[K");
        }
        // What an earlier, longer board left below.
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        say(&text);
    }
}

/// The verdict for people.
pub(super) fn verdict(verdict: &Verdict) -> String {
    let mut text = String::new();
    let mut row = |name: &str, words: String| {
        let _ = writeln!(text, "{name:>22}  {words}");
    };
    let (polls, records, resources) = (&verdict.polls, &verdict.records, &verdict.resources);
    row(
        "polls",
        format!(
            "{} answered of {} shown, {} missed, {} unaccounted for",
            polls.answered, polls.shown, polls.missed, polls.unaccounted
        ),
    );
    row(
        "records",
        format!(
            "{} in the spool: {} delivered, {} of empty chairs, {} held, {} waiting, {} refused, {} lost; at most {} \
             waiting at once",
            records.total,
            records.delivered,
            records.skipped,
            records.held,
            records.waiting,
            records.refused,
            records.lost,
            records.most_waiting
        ),
    );
    let by_type: Vec<_> = resources.by_type.iter().map(|(name, count)| format!("{count} {name}")).collect();
    row("resources", format!("{} at the receiver: {}", resources.total, by_type.join(", ")));
    row("repeated deliveries", format!("{}, none of which made a second resource", resources.repeated));
    row("treatments", verdict.treatments.to_string());
    row(
        "values compared",
        format!("{} with the screens, and {} alarm edges", verdict.values_compared, verdict.alarm_edges),
    );
    row("wrong values", verdict.wrong.to_string());
    row("wrong patient", verdict.misattributed.to_string());
    row("duplicates", verdict.duplicates.to_string());
    row("missing", verdict.missing.to_string());
    if verdict.told_as_gaps > 0 {
        row(
            "busy computer",
            format!("{} polls came too late and are at the receiver as gaps", verdict.told_as_gaps),
        );
    }
    for words in &verdict.disagreements {
        row("DISAGREES", words.clone());
    }
    let word = if verdict.agrees { "ALL AGREE" } else { "NOT ALL AGREE" };
    row("verdict", format!("{word}, after {:.1} s. All of it was simulated.", verdict.seconds));
    text
}

fn heading() -> String {
    let mut text = format!("{:<10} {:<22} {:<10} {:<8}", "chair", "model", "does", "seat");
    for (_, heading, width) in COLUMNS {
        let _ = write!(text, " {heading:>width$}");
    }
    text + "   answered missed"
}

fn line(chair: &Chair) -> String {
    let does = match (&chair.line, chair.phase) {
        (Line::Starting, _) => "starting",
        (Line::Silent { .. }, _) => "silent",
        (Line::Faulty { .. }, _) => "faulty",
        (Line::Down { .. }, _) => "line down",
        (Line::Answering, Doing::Unknown) => "",
        (Line::Answering, Doing::Idle) => "idle",
        (Line::Answering, Doing::Preparing) => "preparing",
        (Line::Answering, Doing::Treating) => "treating",
        (Line::Answering, Doing::Ending) => "ending",
        (Line::Answering, Doing::Rinsing) => "rinsing",
    };
    let seat = match chair.seat {
        Seat::Empty => "-",
        Seat::Waiting => "waiting",
        Seat::Seated => "seated",
    };
    let mut text = format!("{:<10} {:<22} {does:<10} {seat:<8}", chair.name, chair.model);
    for (key, _, width) in COLUMNS {
        let value = chair.values.get(*key).map_or("", |value| value.text.as_str());
        let _ = write!(text, " {value:>width$}");
    }
    let _ =
        write!(text, "   {:>8} {:>6}", chair.figures.answered, chair.figures.missed.values().sum::<u64>());
    text
}

fn summary(view: &View) -> String {
    let upstream = view.board.upstreams.first();
    let (waiting, held, delivered) = upstream.map_or((0, 0, 0), |it| (it.waiting, it.held, it.delivered));
    let answering = view.board.chairs.iter().filter(|chair| chair.line == Line::Answering).count();
    let answered: u64 = view.board.chairs.iter().map(|chair| chair.figures.answered).sum();
    let reach = if view.reachable { "" } else { ", receiver cut off" };
    format!(
        "{:>5.1} s  {}: {answering} of {} machines answering, {answered} polls; spool {} records, {waiting} waiting, {held} \
         held, {delivered} delivered; receiver holds {}{reach}",
        view.elapsed.as_secs_f64(),
        view.act,
        view.board.chairs.len(),
        view.board.spool.records,
        view.receiver.created,
    )
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        }
        _ => (24, 80),
    }
}

fn say(text: &str) {
    let mut out = stdout().lock();
    // A closed terminal is no reason to stop the demo.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
