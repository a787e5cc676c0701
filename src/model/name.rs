//! The names clinic IT gives to things. Each is its own type, so two names side by side cannot be swapped.

use std::fmt;
use std::sync::Arc;

/// Why text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or more than 64 characters.
    #[error("a name has 1 to 64 characters")]
    Length,
    /// A character outside `A-Z a-z 0-9 . _ -`.
    #[error("a name has only letters, digits, `.`, `_` and `-`")]
    Character,
}

fn checked(text: &str) -> Result<Arc<str>, NameError> {
    if text.is_empty() || text.len() > 64 {
        return Err(NameError::Length);
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.chars().all(fits) { Ok(text.into()) } else { Err(NameError::Character) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A name of 1 to 64 letters, digits, `.`, `_` or `-`.
            ///
            /// # Errors
            /// [`NameError`] when the text is no name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                checked(text).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

name!(
    /// A dialysis chair: a place in the ward.
    ChairName
);
name!(
    /// A machine's own number; it moves, the chair does not.
    MachineName
);
name!(
    /// An upstream of the configuration; also the recipient that pseudonyms are made for.
    UpstreamName
);
