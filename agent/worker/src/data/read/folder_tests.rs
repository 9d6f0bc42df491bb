//! Folders as hospitals have them.

use std::fs::File;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn put(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    io::Write::write_all(&mut File::create(&path).unwrap(), bytes).unwrap();
    path
}

fn names(folder: &TempDir) -> Vec<(String, usize)> {
    let root = fs::canonicalize(folder.path()).unwrap();
    let records = Folder::open(folder.path(), PICTURES).unwrap().records;
    let name = |record: Record| {
        let relative = record.path.strip_prefix(&root).unwrap();
        (relative.to_str().unwrap().to_owned(), record.class)
    };
    records.into_iter().map(name).collect()
}

#[test]
fn a_folder_is_walked_in_the_order_of_bytes_and_only_files_of_its_kind_are_records() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "sick/b.png",
        "sick/B.JPG",
        "sick/p1/c.jpeg",
        "sick/notes.txt",
        "sick/.hidden.png",
        "Healthy/a.PNG",
        "Healthy/Thumbs.db",
        "labels.csv",
        ".git/x.png",
    ] {
        put(&folder, name, b"");
    }
    fs::create_dir(folder.path().join("unknown")).unwrap();
    let found = Folder::open(folder.path(), PICTURES).unwrap();
    assert_eq!(found.classes, ["Healthy", "sick", "unknown"]);
    assert_eq!(found.others, 3, "notes, thumbs and labels");
    let expected =
        [("Healthy/a.PNG", 0), ("sick/B.JPG", 1), ("sick/b.png", 1), ("sick/p1/c.jpeg", 1)];
    assert_eq!(names(&folder), expected.map(|(name, class)| (name.to_owned(), class)));
    let documents = Folder::open(folder.path(), DOCUMENTS).unwrap();
    assert_eq!((documents.records.len(), documents.others), (1, 6));
    let all = all_of(folder.path(), PICTURES).unwrap();
    assert_eq!(all.len(), 4, "{all:?}");
    let one = folder.path().join("sick/notes.txt");
    assert_eq!(all_of(&one, PICTURES).unwrap(), [(one, "notes.txt".to_owned())]);
    let nothing = all_of(&folder.path().join("unknown"), PICTURES).unwrap_err().to_string();
    assert!(nothing.ends_with("unknown ends in .png or .jpg or .jpeg"), "{nothing}");
}

#[test]
fn links_stay_within_the_folder_or_are_refused() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let inside = put(&folder, "a/x.png", b"");
    let outside = put(&elsewhere, "y.png", b"");
    let link = folder.path().join("a/z.png");
    symlink(&inside, &link).unwrap();
    assert_eq!(names(&folder).len(), 2);
    for target in [outside.as_path(), elsewhere.path(), folder.path(), Path::new("nowhere")] {
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        let error = Folder::open(folder.path(), PICTURES).unwrap_err();
        assert!(matches!(error, FolderError::Link(_)), "{} → {error}", target.display());
        assert!(error.to_string().contains("a/z.png is a link"), "{error}");
    }
}

#[test]
fn what_is_no_folder_of_classes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, "x.png", b"");
    let error = Folder::open(folder.path(), PICTURES).unwrap_err();
    assert!(error.to_string().contains("has no sub-folders"), "{error}");
    let error = Folder::open(&folder.path().join("x.png"), PICTURES).unwrap_err();
    assert!(error.to_string().contains("is not a folder"), "{error}");
    put(&folder, &format!("{}/x.png", ["d"; FOLDER_DEPTH_MAX].join("/")), b"");
    assert_eq!(names(&folder).len(), 1);
    put(&folder, &format!("{}/x.png", ["d"; FOLDER_DEPTH_MAX + 1].join("/")), b"");
    let error = Folder::open(folder.path(), PICTURES).unwrap_err();
    assert!(error.to_string().contains("more than 8 folders deep"), "{error}");
}

#[test]
fn paths_that_a_table_names_stay_within_the_folder() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = put(&folder, "a/x.png", b"");
    let root = fs::canonicalize(folder.path()).unwrap();
    assert_eq!(within(folder.path(), "a/x.png").unwrap(), root.join("a/x.png"));
    assert_eq!(within(folder.path(), "./a/x.png").unwrap(), root.join("./a/x.png"));
    for outside in ["", "../x.png", "a/../../x.png", file.to_str().unwrap()] {
        let error = within(folder.path(), outside).unwrap_err();
        assert!(matches!(error, FolderError::Outside(_)), "{outside:?} → {error}");
    }
    symlink(elsewhere.path(), folder.path().join("b")).unwrap();
    put(&elsewhere, "y.png", b"");
    assert!(matches!(within(folder.path(), "b/y.png"), Err(FolderError::Link(_))));
    assert!(matches!(within(folder.path(), "a/none.png"), Err(FolderError::Open { .. })));
}
