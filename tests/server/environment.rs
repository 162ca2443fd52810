//! What comes to the process by its environment alone: where systemd waits for word, and the proxies.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::client::{Answer, Ask};
use super::process::Process;
use super::support::image::Image;
use super::support::proxy::Proxy;
use super::support::upstream::{Options, Registry};

/// The unit is `Type=notify`: without the first word systemd would end the server, without the second it would not
/// know that a stop is under way.
#[test]
fn systemd_is_told_when_it_serves_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).expect("a word in time");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let mut server = Process::start_with_env(&dir, &[("NOTIFY_SOCKET", socket.to_str().unwrap())]);
    assert_eq!(heard(), "READY=1");
    server.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(server.wait(), 0);
}

/// A tag pulled through a server that was started with these variables.
async fn pulled(env: &[(&str, &str)], registry: &Registry, tls: bool) -> Answer {
    let dir = tempfile::tempdir().unwrap();
    let mut form = json!({ "name": "hub", "repo_type": "remote", "remote_url": registry.url().as_str() });
    if tls {
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, registry.ca_pem()).unwrap();
        form["ca_file"] = json!(file);
    }
    let server = Process::start_with_env(&dir, env);
    let made = server.send(Ask::new("POST", "/api/repository").json(&form)).await;
    assert_eq!(made.status, 201, "{}", made.all());
    server.get("/v2/hub/team/app/manifests/7").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxies_of_the_environment_are_used_but_where_it_says_not_to() {
    let image = Image::new(1501, &[900]);
    // Whether the upstream speaks TLS, the variables in the order of their names, and which proxy is asked: for a tunnel
    // where there is TLS.
    let rows = [
        (false, ["first", "", ""], [1, 0]),
        (false, ["first", "second", "other.test"], [1, 0]),
        (false, ["first", "second", "other.test,127.0.0.1"], [0, 0]),
        (true, ["first", "second", ""], [0, 1]),
        (true, ["first", "second", "127.0.0.0/8"], [0, 0]),
    ];
    for (tls, variables, expected) in rows {
        let registry = Registry::start(Options { tls, ..Options::default() }).await;
        registry.add_image("team/app", "7", &image);
        let proxies = [Proxy::start().await, Proxy::start().await];
        let values = variables.map(|variable| match variable {
            "first" => proxies[0].url(),
            "second" => proxies[1].url(),
            other => other.to_owned(),
        });
        let names = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
        let env: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        assert_eq!(pulled(&env, &registry, tls).await.body, image.manifest.bytes, "{variables:?}");
        let asked = proxies.each_ref().map(|proxy| usize::from(!proxy.heads().is_empty()));
        assert_eq!(asked, expected, "{variables:?}, TLS {tls}");
        let heads = proxies.iter().flat_map(Proxy::heads);
        let sound = |head: &String| head.starts_with("CONNECT ") == tls && head.contains(" http://") != tls;
        assert!(heads.filter(|head| !sound(head)).count() == 0, "{variables:?}, TLS {tls}");
    }
}
