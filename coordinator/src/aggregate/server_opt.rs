//! From a round's sum to the next model: the server's half of every strategy.
//!
//! With the mean delta Δ = Σ n_i·x_i / Σ n_i · 2^e, the base x, and the strategy's state m, v (before
//! the first round m = 0 and v = τ²), each coordinate by itself:
//!
//! | strategy | formula | source |
//! |---|---|---|
//! | `fedavg`, `fedprox`, `scaffold` | x + η·Δ | McMahan et al. 2017, alg. 1; Li et al. 2020, alg. 2; Karimireddy et al. 2020, alg. 1 |
//! | `fedavgm` | m′ = β·m + Δ; x + η·m′ | Hsu et al. 2019, section 4 |
//! | `fedadam` | m′ = β₁·m + (1−β₁)·Δ; v′ = β₂·v + (1−β₂)·Δ² | Reddi et al. 2021, alg. 2 |
//! | `fedyogi` | m′ as above; v′ = v − (1−β₂)·Δ²·sign(v − Δ²) | the same |
//! | `fedadagrad` | m′ as above; v′ = v + Δ² | the same |
//! | these three | x + η·m′ / (√v′ + τ) | the same |
//! | `scaffold` | its state is c, from a sum of its own | [`super::scaffold`] |
//!
//! In f64 and in the order in which the formulas are read, products and quotients from the left; then
//! one rounding to f32 of the model and of what is kept of m′ and v′. Rust contracts nothing into an
//! FMA and the root is IEEE's, so every machine gets the same bytes. Coordinates outside of the
//! layout's weights are copied from the base and have no state.

use consilium_common::limits::WEIGHT_SUM_MAX;
use consilium_common::study::{SecondMoment, ServerOptimizer};
use consilium_common::update::grid::step;

use super::scaffold::{ControlStep, Members};
use super::segments::Segment;

/// Why there is no next model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Nothing to divide by, or more than a sum holds.
    #[error("a sum of weights of {0} is none: it must lie within 1 and {WEIGHT_SUM_MAX}")]
    Weight(u64),
    /// Control variates of no sites, or of fewer than before.
    #[error("control variates of {after} sites after {before} are no mean")]
    Members {
        /// Sites before the round.
        before: usize,
        /// Sites after it.
        after: usize,
    },
    /// Bytes or sums that are not those of the segment.
    #[error("the segment has {need} numbers in the {what}, {have} were given")]
    Length {
        /// Base, sum or strategy state.
        what: &'static str,
        /// Numbers given.
        have: usize,
        /// Numbers that the segment has.
        need: usize,
    },
    /// A number that no f32 holds.
    #[error("the next {what} is not finite at parameter {at}")]
    NotFinite {
        /// Model or strategy state.
        what: &'static str,
        /// The parameter's place in the model's vector.
        at: usize,
    },
}

/// What was before, of one segment, as little-endian f32s.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The base's coordinates.
    pub base: &'a [u8],
    /// The state's numbers; `None` before the strategy's first round.
    pub state: Option<&'a [u8]>,
}

/// What comes next, likewise; segments are appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// The model's coordinates.
    pub model: Vec<u8>,
    /// The state's numbers.
    pub state: Vec<u8>,
}

/// One round's step from base to next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerStep {
    optimizer: ServerOptimizer,
    weight: f64,
    step: f64,
    control: Option<ControlStep>,
}

impl ServerStep {
    /// For a sum of weights W = Σ n_i and a grid step of 2^`step_exponent`.
    ///
    /// # Errors
    /// W is 0, or no sum has it.
    pub fn new(
        optimizer: ServerOptimizer,
        weight: u64,
        step_exponent: i32,
    ) -> Result<Self, StepError> {
        let within = (1..WEIGHT_SUM_MAX).contains(&weight);
        let exact = u32::try_from(weight).ok().filter(|_| within);
        Ok(Self {
            optimizer,
            weight: exact.map(f64::from).ok_or(StepError::Weight(weight))?,
            step: step(step_exponent),
            control: None,
        })
    }

    /// Under SCAFFOLD: what c becomes. Without it that strategy makes no next state.
    ///
    /// # Errors
    /// Nobody's mean.
    pub fn with_members(mut self, members: Members) -> Result<Self, StepError> {
        self.control = Some(ControlStep::new(members)?);
        Ok(self)
    }

    /// Appends the next model's bytes of one segment, and the state's if the segment has weights.
    /// `sum`: the whole sum of the round, under SCAFFOLD that of `shared`, then that of `control`.
    ///
    /// # Errors
    /// Something does not fit the segment, or is not finite; `next` is then of no use.
    pub fn next_segment(
        &self,
        segment: &Segment,
        before: Before<'_>,
        sum: &[i64],
        next: &mut Next,
    ) -> Result<(), StepError> {
        let need = segment.vector.len();
        fits("base", before.base.len() / 4, need)?;
        let Some(range) = &segment.sum else {
            next.model.extend_from_slice(before.base);
            return Ok(());
        };
        let short =
            StepError::Length { what: "sum", have: sum.len().saturating_sub(range.start), need };
        let corrects = matches!(self.optimizer, ServerOptimizer::Control { .. });
        let (shared, control) = sum.split_at(if corrects { sum.len() / 2 } else { sum.len() });
        let sum = shared.get(range.clone()).ok_or(short)?;
        if let Some(state) = before.state {
            fits("strategy state", state.len() / 4, need * self.optimizer.state_values())?;
        }
        let model = numbers(&mut next.model, need);
        let state = numbers(&mut next.state, need * self.optimizer.state_values());
        self.next_chunk(before, sum, model, state);
        if corrects {
            let control = control.get(range.clone()).ok_or(short)?;
            self.next_control(before.state, control, state)?;
        }
        let at = |what, found: Option<usize>| match found {
            None => Ok(()),
            Some(at) => Err(StepError::NotFinite { what, at: segment.vector.start + at }),
        };
        at("model", not_finite(model))?;
        at("strategy state", not_finite(state).map(|at| at / self.optimizer.state_values()))
    }

    fn next_chunk(&self, before: Before<'_>, sum: &[i64], model: &mut [Le], state: &mut [Le]) {
        match self.optimizer {
            ServerOptimizer::Mean { learning_rate }
            | ServerOptimizer::Control { learning_rate } => {
                for ((made, base), sum) in model.iter_mut().zip(les(before.base)).zip(sum) {
                    *made = le(value(*base) + learning_rate * self.mean(*sum));
                }
            }
            ServerOptimizer::Momentum { learning_rate, momentum } => {
                let follow = |[m]: [f64; 1], mean| {
                    let m = momentum * m + mean;
                    (learning_rate * m, [m])
                };
                self.with_state([0.0], before, sum, (model, state), follow);
            }
            ServerOptimizer::Adaptive { learning_rate, beta1, second, tau } => {
                let fresh = 1.0 - beta1;
                let follow = |[m, v]: [f64; 2], mean| {
                    let m = beta1 * m + fresh * mean;
                    let v = second_moment(second, v, mean * mean);
                    (learning_rate * m / (v.sqrt() + tau), [m, v])
                };
                self.with_state([0.0, tau * tau], before, sum, (model, state), follow);
            }
        }
    }

    /// A strategy with N numbers of state a coordinate, `initial` before its first round. `follow`:
    /// state and mean delta → what is added to the base, and the next state.
    fn with_state<const N: usize>(
        &self,
        initial: [f64; N],
        before: Before<'_>,
        sum: &[i64],
        (model, state): (&mut [Le], &mut [Le]),
        follow: impl Fn([f64; N], f64) -> (f64, [f64; N]),
    ) {
        let states = before.state.map(|state| les(state).as_chunks::<N>().0);
        let made = model.iter_mut().zip(state.as_chunks_mut::<N>().0);
        for (at, ((made, kept), (base, sum))) in
            made.zip(les(before.base).iter().zip(sum)).enumerate()
        {
            let was = states.and_then(|states| states.get(at));
            let was = was.map_or(initial, |was| was.map(value));
            let (added, next) = follow(was, self.mean(*sum));
            *made = le(value(*base) + added);
            *kept = next.map(le);
        }
    }

    /// c of one segment, from its sum.
    fn next_control(
        &self,
        before: Option<&[u8]>,
        sum: &[i64],
        state: &mut [Le],
    ) -> Result<(), StepError> {
        let step = self.control.ok_or(StepError::Members { before: 0, after: 0 })?;
        let before = before.map(les);
        for (at, (kept, sum)) in state.iter_mut().zip(sum).enumerate() {
            let c = before.and_then(|before| before.get(at)).copied().map_or(0.0, value);
            *kept = le(step.next(c, *sum));
        }
        Ok(())
    }

    /// Δ: the sum to f64, ÷ W, × step (exact, a power of two).
    #[expect(clippy::cast_precision_loss, reason = "the formula's first rounding")]
    fn mean(&self, sum: i64) -> f64 {
        sum as f64 / self.weight * self.step
    }
}

/// v′ from v and Δ².
fn second_moment(second: SecondMoment, v: f64, square: f64) -> f64 {
    match second {
        SecondMoment::Adam(beta2) => beta2 * v + (1.0 - beta2) * square,
        SecondMoment::Yogi(beta2) if v > square => v - (1.0 - beta2) * square,
        SecondMoment::Yogi(beta2) if v < square => v + (1.0 - beta2) * square,
        SecondMoment::Yogi(_) => v,
        SecondMoment::Adagrad => v + square,
    }
}

/// A little-endian f32.
type Le = [u8; 4];

fn les(bytes: &[u8]) -> &[Le] {
    bytes.as_chunks::<4>().0
}

fn value(bytes: Le) -> f64 {
    f32::from_le_bytes(bytes).into()
}

#[expect(clippy::cast_possible_truncation, reason = "the formula's last rounding")]
fn le(value: f64) -> Le {
    (value as f32).to_le_bytes()
}

/// Room for so many numbers at the end of `bytes`.
fn numbers(bytes: &mut Vec<u8>, count: usize) -> &mut [Le] {
    let start = bytes.len();
    bytes.resize(start + 4 * count, 0);
    bytes.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>().0
}

fn not_finite(numbers: &[Le]) -> Option<usize> {
    numbers.iter().position(|bytes| !f32::from_le_bytes(*bytes).is_finite())
}

fn fits(what: &'static str, have: usize, need: usize) -> Result<(), StepError> {
    if have == need { Ok(()) } else { Err(StepError::Length { what, have, need }) }
}

#[cfg(test)]
mod tests {
    //! Against a plain f64 reference, round after round, and against bits.

    use consilium_common::tensor::flat::decode_f32;
    use consilium_common::tensor::layout::{Kind, Layout};
    use proptest::prelude::*;

    use super::super::segments::segments;
    use super::*;

    const FEDAVG: ServerOptimizer = ServerOptimizer::Mean { learning_rate: 1.0 };
    const FEDAVGM: ServerOptimizer =
        ServerOptimizer::Momentum { learning_rate: 0.5, momentum: 0.9 };

    fn adaptive(second: SecondMoment) -> ServerOptimizer {
        ServerOptimizer::Adaptive { learning_rate: 0.1, beta1: 0.9, second, tau: 1e-3 }
    }

    fn all() -> [ServerOptimizer; 5] {
        [
            ServerOptimizer::Mean { learning_rate: 0.5 },
            FEDAVGM,
            adaptive(SecondMoment::Adam(0.99)),
            adaptive(SecondMoment::Yogi(0.99)),
            adaptive(SecondMoment::Adagrad),
        ]
    }

    fn layout(tensors: &[(&str, u32, Kind)]) -> Layout {
        let specs = tensors.iter();
        Layout::new(specs.map(|(name, len, kind)| ((*name).to_owned(), vec![*len], *kind))).unwrap()
    }

    fn weights(len: u32) -> Layout {
        layout(&[("a", len, Kind::Weight)])
    }

    fn le_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// The next model and state made segment by segment.
    fn next_of(
        layout: &Layout,
        step: ServerStep,
        base: &[f32],
        state: Option<&[f32]>,
        sum: &[i64],
    ) -> Result<(Vec<f32>, Vec<f32>), StepError> {
        let (base, state) = (le_bytes(base), state.map(le_bytes));
        let (mut next, mut read) = (Next::default(), 0);
        for segment in segments(layout) {
            let coordinates = segment.sum.as_ref().map_or(0, ExactSizeIterator::len);
            let bytes = 4 * coordinates * step.optimizer.state_values();
            let before = Before {
                base: &base[4 * segment.vector.start..4 * segment.vector.end],
                state: state.as_deref().map(|state| &state[read..read + bytes]),
            };
            step.next_segment(&segment, before, sum, &mut next)?;
            read += bytes;
        }
        Ok((decode_f32(&next.model), decode_f32(&next.state)))
    }

    fn mean_of(
        layout: &Layout,
        step: ServerStep,
        base: &[f32],
        sum: &[i64],
    ) -> Result<Vec<f32>, StepError> {
        next_of(layout, step, base, None, sum).map(|(model, _)| model)
    }

    #[test]
    fn the_mean_is_added_to_the_weights_and_to_nothing_else() {
        let layout =
            layout(&[("a", 2, Kind::Weight), ("mean", 2, Kind::Frozen), ("b", 1, Kind::Weight)]);
        let base = [1.0, -1.0, f32::NAN, 7.0, 0.5];
        let step = ServerStep::new(FEDAVG, 4, -2).unwrap();
        let made = mean_of(&layout, step, &base, &[16, -32, 8]).unwrap();
        assert_eq!(made[..2], [2.0, -3.0]);
        assert!(made[2].is_nan());
        assert_eq!(made[3..], [7.0, 1.0]);
        // A frozen part has no state either.
        let step = ServerStep::new(FEDAVGM, 4, -2).unwrap();
        let (made, state) = next_of(&layout, step, &base, None, &[16, -32, 8]).unwrap();
        assert_eq!((&made[..2], &made[3..]), (&[1.5, -2.0][..], &[7.0, 0.75][..]));
        assert_eq!(state, [1.0, -2.0, 0.5]);
        let (made, state) = next_of(&layout, step, &made, Some(&state), &[0, 0, 0]).unwrap();
        assert_eq!(made[3..], [7.0, 0.975]);
        assert_eq!(state, [0.9, -1.8, 0.45]);
    }

    #[test]
    fn the_result_is_rounded_once() {
        // 1 + 2^-24 + 2^-50 lies above the middle of two f32; rounding the mean first would lose that.
        let step = ServerStep::new(FEDAVG, 1, -50).unwrap();
        let made = mean_of(&weights(1), step, &[1.0], &[(1 << 26) + 1]).unwrap();
        assert_eq!(made, [1.0 + f32::EPSILON]);
    }

    const SUM: [i64; 3] = [1_234_567_890_123, -987_654_321_098_765, 3];
    const BASE: [f32; 3] = [0.1, -2.5, 1e-30];

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    /// Computed once more by hand, with Python's floats.
    #[test]
    fn golden_bits_that_every_machine_must_give() {
        let step = ServerStep::new(FEDAVG, 59_999, -26).unwrap();
        let made = mean_of(&weights(3), step, &BASE, &SUM).unwrap();
        assert_eq!(bits(&made), [0x3ed0_2fa0, 0xc377_ca6b, 0x2b51_b7fc]);
    }

    /// Two rounds of each strategy over one sum, likewise computed with Python's floats.
    #[test]
    fn golden_bits_of_every_strategy() {
        let golden = [
            (
                FEDAVGM,
                [0x3f0b_6a36, 0xc3b3_15f4, 0x2b98_0bca],
                vec![0x3f15_2301, 0xc3e9_06b2, 0x2bc7_3b96],
            ),
            (
                adaptive(SecondMoment::Adam(0.99)),
                [0x3ea8_245c, 0xc02f_04fd, 0x2d3e_d914],
                vec![0x3d6e_9e69, 0x3af5_57a8, 0xc23a_6bc2, 0x4495_aaae, 0x2a1f_62df, 0x3583_8bfb],
            ),
            (
                adaptive(SecondMoment::Yogi(0.99)),
                [0x3ea7_fa05, 0xc02e_ff77, 0x2d3e_0ebd],
                vec![0x3d6e_9e69, 0x3af6_93c6, 0xc23a_6bc2, 0x4496_6b37, 0x2a1f_62df, 0x3586_37bd],
            ),
            (
                adaptive(SecondMoment::Adagrad),
                [0x3dfc_aa35, 0xc021_7ff5, 0x2d3e_0ebd],
                vec![0x3d6e_9e69, 0x3e40_897f, 0xc23a_6bc2, 0x47eb_0786, 0x2a1f_62df, 0x3586_37bd],
            ),
        ];
        for (optimizer, model, state) in golden {
            let step = ServerStep::new(optimizer, 59_999, -26).unwrap();
            let (first, kept) = next_of(&weights(3), step, &BASE, None, &SUM).unwrap();
            let (second, kept) = next_of(&weights(3), step, &first, Some(&kept), &SUM).unwrap();
            assert_eq!(
                (bits(&second), bits(&kept)),
                (model.to_vec(), state.to_vec()),
                "{optimizer:?}"
            );
        }
    }

    /// The papers' formulas, one coordinate, nothing rounded between rounds.
    struct Reference {
        x: f64,
        m: f64,
        v: f64,
    }

    impl Reference {
        fn follow(&mut self, optimizer: ServerOptimizer, delta: f64) {
            match optimizer {
                ServerOptimizer::Mean { learning_rate }
                | ServerOptimizer::Control { learning_rate } => self.x += learning_rate * delta,
                ServerOptimizer::Momentum { learning_rate, momentum } => {
                    self.m = momentum * self.m + delta;
                    self.x += learning_rate * self.m;
                }
                ServerOptimizer::Adaptive { learning_rate, beta1, second, tau } => {
                    self.m = beta1 * self.m + (1.0 - beta1) * delta;
                    let square = delta.powi(2);
                    self.v = match second {
                        SecondMoment::Adam(beta2) => beta2 * self.v + (1.0 - beta2) * square,
                        SecondMoment::Yogi(beta2) => {
                            let apart = self.v - square;
                            let sign = if apart == 0.0 { 0.0 } else { apart.signum() };
                            self.v - (1.0 - beta2) * square * sign
                        }
                        SecondMoment::Adagrad => self.v + square,
                    };
                    self.x += learning_rate * self.m / (self.v.sqrt() + tau);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let new = |weight| ServerStep::new(FEDAVGM, weight, 0);
        assert_eq!(new(0), Err(StepError::Weight(0)));
        assert_eq!(new(1 << 32), Err(StepError::Weight(1 << 32)));
        let segment = segments(&weights(2)).next().unwrap();
        let given = |base, state, sum: &[i64]| {
            let before = Before { base, state };
            new(1).unwrap().next_segment(&segment, before, sum, &mut Next::default())
        };
        let short = |what, have| Err(StepError::Length { what, have, need: 2 });
        assert_eq!(given(&[0; 4], None, &[0, 0]), short("base", 1));
        assert_eq!(given(&[0; 8], None, &[0]), short("sum", 1));
        assert_eq!(given(&[0; 8], Some(&[0; 12]), &[0, 0]), short("strategy state", 3));
        assert_eq!(given(&[0; 8], Some(&[0; 8]), &[0, 0]), Ok(()));
        let huge = ServerStep::new(FEDAVG, 1, 100).unwrap();
        let made = mean_of(&weights(2), huge, &[0.0, 0.0], &[0, 1 << 60]);
        assert_eq!(made, Err(StepError::NotFinite { what: "model", at: 1 }));
        // The square of a mean delta of 2^70 is none of f32's.
        let huge = ServerStep::new(adaptive(SecondMoment::Adagrad), 1, 70).unwrap();
        let made = mean_of(&weights(2), huge, &[0.0, 0.0], &[0, 1]);
        assert_eq!(made, Err(StepError::NotFinite { what: "strategy state", at: 1 }));
    }

    /// Two coordinates are sent, one stays frozen between them.
    #[test]
    fn scaffold_moves_the_model_as_fedavg_does_and_keeps_c_beside_it() {
        let kinds = [("a", 1, Kind::Weight), ("f", 1, Kind::Frozen), ("b", 1, Kind::Weight)];
        let (layout, base) = (layout(&kinds), [1.0, 7.0, 2.0]);
        let optimizer = ServerOptimizer::Control { learning_rate: 0.5 };
        let step = |before, after| {
            let members = Members { before, after, step_exponent: -1 };
            ServerStep::new(optimizer, 4, -1).unwrap().with_members(members).unwrap()
        };
        // Δ = [2, -1]; Σ Δc = [3, 1] of two sites.
        let (model, c) = next_of(&layout, step(0, 2), &base, None, &[16, -8, 6, 2]).unwrap();
        assert_eq!((model, c.as_slice()), (vec![2.0, 7.0, 1.5], &[1.5, 0.5][..]));
        // Σ Δc = [-1, 4], and one of the two sites is a third.
        let (_, c) = next_of(&layout, step(2, 3), &base, Some(&c), &[16, -8, -2, 8]).unwrap();
        assert_eq!(c, [2.0 / 3.0, 5.0 / 3.0]);
        let bare = ServerStep::new(optimizer, 4, -1).unwrap();
        let nobody = Err(StepError::Members { before: 0, after: 0 });
        assert_eq!(next_of(&layout, bare, &base, None, &[16, -8, 6, 2]), nobody);
    }

    proptest! {
        #[test]
        fn every_strategy_follows_its_paper(
            base in -100_f32..100.0,
            sums in proptest::collection::vec(-(1_i64 << 50)..1 << 50, 1..12),
            weight in 1_u64..1 << 32,
        ) {
            for optimizer in all() {
                let step = ServerStep::new(optimizer, weight, -26).unwrap();
                let tau = 1e-3;
                let mut reference = Reference { x: base.into(), m: 0.0, v: tau * tau };
                let (mut model, mut state) = (vec![base], None);
                let mut largest = f64::from(base).abs();
                for sum in &sums {
                    let (next, kept) =
                        next_of(&weights(1), step, &model, state.as_deref(), &[*sum]).unwrap();
                    (model, state) = (next, (optimizer.state_values() > 0).then_some(kept));
                    reference.follow(optimizer, *sum as f64 / weight as f64 / f64::from(1 << 26));
                    largest = largest.max(reference.x.abs()).max(reference.m.abs());
                    // A few f32 roundings of what came before.
                    let apart = (f64::from(model[0]) - reference.x).abs();
                    prop_assert!(apart <= largest * 4e-6 + 1e-6, "{optimizer:?}: {apart}");
                }
            }
        }

        #[test]
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
        fn fedavg_with_a_step_of_one_is_the_mean_bit_for_bit(
            base in -1e6_f32..1e6, sum in -(1_i64 << 61)..1 << 61, weight in 1_u64..1 << 32,
        ) {
            let step = ServerStep::new(FEDAVG, weight, -30).unwrap();
            let made = mean_of(&weights(1), step, &[base], &[sum]).unwrap();
            let mean = sum as f64 / weight as f64 * 2_f64.powi(-30);
            prop_assert_eq!(made[0].to_bits(), ((f64::from(base) + mean) as f32).to_bits());
        }
    }
}
