//! Questions about the spool, put to it: to the running one by the gateway, to a stopped one by the command.

use super::{Ask, Holdings, Incomplete, Letter, Outbox, Reason, Told, Wish};
use crate::model::name::{ChairName, UpstreamName};
use crate::spool::inspect::{Summary, kind, shown};
use crate::spool::tools::{Content, DeadLetter, Found, Look, Place, SpoolTools, Standing, Wanted};
use crate::spool::{Sequence, SpoolError, SpoolStatus};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Records and letters looked at in one turn. A turn keeps the spool from its other work.
const TURN: usize = 256;

/// Answers what changes nothing. `None`: this is no question but something to do.
///
/// # Errors
/// [`SpoolError`] when the store cannot be read.
pub fn answer_looking(
    spool: &mut (impl Look + ?Sized),
    status: &SpoolStatus,
    ask: &Ask,
    zone: &TimeZone,
) -> Result<Option<Told>, SpoolError> {
    Ok(Some(match ask {
        Ask::Status => Told::Status(Holdings::from(status)),
        Ask::Inspect { after, choice, lines } => {
            let after = (*after).max(choice.from.unwrap_or(0).saturating_sub(1));
            let page = spool.look(Sequence(after), TURN)?;
            let mut summary = Summary::default();
            let mut meant = summary.count(&page.seen, choice, zone);
            meant.truncate(*lines);
            let beyond = |next: &Sequence| choice.to.is_some_and(|to| next.0 >= to);
            let next = page.next.filter(|next| !beyond(next)).map(|next| next.0);
            Told::Page { lines: Summary::lines(&meant), summary, next, last: status.last }
        }
        Ask::Record { sequence } => {
            Told::Record(spool.find(Sequence(*sequence))?.map(|found| record(*sequence, &found)))
        }
        Ask::Letters(wish) => {
            let page = spool.letters(&wanted(wish), after(wish).as_ref(), TURN)?;
            let letters = page.letters.iter().map(Letter::from).collect();
            Told::Letters { letters, damaged: page.damaged, next: page.next.map(next) }
        }
        Ask::Replay(_) | Ask::Discard(_) => return Ok(None),
    }))
}

/// Answers anything.
///
/// # Errors
/// [`SpoolError`] when the store cannot be read, or written.
pub fn answer(
    spool: &mut dyn SpoolTools,
    status: &SpoolStatus,
    ask: &Ask,
    zone: &TimeZone,
) -> Result<Told, SpoolError> {
    if let Some(told) = answer_looking(spool, status, ask, zone)? {
        return Ok(told);
    }
    let (counts, place): (Vec<(&str, u64)>, Option<Place>) = match ask {
        Ask::Replay(wish) => {
            let did = spool.replay(&wanted(wish), after(wish).as_ref(), TURN)?;
            let counts = vec![
                ("put_back", did.reopened),
                ("waiting_already", did.waiting),
                ("upstream_gone", did.nobody),
                ("erased", did.erased),
                ("lost", did.lost),
            ];
            (counts, did.next)
        }
        Ask::Discard(wish) => {
            let did = spool.discard(&wanted(wish), after(wish).as_ref(), TURN)?;
            (vec![("thrown_away", did.letters), ("kept_waiting", did.waiting)], did.next)
        }
        Ask::Status | Ask::Inspect { .. } | Ask::Record { .. } | Ask::Letters(_) => (Vec::new(), None),
    };
    let counts: BTreeMap<String, u64> =
        counts.into_iter().map(|(word, count)| (word.to_owned(), count)).collect();
    Ok(Told::Counted { counts, next: place.map(next) })
}

fn wanted(wish: &Wish) -> Wanted {
    Wanted {
        upstream: wish.upstream.as_deref().and_then(|name| UpstreamName::new(name).ok()),
        chair: wish.chair.as_deref().and_then(|name| ChairName::new(name).ok()),
        sequences: wish.sequences.iter().copied().map(Sequence).collect(),
        before: wish.before.map(Into::into),
    }
}

fn after(wish: &Wish) -> Option<Place> {
    let (name, sequence) = wish.after.as_ref()?;
    Some((UpstreamName::new(name).ok()?, Sequence(*sequence)))
}

fn next((name, sequence): Place) -> (String, u64) {
    (name.as_str().to_owned(), sequence.0)
}

fn record(sequence: u64, found: &Found) -> Value {
    let mut shown = match &found.content {
        Content::Record(stored) => shown(stored),
        Content::Erased => json!({ "sequence": sequence, "content": "erased: its key was destroyed" }),
        Content::Lost => {
            json!({ "sequence": sequence, "content": "lost: it cannot be proved to be this record" })
        }
    };
    let upstreams = found.standings.iter().map(|(name, standing)| {
        let refusal = found.refusals.iter().find(|(refuser, _)| refuser == name).map(|(_, refusal)| refusal);
        let state = match (standing, refusal) {
            (Standing::Settled, Some(refusal)) if refusal.is_whole() => "refused",
            (Standing::Settled, Some(_)) => "delivered, parts refused",
            (Standing::Settled, None) => match found.content {
                Content::Record(_) => "settled: delivered, not asked for, or given up; only sums are kept",
                Content::Erased => "settled: delivered before its key was destroyed, or erased",
                Content::Lost => "settled: delivered before it was lost, or lost",
            },
            (standing, _) => word(*standing),
        };
        let refusal = refusal.map(|refusal| {
            let reasons: Vec<Reason> = refusal.reasons.iter().map(Reason::from).collect();
            json!({ "at": crate::clock::stamp(refusal.at), "reasons": reasons })
        });
        json!({ "name": name.as_str(), "state": state, "refusal": refusal })
    });
    let upstreams: Vec<Value> = upstreams.collect();
    if let Some(all) = shown.as_object_mut() {
        all.insert("upstreams".to_owned(), json!(upstreams));
        all.insert("only_in_dead_letter".to_owned(), json!(found.only_in_letter));
    }
    shown
}

const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::BeforeItsTime => "older than this upstream",
        Standing::Waiting => "waiting",
        Standing::Held(_) => "held",
        Standing::Settled => "refused",
    }
}

impl From<&SpoolStatus> for Holdings {
    fn from(status: &SpoolStatus) -> Self {
        let incomplete = |aside: &crate::spool::SetAside| Incomplete {
            volume: aside.volume.clone(),
            expected: aside.expected,
            found: aside.found,
        };
        let outbox = |(name, counts): &(UpstreamName, crate::spool::Counts)| Outbox {
            name: name.as_str().to_owned(),
            delivered: counts.delivered,
            skipped: counts.skipped,
            held: counts.held,
            waiting: counts.waiting,
            refused: counts.refused,
            evicted: counts.evicted,
            lost: counts.lost,
            erased: counts.erased,
            parts_delivered: counts.parts_delivered,
            parts_refused: counts.parts_refused,
            oldest_waiting: counts.oldest_waiting.map(Into::into),
        };
        Self {
            last: status.last,
            records: status.records,
            bytes: status.bytes,
            max_bytes: status.space.max,
            percent: status.space.percent(),
            level: status.space.level().word().to_owned(),
            volumes: status.volumes,
            set_aside: status.set_aside.iter().map(incomplete).collect(),
            upstreams: status.upstreams.iter().map(outbox).collect(),
            at_least: false,
        }
    }
}

impl From<&crate::spool::letter::RefusedFor> for Reason {
    fn from(reason: &crate::spool::letter::RefusedFor) -> Self {
        Self { part: reason.part, status: reason.status, issue: reason.issue.clone() }
    }
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        let record = match &letter.content {
            Content::Record(stored) => Some(&stored.record),
            Content::Erased | Content::Lost => None,
        };
        let content = match letter.content {
            Content::Record(_) => "whole",
            Content::Erased => "erased",
            Content::Lost => "lost",
        };
        Self {
            upstream: letter.upstream.as_str().to_owned(),
            sequence: letter.sequence.0,
            captured: record.map(|record| record.origin().at.into()),
            chair: record.map(|record| record.origin().chair.as_str().to_owned()),
            kind: record.map(|record| kind(record.body()).to_owned()),
            refused: letter.refusal.at.into(),
            parts_taken: letter.refusal.parts_taken,
            parts_refused: letter.refusal.parts_refused,
            reasons: letter.refusal.reasons.iter().map(Reason::from).collect(),
            state: letter.standing.map_or("nobody", word).to_owned(),
            content: content.to_owned(),
        }
    }
}
