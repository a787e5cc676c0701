//! What people ask about the spool while the gateway runs. Whoever reads records is in the audit record before he has them.

use super::FrontDesk;
use crate::audit::{Caller, Entry};
use crate::control::server::refused;
use crate::control::spool::{Ask, Told, answer};
use crate::control::{Answer, RefusalCode};
use crate::spool::inspect::Choice;
use crate::spool::{SpoolError, SpoolStatus};

/// Turns at the spool for one question. Between two of them it does its other work.
const TURNS: usize = 32;

impl FrontDesk {
    pub(super) async fn spool(&self, caller: Caller, ask: Ask) -> Answer {
        let act = ask.word();
        if let Err(why) = ask.check() {
            return self.deny(caller, act, RefusalCode::Malformed, why).await;
        }
        if ask.is_audited() {
            let entry = Entry::Spool { caller, act, about: ask.about() };
            if !self.note(act, move |audit, now| audit.note(now, &entry)).await {
                let why = "the audit record cannot be written, and nobody may read or change records without it; make \
                           room on its disk";
                return refused(RefusalCode::NotNow, why);
            }
        }
        match self.told(ask).await {
            Ok(told) => {
                if let Told::Counted { counts, .. } = &told {
                    tracing::info!(act, ?counts, uid = caller.uid, "dead letters changed");
                }
                Answer::Spool { told: Box::new(told) }
            }
            Err(error) => self.deny(caller, act, RefusalCode::NotNow, crate::telemetry::chain(&error)).await,
        }
    }

    async fn told(&self, ask: Ask) -> Result<Told, SpoolError> {
        let status = self.shared.spool.status().await?;
        match ask {
            Ask::Inspect { after, choice, lines } => self.inspect(status, after, choice, lines).await,
            Ask::Replay(_) => {
                let told = self.turn(status, ask).await?;
                self.shared.spool.wake();
                Ok(told)
            }
            Ask::Status | Ask::Record { .. } | Ask::Letters(_) | Ask::Discard(_) => {
                self.turn(status, ask).await
            }
        }
    }

    async fn turn(&self, status: SpoolStatus, ask: Ask) -> Result<Told, SpoolError> {
        let zone = self.zone.clone();
        self.shared.spool.tools(move |spool| answer(spool, &status, &ask, &zone)).await
    }

    async fn inspect(
        &self,
        status: SpoolStatus,
        mut after: u64,
        choice: Choice,
        lines: usize,
    ) -> Result<Told, SpoolError> {
        let mut all = (crate::spool::inspect::Summary::default(), Vec::new());
        let mut behind = None;
        for _ in 0..TURNS {
            let left = lines.saturating_sub(all.1.len());
            let ask = Ask::Inspect { after, choice: choice.clone(), lines: left };
            let Told::Page { summary, lines, next, .. } = self.turn(status.clone(), ask).await? else {
                break;
            };
            all.0.take_in(summary);
            all.1.extend(lines);
            behind = next;
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        let (summary, lines) = all;
        Ok(Told::Page { summary, lines, next: behind, last: status.last })
    }
}
