//! The `advanced` framing's values: V8's ValueSerializer format, as serde's data formats.
//!
//! Version 15 (`ff 0f`), whose bytes are the same from Node 18 to 26. Node writes Buffers and typed
//! arrays as host objects. Objects that occur twice are written once and referred to later; such a
//! reference reads as `undefined` here, since nothing that cohortd looks at is ever one.
//! Source: V8's `value-serializer.cc`, Node's `lib/internal/child_process/serialization.js`.

mod de;
mod ser;

pub use de::decode;
pub use ser::encode;

/// Why a value could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end inside a value.
    #[error("the value is cut short at byte {0}")]
    CutShort(usize),
    /// A tag that no version 15 value starts with.
    #[error("unknown tag 0x{tag:02x} at byte {at}")]
    UnknownTag {
        /// The byte found.
        tag: u8,
        /// Its offset in the value.
        at: usize,
    },
    /// Not the format, or not its version.
    #[error("not a V8 value: it has to start with ff 0f")]
    NotV8,
    /// Nested deeper than anything that Node's cluster or Socket.IO sends.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// What serde says when the value is of another type than wanted.
    #[error("{0}")]
    Message(String),
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Message(message.to_string())
    }
}

impl serde::ser::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Error::Message(message.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::*;
    use proptest::prelude::*;

    fn round(value: &Value) -> Value {
        let mut bytes = Vec::new();
        encode(value, &mut bytes).expect("has a form");
        decode(&bytes).expect("reads back")
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-(1i64 << 30)..1 << 30).prop_map(Value::Int), // larger ones travel as doubles
            (-1e300..1e300f64).prop_map(|n| Value::Num(n.trunc() + 0.5)),
            ".*".prop_map(Value::Str),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::vec((".{0,8}", inner), 0..6).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any_value()) {
            prop_assert_eq!(round(&value), value);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Value>(&bytes);
            bytes.splice(0..0, [0xff, 0x0f]);
            let _ = decode::<Value>(&bytes);
            let _ = decode::<serde::de::IgnoredAny>(&bytes);
        }

        #[test]
        fn a_cut_value_is_an_error_and_skipping_agrees_with_reading(value in any_value(), cut in 0.0..1.0f64) {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes).expect("has a form");
            decode::<serde::de::IgnoredAny>(&bytes).expect("can be skipped");
            let short = &bytes[..(bytes.len() as f64 * cut) as usize];
            prop_assert!(decode::<Value>(short).is_err());
            prop_assert!(decode::<serde::de::IgnoredAny>(short).is_err());
        }
    }

    /// Written by Node 20's `v8.Serializer` as `child_process` sets it up.
    #[test]
    fn values_written_by_node_are_read() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
                .collect()
        };
        let cases = [
            ("ff0f220572656164 79".replace(' ', ""), Value::Str("ready".into())),
            // {a: 1, b: [1, -5, "x"], u: undefined}
            (
                "ff0f6f22016149022201624103490249092201782400032201755f7b03".into(),
                Value::Object(vec![
                    ("a".into(), Value::Int(1)),
                    (
                        "b".into(),
                        Value::Array(vec![Value::Int(1), Value::Int(-5), Value::Str("x".into())]),
                    ),
                    ("u".into(), Value::Null),
                ]),
            ),
            // Buffer.from([0, 255])
            ("ff0f5c000a0200ff".into(), Value::Bytes(vec![0, 255])),
            // "ż" is two-byte, and padded to an even offset where needed
            ("ff0f63027c01".into(), Value::Str("ż".into())),
        ];
        for (text, value) in cases {
            assert_eq!(decode::<Value>(&hex(&text)), Ok(value), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = vec![0xff, 0x0f];
        bytes.extend(std::iter::repeat_n([b'A', 1], 100_000).flatten());
        assert!(matches!(decode::<Value>(&bytes), Err(Error::TooDeep(_))));
        assert!(matches!(decode::<serde::de::IgnoredAny>(&bytes), Err(Error::TooDeep(_))));
    }
}
