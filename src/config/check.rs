//! Holds `gateway.toml` and its device maps against every rule, and keeps on after each mistake.

use crate::config::device_map::DeviceMap;
use crate::config::files::{Files, Reader};
use crate::config::map_check::{self, CheckedMap};
use crate::config::problem::{Place, Problem, ShownFile};
use crate::config::raw::{Document, Findings, Item, Table, listed, nearest};
use crate::config::scalar::{self, Creation, UrlUse};
use crate::config::settings::{
    ChairSettings, Environment, GatewaySettings, KeySource, Settings, SpoolSettings, Unseated,
};
use crate::config::upstream_check;
use crate::model::name::{ChairName, MachineName, UpstreamName};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a package keeps what it writes.
const STATE_DIR: &str = "/var/lib/chairside";
/// The base of our own codes while there is nobody to send them to; `.invalid` never resolves.
const NO_NAMESPACE: &str = "https://chairside.invalid";
/// Names that commands or pages mean something else by.
const RESERVED: &[&str] = &["all", "chairside", "gateway", "none", "self"];

/// What `gateway.toml` says; `None` when the findings say why not.
pub(super) fn gateway_file(path: &Path, files: &dyn Files, findings: &mut Findings) -> Option<Settings> {
    let mut reader = Reader::new(files);
    let (shown, text) = reader.main(path, findings)?;
    let document = Document::parse(&shown, &text, findings);
    let mut root = document.table();
    let gateway = root.need("gateway", "add [gateway] with at least `name`", findings);
    let spool = root.take("spool");
    let keys = root.need("keys", "add [keys] with root = { credential = \"chairside-root\" }", findings);
    let chairs = root.take("chair").map(|item| item.tables(findings)).unwrap_or_default();
    let upstreams = root.take("upstream").map(|item| item.tables(findings)).unwrap_or_default();
    root.finish(findings);

    let folder = reader.folder().to_path_buf();
    let gateway = gateway.and_then(|item| {
        let table = item.table(findings)?;
        gateway_table(
            table,
            &folder,
            Has { chair: !chairs.is_empty(), upstream: !upstreams.is_empty() },
            findings,
        )
    });
    let environment = gateway.as_ref().map_or(Environment::Production, |gateway| gateway.environment);
    let spool = match spool {
        Some(item) => item.table(findings).and_then(|table| spool_table(table, findings)),
        None => Some(SpoolSettings { max_bytes: DEFAULT_MAX_BYTES, keep_delivered: DEFAULT_KEEP }),
    };
    let root_key =
        keys.and_then(|item| item.table(findings)).and_then(|table| keys_table(table, &folder, findings));
    let chairs = Chairs::default().read(chairs, environment, &mut reader, findings);
    let upstreams = upstream_check::upstreams(upstreams, environment, &folder, findings);
    if !findings.is_empty() {
        return None;
    }
    let (Some(gateway), Some(spool), Some(root_key)) = (gateway, spool, root_key) else {
        return None;
    };
    Some(Settings {
        file: path.to_path_buf(),
        digest: reader.digest(),
        gateway,
        spool,
        root_key,
        chairs,
        upstreams,
    })
}

/// What a file has; some keys are needed only then.
struct Has {
    chair: bool,
    upstream: bool,
}

fn gateway_table(
    mut table: Table<'_>,
    folder: &Path,
    has: Has,
    findings: &mut Findings,
) -> Option<GatewaySettings> {
    let name = table.need("name", "a name for this gateway, like name = \"ward-3\"", findings);
    let name = name.and_then(|item| scalar::name(&item, UpstreamName::new, findings));
    let state_dir = match table.take("state_dir") {
        Some(item) => scalar::path(&item, folder, findings),
        None => Some(PathBuf::from(STATE_DIR)),
    };
    let time_zone = match table.take("time_zone") {
        Some(item) => time_zone(&item, findings),
        // Without a chair there is no clock to read. With one, a silent UTC would misjudge every machine's clock.
        None if has.chair => {
            let hint = "the zone the machines' own clocks show, like time_zone = \"Europe/Berlin\"";
            findings.add_missing(table.missing("time_zone", hint));
            None
        }
        None => Some(TimeZone::UTC),
    };
    let unseated = match table.take("unseated") {
        Some(item) => {
            scalar::choice(&item, &[("hold", Unseated::Hold), ("machine", Unseated::Machine)], findings)
        }
        None => Some(Unseated::Hold),
    };
    let namespace = match table.take("namespace") {
        Some(item) => scalar::url(&item, UrlUse::Namespace, findings),
        None if has.upstream => {
            let hint = "the base of your own identifiers and codes, like namespace = \"https://clinic.example/chairside\"";
            findings.add_missing(table.missing("namespace", hint));
            None
        }
        None => Some(NO_NAMESPACE.to_owned()),
    };
    let environment = match table.take("environment") {
        Some(item) => scalar::choice(&item, ENVIRONMENTS, findings),
        None => Some(Environment::Production),
    };
    let trust_clock = match table.take("trust_clock") {
        Some(item) => item.switch(findings),
        None => Some(false),
    };
    let control = match table.take("control") {
        Some(item) => scalar::path(&item, folder, findings),
        None => state_dir.as_ref().map(|state_dir| state_dir.join("control.sock")),
    };
    table.finish(findings);
    Some(GatewaySettings {
        name: name?.as_str().to_owned(),
        state_dir: state_dir?,
        time_zone: time_zone?,
        unseated: unseated?,
        namespace: namespace?,
        environment: environment?,
        trust_clock: trust_clock?,
        control: control?,
    })
}

/// The words of `environment`, in `[gateway]` and `[[upstream]]`.
pub(super) const ENVIRONMENTS: &[(&str, Environment)] =
    &[("production", Environment::Production), ("test", Environment::Test)];

fn time_zone(item: &Item<'_>, findings: &mut Findings) -> Option<TimeZone> {
    let text = item.text(findings)?;
    let zone = TimeZone::get(text).ok();
    if zone.is_none() {
        let problem = item.problem("there is no such time zone").label("unknown zone");
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
        findings.add(match nearest(text, known.iter().map(String::as_str)) {
            Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
            None => {
                problem.hint("an IANA name like \"Europe/Berlin\"; `timedatectl list-timezones` prints all")
            }
        });
    }
    zone
}

const DEFAULT_MAX_BYTES: u64 = 16 << 30;
const DEFAULT_KEEP: Duration = Duration::from_secs(3 * 86_400);

fn spool_table(mut table: Table<'_>, findings: &mut Findings) -> Option<SpoolSettings> {
    let max_bytes = match table.take("max_bytes") {
        // Below this a single volume would not fit, above it nobody has such a disk beside a chair.
        Some(item) => scalar::size(&item, (64 << 20)..=(16 << 40), findings),
        None => Some(DEFAULT_MAX_BYTES),
    };
    let keep_delivered = match table.take("keep_delivered") {
        Some(item) => {
            scalar::duration(&item, Duration::from_secs(60)..=Duration::from_secs(365 * 86_400), findings)
        }
        None => Some(DEFAULT_KEEP),
    };
    table.finish(findings);
    Some(SpoolSettings { max_bytes: max_bytes?, keep_delivered: keep_delivered? })
}

fn keys_table(mut table: Table<'_>, folder: &Path, findings: &mut Findings) -> Option<KeySource> {
    let hint =
        "root = { credential = \"chairside-root\" }, or { file = \"/path\", created = true } for a first run";
    let root = table.need("root", hint, findings);
    table.finish(findings);
    scalar::key_source(&root?, folder, Creation::Allowed, findings)
}

/// The chairs read so far, and what they have claimed.
#[derive(Default)]
struct Chairs {
    names: Claims,
    machines: Claims,
    ports: Claims,
    maps: BTreeMap<PathBuf, Option<CheckedMap>>,
}

impl Chairs {
    fn read(
        mut self,
        tables: Vec<Table<'_>>,
        environment: Environment,
        reader: &mut Reader<'_>,
        findings: &mut Findings,
    ) -> Vec<ChairSettings> {
        tables.into_iter().filter_map(|table| self.chair(table, environment, reader, findings)).collect()
    }

    fn chair(
        &mut self,
        mut table: Table<'_>,
        environment: Environment,
        reader: &mut Reader<'_>,
        findings: &mut Findings,
    ) -> Option<ChairSettings> {
        let name =
            table.need("name", "the place in the ward, like name = \"chair-1\"", findings).and_then(|item| {
                let name = scalar::name(&item, ChairName::new, findings)?;
                reserved(&item, name.as_str(), findings);
                self.names.claim(&item, &name.as_str().to_lowercase(), "two chairs have this name", findings);
                Some(name)
            });
        let machine =
            table.need("machine", "the machine's own number, like machine = \"asset-14\"", findings);
        let machine = machine.and_then(|item| {
            let machine = scalar::name(&item, MachineName::new, findings)?;
            let message = "one machine cannot stand at two chairs";
            self.machines.claim(&item, &machine.as_str().to_lowercase(), message, findings);
            Some(machine)
        });
        let driver =
            table.need("driver", "the machine's model, as `chairside drivers list` names it", findings);
        let port =
            table.need("port", "the serial port, as `chairside ports` shows it under by-path", findings);
        let port = port.and_then(|item| {
            let port = scalar::path(&item, reader.folder(), findings)?;
            self.ports.claim(&item, &port.to_string_lossy(), "one port cannot serve two chairs", findings);
            Some(port)
        });
        let every = match table.take("every") {
            // A test may run many times faster than any machine could answer.
            Some(item) => {
                let least = match environment {
                    Environment::Production => Duration::from_secs(1),
                    Environment::Test => Duration::from_millis(10),
                };
                scalar::duration(&item, least..=Duration::from_secs(3600), findings)
            }
            None => Some(Duration::from_secs(10)),
        };
        let map = table.need("map", "the device map under devices/, beside this file", findings);
        table.finish(findings);

        let driver = driver.and_then(|item| {
            let text = item.text(findings)?;
            known_driver(&item, text, findings).then_some((item, text))
        });
        let (model, map) = self.map(&map?, reader, findings)?;
        let (driver_item, driver) = driver?;
        if driver != map.driver.as_str() {
            let message = format!("this chair's machine is a `{driver}`, its map is for a `{}`", map.driver);
            findings.add(driver_item.problem(message).hint("one of the two is wrong: look at the machine"));
            return None;
        }
        Some(ChairSettings { name: name?, machine: machine?, port: port?, every: every?, model, map })
    }

    fn map(
        &mut self,
        item: &Item<'_>,
        reader: &mut Reader<'_>,
        findings: &mut Findings,
    ) -> Option<(Arc<dyn chairside_drivers::kit::driver::Model>, Arc<DeviceMap>)> {
        let text = item.text(findings)?;
        let path = PathBuf::from(text);
        if !is_plain_file_name(&path) {
            let problem = item.problem("a map is named by its file name alone");
            findings.add(
                problem
                    .hint("maps are files under devices/, beside this file: map = \"nikkiso_dbb27c.toml\""),
            );
            return None;
        }
        if !self.maps.contains_key(&path) {
            let checked = reader.map(&path, item, findings).and_then(|(shown, text)| {
                map_check::device_map(&Document::parse(&shown, &text, findings), findings)
            });
            self.maps.insert(path.clone(), checked);
        }
        let checked = self.maps.get(&path)?.as_ref()?;
        Some((Arc::clone(&checked.model), Arc::clone(&checked.map)))
    }
}

fn is_plain_file_name(path: &Path) -> bool {
    let mut parts = path.components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(name)), None) if name == path.as_os_str())
}

/// Whether there is such a model; the findings say so if not.
pub(super) fn known_driver(item: &Item<'_>, id: &str, findings: &mut Findings) -> bool {
    if chairside_drivers::find(id).is_some() {
        return true;
    }
    let ids = || chairside_drivers::MODELS.iter().map(|entry| entry.id.as_str());
    let problem = item.problem("no driver has this id").label("unknown model");
    findings.add(match nearest(id, ids()) {
        Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
        None => problem.hint(format!("this version has {}", listed(ids()))),
    });
    false
}

/// A name that commands or pages would misread.
pub(super) fn reserved(item: &Item<'_>, name: &str, findings: &mut Findings) {
    if RESERVED.contains(&name.to_lowercase().as_str()) {
        findings.add(
            item.problem("this name is reserved").hint(format!("not {}", listed(RESERVED.iter().copied()))),
        );
    } else if name.starts_with(['-', '.']) {
        findings.add(
            item.problem("a name begins with a letter, a digit or `_`")
                .hint("a command would take it for an option"),
        );
    }
}

/// Values that may stand once in the whole file.
#[derive(Default)]
pub(super) struct Claims(BTreeMap<String, Place>);

impl Claims {
    /// Claims a value; a second claim is a mistake that shows both places.
    pub(super) fn claim(&mut self, item: &Item<'_>, value: &str, message: &str, findings: &mut Findings) {
        match self.0.get(value) {
            Some(first) => {
                let problem = item.problem(message).label("here again").other(first.clone(), "first here");
                findings.add(problem);
            }
            None => {
                self.0.insert(value.to_owned(), item.place());
            }
        }
    }
}

/// That a file says nothing wrong and yet makes no settings; a fault of ours, told as one.
pub(super) fn our_fault(file: &str) -> Problem {
    let place = Place::new(&ShownFile::new(file.to_owned(), ""), 0..0);
    Problem::new(place, "this file could not be understood, and no rule says why")
        .hint("this is a fault of chairside: please report it")
}
