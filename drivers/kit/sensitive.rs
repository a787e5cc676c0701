//! A wrapper for text that may identify a patient: it can be carried and dropped, and nothing else.

use core::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Text or bytes that may identify a patient; wiped from memory on drop.
///
/// There is no `Display`, no `Deref`, no `Hash` and no `Ord`, so it cannot slip into a log line, a key or a label:
///
/// ```compile_fail
/// use chairside_drivers::kit::sensitive::Sensitive;
/// let name = Sensitive::new(String::from("Mustermann"));
/// println!("{name}");
/// ```
/// ```compile_fail
/// use chairside_drivers::kit::sensitive::Sensitive;
/// fn serialise<T: serde::Serialize>(_: &T) {}
/// serialise(&Sensitive::new(String::from("Mustermann")));
/// ```
/// ```compile_fail
/// use chairside_drivers::kit::sensitive::Sensitive;
/// let name = Sensitive::new(String::from("Mustermann"));
/// let _: &str = &name;
/// ```
/// Debug output carries a fixed word:
/// ```
/// use chairside_drivers::kit::sensitive::Sensitive;
/// assert_eq!(format!("{:?}", Sensitive::new(String::from("Mustermann"))), "Sensitive(hidden)");
/// ```
pub struct Sensitive<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Sensitive<T> {
    /// Takes the value in; the caller should not keep a copy.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. Only the privacy border may call this; the lint `disallowed_methods` holds the rest back.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(hidden)")
    }
}

impl<T: Zeroize + Clone> Clone for Sensitive<T> {
    fn clone(&self) -> Self {
        Self::new((*self.0).clone())
    }
}

// Equality in plain time is fine here: both sides are already inside the process, none comes from an attacker's probe.
impl<T: Zeroize + PartialEq> PartialEq for Sensitive<T> {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl<T: Zeroize + Eq> Eq for Sensitive<T> {}
