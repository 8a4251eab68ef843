//! Reads the command line and hands over to [`img2text::cli`].

fn main() {}
