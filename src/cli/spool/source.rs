//! Whom to ask about the spool: the running gateway, or the files of a stopped one.

use super::Trouble;
use crate::audit::{Audit, Caller, Entry};
use crate::cli::{ConfigFile, Exit, control_socket};
use crate::clock::{Clock, SystemClock, TimeFloor};
use crate::config::{self, Colours, Settings};
use crate::control::client::{self, AskError};
use crate::control::spool::{Ask, Told, answer, answer_looking};
use crate::control::{Answer, RefusalCode};
use crate::model::time::Timestamp;
use crate::privacy::keyring::{Absent, Keyring};
use crate::spool::stopped::{NoKeys, StoppedSpool};
use crate::spool::store::{Options, SledSpool};
use crate::spool::{Spool, SpoolError, SpoolStatus};
use crate::telemetry::chain;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What will be asked of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Numbers of the manifest and the settlements alone.
    Numbers,
    /// The records.
    Records,
    /// To change what is to be sent.
    Change,
}

/// Whom to ask.
pub(super) enum Source {
    Running {
        socket: PathBuf,
        runtime: tokio::runtime::Runtime,
    },
    Stopped {
        spool: Stopped,
        status: SpoolStatus,
        settings: Box<Settings>,
        audit: Option<Audit>,
        /// Its last records could not be proved to be there: see [`Holdings::at_least`](crate::control::spool::Holdings).
        at_least: bool,
    },
    /// There is no spool here.
    Nothing,
}

/// The files of a stopped gateway.
pub(super) enum Stopped {
    Read(Box<StoppedSpool>),
    Open(Box<SledSpool>),
}

impl Source {
    /// Finds the gateway that this configuration describes, or its files.
    pub(super) fn find(config: &ConfigFile, need: Need) -> Result<Self, Trouble> {
        let socket = control_socket(config).map_err(|exit| (String::new(), exit))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|refusal| (format!("start the runtime: {refusal}"), Exit::Fault))?;
        match runtime.block_on(client::spool(&socket, Ask::Status)) {
            Err(AskError::NotRunning(_)) => {
                let settings = load(&config.path)?;
                match Self::stopped(&settings, need)? {
                    Self::Nothing => Err(nothing_at(&home(&settings))),
                    found => Ok(found),
                }
            }
            Err(refusal) => Err((chain(&refusal), refusal.exit())),
            Ok(_) => Ok(Self::Running { socket, runtime }),
        }
    }

    pub(super) fn stopped(settings: &Settings, need: Need) -> Result<Self, Trouble> {
        let state_dir = &settings.gateway.state_dir;
        let home = home(settings);
        if !is_there(&home)? {
            return Ok(Self::Nothing);
        }
        let mut at_least = false;
        let read = |keys| StoppedSpool::open(&home, keys).map_err(|error| told(&error));
        let spool = match need {
            // Numbers need no key, except where the gateway was cut off: what it wrote last has to be proved.
            Need::Numbers => match Keyring::open_for_reading(state_dir, &settings.root_key) {
                Ok(keyring) => read(Arc::new(keyring))?,
                Err(_) => {
                    let spool = read(Arc::new(NoKeys))?;
                    at_least = spool.as_ref().is_some_and(|spool| !spool.was_closed());
                    spool
                }
            }
            .map(|spool| Stopped::Read(Box::new(spool))),
            Need::Records => {
                let keyring = Keyring::open_for_reading(state_dir, &settings.root_key)
                    .map_err(|error| (chain(&error), error.exit()))?;
                read(Arc::new(keyring))?.map(|spool| Stopped::Read(Box::new(spool)))
            }
            Need::Change => Some(Stopped::Open(Box::new(open(settings, &home)?))),
        };
        let Some(mut spool) = spool else { return Ok(Self::Nothing) };
        let status = match &mut spool {
            Stopped::Read(spool) => spool.status(settings.spool.max_bytes).map_err(|error| told(&error))?,
            Stopped::Open(spool) => spool.status(),
        };
        let audit = match need {
            Need::Numbers => None,
            Need::Records | Need::Change => Some(audit(state_dir)?),
        };
        Ok(Self::Stopped { spool, status, settings: Box::new(settings.clone()), audit, at_least })
    }

    /// Asks. `None`: there is nothing to ask yet.
    pub(super) fn ask(&mut self, ask: &Ask) -> Result<Option<Told>, Trouble> {
        match self {
            Self::Running { socket, runtime } => match runtime.block_on(client::spool(socket, ask.clone())) {
                Ok(Answer::Spool { told }) => Ok(Some(*told)),
                Ok(Answer::Refused { code: RefusalCode::Malformed, why }) => Err((why, Exit::Usage)),
                Ok(Answer::Refused { why, .. }) => Err((why, Exit::NotReady)),
                Ok(Answer::Done { .. } | Answer::Status { .. } | Answer::Gaps { .. }) => {
                    Err(("the gateway answered something else".to_owned(), Exit::Fault))
                }
                Err(refusal) => Err((chain(&refusal), refusal.exit())),
            },
            Self::Stopped { spool, status, settings, audit, at_least } => {
                ask.check().map_err(|why| (why.to_owned(), Exit::Usage))?;
                // Once for all its pages: the audit record is never evicted.
                let noted = ask.is_audited() && ask.is_first_page();
                if let Some(audit) = audit.as_ref().filter(|_| noted) {
                    let caller = Caller { uid: Some(rustix::process::getuid().as_raw()) };
                    let entry = Entry::Spool { caller, act: ask.word(), about: ask.about() };
                    let now = now(&settings.gateway.state_dir);
                    audit.note(now, &entry).map_err(|refusal| (chain(&refusal), Exit::Disk))?;
                }
                let zone = &settings.gateway.time_zone;
                let told = match spool {
                    Stopped::Read(spool) => answer_looking(spool.as_mut(), status, ask, zone),
                    Stopped::Open(spool) => answer(spool.as_mut(), status, ask, zone).map(Some),
                };
                let mut told = told.map_err(|error| self::told(&error))?;
                if let Some(Told::Status(holdings)) = &mut told {
                    holdings.at_least = *at_least;
                }
                Ok(told)
            }
            Self::Nothing => Ok(None),
        }
    }

    /// Ends what was opened, so that the gateway finds it in order.
    pub(super) fn finish(self) -> Result<(), Trouble> {
        match self {
            Self::Stopped { spool: Stopped::Open(mut spool), .. } => {
                spool.close().map_err(|error| told(&error))
            }
            Self::Stopped { spool: Stopped::Read(_), .. } | Self::Running { .. } | Self::Nothing => Ok(()),
        }
    }
}

/// The configuration.
pub(super) fn load(path: &Path) -> Result<Settings, Trouble> {
    config::load(path).map_err(|report| (report.render(Colours::of_stderr()), Exit::Refused))
}

/// The folder of the spool.
pub(super) fn home(settings: &Settings) -> PathBuf {
    settings.gateway.state_dir.join("spool")
}

/// Whether there is a spool. What may not be looked at is not taken for nothing.
pub(super) fn is_there(home: &Path) -> Result<bool, Trouble> {
    match std::fs::metadata(home) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let denied = error.kind() == ErrorKind::PermissionDenied;
            let exit = if denied { Exit::NotPermitted } else { Exit::Disk };
            let remedy = if denied { ": run this as the gateway's own user" } else { "" };
            Err((format!("look at the spool in {}: {error}{remedy}", home.display()), exit))
        }
    }
}

/// What to say where there is none.
pub(super) fn nothing_at(home: &Path) -> Trouble {
    let text = format!(
        "there is no spool at {}: the gateway has not run yet, or the disk that `state_dir` names is not there",
        home.display()
    );
    (text, Exit::No)
}

/// What to say of an error, and how to end.
pub(super) fn told(error: &SpoolError) -> Trouble {
    let text = chain(error);
    let text = match error {
        SpoolError::Busy(_) => {
            format!("{text}: the gateway is running; name its own --config to ask it, or stop it first")
        }
        SpoolError::Permission { .. } => format!("{text}: run this as the gateway's own user"),
        SpoolError::Format { .. } => format!("{text}: install the version that wrote it, or a newer one"),
        _ => text,
    };
    (text, error.exit())
}

/// Now, as far as this computer knows it.
pub(super) fn now(state_dir: &Path) -> Timestamp {
    SystemClock::new(TimeFloor::load(state_dir).earliest()).now().0
}

/// Files made by another user could not be opened by the gateway afterwards.
pub(super) fn owned_by_us(path: &Path) -> Result<(), Trouble> {
    let owner = std::fs::metadata(path).map(|about| about.uid());
    let us = rustix::process::geteuid().as_raw();
    match owner {
        Ok(owner) if owner != us => Err((
            format!(
                "{} belongs to user {owner}, and what another user writes there the gateway cannot open; run this as \
                 `sudo -u '#{owner}' chairside ...`",
                path.display()
            ),
            Exit::NotPermitted,
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn open(settings: &Settings, home: &Path) -> Result<SledSpool, Trouble> {
    let state_dir = &settings.gateway.state_dir;
    owned_by_us(home)?;
    let keyring = Keyring::open(state_dir, &settings.root_key, Absent::Refuse)
        .map_err(|error| (chain(&error), error.exit()))?;
    let upstreams: Vec<_> = settings.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let options = Options::new(settings.spool.max_bytes);
    SledSpool::open(home, Arc::new(keyring), &upstreams, options, now(state_dir))
        .map_err(|error| told(&error))
}

fn audit(state_dir: &Path) -> Result<Audit, Trouble> {
    if !state_dir.join("audit.jsonl").exists() {
        owned_by_us(state_dir)?;
    }
    Audit::open(state_dir).map_err(|refusal| {
        let exit = match refusal.source.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Disk,
        };
        (format!("{}; nobody may read or change records without it", chain(&refusal)), exit)
    })
}
