//! What can be told of a picture by its first bytes, and its pixels made ready for Tesseract.

use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, Luma, LumaA, Pixel,
    Rgba, RgbaImage,
};

use super::{Violation, pdf, resolution, tiff};
use crate::config;

/// The format of a file.
#[derive(Clone, Copy)]
enum Format {
    Picture(ImageFormat),
    Pdf,
}

/// The formats of pictures that are read.
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Tiff,
    ImageFormat::Bmp,
    ImageFormat::Gif,
];
const FORMAT_NAMES: &str = "PNG, JPEG, WebP, TIFF, BMP, GIF or PDF";

/// The most bytes that a pixel takes while it is decoded: four channels of 32 bits.
const PIXEL_BYTES_MAX: u64 = 16;

/// Checks a picture by its size, its magic bytes and the width and height in its header, without
/// decoding it.
pub fn check(bytes: &[u8], settings: &config::Ocr) -> Result<(), Violation> {
    let violation = |description: String| Err(Violation::new("image", description));
    if bytes.is_empty() {
        return violation(format!("is empty; send a picture as {FORMAT_NAMES}"));
    }
    if bytes.len() > settings.image_bytes_max {
        return violation(format!(
            "has {} bytes; at most {} are allowed",
            bytes.len(),
            settings.image_bytes_max
        ));
    }
    let Some(format) = format(bytes) else {
        return violation(format!("is in no format that is known here; send {FORMAT_NAMES}"));
    };
    // How large the pages of a PDF are is known only in a worker.
    let Format::Picture(format) = format else { return Ok(()) };
    // The header is the caller's: a decoder that panics over it must not take the server's
    // connection with it.
    let size = catch_unwind(AssertUnwindSafe(|| {
        ImageReader::with_format(Cursor::new(bytes), format).into_dimensions()
    }));
    let Ok(Ok((width, height))) = size else {
        return violation(format!("has no readable {format:?} header: it is truncated or corrupt"));
    };
    if width == 0 || height == 0 {
        return violation(format!("is {width} x {height} pixels: there is nothing in it"));
    }
    let side_max = settings.image_side_pixels_max;
    if width > side_max || height > side_max {
        return violation(format!(
            "is {width} x {height} pixels; a side may have at most {side_max}"
        ));
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > settings.image_pixels_max {
        return violation(format!(
            "is {width} x {height} pixels, {pixels} in all; at most {} are allowed",
            settings.image_pixels_max
        ));
    }
    Ok(())
}

fn format(bytes: &[u8]) -> Option<Format> {
    // A picture first: what makes a file a PDF may stand within the comments of one.
    match image::guess_format(bytes) {
        Ok(format) if FORMATS.contains(&format) => Some(Format::Picture(format)),
        _ => pdf::is_pdf(bytes).then_some(Format::Pdf),
    }
}

/// Why a page could not be had from a file.
#[derive(Debug)]
pub enum ImageError {
    /// The file proved corrupt.
    Corrupt(String),
    /// The file is sound, but the request asks for what cannot be had from it.
    Refused(Violation),
}

impl ImageError {
    fn corrupt(reason: impl ToString) -> Self {
        Self::Corrupt(reason.to_string())
    }
}

impl From<image::ImageError> for ImageError {
    fn from(error: image::ImageError) -> Self {
        match error {
            image::ImageError::Limits(_) => {
                let description = "is larger than it may be, or takes too much memory to decode";
                Self::Refused(Violation::new("image", description))
            }
            error => Self::corrupt(error),
        }
    }
}

/// A page as it was sent: upright as its EXIF orientation says, on white where it is transparent,
/// grey.
pub struct Decoded {
    /// The pixels.
    pub grey: GrayImage,
    /// The picture as a PDF shows it, if one is wanted.
    pub picture: Option<Picture>,
    /// How many pages the file has.
    pub count: u32,
    /// Its resolution in pixels per inch, if the file states a credible one.
    pub stated_ppi: Option<u32>,
}

/// A picture as it was sent.
pub struct Picture {
    /// Its width, in pixels.
    pub width: u32,
    /// Its height, in pixels.
    pub height: u32,
    /// Whether it has one sample a pixel, or three: red, green, blue.
    pub is_grey: bool,
    /// The samples, eight bits each.
    pub samples: Samples,
}

/// The samples of a picture.
pub enum Samples {
    /// Within the JPEG file that was sent.
    Jpeg(Vec<u8>),
    /// Row by row.
    Raw(Vec<u8>),
}

impl Picture {
    /// The picture of some pixels, upright already. A JPEG file that shows the same without being
    /// turned is kept as it is.
    fn of(image: &DynamicImage, jpeg: Option<&[u8]>) -> Self {
        let (width, height) = (image.width(), image.height());
        let is_grey = !image.color().has_color();
        let samples = match jpeg {
            Some(file) => Samples::Jpeg(file.to_vec()),
            None if is_grey => Samples::Raw(grey(image.clone()).into_raw()),
            None if image.color().has_alpha() => Samples::Raw(on_white(&image.to_rgba8())),
            None => Samples::Raw(image.to_rgb8().into_raw()),
        };
        Self { width, height, is_grey, samples }
    }
}

/// How many pages a file has that [`check`] has let through.
pub fn count(file: &[u8]) -> Result<u32, ImageError> {
    without_panic(|| match format(file) {
        Some(Format::Pdf) => pdf::count(file),
        Some(Format::Picture(ImageFormat::Tiff)) => Ok(tiff::count(file)),
        Some(Format::Picture(_)) => Ok(1),
        None => Err(ImageError::corrupt("unknown format")),
    })
}

/// Decodes a page, counted from 1, of a file that [`check`] has let through.
///
/// With the picture as a PDF shows it, if that is wanted.
pub fn decode(
    file: &[u8],
    page: u32,
    with_picture: bool,
    settings: &config::Ocr,
) -> Result<Decoded, ImageError> {
    let count = count(file)?;
    if page < 1 || page > count {
        let description = format!("is {page}; the file has {count}");
        return Err(ImageError::Refused(Violation::new("page", description)));
    }
    without_panic(|| match format(file) {
        Some(Format::Pdf) => {
            let (drawn, ppi) = pdf::render(file, page, settings)?;
            let image = DynamicImage::ImageLuma8(drawn);
            let picture = with_picture.then(|| Picture::of(&image, None));
            let stated_ppi = resolution::credible(ppi);
            Ok(Decoded { grey: image.into_luma8(), picture, count, stated_ppi })
        }
        Some(Format::Picture(format)) => {
            let stated_ppi = resolution::stated_ppi(file, format, page);
            let file = match format {
                ImageFormat::Tiff if page > 1 => tiff::with_first(file, page)
                    .map(Cow::Owned)
                    .ok_or_else(|| ImageError::corrupt("no page"))?,
                _ => Cow::Borrowed(file),
            };
            let (grey, picture) = picture(&file, format, with_picture, settings)?;
            Ok(Decoded { grey, picture, count, stated_ppi })
        }
        None => Err(ImageError::corrupt("unknown format")),
    })
}

/// A decoder that panics has met a file that its authors did not foresee: a corrupt one.
fn without_panic<T>(work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ImageError::corrupt("its decoder failed")))
}

fn picture(
    bytes: &[u8],
    format: ImageFormat,
    with_picture: bool,
    settings: &config::Ocr,
) -> Result<(GrayImage, Option<Picture>), ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(settings.image_side_pixels_max);
    limits.max_image_height = Some(settings.image_side_pixels_max);
    limits.max_alloc = Some(settings.image_pixels_max.saturating_mul(PIXEL_BYTES_MAX));
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > settings.image_pixels_max {
        let description = format!("is {width} x {height} pixels: more than are allowed");
        return Err(ImageError::Refused(Violation::new("image", description)));
    }
    let orientation = decoder.orientation()?;
    // Of a JPEG with four colours PDF and its readers make different things.
    let is_plain_jpeg = format == ImageFormat::Jpeg
        && matches!(jpeg_components(bytes), Some(1 | 3))
        && orientation == Orientation::NoTransforms;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let picture = with_picture.then(|| Picture::of(&image, is_plain_jpeg.then_some(bytes)));
    Ok((grey(image), picture))
}

/// How many colours a JPEG file has: its decoder shows four as three.
fn jpeg_components(file: &[u8]) -> Option<u8> {
    let mut rest = file.strip_prefix(b"\xFF\xD8")?;
    loop {
        let (&[mark, kind], segment) = rest.split_first_chunk::<2>()?;
        if mark != 0xFF {
            return None;
        }
        match kind {
            // Padding.
            0xFF => rest = &rest[1..],
            // The head of the picture: its length, the bits of a sample, the sides, the colours.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return segment.get(7).copied();
            }
            _ => {
                let (length, _) = segment.split_first_chunk::<2>()?;
                rest = segment.get(usize::from(u16::from_be_bytes(*length))..)?;
            }
        }
    }
}

/// The samples of a picture in colour laid on white, row by row.
fn on_white(image: &RgbaImage) -> Vec<u8> {
    let opaque = image.pixels().flat_map(|pixel| {
        let mut on_white = Rgba([255; 4]);
        on_white.blend(pixel);
        let [red, green, blue, _] = on_white.0;
        [red, green, blue]
    });
    opaque.collect()
}

fn grey(image: DynamicImage) -> GrayImage {
    if !image.color().has_alpha() {
        return image.into_luma8();
    }
    let transparent = image.into_luma_alpha8();
    let (width, height) = transparent.dimensions();
    GrayImage::from_fn(width, height, |x, y| {
        let mut on_white = LumaA([255, 255]);
        on_white.blend(transparent.get_pixel(x, y));
        Luma([on_white[0]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colours_of_a_jpeg_are_counted_and_a_torn_one_has_none() {
        let head = |components| [0xFF, 0xC2, 0, 17, 8, 0, 9, 0, 9, components];
        let file = |components| {
            [&b"\xFF\xD8\xFF\xE1\0\x04ab\xFF"[..], &head(components), &[0; 9]].concat()
        };
        for components in [1, 3, 4] {
            assert_eq!(jpeg_components(&file(components)), Some(components));
        }
        for end in 0..18 {
            assert_eq!(jpeg_components(&file(3)[..end]), None, "{end}");
        }
        assert_eq!(jpeg_components(b"\xFF\xD8\xFF\xC4\0\0\xFF"), None);
    }

    #[test]
    fn what_is_transparent_is_white_in_a_pdf_as_well() {
        let mut image = RgbaImage::new(2, 1);
        image.put_pixel(1, 0, Rgba([200, 0, 0, 255]));
        let picture = Picture::of(&DynamicImage::ImageRgba8(image), None);
        let Samples::Raw(samples) = picture.samples else { panic!("no file was sent") };
        assert_eq!(samples, [255, 255, 255, 200, 0, 0]);
    }
}
