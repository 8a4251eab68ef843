//! The pages of a document, as `img2text recognize` reads them: with `--all-pages` and `--pages` many,
//! with `--format` one, as a format may be larger than one reply.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream;
use indicatif::ProgressBar;
use tonic::{Status, Streaming};
use tonic_types::pb;

use super::client::describe;
use super::recognize::Bill;
use super::{Failure, exit_code};
use crate::grpc::proto::recognize_document_request::Piece;
use crate::grpc::proto::recognize_document_response::Result as PageResult;
use crate::grpc::proto::recognize_service_client::RecognizeServiceClient;
use crate::grpc::proto::{
    DocumentHeader, Output, RecognizeDocumentRequest, RecognizeDocumentResponse, RecognizeResponse,
};

/// How much of the file one message carries.
const CHUNK_BYTES: usize = 256 << 10;

/// Sends a file; its pages come back.
async fn send(
    client: &mut RecognizeServiceClient<super::client::Connection>,
    file: Bytes,
    header: DocumentHeader,
) -> Result<Streaming<RecognizeDocumentResponse>, Status> {
    let chunks = (0..file.len())
        .step_by(CHUNK_BYTES)
        .map(move |start| Piece::Chunk(file.slice(start..file.len().min(start + CHUNK_BYTES))));
    let pieces = std::iter::once(Piece::Header(header)).chain(chunks);
    let pieces = pieces.map(|piece| RecognizeDocumentRequest { piece: Some(piece) });
    Ok(client.recognize_document(stream::iter(pieces)).await?.into_inner())
}

/// The only page that the header asks for, with its formats, however large they are.
pub(super) async fn page(
    client: &mut RecognizeServiceClient<super::client::Connection>,
    file: Bytes,
    header: DocumentHeader,
) -> Result<RecognizeResponse, Status> {
    let mut answers = send(client, file, header).await?;
    let (mut page, mut formats) = (RecognizeResponse::default(), BTreeMap::<i32, Vec<u8>>::new());
    while let Some(answer) = answers.message().await? {
        match answer.result {
            Some(PageResult::Recognized(recognized)) => page = recognized,
            Some(PageResult::Error(status)) => return Err(to_status(status)),
            Some(PageResult::Output(piece)) => {
                formats.entry(piece.format).or_default().extend(&piece.content);
            }
            None => {}
        }
    }
    let output = |(format, content): (i32, Vec<u8>)| Output { format, content: content.into() };
    page.outputs = formats.into_iter().map(output).collect();
    Ok(page)
}

/// Prints the text of each page as it comes, a form feed after each, and tells of each that fails.
pub(super) async fn recognize(
    client: &mut RecognizeServiceClient<super::client::Connection>,
    file: &Path,
    header: DocumentHeader,
    progress: &ProgressBar,
    bill: &mut Bill,
) -> Result<()> {
    let bytes = Bytes::from(std::fs::read(file).context("cannot be read")?);
    let mut answers = send(client, bytes, header).await?;
    let (mut pages, mut failed) = (0, Vec::new());
    while let Some(RecognizeDocumentResponse { page, page_count, result }) =
        answers.message().await?
    {
        progress.set_length(page_count.into());
        progress.set_position(page.into());
        let say = |what: &str| {
            progress.suspend(|| eprintln!("img2text: {}: page {page}: {what}", file.display()));
        };
        match result {
            Some(PageResult::Recognized(response)) => {
                response.warnings.iter().for_each(|warning| say(warning));
                bill.add(&response);
                pages += 1;
                progress.suspend(|| print(&response.text))?;
            }
            Some(PageResult::Error(status)) => {
                let status = to_status(status);
                say(&describe(&status));
                failed.push(status.code());
                pages += 1;
            }
            Some(PageResult::Output(_)) | None => {}
        }
    }
    match failed.first() {
        None => Ok(()),
        Some(first) => {
            let message = format!("{} of {pages} pages failed, and were not charged", failed.len());
            Err(Failure { code: exit_code(*first), message }.into())
        }
    }
}

fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{text}\u{c}")?;
    Ok(stdout.flush()?)
}

fn to_status(status: pb::Status) -> Status {
    use prost::Message;
    let details = status.encode_to_vec();
    Status::with_details(status.code.into(), status.message, details.into())
}
