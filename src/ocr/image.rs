//! What can be told of a picture by its first bytes, and its pixels made ready for Tesseract.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, Luma, LumaA, Pixel,
};

use super::{Error, Violation};
use crate::config;

/// The formats that are read.
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Tiff,
    ImageFormat::Bmp,
    ImageFormat::Gif,
];
const FORMAT_NAMES: &str = "PNG, JPEG, WebP, TIFF, BMP or GIF";

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

fn format(bytes: &[u8]) -> Option<ImageFormat> {
    image::guess_format(bytes).ok().filter(|format| FORMATS.contains(format))
}

/// Decodes a picture that [`check`] has let through: upright as its EXIF orientation says, on
/// white where it is transparent, grey.
pub fn decode(bytes: &[u8], settings: &config::Ocr) -> Result<GrayImage, Error> {
    let format = format(bytes).ok_or_else(|| Error::Undecodable("unknown format".into()))?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(settings.image_side_pixels_max);
    limits.max_image_height = Some(settings.image_side_pixels_max);
    limits.max_alloc = Some(settings.image_pixels_max.saturating_mul(PIXEL_BYTES_MAX));
    reader.limits(limits);
    let undecodable = |error: image::ImageError| Error::Undecodable(error.to_string());
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(grey(image))
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
