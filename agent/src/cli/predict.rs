//! `predict`: what a version says of records without labels, as a table (CSV) or as JSON, a row for
//! each record. Whatever the records are, they and what is said of them stay on this machine.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use consilium_common::ids::{Digest, StudyId};
use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::study::{DataKind, Objective, Study};
use consilium_common::worker::{Holdout, Prediction, Source, SourceKind, Work, from_line};
use consilium_io::disk::{Access, replace_with};

use super::version_in_use as version;
use super::{Common, Failure, output};
use crate::config::AgentConfig;

/// Records that are named one by one where they cannot be read; of the others there is a count.
const NAMED_MAX: usize = 20;

/// Options of `predict`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    version: version::Options,
    /// The records: a CSV or TSV file, plain or .gz, a .npz file (series as `X`, pictures as `images`),
    /// a picture, a .txt file, or a folder of PNG and JPEG or of .txt files. Labels are not read
    #[arg(long, value_name = "FILE|FOLDER")]
    input: PathBuf,
    /// How the files are written and what they call the columns: as [data.NAME] of agent.toml says;
    /// without it as that of the study's own name
    #[arg(long, value_name = "NAME")]
    data: Option<StudyId>,
    /// Write here, readable by this user alone, instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load_if_there()?;
    let used = options.version.open(config.as_ref())?;
    let study = &used.study;
    let source = source(options, config.as_ref(), study)?;
    if let Some(why) = used.local.note() {
        output::note(format_args!(
            "{why}; what it would hold is 0 here, so that the values are not \
                                   quite those of this site"
        ));
    }
    let (_, files) = used.run(Work::Predict, &source).await?;
    let sheet = Sheet {
        study: study.id(),
        model_digest: used.digest(),
        classes: study.model.classes(),
        threshold: study.evaluation.threshold,
        objective: study.model.objective().unwrap_or_default(),
        json: common.json,
    };
    let read = || files.open_predictions().map_err(Failure::failed);
    let seen = match &options.out {
        Some(path) => {
            let lines = Lines::of(read()?);
            let wrote = replace_with(path, Access::Private, |out| sheet.write(lines, out));
            let seen = wrote.map_err(Failure::failed)?;
            let (records, place) = (seen.records, path.display());
            output::line(format_args!("{records} records, {} unreadable: {place}", seen.unread));
            seen
        }
        None => {
            let mut out = io::stdout().lock();
            let seen = sheet.write(Lines::of(read()?), &mut out).and_then(|seen| {
                out.flush()?;
                Ok(seen)
            });
            seen.or_else(|error| {
                // Whoever read (`| head`) has enough.
                let is_enough = error.kind() == io::ErrorKind::BrokenPipe;
                if is_enough { Ok(Seen::default()) } else { Err(Failure::failed(error)) }
            })?
        }
    };
    for (id, why) in &seen.named {
        output::note(format_args!("record {id}: {why}: left empty"));
    }
    match seen.unread {
        0 => Ok(()),
        unread => {
            let records = seen.records;
            Err(Failure::Failed(format!("{unread} of {records} records cannot be read")))
        }
    }
}

/// The input as a source, with what agent.toml says of files of its kind.
fn source(
    options: &Options,
    config: Option<&AgentConfig>,
    study: &Study,
) -> Result<Source, Failure> {
    if let Ok(false) = options.input.try_exists() {
        let path = options.input.display();
        return Err(Failure::Usage(format!("--input {path} does not exist")));
    }
    let name = options.data.as_ref().unwrap_or_else(|| study.id());
    let section = config.and_then(|config| config.data.get(name));
    let kind = kind_of(&options.input, study.data.kind, section.map(|section| section.source))?;
    let plain = Source::new(kind, options.input.clone());
    let Some(section) = section else {
        return match &options.data {
            None => Ok(plain),
            Some(name) => Err(Failure::Usage(format!("agent.toml has no [data.{name}]"))),
        };
    };
    if section.source != kind && !(is_table(section.source) && is_table(kind)) {
        return Ok(plain);
    }
    Ok(Source {
        path: options.input.clone(),
        source: kind,
        test_path: None,
        labels: None,
        holdout: Holdout::default(),
        part: None,
        only: None,
        exclude: None,
        ..section.clone()
    })
}

fn is_table(kind: SourceKind) -> bool {
    matches!(kind, SourceKind::Csv | SourceKind::Tsv)
}

/// What the input is: by its ending, by what the study reads, and by what the site's `own` records are.
fn kind_of(path: &Path, reads: DataKind, own: Option<SourceKind>) -> Result<SourceKind, Failure> {
    let reads_text = reads == DataKind::Text;
    if path.is_dir() {
        return Ok(if reads_text { SourceKind::Text } else { SourceKind::ImageFolder });
    }
    let unpacked = path.with_extension("");
    let named = match path.extension() {
        Some(ending) if ending.eq_ignore_ascii_case("gz") => unpacked.as_path(),
        Some(_) | None => path,
    };
    let ending = named.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("txt") if reads_text && !own.is_some_and(is_table) => Ok(SourceKind::Text),
        Some("csv" | "txt") => Ok(SourceKind::Csv),
        Some("tsv" | "tab") => Ok(SourceKind::Tsv),
        Some("npz") => Ok(SourceKind::Npz),
        Some("png" | "jpg" | "jpeg") => Ok(SourceKind::ImageFolder),
        Some(_) | None => Err(Failure::Usage(format!(
            "--input {}: write a file that ends in .csv, .tsv, .npz, .txt, .png or .jpg, or a folder of \
             pictures or documents",
            path.display()
        ))),
    }
}

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    records: u64,
    unread: u64,
    /// The first of those that cannot be read, and why.
    named: Vec<(String, String)>,
}

impl Seen {
    fn note(&mut self, prediction: &Prediction) {
        self.records += 1;
        let Some(why) = &prediction.trouble else {
            return;
        };
        self.unread += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push((prediction.id.clone(), why.clone()));
        }
    }
}

/// The worker's lines, one at a time.
struct Lines<R>(BufReader<R>);

impl Lines<File> {
    fn of(file: File) -> Self {
        Self(BufReader::new(file))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = io::Result<Prediction>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        let bound = WORKER_LINE_BYTES_MAX as u64 + 1;
        match self.0.by_ref().take(bound).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(from_line(&line).map_err(io::Error::other)),
            Err(error) => Some(Err(error)),
        }
    }
}

/// How predictions are written down.
struct Sheet<'a> {
    study: &'a StudyId,
    model_digest: Digest,
    classes: &'a [String],
    /// The study's, of two classes.
    threshold: Option<f64>,
    objective: Objective,
    json: bool,
}

/// Between the classes of one record.
const SEPARATOR: &str = "|";

impl Sheet<'_> {
    fn write(
        &self,
        lines: impl Iterator<Item = io::Result<Prediction>>,
        out: &mut impl Write,
    ) -> io::Result<Seen> {
        let mut seen = Seen::default();
        if self.json {
            self.head_json(out)?
        } else {
            self.head_csv(out)?
        }
        for prediction in lines {
            let prediction = self.checked(prediction?)?;
            if self.json {
                let comma = if seen.records > 0 { "," } else { "" };
                write!(out, "{comma}\n    {}", self.row_json(&prediction)?)?;
            } else {
                self.row_csv(&prediction, out)?;
            }
            seen.note(&prediction);
        }
        if self.json {
            writeln!(out, "\n  ],\n  \"unreadable\": {}\n}}", seen.unread)?;
        }
        Ok(seen)
    }

    /// A hospital's own trainer may have written it.
    fn checked(&self, prediction: Prediction) -> io::Result<Prediction> {
        let need = if self.objective.has_classes() { self.classes.len() } else { 1 };
        let fits = match &prediction.outputs {
            Some(outputs) => outputs.len() == need && prediction.trouble.is_none(),
            None => prediction.trouble.is_some(),
        };
        if fits {
            return Ok(prediction);
        }
        let id = &prediction.id;
        let text =
            format!("the worker's line of record {id}: {need} outputs or a trouble expected");
        Err(io::Error::other(text))
    }

    fn class(&self, prediction: &Prediction) -> Option<&str> {
        let likelier = prediction.class()?;
        let class = match (self.threshold, prediction.outputs.as_deref()) {
            (Some(threshold), Some([_, second])) => usize::from(*second >= threshold),
            _ => likelier,
        };
        self.classes.get(class).map(String::as_str)
    }

    /// The classes that are said to be there, where several may be.
    fn several(&self, prediction: &Prediction) -> Vec<&str> {
        let there = prediction.classes();
        there.into_iter().filter_map(|class| self.classes.get(class).map(String::as_str)).collect()
    }

    fn head_csv(&self, out: &mut impl Write) -> io::Result<()> {
        let what = match self.objective {
            Objective::Classify => "class",
            Objective::Multilabel => "classes",
            Objective::Regress | Objective::Rank => return writeln!(out, "id,value"),
        };
        write!(out, "id,{what}")?;
        for class in self.classes {
            write!(out, ",{}", csv(&format!("p({class})")))?;
        }
        writeln!(out)
    }

    fn row_csv(&self, prediction: &Prediction, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{}", csv(&prediction.id))?;
        match self.objective {
            Objective::Classify => {
                write!(out, ",{}", csv(self.class(prediction).unwrap_or_default()))?;
            }
            Objective::Multilabel => {
                write!(out, ",{}", csv(&self.several(prediction).join(SEPARATOR)))?;
            }
            Objective::Regress | Objective::Rank => {}
        }
        let has_classes = self.objective.has_classes();
        match &prediction.outputs {
            None if has_classes => write!(out, "{}", ",".repeat(self.classes.len()))?,
            None => write!(out, ",")?,
            Some(outputs) if has_classes => {
                outputs.iter().try_for_each(|share| write!(out, ",{share:.6}"))?;
            }
            Some(outputs) => outputs.iter().try_for_each(|value| write!(out, ",{value}"))?,
        }
        writeln!(out)
    }

    fn head_json(&self, out: &mut impl Write) -> io::Result<()> {
        let study = serde_json::to_string(self.study)?;
        let digest = serde_json::to_string(&self.model_digest)?;
        writeln!(out, "{{\n  \"study\": {study},\n  \"model_digest\": {digest},")?;
        if self.objective.has_classes() {
            writeln!(out, "  \"classes\": {},", serde_json::to_string(self.classes)?)?;
        }
        write!(out, "  \"records\": [")
    }

    fn row_json(&self, prediction: &Prediction) -> io::Result<String> {
        let id = &prediction.id;
        let row = match (&prediction.outputs, &prediction.trouble) {
            (None, trouble) => serde_json::json!({ "id": id, "trouble": trouble }),
            (Some(outputs), _) if self.objective == Objective::Multilabel => serde_json::json!({
                "id": id, "classes": self.several(prediction), "probabilities": outputs
            }),
            (Some(outputs), _) if self.objective == Objective::Classify => serde_json::json!({
                "id": id, "class": self.class(prediction), "probabilities": outputs
            }),
            (Some(outputs), _) => serde_json::json!({ "id": id, "value": outputs.first() }),
        };
        Ok(serde_json::to_string(&row)?)
    }
}

/// A field of a table (RFC 4180, section 2).
fn csv(field: &str) -> String {
    if field.contains(['"', ',', '\r', '\n']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<io::Result<Prediction>> {
        let (outputs, trouble) = (Some(vec![0.25, 0.75]), Some("torn".to_owned()));
        vec![
            Ok(Prediction { id: "a,b.png".to_owned(), outputs, trouble: None }),
            Ok(Prediction { id: "2".to_owned(), outputs: None, trouble }),
        ]
    }

    fn written(json: bool) -> (String, Seen) {
        written_of(Objective::Classify, json)
    }

    fn written_of(objective: Objective, json: bool) -> (String, Seen) {
        let classes = ["well".to_owned(), "i\"ll".to_owned()];
        let study: StudyId = "ward".parse().unwrap();
        let sheet = Sheet {
            study: &study,
            model_digest: Digest([7; 32]),
            classes: &classes,
            threshold: None,
            objective,
            json,
        };
        let mut out = Vec::new();
        let seen = sheet.write(lines().into_iter(), &mut out).unwrap();
        (String::from_utf8(out).unwrap(), seen)
    }

    #[test]
    fn of_two_classes_the_second_is_said_from_the_studys_threshold_on() {
        let classes = ["well", "ill"].map(str::to_owned);
        let study: StudyId = "xray".parse().unwrap();
        let objective = Objective::Classify;
        let said = |threshold, second: f64| {
            let model_digest = Digest([7; 32]);
            let (study, classes) = (&study, classes.as_slice());
            let sheet = Sheet { study, model_digest, classes, threshold, objective, json: false };
            let outputs = Some(vec![1.0 - second, second]);
            sheet
                .class(&Prediction { id: "1".to_owned(), outputs, trouble: None })
                .map(str::to_owned)
        };
        assert_eq!(said(None, 0.6).as_deref(), Some("ill"));
        assert_eq!(said(Some(0.7), 0.6).as_deref(), Some("well"));
        assert_eq!(said(Some(0.7), 0.7).as_deref(), Some("ill"));
        assert_eq!(said(Some(0.7), f64::NAN), None);
    }

    #[test]
    fn a_table_has_a_row_for_every_record_and_an_empty_one_for_what_cannot_be_read() {
        let (text, seen) = written(false);
        let rows =
            "id,class,p(well),\"p(i\"\"ll)\"\n\"a,b.png\",\"i\"\"ll\",0.250000,0.750000\n2,,,\n";
        assert_eq!(text, rows);
        let named = vec![("2".to_owned(), "torn".to_owned())];
        assert_eq!(seen, Seen { records: 2, unread: 1, named });
    }

    #[test]
    fn json_is_one_document_with_the_same_rows() {
        let document: serde_json::Value = serde_json::from_str(&written(true).0).unwrap();
        assert_eq!(document["unreadable"], 1);
        assert_eq!(document["records"][0]["class"], "i\"ll");
        assert_eq!(document["records"][0]["probabilities"][1], 0.75);
        assert_eq!(document["records"][1], serde_json::json!({ "id": "2", "trouble": "torn" }));
    }

    #[test]
    fn of_several_labels_those_of_one_half_or_more_are_named() {
        let (text, _) = written_of(Objective::Multilabel, false);
        let head = "id,classes,p(well),\"p(i\"\"ll)\"\n";
        assert_eq!(text, format!("{head}\"a,b.png\",\"i\"\"ll\",0.250000,0.750000\n2,,,\n"));
        let (text, _) = written_of(Objective::Multilabel, true);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["records"][0]["classes"], serde_json::json!(["i\"ll"]));
        let outputs = Some(vec![0.5, 1.0]);
        let both = Prediction { id: "3".to_owned(), outputs, trouble: None };
        assert_eq!(both.classes(), [0, 1]);
    }

    #[test]
    fn a_worker_that_says_too_little_is_not_believed() {
        let study: StudyId = "ward".parse().unwrap();
        let model_digest = Digest([7; 32]);
        let objective = Objective::Regress;
        let sheet = Sheet {
            study: &study,
            model_digest,
            classes: &[],
            threshold: None,
            objective,
            json: false,
        };
        for outputs in [Some(vec![1.0, 2.0]), Some(Vec::new()), None] {
            let line = Prediction { id: "9".to_owned(), outputs, trouble: None };
            let error = sheet.write([Ok(line)].into_iter(), &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("record 9"), "{error}");
        }
    }

    #[test]
    fn the_ending_says_what_the_input_is() {
        let of = |name: &str, reads, own| {
            kind_of(Path::new(name), reads, own).map_err(|failure| failure.to_string())
        };
        let kind = |name: &str| of(name, DataKind::Images, None);
        assert_eq!(kind("a.CSV.gz"), Ok(SourceKind::Csv));
        assert_eq!(kind("a.tsv"), Ok(SourceKind::Tsv));
        assert_eq!(kind("a.npz"), Ok(SourceKind::Npz));
        assert_eq!(kind("a.JPEG"), Ok(SourceKind::ImageFolder));
        assert!(kind("a.dcm").unwrap_err().contains(".npz"));
        // A .txt is a document where documents are read, unless the site's own are a table's rows.
        assert_eq!(of("a.txt", DataKind::Text, None), Ok(SourceKind::Text));
        assert_eq!(of("a.txt", DataKind::Text, Some(SourceKind::Tsv)), Ok(SourceKind::Csv));
        assert_eq!(of("a.txt", DataKind::Table, None), Ok(SourceKind::Csv));
        assert_eq!(of("/", DataKind::Text, Some(SourceKind::Csv)), Ok(SourceKind::Text));
        assert_eq!(of("/", DataKind::Images, None), Ok(SourceKind::ImageFolder));
    }
}
