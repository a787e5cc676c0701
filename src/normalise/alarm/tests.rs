//! Edges of one alarm, polled every ten seconds.

use super::*;
use crate::normalise::testing::Chair;

struct Line {
    watch: Watch,
    chair: Chair,
}

/// An edge in few words: its kind, its occurrence counted from the first, and the second it carries.
type Told = (Edge, u32, u64);

impl Line {
    fn new() -> Self {
        let watch = Watch::new(Alarm::from_key("venous_pressure").unwrap());
        Self { watch, chair: Chair::nikkiso() }
    }

    fn now(&self) -> u64 {
        self.chair.now.as_micros() / 1_000_000
    }

    fn wait(&mut self, seconds: u64) {
        self.chair.now = self.chair.now.after(Duration::from_secs(seconds));
    }

    /// Ten seconds later the machine says this.
    fn hear(&mut self, raw: u32) -> Vec<Told> {
        self.hear_after(10, raw)
    }

    fn hear_after(&mut self, seconds: u64, raw: u32) -> Vec<Told> {
        self.wait(seconds);
        let mut out = Vec::new();
        self.watch.prepare(&self.chair.origin(), Phase::Treating, &mut out);
        self.watch.hear(raw, &self.chair.origin(), Phase::Treating, &mut out);
        self.watch.settle(self.chair.now, &mut out);
        told(&out)
    }

    fn hear_for(&mut self, seconds: u64, raw: u32) -> Vec<Told> {
        (0..seconds / 10).flat_map(|_| self.hear(raw)).collect()
    }

    fn lose(&mut self) -> Vec<Told> {
        self.wait(10);
        let mut out = Vec::new();
        self.watch.line_lost(&self.chair.origin(), &mut out);
        told(&out)
    }
}

/// The wall clock of the first tick, in seconds: occurrences count from there.
const FIRST: u32 = 1_800_000_000;

fn told(out: &[Capture]) -> Vec<Told> {
    let edge = |capture: &Capture| match capture.finding {
        Finding::Alarm(edge) => {
            (edge.phase, edge.occurrence - FIRST, capture.origin.tick.as_micros() / 1_000_000)
        }
        _ => panic!("{capture:?}"),
    };
    out.iter().map(edge).collect()
}

#[test]
fn an_alarm_that_rises_and_stays_cleared_has_two_edges_with_the_times_they_were_seen() {
    let mut line = Line::new();
    assert_eq!(line.hear(0), []);
    assert_eq!(line.hear(1), [(Edge::Start, 20, 20)]);
    assert_eq!(line.hear_for(60, 1), []);
    assert_eq!(line.hear_for(30, 0), [], "it may be raised again");
    assert_eq!(line.hear(0), [(Edge::End, 20, 90)]);
    assert_eq!(line.hear_for(120, 0), []);
}

#[test]
fn raised_again_within_half_a_minute_it_is_one_alarm() {
    let mut line = Line::new();
    assert_eq!(line.hear(1).len(), 1);
    for _ in 0..20 {
        assert_eq!(line.hear_for(20, 0), []);
        assert_eq!(line.hear(1), []);
    }
    assert_eq!(line.hear_for(40, 0).len(), 1);
}

#[test]
fn raised_again_at_the_thirtieth_second_it_is_still_one_alarm() {
    let mut line = Line::new();
    line.hear(1);
    line.hear(0);
    assert_eq!(line.hear_after(30, 1), []);
    line.hear(0);
    assert_eq!(line.hear_after(31, 1).len(), 2);
}

#[test]
fn raised_again_later_it_is_another_occurrence() {
    let mut line = Line::new();
    assert_eq!(line.hear(1), [(Edge::Start, 10, 10)]);
    assert_eq!(line.hear(0), []);
    line.wait(60);
    assert_eq!(line.hear(2), [(Edge::End, 10, 20), (Edge::Start, 90, 90)], "the poll between was missed");
}

#[test]
fn an_alarm_that_is_on_when_the_line_goes_is_closed_and_opened_anew() {
    let mut line = Line::new();
    line.hear(1);
    assert_eq!(line.lose(), [(Edge::EndConnectionLost, 10, 20)]);
    assert_eq!(line.lose(), []);
    assert_eq!(line.hear(1), [(Edge::Start, 40, 40)]);
    line.hear(0);
    assert_eq!(line.lose(), [(Edge::End, 40, 50)], "it was cleared before the line went");
    assert_eq!(line.hear_for(60, 0), []);
}

#[test]
fn more_than_six_edges_in_ten_minutes_become_one_count() {
    let mut line = Line::new();
    let mut out = Vec::new();
    // On for 10 s and off for 40 s: two edges in 50 s.
    while line.now() < 900 {
        out.extend(line.hear(1));
        out.extend(line.hear_for(40, 0));
    }
    let (told, rest) = out.split_at(6);
    assert!(told.iter().all(|(edge, ..)| matches!(edge, Edge::Start | Edge::End)));
    // From the seventh edge, seen at 160 s, for ten minutes: twelve raisings and twelve falls.
    assert_eq!(rest[0], (Edge::Chattering { edges: 24 }, 710, 160));

    let starts = out.iter().filter(|(edge, ..)| *edge == Edge::Start).count();
    let ends = out.iter().filter(|(edge, ..)| *edge == Edge::End).count();
    assert_eq!(starts, ends, "each raising that was told has its end told: {out:?}");
}

#[test]
fn after_a_count_the_outside_knows_whether_the_alarm_is_on() {
    let mut line = Line::new();
    for _ in 0..5 {
        line.hear(1);
        line.hear_for(40, 0);
    }
    assert!(line.watch.chatter.is_some());
    line.hear(1);
    let rose = line.now();
    let out = line.hear_for(700, 1);
    let occurrence = u32::try_from(rose).unwrap();
    assert_eq!(out.last(), Some(&(Edge::Start, occurrence, rose)), "it is on, since then");
    assert_eq!(line.hear_for(40, 0).len(), 1);
}

#[test]
fn a_raising_that_was_told_and_fell_while_counting_has_its_end_told_after() {
    let mut line = Line::new();
    for _ in 0..3 {
        line.hear(1);
        line.hear_for(40, 0);
    }
    // Six edges from 10 s to 120 s. The first is old enough at 612 s, the second not yet at 615 s.
    let wait = 612 - line.now();
    assert_eq!(line.hear_after(wait, 1), [(Edge::Start, 612, 612)]);
    assert_eq!(line.hear_after(3, 0), []);
    assert_eq!(line.hear_for(590, 0), []);
    assert_eq!(line.hear(0), [(Edge::Chattering { edges: 1 }, 612, 615), (Edge::End, 612, 615)]);
}

#[test]
fn occurrences_never_fall_back_even_where_the_clock_does() {
    let mut line = Line::new();
    let first = line.hear(1)[0].1;
    line.hear_for(60, 0);
    let later = line.chair.now;
    // The wall clock follows the tick here; a smaller tick is a clock set back.
    line.chair.now = Tick::from_micros(0);
    line.watch.edges.clear();
    let mut out = Vec::new();
    line.watch.hear(1, &line.chair.origin(), Phase::Treating, &mut out);
    assert_eq!(told(&out)[0].1, first + 1);
    assert!(line.chair.now < later);
}

#[test]
fn a_treatment_that_is_over_tells_what_was_held_back_and_closes_what_is_on() {
    let mut line = Line::new();
    let over = |line: &mut Line| {
        let mut out = Vec::new();
        line.watch.treatment_over(&line.chair.origin(), &mut out);
        told(&out)
    };
    assert_eq!(over(&mut line), []);
    line.hear(1);
    line.hear(0);
    assert_eq!(over(&mut line), [(Edge::End, 10, 20)]);
    line.hear(1);
    assert_eq!(over(&mut line), [(Edge::EndTreatmentChanged, 30, 30)]);
    assert_eq!(over(&mut line), []);
    assert_eq!(line.hear(1), [(Edge::Start, 40, 40)], "it is still on");
}

#[test]
fn a_count_ends_with_the_treatment_and_the_next_one_is_told_each_edge() {
    let mut line = Line::new();
    for _ in 0..4 {
        line.hear(1);
        line.hear_for(40, 0);
    }
    line.hear(1);
    let rose = line.now();
    let occurrence = u32::try_from(rose).unwrap();
    let mut out = Vec::new();
    line.watch.treatment_over(&line.chair.origin(), &mut out);
    assert_eq!(
        told(&out),
        [
            (Edge::Chattering { edges: 3 }, occurrence, 160),
            (Edge::Start, occurrence, rose),
            (Edge::EndTreatmentChanged, occurrence, rose),
        ]
    );
    assert_eq!(line.hear(1).len(), 1);
    assert_eq!(line.hear_for(40, 0).len(), 1);
}
