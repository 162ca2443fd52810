//! Owns the validated value types of the field: a value that exists is right.
//! Must not know: HTTP, files, async, any other room.

mod account;
mod digest;
mod image;
pub mod manifest;
mod media_type;
mod mentions;
mod range;
mod reference;
mod upload;

pub use account::{AccountError, AccountId, AccountName, ImagePattern, Role};
pub use digest::{Algorithm, Digest, DigestError, DigestText, Hasher};
pub use image::{ImageName, NameError, RepositoryId, RepositoryName};
pub use media_type::MediaType;
pub use mentions::mentions;
pub use range::{ByteRange, RangeRequest, Unsatisfiable};
pub use reference::{Reference, ReferenceError, Tag};
pub use upload::{UploadId, UploadIdError};
