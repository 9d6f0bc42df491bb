//! A hospital of films: pictures of a hundred patients, a table that lists them, and who opted out. For tests
//! of real workers on real files.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use consilium_coordinator::local::SiteSpec;

use super::world::name;

/// The study's name.
pub const NAME: &str = "films";
/// Patients of a site.
pub const PATIENTS: usize = 100;
/// Films of a patient.
pub const FILMS: usize = 2;
/// What only the site's own data may hold: it begins each patient's name.
pub const PLANT: &str = "zq-Plant-81f3";

/// The study, which never ends by itself.
pub const DRAFT: &str = "\
[study]\nname = \"films\"\nseed = 3\n\
[model]\nfamily = \"cnn\"\ninput = { channels = 1, height = 8, width = 8 }\n\
classes = [\"well\", \"ill\"]\nconv = [{ filters = 2 }]\ndense = []\n\
[data]\nkind = \"images\"\n\
[training]\nlearning_rate = 0.01\nrounds = 1000\n\
[aggregation]\nclip_norm = 5.0\n[cohort]\nmin_sites = 1\n[privacy]\nmode = \"inspectable\"\n";

/// PNG files of 8 × 8 grey pixels: dark ones and bright ones.
pub const PICTURES: [&str; 2] = [
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000000e4944415478da63\
     d0800206ca180068570a0106cfdb470000000049454e44ae426082",
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000000e4944415478da63\
     b803050c943100bcb1370129b3634f0000000049454e44ae426082",
];

/// A patient's name.
#[must_use]
pub fn patient(number: usize) -> String {
    format!("{PLANT}-{number:03}")
}

/// Whether a film is held out: some of a patient's are, some are not.
#[must_use]
pub fn is_held(film: usize) -> bool {
    film.is_multiple_of(5)
}

/// The site with its folder in `data`: films, a table that lists them with their patients, and nobody who opted
/// out.
#[must_use]
pub fn site(data: &Path, site: usize) -> SiteSpec {
    let folder = data.join(site.to_string());
    fs::create_dir(&folder).unwrap();
    let mut table = "file,label,pid,part\n".to_owned();
    for film in 0..PATIENTS * FILMS {
        let ill = film % 3 == 0;
        let picture = hex::decode(PICTURES[usize::from(ill)]).unwrap();
        fs::write(folder.join(file(film)), picture).unwrap();
        let (label, part) =
            (["well", "ill"][usize::from(ill)], ["train", "test"][usize::from(is_held(film))]);
        writeln!(table, "{},{label},{},{part}", file(film), patient(film / FILMS)).unwrap();
    }
    fs::write(folder.join("films.csv"), table).unwrap();
    fs::write(folder.join("optout.csv"), "pid\n").unwrap();
    let [labels, optout] = ["films.csv", "optout.csv"].map(|name| folder.join(name));
    let section = format!(
        "source = \"image-folder\"\npath = {folder:?}\nlabels = {labels:?}\npatient = \"pid\"\n\
         exclude = {optout:?}\nholdout = {{ column = \"part\", equals = \"test\" }}\n"
    );
    SiteSpec { name: name(site), data: vec![(NAME.to_owned(), section)] }
}

/// A film's file.
#[must_use]
pub fn file(film: usize) -> String {
    format!("film{film:04}.png")
}
