//! `chairside spool inspect`: records counted by chair, kind, day and treatment, or one with all it says.

use super::progress::Progress;
use super::source::{Need, Source};
use super::{Asked, Trouble, spaced, time};
use crate::cli::Exit;
use crate::control::spool::{Ask, Told};
use crate::spool::inspect::{Choice, Group, Line, Summary};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Groups printed under one heading; the rest is in `--json`.
const SHOWN: usize = 24;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    asked: Asked,
    /// Show this record with all it says, and where it stands at each upstream.
    #[arg(value_name = "NUMBER", conflicts_with_all = ["chair", "kind", "day", "treatment", "from", "to", "list"])]
    number: Option<u64>,
    /// Records of this chair.
    #[arg(long)]
    chair: Option<String>,
    /// Records of this kind: reading, alarm, treatment_started, treatment_ended, gap, clock_step, evicted, correction.
    #[arg(long)]
    kind: Option<String>,
    /// Records captured on this day in the gateway's time zone, as 2027-01-15.
    #[arg(long)]
    day: Option<String>,
    /// Records of the treatment whose id begins so.
    #[arg(long, value_name = "ID")]
    treatment: Option<String>,
    /// Records from this number on.
    #[arg(long, value_name = "NUMBER")]
    from: Option<u64>,
    /// Records up to this number.
    #[arg(long, value_name = "NUMBER")]
    to: Option<u64>,
    /// List the first COUNT of them on a line each, too.
    #[arg(long, value_name = "COUNT", num_args = 0..=1, default_missing_value = "50")]
    list: Option<usize>,
}

pub(super) fn inspect(args: &InspectArgs) -> super::Told {
    let mut source = Source::find(&args.asked.config, Need::Records)?;
    inspect_spool(args, &mut source)
}

pub(super) fn inspect_spool(args: &InspectArgs, source: &mut Source) -> super::Told {
    let json = args.asked.json;
    if let Some(number) = args.number {
        return match source.ask(&Ask::Record { sequence: number })? {
            Some(Told::Record(Some(record))) if json => Ok((super::json(&record), Exit::Ok)),
            Some(Told::Record(Some(record))) => Ok((page(&record), Exit::Ok)),
            Some(_) | None => Err((format!("there is no record number {number} in the spool"), Exit::No)),
        };
    }
    let choice = Choice {
        chair: args.chair.clone(),
        kind: args.kind.clone(),
        day: args.day.clone(),
        treatment: args.treatment.clone(),
        from: args.from,
        to: args.to,
    };
    let (summary, lines) = count(source, &choice, args.list.unwrap_or(0))?;
    let text = if json {
        super::json(&json!({ "summary": summary, "records": lines }))
    } else {
        text(&summary, &lines, args.list.is_some())
    };
    Ok((text, Exit::Ok))
}

fn count(source: &mut Source, choice: &Choice, wanted: usize) -> Result<(Summary, Vec<Line>), Trouble> {
    let progress = Progress::new("records");
    let (mut all, mut listed, mut after) = (Summary::default(), Vec::new(), 0);
    loop {
        let ask = Ask::Inspect { after, choice: choice.clone(), lines: wanted.saturating_sub(listed.len()) };
        let Some(Told::Page { summary, lines, next, last }) = source.ask(&ask)? else { break };
        all.take_in(summary);
        listed.extend(lines);
        let Some(next) = next else { break };
        after = next;
        progress.set(after, choice.to.unwrap_or(last).min(last));
    }
    Ok((all, listed))
}

fn text(summary: &Summary, lines: &[Line], listed: bool) -> String {
    let Summary { records, erased, lost, chairs, kinds, days, treatments } = summary;
    let mut text = match records.count {
        0 => "no record fits\n".to_owned(),
        count => format!(
            "{} records, number {} to {}, captured {} to {}\n",
            spaced(count),
            spaced(records.first),
            spaced(records.last),
            time(records.from),
            time(records.to)
        ),
    };
    if *erased > 0 {
        let _ = writeln!(text, "  {} more cannot be opened: their key was destroyed", spaced(*erased));
    }
    if *lost > 0 {
        let _ =
            writeln!(text, "! {} more are lost: what is there cannot be proved to be them", spaced(*lost));
    }
    for (heading, groups) in [("chair", chairs), ("kind", kinds), ("day", days), ("treatment", treatments)] {
        text.push_str(&table(heading, groups));
    }
    for (place, line) in lines.iter().enumerate() {
        if place == 0 {
            text.push('\n');
        }
        let treatment = line.treatment.as_deref().unwrap_or("-");
        let (at, number) = (time(line.at), spaced(line.sequence));
        let _ = writeln!(text, "  {number:>12}  {at}  {}  {}  treatment {treatment}", line.chair, line.kind);
    }
    if listed && (lines.len() as u64) < records.count {
        let _ = writeln!(
            text,
            "  and {} more; --list COUNT shows more",
            spaced(records.count - lines.len() as u64)
        );
    }
    text
}

fn table(heading: &str, groups: &BTreeMap<String, Group>) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let width = groups.keys().map(String::len).max().unwrap_or(0);
    let mut text = format!("\nBy {heading}\n");
    for (name, group) in groups.iter().take(SHOWN) {
        let Group { count, first, last, from, to } = *group;
        let (first, last) = (spaced(first), spaced(last));
        let (count, from, to) = (spaced(count), time(from), time(to));
        let _ = writeln!(text, "  {name:width$}  {count:>12}  {from} to {to}, numbers {first} to {last}");
    }
    if groups.len() > SHOWN {
        let _ = writeln!(text, "  and {} more; --json has all", groups.len() - SHOWN);
    }
    text
}

/// One record, a line a fact.
fn page(record: &Value) -> String {
    let mut text = String::new();
    for (key, value) in record.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) => {
                let _ = writeln!(text, "{key}:");
                items.iter().for_each(|item| {
                    let _ = writeln!(text, "  {}", measured(item).unwrap_or_else(|| flat(item)));
                });
            }
            Value::Null => {}
            other => {
                let _ = writeln!(text, "{key}: {}", flat(other));
            }
        }
    }
    text
}

/// `venous_pressure: 170 mm[Hg], same, after_gap`.
fn measured(item: &Value) -> Option<String> {
    let mut text = format!("{}: {}", item.get("parameter")?.as_str()?, flat(item.get("value")?));
    if let Some(unit) = item.get("unit").and_then(Value::as_str) {
        let _ = write!(text, " {unit}");
    }
    let mark = item.get("mark").and_then(Value::as_str).filter(|mark| *mark != "new");
    let doubts = item.get("doubts").and_then(Value::as_array).into_iter().flatten();
    for word in mark.into_iter().chain(doubts.filter_map(Value::as_str)) {
        let _ = write!(text, ", {word}");
    }
    Some(text)
}

fn flat(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "no reading".to_owned(),
        Value::Object(fields) => {
            let said = fields.iter().filter(|(_, value)| !value.is_null() && **value != json!([]));
            said.map(|(key, value)| format!("{key} {}", flat(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(" and "),
        other => other.to_string(),
    }
}
