//! The promises of img2text, each tested with the real parts: a file per promise.

mod reservations;
mod support;
