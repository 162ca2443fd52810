//! From the first start to the last signal: the real binary as a process.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use binaryrepo::meta::SCHEMA;
use binaryrepo::names::{Algorithm, Digest};
use redb::{Database, ReadableTable as _, TableDefinition};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use super::client::{Ask, Open};
use super::house::{blob, manifest};
use super::process::{Process, binary, run, run_with, said, text, used};
use super::support::image::Image;
use super::support::upstream::{Options, Registry};

fn path(dir: &tempfile::TempDir) -> &str {
    dir.path().to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_tells_a_person_where_everything_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let start = || {
        let server = Process::start_for_people(&data);
        server.eventually("it greets", |server| server.printed().contains("try it:").then_some(()));
        server
    };
    let mut server = start();
    let printed = server.printed();
    let token = data.join("admin.token");
    let lines = [
        format!("binaryrepo {} ready in ", env!("CARGO_PKG_VERSION")),
        format!("  data     {} (new; ", data.display()),
        " free, cache up to ".to_owned(),
        format!("  listen   http://{}", server.address),
        "  local    docker-local".to_owned(),
        "  remote   docker-remote -> https://registry-1.docker.io".to_owned(),
        format!("  admin    token in {}; `binaryrepo token show` prints it", token.display()),
        format!("try it:  docker pull localhost:{}/docker-remote/alpine", server.address.port()),
    ];
    for line in lines {
        assert!(printed.contains(&line), "no `{line}` in:\n{printed}");
    }
    assert!(!printed.contains(text(&token).trim()), "the token itself is told to nobody");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
    let mut again = start();
    assert!(!again.printed().contains("(new; "), "{}", again.printed());
    again.signal(Signal::TERM);
    assert_eq!(again.wait(), 0);
}

/// A server with one slow body under way: some two seconds long.
async fn with_a_body_under_way(flags: &[&str]) -> (tempfile::TempDir, Registry, Process, Image, Open) {
    let registry = Registry::start(Options { connection_rate: Some(200_000), ..Options::default() }).await;
    let image = Image::new(901, &[400_000]);
    registry.add_image("library/redis", "7", &image);
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(&dir, flags);
    let form = json!({ "remote_url": registry.url().as_str() });
    let put = Ask::new("PUT", "/api/repository/docker-remote").json(&form);
    assert_eq!(server.send(put).await.status, 200);
    assert_eq!(server.get(&manifest("redis", "7")).await.status, 200);
    let mut open = Ask::get(&blob("redis", &image.layers[0])).open(server.address).await;
    open.until(1).await;
    (dir, registry, server, image, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_lets_the_bodies_under_way_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let (dir, _registry, mut server, image, open) = with_a_body_under_way(&[]).await;
        let idle = TcpStream::connect(server.address).await.unwrap();
        server.signal(signal);
        server.eventually("it takes no more connections", |server| {
            std::net::TcpStream::connect(server.address).is_err().then_some(())
        });
        let answer = open.rest().await;
        assert!(answer.is_whole());
        assert_eq!(answer.body, image.layers[0].bytes);
        assert_eq!(server.wait(), 0);
        assert!(server.log().iter().any(|line| line.contains("a second signal ends at once")));
        assert!(server.log().iter().any(|line| line.contains("stopped")));
        drop(idle);
        assert!(!dir.path().join("admin.sock").exists(), "the socket goes with its server");
        // It stopped in order: what was cached is trusted without another look.
        let server = Process::start(&dir, &[]);
        let warm = server.get(&blob("redis", &image.layers[0])).await;
        assert_eq!((warm.cache(), &warm.body[..]), (Some("hit"), &image.layers[0].bytes[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let (_dir, _registry, mut server, _image, open) = with_a_body_under_way(&[]).await;
    server.signal(Signal::TERM);
    server.eventually("it was heard", |server| {
        server.log().iter().any(|line| line.contains("SIGTERM")).then_some(())
    });
    server.signal(Signal::INT);
    assert_eq!(server.wait(), 130);
    assert!(server.log().iter().any(|line| line.contains("SIGINT again")), "{:?}", server.log().last());
    assert!(!open.rest().await.is_whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_outlasts_the_grace_is_broken_and_the_stop_is_in_order() {
    let flags = ["--set", "server.shutdown_grace=300ms"];
    let (dir, registry, mut server, image, open) = with_a_body_under_way(&flags).await;
    server.signal(Signal::TERM);
    assert!(!open.rest().await.is_whole());
    assert_eq!(server.wait(), 0);
    assert!(server.log().iter().any(|line| line.contains("connections were broken")), "{:?}", server.log());
    // The fetch goes on where it was put down.
    let server = Process::start(&dir, &[]);
    let whole = server.get(&blob("redis", &image.layers[0])).await;
    assert_eq!(whole.body, image.layers[0].bytes);
    let seen = registry.asked(&image.layers[0].digest.to_string());
    assert!(seen.last().unwrap().range().is_some_and(|range| range != "bytes=0-"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_starts_again_and_serves_what_it_had() {
    let (dir, _registry, mut server, image, open) = with_a_body_under_way(&[]).await;
    assert!(open.rest().await.is_whole());
    server.signal(Signal::KILL);
    assert_eq!(server.wait(), -1);
    assert!(dir.path().join("admin.sock").exists(), "nobody has cleared up");
    let server = Process::start(&dir, &[]);
    let answer = server.get(&blob("redis", &image.layers[0])).await;
    assert!(answer.is_whole());
    assert_eq!(answer.body, image.layers[0].bytes);
    assert_eq!(run(&["repo", "list", "--data-dir", path(&dir)]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(&dir, &[]);
    let second = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", path(&dir)]);
    assert_eq!(second.code, 3, "{second:?}");
    assert!(
        second.err.contains(&format!("{} is in use by another binaryrepo", dir.path().display())),
        "{second:?}"
    );
    assert!(second.err.contains("choose another directory with --data-dir"));
    // The first one has lost neither its port nor its socket.
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(run(&["ls", "--data-dir", path(&dir)]).code, 0);
}

/// The path of a Unix socket has 107 bytes, that of a data directory has none too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_path_costs_the_socket_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("d".repeat(120));
    let server = Process::start_for_people(&data);
    assert_eq!(server.get("/healthz").await.status, 200);
    let args = ["repo", "list", "--data-dir", data.to_str().unwrap()];
    let beside = run(&args);
    assert_eq!(beside.code, 3, "{beside:?}");
    assert!(
        beside.err.contains("in use by another binaryrepo") && beside.err.contains("--server"),
        "{beside:?}"
    );
    let log = server.whole_log();
    assert!(log.iter().any(|line| line.contains("too long for a socket")), "{log:?}");
    assert_eq!(run(&args).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_told_before_any_data_is_touched() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Process::start(&dir, &[]);
    let data = other.path().join("data");
    let address = server.address.to_string();
    let second = run(&["serve", "--listen", &address, "--data-dir", data.to_str().unwrap()]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains(&format!("cannot listen on {address}")), "{second:?}");
    assert!(second.err.contains("hint: choose another port"), "{second:?}");
    assert!(!data.exists());
}

/// Changes what is written in the one row of a table that has it under such a key, from outside.
fn rewrite(file: &Path, table: &str, key_has: &str, from: &str, to: &str) {
    let database = Database::open(file).unwrap();
    let write = database.begin_write().unwrap();
    let mut changed = 0;
    {
        let mut table = write.open_table(TableDefinition::<&[u8], &[u8]>::new(table)).unwrap();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        let rows: Vec<_> = rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec())).collect();
        for (key, row) in rows {
            // Behind the byte of its version.
            let text = String::from_utf8(row[1..].to_vec()).unwrap();
            if text.contains(from) && String::from_utf8_lossy(&key).contains(key_has) {
                let row = [&row[..1], text.replace(from, to).as_bytes()].concat();
                table.insert(key.as_slice(), row.as_slice()).unwrap();
                changed += 1;
            }
        }
    }
    assert_eq!(changed, 1, "{from} is not where this test looks");
    write.commit().unwrap();
}

/// Writes a schema number that is to come.
fn make_newer(file: &Path) {
    rewrite(file, "setting", "schema", &SCHEMA.to_string(), &(SCHEMA + 1).to_string());
}

/// A data directory with the metadata of a fixture, and the one blob that it tells of.
fn of_schema(schema: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture = format!("{}/fixtures/schema-{schema}/meta.redb", env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(&fixture, dir.path().join("meta.redb")).expect("every schema has its fixture");
    let layer = Digest::of(Algorithm::Sha512, b"layer");
    // What a tag names was asked for last years ago: only one that stays fresh for longer needs no upstream.
    let (minute, years) = ("\"tag_ttl_ms\":60000", "\"tag_ttl_ms\":315360000000");
    rewrite(&dir.path().join("meta.redb"), "repository", "", minute, years);
    let shard = dir.path().join("cas/sha512").join(&layer.hex()[..2]);
    std::fs::create_dir_all(&shard).unwrap();
    std::fs::write(shard.join(layer.hex()), "layer").unwrap();
    dir
}

/// All that a fixture tells of, with its upstream gone.
async fn serves_the_fixture(server: &Process, dir: &Path) {
    assert_eq!(server.get("/readyz").await.status, 200);
    // There are users, so nobody is believed unasked who comes by TCP.
    assert_eq!(server.get("/api/users").await.status, 401);
    let shown = said(dir, &["repo", "show", "docker-remote"]);
    assert_eq!((&shown["username"], &shown["password_set"]), (&json!("somebody"), &json!(true)), "{shown}");
    let users = said(dir, &["user", "list"]);
    assert_eq!(users["users"][0]["name"], "ada", "{users}");
    let by_tag = server.get(&manifest("redis", "7.2")).await;
    assert_eq!(
        (by_tag.cache(), &by_tag.body[..]),
        (Some("hit"), &b"{\"layers\":[]}"[..]),
        "{}",
        by_tag.all()
    );
    let layer = Digest::of(Algorithm::Sha512, b"layer");
    let blob = server.get(&format!("/v2/docker-remote/library/redis/blobs/{layer}")).await;
    assert_eq!((blob.cache(), &blob.body[..]), (Some("hit"), &b"layer"[..]), "{}", blob.all());
    let images = said(dir, &["image", "ls"]).to_string();
    assert!(images.contains("library/redis") && images.contains("7.2"), "{images}");
}

/// A data directory of every schema that there ever was, and the same twice: after the upgrade it is an ordinary one.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_every_schema_is_opened_and_served() {
    for schema in 1..=SCHEMA {
        let dir = of_schema(schema);
        for upgrades in [schema < SCHEMA, false] {
            let server = Process::start(&dir, &[]);
            serves_the_fixture(&server, dir.path()).await;
            let log = server.whole_log();
            let told = log.iter().any(|line| line.contains("the metadata was upgraded"));
            assert_eq!(told, upgrades, "{schema}: {log:?}");
        }
        assert_eq!(dir.path().join(format!("meta.redb.schema-{schema}")).exists(), schema < SCHEMA);
    }
}

/// The person who starts it, and the file of an upload that nobody could have gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_told_and_leaves_nothing_behind() {
    const SESSIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("session");
    let dir = of_schema(1);
    let database = Database::open(dir.path().join("meta.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let upload =
        b"\x01{\"repository\":2,\"image\":\"app\",\"draft\":78,\"algorithm\":\"sha256\",\"used_ms\":5}";
    write.open_table(SESSIONS).unwrap().insert(&[0; 18][..], &upload[..]).unwrap();
    write.commit().unwrap();
    drop(database);
    let tmp = dir.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let draft = tmp.join("78");
    std::fs::write(&draft, "half a layer").unwrap();

    let server = Process::start_for_people(dir.path());
    server.eventually("it greets", |server| server.printed().contains("try it:").then_some(()));
    let printed = server.printed();
    let kept = dir.path().join("meta.redb.schema-1");
    for line in [
        "  upgraded from schema 1 to 2, which older versions refuse".to_owned(),
        format!("           the metadata as it was is kept in {}", kept.display()),
    ] {
        assert!(printed.contains(&line), "no `{line}` in:\n{printed}");
    }
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "{:?}", std::fs::read_dir(&tmp).unwrap().next());
    let log = server.whole_log();
    let told = |words: &str| log.iter().any(|line| line.contains(words));
    assert!(told("1 unfinished uploads belong to nobody and have ended"), "{log:?}");
    assert!(!run(&["ls", "--data-dir", path(&dir)]).err.contains("upgraded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    used(&dir);
    let file = dir.path().join("meta.redb");
    make_newer(&file);
    // Twice the same: the first refusal has changed nothing.
    for command in ["serve", "ls", "serve"] {
        let mut args = vec![command, "--data-dir", path(&dir)];
        if command == "serve" {
            args.extend(["--listen", "127.0.0.1:0"]);
        }
        let ended = run(&args);
        assert_eq!(ended.code, 3, "{command}: {ended:?}");
        let words =
            format!("written by a newer version (schema {}; this version knows schema {SCHEMA})", SCHEMA + 1);
        assert!(ended.err.contains(&words), "{command}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meta.redb");
    std::fs::write(&file, "somebody's letters\n".repeat(1_000)).unwrap();
    let ended = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", path(&dir)]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("cannot be used"), "{ended:?}");
    // Which file, and what to do.
    let restore = format!("`binaryrepo restore <backup> --data-dir {}`", path(&dir));
    assert!(ended.err.contains(file.to_str().unwrap()) && ended.err.contains(&restore), "{ended:?}");
    assert!(text(&file).starts_with("somebody's letters"));
    let blocked = dir.path().join("meta.redb/data");
    let ended = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", blocked.to_str().unwrap()]);
    assert_eq!(ended.code, 3, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_shown_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("binaryrepo.toml");
    for (written, place, words) in [
        ("[server]\nlisten = \"8081\"\n", "line 2, column 10", "2 | listen = \"8081\""),
        ("[server]\nidle_timeot = \"1s\"\n", "line 2, column 1", "did you mean `idle_timeout`?"),
        ("[storage]\n\nmax_size = \"80 parts\"\n", "line 3", "max_size"),
        ("[[repository]]\nname = \"quay\"\nrepo_type = \"remote\"\n", "line 1", "remote_url"),
    ] {
        std::fs::write(&file, written).unwrap();
        let config = file.to_str().unwrap();
        let ended = run(&["serve", "--config", config, "--data-dir", path(&dir), "--listen", "127.0.0.1:0"]);
        assert_eq!(ended.code, 3, "{written}: {ended:?}");
        assert!(ended.err.contains(place) && ended.err.contains(words), "{written}: {}", ended.err);
    }
    let mut command = binary(&["serve", "--data-dir", path(&dir)]);
    command.env("BINARYREPO_SERVER__BODY_TIMEOUT", "fast");
    let ended = run_with(command, "");
    assert_eq!(ended.code, 3);
    assert!(ended.err.contains("BINARYREPO_SERVER__BODY_TIMEOUT"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_of_the_file_are_made_once_and_may_be_changed_later() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("binaryrepo.toml");
    let entry = "[[repository]]\nname = \"quay\"\nrepo_type = \"remote\"\nremote_url = \"https://quay.io\"\n";
    std::fs::write(&file, entry).unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    let mut server = Process::start(&dir, &flags);
    let shown = server.get("/api/repository/quay").await.json();
    assert_eq!(shown["remote_url"], "https://quay.io");
    let put = Ask::new("PUT", "/api/repository/quay").json(&json!({ "tag_ttl": "5m" }));
    assert_eq!(server.send(put).await.status, 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
    let started = Instant::now();
    let server = Process::start(&dir, &flags);
    assert_eq!(server.get("/api/repository/quay").await.json()["tag_ttl"], "5m");
    // Some tens of milliseconds.
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// `--admin-user` and `--admin-password-file` are flags as well as variables, and go together.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_may_come_by_flags() {
    let (dir, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = secrets.path().join("password");
    std::fs::write(&file, "canary-of-root\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.to_str().unwrap();
    for alone in [["--admin-user", "root"], ["--admin-password-file", file]] {
        let refused = run(&["serve", "--data-dir", path(&dir), alone[0], alone[1]]);
        assert!(refused.code > 0 && refused.err.contains("needs a name and a file"), "{refused:?}");
    }
    let server = Process::start(&dir, &["--admin-user", "root", "--admin-password-file", file]);
    let users = |password: &str| {
        let credentials = STANDARD.encode(format!("root:{password}"));
        Ask::get("/api/users").header("Authorization", &format!("Basic {credentials}"))
    };
    assert_eq!(server.get("/api/users").await.status, 401);
    assert_eq!(server.send(users("canary-of-toor")).await.status, 401);
    let listed = server.send(users("canary-of-root")).await;
    assert_eq!(listed.status, 200, "{}", listed.all());
    let root = &listed.json()["users"][0];
    assert_eq!((&root["name"], &root["admin"]), (&json!("root"), &json!(true)), "{root}");
}
