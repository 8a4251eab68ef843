//! hOCR 1.2, as XHTML.

use std::fmt::{self, Write};

use super::escaped;
use crate::ocr::geometry::Rect;
use crate::ocr::layout::{Block, Line, Page, Paragraph};

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"
    \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">
<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">
 <head>
  <title></title>
  <meta http-equiv=\"Content-Type\" content=\"text/html;charset=utf-8\"/>
  <meta name='ocr-system' content='img2text'/>
  <meta name='ocr-capabilities' content='ocr_page ocr_carea ocr_par ocr_line ocrx_word ocrp_wconf'/>
 </head>
 <body>
";

pub fn write(page: &Page) -> String {
    let mut hocr = String::from(HEAD);
    body(&mut hocr, page).expect("a string can be written to");
    hocr
}

/// Numbers the elements of a page through.
#[derive(Default)]
struct Numbers {
    paragraph: u32,
    line: u32,
    word: u32,
}

fn body(hocr: &mut String, page: &Page) -> fmt::Result {
    let number = page.number;
    let whole = Rect { left: 0, top: 0, right: page.width, bottom: page.height };
    let resolution = page.resolution_ppi;
    writeln!(
        hocr,
        "  <div class='ocr_page' id='page_{number}' title='image \"\"; {}; ppageno {}; scan_res \
         {resolution} {resolution}'>",
        bbox(whole),
        number.saturating_sub(1)
    )?;
    let mut numbers = Numbers::default();
    for (index, part) in (1..).zip(&page.blocks) {
        let title = bbox(part.bounds);
        writeln!(hocr, "   <div class='ocr_carea' id='block_{number}_{index}' title='{title}'>")?;
        block(hocr, part, page, &mut numbers)?;
        writeln!(hocr, "   </div>")?;
    }
    writeln!(hocr, "  </div>\n </body>\n</html>")
}

fn block(hocr: &mut String, block: &Block, page: &Page, numbers: &mut Numbers) -> fmt::Result {
    for part in &block.paragraphs {
        numbers.paragraph += 1;
        let (id, title) = (numbers.paragraph, bbox(part.bounds));
        let language = page.languages.first().map_or("", String::as_str);
        writeln!(
            hocr,
            "    <p class='ocr_par' id='par_{}_{id}' lang='{}' title='{title}'>",
            page.number,
            escaped(language)
        )?;
        paragraph(hocr, part, page, numbers)?;
        writeln!(hocr, "    </p>")?;
    }
    Ok(())
}

fn paragraph(
    hocr: &mut String,
    paragraph: &Paragraph,
    page: &Page,
    numbers: &mut Numbers,
) -> fmt::Result {
    for part in &paragraph.lines {
        numbers.line += 1;
        let (id, title) = (numbers.line, bbox(part.bounds));
        writeln!(
            hocr,
            "     <span class='ocr_line' id='line_{}_{id}' title='{title}; {}'>",
            page.number,
            way(part.bounds, page)
        )?;
        line(hocr, part, page, numbers)?;
        writeln!(hocr, "     </span>")?;
    }
    Ok(())
}

fn line(hocr: &mut String, line: &Line, page: &Page, numbers: &mut Numbers) -> fmt::Result {
    for word in &line.words {
        numbers.word += 1;
        writeln!(
            hocr,
            "      <span class='ocrx_word' id='word_{}_{}' title='{}; x_wconf {:.0}'>{}</span>",
            page.number,
            numbers.word,
            bbox(word.bounds),
            word.confidence,
            escaped(&word.text)
        )?;
    }
    Ok(())
}

/// Which way a line runs, and how high it is: letters with ascenders and descenders fill it, and its
/// foot is the baseline's place. Of a line that does not stand upright hOCR has the angle alone.
fn way(line: Rect, page: &Page) -> String {
    let (width, height) = (f64::from(line.width()), f64::from(line.height()));
    match page.rotation_degrees {
        0 => {
            let slope = -f64::from(page.skew_degrees).to_radians().tan();
            // How far the foot of its first letters is above that of the lowest.
            let offset = -(width * slope).max(0.0);
            let size = (height - width * slope.abs()).max(1.0);
            format!("baseline {} {}; x_size {size:.0}", short(slope), short(offset))
        }
        180 => format!("textangle 180; x_size {height}"),
        degrees => format!("textangle {degrees}; x_size {width}"),
    }
}

/// As Tesseract writes numbers here: to three places.
fn short(number: f64) -> f64 {
    // Not minus nothing.
    (number * 1e3).round() / 1e3 + 0.0
}

fn bbox(rect: Rect) -> String {
    format!("bbox {} {} {} {}", rect.left, rect.top, rect.right, rect.bottom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_which_way_it_runs() {
        let line = Rect { left: 10, top: 20, right: 210, bottom: 60 };
        let way = |rotation_degrees, skew_degrees| {
            way(line, &Page { rotation_degrees, skew_degrees, ..Page::default() })
        };
        assert_eq!(way(0, 0.0), "baseline 0 0; x_size 40");
        // Rows are counted downwards: lines that climb have a falling number.
        assert_eq!(way(0, 5.0), "baseline -0.087 0; x_size 23");
        assert_eq!(way(0, -5.0), "baseline 0.087 -17.498; x_size 23");
        assert_eq!(way(90, 0.0), "textangle 90; x_size 200");
        assert_eq!(way(180, 0.0), "textangle 180; x_size 40");
    }
}
