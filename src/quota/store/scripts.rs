//! The texts of the scripts: settings, clock and prelude before each.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fred::types::Value;

use crate::config;
use crate::quota::catalog::{Catalog, Period};

/// Whose time the scripts go by.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Redis's, so that all servers agree.
    Redis,
    /// The caller's, in Unix milliseconds.
    Given(Arc<AtomicU64>),
}

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        /// The steps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Script { $($name),* }

        impl Script {
            /// Its name, that of its file.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => $file),* }
            }
        }

        const SCRIPTS: &[(Script, &str)] =
            &[$((Script::$name, include_str!(concat!("../scripts/", $file, ".lua")))),*];
    };
}

scripts! {
    Get = "get",
    Reserve = "reserve",
    Commit = "commit",
    Release = "release",
    Extend = "extend",
    Holds = "holds",
    Purchase = "purchase",
    Cancel = "cancel",
    History = "history",
    Usage = "usage",
    Export = "export",
    Delete = "delete",
    StatisticsAdd = "statistics_add",
    StatisticsGet = "statistics_get",
}

/// All scripts, with their settings.
pub(super) struct Scripts {
    scripts: HashMap<Script, fred::types::scripts::Script>,
    clock: Clock,
}

impl Scripts {
    pub(super) fn new(catalog: &Catalog, settings: &config::Quota, clock: Clock) -> Self {
        let clock_text = match clock {
            Clock::Redis => include_str!("../scripts/clock_redis.lua"),
            Clock::Given(_) => include_str!("../scripts/clock_given.lua"),
        };
        let prelude =
            [&header(catalog, settings), clock_text, include_str!("../scripts/prelude.lua")]
                .concat();
        let complete = |(name, text): &(Script, &str)| {
            let before = match name {
                // They touch no account.
                Script::StatisticsAdd | Script::StatisticsGet => "",
                _ => prelude.as_str(),
            };
            (*name, fred::types::scripts::Script::from_lua([before, *text].concat()))
        };
        Self { scripts: SCRIPTS.iter().map(complete).collect(), clock }
    }

    pub(super) fn get(&self, script: Script) -> Ready<'_> {
        Ready(&self.scripts[&script])
    }

    /// The time, if it is the caller's to tell.
    pub(super) fn clock_argument(&self) -> Option<Value> {
        match &self.clock {
            Clock::Redis => None,
            Clock::Given(time_ms) => Some(time_ms.load(Ordering::SeqCst).to_string().into()),
        }
    }
}

/// A script that can be sent.
pub(super) struct Ready<'a>(&'a fred::types::scripts::Script);

impl Ready<'_> {
    pub(super) fn sha1(&self) -> Value {
        Value::String(self.0.sha1().clone())
    }

    pub(super) fn lua(&self) -> Value {
        Value::String(self.0.lua().expect("made from its text").clone())
    }
}

/// Settings and catalog as Lua constants. They are part of the text, so that no call carries or
/// parses them; a server with other settings has other scripts.
fn header(catalog: &Catalog, settings: &config::Quota) -> String {
    let config::Quota {
        holds_open_max,
        settled_reservation_ttl_ms,
        settled_reservations_max,
        history_entries_max,
        payments_max,
        answer_ttl_ms,
        answers_bytes_max,
        ..
    } = settings;
    let order = catalog.spend_order.map(|bucket| format!("'{}'", bucket.as_str())).join(", ");
    let mut plans = String::new();
    for (name, plan) in &catalog.plans {
        // The catalog has checked that no name needs escaping.
        write!(plans, "['{name}'] = {}, ", plan.quota).expect("a string takes everything");
    }
    format!(
        "local SPEND_ORDER = {{{order}}}\n\
         local FREE_ALLOWANCE, FREE_MONTHLY = {}, {}\n\
         local PLANS = {{{plans}}}\n\
         local HOLDS_OPEN_MAX, SETTLED_TTL_MS = {holds_open_max}, {}\n\
         local SETTLED_MAX = {settled_reservations_max}\n\
         local HISTORY_ENTRIES_MAX, PAYMENTS_MAX = {history_entries_max}, {payments_max}\n\
         local ANSWER_TTL_MS, ANSWERS_BYTES_MAX = {}, {answers_bytes_max}\n",
        catalog.free.allowance,
        catalog.free.period == Period::Monthly,
        // A length of time by which the scripts divide.
        settled_reservation_ttl_ms.max(&1),
        answer_ttl_ms.max(&1),
    )
}
