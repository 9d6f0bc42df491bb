//! v0 from (spec, seed), the same bytes on every machine: ChaCha20 and + − × ÷ sqrt only.

use crate::random::Generator;

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Glorot uniform: U(−b, b), b = sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16).
    GlorotUniform {
        /// Inputs of one unit (times the kernel's area for convolutions).
        fan_in: u32,
        /// Outputs (times the kernel's area).
        fan_out: u32,
    },
    /// He uniform, for what ReLU follows: U(−b, b), b = sqrt(6 / fan_in), whose variance is 2 / fan_in
    /// (He et al. 2015, eq. 10).
    HeUniform {
        /// Inputs of one unit (times the kernel's area for convolutions).
        fan_in: u32,
    },
    /// Vectors of `width`, a row each: the first, which stands for padding, zero, the others
    /// U(−b, b), b = 1 / sqrt(width).
    Embedding {
        /// Length of a vector.
        width: u32,
    },
    /// U(−bound, bound).
    Uniform {
        /// b.
        bound: f64,
    },
}

/// Fills one tensor of v0. The numbers depend on the seed and the tensor's name alone, so a layer
/// added elsewhere does not change them.
pub fn fill(init: Init, name: &str, seed: u64, values: &mut [f32]) {
    let generator = || Generator::new(&format!("v0/{name}"), &seed.to_le_bytes());
    match init {
        Init::Zeros => values.fill(0.0),
        Init::Ones => values.fill(1.0),
        Init::GlorotUniform { fan_in, fan_out } => {
            let bound = (6.0 / (f64::from(fan_in) + f64::from(fan_out))).sqrt();
            uniform(bound, &mut generator(), values);
        }
        Init::HeUniform { fan_in } => {
            uniform((6.0 / f64::from(fan_in)).sqrt(), &mut generator(), values);
        }
        Init::Embedding { width } => {
            let (padding, rows) = values.split_at_mut(values.len().min(width as usize));
            padding.fill(0.0);
            uniform(1.0 / f64::from(width).sqrt(), &mut generator(), rows);
        }
        Init::Uniform { bound } => uniform(bound, &mut generator(), values),
    }
}

/// U(−bound, bound), in the order of `values`.
pub fn uniform(bound: f64, generator: &mut Generator, values: &mut [f32]) {
    for value in values {
        #[expect(clippy::cast_possible_truncation, reason = "one rounding, to nearest")]
        let rounded = ((2.0 * generator.unit() - 1.0) * bound) as f32;
        *value = rounded;
    }
}
