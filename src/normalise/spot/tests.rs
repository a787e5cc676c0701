//! When a spot value is news, token by token.

use super::*;

struct Cuff {
    group: SpotGroup,
}

type Triple = [i64; 3];
const NOTHING: Triple = [0; 3];
const V1: Triple = [118, 76, 64];
const V2: Triple = [131, 82, 71];

impl Cuff {
    fn new() -> Self {
        let mut group = SpotGroup::default();
        for place in 0..3 {
            assert_eq!(group.join(), place);
        }
        Self { group }
    }

    /// One poll: the mark, and the values in their order; zero is shown and means nothing.
    fn shows(&mut self, mark: impl Into<Option<u64>>, values: Triple) -> Vec<value::Mark> {
        self.group.clear();
        if let Some(mark) = mark.into() {
            self.group.see_mark(Mark::new(mark));
        }
        for (place, value) in values.into_iter().enumerate() {
            self.group.see(place, Decimal::whole(value));
        }
        self.group.judge();
        values.into_iter().map(|value| self.group.mark(Reading::Number(Decimal::whole(value)))).collect()
    }

    fn is_new(&mut self, mark: impl Into<Option<u64>>, values: Triple) -> bool {
        let marks = self.shows(mark, values);
        marks.contains(&value::Mark::New)
    }
}

#[test]
fn what_stands_there_at_first_is_baseline_until_something_is_measured() {
    let mut cuff = Cuff::new();
    assert_eq!(cuff.shows(1, V1), [value::Mark::Baseline; 3]);
    assert_eq!(cuff.shows(1, V1), [value::Mark::Baseline; 3]);
    assert_eq!(cuff.shows(2, V2), [value::Mark::New; 3]);
    assert_eq!(cuff.shows(2, V2), [value::Mark::Same; 3]);
    assert_eq!(cuff.shows(2, V2), [value::Mark::Same; 3]);
}

#[test]
fn the_same_numbers_measured_again_are_news_when_the_mark_says_so() {
    let mut cuff = Cuff::new();
    cuff.shows(1, NOTHING);
    assert!(cuff.is_new(2, V1));
    assert_eq!(cuff.shows(3, V1), [value::Mark::Same; 3], "the numbers may be a poll behind their mark");
    assert!(cuff.is_new(3, V1));
    assert!(!cuff.is_new(3, V1));
}

#[test]
fn a_mark_that_moves_a_poll_before_its_values_brings_the_values_and_not_the_ones_before() {
    let mut cuff = Cuff::new();
    cuff.shows(1, NOTHING);
    assert!(cuff.is_new(2, V1));
    assert!(!cuff.is_new(3, V1), "these were told");
    assert_eq!(cuff.shows(3, V2), [value::Mark::New; 3]);
    assert_eq!(cuff.shows(3, V2), [value::Mark::Same; 3]);
}

#[test]
fn a_mark_that_comes_back_or_moves_on_has_brought_nothing_yet() {
    let mut cuff = Cuff::new();
    cuff.shows(1, NOTHING);
    assert!(cuff.is_new(2, V1));
    for mark in [3, 2, 3, 4, 3] {
        assert!(!cuff.is_new(mark, V1), "{mark}");
    }
    assert!(!cuff.is_new(None, V1), "a poll without a mark says nothing of it");
    assert!(cuff.is_new(3, V1));
}

#[test]
fn a_mark_ahead_of_its_values_when_somebody_is_seated_brings_nothing_that_stood_there() {
    let mut cuff = Cuff::new();
    cuff.shows(1, NOTHING);
    assert!(cuff.is_new(2, V1));
    assert!(!cuff.is_new(3, V1));
    cuff.group.start_over();
    assert!(!cuff.is_new(3, V1));
    assert!(!cuff.is_new(3, V1));
    assert!(!cuff.is_new(4, V1));
    assert!(!cuff.is_new(4, V1));
}

#[test]
fn a_mark_that_moves_before_the_values_does_not_make_the_baseline_news() {
    let mut cuff = Cuff::new();
    cuff.shows(1, V1);
    assert_eq!(cuff.shows(2, V1), [value::Mark::Baseline; 3]);
    assert_eq!(cuff.shows(2, V2), [value::Mark::New; 3]);
    assert_eq!(cuff.shows(2, V2), [value::Mark::Same; 3]);
}

#[test]
fn a_mark_that_moves_after_the_values_brings_them_once() {
    let mut cuff = Cuff::new();
    cuff.shows(1, V1);
    assert!(!cuff.is_new(1, V2));
    assert!(cuff.is_new(2, V2));
    assert!(!cuff.is_new(2, V2));
}

#[test]
fn a_measurement_in_progress_is_news_when_its_values_come() {
    let mut cuff = Cuff::new();
    cuff.shows(1, V1);
    assert!(!cuff.is_new(2, NOTHING));
    assert!(cuff.is_new(2, V2));
    assert!(!cuff.is_new(3, NOTHING));
    assert!(cuff.is_new(3, V2), "the same numbers, measured again");
}

#[test]
fn a_cuff_that_measured_nothing_shows_zero_and_that_is_no_blood_pressure() {
    let mut cuff = Cuff::new();
    cuff.shows(1, V1);
    assert!(!cuff.is_new(2, NOTHING));
    let marks = cuff.shows(3, [131, 82, 0]);
    assert_eq!(marks, [value::Mark::New, value::Mark::New, value::Mark::Same], "no pulse was found");
}

#[test]
fn without_a_mark_the_values_are_the_token() {
    let mut cuff = Cuff::new();
    assert!(!cuff.is_new(None, V1));
    assert!(!cuff.is_new(None, V1));
    assert!(!cuff.is_new(None, NOTHING));
    assert!(!cuff.is_new(None, V1), "what was hidden comes back");
    assert!(cuff.is_new(None, V2));
    assert!(!cuff.is_new(None, V2));
    assert!(cuff.is_new(None, V1));
}

#[test]
fn a_mark_that_is_hidden_for_a_while_repeats_nothing() {
    let mut cuff = Cuff::new();
    cuff.shows(1, V1);
    assert!(cuff.is_new(2, V2));
    assert!(!cuff.is_new(None, V2));
    assert!(!cuff.is_new(2, V2));
    assert!(cuff.is_new(None, V1), "other values without a mark");
    assert!(!cuff.is_new(3, V1), "and its mark a poll later");
    assert!(!cuff.is_new(4, V1));
    assert!(cuff.is_new(4, V1));
}

#[test]
fn values_hidden_while_somebody_is_seated_stay_baseline_when_they_come_back() {
    for mark in [None, Some(2)] {
        let mut cuff = Cuff::new();
        cuff.shows(1, NOTHING);
        assert!(cuff.is_new(2, V1));
        cuff.group.start_over();
        assert_eq!(cuff.shows(mark, NOTHING), [value::Mark::Baseline; 3]);
        assert_eq!(cuff.shows(mark, V1), [value::Mark::Baseline; 3]);
        assert_eq!(cuff.shows(3, V2), [value::Mark::New; 3]);
    }
}

#[test]
fn half_a_baseline_completed_later_is_no_news() {
    let mut cuff = Cuff::new();
    cuff.shows(None, [118, 76, 0]);
    assert!(!cuff.is_new(None, V1));
    assert!(cuff.is_new(None, [118, 76, 65]));
}
