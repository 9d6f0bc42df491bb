//! Our own generator, so that a seed means the same bytes on every machine and in every release:
//! the ChaCha20 keystream (RFC 8439 §2.4, nonce zero) under a key derived from what the numbers
//! are for.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroize;

/// Words made at once: four blocks of the cipher's widest kernel.
const WORDS: usize = 256;

/// A deterministic stream of numbers.
pub struct Generator {
    cipher: ChaCha20,
    /// The keystream's next words; those before `used` are spent.
    words: [u32; WORDS],
    used: usize,
}

impl Generator {
    /// A generator for `purpose`: the key is BLAKE3's `derive_key` (context
    /// `consilium/random/1`) of purpose, 0x00 and `seed`.
    #[must_use]
    pub fn new(purpose: &str, seed: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("consilium/random/1");
        hasher.update(purpose.as_bytes()).update(&[0]).update(seed);
        let mut key = *hasher.finalize().as_bytes();
        let cipher = ChaCha20::new(&key.into(), &[0; 12].into());
        key.zeroize();
        Self { cipher, words: [0; WORDS], used: WORDS }
    }

    fn refill(&mut self) {
        let mut bytes = [0; 4 * WORDS];
        self.cipher.apply_keystream(&mut bytes);
        let (words, _) = bytes.as_chunks::<4>();
        for (to, from) in self.words.iter_mut().zip(words) {
            *to = u32::from_le_bytes(*from);
        }
        bytes.zeroize();
        self.used = 0;
    }

    /// Four bytes of the keystream, little-endian.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == WORDS {
            self.refill();
        }
        let word = self.words.get(self.used).copied().unwrap_or_default();
        self.used += 1;
        word
    }

    /// Fills `words` as [`Generator::next_u32`] would, many at a time.
    pub fn fill(&mut self, mut words: &mut [u32]) {
        while !words.is_empty() {
            if self.used == WORDS {
                self.refill();
            }
            let ready = self.words.get(self.used..).unwrap_or_default();
            let (now, later) = words.split_at_mut(words.len().min(ready.len()));
            for (to, from) in now.iter_mut().zip(ready) {
                *to = *from;
            }
            self.used += now.len();
            words = later;
        }
    }

    /// Eight bytes, low word first.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | (u64::from(self.next_u32()) << 32)
    }

    /// Uniform in [0, 1) with 32 bits, exact in f64.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.next_u32()) / 4_294_967_296.0
    }

    /// Uniform in `0..bound` without bias (rejection; Lemire 2019). `bound` 0 gives 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let threshold = bound.wrapping_neg().checked_rem(bound).unwrap_or(0);
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            let (high, low) = ((product >> 32) as u32, (product & 0xffff_ffff) as u32);
            if low >= threshold {
                return high;
            }
        }
    }

    /// Fisher–Yates. The slice must be shorter than 2^32.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let bound = u32::try_from(i).unwrap_or(u32::MAX - 1) + 1;
            items.swap(i, self.below(bound) as usize);
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Generator(state not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_for_ever() {
        let mut g = Generator::new("test", b"seed");
        let first: Vec<u32> = (0..4).map(|_| g.next_u32()).collect();
        let mut again = Generator::new("test", b"seed");
        assert_eq!(first, (0..4).map(|_| again.next_u32()).collect::<Vec<_>>());
        let mut other = Generator::new("other", b"seed");
        assert_ne!(first.first(), Some(&other.next_u32()));
    }

    #[test]
    fn words_many_at_a_time_are_the_same_words() {
        let (mut one, mut many) = (Generator::new("test", b"run"), Generator::new("test", b"run"));
        for length in [0, 1, 300, 255, 256, 1000] {
            let mut words = vec![0; length];
            many.fill(&mut words);
            assert_eq!(words, (0..length).map(|_| one.next_u32()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut g = Generator::new("test", b"below");
        let mut seen = [0_u32; 7];
        for _ in 0..70_000 {
            seen[g.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (9_600..10_400).contains(&n)), "{seen:?}");
        assert_eq!(g.below(0), 0);
        assert_eq!(g.below(1), 0);
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..1000).collect();
        Generator::new("test", b"shuffle").shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
