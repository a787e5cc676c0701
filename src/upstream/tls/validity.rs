//! From when to when a certificate is valid, read from its DER: the one fact we need before we show it to anybody.

use crate::model::time::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// From when to when, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`, the version; left out in X.509 v1.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The validity of a certificate; `None` where the bytes are no certificate.
pub(super) fn of(certificate: &[u8]) -> Option<Validity> {
    // RFC 5280, 4.1: Certificate { tbs { [0] version, serial, algorithm, issuer, validity { from, until }, ... } ... }
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (tbs, _) = element(certificate, SEQUENCE)?;
    let tbs = element(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    let (_, tbs) = element(tbs, INTEGER)?;
    let (_, tbs) = element(tbs, SEQUENCE)?;
    let (_, tbs) = element(tbs, SEQUENCE)?;
    let (validity, _) = element(tbs, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some(Validity { from, until })
}

/// The content of the element at the front, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    // Below 0x80 the length itself, above it the number of bytes that hold it.
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (found == tag).then_some((content, rest))
}

fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    if let Some((text, rest)) = element(der, UTC_TIME) {
        let text = std::str::from_utf8(text).ok()?;
        // RFC 5280, 4.1.2.5.1: two digits of the year, from 1950 to 2049.
        let century = if text.get(..2)?.parse::<u8>().ok()? >= 50 { "19" } else { "20" };
        return Some((point(&format!("{century}{text}"))?, rest));
    }
    let (text, rest) = element(der, GENERALIZED_TIME)?;
    Some((point(std::str::from_utf8(text).ok()?)?, rest))
}

fn point(text: &str) -> Option<Timestamp> {
    let civil = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    // "No expiry" is written as the last second of the year 9999 (RFC 5280, 4.1.2.5), later than any zone can be applied to.
    let at = civil.to_zoned(TimeZone::UTC).map_or(jiff::Timestamp::MAX, |zoned| zoned.timestamp());
    Some(Timestamp::from_micros(at.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["gateway".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn day(text: &str) -> Timestamp {
        let at: jiff::Timestamp = format!("{text}T00:00:00Z").parse().unwrap();
        Timestamp::from_micros(at.as_microsecond())
    }

    #[test]
    fn both_ends_are_read_in_both_ways_of_writing_them() {
        let validity = of(&certificate((2024, 5, 17), (2031, 1, 2))).unwrap();
        assert_eq!(validity, Validity { from: day("2024-05-17"), until: day("2031-01-02") });
        let validity = of(&certificate((1975, 1, 1), (4096, 1, 1))).unwrap();
        assert_eq!(validity, Validity { from: day("1975-01-01"), until: day("4096-01-01") });
        let validity = of(&certificate((2024, 5, 17), (9999, 12, 31))).unwrap();
        assert_eq!(validity.from, day("2024-05-17"));
        assert!(validity.until > day("9999-12-29"), "a certificate without an expiry has none");
    }

    #[test]
    fn a_certificate_cut_short_has_no_validity() {
        let whole = certificate((2024, 5, 17), (2031, 1, 2));
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of(&bytes);
        }

        #[test]
        fn any_flipped_byte_is_read_without_harm(at in 0_usize..300, to in any::<u8>()) {
            static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| certificate((2024, 5, 17), (2031, 1, 2)));
            let mut whole = WHOLE.clone();
            let at = at % whole.len();
            whole[at] = to;
            let _ = of(&whole);
        }
    }
}
