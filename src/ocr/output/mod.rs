//! A page in the formats that other programs read, written from our own layout in the coordinates
//! of the picture as sent, in the schemas that Tesseract emits.

mod alto;
mod hocr;
mod pdf;
mod tsv;

use super::image::Picture;
use super::layout::{Format, Output, Page};

/// A page in a format. The picture is what a PDF shows; without one it shows nothing.
pub fn write(format: Format, page: &Page, picture: Option<&Picture>) -> Output {
    let content = match format {
        Format::Hocr => hocr::write(page).into(),
        Format::Alto => alto::write(page).into(),
        Format::Tsv => tsv::write(page).into(),
        Format::Pdf => pdf::write(page, picture).into(),
    };
    Output { format, content }
}

/// Text as it may stand in XML, in content and in quoted attributes: what XML cannot hold at all is
/// left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn nothing_in_a_text_can_leave_its_element() {
        assert_eq!(escaped("a<b>&\"'\u{0}\u{7}\tя"), "a&lt;b&gt;&amp;&quot;&#39; я");
    }
}
