//! What was acknowledged is on the disk, not on its way there: seen from outside, by the system
//! calls that Redis makes.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::server::{Server, signal, wait_until};

/// Redis never answers anybody while there is something in its file that it has not synced.
#[test]
fn nothing_is_acknowledged_before_it_is_on_the_disk() {
    const PURCHASES: usize = 20;
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut strace = Command::new("strace")
        // With the names of files: the main thread does all the writing and answering.
        .args(["-y", "-s", "0", "-e", "trace=write,writev,fdatasync,fsync", "-o"])
        .arg(&trace)
        .args(["-p", &server.redis_pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed");
    let traced = || fs::read_to_string(&trace).unwrap_or_default();
    wait_until("strace sees Redis", || {
        server.redis_cli(&["PING"]);
        traced().contains("<socket:")
    });
    for number in 0..PURCHASES {
        let id = format!("p{number}");
        assert!(server.command(["quota", "grant", "ann", "1", "--id", &id]).status.success());
    }
    signal(strace.id(), Signal::INT);
    strace.wait().unwrap();

    let (mut synced, mut writes, mut answers) = (true, 0, 0);
    for line in traced().lines() {
        let is_file = line.contains("/appendonlydir/");
        if is_file && line.starts_with("write") {
            synced = false;
            writes += 1;
        } else if is_file && line.contains("sync(") {
            assert!(line.ends_with("= 0"), "{line}");
            synced = true;
        } else if line.contains("<socket:") {
            assert!(synced, "an answer before the sync: {line}");
            answers += 1;
        }
    }
    assert!(writes >= PURCHASES && answers >= PURCHASES, "{writes} writes, {answers} answers");
}
