//! How the questions of people are answered, alike for a running spool and for a stopped one.

use crate::model::name::UpstreamName;
use crate::privacy::keyring::DataKeys;
use crate::spool::dead::DeadLetters;
use crate::spool::frame::{FrameFault, Header, Opener};
use crate::spool::letter::Letter;
use crate::spool::manifest::VolumeEntry;
use crate::spool::tools::{Content, DeadLetter, Found, Letters, Page, Place, Seen, Standing, Wanted};
use crate::spool::{Sequence, SpoolError, StoreId};
use std::sync::Arc;

/// What an answer is made from.
pub(super) trait Shelves {
    fn keys(&self) -> Arc<dyn DataKeys>;
    fn volumes(&self) -> &[VolumeEntry];
    fn dead(&self) -> &DeadLetters;
    /// The store that new records belong to, and the highest sequence.
    fn newest(&self) -> (StoreId, Sequence);
    /// The store that gave out this number, or that would have: a number that no volume holds any more is taken for one of the
    /// volume behind it.
    fn store_of_number(&self, sequence: Sequence) -> StoreId {
        let place = self.volumes().partition_point(|volume| volume.last < sequence.0);
        self.volumes().get(place).map_or(self.newest().0, |volume| volume.store)
    }
    /// Whether a record of this store and number could be one of ours.
    fn could_hold(&self, store: StoreId, sequence: Sequence) -> bool {
        sequence <= self.newest().1 && self.store_of_number(sequence) == store
    }
    /// The frames of these sequences, in ascending order.
    fn frames_of(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError>;
    /// Where a record stands at each upstream of the configuration.
    fn standings(&self, sequence: Sequence) -> Vec<(UpstreamName, Standing)>;
}

pub(super) fn look(shelves: &mut impl Shelves, after: Sequence, limit: usize) -> Result<Page, SpoolError> {
    let from = after.0.saturating_add(1);
    let behind = shelves.volumes().iter().filter(|volume| volume.last >= from);
    let wanted = behind.flat_map(|volume| volume.first.max(from)..=volume.last).map(Sequence);
    let mut wanted: Vec<_> = wanted.take(limit.saturating_add(1)).collect();
    let more = wanted.len() > limit;
    wanted.truncate(limit);
    let next = more.then(|| wanted.last().copied()).flatten();
    let frames = shelves.frames_of(&wanted)?;
    let keys = shelves.keys();
    let mut opener = Opener::new(&*keys);
    let seen = wanted.into_iter().zip(frames).filter_map(|(sequence, frame)| {
        let volume = volume_of(shelves.volumes(), sequence);
        // A copy holds some records of its range; the others have left, and a record says so.
        let left = frame.is_none() && volume.is_some_and(|volume| volume.copied.is_some());
        let store = volume.map(|volume| volume.store);
        let content = content(&mut opener, frame.as_deref(), sequence, store);
        (!left).then_some(Seen { sequence, content })
    });
    Ok(Page { seen: seen.collect(), next })
}

pub(super) fn find(shelves: &mut impl Shelves, sequence: Sequence) -> Result<Option<Found>, SpoolError> {
    let frame = shelves.frames_of(&[sequence])?.pop().flatten();
    let volume = volume_of(shelves.volumes(), sequence);
    let store = volume.map(|volume| volume.store);
    if frame.is_none() && volume.is_none_or(|volume| volume.copied.is_some()) {
        return Ok(None);
    }
    let keys = shelves.keys();
    let content = content(&mut Opener::new(&*keys), frame.as_deref(), sequence, store);
    let dead = shelves.dead();
    let about = dead.places(None).filter(|(_, place)| *place == sequence);
    let refusals = about.filter_map(|(name, _)| Some((name.clone(), dead.letter(name, sequence)?.refused)));
    let refusals = refusals.collect();
    let standings = shelves.standings(sequence);
    Ok(Some(Found { content, only_in_letter: store.is_none(), standings, refusals }))
}

pub(super) fn letters(
    shelves: &mut impl Shelves,
    wanted: &Wanted,
    after: Option<&Place>,
    limit: usize,
) -> Letters {
    let (places, next) = page(shelves.dead(), wanted, after, limit);
    let keys = shelves.keys();
    let mut opener = Opener::new(&*keys);
    let mut letters = Vec::new();
    for (upstream, sequence) in places {
        let Some(letter) = shelves.dead().letter(&upstream, sequence) else { continue };
        let content = content_of(&letter, &mut opener, shelves.volumes());
        if !wanted.fits(&letter.refused, &content) {
            continue;
        }
        let standings = shelves.standings(sequence);
        let standing =
            standings.into_iter().find(|(name, _)| *name == upstream).map(|(_, standing)| standing);
        letters.push(DeadLetter { upstream, sequence, refusal: letter.refused, content, standing });
    }
    Letters { letters, next, damaged: shelves.dead().damaged() }
}

/// The places of a page of letters, and where the next one begins.
pub(super) fn page(
    dead: &DeadLetters,
    wanted: &Wanted,
    after: Option<&Place>,
    limit: usize,
) -> (Vec<Place>, Option<Place>) {
    let after = after.map(|(name, sequence)| (name, *sequence));
    let meant = dead.places(after).filter(|(name, sequence)| wanted.may_be(name, *sequence));
    let mut places: Vec<Place> =
        meant.take(limit.saturating_add(1)).map(|(name, sequence)| (name.clone(), sequence)).collect();
    let more = places.len() > limit;
    places.truncate(limit);
    let next = more.then(|| places.last().cloned()).flatten();
    (places, next)
}

/// The record in a letter, unless its number belongs to another record now.
pub(super) fn content_of(letter: &Letter, opener: &mut Opener<'_>, volumes: &[VolumeEntry]) -> Content {
    content(opener, Some(&letter.frame), letter.sequence, store_of(volumes, letter.sequence))
}

fn content(
    opener: &mut Opener<'_>,
    frame: Option<&[u8]>,
    sequence: Sequence,
    store: Option<StoreId>,
) -> Content {
    let Some(frame) = frame else { return Content::Lost };
    let belongs =
        |header: &Header| header.sequence == sequence && store.is_none_or(|store| store == header.store);
    match opener.open(frame) {
        Ok(stored) if stored.sequence == sequence && store.is_none_or(|store| store == stored.store) => {
            Content::Record(Box::new(stored))
        }
        Err(FrameFault::KeyGone) if Header::read(frame).is_ok_and(|header| belongs(&header)) => {
            Content::Erased
        }
        Ok(_) | Err(_) => Content::Lost,
    }
}

fn store_of(volumes: &[VolumeEntry], sequence: Sequence) -> Option<StoreId> {
    volume_of(volumes, sequence).map(|volume| volume.store)
}

fn volume_of(volumes: &[VolumeEntry], sequence: Sequence) -> Option<&VolumeEntry> {
    let place = volumes.partition_point(|volume| volume.last < sequence.0);
    volumes.get(place).filter(|volume| volume.first <= sequence.0)
}
