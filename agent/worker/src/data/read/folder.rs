//! Folders of files: which there are, in an order that every machine finds again, and which of a table
//! of labels lie within. Nothing is opened here.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use consilium_common::limits::{EXAMPLES_MAX, FOLDER_DEPTH_MAX};

/// What files of one kind end in, small letters.
pub(crate) type Endings = &'static [&'static str];

/// Pictures.
pub(crate) const PICTURES: Endings = &["png", "jpg", "jpeg"];
/// Documents.
pub(crate) const DOCUMENTS: Endings = &["txt"];

/// Why a folder was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The folder is not there.
    #[error("the data folder {} does not exist or is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// No sub-folders.
    #[error("{} has no sub-folders: one for each class was expected", .0.display())]
    NoClasses(PathBuf),
    /// No file of its kind.
    #[error("no file in {} ends in {endings}", folder.display())]
    Nothing { folder: PathBuf, endings: String },
    /// Not readable.
    #[error("{} cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// A link that leads elsewhere.
    #[error(
        "{} is a link to a folder, or out of the data folder: copy what it leads to", .0.display()
    )]
    Link(PathBuf),
    /// A path that leads elsewhere.
    #[error("{:?} is no path within the data folder: write it relative to that, without ..", .0)]
    Outside(String),
    /// A name that cannot be shown.
    #[error("{} has a name that is not UTF-8: rename it", .0.display())]
    Name(PathBuf),
    /// Too many.
    #[error("{} holds more than {EXAMPLES_MAX} files", .0.display())]
    TooMany(PathBuf),
    /// Too deep.
    #[error("{} lies more than {FOLDER_DEPTH_MAX} folders deep", .0.display())]
    TooDeep(PathBuf),
}

/// One file of a folder with a sub-folder for each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    /// Which of [`Folder::classes`].
    pub(crate) class: usize,
}

/// What a folder with a sub-folder for each class holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Names of the sub-folders, sorted by bytes.
    pub(crate) classes: Vec<String>,
    /// By class, then by the bytes of their paths.
    pub(crate) records: Vec<Record>,
    /// Files of another kind by their names, and those beside the sub-folders.
    pub(crate) others: u64,
}

impl Folder {
    /// Looks through `folder` for files of these endings. Names that start with a dot are passed over.
    pub(crate) fn open(folder: &Path, endings: Endings) -> Result<Self, FolderError> {
        let root = root(folder)?;
        let mut found = Self { classes: Vec::new(), records: Vec::new(), others: 0 };
        for entry in entries(&root, &root)? {
            if !entry.is_folder {
                found.others += 1;
                continue;
            }
            let name = entry.path.file_name().and_then(|name| name.to_str());
            let Some(name) = name else { return Err(FolderError::Name(entry.path)) };
            found.classes.push(name.to_owned());
            found.walk(&root, &entry.path, (1, endings))?;
        }
        if found.classes.is_empty() {
            return Err(FolderError::NoClasses(folder.to_owned()));
        }
        Ok(found)
    }

    fn walk(
        &mut self,
        root: &Path,
        folder: &Path,
        (depth, endings): (usize, Endings),
    ) -> Result<(), FolderError> {
        if depth > FOLDER_DEPTH_MAX {
            return Err(FolderError::TooDeep(folder.to_owned()));
        }
        let class = self.classes.len().saturating_sub(1);
        for Entry { path, is_folder } in entries(root, folder)? {
            if is_folder {
                self.walk(root, &path, (depth + 1, endings))?;
            } else if !ends_in(&path, endings) {
                self.others += 1;
            } else if self.records.len() as u64 == EXAMPLES_MAX {
                return Err(FolderError::TooMany(root.to_owned()));
            } else {
                self.records.push(Record { path, class });
            }
        }
        Ok(())
    }
}

/// A file alone, or every one of these endings below a folder, each with its path from there (a file:
/// its name), by the bytes of the paths. A folder without any is an error.
pub(crate) fn all_of(path: &Path, endings: Endings) -> Result<Vec<(PathBuf, String)>, FolderError> {
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(path.to_owned(), name)]);
    }
    let root = root(path)?;
    let mut found = Folder { classes: Vec::new(), records: Vec::new(), others: 0 };
    found.walk(&root, &root, (0, endings))?;
    if found.records.is_empty() {
        let endings: Vec<String> = endings.iter().map(|ending| format!(".{ending}")).collect();
        return Err(FolderError::Nothing {
            folder: path.to_owned(),
            endings: endings.join(" or "),
        });
    }
    let named = |Record { path, .. }: Record| {
        let name = path.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_owned);
        name.map(|name| (path.clone(), name)).ok_or(FolderError::Name(path))
    };
    found.records.into_iter().map(named).collect()
}

/// The file of `relative` (a path that a table of labels names, with `/`) in `folder`. Fails where it
/// leads out of the folder, by itself or by a link; what kind of file there is, its reader sees.
pub(crate) fn within(folder: &Path, relative: &str) -> Result<PathBuf, FolderError> {
    let path = Path::new(relative);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if relative.is_empty() || !path.components().all(plain) {
        return Err(FolderError::Outside(relative.to_owned()));
    }
    let root = root(folder)?;
    let path = root.join(path);
    let target = fs::canonicalize(&path)
        .map_err(|source| FolderError::Open { path: path.clone(), source })?;
    if target.starts_with(&root) { Ok(path) } else { Err(FolderError::Link(path)) }
}

/// The folder, if it is one.
pub(crate) fn root(folder: &Path) -> Result<PathBuf, FolderError> {
    let root = fs::canonicalize(folder).ok().filter(|root| root.is_dir());
    root.ok_or_else(|| FolderError::NoFolder(folder.to_owned()))
}

struct Entry {
    path: PathBuf,
    is_folder: bool,
}

/// What lies in `folder`, sorted by the bytes of the names. A link to a file within `root` counts as
/// that file; every other link is an error, so that no record is left out unseen.
fn entries(root: &Path, folder: &Path) -> Result<Vec<Entry>, FolderError> {
    let open = |source| FolderError::Open { path: folder.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(open)? {
        let entry = entry.map_err(open)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Files of another kind count too: they take as much memory here.
        if entries.len() as u64 == EXAMPLES_MAX {
            return Err(FolderError::TooMany(folder.to_owned()));
        }
        let (path, kind) = (entry.path(), entry.file_type().map_err(open)?);
        if kind.is_symlink() {
            let target = fs::canonicalize(&path);
            if !target.is_ok_and(|target| target.is_file() && target.starts_with(root)) {
                return Err(FolderError::Link(path));
            }
        }
        entries.push(Entry { path, is_folder: kind.is_dir() });
    }
    let name = |entry: &Entry| entry.path.as_os_str().as_encoded_bytes().to_vec();
    entries.sort_by_cached_key(name);
    Ok(entries)
}

fn ends_in(path: &Path, endings: Endings) -> bool {
    let ending = path.extension().unwrap_or_default();
    endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
