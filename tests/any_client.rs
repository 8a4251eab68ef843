//! Clients from other houses, and our own, get their work done.

use std::io::Write;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::picture;
use crate::support::server::{Server, signal};
use crate::support::tools::{root, stdout, tool};

#[test]
fn the_contract_passes_buf_lint() {
    stdout(tool("buf").args(["lint", "proto"]).output().unwrap());
}

#[test]
fn grpcurl_finds_its_way_by_reflection() {
    let server = Server::start();
    let grpcurl = |arguments: &[&str]| {
        stdout(tool("grpcurl").arg("-plaintext").args(arguments).output().unwrap())
    };
    let services = grpcurl(&[server.address(), "list"]);
    for service in [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "img2text.v1.QuotaService",
        "img2text.v1.RecognizeService",
    ] {
        assert!(services.lines().any(|line| line == service), "no {service} in:\n{services}");
    }
    let health = grpcurl(&[server.address(), "grpc.health.v1.Health/Check"]);
    assert_eq!(serde_json::from_str::<Value>(&health).unwrap(), json!({"status": "SERVING"}));
    let described = grpcurl(&[server.address(), "describe", "img2text.v1.RecognizeRequest"]);
    assert!(described.contains("bytes image = 1"), "{described}");
}

#[test]
fn grpcurl_recognises_and_reads_the_account() {
    let server = Server::start();
    let image = base64(&picture::line("Over the wire"));
    let request = json!({"user_id": "42", "languages": ["eng"], "image": image}).to_string();
    let mut child = tool("grpcurl")
        .args(["-plaintext", "-d", "@", server.address()])
        .arg("img2text.v1.RecognizeService/Recognize")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let response: Value = serde_json::from_str(&stdout(child.wait_with_output().unwrap())).unwrap();
    assert_eq!(response["text"].as_str().unwrap().trim(), "Over the wire");
    assert_eq!(response["charge"]["state"], "CHARGE_STATE_CONFIRMED");

    let account = tool("grpcurl")
        .args(["-plaintext", "-d", r#"{"user_id": "42"}"#, server.address()])
        .arg("img2text.v1.QuotaService/GetQuota")
        .output()
        .unwrap();
    let account: Value = serde_json::from_str(&stdout(account)).unwrap();
    assert_eq!(account["quota"]["available"]["free"], "2");
    assert_eq!(account["quota"]["spent"]["free"], "1");
}

/// Python's grpcio, with stubs made from the contract.
#[test]
fn python_walks_through_the_main_job() {
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), picture::line("Read by Python")).unwrap();
    let output = tool("python")
        .arg(root().join("tests/clients/python_client.py"))
        .arg(root().join("proto"))
        .arg(server.address())
        .arg(file.path())
        .output()
        .unwrap();
    let seen: Value = serde_json::from_str(&stdout(output)).unwrap();
    let expected = json!({
        "text": seen["text"],
        "charge": "CHARGE_STATE_CONFIRMED",
        "left": 2,
        "held": 1,
        "spent": 2,
        "refusal": "RESOURCE_EXHAUSTED",
    });
    assert_eq!(seen["text"].as_str().unwrap().trim(), "Read by Python");
    assert_eq!(seen, expected);
}

#[test]
fn the_command_line_recognises_and_tells_what_is_left() {
    let server = Server::start();
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let good = file("good.png", &picture::line("From the shell"));
    let bad = file("bad.png", b"not a picture");
    let recognize = |files: &[&str]| {
        let mut arguments = vec!["recognize", "--user", "42", "--lang", "eng"];
        arguments.extend(files);
        server.command(arguments)
    };

    let output = recognize(&[&good]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "From the shell");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("left: 2"), "{stderr}");
    assert_eq!(output.status.code(), Some(0));

    // Refused: exit code 3, and one that fails does not stop the others.
    assert_eq!(recognize(&[&bad]).status.code(), Some(3));
    let output = recognize(&[&bad, &good]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("From the shell"));

    let output = server.command(["quota", "get", "42", "--json"]);
    let account: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(account["available"]["free"], 1);

    // No quota left: exit code 4.
    assert_eq!(recognize(&[&good]).status.code(), Some(0));
    assert_eq!(recognize(&[&good]).status.code(), Some(4));
    // No server: exit code 5. Nothing listens on the discard port.
    let nowhere = ["quota", "get", "42", "--server", "http://127.0.0.1:9"];
    assert_eq!(server.command(nowhere).status.code(), Some(5));
    // A wrong command line: exit code 2.
    assert_eq!(server.command(["recognize"]).status.code(), Some(2));
}

/// Whoever reads a failure learns whether it has cost something.
#[test]
fn the_command_line_says_of_a_failure_what_was_charged() {
    let server = Server::start();
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let picture = file("picture.png", &picture::line("A picture"));
    let torn = file("torn.png", &picture::line("A picture")[..200]);
    let pages = ["one", "two", "three", "four"].map(|word| picture::text(&[word], 60));
    let document = file("document.tiff", &picture::tiff(&pages));
    let fails = |arguments: &[&str]| {
        let all = [&["recognize", "--user", "42", "--lang", "eng"], arguments].concat();
        let output = server.command(all);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("an end"), text(output.stdout), text(output.stderr))
    };

    for arguments in [&[&*torn][..], &[&*torn, "--all-pages"]] {
        let (code, _, why) = fails(arguments);
        assert_eq!(code, 3, "{why}");
        assert!(why.contains("[INVALID_ARGUMENT]"), "{why}");
    }
    let (_, _, why) = fails(&[&torn]);
    assert!(why.ends_with("(nothing was charged)\n"), "{why}");

    let (code, text, why) = fails(&[&document, "--all-pages"]);
    assert_eq!((code, text.matches('\u{c}').count()), (4, 3), "{text:?} {why}");
    assert!(why.contains("page 4: "), "{why}");
    assert!(why.contains("charged 3; left: 0 "), "{why}");
    assert!(why.ends_with("1 of 4 pages failed, and were not charged\n"), "{why}");

    signal(server.pid(), Signal::STOP);
    let (code, _, why) = fails(&[&picture, "--timeout-ms", "300"]);
    signal(server.pid(), Signal::CONT);
    assert_eq!(code, 5, "{why}");
    assert!(why.contains("`img2text quota history 42` shows what was charged"), "{why}");
}

fn base64(bytes: &[u8]) -> String {
    let mut child = std::process::Command::new("base64")
        .arg("-w0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = stdout(child.wait_with_output().unwrap());
    writer.join().unwrap();
    output
}
