//! `chairside spool dead-letters` and `replay`: what upstreams refused, and sending it again.

use super::progress::Progress;
use super::source::{Need, Source, now};
use super::{Asked, Trouble, spaced, time};
use crate::cli::Exit;
use crate::control::spool::{Ask, Letter, Reason, Told, Wish};
use crate::model::time::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Letters printed unless all are asked for.
const SHOWN: usize = 20;

/// Numbers named in one question.
const NAMED: usize = 100;

/// Which letters are meant.
#[derive(Debug, clap::Args)]
pub(super) struct Meant {
    /// Refused by this upstream.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// About records of this chair.
    #[arg(long, value_name = "NAME")]
    chair: Option<String>,
    /// About the record of this number; can be given more than once.
    #[arg(long = "sequence", value_name = "NUMBER", num_args = 1..)]
    sequences: Vec<u64>,
    /// Refused more than this many days ago.
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u32>,
}

/// Arguments of `dead-letters`.
#[derive(Debug, clap::Args)]
pub(super) struct LettersArgs {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    meant: Meant,
    /// List every one of them; with --discard, mean every one.
    #[arg(long)]
    all: bool,
    /// Throw the letters away that are meant: nobody can send them again. Needs a choice, or --all.
    #[arg(long)]
    discard: bool,
}

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    meant: Meant,
}

pub(super) fn letters(args: &LettersArgs) -> super::Told {
    if args.discard && !args.all && args.meant.is_any() {
        return Err((
            "say which letters to throw away: --upstream, --chair, --sequence, --older-than, or --all of them".to_owned(),
            Exit::Usage,
        ));
    }
    let need = if args.discard { Need::Change } else { Need::Records };
    let mut source = Source::find(&args.asked.config, need)?;
    let told = if args.discard {
        discard(&mut source, &args.meant, args.asked.json)
    } else {
        list(&mut source, args)
    };
    source.finish()?;
    told
}

pub(super) fn replay(args: &ReplayArgs) -> super::Told {
    let mut source = Source::find(&args.asked.config, Need::Change)?;
    let told = send_again(&mut source, &args.meant, args.asked.json);
    source.finish()?;
    told
}

impl Meant {
    const fn is_any(&self) -> bool {
        self.upstream.is_none()
            && self.chair.is_none()
            && self.sequences.is_empty()
            && self.older_than.is_none()
    }

    /// One question for each hundred numbers.
    fn wishes(&self, now: Timestamp) -> Vec<Wish> {
        let before = self.older_than.map(|days| {
            let span = i64::from(days).saturating_mul(24 * 60 * 60 * 1_000_000);
            Timestamp::from_micros(now.as_micros().saturating_sub(span)).into()
        });
        let (upstream, chair) = (self.upstream.clone(), self.chair.clone());
        let wish = |sequences: &[u64]| Wish {
            upstream: upstream.clone(),
            chair: chair.clone(),
            sequences: sequences.to_vec(),
            before,
            after: None,
        };
        match self.sequences.as_slice() {
            [] => vec![wish(&[])],
            named => named.chunks(NAMED).map(wish).collect(),
        }
    }
}

/// Asks page after page.
fn all_pages(
    source: &mut Source,
    meant: &Meant,
    ask: fn(Wish) -> Ask,
    mut take: impl FnMut(Told) -> Option<(String, u64)>,
) -> Result<(), Trouble> {
    let wishes = meant.wishes(now(Path::new("")));
    let (progress, all) = (Progress::new("questions"), wishes.len() as u64);
    for (done, mut wish) in wishes.into_iter().enumerate() {
        progress.set(done as u64, all);
        while let Some(told) = source.ask(&ask(wish.clone()))? {
            wish.after = take(told);
            if wish.after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

fn list(source: &mut Source, args: &LettersArgs) -> super::Told {
    let (mut found, mut unreadable) = (Vec::new(), 0);
    all_pages(source, &args.meant, Ask::Letters, |told| {
        let Told::Letters { letters, damaged, next } = told else { return None };
        found.extend(letters);
        unreadable = damaged;
        next
    })?;
    if args.asked.json {
        let text = super::json(&json!({ "count": found.len(), "damaged": unreadable, "letters": found }));
        return Ok((text, Exit::Ok));
    }
    Ok((text(&found, unreadable, args.all), Exit::Ok))
}

fn text(letters: &[Letter], damaged: u64, all: bool) -> String {
    let mut text = String::new();
    if damaged > 0 {
        let _ = writeln!(text, "! {damaged} places in the files of dead letters cannot be read");
    }
    if letters.is_empty() {
        text.push_str("no dead letters\n");
        return text;
    }
    let _ = writeln!(text, "{} dead letters", spaced(letters.len() as u64));
    let mut groups: BTreeMap<(&str, &str, String), u64> = BTreeMap::new();
    for letter in letters {
        *groups.entry((&letter.upstream, &letter.state, why(letter))).or_default() += 1;
    }
    for ((upstream, state, why), count) in &groups {
        let state = state_of(state);
        let _ = writeln!(text, "  {upstream}: {} {state}, {why}", spaced(*count));
    }
    let mut newest: Vec<&Letter> = letters.iter().collect();
    newest.sort_by_key(|letter| (letter.refused, letter.sequence));
    let hidden = if all { 0 } else { newest.len().saturating_sub(SHOWN) };
    text.push('\n');
    if hidden > 0 {
        let _ = writeln!(text, "The newest {SHOWN}; --all shows every one:");
    }
    for letter in newest.into_iter().skip(hidden) {
        let captured = letter
            .captured
            .map_or_else(|| "content erased".to_owned(), |at| format!("captured {}", time(at)));
        let _ = writeln!(
            text,
            "  {}  number {}  {}  {}  {captured}  refused {}  {}",
            letter.upstream,
            spaced(letter.sequence),
            letter.chair.as_deref().unwrap_or("-"),
            letter.kind.as_deref().unwrap_or(&letter.content),
            time(letter.refused),
            why(letter)
        );
    }
    text.push_str("\nWhen the receiver takes what it refused: chairside spool replay\n");
    text
}

fn state_of(state: &str) -> &str {
    match state {
        "refused" => "refused",
        "waiting" | "held" => "waiting to be sent again",
        _ => "of an upstream that is not in the configuration any more",
    }
}

/// `422 value: the whole record` or `422 value: 2 of its parts`.
fn why(letter: &Letter) -> String {
    if letter.reasons.is_empty() {
        return "found on another disk".to_owned();
    }
    let codes: BTreeMap<String, ()> = letter.reasons.iter().map(|reason| (code(reason), ())).collect();
    let codes = codes.into_keys().collect::<Vec<_>>().join(" and ");
    match letter.reasons.iter().any(|reason| reason.part.is_none()) {
        true => format!("{codes}: the whole record"),
        false => format!("{codes}: {} of its parts", letter.parts_refused),
    }
}

fn code(reason: &Reason) -> String {
    reason
        .issue
        .as_ref()
        .map_or_else(|| reason.status.to_string(), |issue| format!("{} {issue}", reason.status))
}

/// Adds up what was done.
fn counted(
    source: &mut Source,
    meant: &Meant,
    ask: fn(Wish) -> Ask,
) -> Result<BTreeMap<String, u64>, Trouble> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    all_pages(source, meant, ask, |told| {
        let Told::Counted { counts, next } = told else { return None };
        counts.into_iter().for_each(|(word, count)| *all.entry(word).or_default() += count);
        next
    })?;
    Ok(all)
}

fn send_again(source: &mut Source, meant: &Meant, json: bool) -> super::Told {
    let running = matches!(source, Source::Running { .. });
    let counts = counted(source, meant, Ask::Replay)?;
    let put_back = counts.get("put_back").copied().unwrap_or(0);
    let exit = if put_back == 0 { Exit::No } else { Exit::Ok };
    if json {
        return Ok((super::json(&counts), exit));
    }
    let of = |word: &str| counts.get(word).copied().unwrap_or(0);
    let mut text = match (of("put_back"), running) {
        (0, _) => "no record was put back to be sent\n".to_owned(),
        (count, true) => format!("{} records are being sent again\n", spaced(count)),
        (count, false) => format!("{} records will be sent again when the gateway runs\n", spaced(count)),
    };
    for (word, sentence) in [
        ("waiting_already", "were waiting to be sent already"),
        ("upstream_gone", "are of an upstream that is not in the configuration any more"),
        ("erased", "cannot be sent: their key was destroyed"),
        ("lost", "cannot be sent: what is there cannot be proved to be them"),
    ] {
        if of(word) > 0 {
            let _ = writeln!(text, "  {} {sentence}", spaced(of(word)));
        }
    }
    if of("put_back") > 0 {
        text.push_str("  `chairside spool dead-letters` shows what is refused again\n");
    }
    Ok((text, exit))
}

fn discard(source: &mut Source, meant: &Meant, json: bool) -> super::Told {
    let counts = counted(source, meant, Ask::Discard)?;
    if json {
        return Ok((super::json(&counts), Exit::Ok));
    }
    let of = |word: &str| counts.get(word).copied().unwrap_or(0);
    let mut text = format!("{} dead letters were thrown away\n", spaced(of("thrown_away")));
    if of("kept_waiting") > 0 {
        let _ =
            writeln!(text, "  {} were kept: their records wait to be sent again", spaced(of("kept_waiting")));
    }
    Ok((text, Exit::Ok))
}
