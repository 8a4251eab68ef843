//! The resolution that a file says it has: what a scanner knew, and pixels do not tell.

use std::ops::RangeInclusive;

use image::ImageFormat;

use super::tiff;

/// What Tesseract takes for credible; other values are often there only because a field must be.
const CREDIBLE_PPI: RangeInclusive<f64> = 70.0..=2_400.0;
const CENTIMETRES_PER_INCH: f64 = 2.54;
const METRES_PER_INCH: f64 = 0.0254;

/// The resolution of a page across, in pixels per inch, if its file states a credible one.
pub fn stated_ppi(file: &[u8], format: ImageFormat, page: u32) -> Option<u32> {
    let ppi = match format {
        ImageFormat::Tiff => tiff::resolution_ppi(file, page)?,
        ImageFormat::Png => png(file)?,
        ImageFormat::Jpeg => jfif(file)?,
        _ => return None,
    };
    credible(ppi)
}

/// A resolution in whole pixels per inch, if it is one that pages have.
pub fn credible(ppi: f64) -> Option<u32> {
    CREDIBLE_PPI.contains(&ppi).then_some(ppi.round() as u32)
}

/// Pixels per centimetre as pixels per inch.
pub fn from_centimetres(pixels: f64) -> f64 {
    pixels * CENTIMETRES_PER_INCH
}

/// The chunk pHYs of a PNG: pixels per unit across and down, and the unit, of which 1 is a metre.
/// It stands before the pixels.
fn png(file: &[u8]) -> Option<f64> {
    const SIGNATURE_BYTES: usize = 8;
    const AROUND_CHUNK_BYTES: usize = 12;
    let mut rest = file.get(SIGNATURE_BYTES..)?;
    loop {
        let bytes = big_endian_32(rest)? as usize;
        match rest.get(4..8)? {
            b"pHYs" if *rest.get(16)? == 1 => {
                return Some(f64::from(big_endian_32(&rest[8..])?) * METRES_PER_INCH);
            }
            b"pHYs" | b"IDAT" | b"IEND" => return None,
            _ => rest = rest.get(bytes.checked_add(AROUND_CHUNK_BYTES)?..)?,
        }
    }
}

fn big_endian_32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The segment JFIF of a JPEG, which is the first: after its name and version the unit, of which 1
/// is an inch and 2 a centimetre, and the pixels per unit across.
fn jfif(file: &[u8]) -> Option<f64> {
    let segment = file.strip_prefix(b"\xFF\xD8\xFF\xE0")?.get(2..)?.strip_prefix(b"JFIF\0")?;
    let pixels = f64::from(u16::from_be_bytes(segment.get(3..5)?.try_into().ok()?));
    match segment[2] {
        1 => Some(pixels),
        2 => Some(from_centimetres(pixels)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_with(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        for (name, data) in chunks {
            file.extend((data.len() as u32).to_be_bytes());
            file.extend(*name);
            file.extend(*data);
            file.extend([0; 4]);
        }
        file
    }

    #[test]
    fn a_png_states_pixels_per_metre() {
        let header: (&[u8; 4], &[u8]) = (b"IHDR", &[0; 13]);
        let physical =
            |unit| [&11_811_u32.to_be_bytes()[..], &1_u32.to_be_bytes(), &[unit]].concat();
        let file = png_with(&[header, (b"pHYs", &physical(1)), (b"IDAT", &[])]);
        assert_eq!(stated_ppi(&file, ImageFormat::Png, 1), Some(300));
        // Only a ratio of the sides.
        let file = png_with(&[header, (b"pHYs", &physical(0)), (b"IDAT", &[])]);
        assert_eq!(stated_ppi(&file, ImageFormat::Png, 1), None);
        let file = png_with(&[header, (b"IDAT", &[]), (b"pHYs", &physical(1))]);
        assert_eq!(stated_ppi(&file, ImageFormat::Png, 1), None);
    }

    #[test]
    fn a_jpeg_states_pixels_per_inch_or_centimetre() {
        let file = |unit: u8, pixels: u16| {
            let [high, low] = pixels.to_be_bytes();
            [&b"\xFF\xD8\xFF\xE0\0\x10JFIF\0\x01\x02"[..], &[unit, high, low]].concat()
        };
        let stated = |unit, pixels| stated_ppi(&file(unit, pixels), ImageFormat::Jpeg, 1);
        assert_eq!(stated(1, 200), Some(200));
        assert_eq!(stated(2, 118), Some(300));
        assert_eq!(stated(0, 200), None);
        // As many programs write that know none.
        assert_eq!(stated(1, 1), None);
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_states_nothing_or_the_same() {
        let header: (&[u8; 4], &[u8]) = (b"IHDR", &[0; 13]);
        let physical = [&11_811_u32.to_be_bytes()[..], &[0; 4], &[1]].concat();
        let file = png_with(&[header, (b"pHYs", &physical)]);
        for end in 0..=file.len() {
            let stated = stated_ppi(&file[..end], ImageFormat::Png, 1);
            assert!(matches!(stated, None | Some(300)), "{end}: {stated:?}");
        }
    }
}
