//! One test per way of being no IDX file.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";
const SIZE: Image = Image { channels: 1, height: 2, width: 3 };

fn idx(sizes: &[u32], elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, u8::try_from(sizes.len()).unwrap()];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(elements);
    bytes
}

fn put(folder: &TempDir, name: &str, bytes: &[u8]) {
    File::create(folder.path().join(name)).unwrap().write_all(bytes).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(folder: &Path, size: Image, labels: usize) -> Result<Vec<Vec<u8>>, IdxError> {
    let mut records = Records::images(folder, IMAGES, size, labels)?;
    let mut all = Vec::new();
    while let Some(record) = records.next()? {
        all.push(record.to_vec());
    }
    Ok(all)
}

/// The error for these images, as hospital IT reads it, without the folder.
fn refusal(bytes: &[u8], labels: usize) -> (IdxError, String) {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, IMAGES, bytes);
    let error = read(folder.path(), SIZE, labels).unwrap_err();
    let text = error.to_string().replace(&format!("{}/", folder.path().display()), "");
    (error, text)
}

#[test]
fn plain_and_gzip_give_the_same_records() {
    let bytes = idx(&[2, 2, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    let (plain, packed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(&plain, IMAGES, &bytes);
    put(&packed, &format!("{IMAGES}.gz"), &gzip(&bytes));
    let records = read(plain.path(), SIZE, 2).unwrap();
    assert_eq!(records, [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]);
    assert_eq!(read(packed.path(), SIZE, 2).unwrap(), records);
}

#[test]
fn colour_has_a_dimension_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, IMAGES, &idx(&[1, 3, 1, 2], &[1, 2, 3, 4, 5, 6]));
    let size = Image { channels: 3, height: 1, width: 2 };
    assert_eq!(read(folder.path(), size, 1).unwrap(), [[1, 2, 3, 4, 5, 6]]);
    assert!(matches!(read(folder.path(), SIZE, 1), Err(IdxError::Magic { .. })));
}

#[test]
fn labels_are_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, &format!("{LABELS}.gz"), &gzip(&idx(&[3], &[7, 0, 9])));
    assert_eq!(labels(folder.path(), LABELS).unwrap(), [7, 0, 9]);
}

#[test]
fn a_missing_folder_and_a_missing_file_are_told_apart() {
    let error = labels(Path::new("/nowhere"), LABELS).unwrap_err();
    assert_eq!(error.to_string(), "the data folder /nowhere does not exist or is not a folder");
    let folder = tempfile::tempdir().unwrap();
    let error = labels(folder.path(), LABELS).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(" has neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz")
    );
}

#[test]
fn a_file_that_ends_early_says_in_which_record() {
    let whole = idx(&[3, 2, 3], &[0; 18]);
    for (cut, expected) in [
        (0, "it ends inside its header"),
        (7, "it ends inside its header"),
        (16, "it ends in record 1 of 3"),
        (33, "it ends in record 3 of 3"),
    ] {
        let (_, text) = refusal(&whole[..cut], 3);
        assert_eq!(text, format!("{IMAGES} is truncated: {expected}"));
    }
    let folder = tempfile::tempdir().unwrap();
    put(&folder, LABELS, &idx(&[5], &[1, 2]));
    let text = labels(folder.path(), LABELS).unwrap_err().to_string();
    assert!(text.ends_with("is truncated: it ends in record 3 of 5"), "{text}");
}

#[test]
fn a_gzip_file_that_is_cut_or_flipped_is_damaged_or_truncated() {
    let packed = gzip(&idx(&[40, 2, 3], &(0..240).collect::<Vec<u8>>()));
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{IMAGES}.gz");
    for cut in 0..packed.len() {
        put(&folder, &name, &packed[..cut]);
        read(folder.path(), SIZE, 40).unwrap_err();
    }
    let mut flipped = packed;
    let at = flipped.len() - 6; // in the checksum
    flipped[at] ^= 1;
    put(&folder, &name, &flipped);
    let error = read(folder.path(), SIZE, 40).unwrap_err();
    assert!(matches!(error, IdxError::Damaged { .. }), "{error}");
}

#[test]
fn other_files_are_refused_by_what_they_start_with() {
    let (_, text) = refusal(b"PK\x03\x04 a zip archive", 1);
    assert_eq!(
        text,
        format!("{IMAGES} starts with 504b0304, 00000803 expected (IDX, grey images of bytes)")
    );
    let (error, _) = refusal(&idx(&[4], &[1, 2, 3, 4]), 4); // labels in place of images
    assert!(matches!(error, IdxError::Magic { .. }));
}

#[test]
fn records_of_another_size_or_number_are_refused() {
    let (_, text) = refusal(&idx(&[1, 3, 2], &[0; 6]), 1);
    assert_eq!(text, format!("{IMAGES} holds records of 3×2, the study's data contract says 2×3"));
    let (_, text) = refusal(&idx(&[2, 2, 3], &[0; 12]), 3);
    assert_eq!(text, format!("{IMAGES} has 2 images, its labels are 3"));
    let (error, _) = refusal(&idx(&[2, 2, 3], &[0; 13]), 2);
    assert!(matches!(error, IdxError::Trailing { .. }));
}

#[test]
fn a_header_that_claims_too_much_costs_nothing() {
    let (error, _) = refusal(&idx(&[u32::MAX, 2, 3], &[]), 1);
    assert!(matches!(error, IdxError::TooMany { .. }));
    let folder = tempfile::tempdir().unwrap();
    put(&folder, LABELS, &idx(&[1 << 26], &[1]));
    let error = labels(folder.path(), LABELS).unwrap_err();
    assert!(matches!(error, IdxError::Truncated { .. }));
}
