//! `chairside gaps`: is any poll missing, and why. One line per range, so that it can be searched and sorted.

use super::status::thousands;
use super::{ConfigFile, Exit, complain, control_socket};
use crate::control::{Answer, client};
use crate::status::Moment;
use crate::status::gaps::{ChairGaps, GapRange, Gaps};
use jiff::tz::TimeZone;
use std::fmt::Write as _;

/// Arguments of `gaps`.
#[derive(Debug, clap::Args)]
pub(super) struct GapsArgs {
    /// Only this chair.
    #[arg(long)]
    chair: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GapsArgs) -> Exit {
    let socket = match control_socket(&args.config) {
        Ok(socket) => socket,
        Err(exit) => return exit,
    };
    super::block_on(async {
        match client::gaps(&socket).await {
            Ok(Answer::Gaps { gaps }) => told(*gaps, args),
            Ok(Answer::Refused { why, .. }) => complain(&why, Exit::NotReady),
            Ok(Answer::Done { .. } | Answer::Status { .. } | Answer::Spool { .. }) => {
                complain("the gateway answered something else", Exit::Fault)
            }
            Err(refusal) => complain(&crate::telemetry::chain(&refusal), refusal.exit()),
        }
    })
}

fn told(gaps: Gaps, args: &GapsArgs) -> Exit {
    let gaps = match &args.chair {
        None => gaps,
        Some(chair) => {
            let names: Vec<_> = gaps.chairs.iter().map(|known| known.name.clone()).collect();
            match gaps.only(chair) {
                Some(gaps) => gaps,
                None if names.is_empty() => {
                    return complain("there is no such chair; the configuration names none yet", Exit::No);
                }
                None => {
                    let why = format!("there is no such chair; there are {}", names.join(", "));
                    return complain(&why, Exit::No);
                }
            }
        }
    };
    let said = if args.json {
        match serde_json::to_string_pretty(&gaps) {
            Ok(json) => super::print(&json),
            Err(_) => Exit::Fault,
        }
    } else {
        super::print(page(&gaps).trim_end())
    };
    match said {
        Exit::Ok if gaps.slots.unaccounted > 0 => Exit::No,
        said => said,
    }
}

/// The page.
fn page(gaps: &Gaps) -> String {
    let mut page = sum(gaps);
    let zone = zone(&gaps.time_zone);
    let width = gaps.chairs.iter().map(|chair| chair.name.len()).max().unwrap_or(0);
    let lines: Vec<_> = gaps.chairs.iter().flat_map(|chair| lines(chair, width, &zone)).collect();
    if !lines.is_empty() {
        let zone_name = zone.iana_name().unwrap_or("UTC");
        let _ = writeln!(page, "\nMissing, by chair; times of {zone_name}:");
        lines.iter().for_each(|line| page.push_str(line));
    }
    page
}

/// The answer in one line.
fn sum(gaps: &Gaps) -> String {
    let (slots, day) = (&gaps.slots, &gaps.slots.day);
    let mut text = match slots.unaccounted {
        0 => "0 polls unaccounted for; ".to_owned(),
        lost => format!("! {} POLLS UNACCOUNTED FOR; ", thousands(lost)),
    };
    let _ = match (slots.missing(), day.missing()) {
        (0, _) if slots.due == 0 => writeln!(text, "no poll was due yet."),
        (0, _) if slots.unaccounted > 0 => writeln!(text, "of {} due.", thousands(slots.due)),
        (0, _) => writeln!(text, "nothing is missing, of {} due.", thousands(slots.due)),
        (before, 0) => writeln!(
            text,
            "nothing is missing of {} polls in 24 h; {} before.",
            thousands(day.due()),
            thousands(before)
        ),
        (all, today) => writeln!(
            text,
            "{} of {} polls missing in 24 h, {} of {} since the first one.",
            thousands(today),
            thousands(day.due()),
            thousands(all),
            thousands(slots.due)
        ),
    };
    text
}

fn lines(chair: &ChairGaps, width: usize, zone: &TimeZone) -> Vec<String> {
    let name = &chair.name;
    let mut lines = Vec::new();
    if chair.slots.unaccounted > 0 {
        let count = thousands(chair.slots.unaccounted);
        lines.push(format!("! {name:width$}  {count} UNACCOUNTED FOR: call who looks after this computer\n"));
    }
    if chair.older > 0 {
        let count = thousands(chair.older);
        lines.push(format!("  {name:width$}  {count} more, longer ago: only their number is kept here\n"));
    }
    let line = |range: &GapRange| {
        format!(
            "  {name:width$}  {} to {}  {:>6} {:5}  {}\n",
            time(range.from, zone),
            time(range.to, zone),
            thousands(range.polls),
            if range.polls == 1 { "poll" } else { "polls" },
            range.cause
        )
    };
    lines.extend(chair.ranges.iter().map(line));
    lines
}

/// The ward's zone; a computer that does not know it shows UTC and says so.
fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

fn time(at: Moment, zone: &TimeZone) -> String {
    match jiff::Timestamp::from_microsecond(at.0) {
        Ok(at) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "an unknown time    ".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Slots;
    use crate::status::slots::Day;

    const NOON: i64 = 1_800_000_000_000_000;

    fn range(from_s: i64, to_s: i64, polls: u64, cause: &str) -> GapRange {
        let at = |seconds: i64| Moment(NOON + seconds * 1_000_000);
        GapRange { from: at(from_s), to: at(to_s), polls, cause: cause.to_owned() }
    }

    fn chair(name: &str, captured: u64, ranges: Vec<GapRange>, older: u64) -> ChairGaps {
        let here: u64 = ranges.iter().map(|range| range.polls).sum();
        let missing: std::collections::BTreeMap<_, _> = [("machine silent".to_owned(), here + older)].into();
        let day = Day { captured, missing: [("machine silent".to_owned(), here)].into(), hours: 24 };
        let slots = Slots { due: captured + here + older, captured, missing, day, ..Slots::default() };
        ChairGaps { name: name.to_owned(), configured: true, slots, ranges, older }
    }

    fn gaps(chairs: Vec<ChairGaps>) -> Gaps {
        let slots = Slots::sum(chairs.iter().map(|chair| &chair.slots));
        Gaps { now: Moment(NOON), time_zone: "Europe/Berlin".to_owned(), slots, chairs }
    }

    #[test]
    fn the_first_line_is_the_answer_and_each_range_is_a_line() {
        let ranges = vec![range(-7200, -6840, 36, "machine silent"), range(-600, -590, 1, "gateway down")];
        let all = gaps(vec![chair("chair-1", 8_603, ranges, 1_200), chair("chair-10", 8_640, Vec::new(), 0)]);
        insta::assert_snapshot!(page(&all), @r"
        0 polls unaccounted for; 37 of 17,280 polls missing in 24 h, 1,237 of 18,480 since the first one.

        Missing, by chair; times of Europe/Berlin:
          chair-1   1,200 more, longer ago: only their number is kept here
          chair-1   2027-01-15 07:00:00 to 2027-01-15 07:06:00      36 polls  machine silent
          chair-1   2027-01-15 08:50:00 to 2027-01-15 08:50:10       1 poll   gateway down
        ");
    }

    #[test]
    fn nothing_missing_is_said_in_one_line() {
        let all = gaps(vec![chair("chair-1", 8_640, Vec::new(), 0)]);
        assert_eq!(page(&all), "0 polls unaccounted for; nothing is missing, of 8,640 due.\n");
        assert_eq!(page(&gaps(Vec::new())), "0 polls unaccounted for; no poll was due yet.\n");
        let mut before = gaps(vec![chair("chair-1", 8_640, Vec::new(), 12)]);
        before.slots.day.missing.clear();
        assert!(
            page(&before).starts_with(
                "0 polls unaccounted for; nothing is missing of 8,640 polls in 24 h; 12 before.\n"
            )
        );
    }

    #[test]
    fn a_poll_nobody_knows_of_leads_and_is_told_with_its_chair_and_by_the_exit_code() {
        let mut lost = chair("chair-2", 100, Vec::new(), 0);
        (lost.slots.unaccounted, lost.slots.due) = (3, 103);
        let all = gaps(vec![chair("chair-1", 100, Vec::new(), 0), lost]);
        insta::assert_snapshot!(page(&all), @r"
        ! 3 POLLS UNACCOUNTED FOR; of 203 due.

        Missing, by chair; times of Europe/Berlin:
        ! chair-2  3 UNACCOUNTED FOR: call who looks after this computer
        ");
        let args = |chair: Option<&str>| GapsArgs {
            chair: chair.map(str::to_owned),
            config: ConfigFile { path: "gateway.toml".into() },
            json: false,
        };
        assert_eq!(told(all.clone(), &args(None)), Exit::No);
        assert_eq!(told(all.clone(), &args(Some("chair-2"))), Exit::No);
        assert_eq!(told(all.clone(), &args(Some("chair-1"))), Exit::Ok, "that one has all of its polls");
        assert_eq!(told(all, &args(Some("chair-3"))), Exit::No);
    }
}
