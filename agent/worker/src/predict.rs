//! `predict`: a line of JSON for each record, in the input's order (`consilium_common::worker::prediction`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use consilium_common::study::Objective;
use consilium_common::worker::{FailureCode, Phase, Prediction, to_line};
use tch::{Kind, TchError, Tensor, no_grad};

use crate::data::asked::{Named, Questions};
use crate::failure::Failure;
use crate::model::{Mode, Network};
use crate::protocol::Link;

/// Records at once.
const BATCH: i64 = 512;

/// Writes what `network` makes of each record to `out`, readable by its owner alone; says how many
/// records could be read.
pub(crate) fn predict(
    network: &dyn Network,
    objective: Option<Objective>,
    asked: &Questions,
    out: &Path,
    link: &mut Link,
) -> Result<u64, Failure> {
    let mut lines = Lines::create(out)?;
    let records = i64::try_from(asked.read.len()).unwrap_or(i64::MAX);
    let mut names = asked.names.iter().peekable();
    let mut start = 0;
    while start < records {
        let len = BATCH.min(records - start);
        let rows = no_grad(|| outputs(network, objective, asked, (start, len)))?;
        for row in rows {
            while let Some(unread) = names.next_if(|name| name.trouble.is_some()) {
                lines.write(unread, None)?;
            }
            if let Some(name) = names.next() {
                lines.write(name, Some(row))?;
            }
        }
        start += len;
        let done = u64::try_from(start).unwrap_or(0);
        link.moved(Phase::Scoring, done, asked.read.len() as u64, || Ok(None))?;
    }
    names.try_for_each(|unread| lines.write(unread, None))?;
    lines.finish()?;
    Ok(asked.read.len() as u64)
}

/// A row for each of the records from the first on: probabilities, or one number.
fn outputs(
    network: &dyn Network,
    objective: Option<Objective>,
    asked: &Questions,
    (start, len): (i64, i64),
) -> Result<Vec<Vec<f64>>, Failure> {
    let batch = asked.read.range(start, len)?;
    let said = network.forward(&batch.inputs, Mode::Score)?.f_to_kind(Kind::Double)?;
    let said = match objective {
        Some(Objective::Classify) => said.f_softmax(1, Kind::Double)?,
        Some(Objective::Multilabel) => said.f_sigmoid()?,
        Some(Objective::Regress | Objective::Rank) | None => said.f_view([len, 1])?,
    };
    let rows = rows(&said)?;
    if rows.iter().flatten().all(|value| value.is_finite()) {
        return Ok(rows);
    }
    let message = "the base gives NaN or infinity for some record";
    Err(Failure::new(FailureCode::Diverged, message))
}

fn rows(table: &Tensor) -> Result<Vec<Vec<f64>>, TchError> {
    let width = table.size().get(1).and_then(|&width| usize::try_from(width).ok()).unwrap_or(1);
    let mut flat = vec![0.0; table.numel()];
    let len = flat.len();
    table.f_to_device(tch::Device::Cpu)?.f_contiguous()?.f_copy_data(&mut flat, len)?;
    Ok(flat.chunks(width.max(1)).map(<[f64]>::to_vec).collect())
}

struct Lines(BufWriter<File>);

impl Lines {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path).map(|file| Self(BufWriter::new(file))).map_err(|error| told(&error))
    }

    fn write(&mut self, name: &Named, outputs: Option<Vec<f64>>) -> Result<(), Failure> {
        let Named { id, trouble } = name.clone();
        let line = to_line(&Prediction { id, outputs, trouble });
        let line = line.map_err(|error| told(&error))?;
        self.0.write_all(&line).map_err(|error| told(&error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|error| told(&error))
    }
}

fn told(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureCode::Internal, format!("saving the predictions: {error}"))
}
