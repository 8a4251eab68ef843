//! What is shipped for Prometheus and Grafana is well-formed, and speaks only of metrics, labels and
//! sections that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use img2text::grpc::status::Reason;
use img2text::telemetry::metrics::{Kind, METRICS};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::picture;
use crate::support::server::{Server, recognize_request, signal, wait_until};
use crate::support::tools::{root, stdout, tool};

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const DASHBOARD: &str = "deploy/grafana/dashboards/img2text.json";

fn promtool(arguments: &[&str]) -> Output {
    tool("promtool").args(arguments).output().unwrap()
}

/// A file of YAML as JSON.
fn yaml(path: &str) -> Value {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = tool("python").args(["-c", script, path]).output().unwrap();
    serde_json::from_str(&stdout(output)).unwrap()
}

fn alerts() -> Vec<Value> {
    let groups = yaml(ALERTS);
    let groups = groups["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join(DASHBOARD)).unwrap()).unwrap()
}

/// The expressions of the dashboard, with what Grafana puts in the place of its variables.
fn dashboard_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let panels = targets.map(|target| target["expr"].as_str().unwrap());
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    let annotations = annotations.iter().map(|annotation| annotation["expr"].as_str().unwrap());
    panels
        .chain(annotations)
        .map(|expression| {
            let expression = expression.replace("$__rate_interval", "1m");
            let expression = expression.replace("$instance", ".*");
            assert!(!expression.contains('$'), "{expression}");
            expression
        })
        .collect()
}

fn all_expressions() -> Vec<String> {
    let alerts = alerts();
    let alerts = alerts.iter().map(|alert| alert["expr"].as_str().unwrap().to_string());
    alerts.chain(dashboard_expressions()).collect()
}

/// Our series in an expression, each with what stands in its braces.
fn series(expression: &str) -> Vec<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("img2text_") {
        if expression[..at].ends_with(is_part) {
            continue;
        }
        let rest = &expression[at..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let braces = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        found.push((name, braces.map_or("", |(inside, _)| inside)));
    }
    found
}

/// The metric that a series belongs to, if there is one.
fn metric(series: &str) -> Option<&'static str> {
    let &(name, ..) = METRICS.iter().find(|(name, kind, _)| match kind {
        Kind::Histogram => {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
        }
        Kind::Counter | Kind::Gauge => series == *name,
    })?;
    Some(name)
}

/// The labels that are compared in braces, each with its value.
fn matchers(braces: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = braces;
    while let Some((name, after)) = rest.split_once(['=', '!']) {
        let (_, after) = after.split_once('"').unwrap();
        let (value, after) = after.split_once('"').unwrap();
        found.push((name.trim_matches([',', ' ']), value));
        rest = after;
    }
    found
}

#[test]
fn prometheus_takes_its_configuration_and_the_rules() {
    let output = promtool(&["check", "config", "--lint-fatal", "deploy/prometheus/prometheus.yml"]);
    assert!(stdout(output).contains(&format!("{} rules found", alerts().len())));
    // The checker does notice what is wrong.
    let wrong = tempfile::NamedTempFile::new().unwrap();
    let text = fs::read_to_string(root().join(ALERTS)).unwrap();
    fs::write(&wrong, text.replace("rate(", "rat(")).unwrap();
    assert!(!promtool(&["check", "rules", wrong.path().to_str().unwrap()]).status.success());
}

/// Each on what it is about, and none when all is well.
#[test]
fn the_alerts_fire() {
    let tests = "tests/monitoring/alerts.yml";
    stdout(promtool(&["test", "rules", tests]));
    let tests = fs::read_to_string(root().join(tests)).unwrap();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(tests.contains(name), "nothing tries {name}");
    }
}

#[test]
fn the_expressions_of_the_dashboard_are_well_formed() {
    let expressions = dashboard_expressions();
    let rules = expressions.iter().enumerate().map(|(number, expression)| {
        json!({ "record": format!("dashboard:number:{number}"), "expr": expression })
    });
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    // JSON is YAML.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, rules.to_string()).unwrap();
    let checked = stdout(promtool(&["check", "rules", file.path().to_str().unwrap()]));
    assert!(checked.contains(&format!("{} rules found", expressions.len())), "{checked}");
}

#[test]
fn every_metric_in_an_expression_is_one_of_ours() {
    for expression in all_expressions() {
        for (series, _) in series(&expression) {
            assert!(metric(series).is_some(), "there is no {series}: {expression}");
        }
    }
    // A slip of the pen, and a histogram that is taken for a number, are noticed.
    for wrong in ["img2text_redis_upp", "img2text_redis_ping_seconds", "img2text_redis_up_sum"] {
        let expression = format!("sum(rate({wrong}{{a=\"b\"}}[5m]))");
        assert_eq!(series(&expression), [(wrong, "a=\"b\"")]);
        assert_eq!(metric(wrong), None);
    }
}

/// The labels of our metrics on a page, by metric.
fn labels(page: &str) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut labels: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines() {
        for (series, braces) in series(line) {
            let Some(metric) = metric(series).filter(|_| line.starts_with(series)) else {
                continue;
            };
            let names = matchers(braces).into_iter().map(|(name, _)| name.to_string());
            labels.entry(metric).or_default().extend(names);
        }
    }
    labels
}

/// After a bit of everything: the page of metrics has no blemish, and every label that an alert or
/// the dashboard looks at is on it.
#[tokio::test(flavor = "multi_thread")]
async fn every_label_in_an_expression_is_on_the_page() {
    let server =
        Server::with([("telemetry.http_listen", "127.0.0.1:0"), ("quota.near_limit_percent", "1")]);
    let mut client = server.recognize().await;
    for _ in 0..3 {
        client.recognize(recognize_request("42", picture::line("Count"))).await.unwrap();
    }
    let refused = client.recognize(recognize_request("42", picture::line("Count"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    // Noticed by whoever gets it next.
    for worker in server.children("worker") {
        signal(worker, Signal::KILL);
    }
    let _ = client.recognize(recognize_request("43", picture::line("Count"))).await;

    let mut page = String::new();
    wait_until("a lost worker is counted, and Redis was asked", || {
        page = server.http("/metrics").1;
        page.contains("img2text_ocr_worker_restarts_total{") && page.contains("img2text_redis_up 1")
    });
    let mut check = tool("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    stdout(check.wait_with_output().unwrap());

    let labels = labels(&page);
    // What Prometheus adds.
    let added = ["instance", "job", "le"];
    for expression in all_expressions() {
        let mut known = BTreeSet::new();
        for (series, braces) in series(&expression) {
            let metric = metric(series).unwrap();
            let found = labels.get(metric);
            for (label, value) in matchers(braces) {
                assert!(
                    added.contains(&label) || found.is_some_and(|found| found.contains(label)),
                    "{metric} has no {label}: {expression}"
                );
                if label == "reason" && metric == "img2text_rpc_failures_total" {
                    let reasons = Reason::ALL.iter().map(|reason| reason.name());
                    let reasons: BTreeSet<_> = reasons.collect();
                    assert!(value.split('|').all(|value| reasons.contains(value)), "{expression}");
                }
            }
            known.extend(found.into_iter().flatten().map(String::as_str));
        }
        for (_, rest) in expression.match_indices(" by (").map(|(at, by)| {
            let rest = &expression[at + by.len()..];
            (at, rest.split_once(')').unwrap().0)
        }) {
            for label in rest.split(',').map(str::trim) {
                let is_known = added.contains(&label) || known.contains(label);
                assert!(is_known, "there is no {label}: {expression}");
            }
        }
    }
}

#[test]
fn every_alert_names_its_section_in_the_operations_manual() {
    let manual = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let headings = manual.lines().filter_map(|line| line.strip_prefix("### "));
    let sections: BTreeSet<_> = headings.map(str::to_lowercase).collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let anchor = name.to_lowercase();
        assert!(sections.contains(&anchor), "no section on {name}");
        let runbook = alert["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(runbook, format!("docs/operations.md#{anchor}"));
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty());
    }
}

/// The dashboard finds its data, Grafana finds the dashboard, and no panel hides another.
#[test]
fn grafana_finds_everything() {
    let provisioning = "deploy/grafana/provisioning";
    let sources = yaml(&format!("{provisioning}/datasources/prometheus.yaml"));
    let uid = &sources["datasources"][0]["uid"];
    let compose = fs::read_to_string(root().join("deploy/compose.yaml")).unwrap();
    let providers = yaml(&format!("{provisioning}/dashboards/img2text.yaml"));
    let path = providers["providers"][0]["options"]["path"].as_str().unwrap();
    assert!(compose.contains(&format!("./grafana/dashboards:{path}:ro")));
    assert!(compose.contains("./grafana/provisioning:/etc/grafana/provisioning:ro"));
    assert!(compose.contains("\n  prometheus:\n"), "the host in {}", sources["datasources"][0]);

    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(&target["datasource"]["uid"], uid, "{}", panel["title"]);
        }
    }
}
