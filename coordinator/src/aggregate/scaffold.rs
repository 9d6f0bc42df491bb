//! The coordinator's half of SCAFFOLD: c, the mean of the sites' control variates, from one round to
//! the next (`consilium_common::update::control` has the whole of it).

use consilium_common::update::grid::step;

use super::server_opt::StepError;

/// What the round's sum of Δcᵢ is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Members {
    /// N: sites whose cᵢ is part of c before the round; 0 before the first, where c is zero.
    pub before: usize,
    /// N⁺: those and the sites that counted for the first time.
    pub after: usize,
    /// The step of Δcᵢ is 2^this.
    pub step_exponent: i32,
}

/// c⁺ = (N·c + Σ Δcᵢ) / N⁺, each coordinate by itself: in f64 in this order, rounded once to f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ControlStep {
    before: f64,
    after: f64,
    step: f64,
}

impl ControlStep {
    /// # Errors
    /// No site is a member after the round, or fewer than before.
    pub(super) fn new(members: Members) -> Result<Self, StepError> {
        let Members { before, after, step_exponent } = members;
        let counts = [before, after].map(|count| u32::try_from(count).map(f64::from));
        match counts {
            [Ok(before), Ok(after)] if after >= before.max(1.0) => {
                Ok(Self { before, after, step: step(step_exponent) })
            }
            _ => Err(StepError::Members { before, after }),
        }
    }

    /// c⁺ of one coordinate; `sum` is that of Δcᵢ in grid units.
    #[expect(clippy::cast_precision_loss, reason = "the formula's first rounding")]
    pub(super) fn next(&self, c: f64, sum: i64) -> f64 {
        (self.before * c + sum as f64 * self.step) / self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(before: usize, after: usize, c: f64, sum: i64) -> f64 {
        ControlStep::new(Members { before, after, step_exponent: -2 }).unwrap().next(c, sum)
    }

    /// Sites that come, stay away and come back: c is the mean of all that have counted, and once
    /// nobody comes anew it moves as the paper says.
    #[test]
    fn c_is_the_mean_of_the_variates_of_all_that_have_counted() {
        let near = |have: f64, need: f64| assert!((have - need).abs() < 1e-12, "{have} {need}");
        let mut own = [0.0; 3];
        let mut c = next(0, 2, 0.0, 8 - 2);
        (own[0], own[1]) = (2.0, -0.5);
        near(c, (own[0] + own[1]) / 2.0);
        c = next(2, 3, c, -4 + 40);
        own = [own[0] - 1.0, own[1], 10.0];
        near(c, own.iter().sum::<f64>() / 3.0);
        // Two of three: c + |S|/N · mean Δc (algorithm 1, line 17).
        let paper = c + 2.0 / 3.0 * ((0.25 + 1.0) / 2.0);
        near(next(3, 3, c, 1 + 4), paper);
    }

    #[test]
    fn nobody_is_no_mean() {
        for (before, after) in [(0, 0), (2, 1), (0, usize::MAX)] {
            let step = ControlStep::new(Members { before, after, step_exponent: -2 });
            assert_eq!(step, Err(StepError::Members { before, after }));
        }
    }
}
