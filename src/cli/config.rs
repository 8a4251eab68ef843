//! `img2text config show`: what is in force, and who said so.

use anyhow::Result;
use clap::Subcommand;

use super::settings::Settings;
use crate::config::load;

/// Look at the settings.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every setting, its value and where that came from
    Show {
        #[command(flatten)]
        settings: Settings,
    },
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let Command::Show { settings } = args.command;
    let mut section = "";
    let loaded = settings.load()?;
    for (name, (value, origin)) in &loaded.values {
        let (of, field) = name.split_once('.').unwrap_or(("", name));
        if of != section {
            println!("{}[{of}]", if section.is_empty() { "" } else { "\n" });
            section = of;
        }
        println!(
            "{:<50} # {origin}; {}",
            format!("{field} = {}", hide_secret(name, value)),
            load::variable(name)
        );
    }
    Ok(())
}

/// A URL may carry a password.
fn hide_secret(name: &str, value: &toml::Value) -> String {
    let text = value.to_string();
    if name != "redis.url" {
        return text;
    }
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}://***{}", &text[..start], &text[end..])
        }
        _ => text,
    }
}
