//! Request bodies in gzip, where the server takes them: tried once, and remembered.

use crate::config::settings::Compress;
use chairside_drivers::kit::time::Tick;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;
use std::time::Duration;

/// A server that cannot read gzip is asked again after this time: somebody may have taught it.
const ASK_AGAIN: Duration = Duration::from_secs(86_400);
/// Where the first try told nothing, the next one is made after this time.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// What is known of a server and gzip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Takes,
    PlainUntil(Tick),
}

/// Whether bodies go out in gzip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gzip {
    wanted: Compress,
    known: Known,
}

/// What to do about an answer to a body in gzip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// It stands.
    Keep,
    /// It may be about gzip: send the same body plain, and say what came of it.
    SendPlain,
}

impl Gzip {
    pub(super) const fn new(wanted: Compress) -> Self {
        Self { wanted, known: Known::Nothing }
    }

    /// Whether the next body goes out in gzip.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        self.wanted == Compress::Auto
            && match self.known {
                Known::Nothing | Known::Takes => true,
                Known::PlainUntil(then) => then <= now,
            }
    }

    /// Whether the server is known to take it.
    pub(super) fn is_taken(&self) -> bool {
        self.known == Known::Takes
    }

    /// The answer to a body in gzip had this status.
    pub(super) fn answered(&mut self, status: u16, now: Tick) -> Advice {
        match status {
            200..300 => self.known = Known::Takes,
            415 => return Advice::SendPlain,
            // A server that reads the body as it comes finds no JSON in it.
            400 | 411 | 422 | 501 if self.known != Known::Takes => return Advice::SendPlain,
            // It may have stumbled over gzip, or over anything else.
            500.. if self.known != Known::Takes => self.known = Known::PlainUntil(now.after(TRY_AGAIN)),
            _ => {}
        }
        Advice::Keep
    }

    /// There was no answer to a body in gzip.
    pub(super) fn unanswered(&mut self, now: Tick) {
        if self.known != Known::Takes {
            self.known = Known::PlainUntil(now.after(TRY_AGAIN));
        }
    }

    /// The same body, sent plain, was answered with this status.
    pub(super) fn answered_plain(&mut self, packed: u16, plain: u16, now: Tick) {
        let wait = if plain == packed { TRY_AGAIN } else { ASK_AGAIN };
        self.known = Known::PlainUntil(now.after(wait));
    }
}

/// The body in gzip. `None` where it cannot be packed; then it goes out as it is.
pub(super) fn pack(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), LEVEL);
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// A low level, for bodies repeat themselves: a reading takes about 104 bytes on the wire, 133 at the level below; the higher
/// ones save a tenth more and take several times as long.
const LEVEL: Compression = Compression::new(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const NOW: Tick = Tick::from_micros(1_000_000);

    #[test]
    fn what_is_packed_is_what_was_given() {
        let body = "{\"resourceType\":\"Bundle\"}".repeat(100);
        let packed = pack(body.as_bytes()).unwrap();
        assert!(packed.len() < body.len() / 5);
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, body);
    }

    #[test]
    fn a_server_that_takes_it_goes_on_getting_it_and_its_refusals_are_not_about_it() {
        let mut gzip = Gzip::new(Compress::Auto);
        assert!(gzip.is_due(NOW) && !gzip.is_taken());
        assert_eq!(gzip.answered(200, NOW), Advice::Keep);
        assert!(gzip.is_taken());
        for status in [400, 422, 500, 503] {
            assert_eq!(gzip.answered(status, NOW), Advice::Keep);
        }
        gzip.unanswered(NOW);
        assert!(gzip.is_due(NOW));
        assert_eq!(gzip.answered(415, NOW), Advice::SendPlain, "it was set up otherwise");
    }

    #[test]
    fn a_server_that_does_not_is_asked_again_a_day_later() {
        for status in [400, 411, 415, 422, 501] {
            let mut gzip = Gzip::new(Compress::Auto);
            assert_eq!(gzip.answered(status, NOW), Advice::SendPlain);
            gzip.answered_plain(status, 200, NOW);
            assert!(!gzip.is_due(NOW.after(ASK_AGAIN - Duration::from_secs(1))));
            assert!(gzip.is_due(NOW.after(ASK_AGAIN)));
        }
    }

    #[test]
    fn an_answer_that_tells_nothing_about_it_costs_ten_minutes() {
        let mut gzip = Gzip::new(Compress::Auto);
        gzip.answered_plain(422, 422, NOW);
        assert!(!gzip.is_due(NOW) && gzip.is_due(NOW.after(TRY_AGAIN)));
        let mut gzip = Gzip::new(Compress::Auto);
        assert_eq!(gzip.answered(503, NOW), Advice::Keep);
        assert!(!gzip.is_due(NOW) && gzip.is_due(NOW.after(TRY_AGAIN)));
    }

    #[test]
    fn where_the_site_says_never_it_never_is() {
        assert!(!Gzip::new(Compress::Never).is_due(NOW));
    }
}
