//! TIFF files of several pages. The decoder reads the first; so a file whose header points to
//! another page makes it read that one.

use super::resolution::from_centimetres;

/// The most pages that are counted: a chain of them may be a circle.
const PAGES_MAX: u32 = 10_000;

/// The numbers of fields in a page's directory.
const X_RESOLUTION: u64 = 282;
const RESOLUTION_UNIT: u64 = 296;

/// How a file writes its numbers.
#[derive(Clone, Copy)]
struct Header {
    is_little_endian: bool,
    is_big_tiff: bool,
}

/// How many pages a file has; at least 1, at most [`PAGES_MAX`].
pub fn count(file: &[u8]) -> u32 {
    pages(file).map_or(1, |pages| pages.count().max(1) as u32)
}

/// The file with a page, counted from 1, as its first.
pub fn with_first(file: &[u8], page: u32) -> Option<Vec<u8>> {
    let at = pages(file)?.nth(page.checked_sub(1)? as usize)?;
    let header = Header::read(file)?;
    let mut file = file.to_vec();
    let number = at.to_le_bytes();
    let mut bytes = number[..header.offset_bytes()].to_vec();
    if !header.is_little_endian {
        bytes.reverse();
    }
    let place = header.first_page();
    file.get_mut(place..place + bytes.len())?.copy_from_slice(&bytes);
    Some(file)
}

/// How many pixels an inch of a page has across, as the file says.
pub fn resolution_ppi(file: &[u8], page: u32) -> Option<f64> {
    let at = pages(file)?.nth(page.checked_sub(1)? as usize)?;
    let header = Header::read(file).filter(|header| !header.is_big_tiff)?;
    // Two numbers of 32 bits, one over the other, somewhere else in the file.
    let place = usize::try_from(header.field(file, at, X_RESOLUTION, 4)?).ok()?;
    let over = header.number(file, place, 4)? as f64;
    let under = header.number(file, place.checked_add(4)?, 4)? as f64;
    match header.field(file, at, RESOLUTION_UNIT, 2) {
        None | Some(2) => Some(over / under),
        Some(3) => Some(from_centimetres(over / under)),
        Some(_) => None,
    }
}

/// Where each page's directory is in the file.
fn pages(file: &[u8]) -> Option<impl Iterator<Item = u64> + '_> {
    let header = Header::read(file)?;
    let first = header.number(file, header.first_page(), header.offset_bytes());
    let next = move |at: &u64| {
        let at = usize::try_from(*at).ok()?;
        let (count_bytes, entry_bytes) = header.directory_bytes();
        let entries = usize::try_from(header.number(file, at, count_bytes)?).ok()?;
        let after = at.checked_add(count_bytes)?.checked_add(entries.checked_mul(entry_bytes)?)?;
        header.number(file, after, header.offset_bytes()).filter(|next| *next != 0)
    };
    Some(std::iter::successors(first, next).take(PAGES_MAX as usize))
}

impl Header {
    fn read(file: &[u8]) -> Option<Self> {
        let is_little_endian = match file.get(..2)? {
            b"II" => true,
            b"MM" => false,
            _ => return None,
        };
        let header = Self { is_little_endian, is_big_tiff: false };
        match header.number(file, 2, 2)? {
            42 => Some(header),
            43 => Some(Self { is_big_tiff: true, ..header }),
            _ => None,
        }
    }

    fn first_page(self) -> usize {
        if self.is_big_tiff { 8 } else { 4 }
    }

    fn offset_bytes(self) -> usize {
        if self.is_big_tiff { 8 } else { 4 }
    }

    /// How many bytes the number of a directory's entries takes, and each of them.
    fn directory_bytes(self) -> (usize, usize) {
        if self.is_big_tiff { (8, 20) } else { (2, 12) }
    }

    /// The value of a field of a directory, of which it takes so many bytes.
    fn field(self, file: &[u8], directory: u64, wanted: u64, bytes: usize) -> Option<u64> {
        let directory = usize::try_from(directory).ok()?;
        let (count_bytes, entry_bytes) = self.directory_bytes();
        let entries = file.get(directory.checked_add(count_bytes)?..)?.chunks_exact(entry_bytes);
        let count = usize::try_from(self.number(file, directory, count_bytes)?).ok()?;
        let mut entries = entries.take(count);
        let entry = entries.find(|entry| self.number(entry, 0, 2) == Some(wanted))?;
        self.number(entry, entry_bytes - self.offset_bytes(), bytes)
    }

    fn number(self, file: &[u8], at: usize, bytes: usize) -> Option<u64> {
        let bytes = file.get(at..at.checked_add(bytes)?)?;
        let append = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_little_endian {
            bytes.iter().rev().fold(0, append)
        } else {
            bytes.iter().fold(0, append)
        })
    }
}
