//! A strategy's state as a file: `consilium/strategy/1` ‖ layout digest (32) ‖ the numbers of each of
//! the layout's weights in turn, as little-endian f32. Its BLAKE3 is its digest and its blob's name.

use super::layout::Layout;
use crate::ids::Digest;

/// First bytes of a strategy's state.
pub const STATE_DOMAIN: &[u8; 20] = b"consilium/strategy/1";
/// Bytes before its numbers: the domain and the layout's digest.
pub const STATE_HEADER_BYTES: usize = STATE_DOMAIN.len() + 32;

/// The bytes before a state's numbers.
#[must_use]
pub fn state_header(layout: &Digest) -> [u8; STATE_HEADER_BYTES] {
    let mut header = [0; STATE_HEADER_BYTES];
    let (domain, digest) = header.split_at_mut(STATE_DOMAIN.len());
    domain.copy_from_slice(STATE_DOMAIN);
    digest.copy_from_slice(&layout.0);
    header
}

/// Bytes of a state that has so many numbers of each weight of a model in this layout.
#[must_use]
pub fn state_bytes_len(layout: &Layout, values: usize) -> u64 {
    STATE_HEADER_BYTES as u64 + 4 * layout.weights_len() as u64 * values as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::layout::Kind;

    #[test]
    fn a_state_is_headed_by_its_layout() {
        let tensors = [("a", 2, Kind::Weight), ("fixed", 3, Kind::Frozen)];
        let tensors = tensors.map(|(name, len, kind)| (name.to_owned(), vec![len], kind));
        let layout = Layout::new(tensors).unwrap();
        let header = state_header(&layout.digest());
        assert_eq!(
            (&header[..20], &header[20..]),
            (&b"consilium/strategy/1"[..], &layout.digest().0[..])
        );
        assert_eq!([1, 2].map(|values| state_bytes_len(&layout, values)), [52 + 8, 52 + 16]);
    }
}
