//! One table in every way it may be written, and one test per way of being no table.

use std::io::Write;

use consilium_common::random::Generator;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const PLAIN: &str =
    "patient,diagnosis,age\n一,肺炎和发热,61\n二,慢性心力衰竭,58\n三,糖尿病的并发症,73\n";

/// What a table holds, or why not: columns, then rows, each with its line.
type Whole = (Vec<String>, Vec<(u64, Vec<String>)>);

fn read(name: &str, bytes: &[u8], options: TableOptions) -> Result<Whole, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    let all = || -> Result<Whole, TableError> {
        let mut table = Table::open(&path, options)?;
        let (mut row, mut rows) = (Row::default(), Vec::new());
        while table.next_row(&mut row)? {
            rows.push((row.line(), row.fields().map(str::to_owned).collect()));
        }
        assert!(!table.next_row(&mut row)?, "a table that has ended stays so");
        Ok((table.columns().to_vec(), rows))
    };
    all().map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn rows(name: &str, bytes: &[u8]) -> Vec<Vec<String>> {
    let (_, rows) = read(name, bytes, TableOptions::default()).unwrap();
    rows.into_iter().map(|(_, fields)| fields).collect()
}

fn refusal(bytes: &[u8]) -> String {
    read("t.csv", bytes, TableOptions::default()).unwrap_err()
}

fn encoded(encoding: Encoding) -> TableOptions {
    TableOptions { encoding, ..TableOptions::default() }
}

fn utf16(text: &str, bytes_of: fn(u16) -> [u8; 2]) -> Vec<u8> {
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(bytes_of).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn one_table_in_every_encoding_gives_the_same_rows() {
    let expected = read("t.csv", PLAIN.as_bytes(), encoded(Encoding::Utf8)).unwrap();
    assert_eq!(expected.1[1], (3, ["二", "慢性心力衰竭", "58"].map(str::to_owned).to_vec()));
    let (gb18030, _, lossy) = encoding_rs::GB18030.encode(PLAIN);
    assert!(!lossy && *gb18030 != *PLAIN.as_bytes());
    let marked = [b"\xef\xbb\xbf", PLAIN.as_bytes()].concat();
    let ways = [
        ("as UTF-8", PLAIN.as_bytes().to_vec(), Encoding::Utf8),
        ("as UTF-8 with a mark", marked, Encoding::Utf8),
        ("as UTF-16 LE", utf16(PLAIN, u16::to_le_bytes), Encoding::Utf16),
        ("as UTF-16 BE", utf16(PLAIN, u16::to_be_bytes), Encoding::Utf16),
        ("as GB18030", gb18030.into_owned(), Encoding::Gb18030),
    ];
    for (way, bytes, declared) in ways {
        for encoding in [declared, Encoding::Auto] {
            let plain = read("t.csv", &bytes, encoded(encoding));
            assert_eq!(plain.as_ref(), Ok(&expected), "{way}, read as {encoding:?}");
            let packed = read("t.csv.gz", &gzip(&bytes), encoded(encoding));
            assert_eq!(packed.as_ref(), Ok(&expected), "{way}, packed, read as {encoding:?}");
        }
    }
}

#[test]
fn windows_1252_is_read_declared_or_guessed() {
    let text = "name;Größe\nMüller;1,82\nBeyoncé;1,69 €\n";
    let (bytes, _, _) = encoding_rs::WINDOWS_1252.encode(text);
    let expected = read("t.csv", text.as_bytes(), encoded(Encoding::Utf8)).unwrap();
    for encoding in [Encoding::Windows1252, Encoding::Auto] {
        assert_eq!(read("t.csv", &bytes, encoded(encoding)).as_ref(), Ok(&expected));
    }
}

#[test]
fn an_encoding_that_is_not_read_is_named_not_guessed_past() {
    let (bytes, _, _) = encoding_rs::SHIFT_JIS.encode("名前,診断\nさとう,はいえん\n");
    let error = refusal(&bytes);
    assert!(error.contains("is not UTF-8 from byte 0 on and looks like Shift_JIS"), "{error}");
}

#[test]
fn bytes_that_are_no_character_are_an_error_that_names_them() {
    // Far in, so that the byte lies behind the first chunks.
    let mut bytes = b"a,b\n".to_vec();
    bytes.extend(b"1,2\n".repeat(50_000));
    let offset = bytes.len();
    bytes.extend(b"\xff,2\n");
    let error = read("t.csv", &bytes, encoded(Encoding::Utf8)).unwrap_err();
    assert!(
        error.contains(&format!("not valid UTF-8 at byte {offset} (counted from 0)")),
        "{error}"
    );
    let error = read("t.csv.gz", &gzip(&bytes), encoded(Encoding::Utf8)).unwrap_err();
    assert!(error.contains(&format!("at byte {offset} (counted from 0, unpacked)")), "{error}");
    let cut = read("t.csv", b"a,b\n1,\xe4\xb8", encoded(Encoding::Utf8)).unwrap_err();
    assert!(cut.contains("at byte 6"), "{cut}");
    let unmarked = read("t.csv", b"a\0,\0b\0\n\0", encoded(Encoding::Utf16)).unwrap_err();
    assert!(unmarked.contains("no byte order mark"), "{unmarked}");
}

#[test]
fn delimiters_come_from_the_name_or_the_first_line() {
    let two = |a: &str, b: &str| vec![vec![a.to_owned(), b.to_owned()]];
    assert_eq!(rows("t.csv", b"a;b\n1,5;2\n"), two("1,5", "2"));
    assert_eq!(rows("t.csv", b"a\tb\n1\t2\n"), two("1", "2"));
    assert_eq!(rows("t.csv", b"\"a;;;\",b\n1,2\n"), two("1", "2"));
    assert_eq!(rows("t.TSV", b"a,x\tb\n1\t2\n"), two("1", "2"));
    assert_eq!(rows("t.tsv.gz", &gzip(b"a,x\tb\n1\t2\n")), two("1", "2"));
    let declared = TableOptions { delimiter: Some('|'), ..TableOptions::default() };
    assert_eq!(read("t.csv", b"a|b\n1|2\n", declared).unwrap().0, ["a", "b"]);
    assert_eq!(
        refusal(b"a;b,c\n"),
        "t.csv: the first line has as many of ',' as of ';': declare the delimiter"
    );
    for delimiter in ['"', '\n', 'é'] {
        let options = TableOptions { delimiter: Some(delimiter), ..TableOptions::default() };
        let error = read("t.csv", b"a\n", options).unwrap_err();
        assert!(error.contains("one ASCII character"), "{error}");
    }
}

#[test]
fn quoted_fields_keep_line_breaks_and_lines_are_those_of_the_file() {
    let text = "\r\na,b\r\n\r\n\"x \"\"y\"\"\r\nz\",1\r\n\r\nlast,2";
    let (columns, rows) = read("t.csv", text.as_bytes(), TableOptions::default()).unwrap();
    assert_eq!(columns, ["a", "b"]);
    let expected = [(4, vec!["x \"y\"\r\nz", "1"]), (7, vec!["last", "2"])];
    let expected = expected.map(|(line, row)| (line, row.into_iter().map(str::to_owned).collect()));
    assert_eq!(rows, expected);
}

#[test]
fn without_a_header_columns_are_numbered_and_no_record_is_lost() {
    let options = TableOptions { header: false, ..TableOptions::default() };
    let (columns, rows) = read("t.csv", b"5,6,7\n8,9,0\n", options).unwrap();
    assert_eq!(columns, ["1", "2", "3"]);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], (1, ["5", "6", "7"].map(str::to_owned).to_vec()));
    let error = read("t.csv", b"\n\n", options).unwrap_err();
    assert!(error.contains("empty: a table with at least one record"), "{error}");
}

#[test]
fn what_is_no_table_is_refused_with_its_line() {
    assert!(refusal(b"").contains("a line that names its columns"));
    assert_eq!(refusal(b"a,b\n1,2\n1\n"), "t.csv, line 3: 1 fields, the table has 2 columns");
    assert!(refusal(b"a,b\n1,2,3\n").starts_with("t.csv, line 2: 3 fields"));
    assert_eq!(refusal(b"a,b,a\n"), "t.csv, line 1: columns 1 and 3 are both named \"a\"");
    assert!(refusal(b"a,b\n1,\"2\n3,4\n").starts_with("t.csv, line 2: the file ends within"));
    assert!(refusal(b"a,b\n1,\0\n").starts_with("t.csv, line 2: a zero byte"));
    let missing = Table::open(Path::new("/nowhere/t.csv"), TableOptions::default()).unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/t.csv cannot be opened"), "{missing}");
    let decimal = TableOptions { decimal: '·', ..TableOptions::default() };
    assert!(read("t.csv", b"a\n", decimal).unwrap_err().contains("decimal '·' cannot be"));
}

#[test]
fn a_truncated_gzip_stream_is_damaged_not_short() {
    let packed = gzip(PLAIN.repeat(100).as_bytes());
    let error = read("t.csv.gz", &packed[..packed.len() - 9], encoded(Encoding::Utf8));
    assert!(error.as_ref().unwrap_err().contains("it is damaged"), "{error:?}");
}

#[test]
fn a_quote_that_is_never_closed_meets_a_bound_not_the_end_of_memory() {
    let mut bytes = b"a,b\n1,\"".to_vec();
    bytes.extend(b"1,2\n".repeat(TABLE_FIELD_BYTES_MAX));
    let error = refusal(&bytes);
    assert!(
        error.starts_with("t.csv, line 2: a field has too many bytes, at most 1048576"),
        "{error}"
    );
    let exact = |len: usize| [b"a\n".to_vec(), vec![b'x'; len], b"\n".to_vec()].concat();
    assert_eq!(rows("t.csv", &exact(TABLE_FIELD_BYTES_MAX)).len(), 1);
    assert!(refusal(&exact(TABLE_FIELD_BYTES_MAX + 1)).contains("a field has too many bytes"));
    let field = "x".repeat(TABLE_FIELD_BYTES_MAX);
    let record = format!("a,b,c,d,e\n{}", [field.as_str(); 5].join(","));
    assert!(refusal(record.as_bytes()).contains("the record has too many bytes"));
    assert!(refusal(&b",".repeat(TABLE_COLUMNS_MAX)).contains("the record has too many fields"));
}

#[test]
fn a_table_takes_its_own_decimal_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    std::fs::File::create(&path).unwrap().write_all(b"a;b\n1,5;2,25\n").unwrap();
    let options = TableOptions { decimal: ',', ..TableOptions::default() };
    let mut table = Table::open(&path, options).unwrap();
    let mut row = Row::default();
    assert!(table.next_row(&mut row).unwrap());
    let values: Vec<_> = row.fields().map(|field| table.number(field)).collect();
    assert_eq!(values, [Some(1.5), Some(2.25)]);
    assert_eq!((row.get(2), row.len()), (None, 2));
}

#[test]
fn random_bytes_are_read_or_refused_and_never_break_the_reader() {
    let seed = std::env::var("CONSILIUM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("CONSILIUM_SEED={seed}");
    let mut generator = Generator::new("random tables", &seed.to_le_bytes());
    let likely = b"\"\",,;;\t\t\r\n\r\n\0ab12.-\xe4\xb8\x80\xff\xfe\xef\xbb\xbf\x81\x30";
    let count = u32::try_from(likely.len()).unwrap();
    let encodings =
        [Encoding::Auto, Encoding::Utf8, Encoding::Utf16, Encoding::Gb18030, Encoding::Windows1252];
    let mut accepted = 0;
    for _ in 0..400 {
        let bytes: Vec<u8> =
            (0..generator.below(60)).map(|_| likely[generator.below(count) as usize]).collect();
        let name = ["t.csv", "t.tsv", "t.csv.gz"][generator.below(3) as usize];
        for (encoding, header) in encodings.into_iter().zip([true, false].into_iter().cycle()) {
            let options = TableOptions { encoding, header, ..TableOptions::default() };
            if let Ok((columns, rows)) = read(name, &bytes, options) {
                assert!(rows.iter().all(|(_, fields)| fields.len() == columns.len()));
                assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "{bytes:?}");
                accepted += 1;
            }
        }
    }
    assert!(accepted > 0, "nothing was accepted: the test looks at errors alone");
}
