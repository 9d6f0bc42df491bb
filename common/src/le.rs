//! Vectors as little-endian bytes, four a value: how models, updates and words lie in files.

/// Appends values of four bytes each.
///
/// Room first, then words in place: several times as fast as a stream of single bytes.
pub fn extend(bytes: &mut Vec<u8>, words: impl ExactSizeIterator<Item = [u8; 4]>) {
    let start = bytes.len();
    bytes.resize(start + 4 * words.len(), 0);
    let (places, _) = bytes.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>();
    for (place, word) in places.iter_mut().zip(words) {
        *place = word;
    }
}

/// Appends f32s.
pub fn extend_f32(bytes: &mut Vec<u8>, values: &[f32]) {
    extend(bytes, values.iter().map(|x| x.to_le_bytes()));
}

/// Appends i32s.
pub fn extend_i32(bytes: &mut Vec<u8>, values: &[i32]) {
    extend(bytes, values.iter().map(|x| x.to_le_bytes()));
}

/// Appends u32s.
pub fn extend_u32(bytes: &mut Vec<u8>, values: &[u32]) {
    extend(bytes, values.iter().map(|x| x.to_le_bytes()));
}

/// The f32s in `bytes`; a ragged end is left out.
pub fn f32s(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_from_their_bytes() {
        let mut bytes = vec![9];
        extend_f32(&mut bytes, &[1.0, -2.5]);
        extend_i32(&mut bytes, &[-1]);
        extend_u32(&mut bytes, &[1 << 31]);
        assert_eq!(bytes[..5], [9, 0, 0, 0x80, 0x3f]);
        assert_eq!(bytes[9..], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x80]);
        assert_eq!(f32s(&bytes[1..10]).collect::<Vec<_>>(), [1.0, -2.5]);
    }
}
