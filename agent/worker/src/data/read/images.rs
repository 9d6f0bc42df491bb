//! Folders of images: which files there are, in an order that every machine finds again, and one
//! file's pixels as bytes. PNG and JPEG; the bytes tell which, whatever the name says.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Component, Path, PathBuf};

use consilium_common::limits::{
    EXAMPLES_MAX, FOLDER_DEPTH_MAX, IMAGE_DECODED_BYTES_MAX, IMAGE_FILE_BYTES_MAX, IMAGE_SIDE_MAX,
};
use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageBuffer, ImageReader, Limits, Pixel};

const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Why a folder or an image was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The folder is not there.
    #[error("the data folder {} does not exist or is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// No sub-folders.
    #[error("{} has no sub-folders: one for each class was expected", .0.display())]
    NoClasses(PathBuf),
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
    #[error("{} holds more than {EXAMPLES_MAX} images", .0.display())]
    TooMany(PathBuf),
    /// Too deep.
    #[error("{} lies more than {FOLDER_DEPTH_MAX} folders deep", .0.display())]
    TooDeep(PathBuf),
    /// Too large to be held.
    #[error("{} has {bytes} bytes, images of at most {IMAGE_FILE_BYTES_MAX} are read", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    /// No PNG or JPEG, a damaged one, or one of more pixels than are read.
    #[error("{} is no readable PNG or JPEG: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    /// Of another size.
    #[error(
        "{} is {} × {} pixels (height × width), {} × {} expected",
        path.display(), have.0, have.1, need.0, need.1
    )]
    Size { path: PathBuf, have: (u32, u32), need: (u32, u32) },
}

/// One image of a folder with a sub-folder for each class.
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
    /// Files that are no images by their names, and those beside the sub-folders.
    pub(crate) others: u64,
}

impl Folder {
    /// Looks through `folder`; opens no image. Names that start with a dot are passed over.
    pub(crate) fn open(folder: &Path) -> Result<Self, ImageError> {
        let root = root(folder)?;
        let mut found = Self { classes: Vec::new(), records: Vec::new(), others: 0 };
        for entry in entries(&root, &root)? {
            if !entry.is_folder {
                found.others += 1;
                continue;
            }
            let name = entry.path.file_name().and_then(|name| name.to_str());
            let Some(name) = name else { return Err(ImageError::Name(entry.path)) };
            found.classes.push(name.to_owned());
            found.walk(&root, &entry.path, 1)?;
        }
        if found.classes.is_empty() {
            return Err(ImageError::NoClasses(folder.to_owned()));
        }
        Ok(found)
    }

    fn walk(&mut self, root: &Path, folder: &Path, depth: usize) -> Result<(), ImageError> {
        if depth > FOLDER_DEPTH_MAX {
            return Err(ImageError::TooDeep(folder.to_owned()));
        }
        let class = self.classes.len().saturating_sub(1);
        for Entry { path, is_folder } in entries(root, folder)? {
            if is_folder {
                self.walk(root, &path, depth + 1)?;
            } else if !is_image(&path) {
                self.others += 1;
            } else if self.records.len() as u64 == EXAMPLES_MAX {
                return Err(ImageError::TooMany(root.to_owned()));
            } else {
                self.records.push(Record { path, class });
            }
        }
        Ok(())
    }
}

/// Every image below `folder`, with its path from there, by the bytes of the paths.
pub(crate) fn all_below(folder: &Path) -> Result<Vec<(PathBuf, String)>, ImageError> {
    let root = root(folder)?;
    let mut found = Folder { classes: Vec::new(), records: Vec::new(), others: 0 };
    found.walk(&root, &root, 0)?;
    let named = |Record { path, .. }: Record| {
        let name = path.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_owned);
        name.map(|name| (path.clone(), name)).ok_or(ImageError::Name(path))
    };
    found.records.into_iter().map(named).collect()
}

/// The file of `relative` (a path that a table of labels names, with `/`) in `folder`. Fails where it
/// leads out of the folder, by itself or by a link; that there is an image is seen by [`decode`].
pub(crate) fn within(folder: &Path, relative: &str) -> Result<PathBuf, ImageError> {
    let path = Path::new(relative);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if relative.is_empty() || !path.components().all(plain) {
        return Err(ImageError::Outside(relative.to_owned()));
    }
    let root = root(folder)?;
    let path = root.join(path);
    let target = fs::canonicalize(&path)
        .map_err(|source| ImageError::Open { path: path.clone(), source })?;
    if target.starts_with(&root) { Ok(path) } else { Err(ImageError::Link(path)) }
}

fn root(folder: &Path) -> Result<PathBuf, ImageError> {
    let root = fs::canonicalize(folder).ok().filter(|root| root.is_dir());
    root.ok_or_else(|| ImageError::NoFolder(folder.to_owned()))
}

struct Entry {
    path: PathBuf,
    is_folder: bool,
}

/// What lies in `folder`, sorted by the bytes of the names. A link to a file within `root` counts as
/// that file; every other link is an error, so that no record is left out unseen.
fn entries(root: &Path, folder: &Path) -> Result<Vec<Entry>, ImageError> {
    let open = |source| ImageError::Open { path: folder.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(open)? {
        let entry = entry.map_err(open)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Files that are no images count too: they take as much memory here.
        if entries.len() as u64 == EXAMPLES_MAX {
            return Err(ImageError::TooMany(folder.to_owned()));
        }
        let (path, kind) = (entry.path(), entry.file_type().map_err(open)?);
        if kind.is_symlink() {
            let target = fs::canonicalize(&path);
            if !target.is_ok_and(|target| target.is_file() && target.starts_with(root)) {
                return Err(ImageError::Link(path));
            }
        }
        entries.push(Entry { path, is_folder: kind.is_dir() });
    }
    let name = |entry: &Entry| entry.path.as_os_str().as_encoded_bytes().to_vec();
    entries.sort_by_cached_key(name);
    Ok(entries)
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// What an image's pixels become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// 1 (grey) or 3 (red, green, blue).
    pub(crate) channels: u32,
    pub(crate) height: u32,
    pub(crate) width: u32,
    /// Brought to the size by linear interpolation (a triangle filter), the sides each for itself;
    /// else an image of another size is refused.
    pub(crate) resize: bool,
}

/// The pixels of `path` as bytes, channels × height × width. Samples of 16 bits are rounded to 8,
/// colours become grey by the luma of Rec. 709 and grey becomes three equal channels; transparency
/// and the orientation that a camera noted are left out.
pub(crate) fn decode(path: &Path, shape: Shape) -> Result<Vec<u8>, ImageError> {
    let open = |source| ImageError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    let bytes = file.metadata().map_err(open)?.len();
    if bytes > IMAGE_FILE_BYTES_MAX {
        return Err(ImageError::TooLarge { path: path.to_owned(), bytes });
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(IMAGE_SIDE_MAX);
    limits.max_image_height = Some(IMAGE_SIDE_MAX);
    limits.max_alloc = Some(IMAGE_DECODED_BYTES_MAX);
    let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(open)?;
    reader.limits(limits);
    let image = reader.decode().map_err(|error| ImageError::Unreadable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let (have, need) = ((image.height(), image.width()), (shape.height, shape.width));
    if have != need && !shape.resize {
        return Err(ImageError::Size { path: path.to_owned(), have, need });
    }
    Ok(sized(&image, shape))
}

fn sized(image: &DynamicImage, shape: Shape) -> Vec<u8> {
    if shape.channels == 1 {
        return planes(image.to_luma8(), shape);
    }
    planes(image.to_rgb8(), shape)
}

/// Brings an image to its size, and its interleaved samples to one plane for each channel.
fn planes<P>(image: ImageBuffer<P, Vec<u8>>, shape: Shape) -> Vec<u8>
where
    P: Pixel<Subpixel = u8> + 'static,
{
    let image = if (image.height(), image.width()) == (shape.height, shape.width) {
        image
    } else {
        resize(&image, shape.width, shape.height, FilterType::Triangle)
    };
    let channels = usize::from(P::CHANNEL_COUNT);
    let samples = image.into_raw();
    (0..channels)
        .flat_map(|channel| samples.iter().skip(channel).step_by(channels))
        .copied()
        .collect()
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
