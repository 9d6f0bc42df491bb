//! Pictures of one training step, each changed by itself as `[training.augment]` says. All that is drawn
//! comes from the task's generator, so that a seed means the same changes.

use consilium_common::random::Generator;
use consilium_common::study::Augment;
use tch::{Kind, TchError, Tensor};

/// Where a pixel comes from between others: a weighted mean of its four neighbours (PyTorch's
/// `grid_sample`, mode `bilinear`).
const BILINEAR: i64 = 0;
/// What comes from outside of the picture takes the colour of its edge (padding mode `border`).
const BORDER: i64 = 1;
/// White.
const WHITE: f64 = 255.0;

/// Pictures (0 to 255, records × channels × height × width) with changes of their own: f32, the same
/// range and size. First flips, then growth and turn about the middle, then the shift; last the noise.
pub(crate) fn augment(
    spec: &Augment,
    pictures: &Tensor,
    generator: &mut Generator,
) -> Result<Tensor, TchError> {
    let (records, _, height, width) = pictures.size4()?;
    let mut changed = pictures.f_to_kind(Kind::Float)?;
    if spec.moves() {
        let sides = [height, width].map(as_f64);
        let maps: Vec<f32> =
            (0..records).flat_map(|_| map(spec, sides, generator).map(as_f32)).collect();
        let maps = Tensor::f_from_slice(&maps)?.f_view([records, 2, 3])?;
        let maps = maps.f_to_device(pictures.device())?;
        let grid = Tensor::f_affine_grid_generator(&maps, pictures.size().as_slice(), false)?;
        changed = changed.f_grid_sampler_2d(&grid, BILINEAR, BORDER, false)?;
    }
    if spec.noise > 0.0 {
        let noise = noise(spec.noise * WHITE, changed.numel(), generator);
        let noise = Tensor::f_from_slice(&noise)?.f_view_as(&changed)?;
        changed = changed.f_add(&noise.f_to_device(pictures.device())?)?.f_clamp(0.0, WHITE)?;
    }
    Ok(changed)
}

/// Where the pixel at (x, y) of the changed picture comes from: two rows of three, for (x, y, 1) with
/// both coordinates from −1 to 1 over the picture. A turn is one of pixels, whatever the sides are.
fn map(spec: &Augment, sides: [f64; 2], generator: &mut Generator) -> [f64; 6] {
    let [height, width] = sides;
    let mut within = |most: f64| (2.0 * generator.unit() - 1.0) * most;
    let (right, down) = (within(spec.shift), within(spec.shift));
    let (sin, cos) = within(spec.rotate).to_radians().sin_cos();
    let zoom = 1.0 / (1.0 + within(spec.scale));
    let flips = spec.flip.map_or([false; 2], |flip| flip.axes());
    let [x, y] = flips.map(|flips| if flips && generator.unit() < 0.5 { -zoom } else { zoom });
    // A shift by a share of a side is twice that on a scale from −1 to 1.
    [x * cos, -y * sin * height / width, 2.0 * right, x * sin * width / height, y * cos, 2.0 * down]
}

/// Numbers of this standard deviation about 0, nearly normal: each the sum of the four bytes of a word,
/// so that nothing but integers is drawn. Four uniform bytes have the mean 510 and the variance
/// 4·(256² − 1)/12; none of the sums is further out than 3.5 standard deviations.
fn noise(deviation: f64, len: usize, generator: &mut Generator) -> Vec<f32> {
    let mut words = vec![0; len];
    generator.fill(&mut words);
    let unit = deviation / (65_535.0_f64 / 3.0).sqrt();
    let sum = |word: u32| word.to_le_bytes().into_iter().map(f64::from).sum::<f64>();
    words.into_iter().map(|word| as_f32((sum(word) - 510.0) * unit)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "one rounding, to nearest")]
fn as_f32(number: f64) -> f32 {
    number as f32
}

#[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
fn as_f64(side: i64) -> f64 {
    side as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_common::study::augment::Flip;
    use tch::Device;

    fn generator(seed: u8) -> Generator {
        Generator::new("augment", &[seed])
    }

    /// `records` times the same picture of 4 × 6 pixels, all of them different.
    fn pictures(records: i64) -> Tensor {
        let bytes: Vec<u8> = (0..24).map(|i| i * 10).collect();
        Tensor::from_slice(&bytes).view([1, 1, 4, 6]).repeat([records, 1, 1, 1])
    }

    fn changed(spec: &Augment, records: i64, seed: u8) -> Tensor {
        augment(spec, &pictures(records), &mut generator(seed)).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.contiguous().view(-1).try_into().unwrap()
    }

    fn near(a: &Tensor, b: &Tensor) -> bool {
        (a - b).abs().max().double_value(&[]) < 0.01
    }

    #[test]
    fn one_seed_gives_the_same_bits_and_another_one_others() {
        let spec =
            Augment { flip: Some(Flip::Both), shift: 0.2, rotate: 30.0, scale: 0.2, noise: 0.1 };
        let first = changed(&spec, 5, 1);
        assert_eq!(numbers(&first), numbers(&changed(&spec, 5, 1)));
        assert_ne!(numbers(&first), numbers(&changed(&spec, 5, 2)));
        assert_ne!(numbers(&first.get(0)), numbers(&first.get(1)), "each record by itself");
        assert_eq!((first.size(), first.kind()), (vec![5, 1, 4, 6], Kind::Float));
        let all = numbers(&first);
        assert!(all.iter().all(|pixel| (0.0..=255.0).contains(pixel)), "{all:?}");
    }

    #[test]
    fn every_second_picture_is_flipped_and_only_along_the_axes_named() {
        let plain = pictures(1).to_kind(Kind::Float);
        let [across, along, both] =
            [vec![3_i64], vec![2], vec![2, 3]].map(|axes| plain.flip(axes.as_slice()));
        for (flip, allowed) in [
            (Flip::Horizontal, vec![&plain, &across]),
            (Flip::Vertical, vec![&plain, &along]),
            (Flip::Both, vec![&plain, &across, &along, &both]),
        ] {
            let changed = changed(&Augment { flip: Some(flip), ..Augment::default() }, 400, 3);
            let mut counts = vec![0_usize; allowed.len()];
            for record in 0..400 {
                let picture = changed.narrow(0, record, 1);
                let which = allowed.iter().position(|allowed| near(&picture, allowed));
                counts[which.expect("a flip of the picture")] += 1;
            }
            let share = 400 / allowed.len();
            assert!(counts.iter().all(|n| n.abs_diff(share) < 40), "{flip:?}: {counts:?}");
        }
    }

    #[test]
    fn a_quarter_turn_of_a_map_turns_pixels_even_where_sides_differ() {
        // Radians of a quarter turn, by hand: the pixel at (x, y) comes from (−y, x) in pixels.
        let spec = Augment { rotate: 90.0, ..Augment::default() };
        let sides = [4.0, 6.0];
        for seed in 0..20 {
            let [a, b, dx, c, d, dy] = map(&spec, sides, &mut generator(seed));
            assert!(dx == 0.0 && dy == 0.0);
            // From pixels to the scale and back: lengths in pixels must not change.
            let (x, y) = (1.0 / 3.0, 1.0 / 2.0);
            let to = [(a * x + b * y) * 3.0, (c * x + d * y) * 2.0];
            let length = to[0].hypot(to[1]);
            assert!((length - 2.0_f64.sqrt()).abs() < 1e-9, "{to:?}");
        }
    }

    #[test]
    fn a_shift_stays_within_its_share_and_takes_the_edge_in() {
        let spec = Augment { shift: 0.5, ..Augment::default() };
        for seed in 0..50 {
            let [a, b, dx, c, d, dy] = map(&spec, [4.0, 6.0], &mut generator(seed));
            assert!((a - 1.0).abs() < 1e-12 && (d - 1.0).abs() < 1e-12 && b == 0.0 && c == 0.0);
            assert!(dx.abs() <= 1.0 && dy.abs() <= 1.0, "{dx} {dy}");
        }
        let grey = Tensor::full([3, 1, 4, 6], 77, (Kind::Uint8, Device::Cpu));
        let moved = augment(&spec, &grey, &mut generator(4)).unwrap();
        assert!(near(&moved, &Tensor::from(77.0_f32)), "no black comes in: {moved:?}");
    }

    #[test]
    fn noise_has_its_deviation_and_hardly_a_mean() {
        let noise = noise(10.0, 100_000, &mut generator(5));
        let mean = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
        let variance = noise.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.15, "{mean}");
        assert!((variance.sqrt() - 10.0).abs() < 0.15, "{}", variance.sqrt());
    }
}
