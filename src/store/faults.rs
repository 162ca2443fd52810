//! Owns the one place where a test can make a system call on the store's files fail. Without the feature
//! `planted-bugs` nothing can be planted, and what stands here compiles to nothing.
//! Must not know: what the calls are made for.

use rustix::io::Errno;

#[cfg(feature = "planted-bugs")]
pub use planted::{Faults, Strike};

/// The kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// Makes a draft's file.
    Create,
    /// Opens a blob or a draft.
    Open,
    Read,
    /// Bytes go from a file to a socket.
    Send,
    Write,
    /// Sets disk space aside.
    Reserve,
    Cut,
    /// Of a file's bytes.
    Sync,
    SyncDirectory,
    SyncAll,
    /// A draft gets its digest's name.
    Rename,
    Remove,
    /// A damaged file is moved out of the way.
    SetAside,
    List,
    /// Asks how much room there is.
    Space,
}

/// Nothing is planted.
#[cfg(not(feature = "planted-bugs"))]
#[derive(Clone, Debug, Default)]
pub(super) struct Faults;

#[cfg(not(feature = "planted-bugs"))]
impl Faults {
    pub(super) const fn pass(&self, _: Call) -> Result<(), Errno> {
        Ok(())
    }

    pub(super) const fn room(&self, _: Call) -> Result<usize, Errno> {
        Ok(usize::MAX)
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use std::fmt;
    use std::sync::Arc;

    use super::{Call, Errno};

    /// What becomes of one call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Strike {
        /// It fails with this `errno`.
        Fail(i32),
        /// It handles no more than so many bytes, or finds no more free.
        Short(usize),
    }

    type Script = dyn Fn(Call) -> Option<Strike> + Send + Sync;

    /// Asked before every call.
    #[derive(Clone, Default)]
    pub struct Faults(Option<Arc<Script>>);

    impl Faults {
        pub fn new(script: impl Fn(Call) -> Option<Strike> + Send + Sync + 'static) -> Self {
            Self(Some(Arc::new(script)))
        }

        pub(in crate::store) fn pass(&self, call: Call) -> Result<(), Errno> {
            self.room(call).map(|_| ())
        }

        /// How many bytes the call may handle.
        pub(in crate::store) fn room(&self, call: Call) -> Result<usize, Errno> {
            match self.0.as_ref().and_then(|script| script(call)) {
                None => Ok(usize::MAX),
                Some(Strike::Short(bytes)) => Ok(bytes),
                Some(Strike::Fail(errno)) => Err(Errno::from_raw_os_error(errno)),
            }
        }
    }

    impl fmt::Debug for Faults {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(if self.0.is_some() { "Faults(planted)" } else { "Faults(none)" })
        }
    }
}
