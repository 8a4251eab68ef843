//! The promises of img2text, each tested with the real parts: a file per promise.

mod history;
mod purchases;
mod reservations;
mod support;
