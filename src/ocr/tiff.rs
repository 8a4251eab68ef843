//! TIFF files of several pages. The decoder reads the first; so a file whose header points to
//! another page makes it read that one.

/// The most pages that are counted: a chain of them may be a circle.
const PAGES_MAX: u32 = 10_000;

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

/// Where each page's directory is in the file.
fn pages(file: &[u8]) -> Option<impl Iterator<Item = u64> + '_> {
    let header = Header::read(file)?;
    let first = header.number(file, header.first_page(), header.offset_bytes());
    let next = move |at: &u64| {
        let at = usize::try_from(*at).ok()?;
        let (count_bytes, entry_bytes) = if header.is_big_tiff { (8, 20) } else { (2, 12) };
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
