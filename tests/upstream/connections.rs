//! Connections: TLS, proxies, the pool, and their failures.

use std::time::{Duration, Instant};

use binaryrepo::clock::Clock;
use binaryrepo::upstream::{Kind, Proxies, Settings, SettingsError, Upstream};
use tempfile::NamedTempFile;
use url::Url;

use crate::support::fault::Fault;
use crate::support::image::Image;
use crate::support::proxy::Proxy;
use crate::support::upstream::{Options, Registry};
use crate::{SHORT, client, client_with, drain, image, reference};

fn pem(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_it_is_named() {
    let registry = Registry::start(Options { tls: true, ..Options::default() }).await;
    let error = client(&registry).ping().await.unwrap_err();
    assert_eq!(error.kind, Kind::Tls);
    assert!(!error.retryable());
    assert!(error.message.contains("TLS"), "{error}");

    let ca = pem(registry.ca_pem());
    client_with(&registry, |settings| settings.ca_file = Some(ca.path().to_owned())).ping().await.unwrap();
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings::new(Url::parse("https://registry.example.com").unwrap());
        change(&mut settings);
        Upstream::with_proxies(settings, Clock::new(), Proxies::none()).unwrap_err()
    };
    let (empty, broken) = (pem(""), pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    for path in [empty.path(), broken.path(), "/no/such/file".as_ref()] {
        let error = refused(&|settings| settings.ca_file = Some(path.to_owned()));
        assert!(matches!(error, SettingsError::CaFile { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let base = |text: &'static str| refused(&|settings| settings.base = Url::parse(text).unwrap());
    assert!(matches!(base("ftp://registry.example.com"), SettingsError::Address));
    assert!(matches!(base("https://user:word@registry.example.com"), SettingsError::Extras));
    assert!(matches!(base("https://registry.example.com?x"), SettingsError::Extras));
    let error = refused(&|settings| settings.username = Some("bob".into()));
    assert!(matches!(error, SettingsError::HalfCredentials));
    let error = refused(&|settings| settings.allowed_hosts = vec!["https://cdn".into()]);
    assert!(matches!(error, SettingsError::AllowedHost(_)));
}

#[tokio::test]
async fn a_base_with_a_path_is_kept() {
    let registry = Registry::open().await;
    registry.always("GET /mirror/hub/v2/", Fault::answer(200, &[], "{}"));
    let upstream = client_with(&registry, |settings| settings.base.set_path("/mirror/hub/"));
    upstream.ping().await.unwrap();
    assert_eq!(registry.log()[0].path, "/mirror/hub/v2/");
    assert_eq!(upstream.host_label(), registry.address().to_string());
}

#[tokio::test]
async fn what_cannot_be_connected_to_says_so() {
    let registry = Registry::open().await;
    registry.stop().await;
    let error = client(&registry).ping().await.unwrap_err();
    assert_eq!(error.kind, Kind::Connect);
    assert!(error.message.contains("refused"), "{error}");
    assert!(error.retryable());

    let unknown = Settings::new(Url::parse("http://no-such-host.invalid").unwrap());
    let error =
        Upstream::with_proxies(unknown, Clock::new(), Proxies::none()).unwrap().ping().await.unwrap_err();
    assert_eq!(error.kind, Kind::Connect, "{error}");
    assert!(error.message.starts_with("no-such-host.invalid: "), "{error}");
}

#[tokio::test]
async fn a_handshake_that_is_not_answered_times_out() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://{}", silent.local_addr().unwrap());
    let mut settings = Settings::new(Url::parse(&base).unwrap());
    settings.timeouts.connect = Duration::from_millis(200);
    let upstream = Upstream::with_proxies(settings, Clock::new(), Proxies::none()).unwrap();
    let started = Instant::now();
    let error = upstream.ping().await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_silent_upstream_times_out() {
    let registry = Registry::open().await;
    registry.always("/v2/", Fault::silence());
    let error = client_with(&registry, |settings| settings.timeouts = SHORT).ping().await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(error.retryable());
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_is_replaced_once() {
    let registry = Registry::open().await;
    for fault in [Fault::CloseBeforeHead, Fault::ResetBeforeHead] {
        let upstream = client(&registry);
        upstream.ping().await.unwrap();
        registry.script("/v2/", [fault.clone()]);
        upstream.ping().await.unwrap();
        // On a new connection it is not the pool's fault, and trying again is for the caller to decide.
        registry.script("/v2/", [fault]);
        let error = client(&registry).ping().await.unwrap_err();
        assert_eq!(error.kind, Kind::Broken);
        assert!(error.retryable());
    }
}

#[tokio::test]
async fn connections_are_used_again_but_not_half_read_ones() {
    let registry = Registry::open().await;
    registry.add_image("library/redis", "latest", &Image::new(1, &[10]));
    let blob = registry.add_blob("library/redis", 3, 4 << 20);
    let upstream = client(&registry);
    for _ in 0..5 {
        upstream.manifest(&image(), &reference("latest")).await.unwrap();
        upstream.manifest(&image(), &reference("missing")).await.unwrap_err();
    }
    let before = registry.connections();
    assert!(before <= 6, "{before}");
    drop(upstream.blob(&image(), &blob.digest, None).await.unwrap());
    let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(drain(response).await.0, blob.bytes);
}

#[tokio::test]
async fn a_plain_request_goes_through_the_proxy_whole() {
    let registry = Registry::open().await;
    let proxy = Proxy::start().await;
    let proxies = Proxies::all(&proxy.url_with("proxy-user", "proxy-word"), "");
    let upstream = Upstream::with_proxies(Settings::new(registry.url()), Clock::new(), proxies).unwrap();
    upstream.ping().await.unwrap();
    let heads = proxy.heads();
    assert!(heads[0].starts_with(&format!("GET {}v2/ HTTP/1.1\r\n", registry.url())), "{heads:?}");
    assert!(heads[0].contains("proxy-authorization: Basic "), "{heads:?}");
}

#[tokio::test]
async fn tls_goes_through_the_proxy_in_a_tunnel() {
    let registry = Registry::start(Options { tls: true, host: "localhost", ..Options::default() }).await;
    let proxy = Proxy::start().await;
    let ca = pem(registry.ca_pem());
    let mut settings = Settings::new(registry.url());
    settings.ca_file = Some(ca.path().to_owned());
    let proxies = Proxies::all(&proxy.url_with("proxy-user", "proxy-word"), "");
    Upstream::with_proxies(settings, Clock::new(), proxies).unwrap().ping().await.unwrap();
    let heads = proxy.heads();
    let port = registry.address().port();
    assert!(heads[0].starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")), "{heads:?}");
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic "), "{heads:?}");
    assert!(!registry.log()[0].headers.contains_key("proxy-authorization"));
}

#[tokio::test]
async fn hosts_of_no_proxy_are_reached_directly() {
    let registry = Registry::open().await;
    let proxy = Proxy::start().await;
    let proxies = Proxies::all(&proxy.url(), "example.com, 127.0.0.0/8");
    Upstream::with_proxies(Settings::new(registry.url()), Clock::new(), proxies)
        .unwrap()
        .ping()
        .await
        .unwrap();
    assert!(proxy.heads().is_empty());
}

#[tokio::test]
async fn a_proxy_is_no_way_round_the_rule_of_addresses() {
    let registry = Registry::start(Options { host: "localhost", ..Options::default() }).await;
    let proxy = Proxy::start().await;
    let upstream =
        Upstream::with_proxies(Settings::new(registry.url()), Clock::new(), Proxies::all(&proxy.url(), ""))
            .unwrap();
    for target in ["http://127.0.0.1:1/x", "http://169.254.169.254/latest", "http://metadata.localhost/x"] {
        registry.script("/v2/", [Fault::Redirect(target.to_owned())]);
        let error = upstream.ping().await.unwrap_err();
        assert_eq!(error.kind, Kind::Redirect, "{target}: {error}");
    }
    assert!(proxy.heads().iter().all(|head| head.contains("localhost:")), "{:?}", proxy.heads());
}

#[tokio::test]
async fn a_socks_proxy_is_refused_in_words() {
    let registry = Registry::open().await;
    let proxies = Proxies::all("socks5://127.0.0.1:1080", "");
    let upstream = Upstream::with_proxies(Settings::new(registry.url()), Clock::new(), proxies).unwrap();
    let error = upstream.ping().await.unwrap_err();
    assert!(error.message.contains("neither http:// nor https://"), "{error}");
}
