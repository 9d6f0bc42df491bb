//! `recommender`: what a user would make of an item, from the ratings or the choices of many users.
//!
//! * `regress`: a rating is mean + global bias + user bias + item bias + ⟨user, item⟩ (Koren, Bell &
//!   Volinsky 2009, "Matrix factorization techniques for recommender systems", eq. 4), by squared error.
//! * `rank`: an item's score is item bias + ⟨user, item⟩, and one that the user chose should score above
//!   one drawn from the catalogue (BPR: Rendle et al. 2009, section 4), or be the one that is drawn when
//!   items are by their scores (the multinomial likelihood: Liang et al. 2018, section 2.1).
//!
//! `network = "ncf"` puts a learnt meeting in the place of ⟨user, item⟩: Σ h·(p⊙q) + MLP(p′, q′), over one
//! half of each one's numbers and the other (NeuMF: He et al. 2017, "Neural collaborative filtering",
//! eq. 12).
//!
//! Only the items are in the layout, and what is learnt of how they are met. What is learnt of a user is the site's local state: it never
//! leaves (DESIGN.md §6). Row 0 stands for every item outside the catalogue, which the sites agree on
//! when they prepare ([`crate::study::catalogue`]).

use serde::{Deserialize, Serialize};

use super::{ModelSpec, Objective, Parameter, StudyError, dense};
use crate::limits::{CATALOGUE_MAX, FACTORS_MAX, NEGATIVES_MAX};
use crate::study::check::word;
use crate::study::{ColumnKind, Data};
use crate::tensor::init::Init;

/// The column that names the user.
pub const USER: &str = "user";
/// The column that names the item.
pub const ITEM: &str = "item";
/// The column with the rating; `regress` alone.
pub const RATING: &str = "rating";
/// The column that says when; read where a hold-out needs it.
pub const TIME: &str = "time";

/// A decay beyond this leaves nothing of any embedding.
const DECAY_MAX: f64 = 1e6;

/// Factors of users and items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommender {
    /// What is predicted: `regress` a rating, `rank` what a user would choose.
    pub objective: Objective,
    /// How a user meets an item.
    #[serde(default)]
    pub network: Meeting,
    /// Numbers of one user, and of one item; `ncf` has as many again for its dense layers.
    #[serde(default = "factors")]
    pub factors: u32,
    /// `ncf`: widths of the dense layers, from both one's numbers on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<u32>,
    /// Rows of the catalogue at most; of more items the most rated are taken.
    pub items: u32,
    /// λ: each record's loss has λ·(‖user‖² + Σ‖item‖²) more, over the items that it meets.
    #[serde(default)]
    pub decay: f64,
    /// The same of the squared biases of user and items; `rank` has no user bias.
    #[serde(default)]
    pub bias_decay: f64,
    /// `rank`: what is made small.
    #[serde(default)]
    pub loss: RankLoss,
    /// `bpr`: items drawn from the catalogue, all alike, against each that was chosen.
    #[serde(default = "negatives")]
    pub negatives: u32,
}

/// What is made small so that choices rank high.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankLoss {
    /// −ln σ of how far a choice scores above an item that was drawn.
    #[default]
    Bpr,
    /// −ln of the choice's share in a softmax over all items: slower, and surer.
    Multinomial,
}

/// How a user meets an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meeting {
    /// By the product of their factors.
    #[default]
    Factors,
    /// By a learnt product and dense layers.
    Ncf,
    /// By what is known of the items.
    TwoTower,
}

fn factors() -> u32 {
    16
}

fn negatives() -> u32 {
    1
}

impl Recommender {
    /// b of U(−b, b), from which users and items start: so small that v0's ⟨user, item⟩ says nothing
    /// (within ±1/4), and not 0, where no gradient would lead away from.
    #[must_use]
    pub fn start_bound(&self) -> f64 {
        0.5 / f64::from(self.factors.max(1)).sqrt()
    }

    /// Numbers of one user, and of one item, all told.
    #[must_use]
    pub fn width(&self) -> u32 {
        match self.network {
            Meeting::Ncf => self.factors.saturating_mul(2),
            Meeting::Factors | Meeting::TwoTower => self.factors,
        }
    }

    /// Whether each choice is held against all items at once.
    #[must_use]
    pub fn is_multinomial(&self) -> bool {
        self.objective == Objective::Rank && self.loss == RankLoss::Multinomial
    }

    /// Smallest and largest rating, where the contract has ratings.
    #[must_use]
    pub fn rating_range(data: &Data) -> Option<(f64, f64)> {
        data.columns.iter().find(|column| column.name == RATING).and_then(|column| {
            match column.kind() {
                ColumnKind::Number { min, max } => Some((min, max)),
                ColumnKind::Category(_) => None,
            }
        })
    }

    /// What decides which rows count, and with which ratings. Neither the catalogue's size nor the
    /// support that an item needs is in it: they are asked of the same sums.
    pub(in crate::study) fn describe_counts(&self, data: &Data) -> String {
        format!("objective {}\n{}", word(&self.objective), data.describe())
    }

    pub(super) fn parameters(&self, data: &Data) -> Result<Vec<Parameter>, StudyError> {
        self.check()?;
        self.check_columns(data)?;
        let rows = self.items.saturating_add(1);
        let start = Init::Uniform { bound: self.start_bound() };
        let mut parameters = vec![
            Parameter::new("item.weight", [rows, self.width()], start),
            Parameter::new("item.bias", [rows], Init::Zeros),
        ];
        if self.network == Meeting::Ncf {
            // At one: v0 meets as ⟨user, item⟩ does.
            parameters.push(Parameter::new("product.weight", [self.factors], Init::Ones));
            parameters.extend(dense::parameters(self.width(), &self.hidden, 1));
        }
        if self.objective == Objective::Regress {
            parameters.push(Parameter::new("global.bias", [1], Init::Zeros));
        }
        Ok(parameters)
    }

    fn check(&self) -> Result<(), StudyError> {
        self.check_network()?;
        let span = |field, have: u32, max: u32| match (1..=max).contains(&have) {
            true => Ok(()),
            false => Err(ModelSpec::refuse(field, have, &format!("1 to {max} is accepted"))),
        };
        span("model.factors", self.factors, FACTORS_MAX)?;
        span("model.items", self.items, CATALOGUE_MAX)?;
        span("model.negatives", self.negatives, NEGATIVES_MAX)?;
        for (field, have) in [("model.decay", self.decay), ("model.bias_decay", self.bias_decay)] {
            if !(0.0..=DECAY_MAX).contains(&have) {
                let need = format!("0 to {DECAY_MAX} is accepted");
                return Err(ModelSpec::refuse(field, have, &need));
            }
        }
        match self.objective {
            Objective::Classify | Objective::Multilabel => {
                let need = "the recommender family takes \"regress\" or \"rank\"";
                Err(ModelSpec::refuse("model.objective", word(&self.objective), need))
            }
            Objective::Regress if self.loss != RankLoss::default() => {
                let need = "`objective = \"regress\"` goes by the squared error: leave it out";
                Err(ModelSpec::refuse("model.loss", word(&self.loss), need))
            }
            Objective::Regress | Objective::Rank
                if self.negatives != negatives()
                    && (self.objective == Objective::Regress || self.is_multinomial()) =>
            {
                let need =
                    "only `objective = \"rank\"` with `loss = \"bpr\"` draws any: leave it out";
                Err(ModelSpec::refuse("model.negatives", self.negatives, need))
            }
            Objective::Regress | Objective::Rank => Ok(()),
        }
    }

    fn check_network(&self) -> Result<(), StudyError> {
        let refuse = |field, have: &dyn std::fmt::Display, need: &str| {
            Err(ModelSpec::refuse(field, have, need))
        };
        match self.network {
            Meeting::TwoTower => {
                let (field, value) = ("model.network", "\"two-tower\"".to_owned());
                Err(StudyError::NotBuilt { field, value, instead: "" })
            }
            Meeting::Factors if !self.hidden.is_empty() => {
                let need = "only `network = \"ncf\"` has dense layers: leave it out";
                refuse("model.hidden", &format!("{:?}", self.hidden), need)
            }
            Meeting::Factors => Ok(()),
            Meeting::Ncf if self.hidden.is_empty() => refuse(
                "model.hidden",
                &"empty",
                "`network = \"ncf\"` needs a dense layer: [32, 16]",
            ),
            Meeting::Ncf if self.is_multinomial() => {
                let need =
                    "`network = \"ncf\"` goes by \"bpr\": all items at once would be too many";
                refuse("model.loss", &word(&self.loss), need)
            }
            Meeting::Ncf => dense::check(&self.hidden, "model.hidden"),
        }
    }

    /// The names of user, item and time are fixed; the rating has a range.
    fn check_columns(&self, data: &Data) -> Result<(), StudyError> {
        let names: Vec<&str> = data.columns.iter().map(|column| column.name.as_str()).collect();
        let refuse = |need: &str| Err(ModelSpec::refuse("data.columns", names.join(", "), need));
        match self.objective {
            Objective::Regress if names != [RATING] || Self::rating_range(data).is_none() => {
                refuse(
                    "ratings need exactly one: { name = \"rating\", min = …, max = … } (`user` and \
                 `item` are always read)",
                )
            }
            Objective::Rank if !names.is_empty() => refuse(
                "`objective = \"rank\"` reads `user` and `item` alone: leave the columns out",
            ),
            Objective::Regress | Objective::Rank | Objective::Classify | Objective::Multilabel => {
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::study::Study;

    fn study(model: &str, data: &str, metric: &str) -> Result<Study, String> {
        let text = format!(
            "[study]\nname = \"films\"\nseed = 3\n[model]\nfamily = \"recommender\"\n{model}\n\
             [data]\nkind = \"ratings\"\n{data}\n[aggregation]\nclip_norm = 1.0\n\
             [privacy]\nmode = \"inspectable\"\n[evaluation]\nmetric = \"{metric}\"\n"
        );
        Study::read(&text, "films.toml").map_err(|error| error.to_string())
    }

    const STARS: &str = "columns = [{ name = \"rating\", min = 1, max = 5 }]";

    #[test]
    fn items_are_in_the_layout_and_users_are_not() {
        let ratings = study("objective = \"regress\"\nitems = 9", STARS, "rmse").unwrap();
        assert_eq!(
            ratings.layout().unwrap().describe(),
            "consilium/layout/1\nitem.weight weight f32 10x16\nitem.bias weight f32 10\n\
             global.bias weight f32 1\n"
        );
        let choices = "objective = \"rank\"\nitems = 9\nfactors = 4\nnegatives = 2";
        assert_eq!(
            study(choices, "", "ndcg").unwrap().layout().unwrap().describe(),
            "consilium/layout/1\nitem.weight weight f32 10x4\nitem.bias weight f32 10\n"
        );
    }

    #[test]
    fn the_learnt_meeting_is_in_the_layout_and_starts_as_the_product() {
        let model =
            "objective = \"rank\"\nitems = 9\nfactors = 4\nnetwork = \"ncf\"\nhidden = [6, 3]";
        let study = study(model, "", "ndcg").unwrap();
        assert_eq!(
            study.layout().unwrap().describe(),
            "consilium/layout/1\nitem.weight weight f32 10x8\nitem.bias weight f32 10\n\
             product.weight weight f32 4\ndense1.weight weight f32 6x8\ndense1.bias weight f32 6\n\
             dense2.weight weight f32 3x6\ndense2.bias weight f32 3\noutput.weight weight f32 1x3\n\
             output.bias weight f32 1\n"
        );
        assert_eq!(study.initial_vector().unwrap().get(90..94), Some([1.0_f32; 4].as_slice()));
    }

    #[test]
    fn v0_of_the_items_is_small_and_not_zero() {
        let study = study("objective = \"regress\"\nitems = 999", STARS, "rmse").unwrap();
        let vector = study.initial_vector().unwrap();
        let (weights, biases) = vector.split_at(16_000);
        assert!(weights.iter().all(|x| x.abs() <= 0.125) && biases.iter().all(|x| *x == 0.0));
        let square: f32 = weights.iter().map(|x| x * x).sum::<f32>() / 16_000.0;
        assert!((square - 0.125 * 0.125 / 3.0).abs() < 2e-4, "variance b²/3: {square}");
    }

    #[test]
    fn a_spec_that_cannot_be_says_why() {
        let rank = "objective = \"rank\"\nitems = 9";
        let regress = "objective = \"regress\"\nitems = 9";
        for (model, data, metric, said) in [
            ("items = 9", "", "hr", "missing field `objective`"),
            ("objective = \"classify\"\nitems = 9", "", "accuracy", "\"regress\" or \"rank\""),
            ("objective = \"rank\"\nitems = 0", "", "hr", "`model.items` is 0: 1 to 262144"),
            (&format!("{rank}\ndecay = -0.1"), "", "hr", "`model.decay` is -0.1"),
            (&format!("{rank}\nnegatives = 65"), "", "hr", "`model.negatives` is 65"),
            (&format!("{regress}\nnegatives = 2"), STARS, "rmse", "draws any"),
            (&format!("{rank}\nloss = \"multinomial\"\nnegatives = 2"), "", "hr", "draws any"),
            (&format!("{regress}\nloss = \"multinomial\""), STARS, "rmse", "squared error"),
            (
                &format!("{rank}\nnetwork = \"two-tower\""),
                "",
                "hr",
                "`model.network = \"two-tower\"` is not built yet",
            ),
            (&format!("{rank}\nnetwork = \"ncf\""), "", "hr", "needs a dense layer"),
            (&format!("{rank}\nnetwork = \"ncf\"\nhidden = [0]"), "", "hr", "start at 1"),
            (&format!("{rank}\nhidden = [4]"), "", "hr", "has dense layers: leave it out"),
            (
                &format!("{rank}\nnetwork = \"ncf\"\nhidden = [4]\nloss = \"multinomial\""),
                "",
                "hr",
                "goes by \"bpr\"",
            ),
            (regress, "", "rmse", "exactly one"),
            (rank, STARS, "hr", "leave the columns out"),
            (rank, "", "accuracy", "rank: hr, ndcg"),
            (regress, STARS, "hr", "regress: rmse, loss"),
            (rank, "label = \"x\"", "hr", "`data.label`"),
        ] {
            let error = study(model, data, metric).unwrap_err();
            assert!(error.contains(said), "{said} in {error}");
        }
    }
}
