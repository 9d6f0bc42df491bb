//! Inputs from inputs, by a seed: the few changes that break decoders most often. (libFuzzer, which
//! sees what code an input reaches, knows more of them.)

use consilium_common::random::Generator;

/// Numbers at which lengths and counts go wrong.
const NUMBERS: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0xffff, (1 << 20) + 1, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
/// Bytes inserted at once, at most.
const INSERTED_MAX: u32 = 40;

/// Changes `input` in one to four places; `other` is another input of the same target.
pub fn mutate(random: &mut Generator, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        change(random, input, other);
    }
}

fn change(random: &mut Generator, input: &mut Vec<u8>, other: &[u8]) {
    let at = place(random, input.len() + 1);
    match random.below(8) {
        0 => flip(random, input),
        1 => input.truncate(at),
        2 => drop(input.drain(at..(at + place(random, 16)).min(input.len()))),
        3 => {
            let filler = byte(random);
            let count = random.below(INSERTED_MAX) as usize;
            drop(input.splice(at..at, std::iter::repeat_n(filler, count)));
        }
        4 => {
            let piece = piece(random, other);
            drop(input.splice(at..at, piece.iter().copied()));
        }
        5 => {
            let own = piece(random, input).to_vec();
            drop(input.splice(at..at, own));
        }
        6 => {
            let ends = [0; 9].map(|_: u8| byte(random));
            drop(input.splice(at..(at + 4).min(input.len()), ends.into_iter().take(4)));
        }
        _ => number(random, input, at),
    }
}

fn flip(random: &mut Generator, input: &mut [u8]) {
    let at = place(random, input.len());
    let bit = random.below(8);
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

/// Puts a number over the bytes from `at` on, little-endian, 1 to 8 bytes wide.
fn number(random: &mut Generator, input: &mut [u8], at: usize) {
    let chosen = NUMBERS.get(place(random, NUMBERS.len())).copied().unwrap_or_default();
    let width = 1 << random.below(4);
    let places = input.iter_mut().skip(at).take(width);
    for (to, from) in places.zip(chosen.to_le_bytes()) {
        *to = from;
    }
}

/// A piece of `bytes`.
fn piece<'a>(random: &mut Generator, bytes: &'a [u8]) -> &'a [u8] {
    let from = place(random, bytes.len() + 1);
    let rest = bytes.get(from..).unwrap_or_default();
    let length = place(random, rest.len() + 1);
    rest.get(..length).unwrap_or_default()
}

fn place(random: &mut Generator, bound: usize) -> usize {
    random.below(u32::try_from(bound).unwrap_or(u32::MAX)) as usize
}

fn byte(random: &mut Generator) -> u8 {
    random.next_u32().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_inputs_and_they_differ_from_what_they_came_from() {
        let inputs = || {
            let mut random = Generator::new("mutate test", b"7");
            let one = |_| {
                let mut input = b"an input of some length".to_vec();
                mutate(&mut random, &mut input, b"another");
                input
            };
            (0..1000).map(one).collect::<Vec<_>>()
        };
        assert_eq!(inputs(), inputs());
        let changed = inputs().iter().filter(|input| *input != b"an input of some length").count();
        assert!(changed > 900, "{changed}");
    }
}
