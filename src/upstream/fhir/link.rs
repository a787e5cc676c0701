//! The connection to one FHIR server: mutual TLS by `reqwest`, answers of bounded size, no redirect, no proxy.

mod connects;

use self::connects::Connects;
use super::gzip::{self, Advice, Gzip};
use super::status::Reply;
use crate::clock::Clock;
use crate::config::settings::{FhirSettings, UpstreamSettings};
use crate::model::time::Timestamp;
use crate::upstream::tls::{self, LinkFault, expiry};
use crate::upstream::{Trouble, Wire};
use chairside_drivers::kit::time::Tick;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A server may take its time over a hundred resources; without an answer by then, what it did is unknown.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// A renewed certificate is taken up within this time, without a restart; after a failure at once.
const REREAD_FILES: Duration = Duration::from_secs(60);
/// Codes for a hundred entries fit in a hundredth of this, even with every resource sent back.
const LONGEST_ANSWER: usize = 8 << 20;

/// Sends a batch and brings the answer back.
pub(super) trait Post: Send {
    /// Posts a Bundle to the server's base.
    fn post(&mut self, bundle: Vec<u8>) -> impl Future<Output = Result<Answer, LinkFault>> + Send;
}

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn reply(&self) -> Reply<'_> {
        Reply { status: self.status, retry_after: self.retry_after.as_deref(), body: &self.body }
    }
}

/// The link to one server; connects when there is something to send.
#[derive(Debug)]
pub(super) struct Link {
    settings: UpstreamSettings,
    url: String,
    clock: Arc<dyn Clock>,
    open: Option<Open>,
    /// Whatever becomes of them: no more than one a second.
    connects: Connects,
    /// Fresh connections in a row that were cut before any answer.
    cuts: u32,
    gzip: Gzip,
    /// What is wrong with the files as they are now, while what was read before still holds.
    unusable: Option<Trouble>,
    /// How far the end of our certificate was told.
    told: usize,
}

#[derive(Clone, Debug)]
struct Open {
    client: reqwest::Client,
    valid_until: Timestamp,
    digest: [u8; 32],
    read_at: Tick,
    /// Something failed since: the next try starts from the files, as whatever was wrong may have been put right.
    failed: bool,
    /// Whether the server has ever answered through it.
    answered: bool,
}

/// How a body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
}

impl Link {
    pub(super) fn new(settings: UpstreamSettings, fhir: &FhirSettings, clock: Arc<dyn Clock>) -> Self {
        let (url, gzip) = (fhir.url.clone(), Gzip::new(fhir.compress));
        let connects = Connects::new(clock.clone());
        Self { settings, url, clock, open: None, connects, cuts: 0, gzip, unusable: None, told: 0 }
    }

    #[cfg(test)]
    pub(super) fn connects(&self) -> Connects {
        self.connects.clone()
    }

    /// Looks after the certificates, whether there is anything to send or not.
    pub(super) fn tend(&mut self) -> Wire {
        let missing = self.client().err();
        let now = self.clock.now().0;
        let until = self.open.as_ref().map(|open| open.valid_until);
        let file = &self.settings.certificate;
        let expiring = until.and_then(|until| expiry::notice(file, until, now));
        let stage = until.map_or(0, |until| expiry::stage(until, now));
        if stage > self.told
            && let Some(trouble) = &expiring
        {
            tracing::warn!(upstream = %self.settings.name, code = trouble.code, "{trouble}");
        }
        self.told = stage;
        let notices = missing.into_iter().chain(self.unusable.clone()).chain(expiring).collect();
        Wire { entries: 0, gzip: self.gzip.is_taken(), certificate_until: until, notices }
    }

    /// A client with a certificate that can be shown now; found out without any connection.
    fn client(&mut self) -> Result<reqwest::Client, Trouble> {
        if !self.url.starts_with("https://") {
            return Err(Trouble {
                code: "not_https",
                what: "`url` does not begin with https://".to_owned(),
                remedy: "name the receiver's https address; nothing is ever sent without TLS",
            });
        }
        let (now, tick) = (self.clock.now().0, self.clock.tick());
        self.open.take_if(|open| now > open.valid_until);
        if let Some(open) = &self.open
            && !open.failed
            && tick.since(open.read_at) < REREAD_FILES
        {
            return Ok(open.client.clone());
        }
        let upstream = &self.settings.name;
        let tls = match (tls::client(&self.settings, &self.clock), &mut self.open) {
            (Ok(tls), _) => tls,
            // Somebody may be in the middle of renewing the files; what we have is still good.
            (Err(trouble), Some(open)) => {
                if self.unusable.as_ref() != Some(&trouble) {
                    tracing::error!(%upstream, code = trouble.code, "{trouble}; going on with what was read before");
                }
                self.unusable = Some(trouble);
                (open.read_at, open.failed) = (tick, false);
                return Ok(open.client.clone());
            }
            (Err(trouble), None) => return Err(trouble),
        };
        self.unusable = None;
        if let Some(open) = &mut self.open {
            if open.digest == tls.digest && !open.failed {
                open.read_at = tick;
                return Ok(open.client.clone());
            }
            if open.digest != tls.digest {
                let until = expiry::day(tls.valid_until);
                tracing::info!(%upstream, until, "the certificates were changed; new connections use the new ones");
            }
        }
        let client = https_client(tls.config, &self.connects)?;
        self.open = Some(Open {
            client: client.clone(),
            valid_until: tls.valid_until,
            digest: tls.digest,
            read_at: tick,
            failed: false,
            answered: false,
        });
        Ok(client)
    }

    /// Two fresh connections in a row that end after the handshake and before any answer: so a server under TLS 1.3
    /// shows that it refuses our certificate, where its alert does not reach us. One may be a server that went away.
    fn judge(&mut self, error: &reqwest::Error) -> LinkFault {
        let answered = self.open.as_mut().is_some_and(|open| {
            open.failed = true;
            std::mem::take(&mut open.answered)
        });
        let fault = fault(error);
        if answered || error.is_connect() || !matches!(fault, LinkFault::Cut(_)) {
            self.cuts = 0;
            return fault;
        }
        self.cuts += 1;
        if self.cuts < 2 {
            return fault;
        }
        LinkFault::Distrust(tls::own_certificate_refused("it cuts each connection before any answer"))
    }
}

impl Link {
    async fn send(
        &mut self,
        client: &reqwest::Client,
        body: Vec<u8>,
        encoding: Encoding,
    ) -> Result<Answer, LinkFault> {
        const FHIR: HeaderValue = HeaderValue::from_static("application/fhir+json");
        const GZIP: HeaderValue = HeaderValue::from_static("gzip");
        let request = client
            .post(&self.url)
            .header(CONTENT_TYPE, FHIR)
            .header(ACCEPT, FHIR)
            .header(HeaderName::from_static("prefer"), HeaderValue::from_static("return=minimal"))
            .body(body);
        let request = match encoding {
            Encoding::Plain => request,
            Encoding::Gzip => request.header(CONTENT_ENCODING, GZIP),
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Err(match self.judge(&error) {
                    LinkFault::Away(why) | LinkFault::Cut(why) if error.is_connect() => {
                        LinkFault::Unreached(why)
                    }
                    fault => fault,
                });
            }
        };
        self.cuts = 0;
        if let Some(open) = &mut self.open {
            open.answered = true;
        }
        read(response).await
    }
}

impl Post for Link {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let client = self.client().map_err(LinkFault::Distrust)?;
        let packed = if self.gzip.is_due(self.clock.tick()) { gzip::pack(&bundle) } else { None };
        let Some(packed) = packed else { return self.send(&client, bundle, Encoding::Plain).await };
        let answer = match self.send(&client, packed, Encoding::Gzip).await {
            Ok(answer) => answer,
            Err(fault) => {
                if matches!(fault, LinkFault::Away(_) | LinkFault::Cut(_)) {
                    self.gzip.unanswered(self.clock.tick());
                }
                return Err(fault);
            }
        };
        match self.gzip.answered(answer.status, self.clock.tick()) {
            Advice::Keep => Ok(answer),
            Advice::SendPlain => {
                let plain = self.send(&client, bundle, Encoding::Plain).await?;
                self.gzip.answered_plain(answer.status, plain.status, self.clock.tick());
                Ok(plain)
            }
        }
    }
}

fn https_client(tls: rustls::ClientConfig, connects: &Connects) -> Result<reqwest::Client, Trouble> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connector_layer(connects.clone())
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIME)
        .timeout(ANSWER_TIME)
        .user_agent(concat!("chairside/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|_| Trouble {
            code: "no_client",
            what: "the HTTPS client cannot be set up".to_owned(),
            remedy: "report this as a fault",
        })
}

async fn read(mut response: reqwest::Response) -> Result<Answer, LinkFault> {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| fault(&error))? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err(LinkFault::Away(Trouble {
                code: "answer_too_long",
                what: "the receiver's answer has no end".to_owned(),
                remedy: "check that `url` is the base of a FHIR R4 server",
            }));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, retry_after, body })
}

fn fault(error: &reqwest::Error) -> LinkFault {
    if error.is_timeout() {
        return LinkFault::Away(Trouble {
            code: "timeout",
            what: "the receiver does not answer in time".to_owned(),
            remedy: "check the network and the receiver's load; everything is kept until it answers",
        });
    }
    tls::explain(error)
}

#[cfg(test)]
mod tests;
