//! The child process: decodes and recognises one picture after another, until its input ends.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::engine::{self, Engine, EngineError};
use super::wire::{self, Hello, Job, Outcome};
use super::{Error, image};
use crate::config;

/// How many sets of languages a worker keeps warm; an engine takes 5 to 30 MB.
const ENGINES_MAX: usize = 4;

/// Works until the input ends. The settings are those of the server.
pub fn run(settings: &config::Ocr) -> io::Result<()> {
    let mut output = BufWriter::new(take_stdout()?);
    let mut input = BufReader::new(io::stdin().lock());
    limit(settings)?;
    let mut engines = Engines::new(settings);
    let default = settings.languages_default.join("+");
    let hello = match engines.get(&default) {
        Ok(engine) => Hello::Ready { languages: engine.languages(), tesseract: engine::version() },
        Err(error) => Hello::Broken(error.to_string()),
    };
    wire::write(&mut output, &hello)?;
    while let Some((job, picture)) = wire::read::<Job>(&mut input)? {
        let outcome = work(&mut engines, &job, picture, settings);
        wire::write(&mut output, &outcome)?;
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

fn work(engines: &mut Engines, job: &Job, picture: Vec<u8>, settings: &config::Ocr) -> Outcome {
    let deadline = Instant::now() + Duration::from_millis(job.time_ms);
    let image = match image::decode(&picture, settings) {
        Ok(image) => image,
        Err(Error::Undecodable(reason)) => return Outcome::Undecodable(reason),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    drop(picture);
    let engine = match engines.get(&job.languages) {
        Ok(engine) => engine,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Outcome::DeadlineExceeded;
    }
    match engine.recognize(&image, left) {
        Ok(page) => Outcome::Read(page),
        Err(EngineError::DeadlineExceeded) => Outcome::DeadlineExceeded,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// The warm engines, by their languages.
struct Engines<'a> {
    settings: &'a config::Ocr,
    /// With the number of the job that used each last.
    warm: HashMap<String, (u64, Engine)>,
    jobs: u64,
}

impl<'a> Engines<'a> {
    fn new(settings: &'a config::Ocr) -> Self {
        Self { settings, warm: HashMap::new(), jobs: 0 }
    }

    /// The engine for a set of languages, made if it is not warm; the one that was not used for
    /// longest makes room for it.
    fn get(&mut self, languages: &str) -> Result<&mut Engine, EngineError> {
        self.jobs += 1;
        if !self.warm.contains_key(languages) {
            if self.warm.len() >= ENGINES_MAX {
                let oldest = self.warm.iter().min_by_key(|(_, (job, _))| *job);
                if let Some(oldest) = oldest.map(|(languages, _)| languages.clone()) {
                    self.warm.remove(&oldest);
                }
            }
            let directory = &self.settings.tessdata_dir;
            let directory: Option<&Path> =
                if directory.as_os_str().is_empty() { None } else { Some(directory) };
            let engine = Engine::new(directory, languages)?;
            self.warm.insert(languages.to_string(), (self.jobs, engine));
        }
        let (job, engine) = self.warm.get_mut(languages).expect("made just now");
        *job = self.jobs;
        Ok(engine)
    }
}
