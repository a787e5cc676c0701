//! How long our own certificate still lasts, told before it is too late.

use crate::model::time::Timestamp;
use crate::upstream::Trouble;
use std::path::Path;

const DAY: i64 = 86_400_000_000;

/// Days before the end on which a person is told with a line in the log; `status` says it on all of them.
const TOLD_AT: [i64; 3] = [30, 7, 1];

/// What to say about a certificate that ends within a month.
#[must_use]
pub fn notice(file: &Path, until: Timestamp, now: Timestamp) -> Option<Trouble> {
    let days = days_left(until, now);
    if days > TOLD_AT[0] {
        return None;
    }
    let left = match days {
        ..=0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        days => format!("in {days} days"),
    };
    Some(Trouble {
        code: "own_certificate_expires",
        what: format!("our certificate in {} expires {left}, on {}", file.display(), day(until)),
        remedy: "renew it and put the new one in its place; it is taken up without a restart",
    })
}

/// How many of the thresholds have passed: a line is logged each time this grows.
#[must_use]
pub fn stage(until: Timestamp, now: Timestamp) -> usize {
    let days = days_left(until, now);
    TOLD_AT.iter().filter(|at| days <= **at).count()
}

fn days_left(until: Timestamp, now: Timestamp) -> i64 {
    until.as_micros().saturating_sub(now.as_micros()).div_euclid(DAY)
}

/// The day of an instant, UTC, as people write it.
#[must_use]
pub fn day(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros())
        .map_or_else(|_| "a day out of reach".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let at: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(at.as_microsecond())
    }

    #[test]
    fn the_last_month_is_told_with_its_days_and_the_end() {
        let (file, until) = (Path::new("tls/gateway.pem"), at("2026-12-31T12:00:00Z"));
        let said = |now: &str| notice(file, until, at(now)).map(|trouble| trouble.what);
        assert_eq!(said("2026-11-30T11:00:00Z"), None);
        assert_eq!(
            said("2026-12-01T12:00:00Z").unwrap(),
            "our certificate in tls/gateway.pem expires in 30 days, on 2026-12-31"
        );
        assert!(said("2026-12-30T11:00:00Z").unwrap().contains("expires tomorrow"));
        assert!(said("2026-12-31T01:00:00Z").unwrap().contains("expires today"));
        let stages =
            ["2026-11-01T00:00:00Z", "2026-12-02T00:00:00Z", "2026-12-25T00:00:00Z", "2026-12-31T00:00:00Z"];
        assert_eq!(stages.map(|now| stage(until, at(now))), [0, 1, 2, 3]);
    }
}
