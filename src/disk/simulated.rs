//! A disk that fails when told to. It works over a real folder and remembers what the device would still have after a power
//! cut: sectors of 512 bytes, each as some write left it since the last sync, and names as some act left them since their
//! folder was synced.

use crate::disk::{Disk, Start, folder_of};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What a device writes in one piece.
const SECTOR: u64 = 512;

/// How an act fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power is cut: this act and everything behind it never happens.
    PowerCut,
    /// The power is cut while this act is under way: whatever it does is done and not synced.
    PowerCutAfter,
    /// EIO.
    Broken,
    /// ENOSPC.
    Full,
    /// A write takes half of the bytes.
    Short,
    /// From this act on every sync is answered well, and nothing is kept by it.
    Lies,
}

/// A generator of its own, so that a seed means the same for ever.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B);
        dice.roll(2);
        dice
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a device may show of something: the last entry is what it holds while the power is on.
#[derive(Clone, Debug)]
struct Versions<T> {
    all: Vec<T>,
    /// Set by a sync that failed: the kernel takes it for written, so a later sync that succeeds says nothing of it.
    forsaken: bool,
}

impl<T: Clone> Versions<T> {
    fn durable(value: T) -> Self {
        Self { all: vec![value], forsaken: false }
    }

    fn last(&self) -> T {
        self.all.last().unwrap().clone()
    }

    fn change(&mut self, value: T) {
        self.all.push(value);
        self.forsaken = false;
    }

    fn synced(&mut self) {
        if !self.forsaken {
            self.all.drain(..self.all.len() - 1);
        }
    }

    fn sync_failed(&mut self) {
        self.forsaken = self.all.len() > 1;
    }

    /// What is left after the power cut. Of ten parts, `kept` fall on the last version.
    fn left(&self, dice: &mut Dice, kept: u64) -> T {
        if dice.roll(10) < kept {
            return self.last();
        }
        match kept {
            0 => self.all[0].clone(),
            _ => self.all[dice.roll(self.all.len() as u64) as usize].clone(),
        }
    }
}

type Sector = [u8; SECTOR as usize];

#[derive(Debug)]
struct Inode {
    length: Versions<u64>,
    sectors: BTreeMap<u64, Versions<Sector>>,
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    /// Which inode a name leads to. Names that no act touched are not here.
    names: BTreeMap<PathBuf, Versions<Option<usize>>>,
    calls: u64,
    faults: Vec<(u64, Fault)>,
    /// The next act whose name begins like this fails.
    next: Vec<(&'static str, Fault)>,
    dead: bool,
    lies: bool,
    acts: Vec<String>,
}

/// The disk behind [`Disk::simulated`].
#[derive(Debug)]
pub(crate) struct Simulated {
    state: Mutex<State>,
}

/// The simulated side of an open file.
#[derive(Debug)]
pub(crate) struct Handle {
    disk: Arc<Simulated>,
    inode: usize,
}

impl Disk {
    /// A disk on which the acts of these numbers, counted from 0, fail.
    pub(crate) fn simulated(faults: &[(u64, Fault)]) -> Self {
        let state = State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            calls: 0,
            faults: faults.to_vec(),
            next: Vec::new(),
            dead: false,
            lies: false,
            acts: Vec::new(),
        };
        Self { simulated: Some(Arc::new(Simulated { state: Mutex::new(state) })) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.simulated.as_ref().unwrap().state.lock().unwrap()
    }

    /// How many acts there were.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What they were, to be read by whoever looks for the cause of a failure.
    pub(crate) fn acts(&self) -> Vec<String> {
        self.state().acts.clone()
    }

    /// Lets the next act fail whose name begins like this.
    pub(crate) fn fail_next(&self, act: &'static str, fault: Fault) {
        self.state().next.push((act, fault));
    }

    /// Lets the act that comes this many acts from now fail; 0 is the next one.
    pub(crate) fn fail_in(&self, acts: u64, fault: Fault) {
        let mut state = self.state();
        let number = state.calls + acts;
        state.faults.push((number, fault));
    }

    /// Writes the folder as the disk shows it after a power cut to another one. Seed 0 has nothing that was not synced,
    /// seed 1 all of it, any other some of it.
    pub(crate) fn after_power_cut(&self, home: &Path, into: &Path, seed: u64) {
        let mut dice = Dice::new(seed);
        let kept = match seed {
            0 => 0,
            1 => 10,
            _ => 1 + dice.roll(9),
        };
        let state = self.state();
        copy_rest(home, into, &state.names);
        for (path, versions) in &state.names {
            let Some(inode) = versions.left(&mut dice, kept) else { continue };
            let target = into.join(path.strip_prefix(home).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            let mut file = OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
            let file = file.write(true).create_new(true).open(target).unwrap();
            let inode = &state.inodes[inode];
            let length = inode.length.left(&mut dice, kept);
            for (number, sector) in &inode.sectors {
                file.write_all_at(&sector.left(&mut dice, kept), number * SECTOR).unwrap();
            }
            file.set_len(length).unwrap();
        }
    }
}

/// A folder in memory where there is one: what many short lives write need not wait for a disk.
pub(crate) fn fast_home() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Every way to fail, at every act of a life, and behind each of them power cuts of `seeds` seeds. `live` says what was acknowledged to
/// it; `look` gets a folder as a restart finds it. A panic names the fault, the act and the seed.
pub(crate) fn under_every_fault<T: std::fmt::Debug>(
    seeds: u64,
    live: impl Fn(&Disk, &Path) -> T,
    look: impl Fn(&Path, &T),
) {
    for fault in [Fault::PowerCut, Fault::PowerCutAfter, Fault::Broken, Fault::Full, Fault::Short] {
        for number in 0.. {
            let home = fast_home();
            let disk = Disk::simulated(&[(number, fault)]);
            let acknowledged = live(&disk, home.path());
            for seed in 0..seeds {
                let image = fast_home();
                disk.after_power_cut(home.path(), image.path(), seed);
                let case =
                    Case(format!("{fault:?} at act {number}, seed {seed}, after {acknowledged:?}"), &disk);
                look(image.path(), &acknowledged);
                drop(case);
            }
            if disk.calls() <= number {
                break;
            }
        }
    }
}

/// Names itself when a test fails in it.
struct Case<'a>(String, &'a Disk);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.0, self.1.acts().join("\n"));
        }
    }
}

/// Flips one bit of a file.
pub(crate) fn flip(path: &Path, bit: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

fn copy_rest(from: &Path, into: &Path, names: &BTreeMap<PathBuf, Versions<Option<usize>>>) {
    fs::create_dir_all(into).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = into.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            copy_rest(&path, &target, names);
        } else if !names.contains_key(&path) {
            fs::copy(&path, &target).unwrap();
        }
    }
}

impl State {
    /// Counts an act. An error means that it does not happen; a fault, that it happens and how.
    fn act(&mut self, what: String) -> io::Result<Option<Fault>> {
        let number = self.calls;
        let named = self.next.iter().position(|(act, _)| what.starts_with(act));
        let named = named.map(|place| self.next.remove(place).1);
        let fault = self.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault).or(named);
        self.acts.push(format!("{number} {what}{}", fault.map_or(String::new(), |it| format!(": {it:?}"))));
        self.calls += 1;
        self.dead |= fault == Some(Fault::PowerCut);
        self.lies |= fault == Some(Fault::Lies);
        if self.dead {
            return Err(io::Error::other("the power is off"));
        }
        match fault {
            Some(Fault::Broken) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Full) => Err(io::Error::from_raw_os_error(28)),
            Some(Fault::PowerCutAfter) => {
                self.dead = true;
                Ok(fault)
            }
            fault => Ok(fault),
        }
    }

    /// The inode of a name, taken over from the real folder when it was not seen before.
    fn inode(&mut self, path: &Path) -> Option<usize> {
        if let Some(known) = self.names.get(path) {
            return known.last();
        }
        let found = fs::read(path).ok().map(|bytes| {
            let sectors = (0..).zip(bytes.chunks(SECTOR as usize)).map(|(number, chunk)| {
                let mut sector = [0; SECTOR as usize];
                sector[..chunk.len()].copy_from_slice(chunk);
                (number, Versions::durable(sector))
            });
            let sectors = sectors.collect();
            self.inodes.push(Inode { length: Versions::durable(bytes.len() as u64), sectors });
            self.inodes.len() - 1
        });
        self.names.insert(path.into(), Versions::durable(found));
        found
    }

    fn lead(&mut self, path: &Path, inode: Option<usize>) {
        self.names.get_mut(path).unwrap().change(inode);
    }
}

fn short(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn open(
    disk: &Arc<Simulated>,
    path: &Path,
    start: Start,
    options: &OpenOptions,
) -> io::Result<(File, Handle)> {
    let mut state = disk.state.lock().unwrap();
    state.act(format!("open {} {start:?}", short(path)))?;
    let known = state.inode(path);
    let file = options.open(path)?;
    let inode = match known {
        Some(inode) => {
            if start == Start::Emptied {
                state.inodes[inode].set_length(0);
            }
            inode
        }
        None => {
            state.inodes.push(Inode { length: Versions::durable(0), sectors: BTreeMap::new() });
            let inode = state.inodes.len() - 1;
            state.lead(path, Some(inode));
            inode
        }
    };
    drop(state);
    Ok((file, Handle { disk: Arc::clone(disk), inode }))
}

impl Simulated {
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.act(format!("rename {} to {}", short(from), short(to)))?;
        let (moved, _) = (state.inode(from), state.inode(to));
        fs::rename(from, to)?;
        state.lead(to, moved);
        state.lead(from, None);
        Ok(())
    }

    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.act(format!("link {} as {}", short(from), short(to)))?;
        let (linked, _) = (state.inode(from), state.inode(to));
        fs::hard_link(from, to)?;
        state.lead(to, linked);
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.act(format!("remove {}", short(path)))?;
        if state.inode(path).is_none() {
            return match fs::symlink_metadata(path) {
                Ok(_) => fs::remove_file(path),
                Err(_) => Ok(()),
            };
        }
        fs::remove_file(path)?;
        state.lead(path, None);
        Ok(())
    }

    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let done = state.act(format!("sync the folder {}", short(folder))).and_then(|fault| {
            File::open(folder)?;
            Ok(fault)
        });
        let lies = state.lies;
        let names = state.names.iter_mut().filter(|(path, _)| folder_of(path) == folder);
        match done {
            Ok(Some(Fault::PowerCutAfter)) => Err(io::Error::other("the power is off")),
            Ok(_) if lies => Ok(()),
            Ok(_) => {
                names.for_each(|(_, versions)| versions.synced());
                Ok(())
            }
            // Names are in the journal of the file system, in order: where a later sync succeeds, this one's were written too.
            Err(error) => Err(error),
        }
    }

    pub(super) fn pass(&self, act: &'static str) -> io::Result<()> {
        self.state.lock().unwrap().act(act.to_owned()).map(|_| ())
    }
}

impl Handle {
    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock().unwrap();
        let taken = self.taken(&mut state, "write", bytes)?;
        file.write_all_at(taken, offset)?;
        state.inodes[self.inode].write(taken, offset);
        Ok(taken.len())
    }

    pub(super) fn append(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state.lock().unwrap();
        let taken = self.taken(&mut state, "append", bytes)?;
        file.write_all(taken)?;
        let inode = &mut state.inodes[self.inode];
        let end = inode.length.last();
        inode.write(taken, end);
        Ok(taken.len())
    }

    fn taken<'a>(&self, state: &mut State, act: &str, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let fault = state.act(format!("{act} {} bytes", bytes.len()))?;
        Ok(match fault {
            Some(Fault::Short) => &bytes[..bytes.len().div_ceil(2)],
            _ => bytes,
        })
    }

    pub(super) fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock().unwrap();
        state.act(format!("set the length {length}"))?;
        file.set_len(length)?;
        state.inodes[self.inode].set_length(length);
        Ok(())
    }

    pub(super) fn reserve(&self, file: &File, length: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock().unwrap();
        state.act(format!("reserve {length}"))?;
        let inode = &mut state.inodes[self.inode];
        if inode.length.last() < length {
            file.set_len(length)?;
            inode.length.change(length);
        }
        Ok(())
    }

    pub(super) fn sync(&self, _file: &File) -> io::Result<()> {
        let mut state = self.disk.state.lock().unwrap();
        let done = state.act("sync".to_owned());
        let lies = state.lies;
        let inode = &mut state.inodes[self.inode];
        match done {
            Ok(Some(Fault::PowerCutAfter)) => Err(io::Error::other("the power is off")),
            Ok(_) if lies => Ok(()),
            Ok(_) => {
                inode.length.synced();
                inode.sectors.values_mut().for_each(Versions::synced);
                Ok(())
            }
            Err(error) => {
                inode.length.sync_failed();
                inode.sectors.values_mut().for_each(Versions::sync_failed);
                Err(error)
            }
        }
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % SECTOR) as usize;
            let (now, behind) = rest.split_at(rest.len().min(SECTOR as usize - within));
            let sector =
                self.sectors.entry(at / SECTOR).or_insert_with(|| Versions::durable([0; SECTOR as usize]));
            let mut changed = sector.last();
            changed[within..within + now.len()].copy_from_slice(now);
            sector.change(changed);
            at += now.len() as u64;
            rest = behind;
        }
        if at > self.length.last() {
            self.length.change(at);
        }
    }

    fn set_length(&mut self, length: u64) {
        for (number, sector) in &mut self.sectors {
            let from = length.saturating_sub(number * SECTOR).min(SECTOR) as usize;
            if from < SECTOR as usize {
                let mut cut = sector.last();
                cut[from..].fill(0);
                sector.change(cut);
            }
        }
        self.length.change(length);
    }
}
