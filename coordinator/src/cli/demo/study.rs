//! What the demonstration trains: the design's worked example on MNIST, dealt to hospitals.

use std::path::Path;

use anyhow::Context as _;
use consilium_common::ids::SiteId;

use super::DemoArgs;
use crate::local::SiteSpec;

/// Name of the study.
pub(super) const STUDY: &str = "mnist";

/// Hospitals of the demonstration; numbered ones follow.
const NAMES: [&str; 8] =
    ["charite", "st-mary", "karolinska", "mayo", "tokyo", "clinic-6", "clinic-7", "clinic-8"];

/// The study's draft, as an operator would write it.
pub(super) fn draft(args: &DemoArgs) -> String {
    format!(
        r#"[study]
name = "{STUDY}"
purpose = "Read handwritten digits: the demonstration"
seed = {seed}

[model]
family = "cnn"
input = {{ channels = 1, height = 28, width = 28 }}
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
conv = [{{ filters = 32, kernel = 3, pool = 2 }}]
dense = [128]

[training]
optimizer = "adam"
learning_rate = 1e-3
batch_size = 32
local_epochs = 1
rounds = {rounds}

[aggregation]
clip_norm = 20.0

[cohort]
min_sites = {sites}
max_examples = 100000

[privacy]
mode = "inspectable"
"#,
        seed = args.seed,
        rounds = args.rounds,
        sites = args.sites,
    )
}

/// The sites, each with its part of the records. The test images are dealt alike, as hold-outs.
pub(super) fn sites(args: &DemoArgs, data: &Path) -> anyhow::Result<Vec<SiteSpec>> {
    (0..args.sites)
        .map(|index| {
            let name = site_name(index)?;
            let section = section(data, args, index);
            Ok(SiteSpec { name, data: vec![(STUDY.to_owned(), section)] })
        })
        .collect()
}

fn site_name(index: u32) -> anyhow::Result<SiteId> {
    let known = usize::try_from(index).ok().and_then(|index| NAMES.get(index));
    let name = known.map_or_else(|| format!("clinic-{}", index + 1), |name| (*name).to_owned());
    name.parse().context("naming a site of the demonstration")
}

/// The lines of `[data.mnist]` of one site.
fn section(data: &Path, args: &DemoArgs, index: u32) -> String {
    let DemoArgs { sites, split, seed, .. } = args;
    format!(
        "source = \"idx\"\npath = {:?}\nholdout = \"test\"\n\
         part = {{ of = {sites}, index = {index}, split = \"{split}\", seed = {seed} }}\n",
        data.to_string_lossy()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use consilium_common::study::Study;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: DemoArgs,
    }

    #[test]
    fn the_demonstration_is_the_worked_example() {
        let args = Cli::parse_from(["demo", "--data", "x", "--sites", "9", "--rounds", "3"]).args;
        let study = Study::read(&draft(&args), "demo").unwrap();
        assert_eq!(study.layout().unwrap().len(), 693_962);
        assert_eq!((study.training.rounds, study.cohort.min_sites), (3, 9));
        let sites = sites(&args, Path::new("/data")).unwrap();
        assert_eq!(sites.len(), 9);
        let section: consilium_common::worker::Source =
            consilium_common::config::parse(&sites.last().unwrap().data[0].1, "x").unwrap();
        assert_eq!(section.part.unwrap().index, 8);
    }
}
