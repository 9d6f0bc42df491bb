//! Studies: drafts as people write them, resolved ones as they are signed, and the `.sig` beside.

use consilium_certs::signed_file;
use consilium_common::ids::Digest;
use consilium_common::limits::{CONFIG_BYTES_MAX, WORDS_MAX};
use consilium_common::signed::Document;
use consilium_common::study::{Initial, Study, StudyError};
use consilium_common::update::words::Schema;

use super::documents::KEY;
use super::{join, parts, scratch, shown, text};

/// Models up to this size are made in full; a larger one is a layout only.
const PARAMETERS_MADE_MAX: usize = 4096;

const EXAMPLE: &str = include_str!("../../../common/src/study/mnist.example.toml");
const TINY: &str = r#"[study]
name = "tiny"
[model]
family = "cnn"
input = { channels = 1, height = 8, width = 8 }
classes = ["no", "yes"]
conv = [{ filters = 2 }]
dense = [3]
[aggregation]
clip_norm = 16.0
[privacy]
mode = "inspectable"
"#;
const SYNTHETIC: &str = r#"[study]
name = "load"
[model]
family = "synthetic"
parameters = 100
batches = 2
[training]
optimizer = "sgd"
[aggregation]
clip_norm = 1.0
[cohort]
required = ["st-mary"]
deadline = "90s"
[privacy]
mode = "inspectable"
[evaluation]
metric = "loss"
"#;

/// A small study that is good.
pub(super) fn tiny() -> Study {
    Study::read(TINY, "tiny.toml").unwrap()
}

/// A study whose sites count three sums together.
pub(super) fn preparing() -> Study {
    let text = SYNTHETIC.replace("parameters = 100", "parameters = 100\nprepare = 3");
    Study::read(&text, "preparing.toml").unwrap()
}

/// A draft that is accepted is the same study when written and read again, and resolves to one
/// that can be signed.
pub(super) fn draft(bytes: &[u8]) {
    let Some(text) = text(bytes) else {
        return;
    };
    let study = match Study::read(text, "draft.toml") {
        Ok(study) => study,
        Err(error) => return shown(&error, bytes),
    };
    let written = study.to_text().unwrap();
    assert_eq!(Study::read(&written, "again.toml").as_ref(), Ok(&study));
    let layout = study.layout().unwrap();
    assert!(Schema::of(&study).words_len() <= WORDS_MAX);
    if layout.len() <= PARAMETERS_MADE_MAX {
        let resolved = study.resolve().unwrap();
        let signed = resolved.to_text().unwrap();
        assert_eq!(Study::parse(signed.as_bytes()).as_ref(), Ok(&resolved));
    }
}

/// A resolved study names the layout that its spec gives. To get that far, the word `LAYOUT` stands
/// for the right digest.
pub(super) fn resolved(bytes: &[u8]) {
    let Some(text) = text(bytes) else {
        return shown(&Study::parse(bytes).unwrap_err(), bytes);
    };
    let unsealed = text.replace("LAYOUT", &Digest([0; 32]).to_string());
    let layout = match Study::parse(unsealed.as_bytes()) {
        Err(StudyError::Layout { need, .. }) => need,
        Err(error) => return shown(&error, bytes),
        Ok(_) => Digest([0; 32]),
    };
    let sealed = text.replace("LAYOUT", &layout.to_string());
    match Study::parse(sealed.as_bytes()) {
        Ok(study) => {
            let layout = study.layout().unwrap().digest();
            assert_eq!(study.initial.map(|initial| initial.layout), Some(layout));
            let written = study.to_text().unwrap();
            assert_eq!(Study::parse(written.as_bytes()).as_ref(), Ok(&study));
        }
        Err(error) => shown(&error, bytes),
    }
}

/// A document and its `.sig`, in which the word `DIGEST` stands for the document's.
pub(super) fn signature_file(bytes: &[u8]) {
    let [document, sig] = parts(bytes);
    let sig = String::from_utf8_lossy(sig);
    let sig = sig.replace("DIGEST", &Digest::of(document).to_string());
    let path = scratch::write("study.toml", document);
    scratch::write("study.sig", sig.as_bytes());
    match signed_file::load::<Study>(&path) {
        Ok(signed) => {
            assert_eq!(signed.bytes, document);
            super::documents::signed(&signed);
        }
        Err(error) => shown(&error, bytes),
    }
}

/// One change each to [`TINY`], for every rule that a study can break.
const EDITS: [(&str, &str); 41] = [
    ("inspectable", "private"),
    ("classes", "clases"),
    ("cnn", "rnn"),
    ("name = \"tiny\"", "name = \"tiny\"\nformat = 2"),
    ("name = \"tiny\"", "name = \"tiny\"\nversion = 0"),
    ("name = \"tiny\"", "name = \"tiny\"\npurpose = \"\\u001b[31m\""),
    ("height = 8", "height = 9000"),
    ("height = 8", "height = 2"),
    ("[\"no\", \"yes\"]", "[\"no\", \"no\"]"),
    ("[\"no\", \"yes\"]", "[\"no\"]"),
    ("dense = [3]", "dense = [0]"),
    ("clip_norm = 16.0", "clip_norm = nan"),
    ("clip_norm = 16.0", "clip_norm = 1.0\nstrategy = \"median\""),
    ("clip_norm = 16.0", "clip_norm = 1.0\nstrategy = \"fedadam\"\ntau = 1e-9"),
    ("clip_norm = 16.0", "clip_norm = 1.0\nstrategy = \"fedprox\"\nproximal_mu = 0.1"),
    ("clip_norm = 16.0", "clip_norm = 1.0\nstrategy = \"fedprox\""),
    ("clip_norm = 16.0", "clip_norm = 1.0\nmomentum = 0.9"),
    ("clip_norm = 16.0", "clip_norm = 1.0\ncodec = \"int8\""),
    ("clip_norm = 16.0", "clip_norm = 1.0\ncodec = \"ring32\""),
    ("[privacy]", "[data]\nnormalize = \"federated\"\n[privacy]"),
    ("[privacy]", "[data]\nkind = \"table\"\n[privacy]"),
    ("[privacy]", "[data]\nmin_examples = 9999999\n[privacy]"),
    ("[privacy]", "[evaluation]\nmetric = \"auc\"\n[privacy]"),
    ("[privacy]", "[evaluation]\nshare = \"per-site\"\n[privacy]"),
    ("[privacy]", "[training]\nlearning_rate = -inf\n[privacy]"),
    ("[privacy]", "[training]\nbatch_size = 0\n[privacy]"),
    ("[privacy]", "[training]\nlocal_epochs = 0\n[privacy]"),
    ("[privacy]", "[training]\nrounds = 0\n[privacy]"),
    (
        "filters = 2 }]",
        "filters = 4, padding = 1, norm = 2, residual = true }]\nglobal_pool = true",
    ),
    ("filters = 2", "filters = 2, norm = 3"),
    ("filters = 2", "filters = 2, residual = true"),
    (
        "[privacy]",
        "[training]\nclass_weights = \"balanced\"\nclip_gradient = 1.0\nweight_decay = 0.1\naugment = { flip = \"both\", noise = 0.1 }\n[privacy]",
    ),
    ("[privacy]", "[training]\nclass_weights = [1]\n[privacy]"),
    ("[privacy]", "[training]\nclip_gradient = 0.0\n[privacy]"),
    ("[privacy]", "[training.augment]\nrotate = 999\n[privacy]"),
    ("[privacy]", "[cohort]\nmin_sites = 0\n[privacy]"),
    ("[privacy]", "[cohort]\nrequired = [\"a\", \"a\"]\n[privacy]"),
    ("[privacy]", "[cohort]\nmax_examples = 0\n[privacy]"),
    ("[privacy]", "[cohort]\nmin_sites = 100\nmax_examples = 67108864\n[privacy]"),
    ("[privacy]", "[cohort]\ndeadline = \"1ms\"\n[privacy]"),
    ("[privacy]", "# \u{202e}\n[privacy]"),
];

pub(super) fn drafts() -> Vec<Vec<u8>> {
    let long = format!("name = \"tiny\"\npurpose = \"{}\"", "x".repeat(600));
    let deep = format!("dense = [{}]", "3, ".repeat(64));
    let many = format!("parameters = {}", u32::MAX);
    let edited = EDITS.iter().map(|(from, to)| TINY.replace(from, to));
    let mut drafts: Vec<String> = edited.collect();
    drafts.extend([EXAMPLE, TINY, SYNTHETIC].map(str::to_owned));
    drafts.push(TINY.replace("name = \"tiny\"", &long));
    drafts.push(TINY.replace("dense = [3]", &deep));
    drafts.push(SYNTHETIC.replace("parameters = 100", &many));
    drafts.push(" ".repeat(CONFIG_BYTES_MAX + 1));
    drafts.into_iter().map(String::into_bytes).collect()
}

pub(super) fn resolved_ones() -> Vec<Vec<u8>> {
    let seal = |study: &str| {
        let mut study = Study::read(study, "seed.toml").unwrap();
        let zero = Digest([0; 32]);
        study.initial = Some(Initial { layout: zero, model: zero, given: false });
        let text = study.to_text().unwrap();
        text.replacen(&zero.to_string(), "LAYOUT", 1).into_bytes()
    };
    vec![seal(TINY), seal(SYNTHETIC), TINY.as_bytes().to_vec(), b"\xff".to_vec()]
}

pub(super) fn signature_files() -> Vec<Vec<u8>> {
    let document = tiny().resolve().unwrap().to_text().unwrap();
    let signature = KEY.sign(Study::DOMAIN, document.as_bytes());
    let (key, signature) = (signature.key, hex::encode(signature.signature));
    let entry = format!("[[signature]]\nkey = \"{key}\"\nsignature = \"{signature}\"\n");
    let head = "document = \"DIGEST\"\n";
    let other = format!("document = \"{}\"\n{entry}", Digest([0; 32]));
    [format!("{head}{entry}"), head.to_owned(), format!("{head}{entry}{entry}"), other]
        .iter()
        .map(|sig| join(&[document.as_bytes(), sig.as_bytes()]))
        .collect()
}
