//! A PDF of one page: the picture as sent, and over it the text, invisible, where it was found, so
//! that it can be searched and copied.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf_writer::types::{SystemInfo, TextRenderingMode, UnicodeCmap};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str};

use crate::ocr::geometry;
use crate::ocr::image::{Picture, Samples};
use crate::ocr::layout::{Page, Word};

const POINTS_PER_INCH: f32 = 72.0;
/// How wide each letter of the invisible font is, in thousandths of its size.
const LETTER_WIDTH: f32 = 500.0;
/// How many letters a font can have: its codes are bytes.
const LETTERS_PER_FONT: usize = 256;
/// A letter that paints nothing.
const EMPTY_LETTER: &[u8] = b"500 0 d0";

const CATALOG: Ref = Ref::new(1);
const PAGES: Ref = Ref::new(2);
const PAGE: Ref = Ref::new(3);
const CONTENT: Ref = Ref::new(4);
const PICTURE: Ref = Ref::new(5);
const LETTER: Ref = Ref::new(6);
const FIRST_FONT: i32 = 7;

pub fn write(page: &Page, picture: Option<&Picture>) -> Vec<u8> {
    let letters = Letters::of(page);
    let points = POINTS_PER_INCH / page.resolution_ppi.max(1) as f32;
    let (width, height) = (page.width as f32 * points, page.height as f32 * points);

    let mut pdf = Pdf::new();
    pdf.catalog(CATALOG).pages(PAGES);
    pdf.pages(PAGES).kids([PAGE]).count(1);
    let mut sheet = pdf.page(PAGE);
    sheet.media_box(Rect::new(0.0, 0.0, width, height)).parent(PAGES).contents(CONTENT);
    let mut resources = sheet.resources();
    if picture.is_some() {
        resources.x_objects().pair(Name(b"Picture"), PICTURE);
    }
    let mut fonts = resources.fonts();
    for font in 0..letters.fonts() {
        fonts.pair(Name(&font_name(font)), font_ref(font));
    }
    fonts.finish();
    resources.finish();
    sheet.finish();

    let mut content = Content::new();
    if picture.is_some() {
        content.save_state().transform([width, 0.0, 0.0, height, 0.0, 0.0]);
        content.x_object(Name(b"Picture")).restore_state();
    }
    write_text(&mut content, page, &letters, points);
    let content = compressed(&content.finish());
    pdf.stream(CONTENT, &content).filter(Filter::FlateDecode);
    if let Some(picture) = picture {
        write_picture(&mut pdf, picture);
    }
    letters.write(&mut pdf);
    pdf.finish()
}

fn write_picture(pdf: &mut Pdf, picture: &Picture) {
    let (bytes, filter) = match &picture.samples {
        Samples::Jpeg(file) => (file.clone(), Filter::DctDecode),
        Samples::Raw(raw) => (compressed(raw), Filter::FlateDecode),
    };
    let mut object = pdf.image_xobject(PICTURE, &bytes);
    object.filter(filter);
    object.width(picture.width as i32).height(picture.height as i32);
    match picture.is_grey {
        true => object.color_space().device_gray(),
        false => object.color_space().device_rgb(),
    };
    object.bits_per_component(8);
}

fn write_text(content: &mut Content, page: &Page, letters: &Letters, points: f32) {
    content.begin_text().set_text_rendering_mode(TextRenderingMode::Invisible);
    for line in page.lines() {
        for (index, word) in line.words.iter().enumerate() {
            let is_last = index + 1 == line.words.len();
            write_word(content, word, is_last, page, letters, points);
        }
    }
    content.end_text();
}

/// Writes a word so that its letters, all of one width, fill its rectangle.
fn write_word(
    content: &mut Content,
    word: &Word,
    is_last: bool,
    page: &Page,
    letters: &Letters,
    points: f32,
) {
    let Place { matrix, length, size } = place(word.bounds, page, points);
    let count = word.text.chars().count();
    if count == 0 || length <= 0.0 || size <= 0.0 {
        return;
    }
    let natural = count as f32 * size * LETTER_WIDTH / 1000.0;
    content.set_horizontal_scaling(length / natural * 100.0).set_text_matrix(matrix);
    let space = if is_last { "" } else { " " };
    let codes = word.text.chars().chain(space.chars()).map(|letter| letters.code(letter));
    let codes: Vec<(usize, u8)> = codes.collect();
    for part in codes.chunk_by(|a, b| a.0 == b.0) {
        content.set_font(Name(&font_name(part[0].0)), size);
        let bytes: Vec<u8> = part.iter().map(|(_, code)| *code).collect();
        content.show(Str(&bytes));
    }
}

/// Where a word begins and how it runs, in points.
struct Place {
    matrix: [f32; 6],
    length: f32,
    size: f32,
}

fn place(bounds: geometry::Rect, page: &Page, points: f32) -> Place {
    let (left, right) = (bounds.left as f32 * points, bounds.right as f32 * points);
    // PDF counts from below.
    let above = |row: u32| (page.height as f32 - row as f32) * points;
    let (top, bottom) = (above(bounds.top), above(bounds.bottom));
    let (width, height) = (right - left, top - bottom);
    match page.rotation_degrees {
        // Turned clockwise to stand upright: so it runs upwards, and so on.
        90 => Place { matrix: [0.0, 1.0, -1.0, 0.0, right, bottom], length: height, size: width },
        180 => Place { matrix: [-1.0, 0.0, 0.0, -1.0, right, top], length: width, size: height },
        270 => Place { matrix: [0.0, -1.0, 1.0, 0.0, left, top], length: height, size: width },
        _ => Place { matrix: [1.0, 0.0, 0.0, 1.0, left, bottom], length: width, size: height },
    }
}

/// Every letter of a page by its number: from these the invisible fonts are made.
struct Letters {
    numbers: BTreeMap<char, usize>,
}

impl Letters {
    fn of(page: &Page) -> Self {
        let mut numbers = BTreeMap::from([(' ', 0)]);
        for letter in page.words().flat_map(|word| word.text.chars()) {
            let next = numbers.len();
            numbers.entry(letter).or_insert(next);
        }
        Self { numbers }
    }

    fn fonts(&self) -> usize {
        self.numbers.len().div_ceil(LETTERS_PER_FONT)
    }

    /// A letter's font, and its code there.
    fn code(&self, letter: char) -> (usize, u8) {
        let number = self.numbers.get(&letter).copied().unwrap_or_default();
        (number / LETTERS_PER_FONT, (number % LETTERS_PER_FONT) as u8)
    }

    fn write(&self, pdf: &mut Pdf) {
        pdf.stream(LETTER, EMPTY_LETTER);
        for font in 0..self.fonts() {
            self.write_font(pdf, font);
        }
    }

    fn write_font(&self, pdf: &mut Pdf, font: usize) {
        let map = Ref::new(font_ref(font).get() + 1);
        let letters = self.numbers.keys().map(|letter| (self.code(*letter), *letter));
        let mut letters: Vec<(u8, char)> =
            letters.filter(|((of, _), _)| *of == font).map(|((_, code), c)| (code, c)).collect();
        letters.sort_unstable();
        let last = letters.last().map_or(0, |(code, _)| *code);
        let mut written = pdf.type3_font(font_ref(font));
        written.bbox(Rect::new(0.0, -200.0, LETTER_WIDTH, 800.0));
        written.matrix([0.001, 0.0, 0.0, 0.001, 0.0, 0.0]);
        written.char_procs().pair(Name(b"e"), LETTER);
        let names = (0..=last).map(|_| Name(b"e"));
        written.encoding_custom().differences().consecutive(0, names);
        written.first_char(0).last_char(last).widths((0..=last).map(|_| LETTER_WIDTH));
        written.to_unicode(map);
        written.finish();

        let system = SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"UCS"), supplement: 0 };
        let mut cmap = UnicodeCmap::<u8>::new(Name(b"img2text"), system);
        for (code, letter) in letters {
            cmap.pair(code, letter);
        }
        pdf.stream(map, &cmap.finish());
    }
}

fn font_ref(font: usize) -> Ref {
    Ref::new(FIRST_FONT + 2 * font as i32)
}

fn font_name(font: usize) -> Vec<u8> {
    format!("F{font}").into_bytes()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory can be written to");
    encoder.finish().expect("memory can be written to")
}
