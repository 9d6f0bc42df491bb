//! serde for byte arrays: hexadecimal in text formats, raw bytes on the wire.

use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::SerializeTuple};

pub(crate) fn serialize<S: Serializer, const N: usize>(
    bytes: &[u8; N],
    s: S,
) -> Result<S::Ok, S::Error> {
    if s.is_human_readable() {
        return s.serialize_str(&hex::encode(bytes));
    }
    let mut tuple = s.serialize_tuple(N)?;
    for byte in bytes {
        tuple.serialize_element(byte)?;
    }
    tuple.end()
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
    d: D,
) -> Result<[u8; N], D::Error> {
    let mut bytes = [0; N];
    if d.is_human_readable() {
        let text = String::deserialize(d)?;
        let told = || D::Error::custom(format!("expected {} hexadecimal digits", 2 * N));
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| told())?;
        return Ok(bytes);
    }
    d.deserialize_tuple(N, Raw::<N>)
}

struct Raw<const N: usize>;

impl<'de, const N: usize> serde::de::Visitor<'de> for Raw<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; N], A::Error> {
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(i, &self))?;
        }
        Ok(bytes)
    }
}
