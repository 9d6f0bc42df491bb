//! SCAFFOLD's control variates (Karimireddy et al. 2020, algorithm 1 with option II), each coordinate of
//! a layout's weights by itself.
//!
//! A site's cᵢ is the mean gradient of its last round that counted, the coordinator's c the mean of them.
//! In a round of K steps of sizes η₁ … η_K from the base x to y, with gradients g:
//!
//! | what | formula | where |
//! |---|---|---|
//! | a step | y − η·(g + ([`correction`])), the correction being c − cᵢ | worker |
//! | cᵢ⁺ − cᵢ | [`change`]: −c − (y − x) / Σηₖ | daemon |
//! | Δcᵢ | the change, clipped to `control_clip_norm` and rounded to a grid of its own | update |
//! | cᵢ⁺ | [`advanced`]: cᵢ + Δcᵢ, once the update counts | site |
//! | c⁺ | (N·c + Σ Δcᵢ) / N⁺ | coordinator |
//!
//! The paper divides by K·η; with a schedule the sizes differ, and their sum stands in its place.
//! `clip_gradient` shortens g before it is corrected, so cᵢ is the mean of the shortened gradients, with the
//! term of `weight_decay` in them.
//!
//! N counts the sites whose cᵢ is part of c. It is the paper's from the first round on in which all take
//! part: then c⁺ = c + |S|/N · mean Δcᵢ. A site that comes later adds itself to the mean.
//!
//! A site moves its cᵢ by what it has sent, clipped and rounded as it is, and so does c: c stays the mean
//! of the cᵢ whatever the clip bound, up to f32. That is what SCAFFOLD rests on. Where the mean of the
//! cᵢ is not c, the sites settle beside the optimum, for good.

use super::grid::{step, step_exponent};
use crate::study::sections::{Aggregation, Strategy};

/// The grid of a section: its clip bound, and the step that goes with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// The clip bound on the section's L2 norm.
    pub clip_norm: f64,
    /// The step is 2^this.
    pub step_exponent: i32,
}

impl Grid {
    /// The grid of a clip bound, finite and above 0.
    #[must_use]
    pub fn of(clip_norm: f64) -> Self {
        Self { clip_norm, step_exponent: step_exponent(clip_norm) }
    }

    /// The step.
    #[must_use]
    pub fn step(&self) -> f64 {
        step(self.step_exponent)
    }
}

impl Aggregation {
    /// The grid of the updates' `control` section, if the strategy has one.
    #[must_use]
    pub fn control_grid(&self) -> Option<Grid> {
        // A study that was read has the number under this strategy, and under no other.
        let clip = self.control_clip_norm.filter(|_| self.strategy == Strategy::Scaffold);
        clip.map(Grid::of)
    }
}

/// c − cᵢ, which every gradient of the round has added.
#[must_use]
pub fn correction(common: f32, own: f32) -> f32 {
    common - own
}

/// What the round changes cᵢ by, before clipping: −c − (y − x)/Σηₖ, in f64, rounded once. `moved` is
/// y − x, unclipped; `steps` is Σηₖ.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the formula's one rounding")]
pub fn change(common: f32, moved: f32, steps: f64) -> f32 {
    (-f64::from(common) - f64::from(moved) / steps) as f32
}

/// cᵢ⁺: cᵢ and what the site has sent of its change, in units of `step`; in f64, rounded once.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the formula's one rounding")]
pub fn advanced(own: f32, units: i32, step: f64) -> f32 {
    (f64::from(own) + f64::from(units) * step) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One coordinate of one site, by the paper's line 12, option II, in f64.
    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "numbers of a model are f32")]
    fn the_change_of_a_round_is_the_papers() {
        let (x, c, own) = (0.75_f64, 0.125, -0.5);
        let (mut y, mut gradients) = (x, Vec::new());
        for rate in [0.1, 0.05, 0.2] {
            let g = 3.0 * (y - 2.0);
            gradients.push(g);
            y -= rate * (g - own + c);
        }
        let steps = 0.1 + 0.05 + 0.2;
        let paper = own - c + (x - y) / steps;
        let have = f64::from(own as f32) + f64::from(change(c as f32, (y - x) as f32, steps));
        assert!((have - paper).abs() < 1e-6, "{have} {paper}");
        // It is the mean of the gradients, weighed by their steps.
        let mean: f64 = gradients.iter().zip([0.1, 0.05, 0.2]).map(|(g, rate)| g * rate).sum();
        assert!((paper - mean / steps).abs() < 1e-12);
    }

    #[test]
    fn a_site_moves_by_what_it_has_sent() {
        let grid = Grid::of(0.3);
        assert_eq!(grid.step_exponent, -31);
        assert!((advanced(0.25, 1 << 29, grid.step()) - 0.5).abs() < f32::EPSILON);
        assert!((advanced(0.25, -(1 << 29), grid.step())).abs() < f32::EPSILON);
        assert!((correction(0.25, 1.0) + 0.75).abs() < f32::EPSILON);
    }
}
