//! Owns reading a manifest: which content it names, what it is about (OCI image-spec, "Image Manifest" and
//! "Image Index"). Lenient, since what an upstream serves is passed on byte for byte anyway: what a
//! registry would refuse on a push is told by flags and left to the caller.
//! Must not know: whether what a manifest names exists, and who asks.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Digest, MediaType};

/// Nesting of a document, in objects and arrays. Real ones reach five or six.
const MAX_DEPTH: usize = 64;

/// Why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is not a JSON object")]
    NotAnObject,
    #[error("the manifest is nested deeper than {MAX_DEPTH} levels")]
    Deep,
    #[error("the manifest cannot be read: {0}")]
    Json(String),
}

/// What a manifest says, as far as a registry must understand it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestView {
    /// The `mediaType` inside the document; older ones have none.
    pub media_type: Option<MediaType>,
    /// Children of an index, or config and layers of an image, in the order of the document.
    pub references: Vec<Descriptor>,
    pub is_index: bool,
    /// What a signature or an SBOM is about. It need not exist.
    pub subject: Option<Descriptor>,
    /// What the referrers listing says: `artifactType`, or for an image the type of its config.
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
    /// An index and an image in one: readable as two types. A push of it must be refused.
    pub ambiguous: bool,
    /// It has `config` or `layers`.
    pub has_parts: bool,
    /// It has `manifests`.
    pub has_children: bool,
    /// Descriptors left out: a digest of another algorithm, or none; a size that is no size.
    pub skipped: usize,
}

/// A pointer to content: what it is, how long, under which digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    pub size: u64,
    pub media_type: Option<MediaType>,
    pub role: Role,
    /// Has `urls`, or a type that says so: the content may never have been pushed anywhere.
    pub external: bool,
}

/// What a descriptor is to the manifest that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Config,
    Layer,
    /// An entry of an index. Mostly a manifest; old build caches list layers here.
    Child,
    Subject,
}

/// Reads a manifest or an index.
pub fn parse(bytes: &[u8]) -> Result<ManifestView, ManifestError> {
    // A derived struct would also be read from an array.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ManifestError::NotAnObject);
    }
    // The parser's own limit does not count what it skips.
    if is_deep(bytes) {
        return Err(ManifestError::Deep);
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|e| ManifestError::Json(e.to_string()))?;
    Ok(view(document))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Pointer>,
    layers: Option<Vec<Pointer>>,
    manifests: Option<Vec<Pointer>>,
    /// Of an artifact manifest; in a document of another type perhaps something else.
    blobs: Option<serde_json::Value>,
    subject: Option<Pointer>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    digest: Option<String>,
    size: Option<serde_json::Number>,
    media_type: Option<String>,
    urls: Option<Vec<String>>,
}

fn view(document: Document) -> ManifestView {
    let media_type = document.media_type.as_deref().and_then(MediaType::parse);
    let has_parts = document.layers.is_some() || document.config.is_some();
    let has_children = document.manifests.is_some();
    let is_index = match &media_type {
        Some(own) if own.is_index() => true,
        Some(own) if own.is_image() => false,
        _ => has_children && !has_parts,
    };
    let config_type = document.config.as_ref().and_then(|config| config.media_type.clone());
    let artifact_type =
        document.artifact_type.filter(|own| !own.is_empty()).or(if is_index { None } else { config_type });

    let pointers = document.config.into_iter().map(|pointer| (Role::Config, pointer));
    let pointers = pointers.chain(document.layers.into_iter().flatten().map(|p| (Role::Layer, p)));
    let pointers = pointers.chain(document.manifests.into_iter().flatten().map(|p| (Role::Child, p)));
    let mut references = Vec::new();
    let mut skipped = 0;
    for (role, pointer) in pointers {
        match descriptor(role, &pointer) {
            Some(descriptor) => references.push(descriptor),
            None => skipped += 1,
        }
    }
    let blobs: Vec<Pointer> =
        document.blobs.and_then(|own| serde_json::from_value(own).ok()).unwrap_or_default();
    references.extend(blobs.iter().filter_map(|pointer| descriptor(Role::Layer, pointer)));
    let subject = document.subject.as_ref().and_then(|pointer| descriptor(Role::Subject, pointer));
    let annotations = document.annotations.unwrap_or_default();
    ManifestView {
        media_type,
        references,
        is_index,
        subject,
        artifact_type,
        annotations,
        ambiguous: has_parts && has_children,
        has_parts,
        has_children,
        skipped,
    }
}

fn descriptor(role: Role, pointer: &Pointer) -> Option<Descriptor> {
    let media_type = pointer.media_type.as_deref().and_then(MediaType::parse);
    let listed = pointer.urls.as_ref().is_some_and(|urls| !urls.is_empty());
    let external = listed || media_type.as_ref().is_some_and(is_nondistributable);
    Some(Descriptor {
        digest: pointer.digest.as_deref()?.parse().ok()?,
        size: pointer.size.as_ref()?.as_u64()?,
        media_type,
        role,
        external,
    })
}

/// A layer that its makers do not allow to be pushed to registries.
fn is_nondistributable(media_type: &MediaType) -> bool {
    let text = media_type.as_str();
    text.starts_with("application/vnd.docker.image.rootfs.foreign.")
        || text.starts_with("application/vnd.oci.image.layer.nondistributable.")
}

/// Whether brackets outside strings nest deeper than the limit. Broken JSON is left to the parser.
fn is_deep(bytes: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn read(text: &str) -> ManifestView {
        parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn what_real_tools_pushed_is_read() {
        let image = [Role::Config, Role::Layer].as_slice();
        let index = [Role::Child, Role::Child].as_slice();
        let cases: [(&[u8], &str, &[Role]); 4] = [
            (include_bytes!("../../fixtures/manifests/oci.json"), MediaType::OCI_MANIFEST, image),
            (include_bytes!("../../fixtures/manifests/docker.json"), MediaType::DOCKER_MANIFEST, image),
            (include_bytes!("../../fixtures/manifests/index.json"), MediaType::OCI_INDEX, index),
            (include_bytes!("../../fixtures/manifests/list.json"), MediaType::DOCKER_LIST, index),
        ];
        for (bytes, media_type, roles) in cases {
            let view = parse(bytes).unwrap();
            // The OCI forms may leave the type to the header.
            assert!(view.media_type.is_none_or(|found| found.as_str() == media_type), "{media_type}");
            assert_eq!(view.references.iter().map(|one| one.role).collect::<Vec<_>>(), roles, "{media_type}");
            assert_eq!((view.skipped, view.ambiguous), (0, false), "{media_type}");
        }
    }

    #[test]
    fn an_image_names_its_config_and_layers_in_order() {
        let view = read(&format!(
            r#"{{"schemaVersion":2,"mediaType":"{}",
                "config":{{"mediaType":"application/x.config","digest":"{A}","size":7}},
                "layers":[{{"mediaType":"application/x.layer","digest":"{B}","size":9,"unknown":[1]}}],
                "annotations":{{"k":"v"}}}}"#,
            MediaType::OCI_MANIFEST
        ));
        let named: Vec<_> = view.references.iter().map(|d| (d.role, d.digest.to_string(), d.size)).collect();
        assert_eq!(named, [(Role::Config, A.to_owned(), 7), (Role::Layer, B.to_owned(), 9)]);
        assert!(!view.is_index && !view.ambiguous);
        assert_eq!(view.artifact_type.as_deref(), Some("application/x.config"));
        assert_eq!(view.annotations.get("k").map(String::as_str), Some("v"));
    }

    #[test]
    fn an_index_is_known_by_its_type_or_by_its_shape() {
        let typed = read(&format!(r#"{{"mediaType":"{}","manifests":null}}"#, MediaType::DOCKER_LIST));
        assert!(typed.is_index && typed.references.is_empty());
        let shaped = read(&format!(r#"{{"manifests":[{{"digest":"{A}","size":1}}],"artifactType":"x/y"}}"#));
        assert!(shaped.is_index);
        assert_eq!(shaped.references[0].role, Role::Child);
        assert_eq!(shaped.artifact_type.as_deref(), Some("x/y"));
    }

    #[test]
    fn a_subject_is_no_reference() {
        let view = read(&format!(r#"{{"layers":[],"subject":{{"digest":"{A}","size":3}}}}"#));
        assert!(view.references.is_empty());
        assert_eq!(view.subject.map(|d| (d.digest.to_string(), d.role)), Some((A.to_owned(), Role::Subject)));
    }

    #[test]
    fn what_cannot_be_followed_is_counted_and_left_out() {
        let view = read(&format!(
            r#"{{"layers":[{{"digest":"blake3:00","size":1}},{{"digest":"{A}","size":-1}},{{"size":1}},
                {{"digest":"{A}"}},{{"digest":"{A}","size":1.5}},{{"digest":"{B}","size":0}}]}}"#
        ));
        assert_eq!((view.references.len(), view.skipped), (1, 5));
    }

    #[test]
    fn layers_that_live_elsewhere_are_marked() {
        let view = read(&format!(
            r#"{{"layers":[{{"digest":"{A}","size":1,"urls":["http://169.254.169.254/"]}},
                {{"digest":"{B}","size":1,
                  "mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}}]}}"#
        ));
        assert!(view.references.iter().all(|descriptor| descriptor.external));
    }

    #[test]
    fn a_document_of_two_types_is_marked() {
        let view = read(&format!(r#"{{"layers":[],"manifests":[{{"digest":"{A}","size":1}}]}}"#));
        assert!(view.ambiguous && !view.is_index);
        assert_eq!(view.references.len(), 1);
        assert!(read(&format!(r#"{{"config":{{"digest":"{A}","size":1}},"manifests":[]}}"#)).ambiguous);
    }

    #[test]
    fn an_artifact_manifest_names_its_blobs() {
        let named = read(&format!(r#"{{"blobs":[{{"digest":"{A}","size":1}}]}}"#)).references;
        assert_eq!(
            named.iter().map(|one| (one.role, one.digest.to_string())).collect::<Vec<_>>(),
            [(Role::Layer, A.to_owned())]
        );
        let other = read(r#"{"blobs":["what another type means by it"]}"#);
        assert_eq!((other.references.len(), other.skipped), (0, 0));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in ["", "[]", "null", "<html>", "\u{feff}{}"] {
            assert_eq!(parse(text.as_bytes()), Err(ManifestError::NotAnObject), "{text}");
        }
        for text in ["{", "{}x", r#"{"layers":"x"}"#, r#"{"layers":[],"layers":[]}"#, r#"{"config":1e999}"#] {
            assert!(matches!(parse(text.as_bytes()), Err(ManifestError::Json(_))), "{text}");
        }
        assert!(matches!(parse(b"{\"mediaType\":\"\xff\"}"), Err(ManifestError::Json(_))));
    }

    #[test]
    fn a_depth_bomb_is_refused_even_where_nobody_looks() {
        let bomb = |levels| format!(r#"{{"extra":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(parse(bomb(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert_eq!(parse(bomb(MAX_DEPTH).as_bytes()), Err(ManifestError::Deep));
        assert_eq!(parse(bomb(1_000_000).as_bytes()), Err(ManifestError::Deep));
        let quoted = format!(r#"{{"extra":"\"{}"}}"#, "[".repeat(100));
        assert!(parse(quoted.as_bytes()).is_ok());
    }
}
