//! Where a treatment begins, pauses or ends: whose an alarm is, what is news again, and when it really ended.

use super::testing::*;
use super::*;
use crate::model::alarm::Phase as Edge;
use std::time::Duration;

/// Edges in few words, with the phase that says whose they are.
fn owned(found: &[Capture]) -> Vec<(Edge, Phase)> {
    edges(found).into_iter().map(|(edge, _, phase)| (edge.phase, phase)).collect()
}

fn occurrences(found: &[Capture]) -> Vec<u32> {
    edges(found).into_iter().map(|(edge, ..)| edge.occurrence).collect()
}

#[test]
fn an_alarm_that_is_on_when_the_treatment_ends_is_closed_in_it_and_goes_on_as_the_machines() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "1"), ("c", "1")]);
    let start = chair.poll();
    chair.show_all(&[("M", "0"), ("D", "0")]);
    let found = chair.poll();
    assert_eq!(
        events(&found),
        ["EndTreatmentChanged venous_pressure", "ended FlagOff", "Start venous_pressure"]
    );
    assert_eq!(owned(&found), [(Edge::EndTreatmentChanged, Phase::Treating), (Edge::Start, Phase::Idle)]);
    let [closed, raised] = occurrences(&found)[..] else { panic!("{found:?}") };
    assert_eq!([closed], occurrences(&start)[..], "the end is the end of that start");
    assert!(raised > closed);

    chair.show("c", "0");
    assert_eq!(owned(&chair.poll_for(60)), [(Edge::End, Phase::Idle)]);
}

#[test]
fn an_alarm_still_on_when_the_next_patient_is_treated_begins_anew_there() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "1"), ("c", "1")]);
    let mut found = chair.poll_for(60);
    chair.show_all(&[("M", "0"), ("D", "0")]);
    found.extend(chair.poll_for(60));
    chair.show("M", "1");
    found.extend(chair.poll_for(60));
    chair.show("c", "0");
    found.extend(chair.poll_for(60));
    assert_eq!(
        owned(&found),
        [
            (Edge::Start, Phase::Treating),
            (Edge::EndTreatmentChanged, Phase::Treating),
            (Edge::Start, Phase::Idle),
            (Edge::EndTreatmentChanged, Phase::Idle),
            (Edge::Start, Phase::Treating),
            (Edge::End, Phase::Treating),
        ]
    );
    let told = occurrences(&found);
    assert!(told.chunks(2).all(|pair| pair[0] == pair[1]), "{told:?}");
}

#[test]
fn an_alarm_that_clears_in_a_pause_ends_in_the_treatment_it_was_raised_in() {
    let mut chair = treating_toray();
    chair.show("c", "1");
    assert_eq!(owned(&chair.poll()), [(Edge::Start, Phase::Treating)]);
    chair.show("D", "0");
    assert_eq!(owned(&chair.poll_for(180)), []);
    assert_eq!(chair.normaliser.phase(), Phase::Ending);
    chair.show("c", "0");
    assert_eq!(owned(&chair.poll_for(60)), [(Edge::End, Phase::Treating)]);
}

#[test]
fn an_alarm_raised_in_a_pause_is_the_patients_only_from_the_moment_the_treatment_goes_on() {
    let mut chair = treating_toray();
    chair.show("D", "0");
    chair.poll_for(180);
    chair.show("c", "1");
    assert_eq!(owned(&chair.poll()), [(Edge::Start, Phase::Ending)]);
    chair.show_all(&[("D", "250"), ("K", "196")]);
    let found = chair.poll();
    assert_eq!(owned(&found), [(Edge::EndTreatmentChanged, Phase::Ending), (Edge::Start, Phase::Treating)]);
    assert!(edges(&found).iter().all(|(_, tick, _)| *tick == chair.now));
}

#[test]
fn alarms_counted_before_the_treatment_are_no_count_of_the_patients() {
    let mut chair = Chair::nikkiso();
    let flicker = |chair: &mut Chair| {
        chair.show("c", "1");
        let mut found = chair.poll();
        chair.show("c", "0");
        found.extend(chair.poll_for(40));
        found
    };
    chair.show_all(&[("M", "0"), ("D", "0")]);
    for _ in 0..5 {
        flicker(&mut chair);
    }
    chair.show("M", "1");
    let found = flicker(&mut chair);
    assert_eq!(
        owned(&found),
        [
            (Edge::Chattering { edges: 4 }, Phase::Idle),
            (Edge::Start, Phase::Treating),
            (Edge::End, Phase::Treating)
        ]
    );
}

/// A Toray in mid-treatment, its time seen to advance just now.
fn treating_toray() -> Chair {
    let mut chair = Chair::toray();
    chair.poll();
    chair.show("K", "195");
    chair.poll();
    assert_eq!(events(&chair.poll()), ["started"]);
    chair
}

#[test]
fn a_setting_changed_in_a_pause_is_news_when_the_treatment_goes_on() {
    let mut chair = treating_toray();
    let target = |found: &[Capture]| {
        let value = value(found, "uf_target_volume");
        (found.last().unwrap().phase, value.mark)
    };
    assert_eq!(target(&chair.poll()), (Phase::Treating, Mark::Same));
    chair.show("D", "0");
    chair.poll_for(180);
    chair.show("A", "03.00");
    assert_eq!(target(&chair.poll()), (Phase::Ending, Mark::New));
    assert_eq!(target(&chair.poll()), (Phase::Ending, Mark::Same));

    chair.show_all(&[("D", "250"), ("K", "196")]);
    assert_eq!(target(&chair.poll()), (Phase::Treating, Mark::New));
    assert_eq!(target(&chair.poll()), (Phase::Treating, Mark::Same));
}

#[test]
fn a_setting_left_alone_in_a_pause_is_no_news_after_it() {
    let mut chair = treating_toray();
    chair.show("D", "0");
    chair.poll_for(180);
    chair.show_all(&[("D", "250"), ("K", "196")]);
    let found = chair.poll();
    assert_eq!(found.last().unwrap().phase, Phase::Treating);
    assert_eq!(value(&found, "uf_target_volume").mark, Mark::Same);
}

/// The origin of the end, and of the last values that were the treatment's before it.
fn end_and_last_treating(found: &[Capture]) -> (Origin, Origin) {
    let end = found.iter().position(|capture| matches!(capture.finding, Finding::TreatmentEnded(_))).unwrap();
    let last = found[..end].iter().rfind(|capture| capture.phase == Phase::Treating).unwrap();
    (found[end].origin.clone(), last.origin.clone())
}

#[test]
fn a_treatment_that_stood_still_ended_when_it_was_last_treating() {
    let mut chair = treating_toray();
    chair.show("D", "0");
    let found = chair.poll_for(20 * 60);
    assert_eq!(events(&found), ["ended Frozen"]);
    let (end, last) = end_and_last_treating(&found);
    assert_eq!((end.at, end.tick), (last.at, last.tick));
    assert!(chair.now.since(end.tick) >= Duration::from_secs(15 * 60));
}

#[test]
fn a_treatment_lost_over_a_silence_ended_before_it() {
    let mut chair = Chair::nikkiso();
    chair.show("M", "1");
    chair.poll_for(60);
    for (flag, reason) in [("1", "ended LostTrack"), ("0", "ended FlagOff")] {
        let before = (chair.at(), chair.now);
        chair.show("M", flag);
        let found = chair.poll_after(Duration::from_secs(2 * 3600));
        assert_eq!(events(&found)[0], reason);
        assert_eq!((found[0].origin.at, found[0].origin.tick), before);
    }
}

#[test]
fn a_treatment_that_ends_while_it_is_watched_ends_now() {
    let mut chair = Chair::nikkiso();
    chair.show("M", "1");
    chair.poll_for(60);
    chair.show("M", "0");
    let found = chair.poll();
    assert_eq!(events(&found), ["ended FlagOff"]);
    assert_eq!((found[0].origin.at, found[0].origin.tick), (chair.at(), chair.now));
}

#[test]
fn a_treatment_that_a_restart_does_not_find_again_ended_when_it_was_last_seen() {
    let mut chair = Chair::nikkiso();
    chair.show("M", "1");
    chair.poll_for(60);
    let known = Resume { started: chair.at(), elapsed: chair.normaliser.elapsed(), at: chair.at() };
    chair.restart(Some(known));
    chair.show("K", "3");
    let found = chair.poll_after(Duration::from_secs(120));
    assert_eq!(events(&found), ["ended LostTrack", "started"]);
    assert_eq!(found[0].origin.at, known.at);
    assert_eq!((found[0].origin.tick, found[1].origin.at), (chair.now, chair.at()));
}

#[test]
fn a_change_of_seat_closes_what_is_on_for_the_one_who_leaves_and_raises_it_for_the_next() {
    let mut chair = Chair::nikkiso();
    chair.show_all(&[("M", "1"), ("c", "1"), ("g", "1")]);
    let start = chair.poll();
    chair.show("g", "0");
    chair.poll();
    let cleared = chair.now;
    let origin = chair.origin();
    let last = chair.normaliser.treatment_changed(&origin, true);
    assert_eq!(
        owned(&last),
        [(Edge::EndTreatmentChanged, Phase::Treating), (Edge::End, Phase::Treating)],
        "all of it is sealed with the treatment that ended"
    );
    assert_eq!(occurrences(&last), occurrences(&start));
    assert_eq!(edges(&last)[1].1, cleared, "with the time it was seen at");
    assert!(last.iter().all(|capture| (capture.origin.slot, capture.origin.previous) == (None, None)));

    let found = chair.poll();
    assert_eq!(events(&found), ["Start venous_pressure"]);
    assert_eq!(owned(&found), [(Edge::Start, Phase::Treating)]);
}

#[test]
fn a_treatment_begun_by_a_seat_never_ends_before_it_began() {
    let mut chair = Chair::nikkiso();
    chair.show("M", "1");
    chair.poll_for(60);
    chair.now = chair.now.after(Duration::from_secs(5));
    let (at, tick) = (chair.at(), chair.now);
    let origin = chair.origin();
    drop(chair.normaliser.treatment_changed(&origin, true));
    let found = chair.poll_after(Duration::from_secs(2 * 3600));
    assert_eq!(events(&found), ["ended LostTrack", "started"]);
    assert_eq!((found[0].origin.at, found[0].origin.tick), (at, tick));
}

#[test]
fn a_treatment_ended_by_hand_without_another_leaves_the_next_one_to_the_machine() {
    for mut chair in [Chair::nikkiso(), treating_toray()] {
        chair.show("M", "1");
        chair.poll();
        assert_eq!(chair.normaliser.phase(), Phase::Treating);
        let origin = chair.origin();
        assert!(chair.normaliser.treatment_changed(&origin, false).is_empty());
        assert_eq!(chair.normaliser.phase(), Phase::Idle);

        let found = chair.poll_for(20);
        assert_eq!(events(&found), ["started"]);
        assert_eq!(chair.normaliser.phase(), Phase::Treating);
    }
}
