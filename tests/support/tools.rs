//! The clients and checkers from other houses, which `make tools` installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command of one of the tools, run from the project's root.
pub fn tool(name: &str) -> Command {
    let path: PathBuf = root().join("target/tools/bin").join(name);
    assert!(path.exists(), "no {}: run `make tools`", path.display());
    let mut command = Command::new(path);
    command.current_dir(root());
    command
}

/// What a command printed, which must have succeeded.
pub fn stdout(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
