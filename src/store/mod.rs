//! Placeholder until the room is built.

/// Reads a blob or a draft's tail, in order, from start to end.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    pub fn remaining(&self) -> Option<u64> {
        Some(0)
    }

    pub fn sent(&self) -> u64 {
        0
    }

    pub fn is_waiting(&self) -> bool {
        false
    }

    pub fn poll_chunk(
        &mut self,
        _: &mut std::task::Context<'_>,
        _max: usize,
    ) -> std::task::Poll<Option<std::io::Result<bytes::Bytes>>> {
        std::task::Poll::Ready(None)
    }
}
