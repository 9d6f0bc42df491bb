//! One image file's pixels as bytes. PNG and JPEG; the bytes tell which, whatever the name says.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use consilium_common::limits::{IMAGE_DECODED_BYTES_MAX, IMAGE_FILE_BYTES_MAX, IMAGE_SIDE_MAX};
use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageBuffer, ImageReader, Limits, Pixel};

/// Why an image was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// Not readable.
    #[error("{} cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
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
    if !fs::metadata(path).map_err(open)?.is_file() {
        return Err(open(io::Error::other("it is no file")));
    }
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
