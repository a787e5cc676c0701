//! `chairside spool status`: what the spool holds.

use super::source::{Need, Source};
use super::{Asked, Told, spaced, time};
use crate::cli::Exit;
use crate::control::spool::{Ask, Holdings, Incomplete};
use std::fmt::Write as _;

pub(super) fn show(asked: &Asked) -> Told {
    let mut source = Source::find(&asked.config, Need::Numbers)?;
    let running = matches!(source, Source::Running { .. });
    let holdings = match source.ask(&Ask::Status)? {
        Some(crate::control::spool::Told::Status(holdings)) => holdings,
        Some(_) | None => Holdings::default(),
    };
    if asked.json {
        return Ok((super::json(&holdings), Exit::Ok));
    }
    Ok((text(&holdings, running), Exit::Ok))
}

fn text(holdings: &Holdings, running: bool) -> String {
    let Holdings { last, records, bytes, max_bytes, percent, level, volumes, set_aside, upstreams, at_least } =
        holdings;
    let mut text = format!(
        "{} records in {volumes} volumes; the last one is number {}{}\n",
        spaced(*records),
        spaced(*last),
        if running { "" } else { " (the gateway is stopped)" }
    );
    let _ = writeln!(
        text,
        "  {} MB of {} MB, {percent} % full, level {level}",
        spaced(bytes.div_ceil(1_000_000)),
        spaced(max_bytes / 1_000_000)
    );
    if *at_least {
        text.push_str(
            "! at least: the gateway was cut off, and without its keyring what it wrote last cannot be counted\n",
        );
    }
    for Incomplete { volume, expected, found } in set_aside {
        let _ = writeln!(text, "! {volume} is incomplete and was set aside: {found} of {expected} records");
    }
    for outbox in upstreams {
        let _ = writeln!(
            text,
            "  {}: {} delivered, {} not wanted, {} held, {} waiting, {} refused, {} evicted, {} lost, {} erased",
            outbox.name,
            spaced(outbox.delivered),
            spaced(outbox.skipped),
            spaced(outbox.held),
            spaced(outbox.waiting),
            spaced(outbox.refused),
            spaced(outbox.evicted),
            spaced(outbox.lost),
            spaced(outbox.erased)
        );
        let _ = writeln!(
            text,
            "    single resources: {} taken, {} refused{}",
            spaced(outbox.parts_delivered),
            spaced(outbox.parts_refused),
            outbox
                .oldest_waiting
                .map_or_else(String::new, |at| format!("; the oldest waiting is of {}", time(at)))
        );
    }
    text
}
