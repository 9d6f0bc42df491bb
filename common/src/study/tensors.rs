//! Which of the model's tensors the sites train together, which stay as v0 has them, and which each
//! site trains for itself (DESIGN.md §6, "Kinds"). `[training] frozen` and `local` say so by patterns
//! over names: `*` stands for any run of characters, all else for itself.

use super::check::{StudyError, range};
use super::model::{Parameter, started};
use super::{ModelSpec, Study};
use crate::limits::PATTERNS_MAX;
use crate::tensor::layout::{Kind, Layout};

/// Names of a model that an error lists.
const NAMES_SHOWN_MAX: usize = 40;

/// A tensor that each site keeps for itself, as it is before the site's first round.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalTensor {
    /// As in the network.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u32>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// The model's tensors, sorted out.
struct Tensors {
    /// Those of the layout.
    shared: Vec<(Parameter, Kind)>,
    /// Those that stay at the site.
    local: Vec<Parameter>,
}

impl Study {
    /// The layout of the model: the tensors that travel in it, frozen ones as such.
    ///
    /// # Errors
    /// The spec gives no valid layout; a pattern that matches nothing; nothing left to train.
    pub fn layout(&self) -> Result<Layout, StudyError> {
        let shared = self.tensors()?.shared.into_iter();
        Ok(Layout::new(shared.map(|(tensor, kind)| (tensor.name, tensor.shape, kind)))?)
    }

    /// The vector that follows from spec and seed, in the order of the layout: v0, unless one was given.
    ///
    /// # Errors
    /// As [`Study::layout`].
    pub fn initial_vector(&self) -> Result<Vec<f32>, StudyError> {
        self.layout()?;
        let shared = self.tensors()?.shared.into_iter().map(|(tensor, _)| tensor);
        Ok(started(&shared.collect::<Vec<_>>(), self.header.seed))
    }

    /// The tensors of `[training] local`, in the model's order.
    ///
    /// # Errors
    /// As [`Study::layout`].
    pub fn local_tensors(&self) -> Result<Vec<LocalTensor>, StudyError> {
        let start = |tensor: Parameter| {
            let values = started(std::slice::from_ref(&tensor), self.header.seed);
            LocalTensor { name: tensor.name, shape: tensor.shape, values }
        };
        Ok(self.tensors()?.local.into_iter().map(start).collect())
    }

    fn tensors(&self) -> Result<Tensors, StudyError> {
        let all = self.model.parameters(&self.data)?;
        let (frozen, local) = (&self.training.frozen, &self.training.local);
        if !local.is_empty() {
            // All of them together are within what a layout may have, whatever stays at home.
            let whole = all.iter().map(|t| (t.name.clone(), t.shape.clone(), Kind::Weight));
            Layout::new(whole)?;
        }
        check("training.frozen", frozen, &all)?;
        check("training.local", local, &all)?;
        let picked = |patterns: &[String], name: &str| patterns.iter().any(|p| matches(p, name));
        let mut tensors = Tensors { shared: Vec::new(), local: Vec::new() };
        for tensor in all {
            match (picked(frozen, &tensor.name), picked(local, &tensor.name)) {
                (true, true) => {
                    let need = "a tensor of `training.local` is trained at each site: it cannot be \
                                frozen too";
                    return range("training.frozen", format!("{:?}", tensor.name), need);
                }
                (false, true) => tensors.local.push(tensor),
                (true, false) => tensors.shared.push((tensor, Kind::Frozen)),
                (false, false) => tensors.shared.push((tensor, Kind::Weight)),
            }
        }
        if tensors.shared.iter().any(|(_, kind)| *kind == Kind::Weight) {
            return Ok(tensors);
        }
        let field = if frozen.is_empty() { "training.local" } else { "training.frozen" };
        range(field, "the whole model", "nothing is left that the sites could train together")
    }

    /// What only some families can do.
    pub(super) fn check_local(&self) -> Result<(), StudyError> {
        if self.training.local.is_empty() || !matches!(self.model, ModelSpec::Recommender(_)) {
            return Ok(());
        }
        let need = "the recommender family keeps its users at the site, and more than these is not \
                    built yet";
        range("training.local", format!("{:?}", self.training.local), need)
    }
}

/// Every pattern picks something.
fn check(field: &'static str, patterns: &[String], all: &[Parameter]) -> Result<(), StudyError> {
    if patterns.len() > PATTERNS_MAX {
        let need = format!("at most {PATTERNS_MAX} patterns are accepted");
        return range(field, format!("{} patterns", patterns.len()), &need);
    }
    for pattern in patterns {
        if !all.iter().any(|tensor| matches(pattern, &tensor.name)) {
            let names: Vec<&str> =
                all.iter().take(NAMES_SHOWN_MAX).map(|tensor| &*tensor.name).collect();
            let more = all.len() - names.len();
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let need = format!("it matches no tensor; the model has {}{more}", names.join(", "));
            return range(field, format!("{pattern:?}"), &need);
        }
    }
    Ok(())
}

/// Whether a tensor's name is of the pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study(training: &str) -> Result<Study, String> {
        let text = format!(
            "[study]\nname = \"x\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
             input = {{ channels = 1, height = 8, width = 8 }}\nclasses = [\"n\", \"y\"]\n\
             conv = [{{ filters = 2 }}]\ndense = [3]\n[data]\nkind = \"images\"\n\
             [training]\n{training}\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
             mode = \"inspectable\"\n"
        );
        Study::read(&text, "x.toml").map_err(|error| error.to_string())
    }

    fn layout(training: &str) -> Vec<String> {
        let layout = study(training).unwrap().layout().unwrap();
        layout.describe().lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn a_star_is_any_run_of_characters_and_all_else_is_itself() {
        for (pattern, name, is) in [
            ("conv1.*", "conv1.weight", true),
            ("conv1.*", "conv10.weight", false),
            ("*.bias", "dense1.bias", true),
            ("conv*.b*s", "conv12.bias", true),
            ("*", "anything", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("conv1.weight", "conv1.weight", true),
            ("conv1", "conv1.weight", false),
            ("conv1.weigh?", "conv1.weight", false),
            ("*1*2*", "x1y2", true),
            ("*2*1*", "x1y2", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn frozen_tensors_are_in_the_layout_and_not_in_updates() {
        let (plain, frozen) = (layout(""), layout("frozen = [\"conv1.*\"]"));
        assert_eq!(frozen[0], plain[0].replace("weight f32", "frozen f32"));
        assert_eq!(frozen[2..], plain[2..]);
        let (plain, frozen) = (study("").unwrap(), study("frozen = [\"conv1.*\"]").unwrap());
        assert_eq!(plain.initial_vector().unwrap(), frozen.initial_vector().unwrap());
        let fewer = plain.layout().unwrap().weights_len() - frozen.layout().unwrap().weights_len();
        assert_eq!(fewer, 2 * 9 + 2);
    }

    #[test]
    fn local_tensors_are_outside_the_layout_and_start_as_they_would_in_v0() {
        let (plain, local) =
            (study("").unwrap(), study("local = [\"*.bias\", \"conv1.*\"]").unwrap());
        assert!(
            layout("local = [\"*.bias\", \"conv1.*\"]").iter().all(|line| !line.contains("bias"))
        );
        let (whole, vector) = (plain.layout().unwrap(), plain.initial_vector().unwrap());
        let stays = local.local_tensors().unwrap();
        let named: Vec<&str> = stays.iter().map(|tensor| &*tensor.name).collect();
        assert_eq!(named[..3], ["conv1.weight", "conv1.bias", "dense1.bias"]);
        for tensor in &stays {
            let at = whole.tensors().iter().find(|known| known.name == tensor.name).unwrap();
            assert_eq!(tensor.values, vector[at.offset..at.offset + at.len], "{}", tensor.name);
        }
        let travels = local.layout().unwrap().len();
        let kept: usize = stays.iter().map(|tensor| tensor.values.len()).sum();
        assert_eq!(travels + kept, whole.len());
        assert!(plain.local_tensors().unwrap().is_empty());
    }

    #[test]
    fn a_pattern_that_picks_nothing_lists_the_names_and_something_must_be_left_to_train() {
        let error = study("frozen = [\"conv9.*\"]").unwrap_err();
        assert!(error.contains("\"conv9.*\": it matches no tensor; the model has conv1.weight, "));
        for (training, said) in [
            ("frozen = [\"*\"]", "`training.frozen` is the whole model: nothing is left"),
            ("local = [\"*\"]", "`training.local` is the whole model: nothing is left"),
            ("frozen = [\"conv*\"]\nlocal = [\"*.bias\"]", "cannot be frozen too"),
            ("frozen = [\"\"]", "matches no tensor"),
        ] {
            let error = study(training).unwrap_err();
            assert!(error.contains(said), "{training}: {error}");
        }
        let many = format!("frozen = {:?}", vec!["conv1.*"; PATTERNS_MAX + 1]);
        assert!(study(&many).unwrap_err().contains("at most"));
    }

    #[test]
    fn what_stays_at_the_site_is_part_of_what_its_local_state_belongs_to() {
        let digest = |training: &str| {
            let text = study(training).unwrap().to_text().unwrap();
            Study::spec_digest(text.as_bytes()).unwrap()
        };
        let plain = digest("");
        assert_eq!(digest("rounds = 3"), plain);
        assert_ne!(digest("local = [\"conv1.*\"]"), plain);
        assert_ne!(digest("local = [\"conv1.*\"]"), digest("local = [\"*.bias\"]"));
        assert_ne!(digest("frozen = [\"conv1.*\"]"), plain);
    }
}
