//! Owns images as directories: the OCI image layout. Must not know: who reads them.

use crate::images::{Blob, Image, Index};
use crate::trouble::Outcome;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The tag that everything in a layout has.
pub const TAG: &str = "made";

pub fn write_image(dir: &Path, image: &Image) -> Outcome {
    begin(dir, &image.manifest)?;
    write_parts(dir, image)
}

pub fn write_index(dir: &Path, index: &Index) -> Outcome {
    begin(dir, &index.manifest)?;
    index.images.iter().try_for_each(|image| write_parts(dir, image))
}

fn begin(dir: &Path, top: &Blob) -> Outcome {
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    fs::write(dir.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    let mut descriptor: Value = top.descriptor();
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor] });
    fs::write(dir.join("index.json"), index.to_string())?;
    write_blob(dir, top)
}

fn write_parts(dir: &Path, image: &Image) -> Outcome {
    image.blobs().chain([&image.manifest]).try_for_each(|blob| write_blob(dir, blob))
}

fn write_blob(dir: &Path, blob: &Blob) -> Outcome {
    Ok(fs::write(path_of(dir, blob), &blob.bytes)?)
}

/// Where a layout keeps it.
pub fn path_of(dir: &Path, blob: &Blob) -> std::path::PathBuf {
    dir.join("blobs").join(blob.digest.replace(':', "/"))
}
