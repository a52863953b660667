//! The `json` framing's values: one UTF-8 JSON text a line.

use serde::Serialize;
use serde::de::Deserialize;

pub(super) fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(&mut *out, message).map_err(|e| e.to_string())?;
    out.push(b'\n');
    Ok(())
}

pub(super) fn decode<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|e| e.to_string())
}
