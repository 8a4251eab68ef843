//! What a worker did with a page, and when: measured where it happens, told with the answer.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A step from a file to its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// From the file to pixels.
    Decode,
    /// From pixels as sent to pixels that read well.
    Prepare,
    /// Finding the script and which way text runs.
    Orient,
    /// From pixels to text.
    Recognize,
    /// From text to the formats that were asked for.
    Write,
}

/// One of them as it happened. A page that is read a second time, turned, has some twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// When it began, after the job.
    pub begin: Duration,
    /// How long it took.
    pub duration: Duration,
}

impl PhaseTime {
    /// Its name in traces and metrics.
    pub fn name(&self) -> &'static str {
        match self.phase {
            Phase::Decode => "decode",
            Phase::Prepare => "prepare",
            Phase::Orient => "orient",
            Phase::Recognize => "recognize",
            Phase::Write => "write",
        }
    }
}

/// Measures the phases of a job.
pub(super) struct Phases {
    begun: Instant,
    times: Vec<PhaseTime>,
}

impl Phases {
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now(), times: Vec::new() }
    }

    /// Does a phase.
    pub(super) fn measure<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        let begin = begun - self.begun;
        self.times.push(PhaseTime { phase, begin, duration: begun.elapsed() });
        done
    }

    pub(super) fn times(self) -> Vec<PhaseTime> {
        self.times
    }
}
