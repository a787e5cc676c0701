//! A correction, page by page: what was delivered under the wrong binding is rewritten, and what cannot be is a refusal.

use super::Forwarder;
use crate::privacy::record::Correction;
use crate::spool::tools::Standing;
use crate::spool::{BatchLimit, Reason, RefusedPart, Sequence, SpoolError, Stored, Verdict};
use crate::upstream::{Delivery, Next, Upstream};
use std::collections::BTreeSet;

/// Records of a corrected treatment that are rewritten at a time.
pub(super) const PAGE: BatchLimit = BatchLimit { records: 32 };

impl<U: Upstream> Forwarder<U> {
    /// Rewrites what was delivered under the wrong binding: every record of the treatment before the correction.
    pub(super) async fn correct(
        &mut self,
        correction: Correction,
        own: Sequence,
    ) -> Result<Delivery, SpoolError> {
        let mut delivery = Delivery::default();
        let (mut parts, mut refused) = (0_u32, Vec::<RefusedPart>::new());
        loop {
            let after = self.corrected.get(&own).copied().unwrap_or(Sequence(0));
            let mut page = self.spool.read_treatment(correction.treatment, after, PAGE).await?;
            page.retain(|stored| stored.sequence < own);
            let Some(last) = page.last().map(|stored| stored.sequence) else { break };
            let open = self.look_up(&mut page).await?;
            let page_delivery = self.upstream.correct(correction, &page, &open).await;
            delivery.resources += page_delivery.resources;
            delivery.setback = page_delivery.setback.or(delivery.setback);
            let settled = page.iter().all(|stored| is_settled(stored.sequence, &page_delivery.verdicts));
            let later = page_delivery.verdicts.iter().filter_map(|(_, verdict)| match verdict {
                Verdict::Retry { not_before } => Some(*not_before),
                _ => None,
            });
            let later = later.max();
            for (_, verdict) in page_delivery.verdicts {
                let Verdict::Delivered { parts: taken, refused_parts } = verdict else { continue };
                parts = parts.saturating_add(taken);
                for RefusedPart { reason, .. } in refused_parts {
                    let part = u16::try_from(refused.len()).unwrap_or(u16::MAX);
                    refused.push(RefusedPart { part, reason });
                }
            }
            if page_delivery.next != Next::Continue || !settled {
                delivery.verdicts.extend(later.map(|not_before| (own, Verdict::Retry { not_before })));
                delivery.next = page_delivery.next;
                return Ok(delivery);
            }
            self.corrected.insert(own, last);
        }
        self.corrected.remove(&own);
        let verdict = match self.has_all_of(correction, own).await? {
            true => Verdict::Delivered { parts, refused_parts: refused },
            false => {
                let parts = u32::try_from(refused.len()).unwrap_or(u32::MAX).saturating_add(1);
                Verdict::Refused { parts, reason: Reason::RECORDS_GONE }
            }
        };
        delivery.verdicts.push((own, verdict));
        Ok(delivery)
    }

    /// Takes out of the page what this upstream never had to do with; gives what it has not settled.
    async fn look_up(&self, page: &mut Vec<Stored>) -> Result<BTreeSet<Sequence>, SpoolError> {
        let name = self.upstream.name().clone();
        let numbers: Vec<Sequence> = page.iter().map(|stored| stored.sequence).collect();
        let asked = numbers.clone();
        let standings = self.spool.tools(move |spool| spool.standings_at(&name, &asked)).await?;
        let (mut open, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        for (sequence, standing) in numbers.into_iter().zip(standings) {
            match standing {
                Standing::BeforeItsTime => foreign.insert(sequence),
                Standing::Waiting | Standing::Held(_) => open.insert(sequence),
                Standing::Settled => false,
            };
        }
        page.retain(|stored| !foreign.contains(&stored.sequence));
        Ok(open)
    }

    /// Whether every record that the correction is about was there to be rewritten.
    async fn has_all_of(&self, correction: Correction, own: Sequence) -> Result<bool, SpoolError> {
        let treatment = correction.treatment;
        let is_whole = self.spool.tools(move |spool| spool.is_whole(treatment, own)).await?;
        if !is_whole {
            let upstream = self.upstream.name();
            tracing::error!(
                %upstream,
                ?treatment,
                "records of a corrected treatment had left the spool; what this upstream has of them stays under the patient \
                 of before; correct it there by hand"
            );
        }
        Ok(is_whole)
    }
}

fn is_settled(sequence: Sequence, verdicts: &[(Sequence, Verdict)]) -> bool {
    verdicts.iter().any(|(it, verdict)| *it == sequence && !matches!(verdict, Verdict::Retry { .. }))
}
