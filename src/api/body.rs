//! Owns reading a JSON body into a form whose fields may all be left out, and naming the field that is wrong.
//! Must not know: which forms there are.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::text::redacted;

/// A form's fields, and how it is written.
pub(super) trait Form: DeserializeOwned {
    const FIELDS: &'static [&'static str];
    /// An example.
    const HINT: &'static str;
}

pub(super) fn read<F: Form>(body: &[u8]) -> Result<F, ApiError> {
    let whole: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::whole(format!("the body is not JSON: {error}")).with_hint(F::HINT))?;
    let Value::Object(object) = &whole else {
        return Err(ApiError::whole("expected a JSON object").with_hint(F::HINT));
    };
    // serde does not say which field is wrong, so each is tried alone.
    for (field, value) in object {
        if !F::FIELDS.contains(&field.as_str()) {
            return Err(ApiError::field(field, "unknown field").with_hint(F::HINT));
        }
        let alone = json!({ field.as_str(): value });
        F::deserialize(&alone).map_err(|error| ApiError::field(field, redacted(field, &error)))?;
    }
    F::deserialize(&whole).map_err(|error| ApiError::whole(error.to_string()).with_hint(F::HINT))
}

/// What must be given.
pub(super) fn required<T>(field: &str, given: Option<T>, hint: &str) -> Result<T, ApiError> {
    given.ok_or_else(|| ApiError::field(field, "is missing").with_hint(hint))
}
