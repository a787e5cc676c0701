//! The rehearsal: the acts of an outage in their order, in a folder that is thrown away, beside a spool that is not touched.

mod stage;

pub use stage::sweep;

use crate::config::settings::{
    Compress, Environment, FhirSettings, KeySource, MinTls, ResourceKind, Settings, UpstreamKind,
    UpstreamSettings,
};
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::Pseudonymiser;
use crate::sim::outage::oracle::Oracle;
use crate::sim::outage::rate::taken;
use crate::sim::outage::rehearsal::stage::Stage;
use crate::sim::outage::report::{
    Autonomy, Certificate, Drain, PlayedReport, PowerCut, Pressure, Records, Report,
};
use crate::sim::outage::shadow::{Cast, Cut, Shadow};
use crate::sim::outage::tally::{Counter, Tally};
use crate::sim::outage::ward::FastWard;
use crate::sim::outage::{Plan, Progress, RehearsalError};
use crate::sim::pki::{Authority, Files, Role, Validity};
use crate::spool::handle::{self, SpoolHandle, Urgency};
use crate::spool::space::Level;
use crate::spool::{Counts, Spool as _};
use crate::upstream::fhir::client::FhirUpstream;
use crate::upstream::forward::{self, Condition};
use chairside_drivers::kit::time::Tick;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// The longest commit interval of the gateway.
const COMMIT: Duration = Duration::from_secs(1);
/// The spool that is to become full may take this much.
const SMALL: u64 = 24 << 20;
/// Ward time that is played into it at least, before it counts as a spool that never becomes full.
const FULL_AFTER: Duration = Duration::from_secs(400 * 3600);
/// Far less than any record takes on disk.
const LEAST: f64 = 100.0;
/// Nothing delivered for this long: something is wrong. Longer than the longest wait of a forwarder.
const PATIENCE: Duration = Duration::from_secs(330);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Commits between two looks while an outage is played.
const CHUNK: u32 = 64;

/// Rehearses an outage, until `stop` completes.
///
/// # Errors
/// [`RehearsalError`]; whatever happens, the folder is removed again.
pub async fn rehearse(
    settings: &Settings,
    plan: &Plan,
    look: &mut (dyn FnMut(&Progress) + Send),
    stop: impl Future<Output = ()>,
) -> Result<Report, RehearsalError> {
    let stage = Stage::set(settings, plan)?;
    // Wherever the acts are dropped: what still runs of them is waited for before the folder goes.
    let ended = tokio::select! {
        ended = acts(&stage, plan, look) => ended,
        () = stop => Err(RehearsalError::Interrupted),
    };
    if let Err(stays) = stage.clear().await {
        // What is left takes room from the live spool, so that is what to hear of.
        if let Err(ended) = ended {
            tracing::error!(error = crate::telemetry::chain(&ended), "the rehearsal ended early");
        }
        return Err(stays);
    }
    ended
}

async fn acts(
    stage: &Stage,
    plan: &Plan,
    look: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Report, RehearsalError> {
    let mut complaints = Vec::new();
    let (shadow, cut, played) = play_outage(stage, plan, look).await?;
    let drained = drain(stage, shadow, plan, &mut complaints, look).await?;
    let pressure = press(stage, look).await?;
    if cut.lost != 0 && cut.told == 0 {
        complaints.push(format!("{} records were lost in the power cut and nobody was told", cut.lost));
    }
    if cut.durable.0 != cut.durable.1 {
        complaints.push(format!(
            "the power cut took records that were durable: {} of {}",
            cut.durable.1, cut.durable.0
        ));
    }
    drained.judge(&mut complaints);
    pressure.judge(&mut complaints);
    let hour = played.bytes_per_hour.max(stage.rate.bytes.unwrap_or(0.0));
    Ok(Report {
        holds: complaints.is_empty(),
        simulated: true,
        hours: plan.hours,
        rate: stage.rate,
        played,
        autonomy: Autonomy {
            room_bytes: stage.room,
            days: if hour > 0.0 { stage.room as f64 / hour / 24.0 } else { 0.0 },
        },
        power_cut: PowerCut {
            records_lost: cut.lost,
            slots_told: cut.told,
            restart_seconds: cut.restart.as_secs_f64(),
        },
        certificate: drained.certificate,
        drain: drained.drain,
        pressure,
        records: drained.records,
        complaints,
    })
}

fn name_of_receiver() -> Result<UpstreamName, RehearsalError> {
    UpstreamName::new("rehearsal").map_err(|_| RehearsalError::Name)
}

/// What a power cut cost, and how long the way back took.
struct Cost {
    lost: u64,
    told: u64,
    durable: (u64, u64),
    restart: Duration,
}

/// Plays the outage, with a power cut in its middle.
async fn play_outage(
    stage: &Stage,
    plan: &Plan,
    look: &mut (dyn FnMut(&Progress) + Send),
) -> Result<(Shadow, Cost, PlayedReport), RehearsalError> {
    // What the live spool may take in all, less what it has: the shadow finds the disk as an outage would.
    let max_bytes = (stage.room as f64 / 0.95) as u64;
    let cast = stage.cast("outage", plan, max_bytes)?;
    let home = cast.home.clone();
    let begun = stage.clock.tick();
    let mut shadow = stage.work.blocking(move || Shadow::new(cast)).await?;
    let half = plan.length() / 2;
    // What a spool takes once, whatever comes: its first records bring files and segments that later ones share.
    let first = shadow.cast.commit.min(half);
    shadow = play(stage, shadow, first, plan, look).await?;
    let once = taken(&home.join("spool"));
    shadow = play(stage, shadow, half, plan, look).await?;
    let before = stage.clock.tick();
    let (back, cut) = stage.work.blocking(move || shadow.lose_power()).await?;
    let restart = stage.clock.tick().since(before);
    let Cut { lost, told, durable } = cut;
    shadow = play(stage, back, plan.length(), plan, look).await?;
    let status = shadow.spool.status();
    let (played, on_disk) = (shadow.ward.played(), taken(&home.join("spool")));
    let over = (plan.length() - first).as_secs_f64() / 3600.0;
    let report = PlayedReport {
        seconds: stage.seconds_since(begun),
        commit_seconds: shadow.cast.commit.as_secs_f64(),
        polls: played.answered,
        values: played.values,
        records: status.last,
        bytes: on_disk,
        bytes_per_hour: on_disk.saturating_sub(once) as f64 / over.max(f64::MIN_POSITIVE),
    };
    Ok((shadow, Cost { lost, told, durable, restart }, report))
}

/// Plays on until so much ward time has passed, no faster than `speed` allows.
async fn play(
    stage: &Stage,
    mut shadow: Shadow,
    until: Duration,
    plan: &Plan,
    look: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Shadow, RehearsalError> {
    let (begun, from) = (stage.clock.tick(), shadow.passed);
    while shadow.passed < until {
        stage.look_at_live_spool()?;
        let next = (shadow.passed + shadow.cast.commit * CHUNK).min(until);
        shadow = stage.work.blocking(move || shadow.play(next).map(|()| shadow)).await?;
        let (done, of) = (shadow.passed.as_secs(), plan.length().as_secs());
        look(&Progress { act: "playing the outage", done, of });
        let Some(speed) = plan.speed else { continue };
        let due = (shadow.passed - from).div_f64(speed.max(f64::MIN_POSITIVE));
        let early = due.saturating_sub(stage.clock.tick().since(begun));
        // Waiting is the only thing that can be dropped here; the folder goes with the rest.
        tokio::time::sleep(early).await;
    }
    Ok(shadow)
}

/// What the drain showed.
struct Drained {
    drain: Drain,
    certificate: Certificate,
    records: Records,
    once: bool,
}

impl Drained {
    fn judge(&self, complaints: &mut Vec<String>) {
        let Records {
            total,
            delivered,
            skipped,
            held,
            waiting,
            refused,
            evicted,
            lost,
            erased,
            not_taken,
            ..
        } = self.records;
        let sum = delivered + skipped + held + waiting + refused + evicted + lost + erased;
        if sum != total {
            complaints.push(format!("{sum} records are accounted for, and {total} are in the spool"));
        }
        for (count, word) in [
            (waiting, "not delivered"),
            (held, "held"),
            (refused, "refused"),
            (lost, "lost"),
            (erased, "erased"),
        ] {
            if count > 0 {
                complaints.push(format!("{count} records were {word}"));
            }
        }
        for (count, word) in [(evicted, "had to go to make room"), (not_taken, "were not taken")] {
            if count > 0 {
                complaints.push(format!("{count} records {word}: the outage is longer than the spool lasts"));
            }
        }
        if self.records.readings_doubled > 0 {
            complaints.push(format!("{} readings came under two ids", self.records.readings_doubled));
        }
        if !self.once {
            let Records { readings_expected, readings_received, .. } = self.records;
            complaints.push(format!(
                "the receiver has {readings_received} readings where {readings_expected} were played, or others than those"
            ));
        }
    }
}

/// The network comes back: the forwarder meets its own expired certificate, then a renewed one, and drains the spool while
/// the ward goes on.
async fn drain(
    stage: &Stage,
    shadow: Shadow,
    plan: &Plan,
    complaints: &mut Vec<String>,
    look: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Drained, RehearsalError> {
    let tls = stage.folder.path().join("tls");
    std::fs::create_dir(&tls).map_err(|cause| RehearsalError::Folder { path: tls.clone(), cause })?;
    let now = stage.clock.now().0;
    let authority = Authority::new("throw-away authority", now)?;
    let ca = tls.join("ca.pem");
    authority.write(&ca)?;
    let own = authority.issue(&tls, "receiver", Role::Server, Validity::Current)?;
    let expired = authority.issue(&tls, "gateway", Role::Client, Validity::Expired)?;
    let renewed = authority.issue(&tls, "renewed", Role::Client, Validity::Current)?;
    let Shadow { cast, mut ward, keyring, mut spool, oracle, passed, refused: not_taken, .. } = shadow;
    let closest = cast.chairs.iter().map(|chair| chair.every).min().unwrap_or(COMMIT);
    let closest = closest.mul_f64(cast.slowdown);
    let ward_now = cast.start.after(passed);
    let tally = Tally::new(cast.start, closest, now);
    let receiver = Counter::start(&own, &ca, tally, Arc::clone(&stage.clock)).await?;
    let backlog = spool.status().last;
    let upstream = upstream(&cast, stage, &receiver.url(), &ca, &expired);
    let (spool, thread) = handle::start(spool).map_err(RehearsalError::Thread)?;
    stage.work.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    let UpstreamKind::Fhir(fhir) = &upstream.kind;
    let identities = Arc::new(Pseudonymiser::new(Arc::clone(&keyring)));
    let client = FhirUpstream::new(&stage.gateway, &upstream, fhir, identities, Arc::clone(&stage.clock));
    let (state, mut seen) = watch::channel(forward::State::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    let forwarder =
        tokio::spawn(forward::forward(client, spool.clone(), Arc::clone(&stage.clock), state, stopped));
    // A forwarder that outlives this call would keep the spool's thread from its end.
    let _guard = AbortOnDrop(forwarder.abort_handle());

    look(&Progress { act: "waiting for the certificate to be found expired", done: 0, of: 1 });
    let told_as = paused(&mut seen).await?;
    let begun = stage.clock.tick();
    replace(&renewed, &expired)?;
    look(&Progress { act: "certificate renewed; an upstream looks again once a minute", done: 0, of: 1 });
    let is_taking = |state: &forward::State| state.delivered > 0;
    let taking = tokio::time::timeout(PATIENCE, seen.wait_for(is_taking)).await;
    taking
        .map_err(|_| RehearsalError::Stalled { delivered: 0, of: backlog })?
        .map_err(|_| RehearsalError::Ended)?;
    let certificate = Certificate { told_as, resumed_after_seconds: stage.seconds_since(begun) };

    // From here on the ward goes on in real time, beside the drain.
    let (began, live_from) = (stage.clock.tick(), stage.clock.now().0);
    receiver.tally().begin_live(live_from, live_from.since(ward_now));
    let ward_tick = |at: Timestamp| Tick::ZERO.after(at.since(cast.start));
    ward.skip_until(ward_tick(live_from));
    let mut live = Live { ward, oracle: Oracle::new(cast.send, cast.unseated) };
    let (mut last, mut progress) = (0, began);
    let drained_in = loop {
        tokio::time::sleep(LOOK).await;
        stage.look_at_live_spool()?;
        live.go_on(&spool, ward_tick(stage.clock.now().0)).await?;
        let counts = counts(&spool, &cast.upstream).await?;
        let done = backlog.saturating_sub(counts.waiting.min(backlog));
        look(&Progress { act: "draining", done, of: backlog });
        // The age of a record that cannot be read is not known, and it waits all the same.
        let is_live = counts.oldest_waiting.is_some_and(|oldest| oldest >= live_from);
        if counts.waiting == 0 || is_live {
            break stage.clock.tick().since(began);
        }
        if counts.delivered + counts.skipped > last {
            (last, progress) = (counts.delivered + counts.skipped, stage.clock.tick());
        }
        if stage.clock.tick().since(progress) > PATIENCE {
            return Err(RehearsalError::Stalled { delivered: last, of: backlog });
        }
    };
    // The last live records.
    for _ in 0..240 {
        if counts(&spool, &cast.upstream).await?.waiting == 0 {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = stop.send(());
    let _ = forwarder.await;
    let status = spool.status().await?;
    let counts = status.upstreams.iter().find(|(name, _)| *name == cast.upstream).map(|(_, counts)| *counts);
    let counts = counts.unwrap_or_default();
    spool.close().await?;
    let tally = receiver.tally();
    let expected = oracle.readings().with(live.oracle.readings());
    let received = tally.backlog().with(tally.live());
    // What was evicted cannot come; it is told by tombstones instead.
    let once = counts.evicted > 0 || (received == expected && tally.counts().strange == 0);
    if counts.parts_refused > 0 {
        complaints.push(format!("{} resources were refused", counts.parts_refused));
    }
    let seconds = drained_in.as_secs_f64().max(f64::MIN_POSITIVE);
    let drain = Drain {
        seconds,
        records_per_second: backlog as f64 / seconds,
        times_nominal: plan.length().as_secs_f64() / seconds,
        worst_age_hours: tally.worst_age().as_secs_f64() / 3600.0,
        live_p95_ms: tally.live_age(95),
        live_readings: tally.live().count,
    };
    let records = Records {
        total: counts.records(),
        delivered: counts.delivered,
        skipped: counts.skipped,
        held: counts.held,
        waiting: counts.waiting,
        refused: counts.refused,
        evicted: counts.evicted,
        lost: counts.lost,
        erased: counts.erased,
        not_taken,
        readings_expected: expected.count,
        readings_received: received.count,
        readings_doubled: tally.counts().doubled,
        written_again: tally.counts().repeated,
    };
    drop(tally);
    std::fs::remove_dir_all(&cast.home)
        .map_err(|cause| RehearsalError::Folder { path: cast.home.clone(), cause })?;
    Ok(Drained { drain, certificate, records, once })
}

/// The ward beside the drain, at its own pace.
struct Live {
    ward: FastWard,
    oracle: Oracle,
}

impl Live {
    async fn go_on(&mut self, spool: &SpoolHandle, until: Tick) -> Result<(), RehearsalError> {
        let mut records = Vec::new();
        self.ward.play_until(until, &mut records)?;
        if records.is_empty() {
            return Ok(());
        }
        records.iter().for_each(|record| self.oracle.expect(record));
        spool.append(records, Urgency::Routine).await?;
        Ok(())
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn upstream(cast: &Cast, stage: &Stage, url: &str, ca: &Path, own: &Files) -> UpstreamSettings {
    UpstreamSettings {
        name: cast.upstream.clone(),
        kind: UpstreamKind::Fhir(FhirSettings {
            url: url.to_owned(),
            subject: stage.subject,
            resources: vec![
                ResourceKind::Observation,
                ResourceKind::Device,
                ResourceKind::DeviceMetric,
                ResourceKind::Procedure,
            ],
            environment: Environment::Test,
            compress: Compress::Auto,
        }),
        ca: ca.to_owned(),
        certificate: own.certificate.clone(),
        key: KeySource::File { path: own.key.clone(), created: false },
        min_tls: MinTls::V1_3,
        send: cast.send,
    }
}

/// Waits until the forwarder says that a person is needed, and returns its word for why.
async fn paused(seen: &mut watch::Receiver<forward::State>) -> Result<String, RehearsalError> {
    let is_paused = |state: &forward::State| matches!(state.condition, Condition::Paused(_));
    let state = tokio::time::timeout(PATIENCE, seen.wait_for(is_paused)).await;
    let state = state.map_err(|_| RehearsalError::NotPaused)?.map_err(|_| RehearsalError::Ended)?;
    let trouble = state.condition.trouble().map(|(trouble, _)| trouble.code.to_owned());
    Ok(trouble.unwrap_or_default())
}

/// Puts a certificate and its key in the place of another one, as a person would.
fn replace(new: &Files, old: &Files) -> Result<(), RehearsalError> {
    for (new, old) in [(&new.key, &old.key), (&new.certificate, &old.certificate)] {
        std::fs::rename(new, old).map_err(|cause| RehearsalError::Folder { path: old.clone(), cause })?;
    }
    Ok(())
}

async fn counts(spool: &SpoolHandle, upstream: &UpstreamName) -> Result<Counts, RehearsalError> {
    let status = spool.status().await?;
    Ok(status
        .upstreams
        .iter()
        .find(|(name, _)| name == upstream)
        .map(|(_, counts)| *counts)
        .unwrap_or_default())
}

/// Plays into a spool with hardly any room until it is full and more.
async fn press(stage: &Stage, look: &mut (dyn FnMut(&Progress) + Send)) -> Result<Pressure, RehearsalError> {
    // A ward of few records needs longer to fill it.
    let slowest = Duration::from_secs_f64(SMALL as f64 / LEAST / stage.rate.records.max(0.6) * 3600.0);
    let full_after = FULL_AFTER.max(slowest);
    let plan = Plan { hours: full_after.as_secs_f64() / 3600.0, speed: None };
    let mut cast = stage.cast("pressure", &plan, SMALL)?;
    cast.commit = Duration::from_secs_f64(600.0 / stage.rate.records.max(0.6) * 360.0).min(FULL_AFTER);
    let mut shadow = stage.work.blocking(move || Shadow::new(cast)).await?;
    let mut pressure = Pressure { max_bytes: SMALL, ..Pressure::default() };
    let mut evicted = None;
    while shadow.passed < full_after {
        stage.look_at_live_spool()?;
        let next = (shadow.passed + shadow.cast.commit).min(full_after);
        shadow = stage.work.blocking(move || shadow.play(next).map(|()| shadow)).await?;
        let status = shadow.spool.status();
        let level = status.space.level();
        pressure.records = status.last + shadow.refused;
        pressure.most_bytes = pressure.most_bytes.max(status.bytes);
        pressure.not_taken = shadow.refused;
        pressure.evicted = status.upstreams.first().map_or(0, |(_, counts)| counts.evicted);
        if level >= Level::Warn {
            pressure.warned_after.get_or_insert(status.last);
        }
        if level >= Level::Refuse {
            pressure.refused_intake_after.get_or_insert(status.last);
        }
        look(&Progress { act: "filling a small disk", done: status.space.percent(), of: 100 });
        // Full for as long again as it took to fill: enough to see whether it goes on.
        if pressure.evicted + pressure.not_taken > 0 {
            let first = *evicted.get_or_insert(pressure.records);
            if pressure.records >= first + first / 4 {
                break;
            }
        }
    }
    let home = shadow.cast.home.clone();
    let cleared = stage.work.blocking(move || {
        drop(shadow);
        std::fs::remove_dir_all(&home).map_err(|cause| RehearsalError::Folder { path: home, cause })
    });
    cleared.await?;
    Ok(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_that_the_spool_does_not_last_for_is_not_called_kept() {
        let judged = |records: Records| {
            let drained =
                Drained { drain: Drain::default(), certificate: Certificate::default(), records, once: true };
            let mut complaints = Vec::new();
            drained.judge(&mut complaints);
            complaints
        };
        let whole = Records { total: 100, delivered: 100, ..Records::default() };
        assert_eq!(judged(whole), Vec::<String>::new());
        let evicted = judged(Records { delivered: 60, evicted: 40, ..whole });
        assert_eq!(evicted, ["40 records had to go to make room: the outage is longer than the spool lasts"]);
        let refused = judged(Records { not_taken: 7, ..whole });
        assert_eq!(refused, ["7 records were not taken: the outage is longer than the spool lasts"]);
    }
}
