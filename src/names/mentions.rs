//! Owns reading what a manifest mentions, whatever its type: every digest that stands in it. A type that this registry
//! does not know names its content in its own way, and that content must stay as long as the manifest. Strict, since
//! only pushes come here. Must not know: which of it exists.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Digest;
use super::manifest::ManifestError;

/// The digests in a manifest, without those that only say something about it: its subject, and annotations.
///
/// A key that stands twice in an object is an error: one reader takes the first value, another the last.
pub fn mentions(manifest: &[u8]) -> Result<BTreeSet<Digest>, ManifestError> {
    let unreadable = |error: serde_json::Error| ManifestError::Json(error.to_string());
    let mut found = BTreeSet::new();
    let mut reader = serde_json::Deserializer::from_slice(manifest);
    Walk { found: &mut found, counts: true, is_top: true }.deserialize(&mut reader).map_err(unreadable)?;
    reader.end().map_err(unreadable)?;
    Ok(found)
}

struct Walk<'a> {
    found: &'a mut BTreeSet<Digest>,
    counts: bool,
    is_top: bool,
}

impl Walk<'_> {
    fn below(&mut self, counts: bool) -> Walk<'_> {
        Walk { found: self.found, counts, is_top: false }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if let (true, Ok(digest)) = (self.counts, text.parse()) {
            self.found.insert(digest);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let counts = self.counts;
        while items.next_element_seed(self.below(counts))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let is_about = key == "annotations" || (self.is_top && key == "subject");
            let counts = self.counts && !is_about;
            entries.next_value_seed(self.below(counts))?;
            if keys.contains(&key) {
                return Err(serde::de::Error::custom(format_args!(
                    "the key {key:?} stands twice in an object"
                )));
            }
            keys.insert(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Algorithm;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    #[test]
    fn every_digest_is_found_wherever_it_stands_and_what_is_only_about_it_is_not() {
        let [a, b, c, d, about, said] = ["a", "b", "c", "d", "about", "said"].map(digest);
        let wide = Digest::of(Algorithm::Sha512, b"wide");
        let text = format!(
            r#"{{"fsLayers":[{{"blobSum":"{a}"}}],"Layers":[{{"digest":"{b}"}}],"x":[[["{c}"]],1.5,-1,null,true],
                "deep":{{"subject":{{"digest":"{d}"}},"annotations":{{"of":"{said}"}},"other":"{wide}"}},
                "subject":{{"digest":"{about}"}},"annotations":{{"base":"{said}"}},"note":"see {about}"}}"#
        );
        assert_eq!(mentions(text.as_bytes()), Ok([a, b, c, d, wide].into()));
    }

    #[test]
    fn a_doubled_key_is_refused_at_any_depth() {
        for text in [
            r#"{"schemaVersion":2,"schemaVersion":2}"#,
            r#"{"x":{"y":1,"y":2}}"#,
            r#"{"x":[{"y":1,"\u0079":2}]}"#,
            r#"{"annotations":{"y":"1","y":"1"}}"#,
        ] {
            let refused = mentions(text.as_bytes()).map_err(|error| error.to_string());
            assert!(
                refused.as_ref().is_err_and(|error| error.contains("stands twice")),
                "{text}: {refused:?}"
            );
        }
        assert_eq!(mentions(br#"{"x":{"y":1},"y":2}"#), Ok(BTreeSet::new()));
    }

    #[test]
    fn numbers_that_no_reader_can_hold_are_refused() {
        assert!(mentions(br#"{"x":1e999}"#).is_err());
        assert!(mentions(br#"{"x":1} {"x":2}"#).is_err());
    }
}
