//! What was read.

use serde::{Deserialize, Serialize};

/// One recognised page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The text, lines ended by line feeds; empty if there is none in the picture.
    pub text: String,
    /// The mean confidence of the words, 0 (none) to 100 (sure); 0 without words.
    pub mean_confidence: f32,
}
