//! Every hard bound of the formats and the protocol, with its reason. What a peer, a file or a
//! person hands us is held against these before memory or time is spent on it.

use std::time::Duration;

use crate::time::Millis;

/// Site, study, consortium and operator names (DNS label length: they appear in URIs and paths).
pub const NAME_BYTES_MAX: usize = 63;

/// Signatures read beside one document; rosters of more operators than this are refused.
pub const SIGNATURES_MAX: usize = 64;
/// Any signed document. A study is some kilobytes, a roster or roll call of 1,024 sites 400 KiB.
pub const SIGNED_BYTES_MAX: usize = 1 << 20;
/// A study file before parsing.
pub const STUDY_BYTES_MAX: usize = 256 << 10;
/// Any other text file that a person writes (agent.toml, consilium.toml).
pub const CONFIG_BYTES_MAX: usize = 256 << 10;

/// Versions of one study: decades of daily rounds, and a number that screens can show.
pub const ROUNDS_MAX: u64 = 1_000_000;
/// Bytes of a site's hours as they are published.
pub const HOURS_BYTES_MAX: usize = 128;
/// Sites in one roster: bounds roll calls, status and the sum of weights.
pub const SITES_MAX: usize = 1024;
/// Studies side by side at one coordinator.
pub const STUDIES_MAX: usize = 64;

/// Parameters of one model (8 GiB as f32): bounds every buffer that is O(model).
pub const PARAMETERS_MAX: u64 = 1 << 31;
/// Tensors of one layout.
pub const TENSORS_MAX: usize = 4096;
/// Head of a safetensors file: some 250 bytes of JSON for each of `TENSORS_MAX` tensors, twice.
pub const SAFETENSORS_HEAD_BYTES_MAX: usize = 2 << 20;
/// Variants of one study that are tried against one another: days of training at a minute each.
pub const VARIANTS_MAX: usize = 4096;
/// Patterns that pick tensors of a model: a line for each kind of layer is a handful.
pub const PATTERNS_MAX: usize = 64;
/// Dimensions of one tensor.
pub const DIMENSIONS_MAX: usize = 8;
/// Classes of a classifier: its confusion matrix has the square of this many words, and a record's set
/// of labels is a u64.
pub const CLASSES_MAX: usize = 64;
/// Columns of a table, variables of a series: a wide hospital export.
pub const COLUMNS_MAX: usize = 4096;
/// Words of one column: codes of a classification chapter; each is an input.
pub const CATEGORIES_MAX: usize = 1024;
/// Factors of a user or an item: beyond some hundred nothing is gained.
pub const FACTORS_MAX: u32 = 1024;
/// Items of a catalogue: as many as there are buckets to count them in.
pub const CATALOGUE_MAX: u32 = 1 << 18;
/// Items drawn against each that was chosen: more than pairwise losses gain from.
pub const NEGATIVES_MAX: u32 = 64;
/// Steps of a round (`local_steps`): a bound on what a study can ask of a site, far above what one does.
pub const LOCAL_STEPS_MAX: u32 = 10_000_000;
/// Scores of one training step over a whole catalogue, batch × items: half a gibibyte, and as much again
/// for their gradient.
pub const BATCH_SCORES_MAX: u64 = 1 << 27;
/// 32-bit words beside an update: weight, flags and metric sums in 16-bit limbs (a confusion matrix
/// and two histograms of 256 bins a class).
pub const WORDS_MAX: usize = 4 * (CLASSES_MAX * (CLASSES_MAX + 512) + 64);

/// Groups for which a study's versions are scored apart.
pub const GROUPS_MAX: usize = 32;
/// A group of fewer hold-out records (patients, where they are named) at a site is left out there: the
/// threshold that statistical offices commonly use for counts of people.
pub const GROUP_RECORDS_MIN: u64 = 10;
/// Names and values of a study's metric sums in a roll call, which has room for `SITES_MAX` sites beside.
pub const METRIC_NAMES_BYTES_MAX: usize = 512 << 10;

/// |x| of one grid coordinate: leaves 32 bits of an i64 for the sum of weights (§ exact sums).
pub const GRID_MAX: i32 = 1 << 30;
/// The sum of weights of one round must stay below this: 2^32 · 2^30 < 2^63.
pub const WEIGHT_SUM_MAX: u64 = 1 << 32;
/// A site's weight at most, whatever the study says.
pub const EXAMPLES_MAX: u64 = 1 << 26;
/// Each 16-bit limb of a metric sum, added over all sites, must stay below 2^32.
pub const LIMB_BITS: u32 = 16;

/// Integer sums of one preparation: 2^18 buckets (DESIGN.md §10) for eight vocabularies or catalogues.
/// The coordinator holds them as i64 while the round is open (16 MiB), and so does a site that reads
/// the result.
pub const PREPARATION_SUMS_MAX: usize = 1 << 21;

/// Body of a control frame: heartbeats never wait behind more than this.
pub const FRAME_BODY_BYTES_MAX: usize = 1 << 20;
/// Control frames a connection may have queued for its peer before it counts as stuck.
pub const FRAMES_QUEUED_MAX: usize = 256;
/// Blob streams one connection may have open at once.
pub const BLOB_STREAMS_MAX: u32 = 16;
/// One read or write of a blob on a disk, and the unit of streaming aggregation.
pub const CHUNK_BYTES: usize = 1 << 20;
/// One read or write of a blob on a stream: every transfer under way holds two.
pub const TRANSFER_CHUNK_BYTES: usize = 128 << 10;
/// Largest blob: a strategy's state, two f32 for each of `PARAMETERS_MAX`, with its header, rounded
/// up. A model is half of that.
pub const BLOB_BYTES_MAX: u64 = (PARAMETERS_MAX * 8) + (64 << 20);

/// Hashes of one proof over the log's tree: one for each level of a tree of 2^64 leaves, and one.
pub const PROOF_HASHES_MAX: usize = 65;
/// A log record's payload (a roll call is the largest).
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Signed heads of a site's ledger are written this far apart, and when the agent stops: each costs two
/// syncs.
pub const LEDGER_HEAD_INTERVAL: Duration = Duration::from_secs(1);
/// A start reads the site's ledger from a mark on that is at most so far from its signed head: a few
/// thousand records, some milliseconds.
pub const LEDGER_MARK_BYTES: u64 = 1 << 20;
/// Studies whose last word in the ledger an agent keeps in mind; the word on an older one is written
/// again when it is asked for.
pub const LEDGER_STUDIES_MAX: usize = 1024;
/// The mark's file: a sentence on each of those studies.
pub const LEDGER_MARK_FILE_BYTES_MAX: usize = 8 << 20;
/// Studies without the operators' signatures that one run of an agent writes into its ledger: who makes
/// up studies must not fill a hospital's disk.
pub const LEDGER_UNSIGNED_MAX: usize = 256;

/// People who must accept one study at a site.
pub const APPROVERS_MAX: usize = 8;
/// The name of a person who decides, with title and function.
pub const PERSON_BYTES_MAX: usize = 128;
/// Researchers that one study lists.
pub const RESEARCHERS_MAX: usize = 64;
/// How long before a study's approval ends both sides say so.
pub const APPROVAL_NOTICE: Millis = Millis::from_secs(30 * 24 * 3600);

/// One JSON line between the daemon and its worker.
pub const WORKER_LINE_BYTES_MAX: usize = 1 << 20;
/// A site's local state of one study: embeddings of two million users at 128 f32. It is copied twice a
/// round, and up to three lie on the site's disk: current, retained, and the running worker's.
pub const LOCAL_BYTES_MAX: u64 = 1 << 30;

/// One record of a table: a few long reports, or 65,536 columns of numbers.
pub const TABLE_RECORD_BYTES_MAX: usize = 4 << 20;
/// One field of a table: a discharge letter has some 100 KiB at most. A quote that is never closed
/// meets this bound before it has swallowed the file.
pub const TABLE_FIELD_BYTES_MAX: usize = 1 << 20;
/// Columns of a table: gene expression has some 60,000.
pub const TABLE_COLUMNS_MAX: usize = 1 << 16;

/// Ranges of versions in one withdrawal: a study of thousands of versions whose site counted in every
/// second one.
pub const WITHDRAWAL_RANGES_MAX: usize = 4096;

/// Patients whose records a site does not read: more than any hospital has had.
pub const EXCLUDED_MAX: usize = 1 << 24;

/// A document in a file of its own: as a table's record, some hundred pages.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Tokens of one document that a model reads: a long report has some thousand words.
pub const DOCUMENT_TOKENS_MAX: u32 = 1 << 16;
/// Tokens of a site's documents, each filled up to the longest: 4 GiB of ids, held twice for a moment.
pub const DOCUMENTS_TOKENS_MAX: usize = 1 << 30;

/// Header of a .npy file: a hundred bytes for a plain array; numpy itself reads 10,000.
pub const NPY_HEADER_BYTES_MAX: usize = 16 << 10;
/// Arrays in one .npz file.
pub const NPZ_ARRAYS_MAX: usize = 1024;
/// Elements of one record of an array: the pixels of the largest image.
pub const ARRAY_RECORD_ELEMENTS_MAX: u64 = 1 << 26;

/// Pixels along one side of an image file; mammograms have some 6,000.
pub const IMAGE_SIDE_MAX: u32 = 1 << 14;
/// What decoding one image file may allocate: 2^26 pixels of three 16-bit channels, and room.
pub const IMAGE_DECODED_BYTES_MAX: u64 = 512 << 20;
/// An image file: decoders hold the whole of it.
pub const IMAGE_FILE_BYTES_MAX: u64 = 128 << 20;
/// Folders within folders below a class's own: site, patient, study, series, and as many again.
pub const FOLDER_DEPTH_MAX: usize = 8;

/// Text in refusals, reasons and names of peers.
pub const TEXT_BYTES_MAX: usize = 512;

/// A certificate request (PKCS#10, DER) of a P-256 key has some 300 bytes.
pub const CSR_BYTES_MAX: usize = 4 << 10;
/// Hexadecimal digits of an enrolment token: names, an address and 64 bytes.
pub const TOKEN_TEXT_BYTES_MAX: usize = 4 << 10;
/// A certificate chain in PEM, and a root: two certificates have some 2 KiB.
pub const CHAIN_BYTES_MAX: usize = 32 << 10;
/// Invitations that are open at a time: as many as there can be sites.
pub const INVITATIONS_MAX: usize = SITES_MAX;
/// How long an enrolment token works.
pub const INVITATION_LENGTH: Millis = Millis::from_secs(24 * 60 * 60);
/// Clocks further apart than this are refused at Welcome, at both ends (DESIGN.md §8).
pub const CLOCK_SKEW_MAX: Millis = Millis::from_secs(300);
/// How often an idle agent says that it lives.
pub const HEARTBEAT_INTERVAL: Millis = Millis::from_secs(5);
/// A connection on which nothing at all arrives for this long is closed.
pub const CONNECTION_IDLE_MAX: Millis = Millis::from_secs(30);

const _: () = assert!(WEIGHT_SUM_MAX.ilog2() + GRID_MAX.ilog2() < 63, "sums fit an i64");
const _: () = assert!(SITES_MAX.ilog2() + GRID_MAX.ilog2() < 63, "sums of counts fit an i64");
const _: () = assert!((PREPARATION_SUMS_MAX as u64) <= PARAMETERS_MAX, "counts fit an update");
const _: () = assert!(EXAMPLES_MAX < WEIGHT_SUM_MAX, "one site fits the sum of weights");
const _: () = assert!((SITES_MAX as u64) << LIMB_BITS < 1 << 32, "limb sums fit a u32");
const _: () = assert!(SIGNED_BYTES_MAX <= RECORD_BYTES_MAX, "signed documents fit a record");
const _: () = assert!(STUDY_BYTES_MAX < SIGNED_BYTES_MAX, "a study fits a signed document");
