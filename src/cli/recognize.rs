//! `img2text recognize FILE...`: the recogniser from the command line. The text goes to stdout,
//! everything about it to stderr, so that the text alone can be piped on.

use std::fmt;
use std::io::{IsTerminal, Write, stdout};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::{Failure, client, document};
use crate::grpc::proto::recognize_service_client::RecognizeServiceClient;
use crate::grpc::proto::{
    Buckets, ChargeState, DocumentHeader, OutputFormat, RecognizeOptions, RecognizeRequest,
    RecognizeResponse,
};

/// How often a picture is sent whose call got no answer. Sending it again is safe: its request id
/// stays the same.
const ATTEMPTS_MAX: u32 = 2;

/// Recognise the text in pictures.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pictures: PNG, JPEG, WebP, TIFF, BMP, GIF or PDF
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose account pays
    #[arg(long, value_name = "ID")]
    user: String,
    /// The languages of the text, most likely first, as in `eng+rus` [default: the server's]
    #[arg(long, value_name = "LANGUAGES", value_delimiter = '+')]
    lang: Vec<String>,
    /// Which page of each file, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    page: u32,
    /// Every page of each file, a form feed after each; each costs a request
    #[arg(long, conflicts_with_all = ["page", "format"])]
    all_pages: bool,
    /// These pages of each file, as in 3-7, a form feed after each; each costs a request
    #[arg(long, value_name = "FIRST-LAST", value_parser = page_range)]
    #[arg(conflicts_with_all = ["page", "format", "all_pages"])]
    pages: Option<RangeInclusive<u32>>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    server: client::Server,
}

/// What is printed of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The text alone
    Text,
    /// hOCR, an XHTML with the place of every word
    Hocr,
    /// ALTO, an XML with the place of every word
    Alto,
    /// A line per element, as Tesseract's TSV
    Tsv,
    /// A PDF that shows the picture and can be searched
    Pdf,
}

impl Format {
    fn requested(self) -> Vec<i32> {
        match self {
            Self::Text => Vec::new(),
            Self::Hocr => vec![OutputFormat::Hocr.into()],
            Self::Alto => vec![OutputFormat::Alto.into()],
            Self::Tsv => vec![OutputFormat::Tsv.into()],
            Self::Pdf => vec![OutputFormat::Pdf.into()],
        }
    }
}

impl Args {
    /// Whether whole documents are read, or parts of them, and not one page of each file.
    fn is_of_documents(&self) -> bool {
        self.all_pages || self.pages.is_some()
    }

    /// What to do with each document.
    fn header(&self) -> DocumentHeader {
        DocumentHeader {
            user_id: self.user.clone(),
            request_id: Some(Uuid::new_v4().to_string()),
            languages: self.lang.clone(),
            first_page: self.pages.as_ref().map(|pages| *pages.start()),
            last_page: self.pages.as_ref().map(|pages| *pages.end()),
            options: None,
        }
    }
}

fn page_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (1..=last).contains(&first).then_some(first..=last)
    });
    range.ok_or_else(|| "name the first page and the last, as in 3-7".into())
}

/// Recognises each picture; one that fails does not stop the others.
pub async fn run(args: Args) -> Result<()> {
    let mut client = RecognizeServiceClient::new(args.server.connect().await?)
        .max_decoding_message_size(usize::MAX);
    let several = args.files.len() > 1;
    // Of the pages of a document it has a bar of its own.
    let progress = progress(if args.is_of_documents() { 0 } else { args.files.len() });
    let (mut bill, mut failures) = (Bill::default(), Vec::new());
    for file in &args.files {
        progress.set_message(file.display().to_string());
        let pages_before = bill.pages;
        let outcome = match args.is_of_documents() {
            true => read_pages(&mut client, file, &args, &mut bill).await,
            false => read_page(&mut client, file, &args, &progress, &mut bill).await,
        };
        if let Err(error) = outcome {
            let failure = failure(file, error, &args.user, bill.pages > pages_before);
            if several {
                progress.suspend(|| eprintln!("img2text: {}", failure.message));
            }
            failures.push(failure);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    if bill.pages > 0 {
        eprintln!("{bill}");
    }
    let failed = failures.len();
    match failures.pop() {
        None => Ok(()),
        Some(only) if !several => Err(only.into()),
        Some(last) => {
            let message = format!("{failed} of {} files failed", args.files.len());
            Err(Failure { message, ..last }.into())
        }
    }
}

/// Reads one page of a file, and prints what was asked for of it.
async fn read_page(
    client: &mut RecognizeServiceClient<client::Connection>,
    file: &Path,
    args: &Args,
    progress: &ProgressBar,
    bill: &mut Bill,
) -> Result<()> {
    let response = recognize(client, file, args).await?;
    bill.add(&response);
    progress.suspend(|| {
        for warning in &response.warnings {
            eprintln!("img2text: {}: {warning}", file.display());
        }
        let several = args.files.len() > 1;
        match response.outputs.first() {
            Some(output) => print_bytes(&output.content),
            None => print_text(several.then_some(file), &response.text),
        }
    })
}

/// Reads the pages of a file that were asked for, and prints each. One that fails is told of at once
/// and does not stop the others.
async fn read_pages(
    client: &mut RecognizeServiceClient<client::Connection>,
    file: &Path,
    args: &Args,
    bill: &mut Bill,
) -> Result<()> {
    // How many pages there are is known with the first answer.
    let progress = progress(2);
    progress.set_message(file.display().to_string());
    document::recognize(client, file, args.header(), &progress, bill).await?;
    progress.finish_and_clear();
    Ok(())
}

/// Why a file was not read, and whether that has cost something.
fn failure(file: &Path, error: anyhow::Error, user: &str, some_pages_were_read: bool) -> Failure {
    let charge = match error.downcast_ref::<Status>() {
        Some(status) if some_pages_were_read || !is_of_the_server(status) => {
            format!(" (`img2text quota history {user}` shows what was charged)")
        }
        Some(_) => " (nothing was charged)".into(),
        None => String::new(),
    };
    let failure = Failure::from(error);
    Failure { message: format!("{}: {}{charge}", file.display(), failure.message), ..failure }
}

/// A bar where there is something to wait for and somebody to see it.
fn progress(files: usize) -> ProgressBar {
    if files < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}")
        .expect("the template is well-formed");
    ProgressBar::new(files as u64).with_style(style)
}

async fn recognize(
    client: &mut RecognizeServiceClient<client::Connection>,
    file: &Path,
    args: &Args,
) -> Result<RecognizeResponse> {
    let image = Bytes::from(std::fs::read(file).context("cannot be read")?);
    let header = DocumentHeader {
        first_page: Some(args.page),
        last_page: Some(args.page),
        options: Some(RecognizeOptions { formats: args.format.requested(), ..Default::default() }),
        ..args.header()
    };
    let request = RecognizeRequest {
        image: image.clone(),
        user_id: args.user.clone(),
        request_id: Some(Uuid::new_v4().to_string()),
        languages: args.lang.clone(),
        page: Some(args.page),
        ..Default::default()
    };
    let mut attempt = 1;
    loop {
        let answer = match args.format {
            Format::Text => client.recognize(request.clone()).await.map(Response::into_inner),
            _ => document::page(client, image.clone(), header.clone()).await,
        };
        match answer {
            Ok(response) => return Ok(response),
            Err(status) if answer_was_lost(&status) && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(status) => return Err(status.into()),
        }
    }
}

/// Whether the connection broke under the call, so that it may have run.
fn answer_was_lost(status: &Status) -> bool {
    !is_of_the_server(status) && matches!(status.code(), Code::Unavailable | Code::Unknown)
}

/// Whether the server made it, which puts details into every status. Otherwise it was made on the
/// way, and the call may have run.
fn is_of_the_server(status: &Status) -> bool {
    !status.details().is_empty()
}

fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

fn print_text(name: Option<&Path>, text: &str) -> Result<()> {
    let mut stdout = stdout().lock();
    if let Some(name) = name {
        writeln!(stdout, "==> {} <==", name.display())?;
    }
    write!(stdout, "{text}")?;
    if !text.is_empty() && !text.ends_with('\n') {
        writeln!(stdout)?;
    }
    Ok(stdout.flush()?)
}

/// What reading has cost so far, and what is left.
#[derive(Debug, Default)]
pub(super) struct Bill {
    /// Pages that were read.
    pages: u32,
    charged: u64,
    /// Pages of which the server does not know whether they were charged.
    in_doubt: u32,
    left: Option<Buckets>,
}

impl Bill {
    /// One more page was read.
    pub(super) fn add(&mut self, response: &RecognizeResponse) {
        self.pages += 1;
        let charge = response.charge.unwrap_or_default();
        match charge.state() {
            ChargeState::Confirmed => {
                let spent = charge.spent.unwrap_or_default();
                self.charged += spent.free + spent.plan + spent.extra;
            }
            ChargeState::Lapsed => {}
            ChargeState::Unconfirmed | ChargeState::Unspecified => self.in_doubt += 1,
        }
        // The account is not known where the charge is in doubt.
        let quota = response.quota.as_ref();
        self.left = quota.and_then(|quota| quota.available).or(self.left);
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "charged {}", self.charged)?;
        if self.in_doubt > 0 {
            write!(f, ", perhaps {} more: the store of accounts did not answer", self.in_doubt)?;
        }
        if let Some(left) = self.left {
            let (free, plan, extra) = (left.free, left.plan, left.extra);
            let total = free + plan + extra;
            write!(f, "; left: {total} (free {free}, plan {plan}, extra {extra})")?;
        }
        Ok(())
    }
}
