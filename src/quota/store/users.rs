//! All users, and all of a user: listing, export, deletion, audit.

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand, Value};

use super::reply::{Reply, failure};
use super::{Keys, Script, Store, flag};
use crate::quota::account::{Error, UserId};
use crate::quota::audit::{Finding, audit};
use crate::quota::export::Stored;
use crate::quota::page::{Page, Tokens};

impl Store {
    /// Lists all users of whom there is an account, in no particular order: a page is about as
    /// large as asked for. Whoever is there from the first page to the last is listed, perhaps
    /// twice.
    pub async fn users(&self, page_size: usize, page_token: &str) -> Result<Page<UserId>, Error> {
        let tokens = Tokens::of(&["users"]);
        let nodes = self.nodes()?;
        let (mut node, mut cursor) = match tokens.read(page_token)? {
            Some(position) => find(&nodes, &position)?,
            None => (0, "0".to_string()),
        };
        let mut items = Vec::new();
        while node < nodes.len() && items.len() < page_size {
            cursor = self.scan(&nodes[node], &cursor, page_size, &mut items).await?;
            if cursor == "0" {
                node += 1;
            }
        }
        let next_page_token = match nodes.get(node) {
            Some(node) => tokens.make(&format!("{}|{cursor}", name(node))),
            None => String::new(),
        };
        Ok(Page { items, next_page_token })
    }

    /// Who holds keys: every primary of a Cluster, in the order of their addresses; otherwise the
    /// one Redis there is.
    fn nodes(&self) -> Result<Vec<Option<Server>>, Error> {
        let client = &self.shared.client;
        if !client.is_clustered() {
            return Ok(vec![None]);
        }
        let state = client.cached_cluster_state().map(|state| state.unique_primary_nodes());
        let mut nodes = state.unwrap_or_default();
        if nodes.is_empty() {
            let error = fred::error::Error::new(fred::error::ErrorKind::Cluster, "no node known");
            return Err(Error::Unavailable(error));
        }
        nodes.sort_by_key(ToString::to_string);
        Ok(nodes.into_iter().map(Some).collect())
    }

    async fn scan(
        &self,
        node: &Option<Server>,
        cursor: &str,
        count: usize,
        users: &mut Vec<UserId>,
    ) -> Result<String, Error> {
        let command = CustomCommand::new_static("SCAN", ClusterHash::Random, false);
        let pattern = format!("{}*", Keys::MAIN_PREFIX);
        let count = count.max(10).to_string();
        let arguments: Vec<Value> =
            [cursor, "MATCH", &pattern, "COUNT", &count].map(Value::from).into();
        let client: &Client = &self.shared.client;
        let reply = match node {
            Some(node) => client.with_cluster_node(node).custom(command, arguments).await,
            None => client.custom(command, arguments).await,
        };
        let mut reply = Reply::new(reply.map_err(failure)?)?;
        let cursor = reply.text()?;
        let keys = reply.list()?.texts()?;
        let ids = keys.iter().filter_map(|key| key.strip_prefix(Keys::MAIN_PREFIX));
        users.extend(ids.filter_map(|id| UserId::parse(id).ok()));
        Ok(cursor)
    }

    /// Reads everything that is kept about a user, as it is stored, and changes nothing.
    pub async fn export(&self, user: &UserId) -> Result<Stored, Error> {
        self.stored(user, true).await
    }

    async fn stored(&self, user: &UserId, everything: bool) -> Result<Stored, Error> {
        let mut reply = self.call(Script::Export, user, [flag(everything)]).await?;
        if reply.status()? != "OK" {
            return Err(Error::Internal("an export was refused".into()));
        }
        Stored::read(reply)
    }

    /// Deletes everything that is kept about a user and closes the id. True if that had been done
    /// before.
    pub async fn delete(&self, user: &UserId) -> Result<bool, Error> {
        let mut reply = self.call(Script::Delete, user, []).await?;
        match reply.status()?.as_str() {
            "OK" => Ok(false),
            "REPLAYED" => Ok(true),
            "NO_ACCOUNT" => Err(Error::NoAccount),
            other => Err(Error::Internal(format!("a deletion answered {other}"))),
        }
    }

    /// Checks that an account adds up; changes nothing. Nothing found: all is well.
    pub async fn audit(&self, user: &UserId) -> Result<Vec<Finding>, Error> {
        match self.stored(user, false).await {
            Ok(stored) => Ok(audit(&stored)),
            Err(Error::AccountCorrupt { what }) => Ok(vec![Finding::unreadable(&what)]),
            Err(error) => Err(error),
        }
    }
}

fn name(node: &Option<Server>) -> String {
    node.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The node and cursor of a token. A node that is gone by now is passed over: its keys are on
/// others.
fn find(nodes: &[Option<Server>], position: &str) -> Result<(usize, String), Error> {
    let (wanted, cursor) = position.rsplit_once('|').ok_or(Error::InvalidPageToken)?;
    cursor.parse::<u64>().map_err(|_| Error::InvalidPageToken)?;
    let index = nodes.iter().position(|node| name(node).as_str() >= wanted).unwrap_or(nodes.len());
    let same = nodes.get(index).is_some_and(|node| name(node) == wanted);
    Ok((index, if same { cursor.into() } else { "0".into() }))
}
