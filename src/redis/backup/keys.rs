//! Keys and what is in them, out of Redis and into it.

use std::vec::IntoIter;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand, Value};

use super::Error;
use super::file::{Content, Key, Text};
use crate::redis::durability::{ask, nodes};

const READ: &str = include_str!("scripts/read.lua");
const WRITE: &str = include_str!("scripts/write.lua");
/// How many keys are asked for at once.
const SCAN_COUNT: &str = "1000";

/// The keys that match a pattern, on every node. Whatever is there from beginning to end is found,
/// perhaps twice.
pub struct Scan<'a> {
    client: &'a Client,
    pattern: &'static str,
    nodes: IntoIter<Option<Server>>,
    current: Option<(Option<Server>, String)>,
}

impl<'a> Scan<'a> {
    /// Begins to look.
    pub fn new(client: &'a Client, pattern: &'static str) -> Result<Self, Error> {
        let nodes = nodes(client)?.into_iter();
        Ok(Self { client, pattern, nodes, current: None })
    }

    /// Some more keys, perhaps none; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, Error> {
        let (node, cursor) = match self.current.take() {
            Some(current) => current,
            None => match self.nodes.next() {
                Some(node) => (node, "0".to_string()),
                None => return Ok(None),
            },
        };
        let arguments = [&cursor, "MATCH", self.pattern, "COUNT", SCAN_COUNT].map(Value::from);
        let reply = ask(self.client, &node, "SCAN", arguments.into()).await?;
        let (cursor, keys): (String, Vec<String>) = reply.convert()?;
        if cursor != "0" {
            self.current = Some((node, cursor));
        }
        Ok(Some(keys))
    }
}

/// What must not change while keys are listed: which processes answer, and for which slots.
pub async fn shape(client: &Client) -> Result<Vec<String>, Error> {
    let mut shape = Vec::new();
    for node in nodes(client)? {
        let info: String = ask(client, &node, "INFO", vec!["server".into()]).await?.convert()?;
        shape.extend(info.lines().find(|line| line.starts_with("run_id:")).map(String::from));
        if client.is_clustered() {
            let slots = ask(client, &node, "CLUSTER", vec!["SLOTS".into()]).await?;
            shape.push(format!("{slots:?}"));
        }
    }
    Ok(shape)
}

/// Reads keys that are in one slot, at one instant; those that are not there are left out.
/// `names` are what they are called in the records.
pub async fn read(client: &Client, keys: &[String], names: &[&str]) -> Result<Vec<Key>, Error> {
    let replies: Vec<(String, i64, Value)> =
        evaluate(client, READ, keys, vec![]).await?.convert()?;
    let mut found = Vec::new();
    for ((kind, remaining_ms, words), (key, name)) in
        replies.into_iter().zip(keys.iter().zip(names))
    {
        if kind == "none" {
            continue;
        }
        let content = content(&kind, words)?
            .ok_or_else(|| Error::Unsupported { key: key.clone(), kind: kind.clone() })?;
        let remaining_ms = u64::try_from(remaining_ms).ok();
        found.push(Key { name: name.to_string(), remaining_ms, content });
    }
    Ok(found)
}

/// Whether a key is there.
pub async fn exists(client: &Client, key: &str) -> Result<bool, Error> {
    let command = CustomCommand::new_static("EXISTS", ClusterHash::FirstKey, false);
    Ok(client.custom::<i64, _>(command, vec![Value::from(key)]).await? == 1)
}

/// Whether keys were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They were.
    Yes,
    /// There was something already, and it was to be kept.
    Present,
}

/// Writes `records` in place of all of `keys`, which are in one slot, at one instant. With
/// `only_absent` nothing happens if any of them is there.
pub async fn write(
    client: &Client,
    keys: &[String],
    names: &[&str],
    records: &[Key],
    only_absent: bool,
) -> Result<Written, Error> {
    let mut arguments: Vec<Value> = vec![if only_absent { "absent" } else { "replace" }.into()];
    for record in records {
        let Some(position) = names.iter().position(|name| *name == record.name) else {
            let kind = "not one of a user's".to_string();
            return Err(Error::Unsupported { key: record.name.clone(), kind });
        };
        let (kind, words) = words(&record.content);
        arguments.push((position + 1).to_string().into());
        arguments.push(kind.into());
        let remaining_ms = record.remaining_ms.map(|ms| ms.max(1).to_string());
        arguments.push(remaining_ms.unwrap_or_default().into());
        arguments.push(words.len().to_string().into());
        arguments.extend(words.into_iter().map(|word| Value::Bytes(word.0.clone().into())));
    }
    let reply: String = evaluate(client, WRITE, keys, arguments).await?.convert()?;
    Ok(if reply == "PRESENT" { Written::Present } else { Written::Yes })
}

/// Deletes a key.
pub async fn delete(client: &Client, key: &str) -> Result<(), Error> {
    let command = CustomCommand::new_static("UNLINK", ClusterHash::FirstKey, false);
    let _: Value = client.custom(command, vec![Value::from(key)]).await?;
    Ok(())
}

async fn evaluate(
    client: &Client,
    script: &'static str,
    keys: &[String],
    arguments: Vec<Value>,
) -> Result<Value, Error> {
    // The slot must be said: by itself the client would hash the first argument, the script.
    let slot = ClusterHash::from(keys[0].as_str());
    let command = CustomCommand::new_static("EVAL", slot, false);
    let mut all: Vec<Value> = vec![script.into(), Value::Integer(keys.len() as i64)];
    all.extend(keys.iter().map(|key| Value::from(key.as_str())));
    all.extend(arguments);
    Ok(client.custom(command, all).await?)
}

fn content(kind: &str, words: Value) -> Result<Option<Content>, Error> {
    let words: Vec<Text> = words
        .into_array()
        .into_iter()
        .map(|word| Text(word.into_bytes().unwrap_or_default().to_vec()))
        .collect();
    let sorted = |mut words: Vec<Text>| {
        words.sort();
        words
    };
    Ok(Some(match kind {
        "string" => Content::String(words.into_iter().next().unwrap_or(Text(Vec::new()))),
        "hash" => {
            let mut fields = pairs(words);
            fields.sort();
            Content::Hash(fields)
        }
        "list" => Content::List(words),
        "set" => Content::Set(sorted(words)),
        "zset" => Content::Zset(
            pairs(words).into_iter().map(|(member, score)| (member, plain(score))).collect(),
        ),
        _ => return Ok(None),
    }))
}

fn pairs(words: Vec<Text>) -> Vec<(Text, Text)> {
    let mut words = words.into_iter();
    std::iter::from_fn(|| words.next().zip(words.next())).collect()
}

/// A score in the one way in which every server's looks the same.
fn plain(score: Text) -> Text {
    let number = std::str::from_utf8(&score.0).ok().and_then(|text| text.parse::<f64>().ok());
    number.map_or(score, |number| Text(number.to_string().into_bytes()))
}

/// The type of a content and the words that a command takes to write it.
fn words(content: &Content) -> (&'static str, Vec<&Text>) {
    match content {
        Content::String(text) => ("string", vec![text]),
        Content::Hash(fields) => {
            ("hash", fields.iter().flat_map(|(field, value)| [field, value]).collect())
        }
        Content::List(entries) => ("list", entries.iter().collect()),
        Content::Set(members) => ("set", members.iter().collect()),
        Content::Zset(members) => {
            ("zset", members.iter().flat_map(|(member, score)| [score, member]).collect())
        }
    }
}
