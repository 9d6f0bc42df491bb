//! One test per way of being no image.

use std::fs;

use consilium_common::random::Generator;
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use tempfile::TempDir;

use super::*;

const SMALL: Shape = Shape { channels: 1, height: 2, width: 3, resize: false };

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn put(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    io::Write::write_all(&mut File::create(&path).unwrap(), bytes).unwrap();
    path
}

fn grey() -> DynamicImage {
    GrayImage::from_fn(3, 2, |x, y| Luma([u8::try_from(10 * y + x).unwrap()])).into()
}

#[test]
fn pixels_come_as_planes_of_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let png = |image: &DynamicImage| put(&folder, "x.png", &encoded(image, ImageFormat::Png));
    assert_eq!(decode(&png(&grey()), SMALL).unwrap(), [0, 1, 2, 10, 11, 12]);
    let colours = Shape { channels: 3, ..SMALL };
    let thrice = [0, 1, 2, 10, 11, 12].repeat(3);
    assert_eq!(decode(&png(&grey()), colours).unwrap(), thrice);

    let red_blue =
        RgbImage::from_fn(3, 2, |x, _| if x == 0 { Rgb([255, 0, 9]) } else { Rgb([0, 0, 255]) });
    let path = png(&red_blue.into());
    let planes = [[255, 0, 0, 255, 0, 0], [0; 6], [9, 255, 255, 9, 255, 255]].concat();
    assert_eq!(decode(&path, colours).unwrap(), planes);
    // Rec. 709: 0.2126 red, 0.7152 green, 0.0722 blue: 54.9 and 18.4.
    assert_eq!(decode(&path, SMALL).unwrap(), [55, 18, 18, 55, 18, 18]);

    let clear = RgbaImage::from_pixel(3, 2, Rgba([7, 7, 7, 0]));
    assert_eq!(decode(&png(&clear.into()), SMALL).unwrap(), [7; 6]);
}

#[test]
fn sixteen_bits_are_rounded_to_eight() {
    let folder = tempfile::tempdir().unwrap();
    let levels = [0_u16, 128, 129, 257, 65_406, 65_535];
    let image = ImageBuffer::<Luma<u16>, _>::from_raw(3, 2, levels.to_vec()).unwrap();
    let path = put(&folder, "x.png", &encoded(&image.into(), ImageFormat::Png));
    // A step of eight bits is 257 steps of sixteen.
    assert_eq!(decode(&path, SMALL).unwrap(), [0, 0, 1, 1, 254, 255]);
}

#[test]
fn a_jpeg_is_read_by_its_bytes_whatever_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let even = GrayImage::from_pixel(16, 16, Luma([100])).into();
    let path = put(&folder, "x.png", &encoded(&even, ImageFormat::Jpeg));
    let shape = Shape { channels: 1, height: 16, width: 16, resize: false };
    let pixels = decode(&path, shape).unwrap();
    assert!(pixels.iter().all(|pixel| pixel.abs_diff(100) <= 1), "{pixels:?}");
}

#[test]
fn another_size_is_refused_unless_resizing_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(&folder, "x.png", &encoded(&grey(), ImageFormat::Png));
    let shape = Shape { channels: 3, height: 4, width: 6, resize: false };
    let error = decode(&path, shape).unwrap_err().to_string();
    assert!(error.ends_with("x.png is 2 × 3 pixels (height × width), 4 × 6 expected"), "{error}");
    let shape = Shape { resize: true, ..shape };
    let pixels = decode(&path, shape).unwrap();
    assert_eq!(pixels.len(), 3 * 4 * 6);
    // Rows of the doubled image: the first is the original's first, then a quarter of the way on.
    assert_eq!(pixels[..6], [0, 0, 1, 1, 2, 2]);
    assert_eq!(pixels, decode(&path, shape).unwrap());
    let even = GrayImage::from_pixel(50, 40, Luma([9])).into();
    let path = put(&folder, "y.png", &encoded(&even, ImageFormat::Png));
    assert_eq!(decode(&path, Shape { channels: 1, ..shape }).unwrap(), [9; 24]);
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |bytes: &[u8]| {
        let error = decode(&put(&folder, "x.png", bytes), SMALL).unwrap_err();
        assert!(error.to_string().contains("x.png is no readable PNG or JPEG"), "{error}");
    };
    let png = encoded(&grey(), ImageFormat::Png);
    refusal(b"");
    refusal(b"hello");
    refusal(&png[..png.len() - 20]);
    // The width that IHDR claims, with its checksum made right: a bomb of 2^31 - 1 columns.
    let mut wide = png;
    wide[16..20].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    let mut crc = flate2::Crc::new();
    crc.update(&wide[12..29]);
    wide[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    refusal(&wide);
    let huge = folder.path().join("huge.png");
    File::create(&huge).unwrap().set_len(IMAGE_FILE_BYTES_MAX + 1).unwrap();
    assert!(matches!(decode(&huge, SMALL), Err(ImageError::TooLarge { .. })));
    assert!(matches!(decode(Path::new("/nowhere/x.png"), SMALL), Err(ImageError::Open { .. })));
}

#[test]
fn damaged_images_are_read_or_refused_and_never_break_the_reader() {
    let seed = std::env::var("CONSILIUM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("CONSILIUM_SEED={seed}");
    let mut generator = Generator::new("damaged images", &seed.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let formats = [ImageFormat::Png, ImageFormat::Jpeg].map(|format| encoded(&grey(), format));
    let (mut read, mut refused) = (0, 0);
    for _ in 0..1000 {
        let mut bytes = formats[generator.below(2) as usize].clone();
        for _ in 0..generator.below(4) {
            let at = generator.below(u32::try_from(bytes.len()).unwrap()) as usize;
            bytes[at] = u8::try_from(generator.below(256)).unwrap();
        }
        let path = put(&folder, "x.png", &bytes);
        match decode(&path, Shape { resize: true, ..SMALL }) {
            Ok(pixels) => {
                assert_eq!(pixels.len(), 6);
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}
