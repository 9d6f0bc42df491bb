//! Every dtype in both byte orders, the archives we have, and one test per way of being no array.

use std::io::Write;

use consilium_common::random::Generator;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

fn npy(descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    raw(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), elements)
}

fn raw(dictionary: &str, elements: &[u8]) -> Vec<u8> {
    let mut header = dictionary.to_owned();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(elements);
    bytes
}

fn put(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

fn zipped(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// What a .npy of these bytes says when it is read to its end as f32.
fn read(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = put(&folder, "x.npy", bytes);
    let all = || {
        let mut array = Array::open(&path, "x")?;
        let mut out = Vec::new();
        array.next_rows(u64::MAX, &mut out).map(|_| out)
    };
    let plain =
        |error: NpzError| error.to_string().replace(&format!("{}/", folder.path().display()), "");
    all().map_err(plain)
}

fn refusal(bytes: &[u8]) -> String {
    read(bytes).unwrap_err()
}

#[test]
fn every_dtype_is_read_in_both_byte_orders() {
    let mut looked_at = 0;
    let mut look = |descr: &str, little: &[&[u8]], values: &[f32]| {
        for order in ['<', '>'] {
            let element = |bytes: &&[u8]| {
                let mut bytes = bytes.to_vec();
                if order == '>' {
                    bytes.reverse();
                }
                bytes
            };
            let elements: Vec<u8> = little.iter().flat_map(element).collect();
            let order = if little[0].len() == 1 { '|' } else { order };
            let have = read(&npy(&format!("{order}{descr}"), "(2,)", &elements));
            assert_eq!(have.as_deref(), Ok(values), "{order}{descr}");
            looked_at += 1;
        }
    };
    look("b1", &[&[0], &[1]], &[0.0, 1.0]);
    look("u1", &[&[0], &[255]], &[0.0, 255.0]);
    look("i1", &[&[127], &[128]], &[127.0, -128.0]);
    look("u2", &[&[1, 2], &[255; 2]], &[513.0, 65535.0]);
    look("i2", &[&[1, 2], &[255; 2]], &[513.0, -1.0]);
    look("u4", &[&[0, 0, 1, 0], &[0, 0, 0, 128]], &[65536.0, 2_f32.powi(31)]);
    look("i4", &[&[0, 0, 1, 0], &[0, 0, 0, 128]], &[65536.0, -(2_f32.powi(31))]);
    look("i8", &[&(-3_i64).to_le_bytes(), &(1_i64 << 40).to_le_bytes()], &[-3.0, 2_f32.powi(40)]);
    look("f2", &[&[0, 0x3c], &[1, 0x80]], &[1.0, -(2_f32.powi(-24))]);
    look("f4", &[&0.1_f32.to_le_bytes(), &f32::MIN.to_le_bytes()], &[0.1, f32::MIN]);
    look("f8", &[&0.1_f64.to_le_bytes(), &1e300_f64.to_le_bytes()], &[0.1, f32::INFINITY]);
    assert_eq!(looked_at, 22);
}

#[test]
fn halves_are_exact() {
    // Value, bits: IEEE 754-2008 binary16.
    let cases =
        [(65504.0, 0x7bff), (6.103_515_6e-5, 0x0400), (0.333_251_95, 0x3555), (-2.0, 0xc000)];
    for (value, bits) in cases {
        assert_eq!(half(bits).to_bits(), f32::to_bits(value), "{bits:04x}");
    }
    assert!(half(0x7e00).is_nan());
    assert_eq!(half(0xfc00).to_bits(), f32::NEG_INFINITY.to_bits());
    assert!(half(0x8000).is_sign_negative());
}

#[test]
fn integers_come_whole_and_fractions_do_not_come_as_integers() {
    let folder = tempfile::tempdir().unwrap();
    let large = (1_i64 << 53) + 1;
    let path = put(&folder, "y.npy", &npy("<i8", "(1,)", &large.to_le_bytes()));
    let (mut integers, mut bytes) = (Vec::new(), Vec::new());
    assert_eq!(Array::open(&path, "y").unwrap().next_rows_i64(5, &mut integers).unwrap(), 1);
    assert_eq!(integers, [large]);
    let error = Array::open(&path, "y").unwrap().next_rows_u8(5, &mut bytes).unwrap_err();
    assert!(error.to_string().ends_with("array \"y\": dtype <i8, |u1 expected"), "{error}");
    let path = put(&folder, "y.npy", &npy("<f4", "(1,)", &[0; 4]));
    let error = Array::open(&path, "y").unwrap().next_rows_i64(5, &mut integers).unwrap_err();
    assert!(error.to_string().ends_with("dtype <f4, an integer type expected"), "{error}");
}

#[test]
fn an_archive_is_listed_and_read_by_records_stored_or_deflated() {
    let folder = tempfile::tempdir().unwrap();
    let (x, y) =
        (npy("|u1", "(3, 2)", &[1, 2, 3, 4, 5, 6]), npy("<i2", "(3,)", &[7, 0, 8, 0, 9, 0]));
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let entries: [(&str, &[u8]); 3] = [("y.npy", &y), ("x.npy", &x), ("notes.txt", b"hello")];
        let path = put(&folder, "a.npz", &zipped(&entries, method));
        let listed = list(&path).unwrap();
        let lines: Vec<String> = listed
            .iter()
            .map(|one| format!("{} {} {:?}", one.name, one.header.dtype, one.header.shape))
            .collect();
        assert_eq!(lines, ["x |u1 [3, 2]", "y <i2 [3]"]);
        let mut array = Array::open(&path, "x").unwrap();
        let mut out = Vec::new();
        assert_eq!(
            (array.next_rows_u8(2, &mut out).unwrap(), out.as_slice()),
            (2, &[1, 2, 3, 4][..])
        );
        assert_eq!((array.next_rows_u8(2, &mut out).unwrap(), out.as_slice()), (1, &[5, 6][..]));
        assert_eq!((array.next_rows_u8(2, &mut out).unwrap(), out.as_slice()), (0, &[][..]));
        let error = Array::open(&path, "z").unwrap_err().to_string();
        assert!(error.ends_with("has no array \"z\", it has x, y"), "{error}");
    }
}

#[test]
fn damage_to_an_archive_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let x = npy("|u1", "(300,)", &[5; 300]);
    let whole = zipped(&[("x.npy", &x)], CompressionMethod::Stored);
    let mut flipped = whole.clone();
    let at = flipped.windows(8).position(|bytes| bytes == [5; 8]).unwrap();
    flipped[at + 100] = 6;
    let read = |bytes: &[u8]| {
        let path = put(&folder, "a.npz", bytes);
        let mut out = Vec::new();
        Array::open(&path, "x").and_then(|mut array| array.next_rows_u8(300, &mut out))
    };
    assert_eq!(read(&whole).unwrap(), 300);
    let error = read(&flipped).unwrap_err().to_string();
    assert!(error.ends_with("its checksum is not the archive's"), "{error}");
    let error = read(&whole[..whole.len() - 30]).unwrap_err().to_string();
    assert!(error.contains("a.npz is no readable .npz"), "{error}");
    let error = read(&x).unwrap_err().to_string();
    assert!(error.contains("is no readable .npz"), "{error}");
    let error = Array::open(Path::new("/nowhere/a.npz"), "x").unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/a.npz cannot be opened"), "{error}");
}

#[test]
fn a_header_is_taken_by_the_word_and_never_evaluated() {
    let one = |dictionary: &str| read(&raw(dictionary, &[7]));
    let accepted = [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }",
        "{\"shape\":(1),\"descr\":\"|u1\",\"fortran_order\":False}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (), }",
    ];
    for dictionary in accepted {
        assert_eq!(one(dictionary), Ok(vec![7.0]), "{dictionary}");
    }
    let refused = [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "Python objects (pickle)"),
        ("{'descr': '<U9', 'fortran_order': False, 'shape': (1,)}", "\"<U9\", text"),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "\"<c8\", which is not read"),
        ("{'descr': 'u4', 'fortran_order': False, 'shape': (1,)}", "which is not read"),
        ("{'descr': '|u4', 'fortran_order': False, 'shape': (1,)}", "names no byte order"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "named fields"),
        ("{'descr': '|u1', 'fortran_order': True, 'shape': (1,)}", "in Fortran order"),
        ("{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}", "where \"False\" was expected"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}", "a size \"\""),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 99999999, 99999999)}", "at most"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "than 8 axes"),
        ("{'descr': '|u1', 'fortran_order': False}", "lacks one of"),
        ("{'descr': '|u1', 'descr': '|u1'}", "\"descr\" twice"),
        ("{'descr': '|u1', 'order': 'C'}", "a key \"order\""),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)} + x", "goes on after"),
        ("{'descr': '|u1'", "where \"}\" was expected"),
        ("{'descr", "an open quote"),
        ("[1]", "where \"{\" was expected"),
    ];
    for (dictionary, why) in refused {
        let error = one(dictionary).unwrap_err();
        assert!(error.starts_with("x.npy, array \"x\": ") && error.contains(why), "{error}");
    }
}

#[test]
fn what_is_no_array_is_refused() {
    assert!(refusal(b"PK\x03\x04 what is this").contains("does not start with"));
    assert!(refusal(b"\x93NUMPY\x01").contains("truncated: it ends within its header"));
    assert!(refusal(b"\x93NUMPY\x09\x00\x01\x00{").contains("of version 9.0"));
    assert!(refusal(b"\x93NUMPY\x02\x00\xff\xff\xff\xffx").contains("has 4294967295 bytes"));
    let short = refusal(&npy("|u1", "(3, 4)", &[0; 9]));
    assert_eq!(short, "x.npy, array \"x\": truncated: it ends in record 0 of 3");
    let long = refusal(&npy("|u1", "(3,)", &[0; 4]));
    assert!(long.ends_with("goes on after its last record"), "{long}");
    let long = refusal(&npy("|u1", "(0,)", &[0]));
    assert!(long.ends_with("goes on after its last record"), "{long}");
}

#[test]
fn a_header_that_claims_everything_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(&folder, "x.npy", &npy("<f8", "(18446744073709551615, 67108864)", &[0; 80]));
    let mut array = Array::open(&path, "x").unwrap();
    let mut out = Vec::new();
    let error = array.next_rows(u64::MAX, &mut out).unwrap_err().to_string();
    assert!(error.contains("record 0 of 18446744073709551615"), "{error}");
    assert!(out.capacity() < 1 << 16, "{}", out.capacity());
}

#[test]
fn the_archives_of_medmnist_and_physionet_are_read_to_their_end() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let path = data.join("cnn/pneumoniamnist/pneumoniamnist.npz");
    if !path.exists() {
        println!("skipped: no {}", path.display());
        return;
    }
    let mut images = Array::open(&path, "train_images").unwrap();
    assert_eq!((images.dtype().to_string().as_str(), images.shape()), ("|u1", &[4708, 28, 28][..]));
    let (mut bytes, mut records, mut sum) = (Vec::new(), 0, 0_u64);
    while images.next_rows_u8(500, &mut bytes).unwrap() > 0 {
        records += bytes.len() / (28 * 28);
        sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
    // The mean grey level that MedMNIST publishes for this set is 0.5719.
    let mean = sum as f64 / (4708.0 * 784.0 * 255.0);
    assert_eq!(records, 4708);
    assert!((mean - 0.5719).abs() < 0.0001, "{mean}");
    let mut labels = Vec::new();
    Array::open(&path, "train_labels").unwrap().next_rows_i64(u64::MAX, &mut labels).unwrap();
    let sick = labels.iter().filter(|label| **label == 1).count();
    assert_eq!((labels.len(), sick), (4708, 3494), "Kermany et al. 2018, as split by MedMNIST");

    let path = data.join("rnn/physionet2012/physionet2012_seta.npz");
    let mut series = Array::open(&path, "X").unwrap();
    assert_eq!((series.dtype().to_string().as_str(), series.shape()), ("<f4", &[4000, 48, 37][..]));
    let (mut values, mut records, mut known) = (Vec::new(), 0, 0);
    while series.next_rows(300, &mut values).unwrap() > 0 {
        records += values.len() / (48 * 37);
        known += values.iter().filter(|value| value.is_finite()).count();
    }
    assert_eq!(records, 4000);
    assert!(known > 0);
}

#[test]
fn damaged_archives_are_read_or_refused_and_never_break_the_reader() {
    let seed = std::env::var("CONSILIUM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("CONSILIUM_SEED={seed}");
    let mut generator = Generator::new("damaged arrays", &seed.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let x = npy("<f4", "(5, 2)", &[3; 40]);
    let archive = zipped(&[("x.npy", &x), ("y.npy", &x)], CompressionMethod::Deflated);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..1500 {
        let single = generator.below(2) == 0;
        let mut bytes = if single { x.clone() } else { archive.clone() };
        for _ in 0..generator.below(4) {
            let at = generator.below(u32::try_from(bytes.len()).unwrap()) as usize;
            bytes[at] = u8::try_from(generator.below(256)).unwrap();
        }
        bytes.truncate(bytes.len() - generator.below(2) as usize * generator.below(40) as usize);
        let path = put(&folder, if single { "x.npy" } else { "x.npz" }, &bytes);
        let mut out = Vec::new();
        let whole = list(&path).and_then(|_| Array::open(&path, "x"));
        match whole.and_then(|mut array| array.next_rows(1000, &mut out)) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}
