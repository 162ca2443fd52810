//! Owns the system calls on one open file: positioned reads, bytes sent to a socket, appends, reservation, sync.
//! Must not know: names, directories, digests, progress.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::buffer::{self, Buffers};
use super::faults::{Call, Faults};

/// The kernel takes no more slices in one call (`UIO_MAXIOV`).
const SLICES: usize = 1024;
/// Whether bytes are in memory is looked at in steps of this: the kernel reads ahead, and lets go, in longer stretches.
const STEP: usize = 64 << 10;
/// `TMPFS_MAGIC`.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// An open file of the store. Readers share it: every read says where it reads.
#[derive(Debug)]
pub(super) struct StoreFile {
    file: File,
    buffers: Arc<Buffers>,
    faults: Faults,
}

/// Why bytes did not get from the file to a socket.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The socket's affair; `WouldBlock` where it takes nothing now.
    #[error(transparent)]
    Socket(io::Error),
    #[error(transparent)]
    File(io::Error),
}

/// Tells one file from another that had its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl StoreFile {
    pub(super) fn new(file: File, buffers: Arc<Buffers>, faults: Faults) -> Self {
        Self { file, buffers, faults }
    }

    /// Another file of the same store.
    pub(super) fn sibling(&self, file: File) -> Self {
        Self::new(file, Arc::clone(&self.buffers), self.faults.clone())
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        let metadata = self.file.metadata()?;
        Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Reads what is in memory, at most `want` bytes; `None` where the disk would have to be waited for.
    pub(super) fn read_now(&self, at: u64, want: usize) -> io::Result<Option<Bytes>> {
        let mut buffer = self.buffers.lend(want);
        let slices = &mut [IoSliceMut::new(&mut buffer.as_mut()[..want])];
        let read = self.faults.pass(Call::Read);
        match read.and_then(|()| rustix::io::preadv2(&self.file, slices, at, ReadWriteFlags::NOWAIT)) {
            Ok(0) => Err(cut_short(at)),
            Ok(read) => Ok(Some(buffer.into_bytes(read))),
            // Some file systems never do without waiting; a signal is no reason to spin here either.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads at most `want` bytes, at least one, and waits for the disk.
    pub(super) fn read_wait(&self, at: u64, want: usize) -> io::Result<Bytes> {
        let mut buffer = self.buffers.lend(want);
        let read = rustix::io::retry_on_intr(|| {
            self.faults.pass(Call::Read)?;
            rustix::io::pread(&self.file, &mut buffer.as_mut()[..want], at)
        })?;
        if read == 0 { Err(cut_short(at)) } else { Ok(buffer.into_bytes(read)) }
    }

    /// How many of the `most` bytes from `at` on can be had without waiting for the disk. One byte in each step is looked
    /// at; what the kernel lets go in between costs a wait, and no more.
    pub(super) fn in_memory(&self, at: u64, most: usize) -> usize {
        let look = |at: u64| {
            let byte = &mut [0];
            let slices = &mut [IoSliceMut::new(byte)];
            self.faults.pass(Call::Read)?;
            rustix::io::preadv2(&self.file, slices, at, ReadWriteFlags::NOWAIT)
        };
        let mut seen = 0;
        while seen < most {
            // The last byte of each step: those before it were read with it, or are what the step before ended with.
            let next = most.min(seen + STEP);
            match look(at + next as u64 - 1) {
                Ok(1) => seen = next,
                // It cannot tell, and has no other place than memory.
                Err(Errno::OPNOTSUPP) if self.is_on_tmpfs() => return most,
                _ => break,
            }
        }
        seen
    }

    fn is_on_tmpfs(&self) -> bool {
        rustix::fs::fstatfs(&self.file).is_ok_and(|system| system.f_type == TMPFS)
    }

    /// Lets the kernel send at most `most` bytes from `at` on, without a copy of ours. Answers how many went, never 0;
    /// `None` where a file system or a sandbox does not do so.
    pub(super) fn send(
        &self,
        socket: BorrowedFd<'_>,
        at: u64,
        most: usize,
    ) -> Result<Option<usize>, SendError> {
        let mut offset = at;
        let pass = self.faults.pass(Call::Send);
        match pass.and_then(|()| rustix::fs::sendfile(socket, &self.file, Some(&mut offset), most)) {
            Ok(0) => Err(SendError::File(cut_short(at))),
            Ok(sent) => Ok(Some(sent)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => Ok(None),
            Err(error @ (Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NXIO)) => {
                Err(SendError::File(error.into()))
            }
            Err(error) => Err(SendError::Socket(error.into())),
        }
    }

    /// Reads `from..to` in order and shows each piece to `each`. Waits for the disk.
    pub(super) fn read_each(&self, from: u64, to: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let want = usize::try_from(to - at).unwrap_or(usize::MAX);
            let bytes = self.read_wait(at, buffer::chunk(want))?;
            each(&bytes);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `chunks` at `at`. After an error any part of them may lie there.
    pub(super) fn write_all(&self, chunks: &[Bytes], mut at: u64) -> io::Result<()> {
        let mut owned: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut slices = owned.as_mut_slice();
        // Drops empty slices in front, so that a write of nothing is not taken for a full disk.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let batch = &slices[..slices.len().min(SLICES)];
            match self.write_some(batch, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(no_space(error)),
            }
        }
        Ok(())
    }

    fn write_some(&self, slices: &[IoSlice<'_>], at: u64) -> Result<usize, Errno> {
        match self.faults.room(Call::Write)? {
            usize::MAX => rustix::io::pwritev(&self.file, slices, at),
            // As if the system had taken no more.
            room => rustix::io::pwrite(&self.file, &slices[0][..room.min(slices[0].len())], at),
        }
    }

    /// Sets disk space aside up to `size` without changing the length, `len`. Where the file system cannot do
    /// so, nothing is promised and that is no error.
    pub(super) fn reserve(&self, len: u64, size: u64) -> io::Result<()> {
        if size <= len {
            return Ok(());
        }
        let reserve = || {
            self.faults.pass(Call::Reserve)?;
            rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, len, size - len)
        };
        match rustix::io::retry_on_intr(reserve) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => {
                // What was set aside before the space ran out would stay taken.
                self.cut(len)?;
                Err(no_space(error))
            }
        }
    }

    /// Makes the file end at `len`, and gives back what was reserved behind it.
    pub(super) fn cut(&self, len: u64) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| {
            self.faults.pass(Call::Cut)?;
            rustix::fs::ftruncate(&self.file, len)
        })?)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.faults.pass(Call::Sync)?;
        self.file.sync_data()
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

fn cut_short(at: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at byte {at}, before its known size"))
}

/// A used-up quota is a full disk to everybody above.
fn no_space(error: Errno) -> io::Error {
    match error {
        Errno::DQUOT => io::Error::new(io::ErrorKind::StorageFull, "the disk quota is used up"),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn more_slices_than_the_kernel_takes_at_once_are_written_in_order() {
        let file = StoreFile::new(tempfile::tempfile().unwrap(), Arc::default(), Faults::default());
        let mut chunks: Vec<_> = (0..3000_u32).map(|n| Bytes::from(n.to_be_bytes().to_vec())).collect();
        chunks.insert(0, Bytes::new());
        chunks.insert(1500, Bytes::new());
        file.write_all(&chunks, 7).unwrap();
        let mut read = Vec::new();
        file.read_each(7, 7 + 12_000, |bytes| read.extend_from_slice(bytes)).unwrap();
        assert_eq!(read, chunks.concat());
        file.write_all(&[Bytes::new()], 0).unwrap();
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let file = StoreFile::new(tempfile::tempfile().unwrap(), Arc::default(), Faults::default());
        let error = file.read_wait(0, 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_a_file_has_in_memory_goes_to_a_socket() {
        const SIZE: usize = 2 * STEP + 1000;
        let file = StoreFile::new(tempfile::tempfile().unwrap(), Arc::default(), Faults::default());
        let content: Vec<u8> = (0..SIZE).map(|n| n.to_le_bytes()[n % 2]).collect();
        file.write_all(&[content.clone().into()], 0).unwrap();
        assert_eq!(file.in_memory(10, SIZE - 10), SIZE - 10);
        assert_eq!(file.in_memory(0, 3 * STEP), 2 * STEP, "behind the end there is nothing");
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut got = vec![0; 5000];
        assert_eq!(file.send(near.as_fd(), STEP as u64, 5000).unwrap(), Some(5000));
        far.read_exact(&mut got).unwrap();
        assert!(got == content[STEP..STEP + 5000]);
        let Err(SendError::File(error)) = file.send(near.as_fd(), SIZE as u64, 1) else {
            panic!("past the end")
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(far);
        assert!(matches!(file.send(near.as_fd(), 0, 1), Err(SendError::Socket(_))));
    }
}
