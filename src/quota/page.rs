//! Page tokens as AIP-158 wants them: opaque, and bound to the list that they are for.

use sha2::{Digest, Sha256};

use super::account::Error;

/// Some of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// For the next page; empty on the last.
    pub next_page_token: String,
}

/// How many bytes of a digest bind a token to its list. A check against mistakes, not attacks: a
/// token tells nothing that its bearer may not see anyway.
const BINDING_BYTES: usize = 4;

/// Makes and reads the tokens of one list: a user's, with certain filters.
pub(super) struct Tokens([u8; BINDING_BYTES]);

impl Tokens {
    /// The tokens of the list that these words describe.
    pub(super) fn of(list: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for word in list {
            digest.update((word.len() as u64).to_be_bytes());
            digest.update(word);
        }
        let mut binding = [0; BINDING_BYTES];
        binding.copy_from_slice(&digest.finalize()[..BINDING_BYTES]);
        Self(binding)
    }

    /// A token that leads on from `position`.
    pub(super) fn make(&self, position: &str) -> String {
        let bytes = self.0.iter().chain(position.as_bytes());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// The position that a token leads on from; none for the first page.
    pub(super) fn read(&self, token: &str) -> Result<Option<String>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = decode(token).ok_or(Error::InvalidPageToken)?;
        let position = bytes.strip_prefix(&self.0).ok_or(Error::InvalidPageToken)?;
        let position = String::from_utf8(position.to_vec());
        position.map(Some).map_err(|_| Error::InvalidPageToken)
    }
}

fn decode(token: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        token.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let tokens = Tokens::of(&["history", "42", ""]);
        let token = tokens.make("17");
        assert_eq!(tokens.read(&token).unwrap(), Some("17".into()));
        assert_eq!(tokens.read("").unwrap(), None);
        for other in [["history", "43", ""], ["holds", "42", ""], ["history", "4", "2"]] {
            assert!(Tokens::of(&other).read(&token).is_err(), "{other:?}");
        }
        for bad in ["x", "abc", "00", "zz00zz00", "äöüß"] {
            assert!(tokens.read(bad).is_err(), "{bad}");
        }
    }
}
