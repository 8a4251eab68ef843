//! The plan catalog: what a month of each plan holds, and what everybody gets for nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::account::AMOUNT_MAX;

/// What is sold: the plans, the free allowance, and the order in which requests are spent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// In which order a reservation takes requests: each bucket once.
    pub spend_order: [Bucket; 3],
    /// What everybody gets for nothing.
    pub free: Free,
    /// Every plan by its name.
    pub plans: BTreeMap<String, Plan>,
}

/// One of the three kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bucket {
    /// The free allowance.
    Free,
    /// The plan's month.
    Plan,
    /// Bought one by one.
    Extra,
}

impl Bucket {
    /// The name as in the catalog and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Plan => "plan",
            Self::Extra => "extra",
        }
    }
}

/// What everybody gets for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Free {
    /// How many requests.
    pub allowance: u64,
    /// For how long they are meant.
    pub period: Period,
}

/// How often the free allowance comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// Once for ever.
    Lifetime,
    /// With every month, UTC.
    Monthly,
}

/// A plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How many requests a month of it holds.
    pub quota: u64,
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCatalog {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not the TOML that is expected.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// It says something that makes no sense.
    #[error("{0}")]
    Senseless(String),
}

impl Catalog {
    /// The catalog that is used unless another one is configured: `deploy/plans.toml`.
    pub fn built_in() -> Self {
        Self::parse(include_str!("../../deploy/plans.toml")).expect("the built-in catalog is valid")
    }

    /// Reads the catalog from a file; an empty path means the built-in one.
    pub fn load(path: &Path) -> Result<Self, InvalidCatalog> {
        if path.as_os_str().is_empty() {
            return Ok(Self::built_in());
        }
        let text = std::fs::read_to_string(path)
            .map_err(|source| InvalidCatalog::Unreadable { path: path.into(), source })?;
        Self::parse(&text)
    }

    /// Reads the catalog from TOML.
    pub fn parse(text: &str) -> Result<Self, InvalidCatalog> {
        let catalog: Self = toml::from_str(text)?;
        catalog.check().map_err(InvalidCatalog::Senseless)?;
        Ok(catalog)
    }

    fn check(&self) -> Result<(), String> {
        let mut order = self.spend_order;
        order.sort();
        if order != [Bucket::Free, Bucket::Plan, Bucket::Extra] {
            return Err("spend_order must name free, plan and extra once each".into());
        }
        if self.free.allowance > AMOUNT_MAX {
            return Err(format!("free.allowance must be at most {AMOUNT_MAX}"));
        }
        for (name, plan) in &self.plans {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) || name == "none" {
                return Err(format!(
                    "plan {name:?}: a name is 1 to 64 characters of A-Z a-z 0-9 . _ -, not `none`"
                ));
            }
            if !(1..=AMOUNT_MAX).contains(&plan.quota) {
                return Err(format!("plan {name:?}: quota must be 1 to {AMOUNT_MAX}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_is_that_of_the_old_system() {
        let catalog = Catalog::built_in();
        let quotas: Vec<_> = catalog.plans.values().map(|plan| plan.quota).collect();
        assert_eq!(catalog.plans["250"], Plan { quota: 250 });
        assert_eq!(quotas.iter().sum::<u64>(), 10 + 30 + 100 + 250 + 500 + 1000);
        assert_eq!(catalog.free, Free { allowance: 3, period: Period::Lifetime });
        assert_eq!(catalog.spend_order, [Bucket::Free, Bucket::Plan, Bucket::Extra]);
    }

    #[test]
    fn a_senseless_catalog_is_refused_with_the_reason() {
        let edit = |from: &str, to: &str| {
            let text = include_str!("../../deploy/plans.toml").replacen(from, to, 1);
            Catalog::parse(&text).expect_err(to).to_string()
        };
        assert!(edit(r#""plan", "extra"]"#, r#""plan", "plan"]"#).contains("spend_order"));
        assert!(edit("quota = 10 ", "quota = 0 ").contains("quota must be 1"));
        assert!(edit("10 = {", "none = {").contains("not `none`"));
        assert!(edit("10 = {", "\"1}0\" = {").contains("a name is"));
        assert!(edit("quota = 10 ", "price = 10 ").contains("price"));
        assert!(edit("allowance = 3", "allowance = 3000000").contains("allowance"));
    }
}
