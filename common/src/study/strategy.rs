//! The numbers of `[aggregation]` that belong to some strategies: whose they are, what they are if
//! nobody says so, and the optimiser at the server that they add up to.

use std::fmt;

use super::sections::{Aggregation, Strategy};

impl fmt::Display for Strategy {
    /// The word of a study's file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fedavg => "fedavg",
            Self::Fedprox => "fedprox",
            Self::Fedavgm => "fedavgm",
            Self::Fedadam => "fedadam",
            Self::Fedyogi => "fedyogi",
            Self::Fedadagrad => "fedadagrad",
            Self::Scaffold => "scaffold",
            Self::TrimmedMean => "trimmed-mean",
            Self::Median => "median",
            Self::MultiKrum => "multi-krum",
            Self::Rfa => "rfa",
        })
    }
}

/// What the coordinator does with a round's mean delta, each coordinate by itself. The formulas are
/// in `coordinator/src/aggregate/server_opt.rs`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServerOptimizer {
    /// One step along the mean delta (`fedavg`, `fedprox`).
    Mean {
        /// η.
        learning_rate: f64,
    },
    /// Steps along a decaying sum of the mean deltas (`fedavgm`).
    Momentum {
        /// η.
        learning_rate: f64,
        /// β.
        momentum: f64,
    },
    /// One step along the mean delta, and the mean of the sites' control variates (`scaffold`).
    Control {
        /// η.
        learning_rate: f64,
    },
    /// Steps along the first moment, divided by the root of the second (`fedadam`, `fedyogi`,
    /// `fedadagrad`).
    Adaptive {
        /// η.
        learning_rate: f64,
        /// β₁.
        beta1: f64,
        /// How the second moment goes on.
        second: SecondMoment,
        /// τ.
        tau: f64,
    },
}

/// How the second moment of the mean deltas goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the paper's own names; each holds β₂ if it has one")]
pub enum SecondMoment {
    Adam(f64),
    Yogi(f64),
    Adagrad,
}

impl ServerOptimizer {
    /// f32s that a coordinate of the strategy's state has: 0, 1 (m, or c) or 2 (m, v).
    #[must_use]
    pub fn state_values(&self) -> usize {
        match self {
            Self::Mean { .. } => 0,
            Self::Momentum { .. } | Self::Control { .. } => 1,
            Self::Adaptive { .. } => 2,
        }
    }
}

/// Whether a strategy uses a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Use {
    No,
    Default(f64),
    Needed,
}

/// What a strategy makes of each number.
struct Uses {
    server_learning_rate: Use,
    momentum: Use,
    beta1: Use,
    beta2: Use,
    tau: Use,
    proximal_mu: Use,
    control_clip_norm: Use,
}

const NONE: Uses = Uses {
    server_learning_rate: Use::No,
    momentum: Use::No,
    beta1: Use::No,
    beta2: Use::No,
    tau: Use::No,
    proximal_mu: Use::No,
    control_clip_norm: Use::No,
};
const MEAN: Uses = Uses { server_learning_rate: Use::Default(1.0), ..NONE };
/// An adaptive step is about η wide whatever the mean delta is; 0.01 is within the best of the grid
/// of Reddi et al. 2021 (appendix E). β and τ are those of their section 5.
const ADAPTIVE: Uses =
    Uses { server_learning_rate: Use::Default(0.01), tau: Use::Default(1e-3), ..NONE };

fn uses(strategy: Strategy) -> Uses {
    match strategy {
        Strategy::Fedavg => MEAN,
        Strategy::Fedprox => Uses { proximal_mu: Use::Needed, ..MEAN },
        Strategy::Fedavgm => Uses { momentum: Use::Default(0.9), ..MEAN },
        Strategy::Fedadam | Strategy::Fedyogi => {
            Uses { beta1: Use::Default(0.9), beta2: Use::Default(0.99), ..ADAPTIVE }
        }
        Strategy::Fedadagrad => Uses { beta1: Use::Default(0.0), ..ADAPTIVE },
        Strategy::Scaffold => Uses { control_clip_norm: Use::Needed, ..MEAN },
        Strategy::TrimmedMean | Strategy::Median | Strategy::MultiKrum | Strategy::Rfa => NONE,
    }
}

/// What a number may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Span {
    /// A step or a weight.
    Size,
    /// A share of what was before.
    Decay,
    /// τ: its square is a second moment, and must not be lost in an f32.
    Root,
}

impl Span {
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::Size => (1e-20..=1e20).contains(&value),
            Self::Decay => (0.0..1.0).contains(&value),
            Self::Root => (1e-12..=1e12).contains(&value),
        }
    }

    pub(super) fn need(self) -> &'static str {
        match self {
            Self::Size => "1e-20 to 1e20 is accepted",
            Self::Decay => "0 or more and less than 1 is accepted",
            Self::Root => "1e-12 to 1e12 is accepted",
        }
    }
}

/// A number of `[aggregation]` under the strategy that stands there.
pub(super) struct Number<'a> {
    pub(super) field: &'static str,
    pub(super) value: &'a mut Option<f64>,
    pub(super) used: Use,
    pub(super) span: Span,
}

impl Aggregation {
    /// Every number that only some strategies use.
    pub(super) fn numbers(&mut self) -> [Number<'_>; 7] {
        let uses = uses(self.strategy);
        let number = |field, value, used, span| Number { field, value, used, span };
        let rate = &mut self.server_learning_rate;
        let clip = &mut self.control_clip_norm;
        [
            number("aggregation.server_learning_rate", rate, uses.server_learning_rate, Span::Size),
            number("aggregation.momentum", &mut self.momentum, uses.momentum, Span::Decay),
            number("aggregation.beta1", &mut self.beta1, uses.beta1, Span::Decay),
            number("aggregation.beta2", &mut self.beta2, uses.beta2, Span::Decay),
            number("aggregation.tau", &mut self.tau, uses.tau, Span::Root),
            number("aggregation.proximal_mu", &mut self.proximal_mu, uses.proximal_mu, Span::Size),
            number("aggregation.control_clip_norm", clip, uses.control_clip_norm, Span::Size),
        ]
    }

    /// Fills in what the strategy uses and the file leaves out.
    pub(super) fn fill(&mut self) {
        for number in self.numbers() {
            if let Use::Default(default) = number.used {
                number.value.get_or_insert(default);
            }
        }
    }

    /// The server's half of the strategy, with its numbers. Of a study that was read every number
    /// is there; one that is not would count as 0.
    #[must_use]
    pub fn server_optimizer(&self) -> ServerOptimizer {
        let learning_rate = self.server_learning_rate.unwrap_or_default();
        let adaptive = |second| ServerOptimizer::Adaptive {
            learning_rate,
            beta1: self.beta1.unwrap_or_default(),
            second,
            tau: self.tau.unwrap_or_default(),
        };
        let beta2 = self.beta2.unwrap_or_default();
        match self.strategy {
            Strategy::Fedavgm => {
                let momentum = self.momentum.unwrap_or_default();
                ServerOptimizer::Momentum { learning_rate, momentum }
            }
            Strategy::Fedadam => adaptive(SecondMoment::Adam(beta2)),
            Strategy::Fedyogi => adaptive(SecondMoment::Yogi(beta2)),
            Strategy::Fedadagrad => adaptive(SecondMoment::Adagrad),
            Strategy::Scaffold => ServerOptimizer::Control { learning_rate },
            // The study's check refuses those that are not built.
            Strategy::Fedavg
            | Strategy::Fedprox
            | Strategy::TrimmedMean
            | Strategy::Median
            | Strategy::MultiKrum
            | Strategy::Rfa => ServerOptimizer::Mean { learning_rate },
        }
    }
}
