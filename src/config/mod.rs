//! What clinic IT edits, read whole or refused whole: raw text, checks, checked settings.

mod blot;
mod check;
pub mod device_map;
mod explain;
mod files;
mod map_check;
mod map_fit;
mod problem;
mod raw;
mod scalar;
pub mod settings;
mod upstream_check;

pub use explain::explain;
pub use problem::{Colours, Problem, Report};
pub use settings::Settings;

use files::{Disk, Files};
use raw::Findings;
use std::path::Path;

/// Where a package puts the configuration.
pub const DEFAULT_FILE: &str = "/etc/chairside/gateway.toml";

/// Reads `gateway.toml` and every device map it names.
///
/// # Errors
/// [`Report`] with every mistake of all those files at once, each with file, line and column. Nothing of a
/// configuration with a mistake is used.
pub fn load(file: &Path) -> Result<Settings, Report> {
    load_from(file, &Disk)
}

fn load_from(file: &Path, files: &dyn Files) -> Result<Settings, Report> {
    let mut findings = Findings::default();
    let settings = check::gateway_file(file, files, &mut findings);
    match settings {
        Some(settings) if findings.is_empty() => Ok(settings),
        _ => {
            let name = file.display().to_string();
            if findings.is_empty() {
                findings.add(check::our_fault(&name));
            }
            Err(Report::new(name, findings.into_problems()))
        }
    }
}

#[cfg(test)]
mod tests;
