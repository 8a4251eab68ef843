//! How a server and its workers talk: over the worker's standard input and output, in frames of a
//! JSON header and the bytes of a picture, each after its length (32 bits, little endian).

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::layout::Page;
use super::phases::PhaseTime;
use super::{Options, Violation};

/// The largest header that is read: the layout of a very dense page has some megabytes.
const HEADER_BYTES_MAX: u32 = 256 << 20;

/// What a worker says first.
#[derive(Debug, Serialize, Deserialize)]
pub enum Hello {
    /// It is ready.
    Ready {
        /// The languages that are installed.
        languages: Vec<String>,
        /// The version of Tesseract.
        tesseract: String,
        /// What this kernel could not do to shut the worker in.
        isolation_missing: Vec<String>,
    },
    /// It cannot work on this machine.
    Broken(String),
}

/// What a worker is to do; the file follows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// What to do with the file.
    pub task: Task,
    /// How long it may take, in milliseconds.
    pub time_ms: u64,
}

/// What can be done with a file.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// Count its pages.
    Count,
    /// Read one of them.
    Read(Options),
}

/// What came of a job.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// So many pages were counted.
    Counted(u32),
    /// It was read, in these steps.
    Read(Page, Vec<PhaseTime>),
    /// The file proved corrupt.
    Undecodable(String),
    /// Something in the request turned out to be wrong.
    Invalid(Violation),
    /// The formats that were asked for take so many bytes, which are too many.
    OutputsTooLarge(usize),
    /// The time was over.
    DeadlineExceeded,
    /// Tesseract failed.
    Failed(String),
}

/// Writes a frame, in a worker.
pub fn write(to: &mut impl Write, header: &impl Serialize) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    to.write_all(&length(&header)?)?;
    to.write_all(&0_u32.to_le_bytes())?;
    to.write_all(&header)?;
    to.flush()
}

/// Reads a frame and the picture after it, in a worker. Nothing at the end of the input.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut lengths = [0; 8];
    match from.read_exact(&mut lengths) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let (header_bytes, body_bytes) = split(lengths)?;
    let mut header = vec![0; header_bytes];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_bytes];
    from.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&header)?, body)))
}

/// Writes a frame and a picture after it, in the server.
pub async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    header: &impl Serialize,
    body: &Bytes,
) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    to.write_all(&length(&header)?).await?;
    to.write_all(&length(body)?).await?;
    to.write_all(&header).await?;
    to.write_all(body).await?;
    to.flush().await
}

/// Reads a frame, in the server.
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut lengths = [0; 8];
    from.read_exact(&mut lengths).await?;
    let (header_bytes, _) = split(lengths)?;
    let mut header = vec![0; header_bytes];
    from.read_exact(&mut header).await?;
    Ok(serde_json::from_slice(&header)?)
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok(length.to_le_bytes())
}

fn split(lengths: [u8; 8]) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = lengths;
    let (header, body) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if header > HEADER_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame"));
    }
    Ok((header as usize, body as usize))
}
