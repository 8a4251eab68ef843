//! The child process: decodes and recognises one picture after another, until its input ends.

use std::io::{self, BufReader, BufWriter};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::engine;
use super::recognizer::Recognizer;
use super::sandbox;
use super::wire::{self, Hello, Job};
use crate::config;

/// Works until the input ends. The settings are those of the server.
pub fn run(settings: &config::Ocr) -> io::Result<()> {
    let mut output = BufWriter::new(take_stdout()?);
    let mut input = BufReader::new(io::stdin().lock());
    limit(settings)?;
    let mut recognizer = Recognizer::new(settings);
    let hello = match recognizer.warm_up() {
        Ok((languages, data)) => Hello::Ready {
            languages,
            tesseract: engine::version(),
            isolation_missing: if settings.worker_isolation {
                sandbox::enter(&data)
            } else {
                vec!["ocr.worker_isolation is off".into()]
            },
        },
        Err(error) => Hello::Broken(error.to_string()),
    };
    wire::write(&mut output, &hello)?;
    while let Some((job, file)) = wire::read::<Job>(&mut input)? {
        wire::write(&mut output, &recognizer.work(&job, file))?;
    }
    Ok(())
}

/// Keeps standard output for the frames alone: whatever a library prints goes to standard error.
fn take_stdout() -> io::Result<std::fs::File> {
    let output = rustix::io::dup(rustix::stdio::stdout())?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(output.into())
}

fn limit(settings: &config::Ocr) -> io::Result<()> {
    let only = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::As, only(settings.worker_memory_bytes_max))?;
    // A crash must not leave somebody's picture on the disk.
    setrlimit(Resource::Core, only(0))?;
    Ok(())
}
