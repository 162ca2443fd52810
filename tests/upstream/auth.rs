//! Who we are, and to whom we say so.

use binaryrepo::upstream::Kind;

use crate::support::fault::Fault;
use crate::support::image::Image;
use crate::support::upstream::{Access, Options, Registry};
use crate::{client, client_with, image, logged_in, reference};

const PASSWORD: &str = "canary-password";

async fn registry(access: Access) -> Registry {
    let registry = Registry::start(Options { access, ..Options::default() }).await;
    registry.add_image("library/redis", "latest", &Image::new(1, &[1000]));
    registry
}

#[tokio::test]
async fn a_token_is_fetched_once_for_fifty_and_then_sent_at_once() {
    let registry = registry(Access::anonymous_token()).await;
    let upstream = client(&registry);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.manifest(&image(), &reference("latest")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let tokens = registry.asked("/token");
    assert_eq!(tokens.len(), 1);
    assert!(!tokens[0].authorized());
    assert_eq!(tokens[0].query, "service=scripted&scope=repository%3Alibrary%2Fredis%3Apull");

    registry.forget();
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    let asked = registry.log();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].authorized());
}

#[tokio::test]
async fn a_failed_token_fetch_is_shared_by_those_who_waited() {
    let registry = registry(Access::anonymous_token()).await;
    let upstream = client(&registry);
    upstream.ping().await.unwrap();
    registry.forget();
    let slow_failure =
        Fault::All(vec![Fault::DelayHead(std::time::Duration::from_millis(500)), Fault::status(503)]);
    registry.always("/token", slow_failure);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { upstream.manifest(&image(), &reference("latest")).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().kind, Kind::Status5xx);
    }
    assert_eq!(registry.asked("/token").len(), 1);
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_fetched_anew_once() {
    let registry = registry(Access::anonymous_token()).await;
    let upstream = client(&registry);
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    registry.revoke_tokens();
    registry.forget();
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    let asked: Vec<String> = registry.log().into_iter().map(|seen| seen.path).collect();
    let manifest = "/v2/library/redis/manifests/latest";
    assert_eq!(asked, [manifest, "/token", manifest]);
}

#[tokio::test]
async fn an_expired_token_is_not_sent() {
    let access = Access::Token { user: None, lifetime_s: Some(1) };
    let registry = registry(access).await;
    let upstream = client(&registry);
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
    registry.forget();
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    let asked: Vec<String> = registry.log().into_iter().map(|seen| seen.path).collect();
    assert_eq!(asked, ["/token", "/v2/library/redis/manifests/latest"]);
}

#[tokio::test]
async fn a_refusal_of_a_token_just_granted_is_final() {
    for status in [401, 403] {
        let registry = registry(Access::anonymous_token()).await;
        let upstream = client(&registry);
        let challenge = format!("Bearer realm=\"{}\",service=\"s\"", registry.url().join("/token").unwrap());
        let refusal = Fault::answer(status, &[("www-authenticate", &challenge)], "");
        registry.script("/manifests/", [Fault::None]);
        registry.always("/manifests/", refusal);
        let error = upstream.manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!((error.kind, error.status), (Kind::Denied, Some(status)));
        assert!(!error.retryable());
        assert_eq!(registry.asked("/manifests/").len(), 2);
        assert_eq!(registry.asked("/token").len(), 1);
    }
}

#[tokio::test]
async fn our_credentials_go_to_the_token_server_only() {
    let registry = registry(Access::token_for("bob", PASSWORD)).await;
    let upstream = client_with(&registry, logged_in("bob", PASSWORD));
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    let basic = |seen: &crate::support::upstream::Seen| {
        seen.header("authorization").is_some_and(|text| text.starts_with("Basic "))
    };
    assert!(registry.asked("/token").iter().all(basic));
    assert!(!registry.asked("/v2/").iter().any(basic));
}

#[tokio::test]
async fn wrong_credentials_are_our_own_trouble() {
    let cases = [Access::token_for("bob", "right"), Access::basic("bob", "right")];
    for access in cases {
        let registry = registry(access).await;
        let wrong = client_with(&registry, logged_in("bob", PASSWORD));
        let error = wrong.manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!(error.kind, Kind::OwnCredentials);
        assert!(error.message.contains("refuses the configured user name"), "{error}");
        let none = client(&registry);
        let error = none.manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!(error.kind, Kind::OwnCredentials);
        assert!(error.message.contains("none are configured"), "{error}");
    }
}

#[tokio::test]
async fn basic_is_answered_and_then_sent_at_once() {
    let registry = registry(Access::basic("bob", PASSWORD)).await;
    let upstream = client_with(&registry, logged_in("bob", PASSWORD));
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    let authorized: Vec<bool> = registry.log().iter().map(|seen| seen.authorized()).collect();
    assert_eq!(authorized, [false, true, true]);
}

#[tokio::test]
async fn a_strange_token_server_is_never_connected_to() {
    let registry = registry(Access::token_for("bob", PASSWORD)).await;
    let thief = Registry::start(Options { host: "localhost", ..Options::default() }).await;
    let port = thief.address().port();
    let realms = [
        thief.url().join("/token").unwrap().to_string(),
        format!("http://localhost.:{port}/token"),
        format!("http://[::ffff:127.0.0.1]:{port}/token"),
        format!("http://0.0.0.0:{port}/token"),
        format!("http://bob:word@127.0.0.1:{port}/token"),
        format!("ftp://127.0.0.1:{port}/token"),
        "not an address".to_owned(),
    ];
    for realm in realms {
        registry.set_realm(&realm);
        for upstream in [client_with(&registry, logged_in("bob", PASSWORD)), client(&registry)] {
            let error = upstream.manifest(&image(), &reference("latest")).await.unwrap_err();
            assert_eq!(error.kind, Kind::Realm, "{realm}: {error}");
            assert!(!error.message.contains(PASSWORD));
        }
    }
    assert_eq!(thief.connections(), 0);
}

#[tokio::test]
async fn a_listed_token_server_is_used() {
    let registry = registry(Access::token_for("bob", PASSWORD)).await;
    registry.set_realm(registry.url_as("localhost").join("/token").unwrap().as_str());
    let upstream = client_with(&registry, |settings| {
        logged_in("bob", PASSWORD)(settings);
        settings.allowed_hosts = vec!["localhost".to_owned()];
    });
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
}

#[tokio::test]
async fn a_token_server_without_tls_is_refused_by_a_registry_with() {
    let registry = Registry::start(Options {
        access: Access::token_for("bob", PASSWORD),
        tls: true,
        ..Options::default()
    })
    .await;
    let plain = Registry::open().await;
    registry.set_realm(plain.url().join("/token").unwrap().as_str());
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), registry.ca_pem()).unwrap();
    let upstream = client_with(&registry, |settings| {
        logged_in("bob", PASSWORD)(settings);
        settings.ca_file = Some(ca.path().to_owned());
    });
    let error = upstream.manifest(&image(), &reference("latest")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Realm);
    assert!(error.message.contains("not reached by https"), "{error}");
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn bad_token_answers_are_told_apart() {
    let endless = Fault::answer(200, &[], vec![b' '; 80 * 1024]);
    let cases = [
        (endless, Kind::BadResponse),
        (Fault::answer(200, &[], "<html>"), Kind::BadResponse),
        (Fault::answer(200, &[], "{}"), Kind::BadResponse),
        (Fault::status(404), Kind::BadResponse),
        (Fault::status(403), Kind::Forbidden),
        (Fault::status(500), Kind::Status5xx),
        (Fault::answer(429, &[("retry-after", "7")], ""), Kind::RateLimited),
        (Fault::Redirect("http://169.254.169.254/latest/meta-data".to_owned()), Kind::Realm),
        (Fault::CloseBeforeHead, Kind::Broken),
    ];
    for (fault, kind) in cases {
        let registry = registry(Access::anonymous_token()).await;
        registry.always("/token", fault.clone());
        let error = client(&registry).manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!(error.kind, kind, "{fault:?}: {error}");
        assert_eq!(error.retry_after.map(|wait| wait.as_secs()), (kind == Kind::RateLimited).then_some(7));
    }
}

#[tokio::test]
async fn a_401_without_a_challenge_is_no_answer() {
    let registry = Registry::open().await;
    for challenge in ["Digest realm=\"x\"", "Bearer scope=\"no realm\"", "\"\"\""] {
        registry.script("/manifests/", [Fault::answer(401, &[("www-authenticate", challenge)], "")]);
        let error = client(&registry).manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!(error.kind, Kind::BadResponse, "{challenge}");
    }
}

#[tokio::test]
async fn no_secret_is_in_any_error_or_debug_text() {
    let registry = registry(Access::token_for("bob", PASSWORD)).await;
    let upstream = client_with(&registry, logged_in("bob", PASSWORD));
    upstream.manifest(&image(), &reference("latest")).await.unwrap();
    let signed = |host: &str| Fault::Redirect(format!("http://{host}/x?X-Signature=canary-signature"));
    let faults = [
        signed("localhost:1"),
        signed("127.0.0.1:1"),
        signed("10.0.0.1"),
        signed("no-such-host.invalid"),
        signed(&registry.url()[url::Position::BeforeHost..url::Position::AfterPort]),
        Fault::All(vec![signed("x"), Fault::headers(&[("location", "ftp://x/?canary-signature")])]),
        Fault::status(403),
        Fault::status(500),
        Fault::CloseAt(3),
        Fault::headers(&[("content-encoding", "canary-signature")]),
        Fault::Raw(b"HTTP/1.1 canary-signature\r\n\r\n".to_vec()),
    ];
    for fault in faults {
        registry.script("/manifests/", [fault.clone()]);
        let error = upstream.manifest(&image(), &reference("latest")).await.unwrap_err();
        let text = format!("{error} {error:?}");
        for canary in ["canary", "token-1", "Ym9i"] {
            assert!(!text.contains(canary), "{fault:?}: {text}");
        }
    }
    let debug = format!("{upstream:?}");
    assert!(!debug.contains("canary") && !debug.contains("token-1"), "{debug}");
}
