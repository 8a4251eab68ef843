//! Generates the Rust side of the contract in `proto/`, without a `protoc` binary.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 3] =
    ["img2text/v1/quota.proto", "img2text/v1/recognize.proto", "img2text/v1/storage.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;

    // Reflection serves the descriptors as they are here, comments and imports included.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        // `Bytes` shares the received buffer; `Vec<u8>` would copy every image once more.
        .bytes(".img2text.v1")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
