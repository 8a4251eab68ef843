//! `img2text languages`: what the server can read.

use anyhow::Result;

use super::client;
use crate::grpc::proto::ListLanguagesRequest;
use crate::grpc::proto::recognize_service_client::RecognizeServiceClient;

/// List the languages that the server can read.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: client::Server,
}

/// Prints a language a line, those of the default marked.
pub async fn run(args: Args) -> Result<()> {
    let mut client = RecognizeServiceClient::new(args.server.connect().await?);
    let listed = client.list_languages(ListLanguagesRequest {}).await?.into_inner();
    for language in &listed.languages {
        let mark = if listed.default_languages.contains(language) { " (default)" } else { "" };
        println!("{language}{mark}");
    }
    Ok(())
}
