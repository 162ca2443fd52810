//! Owns how fields of the management API's answers are read. One that is missing, from another version's server, is
//! shown as such and stops nobody.
//! Must not know: what the fields mean.

use serde_json::Value;

pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    text_or(value, name, "-")
}

pub fn text_or<'a>(value: &'a Value, name: &str, missing: &'a str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or(missing)
}

pub fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

pub fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

pub fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts in a list.
pub fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    rows(value, name).iter().filter_map(Value::as_str).collect()
}
