//! A backup is taken of a live system of any topology, verifies itself, and restores everything
//! that lasts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fred::clients::Client;
use img2text::quota::{Bucket, Keys, PaymentId, UserId};
use img2text::redis::backup::file::Record;
use img2text::redis::backup::{self, Archive, Error, Existing, Restored};
use tokio_util::sync::CancellationToken;

use crate::support::account::{Account, MINUTE, id};
use crate::support::redis::{self, Cluster, Redis};
use crate::support::server::{PROGRAM, Server, wait_until};

/// Accounts with a bit of everything, on a Redis.
async fn fill(url: &str) -> Vec<UserId> {
    let mut users = Vec::new();
    for number in 0..50 {
        let account = Account::on(url).await;
        let (store, user) = (&account.store, &account.user);
        let payment = |text: &str| PaymentId::parse(text).unwrap();
        store.activate_plan(user, "30", &payment("plan")).await.unwrap();
        store.grant_extra(user, number + 1, &payment("extra")).await.unwrap();
        store.adjust(user, Bucket::Extra, 1, "Спасибо", &payment("thanks")).await.unwrap();
        store.reserve(user, &id("open"), 2, 60 * MINUTE, false).await.unwrap();
        store.reserve(user, &id("spent"), 3, MINUTE, false).await.unwrap();
        store.commit(user, &id("spent"), Some(2)).await.unwrap();
        users.push(user.clone());
    }
    // As the old system left them, and nobody has touched them since; also what is no text.
    let account = Account::on(url).await;
    account.write(&[("plan", "100"), ("plan_remaining", "7"), ("free_used", "3")]).await;
    users.push(account.user.clone());
    let account = Account::on(url).await;
    let key = account.main_key();
    redis::command(&account.client, "HSET", &[&key, "note", "a\0b\n\"c\""]).await;
    users.push(account.user.clone());
    // More than one command writes.
    let account = Account::on(url).await;
    let ids: Vec<String> = (0..700).map(|number| format!("long-{number}")).collect();
    for id in &ids {
        let payment = PaymentId::parse(id.as_str()).unwrap();
        account.store.grant_extra(&account.user, 1, &payment).await.unwrap();
    }
    users.push(account.user.clone());
    // Somebody who was deleted must stay so.
    let account = Account::on(url).await;
    account.store.get(&account.user).await.unwrap();
    account.write(&[("extra_remaining", "5")]).await;
    account.store.delete(&account.user).await.unwrap();
    users.push(account.user.clone());
    redis::command(
        &account.client,
        "HSET",
        &["{img2text:statistics}:day:2030-01-01", "pages", "9"],
    )
    .await;
    users
}

/// Everything that lasts of a user, without the time that passes.
async fn contents(client: &Client, user: &UserId) -> Vec<backup::file::Key> {
    let keys = Keys::of(user);
    let mut found = backup::keys::read(client, keys.lasting(), &Keys::names()).await.unwrap();
    assert!(!found.is_empty(), "nothing of {user}");
    for key in &mut found {
        key.remaining_ms = key.remaining_ms.map(|remaining_ms| {
            assert!(remaining_ms > 1_000, "{key:?}");
            1
        });
    }
    found
}

async fn create(client: &Client, directory: &Path) -> Archive {
    let path = directory.join("backup");
    backup::create(client, &path, |_| {}).await.unwrap();
    Archive::open(&path).unwrap()
}

async fn restore(
    client: &Client,
    archive: &Archive,
    existing: Existing,
) -> Result<Restored, Error> {
    backup::restore(client, archive, None, existing, |_, _| {}).await
}

/// From one topology into the other.
async fn moves(from: &str, to: &str) {
    let directory = tempfile::tempdir().unwrap();
    let users = fill(from).await;
    let (source, target) = (redis::connect(from).await, redis::connect(to).await);
    let archive = create(&source, directory.path()).await;
    assert_eq!(archive.summary().users, users.len() as u64);

    let restored = restore(&target, &archive, Existing::Refuse).await.unwrap();
    assert_eq!((restored.same, restored.skipped), (0, 0));
    for user in &users {
        assert_eq!(contents(&target, user).await, contents(&source, user).await, "{user}");
    }
    let day = "{img2text:statistics}:day:2030-01-01";
    let pages = redis::command(&target, "HGET", &[day, "pages"]).await;
    assert_eq!(pages.as_string().as_deref(), Some("9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_one_redis_restores_into_a_cluster() {
    moves(&Redis::start().url(), &Cluster::start().url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_cluster_restores_into_one_redis() {
    moves(&Cluster::start().url(), &Redis::start().url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_overwritten_only_if_told() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start();
    let users = fill(&redis.url()).await;
    let client = redis::connect(&redis.url()).await;
    let archive = create(&client, directory.path()).await;
    let all = archive.summary().users + archive.summary().server_keys;
    let before = contents(&client, &users[0]).await;

    // Since then: one spent, one is gone, one came.
    let main = |user: &UserId| Keys::of(user).main().to_string();
    redis::command(&client, "HSET", &[&main(&users[0]), "extra_remaining", "999"]).await;
    for key in Keys::of(&users[1]).all() {
        redis::command(&client, "DEL", &[key]).await;
    }
    redis::command(&client, "HSET", &["sub:user:newcomer", "extra_remaining", "1"]).await;

    let refused = restore(&client, &archive, Existing::Refuse).await;
    assert!(matches!(refused, Err(Error::NotEmpty)), "{refused:?}");

    let mut skipped = Vec::new();
    let merged = backup::restore(&client, &archive, None, Existing::Keep, |name, outcome| {
        if outcome == backup::restore::Outcome::Skipped {
            skipped.push(name.to_string());
        }
    });
    assert_eq!(merged.await.unwrap(), Restored { written: 1, same: all - 2, skipped: 1 });
    assert_eq!(skipped, [users[0].to_string()]);
    contents(&client, &users[1]).await;

    // One user: as it was, and nobody else.
    let only = Some(&users[0]);
    let refused = backup::restore(&client, &archive, only, Existing::Refuse, |_, _| {}).await;
    assert!(matches!(refused, Err(Error::UserExists(_))), "{refused:?}");
    let one = backup::restore(&client, &archive, only, Existing::Replace, |_, _| {}).await;
    assert_eq!(one.unwrap(), Restored { written: 1, same: 0, skipped: 0 });
    assert_eq!(contents(&client, &users[0]).await, before);
    let nobody = UserId::parse("nobody").unwrap();
    let refused =
        backup::restore(&client, &archive, Some(&nobody), Existing::Keep, |_, _| {}).await;
    assert!(matches!(refused, Err(Error::NoSuchUser(_))), "{refused:?}");

    let replaced = restore(&client, &archive, Existing::Replace).await.unwrap();
    assert_eq!(replaced, Restored { written: all, same: 0, skipped: 0 });
    assert_eq!(redis.cli(&["EXISTS", "sub:user:newcomer"]).trim(), "0");
}

/// Every account in a backup that was taken while all of them were spending adds up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_whole_accounts() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start();
    let stop = CancellationToken::new();
    let mut accounts = Vec::new();
    let mut callers = Vec::new();
    for _ in 0..8 {
        let account = Account::on(&redis.url()).await;
        let payment = PaymentId::parse("p").unwrap();
        account.store.grant_extra(&account.user, 1_000_000, &payment).await.unwrap();
        let (store, user, stop) = (account.store.clone(), account.user.clone(), stop.clone());
        callers.push(tokio::spawn(async move {
            let mut calls = 0;
            while !stop.is_cancelled() {
                let hold = id(&format!("r{calls}"));
                store.reserve(&user, &hold, 2, MINUTE, false).await.unwrap();
                store.commit(&user, &hold, Some(1)).await.unwrap();
                calls += 1;
            }
            calls
        }));
        accounts.push(account);
    }
    tokio::time::timeout(Duration::from_secs(30), async {
        while accounts[0].store.get(&accounts[0].user).await.unwrap().spent.extra < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();

    let client = redis::connect(&redis.url()).await;
    let archive = create(&client, directory.path()).await;
    let after = accounts[0].store.get(&accounts[0].user).await.unwrap();
    stop.cancel();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    let other = Redis::start();
    let target = Account::on(&other.url()).await;
    restore(&target.client, &archive, Existing::Refuse).await.unwrap();
    for account in &accounts {
        assert_eq!(target.store.audit(&account.user).await.unwrap(), []);
        let quota = target.store.get(&account.user).await.unwrap();
        assert!(quota.spent.total() >= 1, "{quota:?}");
    }
    let restored = target.store.get(&accounts[0].user).await.unwrap();
    assert!(restored.spent.total() >= 20 && restored.spent.total() <= after.spent.total());
}

/// As an operator does it: backup of a running server, all data lost, restoration, start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_bring_back_what_was_lost() {
    let mut server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts.backup");
    let file = file.to_str().unwrap();
    let data_dir = server.data_dir();
    let data_dir = data_dir.to_str().unwrap();
    assert!(server.command(["quota", "grant", "ann", "5", "--id", "p"]).status.success());
    let account = |server: &Server| server.command(["quota", "export", "ann"]).stdout;
    let history = |server: &Server| server.command(["quota", "history", "ann", "--json"]).stdout;
    let (quota_before, history_before) = (server.account("ann").await, history(&server));

    let created = server.command(["backup", "create", file, "--data-dir", data_dir]);
    assert!(created.status.success(), "{created:?}");
    let printed = String::from_utf8(created.stdout).unwrap();
    assert!(printed.contains("1 users"), "{printed}");
    let again = server.command(["backup", "create", file, "--data-dir", data_dir]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already there"));
    assert!(server.command(["backup", "verify", file]).status.success());
    let running = server.command(["backup", "restore", file, "--data-dir", data_dir]);
    assert!(String::from_utf8_lossy(&running.stderr).contains("--replace"), "{running:?}");

    server.terminate();
    server.wait();
    fs::remove_dir_all(data_dir).unwrap();

    let whole = fs::read(file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0xff;
    fs::write(file, flipped).unwrap();
    let refused = server.command(["backup", "restore", file, "--data-dir", data_dir]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a whole backup"));
    assert!(!Path::new(data_dir).exists(), "a damaged backup touches nothing");

    fs::write(file, whole).unwrap();
    let restored = server.command(["backup", "restore", file, "--data-dir", data_dir]);
    assert!(restored.status.success(), "{restored:?}");
    server.restart();
    assert_eq!(server.account("ann").await, quota_before);
    assert_eq!(history(&server), history_before);
    assert!(String::from_utf8(account(&server)).unwrap().contains("\"p\""));
}

/// `--every` goes on, and keeps the latest.
#[test]
fn a_scheduled_backup_keeps_the_latest() {
    let server = Server::start();
    assert!(server.command(["quota", "grant", "ann", "5", "--id", "p"]).status.success());
    let directory = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(crate::support::server::PROGRAM)
        .args(["backup", "create", "--every", "1s", "--keep", "2"])
        .arg(directory.path())
        .arg("--data-dir")
        .arg(server.data_dir())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Somebody else's, whatever their names sort like.
    let others = ["img2text-1.backup", "img2text-before-upgrade.backup"];
    others.iter().for_each(|name| fs::write(directory.path().join(name), "kept").unwrap());
    let names = || {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".backup") && !others.contains(&name.as_str()))
            .collect();
        names.sort();
        names
    };
    let mut first = String::new();
    crate::support::server::wait_until("there is a backup", || {
        first = names().first().cloned().unwrap_or_default();
        !first.is_empty()
    });
    crate::support::server::wait_until("the first was deleted", || !names().contains(&first));
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = names();
    assert!(kept.len() <= 3, "{kept:?}");
    assert!(others.iter().all(|name| directory.path().join(name).exists()));
    let archive = Archive::open(&directory.path().join(&kept[0])).unwrap();
    let records: Vec<Record> = archive.records().unwrap().map(Result::unwrap).collect();
    assert!(matches!(&records[0], Record::User { user, .. } if user == "ann"));
}

/// Where there is nothing, an empty backup would look like a good one; and a Redis of the backup's
/// own would keep the server out.
#[test]
fn a_backup_of_nothing_is_refused_and_locks_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, file) = (directory.path().join("data"), directory.path().join("backup"));
    for command in [&["backup", "create", file.to_str().unwrap()][..], &["storage", "check"]] {
        let output = Command::new(PROGRAM)
            .args(command)
            .args(["--data-dir", data_dir.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no data"), "{output:?}");
    }
    assert!(!data_dir.exists() && !file.exists());

    let mut server = Server::start();
    server.terminate();
    server.wait();
    let log = directory.path().join("log");
    let mut child = Command::new(PROGRAM)
        .args(["backup", "create", "--every", "1s"])
        .arg(directory.path())
        .arg("--data-dir")
        .arg(server.data_dir())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let told = || fs::read_to_string(&log).unwrap();
    wait_until("it says that no server runs", || told().contains("no server runs"));
    server.restart();
    assert!(server.command(["quota", "grant", "ann", "5", "--id", "p"]).status.success());
    let is_backup =
        |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == "backup");
    wait_until("there is a backup", || {
        fs::read_dir(directory.path()).unwrap().any(|entry| is_backup(entry.unwrap()))
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A Redis that is to write an append-only file starts empty where there is none yet, and would
/// replace the snapshot in the end.
#[test]
fn a_snapshot_alone_is_not_started_over() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("dump.rdb");
    fs::write(&snapshot, "accounts").unwrap();
    let output = Command::new(PROGRAM)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("dump.rdb"), "{output:?}");
    assert_eq!(fs::read_to_string(snapshot).unwrap(), "accounts");
}

/// What a Redis before 7.0 kept: one append-only file beside its snapshot. A later one takes it over.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_an_older_redis_are_taken_over() {
    let mut server = Server::start();
    server.terminate();
    server.wait();
    let data_dir = server.data_dir();
    fs::remove_dir_all(&data_dir).unwrap();
    fs::create_dir(&data_dir).unwrap();
    let words = ["HSET", "sub:user:ann", "extra_remaining", "7"];
    let mut file = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| file += &format!("${}\r\n{word}\r\n", word.len()));
    fs::write(data_dir.join("appendonly.aof"), file).unwrap();
    fs::write(data_dir.join("dump.rdb"), "not read beside it").unwrap();
    let data_dir = data_dir.to_str().unwrap();
    let looked = server.command(["storage", "check", "--data-dir", data_dir]);
    assert!(String::from_utf8_lossy(&looked.stdout).contains("7 extra"), "{looked:?}");
    server.restart();
    assert_eq!(server.account("ann").await.available.unwrap().extra, 7);
}

/// A key that moves while it is looked for may be found twice.
#[tokio::test]
async fn a_user_who_is_in_a_backup_twice_is_restored() {
    let client = redis::connect(&redis::shared::standalone()).await;
    let account = Account::of(&client, |_, _| {});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("twice.backup");
    let user = account.user.to_string();
    let mut writer = backup::file::Writer::create(&file, 1).unwrap();
    for granted in 1..=2 {
        let payment = PaymentId::parse(format!("p{granted}")).unwrap();
        account.store.grant_extra(&account.user, 1, &payment).await.unwrap();
        let keys = contents(&client, &account.user).await;
        writer.write(&Record::User { user: user.clone(), keys }).unwrap();
    }
    writer.finish().unwrap();
    for key in account.keys().await {
        redis::command(&client, "DEL", &[&key]).await;
    }
    let archive = Archive::open(&file).unwrap();
    let only = Some(&account.user);
    let restored =
        backup::restore(&client, &archive, only, Existing::Refuse, |_, _| {}).await.unwrap();
    assert_eq!((restored.written, restored.skipped), (1, 1));
    assert_eq!(account.store.audit(&account.user).await.unwrap(), []);
}

/// An hour without Redis costs the backup of that hour, and no other.
#[test]
fn a_scheduled_backup_goes_on_after_a_failure() {
    let mut redis = Redis::start();
    redis.cli(&["HSET", "sub:user:ann", "plan", "30"]);
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut child = Command::new(PROGRAM)
        .args(["backup", "create", "--every", "1s", "--redis-url", &redis.url()])
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let backups = || {
        let entries = fs::read_dir(directory.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|end| end == "backup")).count()
    };
    wait_until("there is a backup", || backups() > 0);
    redis.kill();
    wait_until("a failure is told of", || {
        fs::read_to_string(&log).unwrap().contains("img2text: no backup")
    });
    let before = backups();
    redis.restart();
    wait_until("there are backups again", || backups() > before);
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// As many accounts as are wanted, of one hash each: what the old system wrote. Their ids are such
/// that they cannot be compressed.
fn fill_quickly(redis: &Redis, users: std::ops::Range<u32>) {
    let (start, end) = (users.start.to_string(), users.end.to_string());
    let script = "for user = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do \
                  redis.call('HSET', 'sub:user:' .. redis.sha1hex(user), 'plan', '30', 'plan_remaining', '7', \
                  'extra_remaining', '5', 'free_used', '3') end";
    redis.cli(&["EVAL", script, "0", &start, &end]);
}

fn backup_create(redis: &Redis, file: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["backup", "create"]).arg(file).args(["--redis-url", &redis.url()]);
    command.stdout(Stdio::null());
    command
}

/// Runs a command to its end, and returns the most memory that it had, in bytes.
fn most_memory_of(mut command: Command) -> u64 {
    let mut child = command.spawn().unwrap();
    let mut most = 0;
    loop {
        // While it runs, the kernel keeps the most until now; of the end itself little is missed.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kibibytes.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return most;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fifty times the users take no more memory, to back up, to verify and to restore.
#[test]
fn the_memory_of_a_backup_does_not_grow_with_the_users() {
    const MARGIN_BYTES: u64 = 16 << 20;
    let redis = Redis::start_in_memory();
    let directory = tempfile::tempdir().unwrap();
    let (few, many) = (directory.path().join("few"), directory.path().join("many"));
    fill_quickly(&redis, 0..1_000);
    let of_few = most_memory_of(backup_create(&redis, &few));
    fill_quickly(&redis, 1_000..50_000);
    let of_many = most_memory_of(backup_create(&redis, &many));
    let other = Redis::start_in_memory();
    let with_archive = |what: &[&str], file: &Path| {
        let mut command = Command::new(PROGRAM);
        command.arg("backup").args(what).arg(file).stdout(Stdio::null());
        command
    };
    let verified = most_memory_of(with_archive(&["verify"], &many));
    let restored = most_memory_of(with_archive(&["restore", "--redis-url", &other.url()], &many));
    let kibibytes = [of_few, of_many, verified, restored].map(|bytes| bytes >> 10);
    eprintln!("1,000 users, 50,000 users, verified, restored: {kibibytes:?} KiB");
    for bytes in [of_many, verified, restored] {
        assert!(bytes < of_few + MARGIN_BYTES, "{kibibytes:?} KiB");
    }
    assert_eq!(other.cli(&["DBSIZE"]), redis.cli(&["DBSIZE"]));
}

/// Wherever it is: nothing of the name is there, what is there does not verify, and the next backup
/// is not disturbed by it.
#[test]
fn a_backup_that_is_killed_leaves_nothing_that_verifies() {
    let redis = Redis::start_in_memory();
    fill_quickly(&redis, 0..20_000);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts.backup");
    let partial = directory.path().join(".img2text-backup.partial");
    let written = || fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    let mut whole = backup_create(&redis, &file);
    assert!(whole.status().unwrap().success());
    let bytes = fs::metadata(&file).unwrap().len();
    fs::remove_file(&file).unwrap();

    let mut killed = 0;
    for percent in [0, 10, 50, 90] {
        let mut child = backup_create(&redis, &file).spawn().unwrap();
        wait_until("so much of it is written", || {
            written() > bytes * percent / 100 || file.exists()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        if file.exists() {
            // On a busy machine it may have been quicker than we.
            assert_eq!(Archive::open(&file).unwrap().summary().users, 20_000);
            fs::remove_file(&file).unwrap();
        } else {
            assert!(Archive::open(&partial).is_err(), "at {percent} %");
            killed += 1;
        }
    }
    assert!(killed > 0, "it was killed too late each time");
    assert!(whole.status().unwrap().success());
    assert_eq!(Archive::open(&file).unwrap().summary().users, 20_000);
    assert!(!partial.exists());
}

/// On a terminal one sees how far it is; in a script's log there is nothing of that.
#[test]
fn the_progress_of_a_backup_is_seen_on_a_terminal_only() {
    let redis = Redis::start_in_memory();
    fill_quickly(&redis, 0..20_000);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let piped = backup_create(&redis, &file("piped")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "");

    let on_a_terminal = |arguments: String| {
        let command = format!("{PROGRAM} backup {arguments}");
        // `script` gives a command a terminal, and prints what appears on it.
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (url, seen) = (redis.url(), file("seen"));
    let screen = on_a_terminal(format!("create {} --redis-url {url}", seen.display()));
    // Once and again on the same line, which is clean at the end.
    assert!(screen.matches(" users ").count() > 1, "{screen:?}");
    assert!(screen.contains("\r\u{1b}[2K"), "{screen:?}");
    assert!(screen.contains("20000 users in 20000 keys"), "{screen:?}");
    let other = Redis::start_in_memory();
    let screen = on_a_terminal(format!("restore {} --redis-url {}", seen.display(), other.url()));
    assert!(screen.contains("/20000"), "{screen:?}");
    assert!(screen.contains("20000 written and compared"), "{screen:?}");
}
