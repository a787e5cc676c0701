//! The FHIR upstream: one configured receiver, its connection and what writes to it.

use super::encode::Encoder;
use super::link::Link;
use super::writer::Writer;
use crate::clock::Clock;
use crate::config::settings::{FhirSettings, GatewaySettings, UpstreamSettings};
use crate::model::name::UpstreamName;
use crate::privacy::record::Correction;
use crate::spool::{Sequence, Stored};
use crate::upstream::{Delivery, Identities, Prepare, Upstream, Wire};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A FHIR server as an upstream.
#[derive(Debug)]
pub struct FhirUpstream {
    name: UpstreamName,
    writer: Writer<Link>,
}

impl FhirUpstream {
    /// An upstream for one configured receiver. Touches neither files nor network: what is wrong there pauses it later.
    #[must_use]
    pub fn new(
        gateway: &GatewaySettings,
        upstream: &UpstreamSettings,
        fhir: &FhirSettings,
        identities: Arc<dyn Identities>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let link = Link::new(upstream.clone(), fhir, clock.clone());
        let encoder = Encoder::new(gateway, upstream, fhir);
        Self { name: upstream.name.clone(), writer: Writer::new(encoder, identities, clock, link) }
    }
}

impl Upstream for FhirUpstream {
    fn name(&self) -> &UpstreamName {
        &self.name
    }

    fn begins_behind(&mut self, last: Sequence) {
        self.writer.history.begins_behind(last);
    }

    async fn deliver(&mut self, batch: &[Stored]) -> Delivery {
        self.writer.deliver(batch).await
    }

    async fn correct(
        &mut self,
        correction: Correction,
        batch: &[Stored],
        open: &BTreeSet<Sequence>,
    ) -> Delivery {
        self.writer.correct(correction, batch, open).await
    }

    fn refusals_not_kept(&mut self) {
        self.writer.refusals_not_kept();
    }

    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        Some(self.writer.desk.clone())
    }

    fn tend(&mut self) -> Wire {
        Wire { entries: self.writer.entries_of_a_batch(), ..self.writer.post.tend() }
    }
}
