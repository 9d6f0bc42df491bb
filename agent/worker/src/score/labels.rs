//! `multilabel`: total, loss, what was said of each class, histograms of each class's log-odds.

use consilium_common::update::words::{Metrics, Schema};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::bins::{BINS, bin, count};
use super::{Fixed, whole};
use crate::failure::Failure;

/// Sums over logits and labels.
pub(super) struct Labels {
    total: u64,
    loss: Fixed,
    /// Found, missed, mistaken (`consilium_common::update::labels`), a column for each class.
    said: Tensor,
    /// Per scored class 2 × bins: its own records, then the others.
    scores: Vec<(i64, Tensor)>,
}

impl Labels {
    pub(super) fn new(schema: &Schema, device: Device) -> Result<Self, TchError> {
        let options = (Kind::Int64, device);
        let classes = i64::try_from(schema.classes()).unwrap_or(i64::MAX);
        let scored = schema.scored_classes().filter_map(|class| i64::try_from(class).ok());
        let scores = scored.map(|class| Ok((class, Tensor::f_zeros([2 * BINS], options)?)));
        Ok(Self {
            total: 0,
            loss: Fixed::new(device)?,
            said: Tensor::f_zeros([3, classes], options)?,
            scores: scores.collect::<Result<_, TchError>>()?,
        })
    }

    /// `logits` (f64, records × classes) and `labels` (u8 of 0 and 1, records × classes).
    pub(super) fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        let losses = logits.f_binary_cross_entropy_with_logits::<Tensor>(
            &labels.f_to_kind(Kind::Double)?,
            None,
            None,
            Reduction::None,
        )?;
        self.loss.add(&losses.f_mean_dim(1, false, Kind::Double)?)?;
        // A probability of one half or more.
        let (said, there) = (logits.f_ge(0.0)?, labels.f_to_kind(Kind::Bool)?);
        let (unsaid, absent) = (said.f_logical_not()?, there.f_logical_not()?);
        let pairs = [(&said, &there), (&unsaid, &there), (&said, &absent)];
        let sums = pairs.map(|(a, b)| a.f_logical_and(b)?.f_sum_dim_intlist(0, false, Kind::Int64));
        let sums: Vec<Tensor> = sums.into_iter().collect::<Result<_, TchError>>()?;
        let _ = self.said.f_add_(&Tensor::f_stack(&sums, 0)?)?;
        for (class, cells) in &mut self.scores {
            let others = absent.f_select(1, *class)?.f_to_kind(Kind::Int64)?.f_mul_scalar(BINS)?;
            count(cells, &bin(&logits.f_select(1, *class)?)?.f_add(&others)?)?;
        }
        self.total += labels.size().first().and_then(|&len| u64::try_from(len).ok()).unwrap_or(0);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Metrics, Failure> {
        let mut sums = vec![self.total];
        sums.extend(self.loss.finish()?);
        // Class by class, as the schema has them.
        sums.extend(whole(&self.said.f_transpose(0, 1)?.f_contiguous()?)?);
        for (_, scores) in &self.scores {
            sums.extend(whole(scores)?);
        }
        Ok(Metrics(sums))
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::study::Study;
    use consilium_common::update::measures::score_bin;
    use consilium_common::update::words::Words;

    use super::*;

    #[test]
    fn every_answer_is_counted_where_the_schema_has_it() {
        let text = "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\n\
                    objective = \"multilabel\"\nclasses = [\"edema\", \"effusion\"]\n\
                    [data]\nkind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]\n\
                    [evaluation]\nmetric = \"auc\"\n\
                    [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        let schema = Schema::of(&Study::read(text, "a.toml").unwrap());
        let mut sums = Labels::new(&schema, Device::Cpu).unwrap();
        // Edema: found, missed, mistaken. Effusion: neither, found at one half exactly, neither.
        let logits = [2.0, -1.0, -3.0, 0.0, 0.5, -0.5];
        let labels = [1_u8, 0, 1, 1, 0, 0];
        for rows in [0..2, 2..3] {
            let len = i64::try_from(rows.len()).unwrap();
            let logits = Tensor::from_slice(&logits[2 * rows.start..2 * rows.end]);
            let labels = Tensor::from_slice(&labels[2 * rows.start..2 * rows.end]);
            sums.add(&logits.view([len, 2]), &labels.view([len, 2])).unwrap();
        }
        let metrics = sums.finish().unwrap();
        let [edema, effusion] = [0, 1].map(|class| schema.label_counts(&metrics, class).unwrap());
        assert_eq!((edema.found, edema.missed, edema.mistaken, edema.total), (1, 1, 1, 3));
        assert_eq!((effusion.found, effusion.missed, effusion.mistaken), (1, 0, 0));
        assert_eq!(schema.accuracy(&metrics), Some(4.0 / 6.0));
        let own = schema.bins(&metrics, 0, true).unwrap();
        assert_eq!((own[score_bin(2.0)], own[score_bin(-3.0)]), (1, 1));
        assert_eq!(schema.bins(&metrics, 0, false).unwrap()[score_bin(0.5)], 1);
        let softplus = |x: f64| x.exp().ln_1p();
        let loss = [-2.0, -1.0, 3.0, 0.0, 0.5, -0.5].map(softplus).iter().sum::<f64>() / 6.0;
        assert!((schema.loss(&metrics).unwrap() - loss).abs() < 1e-4, "{loss}");
        let words = Words { weight: 1, clipped: 0, metrics };
        assert_eq!(schema.decode(&schema.encode(&words)), Ok(words));
    }
}
