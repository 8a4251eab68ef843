//! What is odd about an account as another system, or somebody's hand, wrote it.

use std::collections::BTreeMap;

use super::catalog::Catalog;

/// As many digits as the scripts take; all numbers of that size are exact.
const DIGITS_MAX: usize = 15;
/// The latest time that the scripts take for one: the year 2286.
const SECONDS_MAX: i64 = 9_999_999_999;

/// Looks at the fields of a user's main hash. Each oddity says what will be made of it; nothing
/// said: all is as the old system documented it.
pub fn oddities(fields: &BTreeMap<String, String>, catalog: &Catalog) -> Vec<String> {
    let mut odd = Vec::new();
    for name in ["plan_remaining", "extra_remaining", "free_used"] {
        match fields.get(name).map(|text| (text, number(text))) {
            Some((text, None)) => odd.push(format!(
                "{name} is {text:?}, not a number: the account is refused as ACCOUNT_CORRUPT until \
                 it is mended"
            )),
            Some((_, Some(found))) if found < 0 && name == "free_used" => odd.push(format!(
                "free_used is {found}: counts as {} free requests above the allowance",
                found.unsigned_abs()
            )),
            Some((_, Some(found))) if found < 0 => {
                odd.push(format!("{name} is {found}: counts as 0"));
            }
            _ => {}
        }
    }
    match fields.get("next_reset_ts").map(|text| (text, number(text))) {
        Some((text, None)) => odd.push(format!(
            "next_reset_ts is {text:?}, not a time: becomes the start of the next month, without a \
             refresh"
        )),
        Some((_, Some(found))) if found > SECONDS_MAX => odd.push(format!(
            "next_reset_ts is {found}, which looks like milliseconds: becomes the start of the next \
             month, without a refresh"
        )),
        _ => {}
    }
    let plan = fields.get("plan").map_or("none", String::as_str);
    let has_remainder = fields.get("plan_remaining").and_then(|text| number(text)) > Some(0);
    if plan == "none" && has_remainder {
        odd.push("plan_remaining without a plan: can be spent, is not refreshed".into());
    } else if plan != "none" && !catalog.plans.contains_key(plan) {
        odd.push(format!(
            "plan is {plan:?}, which the catalog does not have: what is left of it can be spent, \
             but is not refreshed"
        ));
    }
    const KNOWN: [&str; 5] =
        ["plan", "plan_remaining", "extra_remaining", "free_used", "next_reset_ts"];
    let unknown = fields.keys().filter(|name| !KNOWN.contains(&name.as_str()));
    odd.extend(unknown.map(|name| format!("the field {name:?} is nobody's: it stays, unread")));
    odd
}

/// A number as the scripts read it.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && text.len() <= DIGITS_MAX { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd(pairs: &[(&str, &str)]) -> Vec<String> {
        let fields = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        oddities(&fields.collect(), &Catalog::built_in())
    }

    #[test]
    fn what_the_old_system_wrote_is_not_odd() {
        assert_eq!(odd(&[]), [""; 0]);
        let whole = [
            ("plan", "30"),
            ("plan_remaining", "12"),
            ("extra_remaining", "0"),
            ("free_used", "3"),
            ("next_reset_ts", "1756684800"),
        ];
        assert_eq!(odd(&whole), [""; 0]);
        assert_eq!(odd(&[("plan", "none"), ("plan_remaining", "0")]), [""; 0]);
    }

    #[test]
    fn each_oddity_is_told_by_its_field() {
        for (name, value, says) in [
            ("extra_remaining", "-2", "counts as 0"),
            ("free_used", "-2", "2 free requests above"),
            ("plan_remaining", "many", "ACCOUNT_CORRUPT"),
            ("plan_remaining", "", "ACCOUNT_CORRUPT"),
            ("free_used", "1.5", "ACCOUNT_CORRUPT"),
            ("extra_remaining", "1234567890123456", "ACCOUNT_CORRUPT"),
            ("next_reset_ts", "soon", "next month"),
            ("next_reset_ts", "1756684800000", "milliseconds"),
            ("plan", "gold", "catalog"),
            ("plan_remaining", "5", "without a plan"),
            ("balance", "5", "unread"),
        ] {
            let found = odd(&[(name, value)]);
            assert_eq!(found.len(), 1, "{name} = {value}: {found:?}");
            assert!(found[0].contains(says) && found[0].contains(name), "{found:?}");
        }
    }
}
