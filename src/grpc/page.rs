//! Pages and how to read them: from the wire and to it.

use super::fields::Fields;
use super::proto::{self, OutputFormat, PageSegmentation, RecognizeOptions, RecognizeResponse};
use crate::ocr::geometry::Rect;
use crate::ocr::layout::{Block, Line, Paragraph, Word};
use crate::ocr::{Format, Options, Page, Preparation, Segmentation};

/// How to read a page, as the fields of a request say.
pub(super) fn options(
    options: Option<RecognizeOptions>,
    languages: Vec<String>,
    page: u32,
    field: &str,
    fields: &mut Fields,
) -> Option<Options> {
    let options = options.unwrap_or_default();
    let segmentation = segmentation(options.page_segmentation)
        .or_else(|| fields.wrong(&format!("{field}.page_segmentation"), "is not a known value"));
    let mut formats = Vec::new();
    for (index, number) in options.formats.iter().enumerate() {
        match format(*number) {
            Some(format) if !formats.contains(&format) => formats.push(format),
            Some(_) => {}
            None => {
                let field = format!("{field}.formats[{index}]");
                return fields.wrong(&field, "is not a known format");
            }
        }
    }
    let preparation = preparation(options.preparation.unwrap_or_default());
    let (layout, segmentation) = (options.layout, segmentation?);
    Some(Options { languages, page, segmentation, preparation, layout, formats })
}

fn preparation(skip: proto::Preparation) -> Preparation {
    Preparation {
        upscale: !skip.skip_upscale,
        downscale: !skip.skip_downscale,
        invert: !skip.skip_invert,
        deskew: !skip.skip_deskew,
        rotate: !skip.skip_rotate,
        adaptive_threshold: !skip.skip_adaptive_threshold,
    }
}

fn segmentation(number: i32) -> Option<Segmentation> {
    Some(match PageSegmentation::try_from(number).ok()? {
        PageSegmentation::Unspecified => Segmentation::Auto,
        PageSegmentation::SingleColumn => Segmentation::SingleColumn,
        PageSegmentation::SingleBlock => Segmentation::SingleBlock,
        PageSegmentation::SingleLine => Segmentation::SingleLine,
        PageSegmentation::SingleWord => Segmentation::SingleWord,
        PageSegmentation::SingleCharacter => Segmentation::SingleCharacter,
        PageSegmentation::SparseText => Segmentation::SparseText,
        PageSegmentation::RawLine => Segmentation::RawLine,
    })
}

fn format(number: i32) -> Option<Format> {
    match OutputFormat::try_from(number).ok()? {
        OutputFormat::Unspecified => None,
        OutputFormat::Hocr => Some(Format::Hocr),
        OutputFormat::Alto => Some(Format::Alto),
        OutputFormat::Tsv => Some(Format::Tsv),
        OutputFormat::Pdf => Some(Format::Pdf),
    }
}

/// The reply with a page, its charge still missing.
pub(super) fn response(page: Page) -> RecognizeResponse {
    RecognizeResponse {
        text: page.text,
        mean_confidence: page.mean_confidence,
        charge: None,
        quota: None,
        page: Some(proto::Page {
            number: page.number,
            count: page.count,
            width: page.width,
            height: page.height,
            rotation_degrees: page.rotation_degrees,
            skew_degrees: page.skew_degrees,
            resolution_ppi: page.resolution_ppi,
            languages: page.languages,
            blocks: page.blocks.into_iter().map(block).collect(),
        }),
        outputs: page
            .outputs
            .into_iter()
            .map(|output| {
                let format = match output.format {
                    Format::Hocr => OutputFormat::Hocr,
                    Format::Alto => OutputFormat::Alto,
                    Format::Tsv => OutputFormat::Tsv,
                    Format::Pdf => OutputFormat::Pdf,
                };
                proto::Output { format: format.into(), content: output.content }
            })
            .collect(),
        warnings: page.warnings,
    }
}

fn bounds(rect: Rect) -> Option<proto::Box> {
    let (left, top) = (rect.left, rect.top);
    Some(proto::Box { left, top, width: rect.width(), height: rect.height() })
}

fn block(block: Block) -> proto::Block {
    proto::Block {
        r#box: bounds(block.bounds),
        confidence: block.confidence,
        paragraphs: block.paragraphs.into_iter().map(paragraph).collect(),
    }
}

fn paragraph(paragraph: Paragraph) -> proto::Paragraph {
    proto::Paragraph {
        r#box: bounds(paragraph.bounds),
        confidence: paragraph.confidence,
        lines: paragraph.lines.into_iter().map(line).collect(),
    }
}

fn line(line: Line) -> proto::Line {
    proto::Line {
        r#box: bounds(line.bounds),
        confidence: line.confidence,
        words: line.words.into_iter().map(word).collect(),
    }
}

fn word(word: Word) -> proto::Word {
    proto::Word { text: word.text, r#box: bounds(word.bounds), confidence: word.confidence }
}
