//! What a rehearsal tells at its end: one report for people, the same for programs.

use crate::sim::outage::rate::Rate;
use serde::Serialize;
use std::fmt::Write as _;

/// How an outage would go. Everything in it was simulated but the rate, the disk and the program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether every promise was kept: nothing missing, nothing doubled, nothing in silence.
    pub holds: bool,
    /// Always: nothing of it is data of a patient.
    pub simulated: bool,
    /// Hours of outage that were played.
    pub hours: f64,
    /// What this ward does in an hour.
    pub rate: Rate,
    /// What was played.
    pub played: PlayedReport,
    /// How long the spool would last.
    pub autonomy: Autonomy,
    /// The power cut in the middle of the outage.
    pub power_cut: PowerCut,
    /// The certificate that had expired when the network came back.
    pub certificate: Certificate,
    /// The drain.
    pub drain: Drain,
    /// A spool that became full.
    pub pressure: Pressure,
    /// What became of every record.
    pub records: Records,
    /// What was not as promised, in words.
    pub complaints: Vec<String>,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PlayedReport {
    /// Real seconds that the outage took.
    pub seconds: f64,
    /// Ward time in one commit, in seconds.
    pub commit_seconds: f64,
    /// Polls answered.
    pub polls: u64,
    /// Values in the records.
    pub values: u64,
    /// Records that became durable.
    pub records: u64,
    /// Bytes on disk at the end of the outage.
    pub bytes: u64,
    /// Bytes on disk for each hour of outage.
    pub bytes_per_hour: f64,
}

/// How long the spool would last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Autonomy {
    /// Bytes that the live spool may still take before its oldest records would have to go.
    pub room_bytes: u64,
    /// Days until then, at the higher of the measured and the played rate.
    pub days: f64,
}

/// The power cut in the middle of the outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PowerCut {
    /// Records that were not durable yet: those of the last commit interval.
    pub records_lost: u64,
    /// The poll slots that the gap records after it name.
    pub slots_told: u64,
    /// Seconds until spool and keyring were open again.
    pub restart_seconds: f64,
}

/// The certificate that had expired when the network came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Certificate {
    /// The word by which `status` and the log tell of it.
    pub told_as: String,
    /// Seconds from its renewal to the first record taken.
    pub resumed_after_seconds: f64,
}

/// The drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Drain {
    /// Seconds until the receiver had the whole outage.
    pub seconds: f64,
    /// Records a second.
    pub records_per_second: f64,
    /// How many times faster than they came.
    pub times_nominal: f64,
    /// The age in hours of the oldest reading when it was delivered.
    pub worst_age_hours: f64,
    /// The age in milliseconds that 95 % of the live readings did not exceed meanwhile.
    pub live_p95_ms: Option<u32>,
    /// Live readings that came meanwhile.
    pub live_readings: u64,
}

/// A spool that became full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Bytes that this spool was allowed.
    pub max_bytes: u64,
    /// Bytes it took at most.
    pub most_bytes: u64,
    /// Records that were played into it.
    pub records: u64,
    /// After how many of them it warned.
    pub warned_after: Option<u64>,
    /// After how many of them it would have refused intake that waits for an answer.
    pub refused_intake_after: Option<u64>,
    /// Records that it let go of, oldest first, each told by a tombstone.
    pub evicted: u64,
    /// Records that it did not take, which the gateway would offer again.
    pub not_taken: u64,
}

/// What became of every record of the outage and of the time in which it drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// In the spool.
    pub total: u64,
    /// The receiver has them.
    pub delivered: u64,
    /// Not asked for.
    pub skipped: u64,
    /// Without a patient.
    pub held: u64,
    /// Not sent.
    pub waiting: u64,
    /// Refused.
    pub refused: u64,
    /// Let go of for want of space.
    pub evicted: u64,
    /// Lost in the store.
    pub lost: u64,
    /// Their key was destroyed.
    pub erased: u64,
    /// Not in the spool at all: it was full and did not take them.
    pub not_taken: u64,
    /// Readings the receiver should have.
    pub readings_expected: u64,
    /// Readings it has, each counted once.
    pub readings_received: u64,
    /// Readings it has under two ids.
    pub readings_doubled: u64,
    /// Resources written again under their own id, which changes nothing.
    pub written_again: u64,
}

impl Pressure {
    /// What a spool that became full did not do as promised.
    pub(super) fn judge(&self, complaints: &mut Vec<String>) {
        let steps = [
            (self.warned_after, "warned nobody"),
            (self.refused_intake_after, "refused no caller who can come again"),
            ((self.evicted > 0).then_some(self.records), "let no old record go"),
        ];
        let mut before = 0;
        for (after, failing) in steps {
            match after {
                Some(after) if after >= before => before = after,
                Some(after) => complaints.push(format!(
                    "the full spool did a step after {after} records that has to come behind the one after {before}"
                )),
                None => complaints.push(format!("the spool that became full {failing}")),
            }
        }
    }
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, words: String| {
            // Writing to a string cannot go wrong.
            let _ = writeln!(text, "{name:>16}  {words}");
        };
        let Self { rate, played, autonomy, power_cut, certificate, drain, pressure, records, .. } = self;
        row("outage", format!("{} of {} chairs without a network", hours(self.hours), rate.chairs));
        row("rate today", self.rate_words());
        row(
            "played",
            format!(
                "{} records with {} values in {}, {} on disk: {} an hour",
                played.records,
                played.values,
                seconds(played.seconds),
                bytes(played.bytes as f64),
                bytes(played.bytes_per_hour)
            ),
        );
        row(
            "autonomy",
            format!(
                "{:.1} days: the spool may take {} more before its oldest readings would go",
                autonomy.days,
                bytes(autonomy.room_bytes as f64)
            ),
        );
        row(
            "power cut",
            format!(
                "records lost of the last {}: {}; polls told as missing: {}; back after {}",
                seconds(played.commit_seconds),
                power_cut.records_lost,
                power_cut.slots_told,
                seconds(power_cut.restart_seconds)
            ),
        );
        row(
            "certificate",
            format!(
                "expired: paused and told as `{}`; renewed: going on after {}",
                certificate.told_as,
                seconds(certificate.resumed_after_seconds)
            ),
        );
        row(
            "drain",
            format!(
                "{} against a local receiver: {:.0} records/s, {:.0} times as fast as they came",
                seconds(drain.seconds),
                drain.records_per_second,
                drain.times_nominal
            ),
        );
        let live = drain.live_p95_ms.map_or(String::new(), |age| {
            format!("; meanwhile 95 % of {} live readings within {} ms", drain.live_readings, age)
        });
        row("worst age", format!("{} at delivery{live}", hours(drain.worst_age_hours)));
        row("full disk", pressure_words(pressure));
        row(
            "records",
            format!(
                "{}: {} delivered, {} not asked for, {} held, {} waiting, {} refused, {} evicted, {} lost, {} erased; {} not \
                 taken",
                records.total,
                records.delivered,
                records.skipped,
                records.held,
                records.waiting,
                records.refused,
                records.evicted,
                records.lost,
                records.erased,
                records.not_taken
            ),
        );
        row(
            "readings",
            format!(
                "{} expected, {} received, {} doubled",
                records.readings_expected, records.readings_received, records.readings_doubled
            ),
        );
        for words in &self.complaints {
            row("NOT AS PROMISED", words.clone());
        }
        row("verdict", self.verdict());
        text
    }

    fn rate_words(&self) -> String {
        use crate::sim::outage::rate::Source;
        let Rate { source, measured_hours, records, bytes: measured, .. } = &self.rate;
        match source {
            Source::Measured => format!(
                "{records:.0} records and {} an hour, measured over {}",
                bytes(measured.unwrap_or_default()),
                hours(*measured_hours)
            ),
            Source::Configured => {
                format!(
                    "{records:.0} records an hour by the configuration; the spool has nothing to measure yet"
                )
            }
        }
    }

    fn verdict(&self) -> String {
        let word = if self.holds { "HOLDS" } else { "DOES NOT HOLD" };
        format!(
            "{word}. The ward, the receiver and the patients were simulated; how fast your own receiver takes a backlog \
             is not known from this."
        )
    }
}

fn pressure_words(pressure: &Pressure) -> String {
    let Pressure { max_bytes, records, warned_after, refused_intake_after, evicted, not_taken, .. } =
        *pressure;
    let after = |count: Option<u64>| count.map_or("never".to_owned(), |count| format!("after {count}"));
    format!(
        "with {} for {records} records: warned {}, refused intake {}, {evicted} oldest let go and told, {not_taken} not taken",
        bytes(max_bytes as f64),
        after(warned_after),
        after(refused_intake_after),
    )
}

fn hours(hours: f64) -> String {
    match hours {
        ..0.1 => format!("{:.0} s", hours * 3600.0),
        ..1.0 => format!("{:.0} min", hours * 60.0),
        _ => format!("{hours:.1} h"),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..120.0 => format!("{seconds:.1} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Bytes as people read them.
pub(super) fn bytes(count: f64) -> String {
    const STEP: f64 = 1024.0;
    match count {
        ..1024.0 => format!("{count:.0} B"),
        ..1_048_576.0 => format!("{:.0} KiB", count / STEP),
        ..1_073_741_824.0 => format!("{:.1} MiB", count / STEP / STEP),
        _ => format!("{:.1} GiB", count / STEP / STEP / STEP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_spool_that_warned_nobody_or_let_nothing_go_is_complained_of() {
        let judged = |pressure: Pressure| {
            let mut complaints = Vec::new();
            pressure.judge(&mut complaints);
            complaints.join("\n")
        };
        let well = Pressure {
            warned_after: Some(10),
            refused_intake_after: Some(12),
            evicted: 3,
            records: 20,
            ..Pressure::default()
        };
        assert_eq!(judged(well), "");
        insta::assert_snapshot!(judged(Pressure::default()), @r"
        the spool that became full warned nobody
        the spool that became full refused no caller who can come again
        the spool that became full let no old record go
        ");
        let late = judged(Pressure { warned_after: Some(15), ..well });
        assert_eq!(
            late,
            "the full spool did a step after 12 records that has to come behind the one after 15"
        );
    }
}
