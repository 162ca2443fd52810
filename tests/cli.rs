//! The command line from outside: the real binary, its exit codes, and what it says.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary in an environment without settings.
fn binary(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_binaryrepo"));
    command
        .args(args)
        .env_clear()
        .env("HOME", "/nowhere/home")
        .env("THE_PASSWORD", "canary")
        .stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    ended(&binary(args).output().expect("the binary runs"))
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Answers one request on an open stream, and hands back what was asked.
fn answer(mut stream: impl Read + Write, status: &str, body: &str) -> String {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    // A request of a command fits its head and body into what it says.
    while !is_whole(&asked) {
        let read = stream.read(&mut buffer).expect("the command writes");
        assert_ne!(read, 0, "half a request: {}", String::from_utf8_lossy(&asked));
        asked.extend_from_slice(&buffer[..read]);
    }
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(reply.as_bytes()).expect("the command reads");
    String::from_utf8_lossy(&asked).into_owned()
}

fn is_whole(asked: &[u8]) -> bool {
    let text = String::from_utf8_lossy(asked);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// Runs a command beside a server of one answer on the data directory's socket.
fn with_server(args: &[&str], input: &str, status: &str, body: &str) -> ((i32, String, String), String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = UnixListener::bind(dir.path().join("admin.sock")).expect("a socket");
    let mut command = binary(args);
    command.arg("--data-dir").arg(dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    // A command that reads no stdin may have closed it.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    // The first connection only looks whether somebody is there.
    drop(socket.accept().expect("the command knocks"));
    let (stream, _) = socket.accept().expect("the command asks");
    let asked = answer(stream, status, body);
    (ended(&child.wait_with_output().expect("the command ends")), asked)
}

#[test]
fn help_names_every_command_and_teaches_with_examples() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for part in [
        "serve ",
        "check-config ",
        "healthcheck ",
        "repo ",
        "image ",
        "ls ",
        "purge ",
        "backup ",
        "restore ",
        "user ",
        "grant ",
        "token ",
        "bench ",
        "version ",
        "--config <FILE>",
        "--data-dir <DIR>",
        "Examples:",
        "docker pull localhost:8081/docker-remote/alpine",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 configuration or data directory, 4 server unreachable",
    ] {
        assert!(help.contains(part), "no `{part}` in:\n{help}");
    }
    for command in [
        &["serve"][..],
        &["healthcheck"],
        &["ls"],
        &["purge"],
        &["image", "ls"],
        &["image", "show"],
        &["image", "rm"],
        &["backup"],
        &["restore"],
        &["repo", "add"],
        &["repo", "update"],
        &["token", "show"],
        &["token", "create"],
        &["user", "add"],
        &["grant", "add"],
        &["bench", "herd"],
    ] {
        let (code, help, _) = run(&[command, &["--help"]].concat());
        assert!(code == 0 && help.contains("Examples:"), "{command:?}:\n{help}");
    }
}

#[test]
fn every_field_of_a_remote_has_its_flag() {
    let (_, help, _) = run(&["repo", "add", "--help"]);
    for field in binaryrepo::form::FIELDS {
        let flag = match field {
            "name" | "remote_url" => continue,
            "repo_type" => "--local".to_owned(),
            "password" => "--password-stdin".to_owned(),
            "allowed_hosts" => "--allowed-host".to_owned(),
            "mirrors" => "--mirror".to_owned(),
            _ => format!("--{}", field.replace('_', "-")),
        };
        assert!(help.contains(&flag), "no {flag} in:\n{help}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["serv"][..],
        &["serve", "--listen", "8081"],
        &["serve", "--set", "max_size=1"],
        &["repo", "add", "Quay", "https://quay.io"],
        &["repo", "add", "quay"],
        &["repo", "add", "quay", "https://quay.io", "--local"],
        &["repo", "update", "quay"],
        &["repo", "update", "quay", "--reset", "colour"],
        &["purge", "docker-remote"],
        &["image", "rm", "docker-local/app"],
        &["image", "rm", "docker-local/app:1", "--all"],
        &["image", "show", "docker-local/app:1"],
        &["image", "show", "docker-local"],
        &["ls", "--server", "ftp://host"],
        &["bench", "herd", "localhost:8081/docker-remote/redis"],
        &["bench", "herd", "http://localhost:8081/docker-remote/redis", "--clients", "201"],
        // Of another machine (RFC 5737, so of nobody's).
        &["bench", "herd", "http://192.0.2.1/docker-remote/redis"],
    ] {
        let (code, stdout, stderr) = run(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("error: "), "{args:?}: {stdout}{stderr}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test writes the file that is read")]
fn a_wrong_configuration_ends_with_3_and_shows_where() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("binaryrepo.toml");
    std::fs::write(&file, "[server]\nlisten = \"8081\"\npassword = \"canary\"\n").expect("a file");
    let path = file.to_str().expect("UTF-8");
    for command in ["serve", "check-config", "ls", "healthcheck"] {
        let (code, _, stderr) = run(&[command, "--config", path]);
        assert_eq!(code, 3, "{stderr}");
        for part in
            ["error: the configuration cannot be used\ncause: ", "line 2, column 10", "2 | listen = \"8081\""]
        {
            assert!(stderr.contains(part), "no `{part}` in:\n{stderr}");
        }
        assert!(!stderr.contains("canary"), "{stderr}");
    }
}

#[test]
fn listening_beyond_loopback_takes_a_word() {
    let (code, _, stderr) = run(&["serve", "--listen", "0.0.0.0:0", "--data-dir", "/nowhere"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("everyone who reaches")
            && stderr.contains("hint: make a user with `binaryrepo user add --admin NAME`")
            && stderr.contains("--open-access"),
        "{stderr}"
    );
}

#[test]
fn check_config_shows_what_is_in_force_and_why() {
    let mut command =
        binary(&["check-config", "--listen", "127.0.0.1:5000", "--set", "storage.max_size=50%"]);
    let output = command
        .env("BINARYREPO_SERVER__IDLE_TIMEOUT", "90s")
        .env("BINARYREPO_ADMIN_TOKEN", "canary")
        .output();
    let (code, stdout, stderr) = ended(&output.expect("the binary runs"));
    assert_eq!(code, 0, "{stderr}");
    let line = |key: &str| stdout.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(
        line("listen").starts_with("listen = \"127.0.0.1:5000\"") && line("listen").ends_with("# --listen")
    );
    assert!(
        line("idle_timeout").contains("\"90s\"")
            && line("idle_timeout").ends_with("# BINARYREPO_SERVER__IDLE_TIMEOUT")
    );
    assert!(line("max_size").contains("\"50%\"") && line("max_size").ends_with("# --set storage.max_size"));
    assert!(line("header_timeout").ends_with("# default"), "{stdout}");
    assert!(!stdout.contains("canary") && stderr.contains("can be used"));
}

#[test]
fn a_server_that_does_not_answer_ends_with_4() {
    let (code, _, stderr) = run(&["repo", "list", "--server", "http://127.0.0.1:1", "--token", "canary"]);
    assert_eq!(code, 4, "{stderr}");
    for part in ["error: http://127.0.0.1:1/ does not answer", "cause: ", "hint: "] {
        assert!(stderr.contains(part), "no `{part}` in:\n{stderr}");
    }
    assert!(!stderr.contains("canary"));
}

#[test]
fn commands_reach_the_running_server_by_its_socket() {
    let list = r#"{"repositories":[{"name":"docker-local","repo_type":"local","package_type":"docker"}]}"#;
    let ((code, stdout, stderr), asked) = with_server(&["repo", "list"], "", "200 OK", list);
    assert_eq!(code, 0, "{stderr}");
    assert!(asked.starts_with("GET /api/repository HTTP/1.1\r\n"), "{asked}");
    assert!(
        stdout.starts_with("NAME          TYPE   UPSTREAM  TAG TTL  NOTES\ndocker-local  local"),
        "{stdout}"
    );
    let ((_, stdout, _), _) = with_server(&["repo", "list", "--json"], "", "200 OK", list);
    let shown: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(shown["repositories"][0]["name"], "docker-local");
}

/// Every flag of a remote that goes into the request as it is, with its value and the JSON of that.
const REMOTE_FLAGS: [(&str, &str, &str); 14] = [
    ("--username", "ada", r#"{"username":"ada"}"#),
    ("--ca-file", "/etc/ca.pem", r#"{"ca_file":"/etc/ca.pem"}"#),
    ("--tag-ttl", "5m", r#"{"tag_ttl":"5m"}"#),
    ("--negative-ttl", "0s", r#"{"negative_ttl":"0s"}"#),
    ("--stale-if-error", "1d", r#"{"stale_if_error":"1d"}"#),
    ("--max-size", "10GiB", r#"{"max_size":"10GiB"}"#),
    ("--upstream-namespace", "docker.io", r#"{"upstream_namespace":"docker.io"}"#),
    ("--default-mirror", "", r#"{"default_mirror":true}"#),
    ("--anonymous-pull=false", "", r#"{"anonymous_pull":false}"#),
    ("--allowed-host", "auth.test", ""),
    ("--allowed-host", "cdn.test", r#"{"allowed_hosts":["auth.test","cdn.test"]}"#),
    ("--mirror", "https://m1", ""),
    ("--mirror", "https://m2", r#"{"mirrors":["https://m1","https://m2"]}"#),
    ("--package-type", "docker", r#"{"package_type":"docker"}"#),
];

/// What `repo add hub` is to send, besides that it is a remote.
fn expected(more: &[&str]) -> serde_json::Value {
    let object = |text: &str| serde_json::from_str::<serde_json::Map<_, _>>(text).expect("an object");
    let mut all = object(
        r#"{"name":"hub","repo_type":"remote","package_type":"docker","remote_url":"https://registry-1.docker.io"}"#,
    );
    more.iter().for_each(|text| all.extend(object(text)));
    all.into()
}

/// The body of `repo add hub URL` with these flags, which must be one that the server reads.
fn added(flags: &[&str], input: &str) -> serde_json::Value {
    let args = [&["repo", "add", "hub", "https://registry-1.docker.io"], flags].concat();
    let made = r#"{"name":"hub","repo_type":"remote","username":"ada","password_set":true,"tag_ttl":"5m"}"#;
    let ((code, stdout, stderr), asked) = with_server(&args, input, "201 Created", made);
    assert_eq!(code, 0, "{stderr}");
    let (head, body) = asked.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /api/repository HTTP/1.1\r\n"));
    assert!(stdout.contains("password_set        yes") && !format!("{stdout}{stderr}").contains("canary"));
    let form = binaryrepo::form::RepositoryForm::from_json(body.as_bytes());
    assert!(form.is_ok_and(|form| form.create().is_ok()), "{body}");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn add_sends_what_the_flags_say_and_shows_no_password() {
    let flags =
        REMOTE_FLAGS.iter().flat_map(|(flag, value, _)| [*flag, *value]).filter(|word| !word.is_empty());
    let flags: Vec<&str> = flags.collect();
    let parts: Vec<&str> =
        REMOTE_FLAGS.iter().map(|(_, _, part)| *part).filter(|part| !part.is_empty()).collect();
    let with = |password: &str| expected(&[&parts[..], &[password]].concat());
    // The ways to a password, of which there can be one.
    let body = added(&[&flags[..], &["--password-stdin"]].concat(), "canary\n");
    assert_eq!(body, with(r#"{"password":"canary"}"#));
    let body = added(&[&flags[..], &["--password-file", "/run/password"]].concat(), "");
    assert_eq!(body, with(r#"{"password_file":"/run/password"}"#));
    let body = added(&[&flags[..], &["--password-env", "THE_PASSWORD"]].concat(), "");
    assert_eq!(body, with(r#"{"password":"canary"}"#));
    for pair in [["--password-stdin", "--password-file=x"], ["--password-env=X", "--password-file=x"]] {
        assert_eq!(run(&[&["repo", "add", "hub", "https://h", "--username", "u"], &pair[..]].concat()).0, 2);
    }
    let unset = ["repo", "add", "hub", "https://h", "--username", "u", "--password-env", "NO_SUCH"];
    let (code, _, stderr) = run(&[&unset[..], &["--data-dir", "/nowhere"]].concat());
    assert!(code == 2 && stderr.contains("the environment has no `NO_SUCH`"), "{stderr}");
}

#[test]
fn the_flags_of_a_local_repository_are_sent_and_all_are_tried() {
    let args =
        ["repo", "add", "team", "--local", "--immutable-tags", "--sparse-manifests", "--anonymous-pull"];
    let ((code, _, stderr), asked) = with_server(&args, "", "201 Created", "{}");
    assert_eq!(code, 0, "{stderr}");
    let body: serde_json::Value =
        serde_json::from_str(asked.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    let expected = r#"{"name":"team","repo_type":"local","package_type":"docker","immutable_tags":true,"sparse_manifests":true,
        "anonymous_pull":true}"#;
    assert_eq!(body, serde_json::from_str::<serde_json::Value>(expected).expect("JSON"));
    // What there is a flag for is in one of these tests.
    let tried = ["--password-stdin", "--password-file", "--password-env"];
    let of_all = ["--config", "--data-dir", "--server", "--token", "--json", "--help"];
    let (_, help, _) = run(&["repo", "add", "--help"]);
    let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
    let names = flags.map(|word| word.split(['[', '=', ',']).next().unwrap_or_default().to_owned());
    let examples = help.find("Examples:").expect("examples");
    for name in names.filter(|name| help[..examples].contains(name.as_str())) {
        let known = REMOTE_FLAGS.iter().any(|(flag, ..)| flag.split('=').next() == Some(&name));
        assert!(
            known
                || args.contains(&name.as_str())
                || tried.contains(&name.as_str())
                || of_all.contains(&name.as_str()),
            "{name} is tried by no test"
        );
    }
}

#[test]
fn update_and_remove_and_purge_ask_for_what_they_say() {
    let args = ["repo", "update", "hub", "--tag-ttl", "1m", "--reset", "max_size"];
    let (_, asked) = with_server(&args, "", "200 OK", "{}");
    assert!(
        asked.starts_with("PUT /api/repository/hub ")
            && asked.ends_with(r#"{"max_size":null,"tag_ttl":"1m"}"#),
        "{asked}"
    );
    let ((_, stdout, _), asked) =
        with_server(&["repo", "remove", "hub", "--purge"], "", "204 No Content", "");
    assert!(
        asked.starts_with("DELETE /api/repository/hub?purge=true ") && stdout == "removed hub\n",
        "{asked}{stdout}"
    );
    let answer = r#"{"documents":2,"blobs":3,"bytes":2048}"#;
    let ((_, stdout, _), asked) = with_server(&["purge", "hub/redis:7"], "", "200 OK", answer);
    assert!(asked.ends_with(r#"{"image":"redis","repository":"hub","tag":"7"}"#), "{asked}");
    assert_eq!(stdout, "removed 2 manifests and 3 blobs, 2.00 KiB\n");
    let ((_, stdout, _), asked) = with_server(&["ls", "hub"], "", "200 OK", r#"{"images":[]}"#);
    assert!(asked.starts_with("GET /api/images?repository=hub ") && stdout == "there are no images yet\n");
}

#[test]
fn an_error_of_the_server_is_told_with_its_hint() {
    let conflict = r#"{"error":{"message":"hub exists already","hint":"use repo update"}}"#;
    let args = ["repo", "add", "hub", "https://h"];
    let ((code, _, stderr), _) = with_server(&args, "", "409 Conflict", conflict);
    assert_eq!((code, stderr.as_str()), (1, "error: hub exists already\nhint: use repo update\n"));
    let wrong = r#"{"error":{"field":"tag_ttl","message":"`x` is not a duration"}}"#;
    let ((code, _, stderr), _) = with_server(&args, "", "400 Bad Request", wrong);
    assert_eq!((code, stderr.as_str()), (2, "error: tag_ttl: `x` is not a duration\n"));
}

#[test]
fn healthcheck_tells_by_its_code() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    for (status, expected) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let child = binary(&["healthcheck", "--listen", &address])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let (stream, _) = listener.accept().expect("a connection");
        let asked = answer(stream, status, "");
        assert!(asked.starts_with("GET /healthz HTTP/1.1\r\n"), "{asked}");
        let (code, _, stderr) = ended(&child.and_then(|child| child.wait_with_output()).expect("it ends"));
        assert_eq!(code, expected, "{stderr}");
    }
    // It takes the connection and says nothing: both spellings of a moment.
    for timeout in ["1", "100ms"] {
        let (code, _, stderr) = run(&["healthcheck", "--listen", &address, "--timeout", timeout]);
        assert!(code == 1 && stderr.contains("is not well"), "{stderr}");
    }
    for wrong in ["0", "0s", "6m", "301", "soon"] {
        let (code, _, stderr) = run(&["healthcheck", "--listen", &address, "--timeout", wrong]);
        assert!(code == 2 && stderr.contains("--timeout"), "{stderr}");
    }
    drop(listener);
    assert_eq!(run(&["healthcheck", "--listen", &address]).0, 1);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test writes the file that is read")]
fn the_token_is_shown_from_its_file_or_the_environment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_str().expect("UTF-8");
    let (code, _, stderr) = run(&["token", "show", "--data-dir", path]);
    assert!(code == 3 && stderr.contains("hint: the first start makes it"), "{stderr}");
    std::fs::write(Path::new(path).join("admin.token"), "secret\n").expect("a file");
    assert_eq!(run(&["token", "show", "--data-dir", path]), (0, "secret\n".to_owned(), String::new()));
    let output = binary(&["token", "show"]).env("BINARYREPO_ADMIN_TOKEN", "other").output();
    assert_eq!(ended(&output.expect("it runs")).1, "other\n");
}

#[test]
fn a_herd_that_finds_no_registry_ends_with_4_and_one_that_is_not_served_with_1() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/docker-remote/redis:7", listener.local_addr().expect("an address"));
    let herd = ["bench", "herd", url.as_str(), "--clients", "1"];
    let child = binary(&herd).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    // Its look at the metrics, the pull, and another look.
    for _ in 0..3 {
        answer(listener.accept().expect("a connection").0, "503 Service Unavailable", "");
    }
    let (code, stdout, stderr) = ended(&child.and_then(|child| child.wait_with_output()).expect("it ends"));
    assert_eq!((code, stderr.as_str()), (1, "error: 1 of 1 clients were not served\n"));
    assert!(stdout.contains("digests right  0 of 1\n  1 failed: answered 503"), "{stdout}");
    drop(listener);
    let (code, _, stderr) = run(&herd);
    assert!(code == 4 && stderr.contains("does not answer\ncause: "), "{stderr}");
}

/// A command with something on its stdin, and the data directory in a place of its own.
fn with_input(dir: &Path, args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = binary(args);
    command.arg("--data-dir").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    // A command that reads no stdin may have closed it.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    ended(&child.wait_with_output().expect("the command ends"))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test looks at the directory it gave")]
fn users_grants_and_tokens_are_made_while_no_server_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = |args: &[&str], input| with_input(dir.path(), args, input);
    let (code, stdout, stderr) =
        run(&["user", "add", "ada", "--admin", "--password-stdin"], "canary-password\n");
    assert_eq!((code, stdout.as_str()), (0, "made ada\n"), "{stderr}");
    assert!(stderr.contains("from now on pulls need a log-in"), "{stderr}");
    let (code, _, stderr) = run(&["user", "add", "ben", "--password-stdin"], "short\n");
    assert_eq!((code, stderr.as_str()), (2, "error: password: is too short: at least 8 characters\n"));
    let (code, _, stderr) = run(&["user", "add", "ben"], "");
    assert!(code == 2 && stderr.contains("--password-stdin"), "{stderr}");
    assert_eq!(run(&["user", "add", "ben", "--password-stdin"], "canary-password").0, 0);
    assert_eq!(run(&["user", "passwd", "ben", "--password-stdin"], "canary-another").0, 0);
    assert_eq!(run(&["user", "update", "ben", "--disabled"], "").0, 0);
    let (_, stdout, _) = run(&["user", "list"], "");
    assert!(stdout.contains("administrator") && stdout.contains("disabled"), "{stdout}");
    let granted = run(&["grant", "add", "ben", "write", "docker-local/team/*"], "");
    assert_eq!(granted, (0, "ben: write docker-local/team/*\n".to_owned(), String::new()));
    // Docker Hub's own short names.
    let granted = run(&["grant", "add", "ben", "read", "docker-remote/redis"], "");
    assert_eq!(granted.1, "ben: read docker-remote/library/redis\n");
    let args = ["token", "create", "ci", "--robot", "--scope", "read:docker-local", "--expires", "90d"];
    let (code, token, stderr) = run(&args, "");
    assert!(code == 0 && token.starts_with("brt_") && token.trim().len() == 36, "{stderr}");
    let id = stderr.split(' ').nth(1).expect("an id").to_owned();
    let (_, stdout, _) = run(&["token", "list"], "");
    assert!(
        stdout.contains(&id) && stdout.contains("read:docker-local") && !stdout.contains("brt_"),
        "{stdout}"
    );
    assert_eq!(run(&["token", "revoke", &id], "").1, format!("revoked {id}\n"));
    assert_eq!(run(&["grant", "remove", "ben", "docker-remote/redis"], "").0, 0);
    assert_eq!(run(&["grant", "list"], "").1.lines().count(), 2);
    assert_eq!(run(&["user", "remove", "ben"], "").1, "removed ben\n");
    assert!(run(&["grant", "list"], "").1.starts_with("nothing was granted"));
    // Somebody can log in now, so the server may listen anywhere; and dockerd needs another address.
    let (code, _, stderr) = run(&["check-config", "--listen", "0.0.0.0:8081"], "");
    assert!(
        code == 0 && stderr.contains("registry-mirror, http://REPOSITORY.binaryrepo.local:8081"),
        "{stderr}"
    );
    let other = tempfile::tempdir().expect("a temporary directory");
    let (code, _, stderr) = with_input(other.path(), &["check-config", "--listen", "0.0.0.0:8081"], "");
    assert!(code == 3 && stderr.contains("binaryrepo user add"), "{stderr}");
    assert_eq!(std::fs::read_dir(other.path()).expect("readable").count(), 0, "nothing is made by a look");
}

#[test]
fn commands_about_people_ask_for_what_they_say() {
    let made = r#"{"id":"0123456789ab","name":"ci","token":"brt_secret"}"#;
    let args = ["token", "create", "ci", "--user", "ada", "--scope", "write:docker-local/team/*"];
    let ((code, stdout, stderr), asked) = with_server(&args, "", "201 Created", made);
    assert_eq!((code, stdout.as_str()), (0, "brt_secret\n"), "{stderr}");
    assert!(asked.starts_with("POST /api/tokens "), "{asked}");
    let body = r#"{"name":"ci","robot":false,"scopes":[{"images":"team/*","repository":"docker-local","role":"write"}],"user":"ada"}"#;
    assert!(asked.ends_with(body), "{asked}");
    let (_, asked) = with_server(&["grant", "remove", "a+b@c", "*"], "", "204 No Content", "");
    assert!(asked.starts_with("DELETE /api/grants?user=a%2Bb%40c&repository=%2A&images=%2A "), "{asked}");
    let (_, asked) = with_server(&["user", "update", "ada", "--admin=false"], "", "200 OK", "{}");
    assert!(asked.starts_with("PUT /api/users/ada ") && asked.ends_with(r#"{"admin":false}"#), "{asked}");
    for args in [
        &["user", "add", "Ada"][..],
        &["user", "update", "ada"],
        &["grant", "add", "ada", "own", "x"],
        &["token", "create", "x"],
        &["token", "create", "x", "--robot"],
        &["token", "create", "x", "--user", "a", "--robot"],
        &["token", "revoke", "../x"],
    ] {
        assert_eq!(run(args).0, 2, "{args:?}");
    }
}

#[test]
fn version_is_told() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&["version"]).1, format!("binaryrepo {version}\n"));
    assert_eq!(run(&["--version"]).1, format!("binaryrepo {version}\n"));
    assert!(run(&["version", "--json"]).1.contains(&format!("\"version\": \"{version}\"")));
}
