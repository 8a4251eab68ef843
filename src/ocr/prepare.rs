//! Makes a picture ready for Tesseract: this is where accuracy is won.
//!
//! Everything is chosen by the picture, which is measured first: how dark its text is, how high its
//! letters are, how its lines run. What each step brings is measured by `make accuracy`.

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma};
use serde::{Deserialize, Serialize};

use super::engine::SIDE_PIXELS_MAX;
use super::geometry::{Affine, Rect, Turn};

/// What may be done to a picture. All by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Preparation {
    /// Make small text larger.
    pub upscale: bool,
    /// Make huge text smaller.
    pub downscale: bool,
    /// Swap light and dark where the text is lighter than what it stands on.
    pub invert: bool,
    /// Straighten lines that climb or fall.
    pub deskew: bool,
    /// Turn a picture upright whose text lies on its side or head.
    pub rotate: bool,
    /// Choose the threshold between ink and paper part by part where text was made larger.
    pub adaptive_threshold: bool,
}

impl Preparation {
    /// The picture as it is.
    pub const NONE: Self = Self {
        upscale: false,
        downscale: false,
        invert: false,
        deskew: false,
        rotate: false,
        adaptive_threshold: false,
    };
}

impl Default for Preparation {
    fn default() -> Self {
        Self {
            upscale: true,
            downscale: true,
            invert: true,
            deskew: true,
            rotate: true,
            adaptive_threshold: true,
        }
    }
}

/// A picture that is ready for Tesseract.
pub struct Prepared {
    /// The pixels.
    pub image: GrayImage,
    /// From its points to those of the picture as sent.
    pub to_sent: Affine,
    /// Whether the threshold between ink and paper should be chosen part by part.
    pub adaptive_threshold: bool,
    /// By how many degrees the lines climbed.
    pub skew_degrees: f32,
    /// Its resolution in pixels per inch if its text has the usual size; absent where there is
    /// none.
    pub resolution_ppi: Option<u32>,
    /// Whether there is hardly room for more than a line of text on it.
    pub is_line: bool,
    /// How many times as large it is as it was sent.
    pub scale: f32,
}

/// Letters lower than this, in pixels, are read better when they are twice as large. A letter of
/// a book at 200 pixels per inch is about as high.
const SMALL_TEXT_PIXELS: f32 = 15.0;
/// The same for a line on its own, which Tesseract brings to its own height without losing it among
/// others.
const SMALL_LINE_PIXELS: f32 = 10.0;
/// Letters higher than this, in pixels, are read no better than smaller ones, only slower.
const HUGE_TEXT_PIXELS: f32 = 80.0;
/// What huge letters are reduced to: about those of a book at 300 pixels per inch, doubled.
const REDUCED_TEXT_PIXELS: f32 = 45.0;
/// The largest picture that is made larger: beyond it the memory is not worth it.
const UPSCALED_PIXELS_MAX: u64 = 12_000_000;
/// The largest picture that is made of one whose lines climb: it grows with the angle, a strip many
/// times.
const LEVELLED_PIXELS_MAX: u64 = 100_000_000;
/// Lines that climb less than this are left alone: Tesseract follows them by itself, and every
/// resampling costs sharpness.
const SKEW_DEGREES_MIN: f32 = 1.5;
/// The steepest lines that are looked for.
const SKEW_DEGREES_MAX: f32 = 20.0;
/// How much more orderly the letters have to stand on lines of the angle found than on level ones.
const SKEW_GAIN_MIN: f64 = 1.5;
/// How high a letter of 10 points is at one pixel per inch, by the letters of usual fonts: half
/// small letters, half those with an ascender.
const LETTER_HEIGHT_INCHES: f32 = 0.085;

/// Prepares a picture that is turned upright first.
pub fn prepare(sent: &GrayImage, turn: Turn, allowed: Preparation) -> Prepared {
    let mut to_sent = Affine::undo(turn, sent.width(), sent.height());
    let mut image = match turn {
        Turn::None => sent.clone(),
        Turn::Right => imageops::rotate90(sent),
        Turn::Half => imageops::rotate180(sent),
        Turn::Left => imageops::rotate270(sent),
    };
    if allowed == Preparation::NONE {
        return Prepared::plain(image, to_sent);
    }
    let mut ink = Ink::measure(&image);
    if allowed.invert && ink.is_light {
        imageops::invert(&mut image);
    }
    let mut skew_degrees = 0.0;
    let (mut factor, mut adaptive_threshold) = (1.0, false);
    let is_line = ink.letter_height.is_some_and(|height| is_line(&image, height));
    if let Some(height) = ink.letter_height {
        factor = scale(&image, height, allowed);
        if factor != 1.0 {
            let (width, height) = (image.width(), image.height());
            image = resize(&image, factor);
            let back = Affine::scale(
                f64::from(width) / f64::from(image.width()),
                f64::from(height) / f64::from(image.height()),
            );
            to_sent = back.then(to_sent);
            ink.letter_height = Some(ink.letter_height.unwrap_or_default() * factor);
            // A line on its own has little paper around it to choose by.
            adaptive_threshold = factor > 1.0 && allowed.adaptive_threshold && !is_line;
        }
        if allowed.deskew {
            skew_degrees = ink.skew_degrees();
            if skew_degrees.abs() >= SKEW_DEGREES_MIN
                && let Some((level, back)) = level(&image, skew_degrees)
            {
                image = level;
                to_sent = back.then(to_sent);
            }
        }
    }
    let resolution =
        |height: f32| (height / LETTER_HEIGHT_INCHES).round().clamp(70.0, 600.0) as u32;
    Prepared {
        adaptive_threshold,
        skew_degrees,
        resolution_ppi: ink.letter_height.map(resolution),
        is_line,
        scale: factor,
        image,
        to_sent,
    }
}

impl Prepared {
    fn plain(image: GrayImage, to_sent: Affine) -> Self {
        Self {
            image,
            to_sent,
            adaptive_threshold: false,
            skew_degrees: 0.0,
            resolution_ppi: None,
            is_line: false,
            scale: 1.0,
        }
    }
}

/// A picture that is lower than so many letters holds a line of text, hardly two.
const LINE_LETTER_HEIGHTS: f32 = 4.0;

/// By which factor to stretch a picture whose letters are so high.
fn scale(image: &GrayImage, letter_height: f32, allowed: Preparation) -> f32 {
    let can_double = fits(image.width() * 2, image.height() * 2, UPSCALED_PIXELS_MAX);
    let small = match is_line(image, letter_height) {
        true => SMALL_LINE_PIXELS,
        false => SMALL_TEXT_PIXELS,
    };
    if letter_height < small && can_double && allowed.upscale {
        2.0
    } else if letter_height > HUGE_TEXT_PIXELS && allowed.downscale {
        REDUCED_TEXT_PIXELS / letter_height
    } else {
        1.0
    }
}

/// Whether a picture of this size may be made for Tesseract.
fn fits(width: u32, height: u32, pixels_max: u64) -> bool {
    let pixels = u64::from(width) * u64::from(height);
    width.max(height) <= SIDE_PIXELS_MAX && pixels <= pixels_max
}

fn is_line(image: &GrayImage, letter_height: f32) -> bool {
    (image.height() as f32) < letter_height * LINE_LETTER_HEIGHTS
}

fn resize(image: &GrayImage, factor: f32) -> GrayImage {
    let side = |pixels: u32| ((pixels as f32 * factor).round() as u32).max(1);
    let (width, height) = (side(image.width()), side(image.height()));
    // Cubic: measured better than linear and Lanczos on scanned forms.
    imageops::resize(image, width, height, FilterType::CatmullRom)
}

/// Turns a picture whose lines climb by some degrees so that they are level, unless that would be
/// too large. Gives the way back, too.
fn level(image: &GrayImage, climb_degrees: f32) -> Option<(GrayImage, Affine)> {
    let radians = f64::from(climb_degrees).to_radians();
    let (sin, cos) = (radians.sin().abs(), radians.cos());
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let wide = (width * cos + height * sin).ceil();
    let high = (width * sin + height * cos).ceil();
    if !fits(wide as u32, high as u32, LEVELLED_PIXELS_MAX) {
        return None;
    }
    let back = Affine::rotate(-radians, (wide / 2.0, high / 2.0), (width / 2.0, height / 2.0));
    let paper = Luma([paper(image)]);
    let level = GrayImage::from_fn(wide as u32, high as u32, |x, y| {
        let (x, y) = back.point(f64::from(x) + 0.5, f64::from(y) + 0.5);
        imageops::interpolate_bilinear(image, (x - 0.5) as f32, (y - 0.5) as f32).unwrap_or(paper)
    });
    Some((level, back))
}

/// The most frequent shade of the lighter half.
fn paper(image: &GrayImage) -> u8 {
    let histogram = histogram(image);
    (128..=255).max_by_key(|shade| histogram[usize::from(*shade)]).unwrap_or(u8::MAX)
}

/// What was measured of the ink on a picture.
struct Ink {
    /// Whether the letters are lighter than what they stand on.
    is_light: bool,
    /// How high letters are, in pixels: the median over capitals and small ones. Nothing where
    /// there is nothing like letters.
    letter_height: Option<f32>,
    /// The letters.
    letters: Vec<Rect>,
}

/// The largest picture whose connected spots are looked at one by one; larger ones are looked at
/// from afar.
const MEASURED_PIXELS_MAX: u64 = 12_000_000;
/// Spots lower than this are noise.
const LETTER_PIXELS_MIN: u32 = 4;
/// How many letters it takes to say how lines run.
const SKEW_LETTERS_MIN: usize = 24;
/// How many letters it takes to say anything.
const LETTERS_MIN: usize = 3;

impl Ink {
    fn measure(image: &GrayImage) -> Self {
        let pixels = u64::from(image.width()) * u64::from(image.height());
        if pixels > MEASURED_PIXELS_MAX {
            let factor = (pixels as f64 / MEASURED_PIXELS_MAX as f64).sqrt().ceil() as u32;
            let (width, height) = (image.width() / factor, image.height() / factor);
            let smaller = imageops::thumbnail(image, width.max(1), height.max(1));
            return Self::measure(&smaller).enlarged(factor);
        }
        let threshold = otsu(&histogram(image));
        let dark = letters(image, |shade| shade <= threshold);
        let dark_pixels = image.iter().filter(|shade| **shade <= threshold).count() as u64;
        // Only where most is dark can the letters be light.
        if dark_pixels * 2 > pixels {
            let light = letters(image, |shade| shade > threshold);
            if light.len() > dark.len() {
                return Self::of(light, true);
            }
        }
        Self::of(dark, false)
    }

    fn of(letters: Vec<Rect>, is_light: bool) -> Self {
        let letter_height = letter_height(&letters, 1);
        Self { is_light, letter_height, letters }
    }

    /// What was measured from afar, as seen from near.
    fn enlarged(mut self, factor: u32) -> Self {
        self.letter_height = letter_height(&self.letters, factor);
        self
    }

    /// By how many degrees the lines climb; 0 where that cannot be told.
    ///
    /// The feet of the letters of a line stand on a line: at the right angle they fall into few
    /// rows, at any other into many.
    fn skew_degrees(&self) -> f32 {
        if self.letters.len() < SKEW_LETTERS_MIN {
            return 0.0;
        }
        let step = self.letters.len().div_ceil(4_000);
        let feet: Vec<(f64, f64)> = self
            .letters
            .iter()
            .step_by(step)
            .map(|letter| {
                let middle = f64::from(letter.left + letter.right) / 2.0;
                (middle, f64::from(letter.bottom))
            })
            .collect();
        let heights = self.letters.iter().map(|letter| letter.height());
        let row_pixels =
            (f64::from(heights.sum::<u32>()) / self.letters.len() as f64 / 4.0).max(2.0);
        let order = |degrees: f32| order(&feet, degrees, row_pixels);
        let best = |around: f32, width: f32, step: f32| {
            let steps = (width / step).round() as i32;
            let angles = (-steps..=steps).map(|index| around + index as f32 * step);
            angles.max_by(|a, b| order(*a).total_cmp(&order(*b))).unwrap_or(around)
        };
        let coarse = best(0.0, SKEW_DEGREES_MAX, 0.5);
        let fine = best(coarse, 0.5, 0.05);
        if order(fine) >= order(0.0) * SKEW_GAIN_MIN { fine } else { 0.0 }
    }
}

/// How orderly points stand on lines that climb by some degrees.
fn order(feet: &[(f64, f64)], climb_degrees: f32, row_pixels: f64) -> f64 {
    let slope = f64::from(climb_degrees).to_radians().tan();
    let rows = feet.iter().map(|(x, y)| ((y + x * slope) / row_pixels).floor() as i64);
    let mut rows: Vec<i64> = rows.collect();
    rows.sort_unstable();
    rows.chunk_by(|a, b| a == b).map(|row| (row.len() * row.len()) as f64).sum()
}

/// How high letters are that were measured from a distance. Where it is huge spots that there are
/// but more of letters, those are a figure beside the text: scaled by them it could not be read.
fn letter_height(letters: &[Rect], distance: u32) -> Option<f32> {
    let heights = letters.iter().map(|letter| (letter.height() * distance) as f32);
    let mut heights: Vec<f32> = heights.collect();
    heights.sort_unstable_by(f32::total_cmp);
    let height = median_height(&heights)?;
    if height <= HUGE_TEXT_PIXELS {
        return Some(height);
    }
    let small = heights.partition_point(|height| *height < SMALL_TEXT_PIXELS);
    let usual = heights.partition_point(|height| *height <= HUGE_TEXT_PIXELS);
    let huge = heights.len() - usual;
    let of_usual = if usual - small > huge { median_height(&heights[small..usual]) } else { None };
    of_usual.or(Some(height))
}

/// The median of sorted heights, each counted by itself: dots and specks hardly count.
fn median_height(heights: &[f32]) -> Option<f32> {
    if heights.len() < LETTERS_MIN {
        return None;
    }
    let half = heights.iter().sum::<f32>() / 2.0;
    let mut sum = 0.0;
    heights.iter().copied().find(|height| {
        sum += height;
        sum >= half
    })
}

fn histogram(image: &GrayImage) -> [u64; 256] {
    let mut histogram = [0; 256];
    for shade in image.iter() {
        histogram[usize::from(*shade)] += 1;
    }
    histogram
}

/// The shade that separates dark from light best: where the variance between the two is greatest.
fn otsu(histogram: &[u64; 256]) -> u8 {
    let total: u64 = histogram.iter().sum();
    let weighted = |(shade, count): (usize, &u64)| shade as f64 * *count as f64;
    let sum_all: f64 = histogram.iter().enumerate().map(weighted).sum();
    let (mut dark, mut dark_sum) = (0, 0.0);
    let mut best = (0.0, 127);
    for (shade, count) in histogram.iter().enumerate() {
        dark += count;
        dark_sum += weighted((shade, count));
        let light = total - dark;
        if dark == 0 || light == 0 {
            continue;
        }
        let distance = dark_sum / dark as f64 - (sum_all - dark_sum) / light as f64;
        let variance = dark as f64 * light as f64 * distance * distance;
        if variance > best.0 {
            best = (variance, shade as u8);
        }
    }
    best.1
}

/// The connected spots of ink that have the shape of a letter.
fn letters(image: &GrayImage, is_ink: impl Fn(u8) -> bool) -> Vec<Rect> {
    // On a picture of a line a letter may be as high as the picture; on others that is a frame.
    let is_flat = image.width() >= image.height() * 2;
    let height_max = if is_flat { image.height() } else { image.height() / 2 };
    let height_max = height_max.max(LETTER_PIXELS_MIN);
    let is_letter = |spot: &Rect| {
        let (width, height) = (spot.width(), spot.height());
        height >= LETTER_PIXELS_MIN
            && height <= height_max
            && width <= height * 4
            && height <= width * 12
    };
    spots(image, is_ink).into_iter().filter(is_letter).collect()
}

/// The bounds of all connected spots of ink, found row by row: a run of ink that touches one of
/// the row above belongs to the same spot.
fn spots(image: &GrayImage, is_ink: impl Fn(u8) -> bool) -> Vec<Rect> {
    let mut bounds: Vec<Rect> = Vec::new();
    let mut parents: Vec<u32> = Vec::new();
    let mut above: Vec<Run> = Vec::new();
    let mut here: Vec<Run> = Vec::new();
    for (y, row) in (0_u32..).zip(image.rows()) {
        let mut first_above = 0;
        let mut start = None;
        let shades = row.map(|pixel| pixel[0]);
        let width = image.width();
        let ends = (0..=width).zip(shades.map(&is_ink).chain([false]));
        for (x, ink) in ends {
            match (ink, start) {
                (true, None) => start = Some(x),
                (false, Some(left)) => {
                    start = None;
                    let mut run = Run { left, right: x, spot: bounds.len() as u32 };
                    bounds.push(Rect { left, top: y, right: x, bottom: y + 1 });
                    parents.push(run.spot);
                    while above.get(first_above).is_some_and(|other| other.right < left) {
                        first_above += 1;
                    }
                    // Touching at a corner counts.
                    for other in above[first_above..].iter().take_while(|other| other.left <= x) {
                        run.spot = join(&mut parents, &mut bounds, run.spot, other.spot);
                    }
                    here.push(run);
                }
                _ => {}
            }
        }
        std::mem::swap(&mut above, &mut here);
        here.clear();
    }
    let is_root = |index: &usize| parents[*index] as usize == *index;
    (0..bounds.len()).filter(is_root).map(|index| bounds[index]).collect()
}

/// A run of ink in a row.
struct Run {
    left: u32,
    right: u32,
    spot: u32,
}

fn root(parents: &mut [u32], mut spot: u32) -> u32 {
    while parents[spot as usize] != spot {
        let parent = parents[spot as usize];
        parents[spot as usize] = parents[parent as usize];
        spot = parent;
    }
    spot
}

fn join(parents: &mut [u32], bounds: &mut [Rect], a: u32, b: u32) -> u32 {
    let (a, b) = (root(parents, a), root(parents, b));
    let (older, newer) = (a.min(b), a.max(b));
    if older != newer {
        parents[newer as usize] = older;
        bounds[older as usize] = bounds[older as usize].union(bounds[newer as usize]);
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of blocks as letters would stand, each `high` pixels high, on lines that climb.
    fn page(high: u32, climb_degrees: f64) -> GrayImage {
        let mut image = GrayImage::from_pixel(900, 700, Luma([255]));
        let slope = climb_degrees.to_radians().tan();
        for row in 0..8 {
            for letter in 0..30 {
                let left = 60 + letter * (high + 4).min(26);
                let bottom = 250.0 + f64::from(row * 3 * high) - f64::from(left) * slope;
                for (x, y) in (0..high).flat_map(|x| (0..high).map(move |y| (x, y))) {
                    let (x, y) = (left + x * 3 / 4, bottom as u32 - y);
                    if x < 900 && y < 700 {
                        image.put_pixel(x, y, Luma([0]));
                    }
                }
            }
        }
        image
    }

    #[test]
    fn small_letters_are_doubled_and_others_not() {
        let small = prepare(&page(8, 0.0), Turn::None, Preparation::default());
        assert_eq!(small.image.dimensions(), (1800, 1400));
        assert!(small.adaptive_threshold);
        let word = Rect { left: 200, top: 100, right: 300, bottom: 120 };
        let expected = Rect { left: 100, top: 50, right: 150, bottom: 60 };
        assert_eq!(small.to_sent.rect(word, 900, 700), expected);

        let usual = prepare(&page(18, 0.0), Turn::None, Preparation::default());
        assert_eq!(usual.image.dimensions(), (900, 700));
        assert!(!usual.adaptive_threshold);
    }

    #[test]
    fn nothing_is_done_where_nothing_is_allowed() {
        let sent = page(8, 5.0);
        let prepared = prepare(&sent, Turn::None, Preparation::NONE);
        assert_eq!(prepared.image, sent);
        assert_eq!(prepared.to_sent, Affine::IDENTITY);
    }

    #[test]
    fn lines_that_climb_or_fall_are_levelled() {
        for climb in [-9.0, -4.0, 3.0, 7.0] {
            let prepared = prepare(&page(18, climb), Turn::None, Preparation::default());
            let error = (f64::from(prepared.skew_degrees) - climb).abs();
            assert!(error < 0.3, "{climb}: found {}", prepared.skew_degrees);
            let again = Ink::measure(&prepared.image).skew_degrees();
            assert!(again.abs() < 0.3, "{climb}: {again} are left");
        }
    }

    #[test]
    fn light_letters_become_dark() {
        let mut sent = page(18, 0.0);
        imageops::invert(&mut sent);
        let prepared = prepare(&sent, Turn::None, Preparation::default());
        assert_eq!(prepared.image, page(18, 0.0));
    }

    #[test]
    fn huge_spots_are_letters_only_where_there_are_no_more_of_the_usual_height() {
        let spots = |count, height| {
            std::iter::repeat_n(Rect { left: 0, top: 0, right: height, bottom: height }, count)
        };
        let height = |usual, huge| {
            let all: Vec<Rect> = spots(usual, 30).chain(spots(huge, 300)).collect();
            (letter_height(&all, 1), letter_height(&all, 2))
        };
        assert_eq!(height(20, 0), (Some(30.0), Some(60.0)));
        assert_eq!(height(20, 12), (Some(30.0), Some(60.0)));
        // Their dots.
        assert_eq!(height(5, 20), (Some(300.0), Some(600.0)));
    }

    #[test]
    fn an_empty_picture_is_left_alone() {
        for shade in [0, 128, 255] {
            let sent = GrayImage::from_pixel(50, 50, Luma([shade]));
            assert_eq!(prepare(&sent, Turn::None, Preparation::default()).image, sent);
        }
    }

    #[test]
    fn a_spot_is_one_however_it_is_bent() {
        let mut image = GrayImage::from_pixel(9, 9, Luma([255]));
        // A U: two runs in most rows, joined only in the last.
        for y in 1..8 {
            image.put_pixel(1, y, Luma([0]));
            image.put_pixel(6, y, Luma([0]));
        }
        for x in 1..7 {
            image.put_pixel(x, 7, Luma([0]));
        }
        let bounds = vec![Rect { left: 1, top: 1, right: 7, bottom: 8 }];
        assert_eq!(spots(&image, |shade| shade == 0), bounds);
    }
}
