//! Refused records come back to be sent, or their letters are thrown away: what people do with dead letters.

use crate::model::name::UpstreamName;
use crate::privacy::keyring::DataKeys;
use crate::privacy::record::TreatmentId;
use crate::spool::dead::DeadLetters;
use crate::spool::frame::Opener;
use crate::spool::letter::{Letter, Refusal};
use crate::spool::look::{self, Shelves};
use crate::spool::manifest::VolumeEntry;
use crate::spool::store::SledSpool;
use crate::spool::tools::{
    Content, Discarded, Found, Letters, Look, Page, Place, Replayed, SpoolTools, Standing, Wanted,
};
use crate::spool::{Sequence, SpoolError, StoreId, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Shelves for SledSpool {
    fn keys(&self) -> Arc<dyn DataKeys> {
        self.keys.clone()
    }

    fn volumes(&self) -> &[VolumeEntry] {
        &self.contents.volumes
    }

    fn dead(&self) -> &DeadLetters {
        &self.dead
    }

    fn newest(&self) -> (StoreId, Sequence) {
        (self.contents.store, Sequence(self.contents.last))
    }

    fn frames_of(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        self.frames(wanted)
    }

    fn standings(&self, sequence: Sequence) -> Vec<(UpstreamName, Standing)> {
        self.settlement.standings(sequence)
    }
}

impl Look for SledSpool {
    fn look(&mut self, after: Sequence, limit: usize) -> Result<Page, SpoolError> {
        look::look(self, after, limit)
    }

    fn find(&mut self, sequence: Sequence) -> Result<Option<Found>, SpoolError> {
        look::find(self, sequence)
    }

    fn letters(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Letters, SpoolError> {
        Ok(look::letters(self, wanted, after, limit))
    }
}

impl SpoolTools for SledSpool {
    fn replay(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Replayed, SpoolError> {
        self.usable()?;
        let (places, next) = look::page(&self.dead, wanted, after, limit);
        let keys = self.keys.clone();
        let mut opener = Opener::new(&*keys);
        let mut replayed = Replayed { next, ..Replayed::default() };
        for (upstream, sequence) in places {
            let Some(letter) = self.dead.letter(&upstream, sequence) else {
                replayed.lost += 1;
                continue;
            };
            let content = look::content_of(&letter, &mut opener, &self.contents.volumes);
            if !wanted.fits(&letter.refused, &content) {
                continue;
            }
            *match content {
                Content::Erased => &mut replayed.erased,
                Content::Lost => &mut replayed.lost,
                Content::Record(_) => match self.settlement.reopen(&upstream, sequence, &letter.refused) {
                    Ok(true) => &mut replayed.reopened,
                    Ok(false) => &mut replayed.waiting,
                    Err(_) => &mut replayed.nobody,
                },
            } += 1;
        }
        // Whoever hears that they wait to be sent can rely on it.
        self.settlement.sync()?;
        Ok(replayed)
    }

    fn discard(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Discarded, SpoolError> {
        self.usable()?;
        let page = look::letters(self, wanted, after, limit);
        let mut discarded = Discarded { next: page.next, ..Discarded::default() };
        let mut meant: BTreeMap<UpstreamName, Vec<Sequence>> = BTreeMap::new();
        for letter in page.letters {
            // What waits to be sent again may have its only copy in the letter.
            let waits = matches!(letter.standing, Some(Standing::Waiting | Standing::Held(_)));
            if waits && letter.content != Content::Erased {
                discarded.waiting += 1;
                continue;
            }
            meant.entry(letter.upstream).or_default().push(letter.sequence);
        }
        // One sync for all of them: alarms wait behind this turn.
        for (upstream, sequences) in &meant {
            self.dead.strike_out(upstream, sequences)?;
            discarded.letters += sequences.len() as u64;
        }
        self.dead.tidy()?;
        Ok(discarded)
    }

    fn without_trace(&mut self, treatments: &[TreatmentId]) -> Result<Vec<TreatmentId>, SpoolError> {
        let mut kept = self.dead.keys();
        let numbers: Vec<u64> = self.contents.volumes.iter().map(|volume| volume.number).collect();
        for number in numbers {
            match self.spans(number) {
                Ok(spans) => kept.extend(spans.into_keys()),
                // Of what the device does not give now, anything may be there.
                Err(SpoolError::Disk { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(treatments.iter().filter(|treatment| !kept.contains(treatment.as_bytes())).copied().collect())
    }
}

impl SledSpool {
    /// Writes the dead letters that these verdicts ask for.
    pub(super) fn write_letters(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<(), SpoolError> {
        let heard = self.heard;
        let ledger = self.settlement.ledger(upstream)?;
        let mut refused: Vec<(Sequence, Refusal)> = verdicts
            .iter()
            .filter(|(sequence, _)| !ledger.is_settled(*sequence))
            .filter_map(|(sequence, verdict)| Some((*sequence, Refusal::of(verdict, heard)?)))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        refused.sort_by_key(|(sequence, _)| *sequence);
        let wanted: Vec<_> = refused.iter().map(|(sequence, _)| *sequence).collect();
        let frames = self.frames(&wanted)?;
        let letters = refused.into_iter().zip(frames).map(|((sequence, refused), frame)| Letter {
            upstream: upstream.clone(),
            sequence,
            refused,
            frame: frame.unwrap_or_default(),
        });
        self.dead.keep(letters.collect())
    }

    /// Which of these verdicts answer a letter: the record was taken whole after all.
    pub(super) fn answered(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<Vec<Sequence>, SpoolError> {
        let (ledger, dead) = (self.settlement.ledger(upstream)?, &self.dead);
        let taken = |verdict: &Verdict| match verdict {
            Verdict::Delivered { refused_parts, .. } => refused_parts.is_empty(),
            Verdict::SkippedByPolicy => true,
            Verdict::Held(_) | Verdict::Refused { .. } | Verdict::Retry { .. } => false,
        };
        let answered = verdicts.iter().filter(|(sequence, verdict)| {
            taken(verdict) && dead.has(upstream, *sequence) && !ledger.is_settled(*sequence)
        });
        Ok(answered.map(|(sequence, _)| *sequence).collect())
    }
}

#[cfg(test)]
mod tests;
