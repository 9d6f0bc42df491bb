//! The flat vector and its file form.
//!
//! A model's bytes are `consilium/model/1` ‖ layout digest (32) ‖ the vector as little-endian f32.
//! (Integer counters, which no built-in family has, would follow.) The model digest is BLAKE3 of
//! exactly these bytes, so a model's file, its blob name and its digest are one thing.

use crate::ids::Digest;
use crate::le;
use crate::tensor::layout::Layout;

/// First bytes of a model.
pub const MODEL_DOMAIN: &[u8; 17] = b"consilium/model/1";
/// Bytes before the vector.
pub const MODEL_HEADER_BYTES: usize = MODEL_DOMAIN.len() + 32;

/// Why bytes are not a model of this layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Another length than header + 4 bytes a parameter.
    #[error("the model has {have} bytes, {need} expected for its layout")]
    Length {
        /// Bytes given.
        have: u64,
        /// Bytes that the layout needs.
        need: u64,
    },
    /// Does not start as a model does.
    #[error("this is not a model: it does not start with `consilium/model/1`")]
    Magic,
    /// A model of another layout.
    #[error("the model has layout {have:?}, the study has {need:?}")]
    Layout {
        /// Digest in the file.
        have: Digest,
        /// Digest of the study's layout.
        need: Digest,
    },
}

/// The bytes before the vector.
#[must_use]
pub fn model_header(layout: &Digest) -> [u8; MODEL_HEADER_BYTES] {
    let mut header = [0; MODEL_HEADER_BYTES];
    let (magic, digest) = header.split_at_mut(MODEL_DOMAIN.len());
    magic.copy_from_slice(MODEL_DOMAIN);
    digest.copy_from_slice(&layout.0);
    header
}

/// Bytes of a model file in this layout.
#[must_use]
pub fn model_bytes_len(layout: &Layout) -> u64 {
    MODEL_HEADER_BYTES as u64 + 4 * layout.len() as u64
}

/// The whole model as bytes. `vector.len()` must be `layout.len()`.
#[must_use]
pub fn encode_model(layout: &Layout, vector: &[f32]) -> Vec<u8> {
    debug_assert_eq!(vector.len(), layout.len());
    let mut bytes = Vec::with_capacity(MODEL_HEADER_BYTES + 4 * vector.len());
    bytes.extend_from_slice(&model_header(&layout.digest()));
    le::extend_f32(&mut bytes, vector);
    bytes
}

/// Checks a header against the layout.
///
/// # Errors
/// Not a model, or one of another layout.
pub fn check_model_header(bytes: &[u8], layout: &Layout) -> Result<(), ModelError> {
    let header = bytes.get(..MODEL_HEADER_BYTES).ok_or(ModelError::Magic)?;
    let digest = header.strip_prefix(MODEL_DOMAIN).ok_or(ModelError::Magic)?;
    let have = Digest(digest.try_into().map_err(|_| ModelError::Magic)?);
    let need = layout.digest();
    if have == need { Ok(()) } else { Err(ModelError::Layout { have, need }) }
}

/// Reads a model's vector.
///
/// # Errors
/// Not a model, one of another layout, or of the wrong length.
pub fn decode_model(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, ModelError> {
    check_model_header(bytes, layout)?;
    let need = model_bytes_len(layout);
    if bytes.len() as u64 != need {
        return Err(ModelError::Length { have: bytes.len() as u64, need });
    }
    Ok(decode_f32(bytes.get(MODEL_HEADER_BYTES..).unwrap_or_default()))
}

/// Little-endian f32s; a ragged end is left out.
#[must_use]
pub fn decode_f32(bytes: &[u8]) -> Vec<f32> {
    le::f32s(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::layout::Kind;

    #[test]
    fn a_model_file_is_its_own_preimage() {
        let layout = Layout::new([("a".to_owned(), vec![3], Kind::Weight)]).unwrap();
        let bytes = encode_model(&layout, &[1.0, -2.5, f32::MIN_POSITIVE]);
        assert_eq!(bytes.len() as u64, model_bytes_len(&layout));
        assert_eq!(decode_model(&bytes, &layout).unwrap(), [1.0, -2.5, f32::MIN_POSITIVE]);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"consilium/model/1").update(&layout.digest().0);
        for x in [1.0_f32, -2.5, f32::MIN_POSITIVE] {
            hasher.update(&x.to_le_bytes());
        }
        assert_eq!(Digest::of(&bytes), hasher.finalize().into());
    }

    #[test]
    fn every_way_of_being_no_model_is_told() {
        let layout = Layout::new([("a".to_owned(), vec![2], Kind::Weight)]).unwrap();
        let other = Layout::new([("b".to_owned(), vec![2], Kind::Weight)]).unwrap();
        let good = encode_model(&layout, &[1.0, 2.0]);
        assert_eq!(decode_model(&[], &layout), Err(ModelError::Magic));
        assert_eq!(decode_model(&[0; 57], &layout), Err(ModelError::Magic));
        let short = good.get(..56).unwrap();
        assert_eq!(decode_model(short, &layout), Err(ModelError::Length { have: 56, need: 57 }));
        assert!(matches!(decode_model(&good, &other), Err(ModelError::Layout { .. })));
    }
}
