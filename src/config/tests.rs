//! Whole configurations, read from memory: golden reports of bad ones, settings of good ones, and any text at all.

use super::*;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Files that exist only in a test.
#[derive(Debug, Default)]
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    fn with(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
        self.0.insert(PathBuf::from(path), text.into());
        self
    }
}

impl Files for Memory {
    fn read(&self, path: &Path, _limit: usize) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let inside = self.0.keys().filter(|path| path.parent() == Some(folder));
        inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }
}

const FILE: &str = "/etc/chairside/gateway.toml";

fn loaded(text: &str) -> Result<Settings, Report> {
    load_from(Path::new(FILE), &Memory::default().with(FILE, text))
}

#[test]
fn a_gateway_without_chairs_and_upstreams_needs_a_name_and_a_root_key() {
    let settings =
        loaded("[gateway]\nname = \"ward-3\"\n[keys]\nroot = { file = \"root.key\", created = true }\n")
            .unwrap();
    assert_eq!(settings.gateway.control, Path::new("/var/lib/chairside/control.sock"));
    assert_eq!(
        settings.root_key,
        settings::KeySource::File { path: PathBuf::from("/etc/chairside/root.key"), created: true }
    );
}

#[test]
fn an_empty_file_is_told_what_it_needs() {
    let report = loaded("").unwrap_err();
    assert_eq!(report.problems().len(), 2);
}
