//! What the documents say is true: tables that can be derived from the code are compared with it.
//! `UPDATE_DOCUMENTS=1 cargo test the_documents` writes them anew.

use std::collections::BTreeMap;
use std::fs;

use img2text::config::load;
use img2text::grpc::status::Reason;
use img2text::telemetry::metrics::METRICS;

use crate::support::tools::root;

/// Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a document, or checks it.
fn check_or_update(document: &str, name: &str, expected: &str) {
    let path = root().join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) =
        text.split_once(&start).unwrap_or_else(|| panic!("no {start} in {document}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end} in {document}"));
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        fs::write(&path, format!("{before}{start}{expected}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(found, expected, "{document}: run UPDATE_DOCUMENTS=1 cargo test the_documents");
}

/// What the comments of `config` say of every setting, by its name.
fn meanings() -> BTreeMap<String, String> {
    let source = fs::read_to_string(root().join("src/config/mod.rs")).unwrap();
    let (mut section, mut comment) = (String::new(), String::new());
    let mut meanings = BTreeMap::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment = format!("{comment} {}", text.trim());
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            section = name.split([' ', '{']).next().unwrap().to_lowercase();
            comment.clear();
        } else if let Some((field, _)) =
            line.strip_prefix("pub ").and_then(|line| line.split_once(':'))
        {
            meanings.insert(format!("{section}.{field}"), comment.trim().to_string());
            comment.clear();
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    meanings
}

#[test]
fn the_table_of_settings_is_that_of_the_code() {
    let meanings = meanings();
    let loaded = load::load(None, [], []).unwrap();
    let mut table = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for (name, (value, _)) in &loaded.values {
        let meaning = meanings.get(name).unwrap_or_else(|| panic!("no comment on {name}"));
        let value = value.to_string().replace('\'', "\"");
        table.push_str(&format!("| `{name}` | `{value}` | {} |\n", meaning.replace('|', "\\|")));
    }
    check_or_update("README.md", "settings", &table);
}

#[test]
fn the_table_of_reasons_is_that_of_the_code() {
    let mut table = String::from("| reason | code | what to do |\n|---|---|---|\n");
    for reason in Reason::ALL {
        let (name, code, advice) = (reason.name(), reason.code(), reason.advice());
        // `InvalidArgument` is INVALID_ARGUMENT on the wire.
        let mut code = format!("{code:?}");
        for at in (1..code.len())
            .rev()
            .filter(|at| code.as_bytes()[*at].is_ascii_uppercase())
            .collect::<Vec<_>>()
        {
            code.insert(at, '_');
        }
        table.push_str(&format!("| `{name}` | `{}` | {advice} |\n", code.to_uppercase()));
    }
    check_or_update("docs/errors.md", "reasons", &table);
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let mut table = String::from("| metric | kind | meaning |\n|---|---|---|\n");
    for (name, kind, meaning) in METRICS {
        let kind = format!("{kind:?}").to_lowercase();
        table.push_str(&format!("| `{name}` | {kind} | {meaning} |\n"));
    }
    check_or_update("docs/metrics.md", "metrics", &table);
}
