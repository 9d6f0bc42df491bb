//! What a site keeps of its users: a row of factors and, where ratings are predicted, a bias each, and
//! by which hash of the user's id the row is found again. It is the site's local state: in no layout, no
//! result and no message.
//!
//! The file holds no id: `user.id` has 128 bits of the BLAKE3 of the study's name and the user's, as
//! eight numbers of 16 bits, each exact in f32. New users get rows behind the old ones; rows of users
//! that are gone stay, for records that come back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use consilium_common::ids::Digest;
use consilium_common::limits::LOCAL_BYTES_MAX;
use consilium_common::random::Generator;
use consilium_common::study::{Objective, Study};
use consilium_common::tensor::init::uniform;
use consilium_common::worker::FailureCode;
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor, no_grad};

use crate::failure::Failure;
use crate::weights::HEADER_BYTES_MAX;

/// 16-bit numbers of an id.
const LIMBS: usize = 8;
const ID: &str = "user.id";
const WEIGHT: &str = "user.weight";
const BIAS: &str = "user.bias";

/// The hash by which a user's row is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserId([u16; LIMBS]);

impl UserId {
    /// Of the user that this site's records call `written`.
    pub(crate) fn of(study: &Study, written: &str) -> Self {
        let named = format!("consilium/user/1\0{}\0{written}", study.id());
        let mut limbs = [0; LIMBS];
        for (limb, bytes) in limbs.iter_mut().zip(Digest::of(named.as_bytes()).0.as_chunks::<2>().0)
        {
            *limb = u16::from_le_bytes(*bytes);
        }
        Self(limbs)
    }

    /// A seed of what is drawn for this user.
    pub(crate) fn seed(self, study: u64) -> Vec<u8> {
        let limbs = self.0.iter().flat_map(|limb| limb.to_le_bytes());
        study.to_le_bytes().into_iter().chain(limbs).collect()
    }
}

/// Rows of users, while the records are read.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    rows: BTreeMap<UserId, i64>,
    ids: Vec<UserId>,
    /// Rows × factors.
    weights: Vec<f32>,
    biases: Vec<f32>,
    biased: bool,
    factors: usize,
    bound: f64,
    seed: u64,
}

impl Users {
    /// Nobody yet. New users start at U(−bound, bound), which follows from the study's seed and the
    /// user, and at no bias.
    pub(crate) fn new(study: &Study, factors: u32, bound: f64) -> Self {
        let biased = study.model.objective() == Some(Objective::Regress);
        Self {
            rows: BTreeMap::new(),
            ids: Vec::new(),
            weights: Vec::new(),
            biases: Vec::new(),
            biased,
            factors: factors as usize,
            bound,
            seed: study.header.seed,
        }
    }

    /// Takes the rows that the site kept.
    pub(crate) fn read(mut self, path: &Path) -> Result<Self, Failure> {
        let bytes = fs::metadata(path).map_err(|error| mismatch(&error.to_string()))?.len();
        if bytes > LOCAL_BYTES_MAX {
            return Err(mismatch(&format!("it has {bytes} bytes, at most {LOCAL_BYTES_MAX}")));
        }
        let mut tensors: BTreeMap<String, Tensor> = Tensor::read_safetensors(path)
            .map_err(|e| mismatch(&e.to_string()))?
            .into_iter()
            .collect();
        let rows = tensors.get(ID).and_then(|ids| ids.size().first().copied()).unwrap_or(0);
        let width = |len: usize| i64::try_from(len).unwrap_or(i64::MAX);
        let ids = numbers(tensors.remove(ID), ID, &[rows, width(LIMBS)])?;
        self.weights = numbers(tensors.remove(WEIGHT), WEIGHT, &[rows, width(self.factors)])?;
        if self.biased {
            self.biases = numbers(tensors.remove(BIAS), BIAS, &[rows])?;
        }
        if let Some(name) = tensors.into_keys().next() {
            return Err(mismatch(&format!("it has a tensor {name}, which users have not")));
        }
        for (row, limbs) in (0..).zip(ids.chunks(LIMBS)) {
            let id = id_of(limbs).ok_or_else(|| mismatch("an id is none"))?;
            if self.rows.insert(id, row).is_some() {
                return Err(mismatch("a user stands there twice"));
            }
            self.ids.push(id);
        }
        Ok(self)
    }

    /// The user's row; a new one for a new user.
    pub(crate) fn row(&mut self, id: UserId) -> i64 {
        let (bound, seed) = (self.bound, id.seed(self.seed));
        self.enter(id, |row| uniform(bound, &mut Generator::new("user", &seed), row))
    }

    /// The user's row; for one of whom nothing was learnt, one of zeros.
    pub(crate) fn row_or_zeros(&mut self, id: UserId) -> i64 {
        self.enter(id, |_| {})
    }

    /// `start` gets the zeros of a new row.
    fn enter(&mut self, id: UserId, start: impl FnOnce(&mut [f32])) -> i64 {
        let next = i64::try_from(self.ids.len()).unwrap_or(i64::MAX);
        let row = *self.rows.entry(id).or_insert(next);
        if row == next {
            let from = self.weights.len();
            self.weights.resize(from + self.factors, 0.0);
            start(self.weights.get_mut(from..).unwrap_or_default());
            if self.biased {
                self.biases.push(0.0);
            }
            self.ids.push(id);
        }
        row
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Refuses more users than a site can keep, before anything is learnt of them.
    pub(crate) fn hold_bound(&self) -> Result<(), Failure> {
        let bytes = 4 * (self.len() as u64).saturating_mul((self.factors + 1 + LIMBS) as u64);
        if bytes <= LOCAL_BYTES_MAX - HEADER_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "{} users of {} factors need {bytes} bytes of local state, a site keeps {LOCAL_BYTES_MAX}: \
             lower `model.factors`, or give fewer records",
            self.len(),
            self.factors
        );
        Err(Failure::new(FailureCode::DataInvalid, message))
    }

    /// The tensors of the rows. Ids are not trained.
    pub(crate) fn store(&self, device: Device) -> Result<UserTensors, TchError> {
        let store = VarStore::new(device);
        let rows = i64::try_from(self.len()).unwrap_or(i64::MAX);
        let limbs = self.ids.iter().flat_map(|id| id.0).map(f32::from).collect::<Vec<_>>();
        let (user, width) = (store.root() / "user", |len| i64::try_from(len).unwrap_or(i64::MAX));
        let mut ids = user.f_zeros_no_train("id", &[rows, width(LIMBS)])?;
        let mut weight = user.f_zeros("weight", &[rows, width(self.factors)])?;
        let mut bias = self.biased.then(|| user.f_zeros("bias", &[rows])).transpose()?;
        let put = |tensor: &mut Tensor, values: &[f32]| {
            let values = Tensor::f_from_slice(values)?.f_view(tensor.size().as_slice())?;
            no_grad(|| tensor.f_copy_(&values))
        };
        put(&mut ids, &limbs)?;
        put(&mut weight, &self.weights)?;
        if let Some(bias) = &mut bias {
            put(bias, &self.biases)?;
        }
        Ok(UserTensors { store, weight, bias })
    }
}

/// Rows on the device.
#[derive(Debug)]
pub(crate) struct UserTensors {
    pub(crate) store: VarStore,
    /// Users × factors.
    pub(crate) weight: Tensor,
    /// Users, where ratings are predicted.
    pub(crate) bias: Option<Tensor>,
}

fn mismatch(why: &str) -> Failure {
    let message = format!("the local state is not this family's: {why}");
    Failure::new(FailureCode::ModelMismatch, message)
}

/// The values of a tensor of this shape, all finite.
fn numbers(tensor: Option<Tensor>, name: &str, shape: &[i64]) -> Result<Vec<f32>, Failure> {
    let tensor = tensor.ok_or_else(|| mismatch(&format!("it has no tensor {name}")))?;
    let (size, kind) = (tensor.size(), tensor.kind());
    if size != shape || kind != Kind::Float {
        let need = format!("{name} is {kind:?} {size:?}, Float {shape:?} expected");
        return Err(mismatch(&need));
    }
    let mut values = vec![0.0; tensor.numel()];
    let len = values.len();
    tensor.f_contiguous()?.f_copy_data(&mut values, len)?;
    if values.iter().all(|value: &f32| value.is_finite()) {
        Ok(values)
    } else {
        Err(mismatch(&format!("{name} holds NaN or infinity")))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "what is not exactly a u16 again is refused"
)]
fn id_of(limbs: &[f32]) -> Option<UserId> {
    let mut id = [0; LIMBS];
    for (to, &from) in id.iter_mut().zip(limbs) {
        *to = from as u16;
        if f32::from(*to) != from {
            return None;
        }
    }
    Some(UserId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Kept;

    fn study(name: &str) -> Study {
        let text = format!(
            "[study]\nname = \"{name}\"\nseed = 3\n[model]\nfamily = \"recommender\"\nitems = 3\n\
             objective = \"regress\"\n[data]\nkind = \"ratings\"\n\
             columns = [{{ name = \"rating\", min = 1, max = 5 }}]\n[aggregation]\nclip_norm = 1.0\n\
             [privacy]\nmode = \"inspectable\"\n[evaluation]\nmetric = \"rmse\"\n"
        );
        Study::read(&text, "a.toml").unwrap()
    }

    fn users(factors: u32, names: &[&str]) -> Users {
        let study = study("films");
        let mut users = Users::new(&study, factors, 0.5);
        names.iter().for_each(|name| {
            users.row(UserId::of(&study, name));
        });
        users
    }

    fn row(users: &mut Users, name: &str) -> (i64, Vec<f32>) {
        let row = users.row(UserId::of(&study("films"), name));
        let at = usize::try_from(row).unwrap() * users.factors;
        (row, users.weights[at..at + users.factors].to_vec())
    }

    #[test]
    fn rows_survive_new_users_and_are_found_by_whose_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let first = users(4, &["ann", "bob"]);
        let tensors = first.store(Device::Cpu).unwrap();
        let _ = no_grad(|| tensors.weight.get(1).fill_(0.25));
        Kept::of(&tensors.store).write(&path).unwrap();
        let mut later = users(4, &[]).read(&path).unwrap();
        let (cyd, _) = row(&mut later, "cyd");
        assert_eq!((cyd, later.len()), (2, 3));
        assert_eq!(row(&mut later, "bob"), (1, vec![0.25; 4]));
        assert_eq!(row(&mut later, "ann"), row(&mut users(4, &["ann"]), "ann"));
        Kept::of(&later.store(Device::Cpu).unwrap().store).write(&path).unwrap();
        assert_eq!(users(4, &[]).read(&path).unwrap().len(), 3);
    }

    #[test]
    fn a_new_user_starts_where_the_study_and_its_id_say_and_no_two_alike() {
        let (_, ann) = row(&mut users(4, &["bob"]), "ann");
        assert_eq!(row(&mut users(4, &[]), "ann").1, ann, "whoever came before");
        assert_ne!(row(&mut users(4, &[]), "bob").1, ann);
        assert!(ann.iter().all(|x| x.abs() <= 0.5));
        assert_ne!(UserId::of(&study("films"), "ann"), UserId::of(&study("books"), "ann"));
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let refused = |factors| users(factors, &[]).read(&path).unwrap_err();
        assert_eq!(refused(4).code, FailureCode::ModelMismatch);
        fs::File::create(&path).unwrap();
        assert_eq!(refused(4).code, FailureCode::ModelMismatch);
        let put = |change: &dyn Fn(&VarStore)| {
            let tensors = users(4, &["ann", "bob"]).store(Device::Cpu).unwrap();
            change(&tensors.store);
            Kept::of(&tensors.store).write(&path).unwrap();
        };
        let set = |store: &VarStore, name: &str, value: f64| {
            let _ = no_grad(|| store.variables()[name].shallow_clone().fill_(value));
        };
        put(&|_| {});
        assert!(refused(5).message.contains("user.weight is Float [2, 4]"), "{}", refused(5));
        put(&|store| set(store, ID, 7.0));
        assert!(refused(4).message.contains("twice"));
        put(&|store| set(store, ID, 0.5));
        assert!(refused(4).message.contains("an id is none"));
        put(&|store| {
            let _ = store.root().zeros("more", &[1]);
        });
        assert!(refused(4).message.contains("a tensor more"));
        put(&|_| {});
        let named: Vec<(String, Tensor)> = Tensor::read_safetensors(&path).unwrap();
        let few: Vec<_> = named.into_iter().filter(|(name, _)| name != BIAS).collect();
        Tensor::write_safetensors(&few, &path).unwrap();
        assert!(refused(4).message.contains("no tensor user.bias"));
    }
}
