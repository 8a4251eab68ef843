//! Tesseract's TSV: a line per page, block, paragraph, line and word.

use std::fmt::Write;

use crate::ocr::geometry::Rect;
use crate::ocr::layout::Page;

const HEADER: &str = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n";

pub fn write(page: &Page) -> String {
    let mut tsv = String::from(HEADER);
    let whole = Rect { left: 0, top: 0, right: page.width, bottom: page.height };
    let mut row = |numbers: [usize; 4], level: u32, bounds: Rect, confidence: f32, text: &str| {
        let [block, paragraph, line, word] = numbers;
        let (left, top) = (bounds.left, bounds.top);
        let (width, height) = (bounds.width(), bounds.height());
        let text = text.replace(['\t', '\n', '\r'], " ");
        writeln!(
            tsv,
            "{level}\t{}\t{block}\t{paragraph}\t{line}\t{word}\t{left}\t{top}\t{width}\t{height}\t\
             {confidence}\t{text}",
            page.number
        )
        .expect("a string can be written to");
    };
    row([0; 4], 1, whole, -1.0, "");
    for (b, block) in (1..).zip(&page.blocks) {
        row([b, 0, 0, 0], 2, block.bounds, -1.0, "");
        for (p, paragraph) in (1..).zip(&block.paragraphs) {
            row([b, p, 0, 0], 3, paragraph.bounds, -1.0, "");
            for (l, line) in (1..).zip(&paragraph.lines) {
                row([b, p, l, 0], 4, line.bounds, -1.0, "");
                for (w, word) in (1..).zip(&line.words) {
                    row([b, p, l, w], 5, word.bounds, word.confidence, &word.text);
                }
            }
        }
    }
    tsv
}
