//! `chairside status`: chairs, spool and upstreams on one page a nurse can read.

use super::{ConfigFile, Exit, control_socket};
use crate::control::{Answer, client};
use crate::spool::space::Level;
use crate::status::{
    Chair, ClockStepped, Doing, GatewayState, LastValue, Line, Moment, Seat, Snapshot, UpstreamState,
};
use std::fmt::Write as _;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: StatusArgs) -> Exit {
    super::block_on(async {
        let socket = match control_socket(&args.config) {
            Ok(socket) => socket,
            Err(exit) => return exit,
        };
        match client::status(&socket).await {
            Ok(Answer::Status { status }) if args.json => match serde_json::to_string_pretty(&status) {
                Ok(json) => super::print(&json),
                Err(_) => Exit::Fault,
            },
            Ok(Answer::Status { status }) => super::print(page(&status).trim_end()),
            Ok(Answer::Refused { why, .. }) => super::complain(&why, Exit::NotReady),
            Ok(Answer::Done { .. } | Answer::Spool { .. } | Answer::Gaps { .. }) => {
                super::complain("the gateway answered something else", Exit::Fault)
            }
            Err(refusal) => super::complain(&crate::telemetry::chain(&refusal), refusal.exit()),
        }
    })
}

/// The values a nurse looks for first, in this order; the rest is in `--json`.
const FIRST: &[&str] = &[
    "arterial_pressure",
    "venous_pressure",
    "blood_flow_rate",
    "uf_removed_volume",
    "nibp_systolic",
    "nibp_diastolic",
];

/// Counts older than this say that the spool did not give new ones.
const FRESH: i64 = 5_000_000;

/// The page.
fn page(snapshot: &Snapshot) -> String {
    let mut page = String::new();
    let test = if snapshot.test { ", TEST data only" } else { "" };
    let state = match snapshot.state {
        GatewayState::Starting => "starting",
        GatewayState::Ready => "ready",
        GatewayState::Stopping => "stopping",
    };
    let up = age(snapshot.now, snapshot.since);
    let _ = writeln!(page, "{}: {state}, running for {up}{test}", snapshot.gateway);
    if !snapshot.clock_trusted {
        let _ =
            writeln!(page, "! The clock of this computer is wrong; set it, or connect it to a time server.");
    }
    if let Some(step) = snapshot.last_clock_step {
        let _ = writeln!(page, "{}", clock_step(snapshot, step));
    }
    if let Some(counted) = snapshot.counts_of.filter(|counted| snapshot.now.0 - counted.0 > FRESH) {
        let _ = writeln!(
            page,
            "! The spool does not answer, so its counts are {} old: look at the disk.",
            age(snapshot.now, counted)
        );
    }
    page.push_str(&first_numbers(snapshot));
    page.push_str(&chairs(snapshot));
    page.push_str(&spool(snapshot));
    page.push_str(&upstreams(snapshot));
    if snapshot.chairs.is_empty() {
        page.push_str(
            "\nNo chair yet: add a [[chair]] to the configuration, `chairside check` it, and restart.\n",
        );
    } else if snapshot.upstreams.is_empty() {
        page.push_str(
            "\nNo upstream yet: records stay in the spool. Add an [[upstream]] to the configuration, `chairside check` \
             it, and restart.\n",
        );
    }
    page
}

/// `The clock was set back by 2 h, 5 min ago; 3 times since the start.`
fn clock_step(snapshot: &Snapshot, ClockStepped { expected, found }: ClockStepped) -> String {
    let (way, by) =
        if found < expected { ("back", age(expected, found)) } else { ("forward", age(found, expected)) };
    let times = match snapshot.clock_steps {
        ..=1 => String::new(),
        times => format!("; {times} times since the start"),
    };
    format!("The clock was set {way} by {by}, {} ago{times}.", age(snapshot.now, found))
}

/// What is asked first: is any poll missing without a reason, does anything wait to be sent, and for how long is there room.
fn first_numbers(snapshot: &Snapshot) -> String {
    if snapshot.chairs.is_empty() {
        return String::new();
    }
    let mut text = "\n".to_owned();
    let due = thousands(snapshot.slots.due);
    let _ = match snapshot.slots.unaccounted {
        0 => writeln!(
            text,
            "0 polls unaccounted for, of {due} due: what became of every one is known (`chairside gaps`)."
        ),
        lost => writeln!(
            text,
            "! {} POLLS UNACCOUNTED FOR, of {due} due: `chairside gaps` says where; call who looks after this computer.",
            thousands(lost)
        ),
    };
    let unsent: u64 = snapshot.upstreams.iter().map(|upstream| upstream.waiting + upstream.held).sum();
    let _ = match snapshot.oldest_unsent {
        None if snapshot.upstreams.is_empty() => writeln!(text, "Nothing is sent: there is no upstream yet."),
        None if unsent > 0 => writeln!(text, "{} records are not sent yet.", thousands(unsent)),
        None => writeln!(text, "Nothing waits to be sent."),
        Some(oldest) if snapshot.oldest_waiting.is_none_or(|waiting| waiting > oldest) => writeln!(
            text,
            "The oldest unsent record is {} old; it is held until its patient is seated: `chairside seat CHAIR`.",
            age(snapshot.now, oldest)
        ),
        Some(oldest) => writeln!(text, "The oldest unsent record is {} old.", age(snapshot.now, oldest)),
    };
    if let Some(days) = snapshot.spool.days_left {
        let mark = if days < 1.0 { "! " } else { "" };
        let _ = writeln!(text, "{mark}Room for {} more, if nothing can be sent.", days_and_hours(days));
    }
    text
}

/// A span that is counted in days, and in hours where it is short.
fn days_and_hours(days: f64) -> String {
    if days < 2.0 { format!("{:.0} h", (days * 24.0).floor()) } else { format!("{:.0} days", days.floor()) }
}

/// `8640` as `8,640`.
pub(super) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `8,602 of 8,640 polls in 24 h; 38 missing: machine silent 36, gateway down 2`.
fn day(chair: &Chair) -> Option<String> {
    let day = &chair.slots.day;
    if day.due() == 0 {
        return None;
    }
    let mut text = format!("{} of {} polls in 24 h", thousands(day.captured), thousands(day.due()));
    if day.missing() > 0 {
        let causes: Vec<_> =
            day.missing.iter().map(|(cause, count)| format!("{cause} {}", thousands(*count))).collect();
        let _ = write!(text, "; {} missing: {}", thousands(day.missing()), causes.join(", "));
    }
    if chair.slots.unaccounted > 0 {
        let _ = write!(text, "; {} UNACCOUNTED FOR", thousands(chair.slots.unaccounted));
    }
    Some(text)
}

fn chairs(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let well = snapshot.chairs.iter().filter(|chair| chair.line == Line::Answering).count();
    if !snapshot.chairs.is_empty() {
        let _ = writeln!(text, "\nChairs: {well} of {} answering", snapshot.chairs.len());
    }
    let width = snapshot.chairs.iter().map(|chair| chair.name.len()).max().unwrap_or(0);
    for chair in &snapshot.chairs {
        let mark = if matches!(chair.line, Line::Answering | Line::Starting) { ' ' } else { '!' };
        let _ = writeln!(text, "{mark} {:width$}  {}", chair.name, chair_line(chair, snapshot.now));
        let indent = width + 4;
        if let Some(remedy) = remedy(chair) {
            let _ = writeln!(text, "{:indent$}-> {remedy}", "");
        }
        if let Some(day) = day(chair) {
            let _ = writeln!(text, "{:indent$}{day}", "");
        }
        let values = values(chair, snapshot.now);
        if !values.is_empty() {
            let _ = writeln!(text, "{:indent$}{values}", "");
        }
    }
    text
}

fn chair_line(chair: &Chair, now: Moment) -> String {
    let line = match &chair.line {
        Line::Starting => "not asked yet".to_owned(),
        Line::Answering => "answering".to_owned(),
        Line::Silent { since } => format!("SILENT for {}", age(now, *since)),
        Line::Faulty { since } => format!("UNREADABLE for {}", age(now, *since)),
        Line::Down { since, .. } => format!("NO LINE for {}", age(now, *since)),
    };
    let doing = match chair.phase {
        Doing::Unknown => None,
        Doing::Idle => Some("idle"),
        Doing::Preparing => Some("preparing"),
        Doing::Treating => Some("treating"),
        Doing::Ending => Some("ending"),
        Doing::Rinsing => Some("rinsing"),
    };
    let seat = match chair.seat {
        Seat::Empty if chair.treatment_since.is_some() => "NO PATIENT SEATED",
        Seat::Empty => "no patient seated",
        Seat::Waiting => "patient seated, waits for the treatment",
        Seat::Seated => "patient seated",
    };
    let treatment = chair.treatment_since.map(|since| format!("treatment for {}", age(now, since)));
    [Some(line), doing.map(str::to_owned), treatment, Some(seat.to_owned())]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

fn remedy(chair: &Chair) -> Option<String> {
    match &chair.line {
        Line::Starting | Line::Answering => None,
        Line::Silent { .. } => Some(format!(
            "look whether the machine is on, its computer interface is enabled, and the cable at {} is in",
            chair.port
        )),
        Line::Faulty { .. } => Some(format!(
            "the answers do not fit {}: look whether this is the machine that stands there, then at the cable",
            chair.model
        )),
        Line::Down { why, .. } => Some(why.clone()),
    }
}

fn values(chair: &Chair, now: Moment) -> String {
    let first = FIRST.iter().filter_map(|key| chair.values.get(*key));
    first.map(|value| shown(value, now)).collect::<Vec<_>>().join(" | ")
}

fn shown(value: &LastValue, now: Moment) -> String {
    let unit = match value.unit.as_deref() {
        None => String::new(),
        Some("Cel") => " °C".to_owned(),
        // UCUM brackets its special units, `mm[Hg]`; a page is no place for that.
        Some(ucum) => format!(" {}", ucum.replace(['[', ']'], "")),
    };
    let doubt = if value.doubtful { "?" } else { "" };
    format!("{} {}{doubt}{unit} ({} ago)", value.title, value.text, age(now, value.at))
}

fn spool(snapshot: &Snapshot) -> String {
    let spool = &snapshot.spool;
    let mut text =
        format!("\nSpool: {} records, {} of {}\n", spool.records, bytes(spool.bytes), bytes(spool.max_bytes));
    let remedy =
        "look why the upstreams do not take records, make room on its disk, or raise [spool] max_bytes";
    let _ = match spool.level {
        Level::Normal => Ok(()),
        Level::Warn | Level::Refuse => writeln!(text, "! It is {} % full: {remedy}.", spool.percent),
        Level::Evict => {
            writeln!(text, "! IT IS FULL ({} %) AND ITS OLDEST RECORDS LEAVE IT: {remedy}.", spool.percent)
        }
    };
    for volume in &spool.set_aside {
        let _ = writeln!(
            text,
            "! volume {volume} was not complete and is set aside untouched; stop the gateway and run `chairside spool verify`"
        );
    }
    text
}

fn upstreams(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for upstream in &snapshot.upstreams {
        let gone = upstream.lost > 0 || upstream.evicted > 0;
        let mark = if upstream.trouble.is_some() || gone { '!' } else { ' ' };
        let _ = writeln!(text, "{mark} {}: {}", upstream.name, counts(upstream, snapshot.now));
        if let Some(trouble) = &upstream.trouble {
            let word = if trouble.paused { "PAUSED" } else { "waiting" };
            let _ = writeln!(text, "    {word}: {}", trouble.text);
        }
        for notice in &upstream.sending.notices {
            let _ = writeln!(text, "    soon: {notice}");
        }
        if upstream.held > 0 {
            let _ = writeln!(text, "    held records wait for a patient: `chairside seat CHAIR`");
        }
    }
    text
}

fn counts(upstream: &UpstreamState, now: Moment) -> String {
    let mut parts = vec![format!("{} delivered", upstream.delivered)];
    for (count, word) in [
        (upstream.waiting, "waiting"),
        (upstream.held, "held"),
        (upstream.skipped, "not asked for"),
        (upstream.refused, "refused"),
        (upstream.erased, "erased"),
        (upstream.evicted, "EVICTED"),
        (upstream.lost, "LOST"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    if let Some(oldest) = upstream.oldest_waiting {
        parts.push(format!("oldest waits for {}", age(now, oldest)));
    }
    parts.join(", ")
}

/// `now - then`, as people say it.
fn age(now: Moment, then: Moment) -> String {
    let seconds = now.0.saturating_sub(then.0).max(0) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn bytes(count: u64) -> String {
    const STEP: u64 = 1024;
    match count {
        0..STEP => format!("{count} B"),
        STEP..0x10_0000 => format!("{} KiB", count / STEP),
        0x10_0000..0x4000_0000 => format!("{} MiB", count / 0x10_0000),
        _ => format!("{} GiB", count / 0x4000_0000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::UpstreamName;
    use crate::spool::space::Space;
    use crate::status::slots::Day;
    use crate::status::{Slots, Spool, Stopped};

    const NOON: i64 = 1_800_000_000_000_000;

    fn ago(seconds: i64) -> Moment {
        Moment(NOON - seconds * 1_000_000)
    }

    fn chair(name: &str, line: Line) -> Chair {
        Chair { line, ..Chair::sample(name) }
    }

    fn empty() -> Snapshot {
        Snapshot {
            gateway: "ward-3".to_owned(),
            state: GatewayState::Ready,
            since: ago(7300),
            now: Moment(NOON),
            clock_trusted: true,
            spool: Spool { max_bytes: 16 << 30, ..Spool::default() },
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_values_looked_for_first_are_parameters() {
        for key in FIRST {
            assert!(crate::model::parameter::Parameter::from_key(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_default_install_says_what_to_do_next() {
        insta::assert_snapshot!(page(&empty()), @r"
        ward-3: ready, running for 2 h

        Spool: 0 records, 0 B of 16 GiB

        No chair yet: add a [[chair]] to the configuration, `chairside check` it, and restart.
        ");
    }

    #[test]
    fn a_clock_that_was_set_is_told_with_how_far_and_how_long_ago() {
        let mut snapshot = empty();
        for (steps, expected, line) in [
            (1, ago(300 - 7200), "The clock was set back by 2 h, 5 min ago."),
            (3, ago(360), "The clock was set forward by 60 s, 5 min ago; 3 times since the start."),
        ] {
            snapshot.clock_steps = steps;
            snapshot.last_clock_step = Some(ClockStepped { expected, found: ago(300) });
            assert_eq!(page(&snapshot).lines().nth(1), Some(line));
        }
    }

    #[test]
    fn a_poll_nobody_knows_of_is_the_first_thing_on_the_page() {
        let mut lost = chair("chair-1", Line::Answering);
        lost.slots.day.captured = 100;
        lost.slots.unaccounted = 3;
        let snapshot = Snapshot {
            slots: Slots { due: 103, unaccounted: 3, ..Slots::default() },
            spool: Spool { days_left: Some(0.4), ..empty().spool },
            chairs: vec![lost],
            ..empty()
        };
        let page = page(&snapshot);
        let lines: Vec<_> = page.lines().skip(2).take(3).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        ! 3 POLLS UNACCOUNTED FOR, of 103 due: `chairside gaps` says where; call who looks after this computer.
        Nothing is sent: there is no upstream yet.
        ! Room for 9 h more, if nothing can be sent.
        ");
        assert!(page.contains("100 of 100 polls in 24 h; 3 UNACCOUNTED FOR"), "{page}");
    }

    #[test]
    fn where_all_that_is_unsent_is_held_the_page_says_so_and_how_old_it_is() {
        let held = |waiting: Option<i64>| {
            let mut ehr = UpstreamState::untried(&UpstreamName::new("ehr").unwrap());
            (ehr.held, ehr.waiting) = (40, u64::from(waiting.is_some()));
            let snapshot = Snapshot {
                oldest_waiting: waiting.map(ago),
                oldest_unsent: Some(ago(3 * 3600)),
                chairs: vec![chair("chair-1", Line::Answering)],
                upstreams: vec![ehr],
                ..empty()
            };
            page(&snapshot).lines().nth(3).unwrap().to_owned()
        };
        let told = "The oldest unsent record is 3 h old; it is held until its patient is seated: `chairside seat CHAIR`.";
        assert_eq!(held(None), told);
        assert_eq!(held(Some(5)), told);
        assert_eq!(held(Some(3 * 3600)), "The oldest unsent record is 3 h old.");
    }

    #[test]
    fn a_record_that_nobody_can_date_still_counts_as_unsent() {
        let mut ehr = UpstreamState::untried(&UpstreamName::new("ehr").unwrap());
        ehr.held = 1040;
        let chairs = vec![chair("chair-1", Line::Answering)];
        let page = page(&Snapshot { chairs, upstreams: vec![ehr], ..empty() });
        assert!(page.contains("\n1,040 records are not sent yet.\n"), "{page}");
    }

    #[test]
    fn a_spool_that_fills_up_says_so_from_80_percent_on() {
        let told = |percent: u64| {
            let space = Space { used: percent * 10, max: 1000 };
            let spool = Spool { percent: space.percent(), level: space.level(), ..empty().spool };
            let page = page(&Snapshot { spool, ..empty() });
            page.lines().skip(3).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(told(79), "");
        insta::assert_snapshot!([80, 93, 95].map(told).join("\n"), @r"
        ! It is 80 % full: look why the upstreams do not take records, make room on its disk, or raise [spool] max_bytes.
        ! It is 93 % full: look why the upstreams do not take records, make room on its disk, or raise [spool] max_bytes.
        ! IT IS FULL (95 %) AND ITS OLDEST RECORDS LEAVE IT: look why the upstreams do not take records, make room on its disk, or raise [spool] max_bytes.
        ");
    }

    #[test]
    fn counts_that_the_spool_did_not_renew_are_told_with_their_age() {
        let of = |counted| page(&Snapshot { counts_of: Some(ago(counted)), ..empty() });
        assert!(!of(1).contains("does not answer"));
        assert!(of(100).contains("! The spool does not answer, so its counts are 100 s old"), "{}", of(100));
    }

    #[test]
    fn a_silent_chair_and_a_paused_upstream_stand_out_with_what_to_do() {
        let mut well = chair("chair-1", Line::Answering);
        well.phase = Doing::Treating;
        well.seat = Seat::Seated;
        well.treatment_since = Some(ago(600));
        well.slots.day = Day {
            captured: 8_602,
            missing: [("machine silent".to_owned(), 36), ("gateway down".to_owned(), 2)].into(),
            hours: 24,
        };
        well.values.insert(
            "venous_pressure".to_owned(),
            LastValue {
                title: "venous pressure".to_owned(),
                text: "120".to_owned(),
                unit: Some("mm[Hg]".to_owned()),
                at: ago(3),
                doubtful: false,
            },
        );
        let snapshot = Snapshot {
            test: true,
            clock_trusted: false,
            slots: Slots { due: 1_234_567, ..Slots::default() },
            oldest_waiting: Some(ago(90)),
            oldest_unsent: Some(ago(90)),
            spool: Spool { days_left: Some(31.7), ..empty().spool },
            chairs: vec![
                well,
                chair("chair-2", Line::Silent { since: ago(25) }),
                chair(
                    "chair-10",
                    Line::Down { since: ago(300), why: "open /dev/ttyS0: there is no such port".to_owned() },
                ),
            ],
            upstreams: vec![UpstreamState {
                delivered: 120,
                waiting: 7,
                held: 3,
                oldest_waiting: Some(ago(90)),
                resources: 5000,
                last_success: Some(ago(80)),
                trouble: Some(Stopped {
                    code: "certificate".to_owned(),
                    text: "the receiver refused our certificate; renew it".to_owned(),
                    paused: true,
                }),
                ..UpstreamState::untried(&UpstreamName::new("ehr").unwrap())
            }],
            ..empty()
        };
        insta::assert_snapshot!(page(&snapshot), @r"
        ward-3: ready, running for 2 h, TEST data only
        ! The clock of this computer is wrong; set it, or connect it to a time server.

        0 polls unaccounted for, of 1,234,567 due: what became of every one is known (`chairside gaps`).
        The oldest unsent record is 90 s old.
        Room for 31 days more, if nothing can be sent.

        Chairs: 1 of 3 answering
          chair-1   answering, treating, treatment for 10 min, patient seated
                    8,602 of 8,640 polls in 24 h; 38 missing: gateway down 2, machine silent 36
                    venous pressure 120 mmHg (3 s ago)
        ! chair-2   SILENT for 25 s, no patient seated
                    -> look whether the machine is on, its computer interface is enabled, and the cable at /dev/ttyS0 is in
        ! chair-10  NO LINE for 5 min, no patient seated
                    -> open /dev/ttyS0: there is no such port

        Spool: 0 records, 0 B of 16 GiB
        ! ehr: 120 delivered, 7 waiting, 3 held, oldest waits for 90 s
            PAUSED: the receiver refused our certificate; renew it
            held records wait for a patient: `chairside seat CHAIR`
        ");
    }
}
