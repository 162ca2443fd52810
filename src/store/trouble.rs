//! Owns what an error of the disk means to those above: full, short of something else, or damaged.
//! Must not know: what is done about it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The disk, or our quota of it, is used up.
    Full,
    /// The process is short of descriptors or memory. It passes, and says nothing about the file.
    Shortage,
    /// The file is not what it should be, or its disk does not give it back.
    Damage,
    /// Everything else: not allowed, read-only, ended on the way. It says nothing about the file's bytes.
    Other,
}

impl Trouble {
    /// Judges an error of a [`Store`](super::Store), a draft or a reader.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Self::Full,
            io::ErrorKind::OutOfMemory => return Self::Shortage,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => return Self::Damage,
            _ => {}
        }
        match os_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN) => Self::Shortage,
            Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NXIO) => Self::Damage,
            _ => Self::Other,
        }
    }
}

/// Says which file or directory it was, and keeps what the system said.
pub(super) fn named(error: io::Error, path: &Path, what: &str) -> io::Error {
    let message = format!("{what} {}: {error}", path.display());
    io::Error::new(error.kind(), Named { message, source: error })
}

fn os_error(error: &io::Error) -> Option<Errno> {
    let named = || error.get_ref()?.downcast_ref::<Named>()?.source.raw_os_error();
    error.raw_os_error().or_else(named).map(Errno::from_raw_os_error)
}

#[derive(Debug)]
struct Named {
    message: String,
    source: io::Error,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Named {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_hide_what_is_the_matter() {
        for (errno, trouble) in [
            (Errno::NOSPC, Trouble::Full),
            (Errno::DQUOT, Trouble::Full),
            (Errno::MFILE, Trouble::Shortage),
            (Errno::NFILE, Trouble::Shortage),
            (Errno::NOMEM, Trouble::Shortage),
            (Errno::IO, Trouble::Damage),
            (Errno::ACCESS, Trouble::Other),
            (Errno::ROFS, Trouble::Other),
        ] {
            let bare = io::Error::from(errno);
            assert_eq!(Trouble::of(&bare), trouble, "{errno}");
            let named = named(bare, Path::new("/x"), "cannot open");
            assert_eq!(Trouble::of(&named), trouble, "{named}");
            assert!(named.to_string().starts_with("cannot open /x: "));
        }
        assert_eq!(Trouble::of(&io::ErrorKind::InvalidData.into()), Trouble::Damage);
    }
}
