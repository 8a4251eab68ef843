//! Documents: their upload, their pages, and the messages that the pages come back in.

use std::ops::RangeInclusive;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tonic::{Status, Streaming};

use super::fields::Fields;
use super::in_flight::Share;
use super::proto::recognize_document_request::Piece;
use super::proto::recognize_document_response::Result as Outcome;
use super::proto::{
    DocumentHeader, OutputChunk, RecognizeDocumentRequest, RecognizeDocumentResponse,
    RecognizeResponse,
};
use super::{call, page, recognize, status};
use crate::ocr::{Options, WhenFull};
use crate::quota::{RequestId, UserId};
use crate::recognition;

/// How much of a format one message carries.
const CHUNK_BYTES: usize = 1 << 20;

/// A document that has arrived.
pub(super) struct Upload {
    header: DocumentHeader,
    file: Bytes,
    share: Share,
}

/// Receives a document, up to its last byte.
pub(super) async fn receive(
    mut pieces: Streaming<RecognizeDocumentRequest>,
    bytes_max: usize,
) -> Result<Upload, Status> {
    let first = pieces.message().await?.and_then(|message| message.piece);
    let Some(Piece::Header(header)) = first else {
        return Err(wrong("header", "must be the first message"));
    };
    let (mut file, mut share) = (BytesMut::new(), call::message_share());
    while let Some(message) = pieces.message().await? {
        let Some(Piece::Chunk(chunk)) = message.piece else {
            return Err(wrong("chunk", "must be in every message after the first"));
        };
        if file.len() + chunk.len() > bytes_max {
            return Err(wrong("chunk", format!("makes more than the {bytes_max} bytes allowed")));
        }
        file.extend_from_slice(&chunk);
        share.join(call::message_share(), chunk.len());
    }
    Ok(Upload { header, file: file.freeze(), share })
}

fn wrong(field: &str, description: impl Into<String>) -> Status {
    let mut fields = Fields::default();
    fields.wrong::<()>(field, description);
    fields.refusal()
}

/// A document whose request is sound.
pub(super) struct Document {
    user: UserId,
    request_id: Option<RequestId>,
    file: Bytes,
    options: Options,
    first_page: u32,
    last_page: Option<u32>,
    deadline: Instant,
    /// The file counts among the bytes in flight until its last page is done.
    _share: Share,
}

impl Document {
    pub(super) fn new(
        upload: Upload,
        deadline: Option<Instant>,
        service: &recognize::Service,
    ) -> Result<Self, Status> {
        let Upload { header, file, share } = upload;
        let mut fields = Fields::default();
        let user = fields.user(header.user_id);
        // A page's own id is this one and its number; the longest is tried.
        let request_id = header
            .request_id
            .map(|id| RequestId::parse(format!("{id}:{}", u32::MAX)).and(RequestId::parse(id)));
        let request_id = fields.id("header.request_id", request_id.transpose());
        let options =
            page::options(header.options, header.languages, 1, "header.options", &mut fields);
        let (Some(user), Some(request_id), Some(options)) = (user, request_id, options) else {
            return Err(fields.refusal());
        };
        Ok(Self {
            user,
            request_id,
            file,
            options,
            first_page: header.first_page.unwrap_or(1),
            last_page: header.last_page,
            // Without a limit of the caller's the whole may take as long as its pages do.
            deadline: deadline.unwrap_or_else(|| Instant::now() + service.document_time_max()),
            _share: share,
        })
    }

    /// The pages that were asked for, of so many; at most `pages_max`.
    pub(super) fn pages(&self, count: u32, pages_max: u32) -> Result<RangeInclusive<u32>, Status> {
        let last = self.last_page.unwrap_or(count);
        if self.first_page < 1 || self.first_page > count {
            let description = format!("must be 1 to {count}: so many pages has the document");
            return Err(wrong("header.first_page", description));
        }
        if last < self.first_page || last > count {
            let description = format!("must be {} to {count}", self.first_page);
            return Err(wrong("header.last_page", description));
        }
        if last - self.first_page >= pages_max {
            let description = format!(
                "makes {} pages; one call may ask for {pages_max}: ask for a document of {count} in \
                 parts, by their first and last page",
                last - self.first_page + 1,
            );
            return Err(wrong("header.last_page", description));
        }
        Ok(self.first_page..=last)
    }

    /// The request for one page.
    pub(super) fn page(&self, number: u32) -> recognition::Request {
        let id = self.request_id.as_ref();
        let id = id.and_then(|id| RequestId::parse(format!("{id}:{number}")).ok());
        recognition::Request {
            user: self.user.clone(),
            request_id: id,
            image: self.file.clone(),
            options: Options { page: number, ..self.options.clone() },
            deadline: self.deadline,
            when_full: WhenFull::Wait,
        }
    }
}

/// What became of a page, as messages: the formats after the page, in pieces.
pub(super) fn messages(
    page: u32,
    page_count: u32,
    recognized: Result<RecognizeResponse, Status>,
) -> Vec<RecognizeDocumentResponse> {
    let message = |result| RecognizeDocumentResponse { page, page_count, result: Some(result) };
    let mut response = match recognized {
        Ok(response) => response,
        Err(status) => return vec![message(Outcome::Error(status::to_message(status)))],
    };
    let mut chunks = Vec::new();
    for output in &mut response.outputs {
        let mut content = std::mem::take(&mut output.content);
        loop {
            let piece = content.split_to(content.len().min(CHUNK_BYTES));
            let last = content.is_empty();
            let chunk = OutputChunk { format: output.format, content: piece, last };
            chunks.push(message(Outcome::Output(chunk)));
            if last {
                break;
            }
        }
    }
    let mut messages = vec![message(Outcome::Recognized(response))];
    messages.append(&mut chunks);
    messages
}
