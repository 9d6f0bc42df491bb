//! What `predict` writes: a line of JSON for each record of the input, in its order.

use serde::{Deserialize, Serialize};

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// What the record is called: its number in the file, from 1, or the name of its file.
    pub id: String,
    /// What the model says: a probability for each class of the study, in its order (with
    /// `objective = "multilabel"` each by itself, else together 1), or one number in units of the label.
    /// Absent where the record cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<f64>>,
    /// Why it cannot be read, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Prediction {
    /// The class of the highest probability, the first of equal ones; `None` where a record cannot be
    /// read or a probability is no number.
    #[must_use]
    pub fn class(&self) -> Option<usize> {
        let outputs = self.outputs.as_deref().filter(|all| all.iter().all(|p| p.is_finite()))?;
        let best = |best: Option<(usize, f64)>, (class, &p): (usize, &f64)| match best {
            Some((_, most)) if p <= most => best,
            _ => Some((class, p)),
        };
        outputs.iter().enumerate().fold(None, best).map(|(class, _)| class)
    }
}

impl Prediction {
    /// The classes of a probability of one half or more, where a record may have several.
    #[must_use]
    pub fn classes(&self) -> Vec<usize> {
        let all = self.outputs.iter().flatten().enumerate();
        all.filter(|(_, p)| **p >= 0.5).map(|(class, _)| class).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{from_line, to_line};

    fn of(outputs: &[f64]) -> Prediction {
        Prediction { id: "1".to_owned(), outputs: Some(outputs.to_vec()), trouble: None }
    }

    #[test]
    fn the_class_is_that_of_the_highest_probability_and_the_first_of_equal_ones() {
        assert_eq!(of(&[0.1, 0.6, 0.3]).class(), Some(1));
        assert_eq!(of(&[0.5, 0.5]).class(), Some(0));
        assert_eq!(of(&[f64::NAN, 0.5]).class(), None);
        let unread = Prediction { outputs: None, trouble: Some("empty".to_owned()), ..of(&[]) };
        assert_eq!((unread.class(), of(&[]).class()), (None, None));
        assert_eq!(from_line::<Prediction>(&to_line(&unread).unwrap()).unwrap(), unread);
    }
}
