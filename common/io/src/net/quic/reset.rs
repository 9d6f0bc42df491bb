//! Stateless resets (RFC 9000 §10.3) that outlive the process: a listener that was killed and
//! started again under the same secret answers the packets of connections it knows nothing of, and
//! their dialers learn at once what they would otherwise take for silence.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::random::Generator;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};

use super::draw_randomness;

/// Between two resets: nothing. quinn's 20 ms are 50 a second, and it takes the packets that it reads
/// together for simultaneous, so that any interval leaves most of a crowd without an answer; each of them
/// asks again after twice the time, and the last of a thousand agents learned from 30 s of silence that
/// its coordinator was gone (`cargo xtask bench transfer`). A reset is shorter than the packet that it
/// answers: nobody is flooded with them, and two endpoints cannot keep each other busy.
const RESET_INTERVAL_MIN: Duration = Duration::ZERO;
/// Bytes of a tag; a reset token is its first 16.
const TAG_BYTES: usize = 32;

/// BLAKE3 keyed by a key derived from the listener's secret.
struct ResetKey([u8; 32]);

impl ResetKey {
    fn tag(&self, data: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, data)
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = self.tag(data);
        for (to, from) in signature_out.iter_mut().zip(tag.as_bytes()) {
            *to = *from;
        }
    }

    fn signature_len(&self) -> usize {
        TAG_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let given: [u8; TAG_BYTES] = signature.try_into().map_err(|_| CryptoError)?;
        // blake3::Hash compares in constant time.
        if self.tag(data) == blake3::Hash::from_bytes(given) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Plain random connection ids: quinn's own generator would take the ids of an earlier process for
/// garbage and stay silent.
struct RandomIds(Generator);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.next_u64().to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Makes `config`'s reset tokens follow from `secret`.
pub(super) fn lasting(config: &mut EndpointConfig, secret: &[u8; 32]) {
    config.min_reset_interval(RESET_INTERVAL_MIN);
    let key = blake3::derive_key("consilium/quic-reset/1", secret);
    config.reset_key(Arc::new(ResetKey(key))).cid_generator(|| {
        let generator = Generator::new("connection ids", &draw_randomness());
        Box::new(RandomIds(generator))
    });
}
