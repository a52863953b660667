//! Values as JavaScript sends them: [`Value`] keeps everything, [`Scalar`] keeps what fits a word
//! or a string and steps over the rest without building it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A whole value, kept to be sent back (for example the TLS ticket keys of a `queryServer`).
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// `null` or `undefined`: Node treats them alike wherever we echo them.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// Any other number.
    Num(f64),
    /// A string.
    Str(String),
    /// A Buffer or typed array (`advanced` framing only).
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Value>),
    /// A plain object, in its own order.
    Object(Vec<(String, Value)>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E: Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
                Ok(Value::Bool(v))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
                Ok(Value::Int(v))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
                Ok(i64::try_from(v).map_or(Value::Num(v as f64), Value::Int))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
                Ok(Value::Num(v))
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
                Ok(Value::Str(v.to_owned()))
            }
            fn visit_string<E: Error>(self, v: String) -> Result<Value, E> {
                Ok(Value::Str(v))
            }
            fn visit_bytes<E: Error>(self, v: &[u8]) -> Result<Value, E> {
                Ok(Value::Bytes(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Value::Object(entries))
            }
        }
        de.deserialize_any(Whole)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => ser.serialize_unit(),
            Value::Bool(v) => ser.serialize_bool(*v),
            Value::Int(v) => ser.serialize_i64(*v),
            Value::Num(v) => ser.serialize_f64(*v),
            Value::Str(v) => ser.serialize_str(v),
            Value::Bytes(v) => ser.serialize_bytes(v),
            Value::Array(items) => items.serialize(ser),
            Value::Object(entries) => {
                let mut map = ser.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// What one key of a message holds, as far as cohortd needs to look. Node's types vary by version
/// (`backlog` is `false`, `0` or a number), so a wrong type is a value of its own, not an error.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Scalar<'a> {
    /// Absent, `null` or `undefined`.
    #[default]
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A string.
    Str(Cow<'a, str>),
    /// An object; of its keys only `workerId`, where adapters 0.1 and 0.2 name the requester.
    Object {
        /// The value of `workerId`, if it is a whole number.
        worker_id: Option<i64>,
    },
    /// Anything else.
    Other,
}

impl Scalar<'_> {
    /// The string, if it is one.
    pub fn str(&self) -> Option<&str> {
        match self {
            Scalar::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Scalar::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// True for everything JavaScript calls truthy, as far as it is kept here.
    pub fn truthy(&self) -> bool {
        !matches!(self, Scalar::None | Scalar::Bool(false) | Scalar::Int(0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Scalar::None)
            }
            fn visit_bool<E: Error>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(v))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Int(v))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(v).map_or(Scalar::Other, Scalar::Int))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Self::Value, E> {
                let whole = v.fract() == 0.0 && v.abs() < 9e15;
                Ok(if whole { Scalar::Int(v as i64) } else { Scalar::Other })
            }
            fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Str(Cow::Borrowed(v)))
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Str(Cow::Owned(v.to_owned())))
            }
            fn visit_string<E: Error>(self, v: String) -> Result<Self::Value, E> {
                Ok(Scalar::Str(Cow::Owned(v)))
            }
            fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut worker_id = None;
                while let Some(IsWorkerId(is_it)) = map.next_key()? {
                    if is_it {
                        // One level only: a nested object's own workerId is not ours.
                        worker_id = map.next_value::<Flat>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Scalar::Object { worker_id })
            }
        }
        de.deserialize_any(Look)
    }
}

/// Whether a key is `workerId`.
struct IsWorkerId(bool);

impl<'de> Deserialize<'de> for IsWorkerId {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = IsWorkerId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<IsWorkerId, E> {
                Ok(IsWorkerId(v == "workerId"))
            }
        }
        de.deserialize_str(Key)
    }
}

/// A whole number, or nothing for any other type.
struct Flat(Option<i64>);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Ok(Flat(Scalar::deserialize(de)?.int()))
    }
}
