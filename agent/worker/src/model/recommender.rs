//! `recommender`: factors of items, which travel, and of users, which stay.

use consilium_common::random::Generator;
use consilium_common::study::model::recommender::Meeting;
use consilium_common::study::model::{Objective, Recommender};
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, TchError, Tensor};

use super::dense::Dense;
use super::users::{UserTensors, Users};
use super::{Mode, Network};
use crate::failure::Failure;

/// What ratings are: where they start from, and where they end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratings {
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Items × users.
#[derive(Debug)]
pub(crate) struct Factors {
    store: VarStore,
    users: UserTensors,
    /// Rows × factors, and rows; row 0 is every item outside the catalogue.
    weight: Tensor,
    bias: Tensor,
    meeting: Met,
    /// `regress`: the bias of every rating, and their range.
    ratings: Option<(Tensor, Ratings)>,
    /// Items of the catalogue; rows behind them are nobody's.
    known: i64,
    negatives: i64,
    /// Each choice is held against all items.
    multinomial: bool,
    decay: f64,
    bias_decay: f64,
}

/// What stands between a user's numbers and an item's.
#[derive(Debug)]
enum Met {
    Product,
    /// NeuMF (He et al. 2017, eq. 12): the first half of each one's numbers meets by a weighted product,
    /// the others by dense layers.
    Learnt {
        product: Tensor,
        layers: Dense,
    },
}

impl Met {
    fn new(spec: &Recommender, root: &Path<'_>) -> Result<Self, TchError> {
        if spec.network != Meeting::Ncf {
            return Ok(Self::Product);
        }
        let product = (root / "product").f_zeros("weight", &[spec.factors.into()])?;
        Ok(Self::Learnt { product, layers: Dense::new(root, spec.width(), &spec.hidden, 1)? })
    }

    /// Users (records × width) and items (records × width) to records.
    fn one(&self, user: &Tensor, item: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Product => user.f_mul(item)?.f_sum_dim_intlist(1, false, Kind::Float),
            Self::Learnt { product, layers } => learnt(product, layers, user, item),
        }
    }

    /// Users (records × width) and others (records × others × width) to records × others.
    fn each(&self, user: &Tensor, others: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Product => others.f_matmul(&user.f_unsqueeze(2)?)?.f_squeeze_dim(2),
            Self::Learnt { product, layers } => {
                let user = user.f_unsqueeze(1)?.f_expand_as(others)?;
                learnt(product, layers, &user, others)
            }
        }
    }
}

/// Two of … × width to ….
fn learnt(
    product: &Tensor,
    layers: &Dense,
    user: &Tensor,
    item: &Tensor,
) -> Result<Tensor, TchError> {
    let halves = |one: &Tensor| -> Result<(Tensor, Tensor), TchError> {
        let half = product.size1()?;
        Ok((one.f_narrow(-1, 0, half)?, one.f_narrow(-1, half, half)?))
    };
    let ((user, of_user), (item, of_item)) = (halves(user)?, halves(item)?);
    let met = user.f_mul(&item)?.f_matmul(product)?;
    let beside = Tensor::f_cat(&[of_user, of_item], -1)?;
    met.f_add(&layers.forward(&beside, 0.0)?.f_squeeze_dim(-1)?)
}

/// Rows of one batch.
struct Batch {
    user: Tensor,
    user_bias: Option<Tensor>,
    item: Tensor,
    item_bias: Tensor,
    /// Records × others × factors, and records × others.
    others: Option<(Tensor, Tensor)>,
}

impl Factors {
    /// `known` items of the catalogue have rows from 1 on; `ratings` goes with `regress`.
    pub(crate) fn new(
        spec: &Recommender,
        users: &Users,
        known: u32,
        ratings: Option<Ratings>,
        device: Device,
    ) -> Result<Self, Failure> {
        let store = VarStore::new(device);
        let (root, rows) = (store.root(), i64::from(spec.items) + 1);
        let item = &root / "item";
        let weight = item.f_zeros("weight", &[rows, spec.width().into()])?;
        let bias = item.f_zeros("bias", &[rows])?;
        let meeting = Met::new(spec, &root)?;
        let ratings = match ratings.filter(|_| spec.objective == Objective::Regress) {
            Some(ratings) => Some(((&root / "global").f_zeros("bias", &[1])?, ratings)),
            None => None,
        };
        Ok(Self {
            users: users.store(device)?,
            weight,
            bias,
            meeting,
            ratings,
            known: known.into(),
            negatives: spec.negatives.into(),
            multinomial: spec.is_multinomial(),
            decay: spec.decay,
            bias_decay: spec.bias_decay,
            store,
        })
    }

    fn batch(&self, inputs: &[Tensor]) -> Result<Batch, TchError> {
        let [users, items, others @ ..] = inputs else {
            return Err(TchError::Shape("users and items are needed".to_owned()));
        };
        let others = match others.first() {
            None => None,
            Some(others) => {
                let (size, flat) = (others.size(), others.f_reshape([-1])?);
                let width = self.weight.size().get(1).copied().unwrap_or(0);
                let shape: Vec<i64> = size.iter().copied().chain([width]).collect();
                let weight = self.weight.f_index_select(0, &flat)?.f_view(shape.as_slice())?;
                Some((weight, self.bias.f_index_select(0, &flat)?.f_view(size.as_slice())?))
            }
        };
        let bias_of = |bias: &Tensor| bias.f_index_select(0, users);
        Ok(Batch {
            user_bias: self.users.bias.as_ref().map(bias_of).transpose()?,
            user: self.users.weight.f_index_select(0, users)?,
            item: self.weight.f_index_select(0, items)?,
            item_bias: self.bias.f_index_select(0, items)?,
            others,
        })
    }
}

impl Network for Factors {
    fn store(&self) -> &VarStore {
        &self.store
    }

    fn local(&self) -> Option<&VarStore> {
        Some(&self.users.store)
    }

    /// `rank`: items drawn from the catalogue, all alike and whatever the user chose, so that the rows
    /// that a site's update touches do not tell what its users chose.
    fn draw(&self, mut inputs: Vec<Tensor>, _: &mut Generator) -> Result<Vec<Tensor>, TchError> {
        if self.ratings.is_none()
            && !self.multinomial
            && let Some(users) = inputs.first()
        {
            let size = [users.size().first().copied().unwrap_or(0), self.negatives];
            let options = (Kind::Int64, users.device());
            inputs.push(Tensor::f_randint_low(1, self.known.saturating_add(1), size, options)?);
        }
        Ok(inputs)
    }

    /// Rows of users and of items (i64, records) to ratings (records); with rows of others (i64,
    /// records × others) to how far each item scores above them (records × others); in a training step
    /// of the multinomial loss to how far above all rows, its own among them.
    fn forward(&self, inputs: &[Tensor], mode: Mode) -> Result<Tensor, TchError> {
        let batch = self.batch(inputs)?;
        let score = self.meeting.one(&batch.user, &batch.item)?.f_add(&batch.item_bias)?;
        if let Some((others, bias)) = &batch.others {
            let met = self.meeting.each(&batch.user, others)?;
            return score.f_unsqueeze(1)?.f_sub(&met.f_add(bias)?);
        }
        if self.multinomial && mode == Mode::Train {
            let rows = self.known.saturating_add(1);
            let (weight, bias) =
                (self.weight.f_narrow(0, 0, rows)?, self.bias.f_narrow(0, 0, rows)?);
            let all = batch.user.f_linear(&weight, Some(&bias))?;
            return score.f_unsqueeze(1)?.f_sub(&all);
        }
        let (Some((global, ratings)), Some(bias)) = (&self.ratings, &batch.user_bias) else {
            return Ok(score);
        };
        let said = score.f_add(bias)?.f_add(global)?.f_add_scalar(ratings.mean)?;
        match mode {
            Mode::Train => Ok(said),
            Mode::Score => said.f_clamp(ratings.min, ratings.max),
        }
    }

    /// λ·(‖user‖² + Σ‖item‖²) and λ_b·Σ bias², the mean over the records.
    fn penalty(&self, inputs: &[Tensor]) -> Result<Option<Tensor>, TchError> {
        if self.decay == 0.0 && self.bias_decay == 0.0 {
            return Ok(None);
        }
        let batch = self.batch(inputs)?;
        let records = inputs.first().and_then(|users| users.size().first().copied()).unwrap_or(1);
        let squared = |tensor: &Tensor| tensor.f_square()?.f_sum(Kind::Float);
        let mut weights = squared(&batch.user)?.f_add(&squared(&batch.item)?)?;
        let mut biases = squared(&batch.item_bias)?;
        if let Some(bias) = &batch.user_bias {
            biases = biases.f_add(&squared(bias)?)?;
        }
        if let Some((others, bias)) = &batch.others {
            weights = weights.f_add(&squared(others)?)?;
            biases = biases.f_add(&squared(bias)?)?;
        }
        let terms =
            weights.f_mul_scalar(self.decay)?.f_add(&biases.f_mul_scalar(self.bias_decay)?)?;
        terms.f_div_scalar(records.max(1)).map(Some)
    }
}
