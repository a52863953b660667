//! Reads any value Node can send; what nobody asked for is stepped over, not built.

use std::borrow::Cow;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use super::Error;

/// Deeper than any message of Node's cluster or of Socket.IO; shallow enough for any stack.
const MAX_DEPTH: usize = 100;

/// Reads one value with its `ff 0f` header.
///
/// # Errors
/// [`Error`]: not a value, or not a `T`.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    if bytes.first_chunk() != Some(&[0xff, 0x0f]) {
        return Err(Error::NotV8);
    }
    T::deserialize(&mut Reader { bytes, at: 2, depth: 0 })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// A value up to the point where its inside begins.
enum Token<'a> {
    Undefined,
    Bool(bool),
    Int(i64),
    Num(f64),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    /// Key and value pairs up to this end tag, then this many counts.
    Pairs {
        end: u8,
        counts: u8,
    },
    /// This many elements, then named properties.
    Dense(u64),
    /// Elements with their indices, as pairs: an array that has holes, or might have.
    Sparse(u64),
    /// Elements up to the end tag, then one count.
    Set,
    /// A tag that only announces the value after it (host objects, boxed strings).
    Again,
    Error,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Error> {
        let byte = *self.bytes.get(self.at).ok_or(Error::CutShort(self.at))?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let n = usize::try_from(n).map_err(|_| Error::CutShort(self.at))?;
        let taken = rest.get(..n).ok_or(Error::CutShort(self.bytes.len()))?;
        self.at += n;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut n = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(Error::custom(format!("a number of more than 10 bytes at byte {}", self.at)))
    }

    fn double(&mut self) -> Result<f64, Error> {
        let bytes = self.take(8)?.first_chunk().ok_or(Error::CutShort(self.at))?;
        Ok(f64::from_le_bytes(*bytes))
    }

    fn latin1(&mut self) -> Result<Cow<'a, str>, Error> {
        let n = self.varint()?;
        let bytes = self.take(n)?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) if bytes.is_ascii() => Cow::Borrowed(text),
            _ => Cow::Owned(bytes.iter().map(|&b| char::from(b)).collect()),
        })
    }

    fn tag(&mut self) -> Result<u8, Error> {
        loop {
            match self.byte()? {
                0 => {} // padding before two-byte strings
                tag => return Ok(tag),
            }
        }
    }

    fn peek_tag(&mut self) -> Result<u8, Error> {
        let tag = self.tag()?;
        self.at -= 1;
        Ok(tag)
    }

    /// Reads a tag and what follows it, up to the first nested value.
    fn token(&mut self) -> Result<Token<'a>, Error> {
        let at = self.at;
        Ok(match self.tag()? {
            b'_' | b'-' | b'0' => Token::Undefined,
            b'T' | b'y' => Token::Bool(true),
            b'F' | b'x' => Token::Bool(false),
            b'I' => {
                let n = self.varint()?;
                Token::Int((n >> 1) as i64 ^ -((n & 1) as i64))
            }
            b'U' => Token::Int(self.varint()? as i64),
            b'N' | b'n' | b'D' => Token::Num(self.double()?),
            b'"' => Token::Text(self.latin1()?),
            b'c' => {
                let n = self.varint()?;
                let units = self.take(n)?.chunks_exact(2).map(|u| u16::from_le_bytes([u[0], u[1]]));
                Token::Text(Cow::Owned(
                    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect(),
                ))
            }
            b'S' => {
                let n = self.varint()?;
                Token::Text(String::from_utf8_lossy(self.take(n)?))
            }
            b'Z' | b'z' => {
                let bits = self.varint()?;
                self.take(bits >> 1)?;
                Token::Undefined
            }
            b'^' => {
                self.varint()?;
                Token::Undefined
            }
            b'o' => Token::Pairs { end: b'{', counts: 1 },
            b'a' => Token::Sparse(self.varint()?),
            b';' => Token::Pairs { end: b':', counts: 1 },
            b'A' => Token::Dense(self.varint()?),
            b'\'' => Token::Set,
            b'B' => {
                let n = self.varint()?;
                let bytes = self.take(n)?;
                self.skip_view()?;
                Token::Bytes(bytes)
            }
            b'~' => {
                let n = self.varint()?;
                self.varint()?;
                let bytes = self.take(n)?;
                self.skip_view()?;
                Token::Bytes(bytes)
            }
            b'\\' => match self.varint()? {
                0 => {
                    self.varint()?;
                    let n = self.varint()?;
                    Token::Bytes(self.take(n)?)
                }
                _ => Token::Again,
            },
            b's' => Token::Again,
            b'R' => {
                self.deeper(Reader::skip)?;
                self.varint()?;
                Token::Undefined
            }
            b'r' => Token::Error,
            tag => return Err(Error::UnknownTag { tag, at }),
        })
    }

    /// An ArrayBuffer may be followed by the view that was meant.
    fn skip_view(&mut self) -> Result<(), Error> {
        if self.bytes.get(self.at) == Some(&b'V') {
            self.take(2)?;
            for _ in 0..3 {
                self.varint()?;
            }
        }
        Ok(())
    }

    fn counts(&mut self, n: u8) -> Result<(), Error> {
        for _ in 0..n {
            self.varint()?;
        }
        Ok(())
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep(MAX_DEPTH));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn skip(&mut self) -> Result<(), Error> {
        if let b'"' | b'c' | b'S' = self.peek_tag()? {
            self.at += 1;
            let length = self.varint()?;
            return self.take(length).map(drop); // whatever letters it is
        }
        match self.token()? {
            Token::Pairs { end, counts } => self.deeper(|r| r.skip_pairs(end, counts)),
            Token::Sparse(_) => self.deeper(|r| r.skip_pairs(b'@', 2)),
            Token::Dense(n) => self.deeper(|r| {
                for _ in 0..n {
                    r.skip()?;
                }
                r.skip_pairs(b'$', 2)
            }),
            Token::Set => self.deeper(|r| {
                while r.peek_tag()? != b',' {
                    r.skip()?;
                }
                r.at += 1;
                r.counts(1)
            }),
            Token::Again => self.deeper(Reader::skip),
            Token::Error => self.deeper(Reader::skip_error),
            _ => Ok(()),
        }
    }

    /// Named properties up to an end tag, which is consumed with its counts.
    fn skip_pairs(&mut self, end: u8, counts: u8) -> Result<(), Error> {
        while self.peek_tag()? != end {
            self.skip()?;
            self.skip()?;
        }
        self.at += 1;
        self.counts(counts)
    }

    /// Whether a sparse array of so many elements has each of them, in order, and nothing else. One
    /// that Node itself has received is written so.
    fn is_full(&mut self, length: u64) -> Result<bool, Error> {
        let at = self.at;
        let mut index = 0;
        let is_full = loop {
            match self.peek_tag()? {
                b'@' => break index == length,
                _ if !matches!(self.token()?, Token::Int(n) if n as u64 == index) => break false,
                _ => self.skip()?,
            }
            index += 1;
        };
        self.at = at;
        Ok(is_full)
    }

    fn skip_error(&mut self) -> Result<(), Error> {
        loop {
            match self.byte()? {
                b'.' => return Ok(()),
                b'm' | b's' | b'c' => self.skip()?,
                _ => {} // which of JavaScript's error types it is
            }
        }
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.token()? {
            Token::Undefined => visitor.visit_unit(),
            Token::Bool(v) => visitor.visit_bool(v),
            Token::Int(v) => visitor.visit_i64(v),
            Token::Num(v) => visitor.visit_f64(v),
            Token::Text(Cow::Borrowed(v)) => visitor.visit_borrowed_str(v),
            Token::Text(Cow::Owned(v)) => visitor.visit_string(v),
            Token::Bytes(v) => visitor.visit_bytes(v),
            Token::Pairs { end, counts } => self.deeper(|r| {
                let value = visitor.visit_map(Pairs { reader: r, end })?;
                r.skip_pairs(end, counts)?;
                Ok(value)
            }),
            Token::Sparse(n) => self.deeper(|r| {
                let value = if r.is_full(n)? {
                    visitor.visit_seq(Numbered { reader: r })?
                } else {
                    visitor.visit_map(Pairs { reader: r, end: b'@' })?
                };
                r.skip_pairs(b'@', 2)?;
                Ok(value)
            }),
            Token::Dense(n) => self.deeper(|r| {
                let mut items = Items { reader: r, left: Some(n) };
                let value = visitor.visit_seq(&mut items)?;
                for _ in 0..items.left.unwrap_or(0) {
                    r.skip()?;
                }
                r.skip_pairs(b'$', 2)?;
                Ok(value)
            }),
            Token::Set => self.deeper(|r| {
                let value = visitor.visit_seq(&mut Items { reader: r, left: None })?;
                while r.peek_tag()? != b',' {
                    r.skip()?;
                }
                r.at += 1;
                r.counts(1)?;
                Ok(value)
            }),
            Token::Again => self.deeper(|r| r.deserialize_any(visitor)),
            Token::Error => {
                self.deeper(Reader::skip_error)?;
                visitor.visit_unit()
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek_tag()? {
            b'_' | b'-' | b'0' => {
                self.at += 1;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier
    }
}

struct Pairs<'r, 'a> {
    reader: &'r mut Reader<'a>,
    end: u8,
}

impl<'de> MapAccess<'de> for Pairs<'_, 'de> {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        if self.reader.peek_tag()? == self.end {
            return Ok(None);
        }
        // Keys are strings, but for the integers of array-like objects.
        match self.reader.token()? {
            Token::Text(Cow::Borrowed(key)) => {
                seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(key)).map(Some)
            }
            Token::Text(Cow::Owned(key)) => seed.deserialize(key.into_deserializer()).map(Some),
            Token::Int(n) => seed.deserialize(n.to_string().into_deserializer()).map(Some),
            Token::Num(n) => seed.deserialize(n.to_string().into_deserializer()).map(Some),
            _ => Err(Error::custom(format!("a key that is no string at byte {}", self.reader.at))),
        }
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.reader)
    }
}

struct Items<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// How many are left; a set is not counted but ends in a tag.
    left: Option<u64>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        match &mut self.left {
            Some(0) => return Ok(None),
            Some(n) => *n -= 1,
            None if self.reader.peek_tag()? == b',' => return Ok(None),
            None => {}
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

/// The elements of a sparse array that is full.
struct Numbered<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl<'de> SeqAccess<'de> for Numbered<'_, 'de> {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.reader.peek_tag()? == b'@' {
            return Ok(None);
        }
        self.reader.skip()?; // its index
        seed.deserialize(&mut *self.reader).map(Some)
    }
}
