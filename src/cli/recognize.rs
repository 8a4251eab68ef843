//! `img2text recognize FILE...`: the recogniser from the command line. The text goes to stdout,
//! everything about it to stderr, so that the text alone can be piped on.

use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use uuid::Uuid;

use super::{Failure, client, document};
use crate::grpc::proto::recognize_service_client::RecognizeServiceClient;
use crate::grpc::proto::{
    ChargeState, OutputFormat, RecognizeOptions, RecognizeRequest, RecognizeResponse,
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

/// Recognises each picture; one that fails does not stop the others.
pub async fn run(args: Args) -> Result<()> {
    let mut client = RecognizeServiceClient::new(args.server.connect().await?)
        .max_decoding_message_size(usize::MAX);
    let several = args.files.len() > 1;
    let progress = progress(args.files.len());
    let mut last_failure = None;
    let mut failed = 0;
    let mut remaining = None;
    for file in &args.files {
        progress.set_message(file.display().to_string());
        if args.all_pages {
            match read_all(&mut client, file, &args).await {
                Ok(last) => remaining = last.as_ref().map(what_is_left).or(remaining),
                Err(error) => {
                    failed += 1;
                    last_failure = Some(Failure::from(error));
                }
            }
            progress.inc(1);
            continue;
        }
        match recognize(&mut client, file, &args).await {
            Ok(response) => {
                progress.suspend(|| match response.outputs.first() {
                    Some(output) => print_bytes(&output.content),
                    None => print_text(several.then_some(file), &response.text),
                })?;
                for warning in &response.warnings {
                    progress.suspend(|| eprintln!("img2text: {}: {warning}", file.display()));
                }
                remaining = Some(what_is_left(&response));
            }
            Err(error) => {
                let failure = Failure::from(error);
                progress.suspend(|| eprintln!("img2text: {}: {}", file.display(), failure.message));
                failed += 1;
                last_failure = Some(failure);
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    if let Some(remaining) = remaining {
        eprintln!("{remaining}");
    }
    match last_failure {
        None => Ok(()),
        Some(failure) if !several => {
            Err(Failure { message: "nothing was charged".into(), ..failure }.into())
        }
        Some(failure) => {
            let message = format!("{failed} of {} pictures failed", args.files.len());
            Err(Failure { message, ..failure }.into())
        }
    }
}

/// Reads every page of a file. A page that fails is told of at once and does not stop the others.
async fn read_all(
    client: &mut RecognizeServiceClient<client::Connection>,
    file: &Path,
    args: &Args,
) -> Result<Option<RecognizeResponse>> {
    // How many pages there are is known with the first answer.
    let pages = progress(2);
    pages.set_message(file.display().to_string());
    let (last, failure) = document::recognize(client, file, &args.user, &args.lang, &pages).await?;
    pages.finish_and_clear();
    match (failure, last) {
        (None, last) => Ok(last),
        (Some(status), last) => {
            if let Some(last) = &last {
                eprintln!("{}", what_is_left(last));
            }
            Err(status.into())
        }
    }
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
    let image = std::fs::read(file).context("cannot be read")?;
    let request = RecognizeRequest {
        image: image.into(),
        user_id: args.user.clone(),
        request_id: Some(Uuid::new_v4().to_string()),
        languages: args.lang.clone(),
        page: Some(args.page),
        options: Some(RecognizeOptions { formats: args.format.requested(), ..Default::default() }),
        ..Default::default()
    };
    let mut attempt = 1;
    loop {
        match client.recognize(request.clone()).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if answer_was_lost(&status) && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(status) => return Err(status.into()),
        }
    }
}

/// Whether the connection broke under the call, so that it may have run. A server that refuses
/// says so with details.
fn answer_was_lost(status: &tonic::Status) -> bool {
    status.details().is_empty()
        && matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown)
}

fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

fn print_text(name: Option<&PathBuf>, text: &str) -> Result<()> {
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

fn what_is_left(response: &RecognizeResponse) -> String {
    let charge = response.charge.unwrap_or_default();
    let spent = charge.spent.unwrap_or_default();
    let cost = match charge.state() {
        ChargeState::Confirmed => format!("charged {}", spent.free + spent.plan + spent.extra),
        ChargeState::Unconfirmed => "charged or not: the store of accounts did not answer".into(),
        ChargeState::Lapsed => "not charged".into(),
        ChargeState::Unspecified => "charge unknown".into(),
    };
    match response.quota.as_ref().and_then(|quota| quota.available) {
        Some(left) => format!(
            "{cost}; left: {} (free {}, plan {}, extra {})",
            left.free + left.plan + left.extra,
            left.free,
            left.plan,
            left.extra
        ),
        None => cost,
    }
}
