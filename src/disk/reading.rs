//! Reads at a place in a file, under which a test can put a device that does not give what it has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads what is there from this offset on, at most as much as `into` takes.
pub(crate) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(test)]
    faults::meet(file, offset, into.len())?;
    file.read_at(into, offset)
}

/// Fills `into` from this offset on.
pub(crate) fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    faults::meet(file, offset, into.len())?;
    file.read_exact_at(into, offset)
}

#[cfg(test)]
pub(crate) mod faults {
    //! Reads of this thread that fail.

    use std::cell::RefCell;
    use std::fs::File;
    use std::io;

    type Fails = Box<dyn FnMut(&File, u64, usize) -> bool>;

    thread_local! {
        static FAILS: RefCell<Option<Fails>> = const { RefCell::new(None) };
    }

    /// From now on, reads fail with EIO for which this says so: of a file, at an offset, of so many bytes.
    pub(crate) fn fail(fails: impl FnMut(&File, u64, usize) -> bool + 'static) {
        FAILS.with(|all| *all.borrow_mut() = Some(Box::new(fails)));
    }

    /// The next reads fail, as many as this.
    pub(crate) fn fail_next(mut reads: u32) {
        fail(move |_, _, _| {
            let fails = reads > 0;
            reads = reads.saturating_sub(1);
            fails
        });
    }

    /// The device is well again.
    pub(crate) fn heal() {
        FAILS.with(|all| *all.borrow_mut() = None);
    }

    pub(super) fn meet(file: &File, offset: u64, length: usize) -> io::Result<()> {
        let fails =
            FAILS.with(|all| all.borrow_mut().as_mut().is_some_and(|fails| fails(file, offset, length)));
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}
