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

/// Pages of grey pixels as one TIFF, written byte by byte: few programs write several pages.
pub fn tiff(pages: &[GrayImage]) -> Vec<u8> {
    let mut file = b"II*\0\0\0\0\0".to_vec();
    let mut link = 4;
    for page in pages {
        let pixels_at = file.len() as u32;
        file.extend_from_slice(page.as_raw());
        let (width, height) = page.dimensions();
        // Tag and value; each value is a 32-bit number. No compression, black is zero, one strip.
        let entries: [(u16, u32); 8] = [
            (256, width),
            (257, height),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, pixels_at),
            (278, height),
            (279, width * height),
        ];
        let directory_at = (file.len() as u32).to_le_bytes();
        file[link..link + 4].copy_from_slice(&directory_at);
        file.extend((entries.len() as u16).to_le_bytes());
        for (tag, value) in entries {
            file.extend(tag.to_le_bytes());
            file.extend(4_u16.to_le_bytes());
            file.extend(1_u32.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        link = file.len();
        file.extend([0; 4]);
    }
    file
}

/// A PDF with a line of text on each page, in one of the fonts that every reader has.
pub fn pdf(lines: &[&str]) -> Vec<u8> {
    use pdf_writer::{Content, Name, Pdf, Rect, Ref, Str};
    let page = |index: usize| Ref::new(10 + 2 * index as i32);
    let mut pdf = Pdf::new();
    pdf.catalog(Ref::new(1)).pages(Ref::new(2));
    pdf.pages(Ref::new(2)).kids((0..lines.len()).map(page)).count(lines.len() as i32);
    pdf.type1_font(Ref::new(3)).base_font(Name(b"Helvetica"));
    for (index, line) in lines.iter().enumerate() {
        let content_at = Ref::new(page(index).get() + 1);
        let mut sheet = pdf.page(page(index));
        sheet.media_box(Rect::new(0.0, 0.0, 400.0, 200.0)).parent(Ref::new(2));
        sheet.contents(content_at);
        sheet.resources().fonts().pair(Name(b"F"), Ref::new(3));
        drop(sheet);
        let mut content = Content::new();
        content.begin_text().set_font(Name(b"F"), 24.0).next_line(40.0, 100.0);
        content.show(Str(line.as_bytes())).end_text();
        pdf.stream(content_at, &content.finish());
    }
    pdf.finish()
}
