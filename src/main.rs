//! Reads the command line and hands over to [`img2text::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    img2text::cli::main()
}
