//! Pictures that the tests draw for themselves, with Debian's DejaVu fonts.

use std::io::Cursor;
use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use image::{DynamicImage, GrayImage, ImageFormat, Luma};

/// From the package fonts-dejavu-core, which `make setup` installs.
const FONT_PATH: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";

static FONT_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    std::fs::read(FONT_PATH).unwrap_or_else(|_| panic!("no {FONT_PATH}: run `make setup`"))
});

/// Draws lines of text, black on white, with a margin of one line all around.
pub fn text(lines: &[&str], pixels_per_line: u32) -> GrayImage {
    let font = FontRef::try_from_slice(&FONT_BYTES).expect("the font is readable");
    let scale = PxScale::from(pixels_per_line as f32);
    let scaled = font.as_scaled(scale);
    let step = pixels_per_line * 3 / 2;
    let mut glyphs: Vec<Glyph> = Vec::new();
    let mut width = 0.0_f32;
    for (row, line) in lines.iter().enumerate() {
        let mut x = pixels_per_line as f32;
        let y = (pixels_per_line + row as u32 * step) as f32 + scaled.ascent();
        for character in line.chars() {
            let id = font.glyph_id(character);
            glyphs.push(id.with_scale_and_position(scale, point(x, y)));
            x += scaled.h_advance(id);
        }
        width = width.max(x);
    }
    let height = pixels_per_line * 2 + step * lines.len() as u32;
    let mut image = GrayImage::from_pixel(width as u32 + pixels_per_line, height, Luma([255]));
    for outlined in glyphs.into_iter().filter_map(|glyph| font.outline_glyph(glyph)) {
        let corner = outlined.px_bounds().min;
        outlined.draw(|x, y, coverage| {
            let (x, y) = (corner.x as u32 + x, corner.y as u32 + y);
            if x < image.width() && y < image.height() {
                let darker = image.get_pixel(x, y)[0].min(255 - (coverage * 255.0) as u8);
                image.put_pixel(x, y, Luma([darker]));
            }
        });
    }
    image
}

/// Encodes a picture.
pub fn encode(image: &GrayImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    // Not every format has a grey form; all have this one.
    DynamicImage::ImageLuma8(image.clone())
        .into_rgb8()
        .write_to(&mut bytes, format)
        .expect("the picture can be encoded");
    bytes.into_inner()
}

/// A line of text as a PNG: a picture that takes a fraction of a second.
pub fn line(words: &str) -> Vec<u8> {
    encode(&text(&[words], 40), ImageFormat::Png)
}

/// A dense page as a PNG: a picture that keeps a worker busy for seconds.
pub fn dense_page() -> Vec<u8> {
    let line = "The quick brown fox jumps over the lazy dog while 1234567890 sheep sleep soundly. ";
    let line = line.repeat(2);
    let lines: Vec<&str> = std::iter::repeat_n(line.as_str(), 60).collect();
    encode(&text(&lines, 28), ImageFormat::Png)
}

/// A picture turned clockwise by some degrees, on white.
pub fn tilted(image: &GrayImage, degrees: f32) -> GrayImage {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (width, height) = (image.width() as f32, image.height() as f32);
    let wide = (width * cos.abs() + height * sin.abs()).ceil();
    let high = (width * sin.abs() + height * cos.abs()).ceil();
    GrayImage::from_fn(wide as u32, high as u32, |x, y| {
        let (x, y) = (x as f32 - wide / 2.0, y as f32 - high / 2.0);
        let (x, y) = (x * cos + y * sin + width / 2.0, y * cos - x * sin + height / 2.0);
        image::imageops::interpolate_bilinear(image, x, y).unwrap_or(Luma([255]))
    })
}
