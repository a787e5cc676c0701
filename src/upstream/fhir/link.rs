//! The connection to one FHIR server: mutual TLS by `reqwest`, answers of bounded size, no redirect, no proxy.

use super::status::Reply;
use crate::clock::Clock;
use crate::config::settings::UpstreamSettings;
use crate::model::time::Timestamp;
use crate::upstream::Trouble;
use crate::upstream::tls::{self, LinkFault};
use chairside_drivers::kit::time::Tick;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A server may take its time over a hundred resources; without an answer by then, what it did is unknown.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// A renewed certificate is taken up within this time, without a restart.
const REREAD_FILES: Duration = Duration::from_secs(3600);
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
    /// Fresh connections in a row that were cut before any answer.
    cuts: u32,
}

#[derive(Clone, Debug)]
struct Open {
    client: reqwest::Client,
    valid_until: Timestamp,
    read_at: Tick,
    /// Whether the server has ever answered through it.
    answered: bool,
}

impl Link {
    pub(super) fn new(settings: UpstreamSettings, url: String, clock: Arc<dyn Clock>) -> Self {
        Self { settings, url, clock, open: None, cuts: 0 }
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
            && tick.since(open.read_at) < REREAD_FILES
        {
            return Ok(open.client.clone());
        }
        let tls = match (tls::client(&self.settings, &self.clock), &mut self.open) {
            (Ok(tls), _) => tls,
            // Somebody may be in the middle of renewing the files; what we have is still good.
            (Err(trouble), Some(open)) => {
                let upstream = &self.settings.name;
                tracing::warn!(%upstream, code = trouble.code, "{trouble}; going on with what was read before");
                open.read_at = tick;
                return Ok(open.client.clone());
            }
            (Err(trouble), None) => return Err(trouble),
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.config)
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
            })?;
        self.open = Some(Open {
            client: client.clone(),
            valid_until: tls.valid_until,
            read_at: tick,
            answered: false,
        });
        Ok(client)
    }

    /// Two fresh connections in a row that end after the handshake and before any answer: so a server under TLS 1.3
    /// shows that it refuses our certificate, where its alert does not reach us. One may be a server that went away.
    fn judge(&mut self, error: &reqwest::Error) -> LinkFault {
        // The next try starts from the files: whatever was wrong may have been put right by then.
        let answered = self.open.take().is_some_and(|open| open.answered);
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

impl Post for Link {
    async fn post(&mut self, bundle: Vec<u8>) -> Result<Answer, LinkFault> {
        let client = self.client().map_err(LinkFault::Distrust)?;
        const FHIR: HeaderValue = HeaderValue::from_static("application/fhir+json");
        let request = client
            .post(&self.url)
            .header(CONTENT_TYPE, FHIR)
            .header(ACCEPT, FHIR)
            .header(HeaderName::from_static("prefer"), HeaderValue::from_static("return=minimal"))
            .body(bundle);
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
