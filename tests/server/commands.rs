//! The commands of an administrator: the same words and the same answers, whether they reach the running server by
//! its socket, another one by its URL, or the data itself while none runs.

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Ask;
use super::house::manifest;
use super::process::{Ended, Process, binary, run, run_with, text};
use super::support::image::Image;
use super::support::upstream::Registry;

/// The way in which commands find whom to ask.
struct Way {
    name: &'static str,
    flags: Vec<String>,
}

impl Way {
    fn data(name: &'static str, dir: &TempDir) -> Self {
        Self { name, flags: vec!["--data-dir".to_owned(), dir.path().display().to_string()] }
    }

    fn server(server: &Process, token: &str) -> Self {
        let url = format!("http://{}", server.address);
        let flags = ["--server", &url, "--token", token].map(str::to_owned).to_vec();
        Self { name: "by url", flags }
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        run_with(binary(&[args, &flags[..]].concat()), input)
    }

    /// The output of a command that must succeed.
    fn good(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{} {args:?}: {ended:?}", self.name);
        ended.out
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.good(&[args, &["--json"]].concat())).unwrap()
    }
}

/// All three ways, and what keeps them open.
fn ways() -> (Vec<Way>, (TempDir, TempDir, TempDir), (Process, Process)) {
    let dirs = [(), (), ()].map(|()| tempfile::tempdir().unwrap());
    let by_socket = Process::start(&dirs[0], &[]);
    let by_url = Process::start(&dirs[1], &[]);
    let token = text(&dirs[1].path().join("admin.token"));
    let ways = vec![
        Way::data("by socket", &dirs[0]),
        Way::server(&by_url, token.trim()),
        Way::data("offline", &dirs[2]),
    ];
    (ways, dirs.into(), (by_socket, by_url))
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_managed_alike_in_every_way() {
    let (ways, _dirs, _servers) = ways();
    for way in &ways {
        let name = way.name;
        let table = way.good(&["repo", "list"]);
        assert!(table.starts_with("NAME           TYPE    UPSTREAM "), "{name}:\n{table}");
        assert!(table.contains("default mirror, ns=docker.io"), "{name}:\n{table}");

        let add = ["repo", "add", "quay", "https://quay.io", "--tag-ttl", "5m", "--username", "ada"];
        let made = way.run_with(&[&add[..], &["--password-stdin"]].concat(), "canary\n");
        assert_eq!(made.code, 0, "{name}: {made:?}");
        assert!(
            made.out.contains("tag_ttl             5m\n") && made.out.contains("password_set        yes\n")
        );
        assert!(!format!("{made:?}").contains("canary"), "{name}: {made:?}");
        let again = way.run(&["repo", "add", "quay", "https://quay.io"]);
        assert_eq!(again.code, 1, "{name}: {again:?}");
        assert!(again.err.contains("exists already"), "{name}: {again:?}");

        way.good(&["repo", "update", "quay", "--max-size", "10GiB", "--reset", "tag_ttl"]);
        let shown = way.json(&["repo", "show", "quay"]);
        assert_eq!((&shown["max_size"], &shown["tag_ttl"]), (&json!(10_u64 << 30), &json!("60s")), "{name}");
        assert_eq!(shown["password_set"], true, "{name}");
        let moved = way.good(&["repo", "update", "quay", "--url", "https://quay.example"]);
        assert!(moved.contains("password_set        no\n"), "{name}: {moved}");

        let wrong = way.run(&["repo", "update", "quay", "--tag-ttl", "soon"]);
        assert_eq!(wrong.code, 2, "{name}: {wrong:?}");
        assert!(wrong.err.contains("tag_ttl"), "{name}: {wrong:?}");
        let local_only = way.run(&["repo", "update", "quay", "--sparse-manifests"]);
        assert_eq!(local_only.code, 2, "{name}: {local_only:?}");
        assert!(local_only.err.contains("sparse_manifests"), "{name}: {local_only:?}");
        assert_eq!(way.good(&["repo", "remove", "quay"]), "removed quay\n", "{name}");
        let made = way.good(&["repo", "add", "team", "--local", "--sparse-manifests"]);
        assert!(made.contains("immutable_tags      no\nsparse_manifests    yes\n"), "{name}: {made}");
        assert!(way.good(&["repo", "list"]).contains("sparse manifests\n"), "{name}");
        way.good(&["repo", "update", "team", "--sparse-manifests=false", "--immutable-tags"]);
        let shown = way.json(&["repo", "show", "team"]);
        let both = (&shown["sparse_manifests"], &shown["immutable_tags"]);
        assert_eq!(both, (&json!(false), &json!(true)), "{name}");
        way.good(&["repo", "update", "team", "--sparse-manifests"]);
        way.good(&["repo", "update", "team", "--reset", "sparse_manifests"]);
        assert_eq!(way.json(&["repo", "show", "team"]), shown, "{name}");
        way.good(&["repo", "remove", "team"]);
        let gone = way.run(&["repo", "remove", "quay"]);
        assert_eq!(gone.code, 1, "{name}: {gone:?}");
        assert!(gone.err.contains("hint: there are docker-local, docker-remote"), "{name}: {gone:?}");
        assert_eq!(way.good(&["ls"]), "there are no images yet\n", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_seen_and_purged_with_and_without_a_server() {
    let registry = Registry::open().await;
    let image = Image::new(1001, &[50_000]);
    for tag in ["7", "8"] {
        registry.add_image("library/redis", tag, &image);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start(&dir, &[]);
    let way = Way::data("by socket", &dir);
    way.good(&["repo", "update", "docker-remote", "--url", registry.url().as_str()]);
    for tag in ["7", "8"] {
        server.get(&manifest("redis", tag)).await;
    }
    for content in image.blobs() {
        server.get(&super::house::blob("redis", content)).await;
    }
    let listed = way.good(&["ls"]);
    assert!(listed.contains("docker-remote/library/redis") && listed.contains("7, 8"), "{listed}");
    let tags = way.good(&["ls", "docker-remote", "--tags"]);
    assert_eq!(tags.matches(&image.manifest.digest.to_string()).count(), 2, "{tags}");

    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
    let offline = Way::data("offline", &dir);
    assert_eq!(offline.json(&["ls"])["images"][0]["image"], "library/redis");
    let purged = offline.good(&["purge", "docker-remote/redis:8"]);
    assert!(purged.starts_with("removed "), "{purged}");
    let tags = offline.good(&["ls", "--tags"]);
    assert!(tags.contains("redis:7") && !tags.contains("redis:8"), "{tags}");
    let purged = offline.good(&["purge", "docker-remote/redis"]);
    assert!(purged.starts_with("removed 1 manifest and 2 blobs"), "{purged}");
    assert_eq!(offline.good(&["ls"]), "there are no images yet\n");
    let unknown = offline.run(&["ls", "no-such"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");

    let server = Process::start(&dir, &[]);
    assert_eq!(server.get(&manifest("redis", "7")).await.cache(), Some("miss"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_wants_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(&dir, &[]);
    let shown = run(&["token", "show", "--data-dir", dir.path().to_str().unwrap()]);
    assert_eq!((shown.code, &shown.out), (0, &text(&dir.path().join("admin.token"))));
    assert_eq!(Way::server(&server, shown.out.trim()).run(&["repo", "list"]).code, 0);
    let refused = Way::server(&server, "canary").run(&["repo", "list"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in [
        "error: the management API needs the administrator's token",
        "hint: `binaryrepo token show` on the server's machine prints the token for --token",
    ] {
        assert!(refused.err.contains(part), "{refused:?}");
    }
    assert!(!refused.err.contains("canary"));
    // The environment may say both.
    let mut command = binary(&["repo", "list", "--json"]);
    command.env("BINARYREPO_URL", format!("http://{}", server.address));
    command.env("BINARYREPO_TOKEN", shown.out.trim());
    assert_eq!(run_with(command, "").code, 0);

    let mut with_its_own = binary(&["token", "show"]);
    with_its_own.env("BINARYREPO_ADMIN_TOKEN", "from-the-environment");
    assert_eq!(run_with(with_its_own, "").out, "from-the-environment\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_asks_the_server_that_the_configuration_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start(&dir, &[]);
    let address = server.address.to_string();
    let well = run(&["healthcheck", "--listen", &address]);
    assert_eq!((well.code, well.out.as_str()), (0, "ok\n"), "{well:?}");
    let mut by_environment = binary(&["healthcheck"]);
    by_environment.env("BINARYREPO_SERVER__LISTEN", &address);
    assert_eq!(run_with(by_environment, "").code, 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), 0);
    let ill = run(&["healthcheck", "--listen", &address]);
    assert_eq!(ill.code, 1);
    assert!(ill.err.contains(&format!("http://{address}/healthz is not well")), "{ill:?}");
}

/// What `check-config` prints is a configuration with the same meaning.
#[tokio::test(flavor = "multi_thread")]
async fn check_config_prints_what_could_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("binaryrepo.toml");
    let written = "[server]\nlisten = \"127.0.0.1:5000\"\nbody_timeout = \"7s\"\ntrusted_proxies = [\"10.0.0.0/8\"]\nopen_access = true\n\
        [[repository]]\nname = \"hub\"\nrepo_type = \"remote\"\nremote_url = \"https://registry-1.docker.io\"\n\
        username = \"ada\"\npassword = \"canary\"\nmirrors = [\"https://mirror.test\"]\nmax_size = \"1GiB\"\n";
    std::fs::write(&file, written).unwrap();
    let check = |file: &std::path::Path| {
        run(&["check-config", "--config", file.to_str().unwrap(), "--data-dir", "/srv/data"])
    };
    let first = check(&file);
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.err.contains("warning: ") && first.err.contains("may be read by other users"), "{first:?}");
    assert!(!format!("{first:?}").contains("canary"));
    let again = dir.path().join("again.toml");
    let with_password = first.out.replace("# password = [redacted]", "password = \"canary\"");
    std::fs::write(&again, with_password).unwrap();
    let second = check(&again);
    assert_eq!(second.code, 0, "{second:?}\n{}", first.out);
    let settings = |text: &str| -> Vec<String> {
        let of_line = |line: &str| line.split(" # ").next().unwrap_or_default().trim().to_owned();
        text.lines().map(of_line).collect()
    };
    assert_eq!(settings(&first.out), settings(&second.out));
}

/// A command that meets the API's own answer, as `curl` would: the two must not drift apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_commands_json_is_the_apis() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(&dir, &[]);
    let way = Way::data("by socket", &dir);
    assert_eq!(way.json(&["repo", "list"]), server.get("/api/repository").await.json());
    let shown = server.send(Ask::get("/api/repository/docker-remote")).await.json();
    assert_eq!(way.json(&["repo", "show", "docker-remote"]), shown);
    assert_eq!(way.json(&["ls"]), server.get("/api/images").await.json());
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_is_asked_for_alike_in_every_way() {
    let (ways, _dirs, _servers) = ways();
    for way in &ways {
        let nothing = "nothing to remove: everything is needed, or younger than the grace\n";
        assert_eq!(way.good(&["gc", "--dry-run"]), nothing, "{}", way.name);
        assert_eq!(way.good(&["gc"]), nothing, "{}", way.name);
        let expected =
            json!({ "dry_run": false, "uploads": 0, "links": 0, "manifests": 0, "blobs": 0, "bytes": 0 });
        assert_eq!(way.json(&["gc"]), expected, "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_is_followed_to_its_end_in_every_way() {
    let (ways, _dirs, _servers) = ways();
    for way in &ways {
        let whole = "checked 0 blobs and 0 manifests, 0 B: 0 damaged\n";
        assert_eq!(way.good(&["scrub"]), whole, "{}", way.name);
        assert_eq!(way.good(&["scrub", "--stop"]), "", "{}", way.name);
        let report = way.json(&["scrub", "--rate", "5MiB"]);
        assert_eq!((&report["finished"], &report["damaged"]), (&json!(true), &json!([])), "{}", way.name);
        let refused = way.run(&["scrub", "--rate", "fast"]);
        assert!(refused.code == 2 && refused.err.contains("not a size"), "{}: {refused:?}", way.name);
    }
}
