//! PDF files: their pages as pictures.

use hayro::hayro_interpret::InterpreterSettings;
use hayro::hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use hayro::vello_cpu::color::palette::css::WHITE;
use hayro::{PixmapSettings, RenderCache, RenderSettings, render as draw};
use image::{GrayImage, Luma};

use super::image::ImageError;
use crate::config;

/// The resolution that pages are drawn at, in pixels per inch: what Tesseract was trained for.
const RESOLUTION_PPI: f32 = 300.0;
/// How many points an inch has: PDF's unit.
const POINTS_PER_INCH: f32 = 72.0;
/// How far from its beginning a file may say that it is a PDF.
const SIGNATURE_WITHIN_BYTES: usize = 1_024;

/// Whether a file says that it is a PDF.
pub fn is_pdf(file: &[u8]) -> bool {
    let start = &file[..file.len().min(SIGNATURE_WITHIN_BYTES)];
    start.windows(5).any(|bytes| bytes == b"%PDF-")
}

/// How many pages a file has.
pub fn count(file: &[u8]) -> Result<u32, ImageError> {
    let pages = open(file)?.pages().len();
    if pages == 0 {
        return Err(ImageError::Corrupt("a PDF without pages".into()));
    }
    Ok(pages as u32)
}

/// Draws a page, counted from 1; tells at how many pixels per inch.
pub fn render(
    file: &[u8],
    page: u32,
    settings: &config::Ocr,
) -> Result<(GrayImage, f64), ImageError> {
    let pdf = open(file)?;
    let pages = pdf.pages();
    let page = pages.get(page as usize - 1);
    let page = page.ok_or_else(|| ImageError::Corrupt("no such page".into()))?;
    let (width, height) = page.render_dimensions();
    let scale = scale(width, height, settings);
    let settings = PixmapSettings { x_scale: scale, y_scale: scale, bg_color: WHITE };
    let drawn = draw(
        page,
        &RenderCache::new(),
        &InterpreterSettings::default(),
        &RenderSettings::default(),
        &settings,
    );
    let (width, height) = (u32::from(drawn.width()), u32::from(drawn.height()));
    if width == 0 || height == 0 {
        return Err(ImageError::Corrupt("a page without a size".into()));
    }
    let pixels = drawn.data();
    let at = |x: u32, y: u32| pixels[(y * width + x) as usize];
    let grey = GrayImage::from_fn(width, height, |x, y| {
        let pixel = at(x, y);
        let [r, g, b] = [pixel.r, pixel.g, pixel.b].map(u32::from);
        Luma([((r * 299 + g * 587 + b * 114) / 1000) as u8])
    });
    Ok((grey, f64::from(scale * POINTS_PER_INCH)))
}

/// How many pixels a point gets: those of the resolution, or fewer if a page is too large for it.
fn scale(width: f32, height: f32, settings: &config::Ocr) -> f32 {
    let side_max = settings.image_side_pixels_max as f32;
    let pixels_max = settings.image_pixels_max as f32;
    (RESOLUTION_PPI / POINTS_PER_INCH)
        .min(side_max / width.max(1.0))
        .min(side_max / height.max(1.0))
        .min((pixels_max / (width * height).max(1.0)).sqrt())
}

fn open(file: &[u8]) -> Result<Pdf, ImageError> {
    Pdf::new(file.to_vec()).map_err(|error| {
        let reason = match error {
            LoadPdfError::Decryption(DecryptionError::PasswordProtected) => {
                "it asks for a password: send it without one"
            }
            LoadPdfError::Decryption(_) => "it is encrypted in a way that is not known here",
            LoadPdfError::Invalid => "it is no sound PDF",
        };
        ImageError::Corrupt(reason.into())
    })
}
