//! Single values of a configuration: choices, durations, sizes, names, paths, URLs, numbers, sources of keys.

use crate::config::problem::Problem;
use crate::config::raw::{Findings, Item, listed, nearest};
use crate::config::settings::KeySource;
use chairside_drivers::kit::decimal::Decimal;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::de::DeValue;

/// One word out of a few.
pub(super) fn choice<T: Copy>(item: &Item<'_>, words: &[(&str, T)], findings: &mut Findings) -> Option<T> {
    let text = item.text(findings)?;
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        findings.add(not_a_choice(item, text, words.iter().map(|(word, _)| *word)));
    }
    found.map(|(_, meaning)| *meaning)
}

/// That a word is none of a few, with the nearest one.
pub(super) fn not_a_choice<'k>(
    item: &Item<'_>,
    text: &str,
    words: impl Iterator<Item = &'k str> + Clone,
) -> Problem {
    let message = format!("`{}` must be one of {}", item.key(), listed(words.clone()));
    let problem = item.problem(message).label("none of them");
    match nearest(text, words) {
        Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
        None => problem,
    }
}

/// A file name for what clinic IT names: a chair, a machine, an upstream.
pub(super) fn name<T, E: std::fmt::Display>(
    item: &Item<'_>,
    make: impl FnOnce(&str) -> Result<T, E>,
    findings: &mut Findings,
) -> Option<T> {
    let text = item.text(findings)?;
    let made = make(text);
    if let Err(why) = &made {
        findings.add(item.problem(why.to_string()).label("not a name"));
    }
    made.ok()
}

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("day", 86_400_000), ("days", 86_400_000)];

/// A length of time like `"10s"` or `"3 days"`.
pub(super) fn duration(
    item: &Item<'_>,
    range: RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Option<Duration> {
    let hint =
        "a whole number and a unit: \"10s\", \"5min\", \"3 days\"; units: `ms`, `s`, `min`, `h`, `days`";
    let millis = quantity(item, DURATIONS, hint, findings)?;
    let duration = Duration::from_millis(millis);
    if range.contains(&duration) {
        return Some(duration);
    }
    let message = format!("`{}` must be {} to {}", item.key(), spoken(*range.start()), spoken(*range.end()));
    findings.add(item.problem(message).label("out of range"));
    None
}

/// A duration in the largest unit that it is a whole number of.
pub(super) fn spoken(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = DURATIONS
        .iter()
        .filter(|(name, _)| *name != "day")
        .rev()
        .find(|(_, size)| millis.is_multiple_of(*size));
    unit.map_or_else(String::new, |(name, size)| match *name {
        "days" if millis == *size => String::from("1 day"),
        "days" => format!("{} days", millis / size),
        name => format!("{}{name}", millis / size),
    })
}

const SIZES: &[(&str, u64)] = &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A number of bytes like `"16 GiB"`.
pub(super) fn size(item: &Item<'_>, range: RangeInclusive<u64>, findings: &mut Findings) -> Option<u64> {
    let hint = "a whole number and a unit: \"16 GiB\"; units: `KiB`, `MiB`, `GiB`, `TiB`";
    let bytes = quantity(item, SIZES, hint, findings)?;
    if range.contains(&bytes) {
        return Some(bytes);
    }
    let said = |bytes: u64| {
        let unit = SIZES.iter().rev().find(|(_, size)| bytes.is_multiple_of(*size));
        unit.map_or_else(String::new, |(name, size)| format!("{} {name}", bytes / size))
    };
    let message = format!("`{}` must be {} to {}", item.key(), said(*range.start()), said(*range.end()));
    findings.add(item.problem(message).label("out of range"));
    None
}

fn quantity(item: &Item<'_>, units: &[(&str, u64)], hint: &str, findings: &mut Findings) -> Option<u64> {
    let text = match item.value() {
        DeValue::String(text) => text.trim(),
        _ => {
            findings.add(item.problem(format!("`{}` needs a unit, in quotes", item.key())).hint(hint));
            return None;
        }
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let what = match (number, unit) {
            ("", _) => "does not begin with a whole number",
            (_, "") => "has no unit",
            _ => "has a unit that is not known here",
        };
        let problem = item.problem(format!("`{}` {what}", item.key()));
        findings.add(match nearest(unit, units.iter().map(|(name, _)| *name)) {
            Some(near) if !number.is_empty() => {
                problem.hint(format!("did you mean \"{number} {near}\"? {hint}"))
            }
            _ => problem.hint(hint),
        });
        return None;
    };
    let product = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    if product.is_none() {
        let what = if number.is_empty() { "does not begin with a whole number" } else { "is too large" };
        findings.add(item.problem(format!("`{}` {what}", item.key())).hint(hint));
    }
    product
}

/// An exact number, written as a whole number or with a decimal point.
pub(super) fn number(item: &Item<'_>, findings: &mut Findings) -> Option<Decimal> {
    let digits = match item.value() {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
        DeValue::Float(float) => float.as_str(),
        _ => "",
    };
    let number = Decimal::parse(digits.as_bytes()).ok();
    if number.is_none() {
        let problem = item.problem(format!("`{}` needs plain decimal numbers", item.key()));
        findings.add(problem.hint("like 8, -400 or 36.5"));
    }
    number
}

/// A path; a relative one starts at the folder of the configuration file.
pub(super) fn path(item: &Item<'_>, folder: &Path, findings: &mut Findings) -> Option<PathBuf> {
    let text = item.text(findings)?;
    if text.is_empty() || text.contains('\0') {
        findings.add(item.problem(format!("`{}` is no path", item.key())));
        return None;
    }
    Some(clean(&folder.join(text)))
}

/// The path without `.` and doubled slashes, so that two ways of writing one path compare as equal.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// What a URL is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlUse {
    /// Data is sent there.
    Upstream,
    /// A name for our own codes; nothing is ever sent there.
    Namespace,
}

/// A URL without trailing slash.
pub(super) fn url(item: &Item<'_>, purpose: UrlUse, findings: &mut Findings) -> Option<String> {
    let text = item.text(findings)?;
    let example = match purpose {
        UrlUse::Upstream => "like \"https://ehr.clinic.example/fhir\"",
        UrlUse::Namespace => {
            "like \"https://clinic.example/chairside\": a name for your own codes, nothing is sent there"
        }
    };
    let Ok(parsed) = reqwest::Url::parse(text) else {
        findings.add(item.problem(format!("`{}` is no URL", item.key())).hint(example));
        return None;
    };
    let mut problem = None;
    if parsed.scheme() == "http" && purpose == UrlUse::Upstream {
        let hint = "write https:// - readings of patients are never sent in the clear, and there is no switch for it";
        problem =
            Some(item.problem(format!("`{}` is plain http", item.key())).label("not encrypted").hint(hint));
    } else if !matches!(parsed.scheme(), "https" | "http") {
        problem = Some(item.problem(format!("`{}` must begin with https://", item.key())).hint(example));
    } else if !parsed.username().is_empty() || parsed.password().is_some() {
        let hint =
            "the gateway shows its certificate instead; take user and password out, and change that password";
        problem = Some(item.problem(format!("`{}` carries a password", item.key())).hint(hint));
    } else if parsed.query().is_some() || parsed.fragment().is_some() {
        problem = Some(
            item.problem(format!("`{}` is a base: it ends before any `?` or `#`", item.key())).hint(example),
        );
    } else if text.contains(char::is_whitespace) {
        problem = Some(item.problem(format!("`{}` has a space in it", item.key())).hint(example));
    }
    match problem {
        Some(problem) => {
            findings.add(problem);
            None
        }
        None => Some(parsed.as_str().trim_end_matches('/').to_owned()),
    }
}

/// Whether the file of a key may be made at the first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Creation {
    /// The root key may.
    Allowed,
    /// Another party must know this key's other half, so making one helps nobody.
    Refused,
}

/// Where a key comes from: `{ credential = "name" }` or `{ file = "path" }`.
pub(super) fn key_source(
    item: &Item<'_>,
    folder: &Path,
    creation: Creation,
    findings: &mut Findings,
) -> Option<KeySource> {
    let shape = match creation {
        Creation::Allowed => "write { credential = \"name\" }, or { file = \"path\", created = true }",
        Creation::Refused => "write { credential = \"name\" }, or { file = \"path\" }",
    };
    if !item.value().is_table() {
        findings.add(
            item.problem(format!("`{}` says where the key is, never the key itself", item.key())).hint(shape),
        );
        return None;
    }
    let mut table = item.table(findings)?;
    let credential = table.take("credential");
    let file = table.take("file");
    let created = table.take("created");
    table.finish(findings);
    let wanted = created.as_ref().map(|item| item.switch(findings));
    if let Some(created) = created.as_ref().filter(|_| creation == Creation::Refused) {
        let problem = Problem::new(created.key_place(), "only the root key can be created by the gateway");
        findings.add(problem.hint("ask whoever runs the receiver for a certificate and its key"));
        return None;
    }
    match (credential, file) {
        (Some(_), Some(file)) => {
            let problem = Problem::new(file.key_place(), format!("`{}` has two sources", item.key()));
            findings.add(problem.hint("keep either `credential` or `file`"));
            None
        }
        (None, None) => {
            findings.add(item.problem(format!("`{}` has no source", item.key())).hint(shape));
            None
        }
        (Some(credential), None) => {
            if let Some(created) = &created {
                let problem =
                    Problem::new(created.key_place(), "systemd makes credentials, the gateway does not");
                findings.add(problem.hint("take `created` out, or use { file = \"path\", created = true }"));
            }
            let name = name(&credential, crate::model::name::UpstreamName::new, findings)?;
            Some(KeySource::Credential(name.as_str().to_owned()))
        }
        (None, Some(file)) => {
            let path = path(&file, folder, findings)?;
            let created = match wanted {
                Some(wanted) => wanted?,
                None => false,
            };
            Some(KeySource::File { path, created })
        }
    }
}
