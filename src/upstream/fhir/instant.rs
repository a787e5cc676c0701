//! FHIR date-times: the capture time with the site's zone offset, to the millisecond.

use super::r4::Period;
use crate::model::time::Timestamp;
use jiff::tz::TimeZone;

/// `2026-03-02T09:14:30.000+01:00`; `None` for a time that FHIR cannot write (before year 1, after 9999).
pub(super) fn date_time(at: Timestamp, zone: &TimeZone) -> Option<String> {
    let zoned = jiff::Timestamp::from_microsecond(at.as_micros()).ok()?.to_zoned(zone.clone());
    // Offsets of old local mean times have seconds, and FHIR has no way to write them.
    let zoned = if zoned.offset().seconds() % 60 == 0 { zoned } else { zoned.with_time_zone(TimeZone::UTC) };
    if zoned.year() < 1 {
        return None;
    }
    Some(zoned.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string())
}

/// A period; an end before its start (the clock was set back in between) is moved to the start, as FHIR's per-1 asks.
pub(super) fn period(start: Option<Timestamp>, end: Option<Timestamp>, zone: &TimeZone) -> Option<Period> {
    let end = match (start, end) {
        (Some(start), Some(end)) => Some(end.max(start)),
        (_, end) => end,
    };
    let period = Period {
        start: start.and_then(|at| date_time(at, zone)),
        end: end.and_then(|at| date_time(at, zone)),
    };
    (period != Period::default()).then_some(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, zone: &TimeZone) -> Option<String> {
        let at = text.parse::<jiff::Timestamp>().unwrap();
        date_time(Timestamp::from_micros(at.as_microsecond()), zone)
    }

    #[test]
    fn times_carry_the_offset_of_the_site_in_summer_and_winter() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(written("2026-03-02T08:14:30Z", &berlin).unwrap(), "2026-03-02T09:14:30.000+01:00");
        assert_eq!(written("2026-07-02T08:14:30.9999Z", &berlin).unwrap(), "2026-07-02T10:14:30.999+02:00");
        assert_eq!(written("1970-01-01T00:00:00Z", &TimeZone::UTC).unwrap(), "1970-01-01T00:00:00.000+00:00");
    }

    #[test]
    fn a_time_that_cannot_be_written_is_left_out() {
        assert_eq!(date_time(Timestamp::from_micros(i64::MAX), &TimeZone::UTC), None);
        assert_eq!(date_time(Timestamp::from_micros(i64::MIN), &TimeZone::UTC), None);
        assert_eq!(written("-000001-01-01T00:00:00Z", &TimeZone::UTC), None);
    }

    #[test]
    fn a_period_never_ends_before_it_starts() {
        let at = Timestamp::from_micros;
        let period = period(Some(at(5_000_000)), Some(at(1_000_000)), &TimeZone::UTC).unwrap();
        assert_eq!(period.start, period.end);
    }
}
