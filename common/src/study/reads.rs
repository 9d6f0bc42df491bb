//! Which columns of a site's tables a study reads: its inputs, its labels, whose record each is, and
//! the groups that it scores apart. A site's policy may allow some columns and no other.

use std::collections::BTreeSet;

use super::model::recommender::{ITEM, RATING, USER};
use super::{DataKind, ModelSpec, Objective, Study};

impl Study {
    /// The study's own names of all columns that it reads, sorted; of a series also its variables, and
    /// of documents and pictures those of a table that lists them. What a site itself adds (`only`,
    /// `holdout`) is not in it.
    #[must_use]
    pub fn columns_read(&self) -> BTreeSet<String> {
        if matches!(self.model, ModelSpec::Synthetic(_)) {
            return BTreeSet::new();
        }
        let data = &self.data;
        let own: Vec<&str> = match data.kind {
            DataKind::Ratings => {
                let rated = self.model.objective() == Some(Objective::Regress);
                [USER, ITEM].into_iter().chain(rated.then_some(RATING)).collect()
            }
            DataKind::Images | DataKind::Series | DataKind::Text | DataKind::Table => {
                std::iter::once(&*data.label).chain(data.text.as_deref()).collect()
            }
        };
        let named = data.columns.iter().map(|column| &*column.name).chain(data.patient.as_deref());
        let groups = self.groupings().into_iter().map(|grouping| grouping.column);
        own.into_iter().chain(named).map(str::to_owned).chain(groups).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(model: &str, data: &str, evaluation: &str) -> Vec<String> {
        let text = format!(
            "[study]\nname = \"x\"\n[model]\n{model}\n[data]\n{data}\n[evaluation]\n{evaluation}\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        let study = Study::read(&text, "x.toml").unwrap();
        study.columns_read().into_iter().collect()
    }

    #[test]
    fn every_column_is_named_once_whatever_it_is_read_for() {
        let table = read(
            "family = \"tabular\"\nclasses = [\"n\", \"y\"]",
            "kind = \"table\"\nlabel = \"died\"\npatient = \"case\"\ncolumns = [{ name = \"age\", \
             min = 0, max = 120 }, { name = \"sex\", values = [\"F\", \"M\"] }]",
            "groups = [\"sex\", \"ward:a,b\"]",
        );
        assert_eq!(table, ["age", "case", "died", "sex", "ward"]);
        let text = read(
            "family = \"text-classifier\"\nclasses = [\"n\", \"y\"]\nvocabulary = 10\nembedding = 2\ntokens = 8",
            "kind = \"text\"\ntext = \"report\"",
            "",
        );
        assert_eq!(text, ["label", "report"]);
        let ratings = read(
            "family = \"recommender\"\nobjective = \"rank\"\nitems = 9",
            "kind = \"ratings\"",
            "metric = \"hr\"",
        );
        assert_eq!(ratings, ["item", "user"]);
        let rated = read(
            "family = \"recommender\"\nobjective = \"regress\"\nitems = 9",
            "kind = \"ratings\"\ncolumns = [{ name = \"rating\", min = 1, max = 5 }]",
            "metric = \"rmse\"",
        );
        assert_eq!(rated, ["item", "rating", "user"]);
        assert!(read("family = \"synthetic\"\nparameters = 4", "", "").is_empty());
    }
}
