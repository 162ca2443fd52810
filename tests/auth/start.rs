//! Starting: when a server refuses to be open by mistake, and how there comes to be a first administrator.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use binaryrepo::StartError;
use binaryrepo::config::FirstAdmin;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::client::Request;
use super::house::config;

const BEYOND: &str = "[server]\nlisten = \"0.0.0.0:0\"\n[storage]\nmin_free = 0\n";
const PASSWORD: &str = "canary-first-password";

/// Runs a server until it listens, and hands back the answer to one request.
async fn ask(
    dir: &TempDir,
    text: &str,
    first: Option<FirstAdmin>,
    credentials: Option<(&str, &str)>,
) -> Result<u16, StartError> {
    let mut config = config(dir, text);
    config.first_admin = first;
    let stop = CancellationToken::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    let serving = binaryrepo::serve(config, stop.clone(), |started| {
        let _ = tell.send(started.address);
    });
    let asking = async {
        let Ok(mut address) = told.await else {
            return 0;
        };
        address.set_ip([127, 0, 0, 1].into());
        let request = Request::new(address, "GET", "/v2/");
        let request = match credentials {
            Some((user, password)) => request.basic(user, password),
            None => request,
        };
        let status = request.send().await.status;
        stop.cancel();
        status
    };
    let (served, status) = tokio::join!(serving, asking);
    served.map(|()| status)
}

fn password_file(dir: &TempDir, password: &str) -> PathBuf {
    let path = dir.path().join("password");
    std::fs::write(&path, format!("{password}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn first(name: &str, file: PathBuf) -> Option<FirstAdmin> {
    Some(FirstAdmin { name: name.parse().unwrap(), password_file: file })
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_there_must_be_somebody_or_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let refused = ask(&dir, BEYOND, None, None).await.expect_err("open by mistake");
    assert!(matches!(refused, StartError::Config(_)), "{refused}");
    assert!(!dir.path().join("data/meta.redb").exists(), "nothing was made");
    // With a word: open.
    let word = BEYOND.replace("[storage]", "open_access = true\n[storage]");
    assert_eq!(ask(&dir, &word, None, None).await.ok(), Some(200));
    // The word is taken back, and there still is nobody.
    assert!(matches!(ask(&dir, BEYOND, None, None).await, Err(StartError::Config(_))));
    // Somebody to log in as: closed, and it starts.
    let file = password_file(&dir, PASSWORD);
    assert_eq!(ask(&dir, BEYOND, first("root", file), None).await.ok(), Some(401));
    assert_eq!(ask(&dir, BEYOND, None, Some(("root", PASSWORD))).await.ok(), Some(200));
}

/// A proxy on this machine brings whoever reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_here_there_must_be_somebody_or_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let behind = BEYOND
        .replace("listen = \"0.0.0.0:0\"", "listen = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]");
    let refused = ask(&dir, &behind, None, None).await.expect_err("open by mistake");
    assert!(matches!(refused, StartError::Config(_)), "{refused}");
    let word = behind.replace("[storage]", "open_access = true\n[storage]");
    assert_eq!(ask(&dir, &word, None, None).await.ok(), Some(200));
    let file = password_file(&dir, PASSWORD);
    assert_eq!(ask(&dir, &behind, first("root", file), None).await.ok(), Some(401));
    assert_eq!(ask(&dir, &behind, None, Some(("root", PASSWORD))).await.ok(), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = password_file(&dir, PASSWORD);
    assert_eq!(
        ask(&dir, BEYOND, first("root", file.clone()), Some(("root", PASSWORD))).await.ok(),
        Some(200)
    );
    // Later starts change nothing, and need no file.
    std::fs::write(&file, "another password").unwrap();
    let later = ask(&dir, BEYOND, first("root", file.clone()), Some(("root", PASSWORD))).await;
    assert_eq!(later.ok(), Some(200));
    std::fs::remove_file(&file).unwrap();
    let other = ask(&dir, BEYOND, first("toor", file), Some(("toor", "another password"))).await;
    assert_eq!(other.ok(), Some(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_administrator_who_cannot_be_made_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let missing = ask(&dir, BEYOND, first("root", dir.path().join("none")), None).await;
    assert!(missing.expect_err("no file").to_string().contains("none"));
    let short = password_file(&dir, "short");
    let refused = ask(&dir, BEYOND, first("root", short), None).await.expect_err("too short").to_string();
    assert!(refused.contains("too short") && !refused.contains("short\n"), "{refused}");
}
