//! What was read: pages, blocks, paragraphs, lines, words.
//!
//! All coordinates are pixels of the picture as sent (turned as its EXIF orientation says, as any
//! viewer shows it), whatever was done to it before Tesseract saw it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::geometry::Rect;

/// One recognised page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The text, lines ended by line feeds; empty if there is none in the picture.
    pub text: String,
    /// The mean confidence of the words, 0 (none) to 100 (sure); 0 without words.
    pub mean_confidence: f32,
    /// Which page of the file this is, from 1.
    pub number: u32,
    /// How many pages the file has.
    pub count: u32,
    /// The width of the picture, in pixels.
    pub width: u32,
    /// The height of the picture, in pixels.
    pub height: u32,
    /// By how much the picture has to be turned clockwise for its text to stand upright: 0, 90,
    /// 180 or 270 degrees.
    pub rotation_degrees: u32,
    /// By how much the lines of the upright picture climb to the right, in degrees; negative where
    /// they fall.
    pub skew_degrees: f32,
    /// The resolution that was assumed, in pixels per inch, from the size of the text.
    pub resolution_ppi: u32,
    /// The languages that were expected.
    pub languages: Vec<String>,
    /// What the reader should know about how the text was found.
    pub warnings: Vec<String>,
    /// The structure; empty unless it was asked for.
    pub blocks: Vec<Block>,
    /// The same page in the formats that were asked for.
    pub outputs: Vec<Output>,
}

/// A part of a page that is read on its own, as a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Where it is.
    pub bounds: Rect,
    /// The mean confidence of its words, 0 to 100.
    pub confidence: f32,
    /// What is in it, in reading order.
    pub paragraphs: Vec<Paragraph>,
}

/// A paragraph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paragraph {
    /// Where it is.
    pub bounds: Rect,
    /// The mean confidence of its words, 0 to 100.
    pub confidence: f32,
    /// What is in it, in reading order.
    pub lines: Vec<Line>,
}

/// A line of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Where it is.
    pub bounds: Rect,
    /// The mean confidence of its words, 0 to 100.
    pub confidence: f32,
    /// What is in it, in reading order.
    pub words: Vec<Word>,
}

/// A word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// What it says.
    pub text: String,
    /// Where it is.
    pub bounds: Rect,
    /// How sure that is, 0 to 100.
    pub confidence: f32,
}

/// A page written in a format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The format.
    pub format: Format,
    /// The page in it.
    #[serde(with = "base64_text")]
    pub content: Bytes,
}

/// A format that a page can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// hOCR 1.2: XHTML.
    Hocr,
    /// ALTO 3.0: XML.
    Alto,
    /// A line per element, as Tesseract's TSV.
    Tsv,
    /// The picture as sent with an invisible layer of text.
    Pdf,
}

impl Page {
    /// All lines, in reading order.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.blocks.iter().flat_map(|block| &block.paragraphs).flat_map(|part| &part.lines)
    }

    /// All words, in reading order.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.lines().flat_map(|line| &line.words)
    }
}

/// Puts elements around their parts: with the bounds of all and the mean confidence of the words.
pub(super) mod grow {
    use super::{Block, Line, Paragraph, Rect, Word};

    fn around<T>(parts: &[T], bounds: impl Fn(&T) -> Rect) -> Rect {
        parts.iter().map(bounds).reduce(Rect::union).unwrap_or_default()
    }

    fn mean<'a>(words: impl Iterator<Item = &'a Word>) -> f32 {
        let (sum, count) =
            words.fold((0.0, 0_u32), |(sum, count), word| (sum + word.confidence, count + 1));
        if count == 0 { 0.0 } else { sum / count as f32 }
    }

    pub fn line(words: Vec<Word>) -> Line {
        let bounds = around(&words, |word| word.bounds);
        Line { bounds, confidence: mean(words.iter()), words }
    }

    pub fn paragraph(lines: Vec<Line>) -> Paragraph {
        let bounds = around(&lines, |line| line.bounds);
        let confidence = mean(lines.iter().flat_map(|line| &line.words));
        Paragraph { bounds, confidence, lines }
    }

    pub fn block(paragraphs: Vec<Paragraph>) -> Block {
        let bounds = around(&paragraphs, |paragraph| paragraph.bounds);
        let lines = paragraphs.iter().flat_map(|paragraph| &paragraph.lines);
        let confidence = mean(lines.flat_map(|line| &line.words));
        Block { bounds, confidence, paragraphs }
    }
}

/// Bytes as text within JSON, where they would otherwise be a list of numbers.
mod base64_text {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(Bytes::from).map_err(de::Error::custom)
    }
}
