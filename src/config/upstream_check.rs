//! Holds `[[upstream]]` against its rules.

use crate::config::check::{Claims, ENVIRONMENTS, reserved};
use crate::config::problem::Problem;
use crate::config::raw::{Findings, Item, Table};
use crate::config::scalar::{self, Creation, UrlUse};
use crate::config::settings::{
    Changes, Compress, Environment, Every, FhirSettings, MinTls, ResourceKind, SendPolicy, Subject,
    UpstreamKind, UpstreamSettings, Wanted,
};
use crate::model::name::UpstreamName;
use std::path::Path;
use std::time::Duration;

/// The kinds of upstream, and whether this version can speak to them.
const KINDS: &[(&str, Option<KindWord>)] = &[("fhir", Some(KindWord::Fhir)), ("mqtt", None), ("hl7", None)];

#[derive(Clone, Copy)]
enum KindWord {
    Fhir,
}

const RESOURCES: &[(&str, ResourceKind)] = &[
    ("Observation", ResourceKind::Observation),
    ("Device", ResourceKind::Device),
    ("DeviceMetric", ResourceKind::DeviceMetric),
    ("Procedure", ResourceKind::Procedure),
];

/// Every upstream that holds.
pub(super) fn upstreams(
    tables: Vec<Table<'_>>,
    environment: Environment,
    folder: &Path,
    findings: &mut Findings,
) -> Vec<UpstreamSettings> {
    let mut names = Claims::default();
    tables
        .into_iter()
        .filter_map(|table| upstream(table, environment, folder, &mut names, findings))
        .collect()
}

fn upstream(
    mut table: Table<'_>,
    gateway: Environment,
    folder: &Path,
    names: &mut Claims,
    findings: &mut Findings,
) -> Option<UpstreamSettings> {
    let name =
        table.need("name", "a name for this receiver, like name = \"ehr\"", findings).and_then(|item| {
            let name = scalar::name(&item, UpstreamName::new, findings)?;
            reserved(&item, name.as_str(), findings);
            let message = "two upstreams have this name";
            names.claim(&item, &name.as_str().to_lowercase(), message, findings);
            Some(name)
        });
    let Some(kind) = kind(&mut table, findings) else {
        // The other keys depend on the kind.
        table.abandon();
        return None;
    };
    let tls = Tls::read(&mut table, folder, findings);
    let send = table.need("send", SEND_HINT, findings).and_then(|item| {
        let table = item.table(findings)?;
        send_policy(table, gateway, findings)
    });
    let kind = match kind {
        KindWord::Fhir => fhir(&mut table, gateway, findings).map(UpstreamKind::Fhir),
    };
    table.finish(findings);
    let Tls { ca, certificate, key, min_tls } = tls?;
    Some(UpstreamSettings { name: name?, kind: kind?, ca, certificate, key, min_tls, send: send? })
}

fn kind(table: &mut Table<'_>, findings: &mut Findings) -> Option<KindWord> {
    let item = table.need("kind", "kind = \"fhir\"", findings)?;
    let kind = scalar::choice(&item, KINDS, findings)?;
    if kind.is_none() {
        let problem = item.problem("this kind of upstream is not in this version").label("planned");
        findings.add(problem.hint("this version sends to kind = \"fhir\" only"));
    }
    kind
}

/// What every upstream needs to be known and to know its peer.
struct Tls {
    ca: std::path::PathBuf,
    certificate: std::path::PathBuf,
    key: crate::config::settings::KeySource,
    min_tls: MinTls,
}

impl Tls {
    fn read(table: &mut Table<'_>, folder: &Path, findings: &mut Findings) -> Option<Self> {
        let hint = "the receiver's own CA as a PEM file, like ca = \"tls/ehr-ca.pem\"; the system's CAs are never used";
        let ca = table.need("ca", hint, findings).and_then(|item| scalar::path(&item, folder, findings));
        let hint = "our certificate chain as a PEM file, like certificate = \"tls/gateway.pem\"";
        let certificate = table.need("certificate", hint, findings);
        let certificate = certificate.and_then(|item| scalar::path(&item, folder, findings));
        let hint =
            "key = { credential = \"ehr-client-key\" }, or { file = \"tls/gateway.key\" } of mode 0600";
        let key = table.need("key", hint, findings);
        let key = key.and_then(|item| scalar::key_source(&item, folder, Creation::Refused, findings));
        let min_tls = match table.take("min_tls") {
            Some(item) => scalar::choice(&item, &[("1.3", MinTls::V1_3), ("1.2", MinTls::V1_2)], findings),
            None => Some(MinTls::V1_3),
        };
        Some(Self { ca: ca?, certificate: certificate?, key: key?, min_tls: min_tls? })
    }
}

const SEND_HINT: &str = "send = { every = \"5min\", settings = \"on change\", spot = \"on new\", alarms = \"on edge\" }; every = \"poll\" sends all";

fn send_policy(
    mut table: Table<'_>,
    environment: Environment,
    findings: &mut Findings,
) -> Option<SendPolicy> {
    let every = table.need("every", "every = \"5min\", or \"poll\" for each reading", findings);
    let every = every.and_then(|item| every_window(&item, environment, findings));
    let changes = &[("on change", Changes::OnChange), ("never", Changes::Never)];
    let settings = table.need("settings", "settings = \"on change\", or \"never\"", findings);
    let settings = settings.and_then(|item| scalar::choice(&item, changes, findings));
    let spots = &[("on new", Wanted::Yes), ("never", Wanted::No)];
    let spot = table.need("spot", "spot = \"on new\", or \"never\"", findings);
    let spot = spot.and_then(|item| scalar::choice(&item, spots, findings));
    let edges = &[("on edge", Wanted::Yes), ("never", Wanted::No)];
    let alarms = table.need("alarms", "alarms = \"on edge\", or \"never\"", findings);
    let alarms = alarms.and_then(|item| scalar::choice(&item, edges, findings));
    table.finish(findings);
    Some(SendPolicy { every: every?, settings: settings?, spot: spot?, alarms: alarms? })
}

fn every_window(item: &Item<'_>, environment: Environment, findings: &mut Findings) -> Option<Every> {
    if item.value().as_str() == Some("poll") {
        return Some(Every::Poll);
    }
    let least = match environment {
        Environment::Production => Duration::from_secs(1),
        Environment::Test => Duration::from_millis(10),
    };
    scalar::duration(item, least..=Duration::from_secs(86_400), findings).map(Every::Window)
}

fn fhir(table: &mut Table<'_>, gateway: Environment, findings: &mut Findings) -> Option<FhirSettings> {
    let url = table.need(
        "url",
        "the receiver's FHIR base, like url = \"https://ehr.clinic.example/fhir\"",
        findings,
    );
    let url = url.and_then(|item| scalar::url(&item, UrlUse::Upstream, findings));
    let subject = match table.take("subject") {
        Some(item) => {
            let words = &[("identifier", Subject::Identifier), ("managed", Subject::Managed)];
            scalar::choice(&item, words, findings)
        }
        None => Some(Subject::Identifier),
    };
    let resources = match table.take("resources") {
        Some(item) => resources(&item, findings),
        None => Some(RESOURCES.iter().map(|(_, kind)| *kind).collect()),
    };
    let compress = match table.take("compress") {
        Some(item) => {
            scalar::choice(&item, &[("auto", Compress::Auto), ("never", Compress::Never)], findings)
        }
        None => Some(Compress::Auto),
    };
    let environment = environment(table, gateway, findings);
    Some(FhirSettings {
        url: url?,
        subject: subject?,
        resources: resources?,
        environment: environment?,
        compress: compress?,
    })
}

fn resources(item: &Item<'_>, findings: &mut Findings) -> Option<Vec<ResourceKind>> {
    let elements = item.list(findings)?;
    let mut kinds = Vec::new();
    for element in elements {
        let Some(kind) = scalar::choice(&element, RESOURCES, findings) else { continue };
        if kinds.contains(&kind) {
            findings.add(element.problem("this resource stands in the list already"));
        }
        kinds.push(kind);
    }
    if !kinds.contains(&ResourceKind::Observation) {
        let problem = item.problem("a receiver that takes no \"Observation\" would get no reading");
        findings.add(problem.hint("add \"Observation\", or take this upstream out"));
    }
    Some(kinds)
}

/// Test data must not reach a chart, and real readings must not reach a test server.
fn environment(table: &mut Table<'_>, gateway: Environment, findings: &mut Findings) -> Option<Environment> {
    let item = table.take("environment");
    let upstream = match &item {
        Some(item) => scalar::choice(item, ENVIRONMENTS, findings)?,
        None => Environment::Production,
    };
    let place = item.map_or_else(|| table.place(), |item| item.place());
    let (message, hint) = match (gateway, upstream) {
        (Environment::Test, Environment::Production) => (
            "this gateway makes test data, and a production upstream refuses it",
            "if the receiver is a test server, say environment = \"test\" here; else say it in neither place",
        ),
        (Environment::Production, Environment::Test) => (
            "this gateway makes real data, and this upstream is a test server",
            "say environment = \"test\" in [gateway] too: then everything is branded as a test",
        ),
        _ => return Some(upstream),
    };
    findings.add(Problem::new(place, message).hint(hint));
    None
}
