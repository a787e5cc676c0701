//! What a dialysis machine can plausibly show while it treats somebody. Flags, never drops.

use crate::model::value::{Doubts, Reading};
use chairside_drivers::kit::decimal::Decimal;

/// The lowest and highest plausible number, both included; either end may be open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range(pub(super) Option<Decimal>, pub(super) Option<Decimal>);

impl Range {
    /// The doubt about a reading made while treating. Outside a treatment anything may stand on a screen.
    pub(super) fn doubt(self, reading: Reading) -> Doubts {
        let Reading::Number(number) = reading else { return Doubts::NONE };
        let below = self.0.is_some_and(|low| number.compare(low).is_lt());
        let above = self.1.is_some_and(|high| number.compare(high).is_gt());
        if below || above { Doubts::OUTSIDE_PLAUSIBLE } else { Doubts::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_ends_of_a_range_are_plausible_and_a_digit_beyond_is_not() {
        let range = Range(Some(number("12.5")), Some(number("16.0")));
        for (text, doubt) in [
            ("12.50", Doubts::NONE),
            ("16", Doubts::NONE),
            ("12.49", Doubts::OUTSIDE_PLAUSIBLE),
            ("16.01", Doubts::OUTSIDE_PLAUSIBLE),
        ] {
            assert_eq!(range.doubt(Reading::Number(number(text))), doubt, "{text}");
        }
    }

    #[test]
    fn an_open_end_and_a_missing_reading_raise_no_doubt() {
        let range = Range(None, Some(number("450")));
        assert_eq!(range.doubt(Reading::Number(number("-9999"))), Doubts::NONE);
        assert_eq!(range.doubt(Reading::Absent), Doubts::NONE);
    }
}
