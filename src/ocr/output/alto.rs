//! ALTO 3.0.

use std::fmt::{self, Write};

use super::escaped;
use crate::ocr::geometry::Rect;
use crate::ocr::layout::{Line, Page};

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<alto xmlns=\"http://www.loc.gov/standards/alto/ns-v3#\" \
xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
xsi:schemaLocation=\"http://www.loc.gov/standards/alto/ns-v3# \
http://www.loc.gov/alto/v3/alto-3-0.xsd\">
 <Description>
  <MeasurementUnit>pixel</MeasurementUnit>
  <sourceImageInformation><fileName></fileName></sourceImageInformation>
  <OCRProcessing ID=\"OCR_0\">
   <ocrProcessingStep>
    <processingSoftware><softwareName>img2text</softwareName></processingSoftware>
   </ocrProcessingStep>
  </OCRProcessing>
 </Description>
 <Layout>
";

pub fn write(page: &Page) -> String {
    let mut alto = String::from(HEAD);
    layout(&mut alto, page).expect("a string can be written to");
    alto
}

fn layout(alto: &mut String, page: &Page) -> fmt::Result {
    let (width, height, number) = (page.width, page.height, page.number);
    let whole = Rect { left: 0, top: 0, right: width, bottom: height };
    writeln!(
        alto,
        "  <Page WIDTH=\"{width}\" HEIGHT=\"{height}\" PHYSICAL_IMG_NR=\"{number}\" \
         ID=\"page_{number}\">\n   <PrintSpace {}>",
        place(whole)
    )?;
    let (mut paragraphs, mut lines, mut words) = (0, 0, 0);
    for (index, block) in page.blocks.iter().enumerate() {
        let block_place = place(block.bounds);
        writeln!(alto, "    <ComposedBlock ID=\"cblock_{index}\" {block_place}>")?;
        for paragraph in &block.paragraphs {
            let text_place = place(paragraph.bounds);
            writeln!(alto, "     <TextBlock ID=\"block_{paragraphs}\" {text_place}>")?;
            paragraphs += 1;
            for part in &paragraph.lines {
                writeln!(alto, "      <TextLine ID=\"line_{lines}\" {}>", place(part.bounds))?;
                lines += 1;
                line(alto, part, &mut words)?;
                writeln!(alto, "      </TextLine>")?;
            }
            writeln!(alto, "     </TextBlock>")?;
        }
        writeln!(alto, "    </ComposedBlock>")?;
    }
    writeln!(alto, "   </PrintSpace>\n  </Page>\n </Layout>\n</alto>")
}

fn line(alto: &mut String, line: &Line, words: &mut u32) -> fmt::Result {
    for (index, word) in line.words.iter().enumerate() {
        if let Some(before) = index.checked_sub(1).map(|before| line.words[before].bounds) {
            let gap = word.bounds.left.saturating_sub(before.right);
            let (left, top) = (before.right, word.bounds.top);
            writeln!(alto, "       <SP WIDTH=\"{gap}\" VPOS=\"{top}\" HPOS=\"{left}\"/>")?;
        }
        writeln!(
            alto,
            "       <String ID=\"string_{words}\" {} WC=\"{:.2}\" CONTENT=\"{}\"/>",
            place(word.bounds),
            word.confidence / 100.0,
            escaped(&word.text)
        )?;
        *words += 1;
    }
    Ok(())
}

fn place(rect: Rect) -> String {
    let (left, top) = (rect.left, rect.top);
    let (width, height) = (rect.width(), rect.height());
    format!("HPOS=\"{left}\" VPOS=\"{top}\" WIDTH=\"{width}\" HEIGHT=\"{height}\"")
}
