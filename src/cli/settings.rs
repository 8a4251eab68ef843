//! The settings of a server, as the command line, the environment and a file give them.

use std::path::PathBuf;

use anyhow::Result;

use super::Failure;
use crate::config::load::{self, Loaded};

/// Where the settings come from. Every setting can be set by its environment variable
/// (`IMG2TEXT_` and its name) and by `--set`; see `img2text config show`.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// A TOML file with settings
    #[arg(long, env = "IMG2TEXT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address and port to listen on [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The Redis to use, instead of a private one
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Where the private Redis keeps its data [default: img2text-data]
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<String>,
    /// Any other setting, as in `ocr.workers=2`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Settings {
    /// The settings in force.
    pub fn load(&self) -> Result<Loaded> {
        let named = [
            ("server.listen", &self.listen),
            ("redis.url", &self.redis_url),
            ("redis.data_dir", &self.data_dir),
        ];
        let mut flags = Vec::new();
        for text in &self.set {
            let (name, value) = text.split_once('=').ok_or_else(|| Failure {
                code: 2,
                message: format!("--set {text}: give a name and a value, as in ocr.workers=2"),
            })?;
            flags.push((name.to_string(), value.to_string()));
        }
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        flags.extend(named.map(|(name, value)| (name.to_string(), value)));
        let environment = std::env::vars_os();
        let environment = environment.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        load::load(self.config.as_deref(), environment, flags)
            .map_err(|error| Failure { code: 2, message: error.to_string() }.into())
    }
}
