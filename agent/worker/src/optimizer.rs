//! How weights follow gradients. State is made for a task and dropped with it (DESIGN.md §5).

use consilium_common::study::Training;
use consilium_common::study::training;
use tch::{Kind, TchError, Tensor, no_grad};

/// Adam's β₁, β₂ and ε (Kingma & Ba 2015, algorithm 1).
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// One optimiser over a model's parameters, which share their storage with its variables.
#[derive(Debug)]
pub(crate) struct Optimizer {
    learning_rate: f64,
    parameters: Vec<Tensor>,
    state: State,
    proximal: Option<Proximal>,
    clip: Option<f64>,
    weight_decay: Option<f64>,
    /// SCAFFOLD's c − cᵢ of the first parameters.
    correction: Vec<Tensor>,
    /// The sizes of all steps so far.
    length: f64,
}

/// FedProx (Li et al. 2020, algorithm 2): the loss has μ/2·‖w − base‖² more, over all weights that
/// travel, so the gradient of each has μ·(w − base) more. A second copy of the model, for as long as
/// it trains.
#[derive(Debug)]
struct Proximal {
    mu: f64,
    base: Vec<Tensor>,
}

#[derive(Debug)]
enum State {
    Sgd,
    Adam { moments: Vec<Moments>, steps: i32 },
}

/// Running means of gradient and squared gradient.
#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

impl Optimizer {
    /// For one round of the study.
    pub(crate) fn new(
        training: &Training,
        round: u64,
        parameters: Vec<Tensor>,
    ) -> Result<Self, TchError> {
        let state = match training.optimizer {
            training::Optimizer::Sgd => State::Sgd,
            training::Optimizer::Adam => State::Adam { moments: Vec::new(), steps: 0 },
        };
        let learning_rate = training.learning_rate_of(round);
        let optimizer = Self {
            learning_rate,
            parameters: Vec::new(),
            state,
            proximal: None,
            clip: training.clip_gradient,
            weight_decay: training.weight_decay,
            correction: Vec::new(),
            length: 0.0,
        };
        optimizer.and(parameters)
    }

    /// Corrects every gradient of the first parameters by these, after it was shortened
    /// (`consilium_common::update::control`).
    pub(crate) fn corrected(mut self, by: Vec<Tensor>) -> Self {
        self.correction = by;
        self
    }

    /// The sizes of all steps so far, added up.
    pub(crate) fn length(&self) -> f64 {
        self.length
    }

    /// Takes more parameters, which no proximal term holds if it was asked for before: those that stay
    /// at the site have no base.
    pub(crate) fn and(mut self, more: Vec<Tensor>) -> Result<Self, TchError> {
        if let State::Adam { moments, .. } = &mut self.state {
            for p in &more {
                moments.push(Moments { first: p.f_zeros_like()?, second: p.f_zeros_like()? });
            }
        }
        self.parameters.extend(more);
        Ok(self)
    }

    /// Holds the parameters near what they are now: the base's weights.
    pub(crate) fn near_base(mut self, mu: f64) -> Result<Self, TchError> {
        let copy = |p: &Tensor| {
            let mut copy = p.f_zeros_like()?;
            copy.f_copy_(p)?;
            Ok(copy)
        };
        let base: Result<_, TchError> = no_grad(|| self.parameters.iter().map(copy).collect());
        self.proximal = Some(Proximal { mu, base: base? });
        Ok(self)
    }

    /// One step down the gradient of `loss`, whose graph is freed. Gradients are asked for and not
    /// gathered in the parameters, so there is nothing to reset. `loss` is without the proximal term.
    pub(crate) fn step(&mut self, loss: &Tensor) -> Result<(), TchError> {
        let mut gradients = Tensor::f_run_backward(&[loss], &self.parameters, false, false)?;
        no_grad(|| {
            self.pull_back(&mut gradients)?;
            self.shorten(&mut gradients)?;
            self.decay(&mut gradients)?;
            for (gradient, correction) in gradients.iter_mut().zip(&self.correction) {
                let _ = gradient.f_add_(correction)?;
            }
            self.length += self.learning_rate;
            self.follow(&gradients)
        })
    }

    /// Adds the gradient of the proximal term.
    fn pull_back(&self, gradients: &mut [Tensor]) -> Result<(), TchError> {
        let Some(Proximal { mu, base }) = &self.proximal else {
            return Ok(());
        };
        for ((gradient, parameter), base) in gradients.iter_mut().zip(&self.parameters).zip(base) {
            let _ = gradient.f_add_(&parameter.f_sub(base)?.f_mul_scalar(*mu)?)?;
        }
        Ok(())
    }

    /// Shortens gradients whose L2 norm, all together, is above the bound (Pascanu et al. 2013,
    /// algorithm 1). The norm stays on the device.
    fn shorten(&self, gradients: &mut [Tensor]) -> Result<(), TchError> {
        let Some(bound) = self.clip else { return Ok(()) };
        let squares: Result<Vec<Tensor>, TchError> =
            gradients.iter().map(|gradient| gradient.f_square()?.f_sum(Kind::Double)).collect();
        let norm = Tensor::f_stack(&squares?, 0)?.f_sum(Kind::Double)?.f_sqrt()?;
        let factor = norm.f_reciprocal()?.f_mul_scalar(bound)?.f_clamp_max(1.0)?;
        let factor = factor.f_to_kind(Kind::Float)?;
        for gradient in gradients {
            let _ = gradient.f_mul_(&factor)?;
        }
        Ok(())
    }

    /// Adds the gradient of λ/2·‖w‖². Biases and scales keep their size.
    fn decay(&self, gradients: &mut [Tensor]) -> Result<(), TchError> {
        let Some(decay) = self.weight_decay else { return Ok(()) };
        for (gradient, weight) in gradients.iter_mut().zip(&self.parameters) {
            if weight.dim() > 1 {
                let _ = gradient.f_add_(&weight.f_mul_scalar(decay)?)?;
            }
        }
        Ok(())
    }

    fn follow(&mut self, gradients: &[Tensor]) -> Result<(), TchError> {
        let pairs = self.parameters.iter_mut().zip(gradients);
        match &mut self.state {
            State::Sgd => {
                for (parameter, gradient) in pairs {
                    let _ = parameter.f_sub_(&gradient.f_mul_scalar(self.learning_rate)?)?;
                }
            }
            State::Adam { moments, steps } => {
                *steps = steps.saturating_add(1);
                let size = self.learning_rate / (1.0 - BETA1.powi(*steps));
                let correction = (1.0 - BETA2.powi(*steps)).sqrt();
                for ((parameter, gradient), Moments { first, second }) in pairs.zip(moments) {
                    let _ = first.f_lerp_(gradient, 1.0 - BETA1)?;
                    let _ = second.f_lerp_(&gradient.f_square()?, 1.0 - BETA2)?;
                    // θ −= size · m / (√v / correction + ε), the factor folded into the divisor.
                    let mut divisor = second.f_sqrt()?;
                    let _ = divisor.f_mul_scalar_(-1.0 / (correction * size))?;
                    let _ = divisor.f_add_scalar_(-EPSILON / size)?;
                    let _ = parameter.f_addcdiv_(first, &divisor)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn descend(optimizer: training::Optimizer, steps: usize) -> Vec<f32> {
        let training = Training { optimizer, learning_rate: 0.1, ..Training::default() };
        let x = Tensor::from_slice(&[1.0_f32, -2.0]).set_requires_grad(true);
        let mut optimizer = Optimizer::new(&training, 1, vec![x.shallow_clone()]).unwrap();
        for _ in 0..steps {
            let loss = (&x * &x).sum(Kind::Float);
            optimizer.step(&loss).unwrap();
        }
        assert_eq!(x.device(), Device::Cpu);
        Vec::try_from(x.detach()).unwrap()
    }

    /// The definition, in f64: gradient 2x.
    fn adam_by_the_book(mut x: f64, steps: i32) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for t in 1..=steps {
            let g = 2.0 * x;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (m_hat, v_hat) = (m / (1.0 - 0.9_f64.powi(t)), v / (1.0 - 0.999_f64.powi(t)));
            x -= 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
        }
        x
    }

    /// Proximal steps against the same steps down a loss that has the term written out.
    #[test]
    fn the_proximal_term_is_half_mu_times_the_squared_way_from_the_base() {
        let start = [1.0_f32, -2.0];
        for optimizer in [training::Optimizer::Sgd, training::Optimizer::Adam] {
            let training = Training { optimizer, learning_rate: 0.1, ..Training::default() };
            let ends = [true, false].map(|built_in| {
                let x = Tensor::from_slice(&start).set_requires_grad(true);
                let base = Tensor::from_slice(&start);
                let mut optimizer = Optimizer::new(&training, 1, vec![x.shallow_clone()]).unwrap();
                if built_in {
                    optimizer = optimizer.near_base(3.0).unwrap();
                }
                for _ in 0..20 {
                    let mut loss = (&x * &x).sum(Kind::Float);
                    if !built_in {
                        loss += (&x - &base).square().sum(Kind::Float) * 1.5;
                    }
                    optimizer.step(&loss).unwrap();
                }
                Vec::<f32>::try_from(x.detach()).unwrap()
            });
            for (built_in, written_out) in ends[0].iter().zip(&ends[1]) {
                assert!((built_in - written_out).abs() < 1e-5, "{optimizer:?}: {ends:?}");
            }
            // Without the term 20 steps go far below: the minimum of x² + 1.5·(x − 1)² is 0.6.
            assert!(ends[0][0] > 0.5, "{optimizer:?}: {ends:?}");
        }
    }

    #[test]
    fn parameters_that_stay_at_the_site_have_no_base_to_be_held_near() {
        for optimizer in [training::Optimizer::Sgd, training::Optimizer::Adam] {
            let training = Training { optimizer, learning_rate: 0.1, ..Training::default() };
            let [travels, stays] =
                [1.0_f32, 1.0].map(|start| Tensor::from_slice(&[start]).set_requires_grad(true));
            let mut optimizer = Optimizer::new(&training, 1, vec![travels.shallow_clone()])
                .and_then(|optimizer| optimizer.near_base(3.0))
                .and_then(|optimizer| optimizer.and(vec![stays.shallow_clone()]))
                .unwrap();
            for _ in 0..100 {
                optimizer.step(&(travels.square() + stays.square()).sum(Kind::Float)).unwrap();
            }
            let (travels, stays) = (travels.double_value(&[0]), stays.double_value(&[0]));
            assert!((travels - 0.6).abs() < 0.02 && stays.abs() < 0.02, "{travels} {stays}");
        }
    }

    #[test]
    fn a_gradient_over_the_bound_is_shortened_to_it_and_one_below_it_is_not() {
        let step = |clip_gradient: Option<f64>| {
            let optimizer = training::Optimizer::Sgd;
            let training =
                Training { optimizer, learning_rate: 1.0, clip_gradient, ..Training::default() };
            // Gradients 3 and 4, of two tensors: the norm of both is 5.
            let [x, y] = [1.5_f32, 2.0].map(|x| Tensor::from_slice(&[x]).set_requires_grad(true));
            let parameters = vec![x.shallow_clone(), y.shallow_clone()];
            let mut optimizer = Optimizer::new(&training, 1, parameters).unwrap();
            optimizer.step(&(x.square() + y.square()).sum(Kind::Float)).unwrap();
            [1.5 - x.double_value(&[0]), 2.0 - y.double_value(&[0])]
        };
        for (clip, need) in [
            (None, [3.0, 4.0]),
            (Some(6.0), [3.0, 4.0]),
            (Some(1.0), [0.6, 0.8]),
            (Some(0.05), [0.03, 0.04]),
        ] {
            let have = step(clip);
            let near = have.iter().zip(need).all(|(have, need)| (have - need).abs() < 1e-6);
            assert!(near, "{clip:?}: {have:?}");
        }
    }

    /// x goes by min(1, bound/‖g‖)·g + correction; what stays at the site is not corrected.
    #[test]
    fn a_correction_is_added_to_the_shortened_gradient_of_what_travels() {
        let training = Training {
            optimizer: training::Optimizer::Sgd,
            learning_rate: 0.5,
            clip_gradient: Some(1.0),
            ..Training::default()
        };
        let [x, y] = [3.0_f32, 4.0].map(|x| Tensor::from_slice(&[x]).set_requires_grad(true));
        let mut optimizer = Optimizer::new(&training, 1, vec![x.shallow_clone()])
            .map(|optimizer| optimizer.corrected(vec![Tensor::from_slice(&[10.0_f32])]))
            .and_then(|optimizer| optimizer.and(vec![y.shallow_clone()]))
            .unwrap();
        // The gradient is (3, 4), shortened (0.6, 0.8).
        optimizer.step(&((x.square() + y.square()).sum(Kind::Float) / 2.0)).unwrap();
        let (x, y) = (x.double_value(&[0]), y.double_value(&[0]));
        assert!((x - (3.0 - 0.5 * 10.6)).abs() < 1e-5 && (y - 3.6).abs() < 1e-5, "{x} {y}");
        assert!((optimizer.length() - 0.5).abs() < 1e-12);
    }

    /// Steps with decay against the same steps down a loss that has the term of the weights written out.
    #[test]
    fn decay_is_half_lambda_times_the_squared_weights_and_none_of_biases() {
        for optimizer in [training::Optimizer::Sgd, training::Optimizer::Adam] {
            let ends = [Some(3.0), None].map(|weight_decay| {
                let training = Training {
                    optimizer,
                    learning_rate: 0.01,
                    weight_decay,
                    ..Training::default()
                };
                let weight = Tensor::from_slice(&[1.0_f32]).view([1, 1]).set_requires_grad(true);
                let bias = Tensor::from_slice(&[1.0_f32]).set_requires_grad(true);
                let parameters = vec![weight.shallow_clone(), bias.shallow_clone()];
                let mut optimizer = Optimizer::new(&training, 1, parameters).unwrap();
                for _ in 0..50 {
                    let away = |x: &Tensor| (x - 2.0_f64).square().sum(Kind::Float);
                    let mut loss = away(&weight) + away(&bias);
                    if weight_decay.is_none() {
                        loss += weight.square().sum(Kind::Float) * 1.5;
                    }
                    optimizer.step(&loss).unwrap();
                }
                [weight.double_value(&[0, 0]), bias.double_value(&[0])]
            });
            let near = ends[0].iter().zip(ends[1]).all(|(have, need)| (have - need).abs() < 1e-5);
            assert!(near && ends[0][1] > 1.2 && ends[0][0] < 1.0, "{optimizer:?}: {ends:?}");
        }
    }

    #[test]
    fn a_gradient_of_nothing_stays_nothing() {
        let training = Training { clip_gradient: Some(1.0), ..Training::default() };
        let x = Tensor::from_slice(&[0.0_f32]).set_requires_grad(true);
        let mut optimizer = Optimizer::new(&training, 1, vec![x.shallow_clone()]).unwrap();
        optimizer.step(&x.square().sum(Kind::Float)).unwrap();
        assert!(x.double_value(&[0]).abs() < 1e-12);
    }

    #[test]
    fn sgd_goes_down_the_gradient() {
        let x = descend(training::Optimizer::Sgd, 2);
        assert!((x[0] - 0.64).abs() < 1e-6 && (x[1] + 1.28).abs() < 1e-6, "{x:?}");
    }

    #[test]
    fn adam_is_the_papers() {
        for steps in [1, 5, 50] {
            let x = descend(training::Optimizer::Adam, usize::try_from(steps).unwrap());
            for (have, start) in x.iter().zip([1.0, -2.0]) {
                let need = adam_by_the_book(start, steps);
                assert!((f64::from(*have) - need).abs() < 1e-5, "{have} {need} after {steps}");
            }
        }
    }
}
