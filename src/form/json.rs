//! Owns reading a form from JSON, and finding the field that is wrong with it.
//! Must not know: what a field means.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{FIELDS, FormError, RepositoryForm};
use crate::text::{closest, redacted};

impl RepositoryForm {
    /// Reads a JSON body; whatever is wrong is told with its field.
    pub fn from_json(body: &[u8]) -> Result<Self, FormError> {
        // serde would also read an array, as the fields in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(FormError::whole("expected a JSON object with the fields of a repository"));
        }
        serde_json::from_slice(body).map_err(|error| diagnose(body, &error))
    }
}

/// serde tells what is wrong, but not always where: the fields are tried one by one.
fn diagnose(body: &[u8], error: &serde_json::Error) -> FormError {
    let object: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(object) => object,
        Err(syntax) => return FormError::whole(format!("the body is not JSON: {syntax}")),
    };
    for (field, value) in object {
        if !FIELDS.contains(&field.as_str()) {
            let error =
                FormError::new(&field, format!("unknown field; expected one of {}", FIELDS.join(", ")));
            return match closest(&field, FIELDS) {
                Some(meant) => error.with_hint(format!("did you mean `{meant}`?")),
                None => error,
            };
        }
        let alone = Value::Object(Map::from_iter([(field.clone(), value)]));
        if let Err(error) = RepositoryForm::deserialize(alone) {
            return FormError::new(&field, redacted(&field, &error));
        }
    }
    // Every field is right alone, so one was written twice; serde's words name it.
    let message = error.to_string();
    let field = message.split('`').nth(1).map(str::to_owned);
    FormError { field, message, hint: None }
}
