//! Reads the files of a configuration once, and remembers what was read for the digest.

use crate::config::problem::{Place, Problem, ShownFile};
use crate::config::raw::{Findings, Item, listed, nearest};
use aws_lc_rs::digest::{Context, SHA256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder of the device maps, beside `gateway.toml`.
const MAPS: &str = "devices";
/// A configuration of a thousand chairs is smaller than this.
const MOST_BYTES: usize = 512 * 1024;

/// Where files come from: the disk, or a test.
pub(super) trait Files {
    /// The bytes of a file; at most `limit` and one more.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// The names of the files in a folder; empty when there is no such folder.
    fn names(&self, folder: &Path) -> Vec<String>;
}

/// The disk.
#[derive(Debug)]
pub(super) struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        io::Read::read_to_end(
            &mut io::Read::take(std::fs::File::open(path)?, limit.saturating_add(1)),
            &mut bytes,
        )?;
        Ok(bytes)
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// Reads files as they are named, each with its contribution to the digest.
pub(super) struct Reader<'f> {
    files: &'f dyn Files,
    folder: PathBuf,
    /// The same folder as it was typed, so that places can be opened from where the command was given.
    typed_folder: PathBuf,
    digest: Context,
}

impl<'f> Reader<'f> {
    pub(super) fn new(files: &'f dyn Files) -> Self {
        Self { files, folder: PathBuf::new(), typed_folder: PathBuf::new(), digest: Context::new(&SHA256) }
    }

    /// The folder that relative paths start at, absolute where the system tells the working folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// SHA-256 over every file read: length and bytes of each, in the order they are named.
    pub(super) fn digest(self) -> [u8; 32] {
        self.digest.finish().as_ref().try_into().unwrap_or([0; 32])
    }

    /// Reads `gateway.toml` itself.
    pub(super) fn main(&mut self, path: &Path, findings: &mut Findings) -> Option<(Arc<ShownFile>, String)> {
        let folder = path.parent().unwrap_or(Path::new(""));
        self.folder =
            std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
                .unwrap_or_else(|_| folder.to_path_buf());
        self.typed_folder = folder.to_path_buf();
        let name = path.display().to_string();
        match self.files.read(path, MOST_BYTES) {
            Ok(bytes) => self.text(name, bytes, findings),
            Err(why) => {
                let place = Place::new(&ShownFile::new(name, ""), 0..0);
                let problem = Problem::new(place, format!("this file cannot be read: {}", reason(&why)));
                findings.add(problem.hint("name the file with --config FILE"));
                None
            }
        }
    }

    /// Reads a device map; what is wrong with reading it is told at the place that names it.
    pub(super) fn map(
        &mut self,
        name: &Path,
        named_by: &Item<'_>,
        findings: &mut Findings,
    ) -> Option<(Arc<ShownFile>, String)> {
        let maps = self.folder.join(MAPS);
        let shown_folder = self.typed_folder.join(MAPS);
        let shown = shown_folder.join(name).display().to_string();
        match self.files.read(&maps.join(name), MOST_BYTES) {
            Ok(bytes) => self.text(shown, bytes, findings),
            Err(why) => {
                let message = format!("the device map {shown} cannot be read: {}", reason(&why));
                let problem = named_by.problem(message).label("named here");
                let there = self.files.names(&maps);
                let there = there.iter().map(String::as_str).filter(|name| name.ends_with(".toml"));
                findings.add(match nearest(&name.to_string_lossy(), there.clone()) {
                    Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                    None if why.kind() == io::ErrorKind::NotFound && there.clone().next().is_some() => {
                        problem.hint(format!("there: {}", listed(there.take(12))))
                    }
                    None => problem.hint(format!("maps are looked for in {}", shown_folder.display())),
                });
                None
            }
        }
    }

    fn text(
        &mut self,
        name: String,
        bytes: Vec<u8>,
        findings: &mut Findings,
    ) -> Option<(Arc<ShownFile>, String)> {
        self.digest.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.digest.update(&bytes);
        if bytes.len() > MOST_BYTES {
            let place = Place::new(&ShownFile::new(name, ""), 0..0);
            findings
                .add(Problem::new(place, "this file is larger than any configuration: more than 512 KiB"));
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some((ShownFile::new(name, &text), text)),
            Err(why) => {
                let at = why.utf8_error().valid_up_to();
                let shown = ShownFile::new(name, &String::from_utf8_lossy(why.as_bytes()));
                let problem = Problem::new(Place::new(&shown, at..at + 1), "this byte is no UTF-8 text");
                findings.add(problem.hint("save the file as UTF-8"));
                None
            }
        }
    }
}

fn reason(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::NotFound => String::from("there is no such file"),
        io::ErrorKind::PermissionDenied => String::from("no permission to read it"),
        _ => why.to_string(),
    }
}
