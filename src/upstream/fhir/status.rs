//! What an answer of the server means: one pure table. It keeps codes and drops words, because a server's words may
//! repeat what it was sent.

use super::r4::{BatchResponse, EntryResponse, OperationOutcome};
use crate::model::time::Timestamp;
use crate::spool::Reason;
use crate::upstream::Trouble;
use std::time::Duration;
use uuid::Uuid;

/// A server asks for patience in minutes; more than an hour is a mistake, and we look again by then.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// An answer as it came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// The `Retry-After` header: seconds, or a date.
    pub retry_after: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// One entry of the batch that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The id it was sent under.
    pub id: &'a str,
    /// The resources it refers to.
    pub needs: &'a [Uuid],
}

/// What an answer means for the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The server looked at each entry: exactly one outcome per entry, in order.
    Entries(Vec<Outcome>),
    /// The server cannot take the batch as a whole: halve it; a lone entry is refused for this reason.
    Halve(Reason),
    /// The batch is too large: halve it and remember. A lone entry is refused only where FHIR said so.
    TooLarge {
        /// The reason, where a FHIR server and not a proxy said it.
        lone: Option<Reason>,
    },
    /// A fault of the server; one entry may be what it stumbles over.
    Fault(Trouble),
    /// Not now.
    Wait {
        /// At least this long, where it said so.
        at_least: Option<Duration>,
        /// Why.
        why: Trouble,
    },
    /// Not before a person did something.
    Pause(Trouble),
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, or already there.
    Accepted,
    /// Refused for good.
    Refused(Reason),
    /// Something it refers to is not there: send that again once, then this is what it means.
    Missing(Box<Outcome>),
    /// Unknown or temporary: send it again.
    Again,
    /// Somebody else is writing there: send it again; it is refused if that never ends.
    Conflict(Reason),
    /// The server wants fewer at a time.
    Throttled,
    /// Not before a person did something.
    Pause(Trouble),
}

/// Judges the answer to a batch of these entries.
#[must_use]
pub fn judge(reply: Reply<'_>, asked: &[Asked<'_>], now: Timestamp) -> Judgement {
    let at_least = reply.retry_after.and_then(|text| patience(text, now));
    let wait = |why| Judgement::Wait { at_least, why };
    match reply.status {
        200 | 201 => entries(reply.body, asked, at_least),
        300..400 => Judgement::Pause(Trouble {
            code: "redirect",
            what: format!("the receiver answers {}: go elsewhere", reply.status),
            remedy: "write the address it really has into `url`; redirects are never followed",
        }),
        400 | 422 => refused(reply, at_least),
        401 | 403 => Judgement::Pause(not_admitted(reply.status)),
        404 | 405 | 406 | 410 | 415 | 501 => Judgement::Pause(no_fhir_there(reply.status)),
        408 | 409 | 425 | 429 => wait(busy(reply.status)),
        413 => Judgement::TooLarge { lone: issues(reply.body).map(|issues| issues.reason(413)) },
        402 | 407 | 411 | 412 | 414 | 416..=421 | 423 | 424 | 426..=428 | 430..500 => {
            refused(reply, at_least)
        }
        500 => match at_least {
            Some(_) => wait(busy(reply.status)),
            None => Judgement::Fault(busy(reply.status)),
        },
        // 202 and its like promise nothing, and what is below 100 or above 599 is no HTTP.
        0..300 | 501..=u16::MAX => wait(busy(reply.status)),
    }
}

/// The server did not want the batch. Only FHIR can refuse a resource: a proxy that does not like our certificate
/// answers 400 as well, and nothing may be given up for that.
fn refused(reply: Reply<'_>, at_least: Option<Duration>) -> Judgement {
    let Some(issues) = issues(reply.body) else {
        return Judgement::Pause(Trouble {
            code: "refused_without_fhir",
            what: format!("something answers {} that is no FHIR server", reply.status),
            remedy: "a proxy in front of it may refuse our certificate: have it admitted there, and check `url`",
        });
    };
    match issues.nature() {
        Nature::Temporary => Judgement::Wait { at_least, why: busy(reply.status) },
        Nature::NotAdmitted => Judgement::Pause(not_admitted(reply.status)),
        Nature::Invalid => Judgement::Halve(issues.reason(reply.status)),
    }
}

fn entries(body: &[u8], asked: &[Asked<'_>], at_least: Option<Duration>) -> Judgement {
    let garbled = |what: &str| Judgement::Wait {
        at_least,
        why: Trouble {
            code: "garbled",
            what: what.to_owned(),
            remedy: "check that `url` is the base of a FHIR R4 server that takes batches",
        },
    };
    let Ok(response) = serde_json::from_slice::<BatchResponse>(body) else {
        return garbled("the receiver's answer is no JSON of a Bundle");
    };
    if response.resource_type != "Bundle"
        || !matches!(&*response.of, "batch-response" | "transaction-response")
    {
        return garbled("the receiver's answer is no batch-response");
    }
    if response.entry.len() > asked.len() {
        return garbled("the receiver answers more entries than it was sent");
    }
    let mut answers = response.entry.into_iter();
    let outcomes = asked.iter().map(|asked| match answers.next().and_then(|entry| entry.response) {
        Some(response) => entry(&response, *asked),
        // Fewer answers than entries: nobody knows what became of the rest.
        None => Outcome::Again,
    });
    Judgement::Entries(outcomes.collect())
}

fn entry(response: &EntryResponse, asked: Asked<'_>) -> Outcome {
    let Some(status) = status_code(&response.status) else { return Outcome::Again };
    let issues = response.outcome.as_ref().and_then(Issues::of_value).unwrap_or_default();
    let reason = issues.reason(status);
    match status {
        200 | 201 | 204 | 304 => {
            let ours = response.location.as_ref().is_none_or(|location| location.contains(asked.id));
            if ours { Outcome::Accepted } else { Outcome::Again }
        }
        400 | 422 => match issues.nature() {
            Nature::Temporary => Outcome::Again,
            Nature::NotAdmitted => Outcome::Pause(not_admitted(status)),
            Nature::Invalid if names_one_of(response, asked.needs) => {
                Outcome::Missing(Box::new(Outcome::Refused(reason)))
            }
            Nature::Invalid => Outcome::Refused(reason),
        },
        401 | 403 | 407 => Outcome::Pause(not_admitted(status)),
        404 => Outcome::Missing(Box::new(Outcome::Pause(no_client_ids(status)))),
        410 => Outcome::Missing(Box::new(Outcome::Refused(reason))),
        405 | 406 | 415 | 501 => Outcome::Pause(no_client_ids(status)),
        409 | 412 => Outcome::Conflict(reason),
        429 => Outcome::Throttled,
        402 | 411 | 413 | 414 | 416..=420 | 426..=428 | 430..500 => match issues.nature() {
            Nature::Temporary => Outcome::Again,
            Nature::NotAdmitted => Outcome::Pause(not_admitted(status)),
            Nature::Invalid => Outcome::Refused(reason),
        },
        // 202 is a promise; 408, 5xx, another server (421), a lock (423) and another entry's failure (424) are "try
        // again"; what is below 100 or above 599 is no HTTP.
        0..=199 | 202 | 203 | 205..=303 | 305..400 | 408 | 421 | 423..=425 | 500 | 502..=u16::MAX => {
            Outcome::Again
        }
    }
}

/// `201` or `201 Created`.
fn status_code(text: &str) -> Option<u16> {
    let code = text.split_ascii_whitespace().next()?;
    if code.len() == 3 { code.parse().ok() } else { None }
}

/// Whether the server's words contain the id of something this entry refers to.
fn names_one_of(response: &EntryResponse, needs: &[Uuid]) -> bool {
    fn any_text(value: &serde_json::Value, wanted: &dyn Fn(&str) -> bool) -> bool {
        match value {
            serde_json::Value::String(text) => wanted(text),
            serde_json::Value::Array(all) => all.iter().any(|value| any_text(value, wanted)),
            serde_json::Value::Object(all) => all.values().any(|value| any_text(value, wanted)),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
        }
    }
    let needs: Vec<String> = needs.iter().map(Uuid::to_string).collect();
    let named = |text: &str| needs.iter().any(|id| text.contains(id));
    response.outcome.as_ref().is_some_and(|outcome| any_text(outcome, &named))
}

/// The codes of an OperationOutcome's errors.
#[derive(Debug, Default)]
struct Issues {
    codes: Vec<&'static str>,
}

enum Nature {
    Temporary,
    NotAdmitted,
    Invalid,
}

/// The issues in a body; `None` where it is no OperationOutcome.
fn issues(body: &[u8]) -> Option<Issues> {
    let outcome: OperationOutcome = serde_json::from_slice(body).ok()?;
    Issues::of(&outcome)
}

impl Issues {
    fn of_value(value: &serde_json::Value) -> Option<Self> {
        Self::of(&serde::Deserialize::deserialize(value).ok()?)
    }

    fn of(outcome: &OperationOutcome) -> Option<Self> {
        if outcome.resource_type != "OperationOutcome" {
            return None;
        }
        let errors = outcome.issue.iter().filter(|issue| matches!(&*issue.severity, "fatal" | "error"));
        Some(Self { codes: errors.filter_map(|issue| issue_type(&issue.code)).collect() })
    }

    fn reason(&self, status: u16) -> Reason {
        Reason { status, issue: self.codes.first().copied() }
    }

    fn nature(&self) -> Nature {
        let all = |of: &[&str]| !self.codes.is_empty() && self.codes.iter().all(|code| of.contains(code));
        if all(&["transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"]) {
            Nature::Temporary
        } else if all(&["security", "login", "expired", "forbidden", "suppressed"]) {
            Nature::NotAdmitted
        } else {
            Nature::Invalid
        }
    }
}

/// FHIR's `issue-type` codes; anything else is a server's own word and is dropped.
fn issue_type(code: &str) -> Option<&'static str> {
    const CODES: &[&str] = &[
        "invalid",
        "structure",
        "required",
        "value",
        "invariant",
        "security",
        "login",
        "unknown",
        "expired",
        "forbidden",
        "suppressed",
        "processing",
        "not-supported",
        "duplicate",
        "multiple-matches",
        "not-found",
        "deleted",
        "too-long",
        "code-invalid",
        "extension",
        "too-costly",
        "business-rule",
        "conflict",
        "transient",
        "lock-error",
        "no-store",
        "exception",
        "timeout",
        "incomplete",
        "throttled",
        "informational",
    ];
    CODES.iter().find(|known| **known == code).copied()
}

/// `Retry-After`: seconds, or a date.
fn patience(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(LONGEST_WAIT));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_micros(date.as_microsecond()).since(now).min(LONGEST_WAIT))
}

fn not_admitted(status: u16) -> Trouble {
    Trouble {
        code: "not_admitted",
        what: format!("the receiver answers {status}: it knows us, and we may not write there"),
        remedy: "have our certificate given the right to write the resource types in `resources`",
    }
}

fn no_fhir_there(status: u16) -> Trouble {
    Trouble {
        code: "no_fhir_there",
        what: format!("the receiver answers {status} to a batch"),
        remedy: "check that `url` is the base of a FHIR R4 server that takes batches",
    }
}

fn no_client_ids(status: u16) -> Trouble {
    Trouble {
        code: "no_client_ids",
        what: format!("the receiver answers {status} to a resource written under its own id"),
        remedy: "let it take new resources by PUT (\"update as create\"), and leave types it does not know out of `resources`",
    }
}

fn busy(status: u16) -> Trouble {
    Trouble {
        code: "busy",
        what: format!("the receiver answers {status}"),
        remedy: "nothing to do if it ends; everything is kept until then",
    }
}

#[cfg(test)]
mod tests;
