//! Tags: freshness, revalidation, staleness, absence.

use std::time::Duration;

use binaryrepo::clock::{Clock, Millis};
use binaryrepo::engine::{ErrorKind, Settings, Timeouts, Verdict, Want};

use super::house::{House, pass, roomy};
use super::support::fault::{Fault, Gate};
use super::support::image::Image;
use super::support::upstream::{Access, Options, Registry};

/// When a client has its answer, however long the upstream takes: two seconds of patience, and a busy machine.
const BOUND: Millis = Millis(6_000);

async fn aged(registry: &Registry) -> House {
    House::with(registry, |spec| {
        spec.tag_ttl = Duration::ZERO;
        spec.negative_ttl = Duration::from_millis(300);
    })
    .await
}

/// `image` has its tag, and was asked for by it.
async fn knowing(registry: &Registry, image: &Image) -> House {
    registry.add_image("a/b", "latest", image);
    let house = aged(registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    house
}

/// All of `image` lies here.
async fn holding(registry: &Registry, image: &Image) -> House {
    let house = knowing(registry, image).await;
    for blob in image.blobs() {
        house.pull("a/b", &blob.digest).await.unwrap().whole();
    }
    house.rest().await;
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pulls_of_a_stale_tag_make_one_head() {
    let registry = Registry::open().await;
    let image = Image::new(21, &[10]);
    registry.add_image("a/b", "latest", &image);
    // Nothing stale: else they would not wait for longer than two seconds. Nor does the engine, for fifteen.
    let long = Duration::from_secs(120);
    let settings = Settings { timeouts: Timeouts { connect: long, head: long, idle: long }, ..roomy() };
    let house = House::build(&registry, settings, |spec| {
        spec.tag_ttl = Duration::ZERO;
        spec.stale_if_error = Duration::ZERO;
    });
    let house = std::sync::Arc::new(house.await);
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    registry.forget();
    let gate = Gate::closed();
    registry.script("HEAD /v2/a/b/manifests/", [Fault::Hold(gate.clone())]);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let house = house.clone();
        clients.spawn(async move { house.manifest("a/b", "latest", Want::Body).await.unwrap() });
    }
    house.until_waiting(500).await;
    gate.open();
    while let Some(manifest) = clients.join_next().await {
        let manifest = manifest.unwrap();
        assert_eq!(manifest.verdict, Verdict::Revalidated);
        assert_eq!(manifest.bytes, image.manifest.bytes);
    }
    assert_eq!(registry.asked("HEAD /v2/a/b/manifests/").len(), 1);
    assert_eq!(registry.asked("GET /v2/a/b/manifests/").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_followed() {
    let registry = Registry::open().await;
    let (old, new) = (Image::new(22, &[10]), Image::new(23, &[10]));
    let house = knowing(&registry, &old).await;
    registry.add_image("a/b", "latest", &new);
    let head = house.manifest("a/b", "latest", Want::Head).await.unwrap();
    assert_eq!(head.digest, new.manifest.digest);
    let by_digest = house.manifest("a/b", &head.digest.to_string(), Want::Body).await.unwrap();
    assert_eq!(by_digest.bytes, new.manifest.bytes);
    // The upstream goes away: the tag is where the last HEAD saw it.
    registry.always("/manifests/", Fault::status(503));
    let error_or_stale = house.manifest("a/b", "latest", Want::Head).await;
    // Its layers were never pulled, so it must not be promised while the upstream fails, or is slow to say so.
    let error = error_or_stale.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::UpstreamUnavailable | ErrorKind::UpstreamTimeout), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_tag_is_answered_whatever_the_upstream_does() {
    let faults = [
        Fault::status(503),
        Fault::answer(429, &[("retry-after", "100")], ""),
        Fault::silence(),
        Fault::ResetBeforeHead,
    ];
    for fault in faults {
        let registry = Registry::open().await;
        let image = Image::new(24, &[1_000]);
        let house = holding(&registry, &image).await;
        registry.always("/v2/", fault.clone());
        let clock = Clock::new();
        let manifest = house.manifest("a/b", "latest", Want::Body).await.unwrap();
        assert!(clock.now() < BOUND, "{fault:?}: {:?}", clock.now());
        assert_eq!(manifest.verdict, Verdict::Stale, "{fault:?}");
        assert!(manifest.warning.is_some());
        assert_eq!(manifest.bytes, image.manifest.bytes);
        for blob in image.blobs() {
            assert_eq!(house.pull("a/b", &blob.digest).await.unwrap().whole(), blob.bytes);
        }
    }
}

/// Two seconds for all that is asked of the upstream, not for each question; and what comes later is for whoever asks
/// then.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_is_waited_for_once() {
    let registry = Registry::open().await;
    let (old, new) = (Image::new(29, &[1_000]), Image::new(30, &[1_000]));
    let house = holding(&registry, &old).await;
    registry.add_image("a/b", "latest", &new);
    let gate = Gate::closed();
    registry.always("GET /v2/a/b/manifests/", Fault::Hold(gate.clone()));
    for want in [Want::Body, Want::Head] {
        let clock = Clock::new();
        let manifest = house.manifest("a/b", "latest", want).await.unwrap();
        assert!(clock.now() < BOUND, "{want:?}: {:?}", clock.now());
        assert_eq!((manifest.verdict, manifest.digest), (Verdict::Stale, old.manifest.digest), "{want:?}");
    }
    gate.open();
    house.rest().await;
    assert_eq!(registry.asked("GET /v2/a/b/manifests/").len(), 2, "the cold one, and the one that went on");
    let manifest = house.manifest("a/b", "latest", Want::Body).await.unwrap();
    assert_eq!((manifest.verdict, manifest.bytes), (Verdict::Revalidated, new.manifest.bytes));
}

/// Two seconds are for who can be served something else. Where a layer of that is not here, the upstream has the time
/// that it has for what was never cached; it used to be a 504.
#[tokio::test]
async fn a_tag_of_which_not_all_is_here_is_waited_for_as_long_as_it_takes() {
    let registry = Registry::open().await;
    let images = [34, 35, 36, 39].map(|seed| Image::new(seed, &[1_000]));
    registry.add_image("a/b", "latest", &images[0]);
    let house = aged(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let cases = [("HEAD", Want::Body), ("GET", Want::Body), ("GET", Want::Head)];
    for ((held, want), new) in cases.into_iter().zip(&images[1..]) {
        registry.add_image("a/b", "latest", new);
        registry.forget();
        let (gate, at) = (Gate::closed(), format!("{held} /v2/a/b/manifests/"));
        registry.script(&at, [Fault::Hold(gate.clone())]);
        let slowly = async {
            house.eventually("it is asked", |_| !registry.asked(&at).is_empty()).await;
            pass(Duration::from_secs(3)).await;
            // Time to be sent away.
            tokio::time::sleep(Duration::from_millis(200)).await;
            gate.open();
        };
        let (manifest, ()) = tokio::join!(house.manifest("a/b", "latest", want), slowly);
        let manifest = manifest.unwrap();
        assert_eq!(
            (manifest.verdict, manifest.digest),
            (Verdict::Miss, new.manifest.digest),
            "{held} {want:?}"
        );
        house.rest().await;
        assert_eq!(registry.log().len(), 2, "{held} {want:?}: one HEAD, one GET");
    }
}

/// The proof that the rest of an image can be had is waited for no longer than its manifest is.
#[tokio::test]
async fn a_proof_is_waited_for_no_longer_than_the_tag() {
    let registry = Registry::open().await;
    let (old, new) = (Image::new(37, &[1_000]), Image::new(38, &[1_000]));
    registry.add_image("a/b", "latest", &old);
    let house = House::with(&registry, |spec| {
        spec.tag_ttl = Duration::from_secs(60);
        spec.negative_ttl = Duration::from_millis(300);
    })
    .await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    for blob in old.blobs() {
        house.pull("a/b", &blob.digest).await.unwrap().whole();
    }
    house.rest().await;
    // The tag is known to have moved, and its manifest has come by another one's name.
    pass(Duration::from_secs(61)).await;
    registry.add_image("a/b", "latest", &new);
    registry.shelf().tag("a/b", "new", new.manifest.digest);
    registry.always("GET /v2/a/b/manifests/", Fault::status(503));
    assert_eq!(house.manifest("a/b", "latest", Want::Body).await.unwrap().verdict, Verdict::Stale);
    registry.behave();
    // A failure is remembered for some seconds.
    pass(Duration::from_secs(10)).await;
    house.manifest("a/b", "new", Want::Body).await.unwrap();
    // Its layers cannot be had.
    registry.always("/blobs/", Fault::status(503));
    house.pull("a/b", &new.layers[0].digest).await.unwrap_err();
    registry.behave();
    registry.always("/blobs/", Fault::silence());
    let clock = Clock::new();
    let manifest = house.manifest("a/b", "latest", Want::Body).await.unwrap();
    assert_eq!((manifest.verdict, manifest.digest), (Verdict::Stale, old.manifest.digest));
    assert!(clock.now() < BOUND, "{:?}", clock.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_stale_for_as_long_as_it_may_be() {
    for (window, served) in [(Duration::from_secs(3_600), true), (Duration::from_millis(300), false)] {
        let registry = Registry::open().await;
        let image = Image::new(33, &[1_000]);
        registry.add_image("a/b", "latest", &image);
        let house = House::with(&registry, |spec| {
            spec.tag_ttl = Duration::ZERO;
            spec.stale_if_error = window;
        })
        .await;
        house.manifest("a/b", "latest", Want::Body).await.unwrap();
        for blob in image.blobs() {
            house.pull("a/b", &blob.digest).await.unwrap().whole();
        }
        house.rest().await;
        registry.always("/v2/", Fault::status(503));
        tokio::time::sleep(Duration::from_millis(400)).await;
        for want in [Want::Body, Want::Head] {
            match house.manifest("a/b", "latest", want).await {
                Ok(manifest) => assert_eq!((manifest.verdict, served), (Verdict::Stale, true)),
                Err(error) => assert_eq!((error.kind, served), (ErrorKind::UpstreamUnavailable, false)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_gone_is_gone() {
    let registry = Registry::open().await;
    let image = Image::new(25, &[10]);
    let house = knowing(&registry, &image).await;
    registry.shelf().untag("a/b", "latest");
    let error = house.manifest("a/b", "latest", Want::Body).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ManifestUnknown);
    // Nothing stale brings it back when the upstream fails afterwards.
    tokio::time::sleep(Duration::from_millis(400)).await;
    registry.always("/v2/", Fault::status(503));
    let error = house.manifest("a/b", "latest", Want::Body).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UpstreamUnavailable);
}

/// A firewall, a ban or a limit says 403 of anything; a registry that has just given us a token means the image.
#[tokio::test(flavor = "multi_thread")]
async fn a_403_ends_a_tag_only_if_a_token_was_just_granted() {
    let image = Image::new(31, &[1_000]);
    let forbidden = |at: &'static str| move |registry: &Registry| registry.always(at, Fault::status(403));
    let at_token = |registry: &Registry| {
        registry.revoke_tokens();
        registry.always("GET /token", Fault::status(403));
    };
    let granted = |registry: &Registry| {
        registry.revoke_tokens();
        registry.script("HEAD /v2/a/b/manifests/", [Fault::None]);
        registry.always("/v2/", Fault::status(403));
    };
    type Strike<'a> = &'a dyn Fn(&Registry);
    let cases: [(&str, Access, Strike<'_>, bool); 5] = [
        ("no token in play", Access::Open, &forbidden("/v2/"), true),
        ("only the GET", Access::Open, &forbidden("GET /v2/a/b/manifests/"), true),
        ("a token of some time ago", Access::anonymous_token(), &forbidden("/v2/"), true),
        ("the token server", Access::anonymous_token(), &at_token, true),
        ("a token just granted", Access::anonymous_token(), &granted, false),
    ];
    let stale = (Verdict::Stale, image.manifest.digest);
    for (what, access, strike, stays) in cases {
        let registry = Registry::start(Options { access, ..Options::default() }).await;
        let house = holding(&registry, &image).await;
        registry.add_image("a/b", "latest", &Image::new(32, &[10]));
        strike(&registry);
        // And while it is remembered, and when the upstream goes on to fail.
        for again in [false, true] {
            for want in [Want::Body, Want::Head, Want::Body] {
                let told = house.manifest("a/b", "latest", want).await;
                let told = told.map(|manifest| (manifest.verdict, manifest.digest));
                match (&told, stays, again) {
                    (Ok(told), true, _) => assert_eq!(*told, stale, "{what}"),
                    (Err(error), false, false) => {
                        assert_eq!(error.kind, ErrorKind::ManifestUnknown, "{what}")
                    }
                    (Err(error), false, true) => assert_ne!(error.kind, ErrorKind::ManifestUnknown, "{what}"),
                    _ => panic!("{what}, {want:?}: {told:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
            registry.behave();
            registry.always("/v2/", Fault::status(503));
        }
        // What a digest names stays what it was.
        let digest = image.manifest.digest.to_string();
        assert_eq!(house.manifest("a/b", &digest, Want::Body).await.unwrap().bytes, image.manifest.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_heads_is_asked_by_get() {
    let registry = Registry::open().await;
    let image = Image::new(26, &[10]);
    registry.add_image("a/b", "latest", &image);
    registry.always("HEAD /v2/a/b/manifests/", Fault::status(405));
    let house = aged(&registry).await;
    let head = house.manifest("a/b", "latest", Want::Head).await.unwrap();
    assert_eq!(head.digest, image.manifest.digest);
    let again = house.manifest("a/b", "latest", Want::Body).await.unwrap();
    assert_eq!(again.bytes, image.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_and_a_lying_digest_move_no_tag() {
    let registry = Registry::open().await;
    let image = Image::new(27, &[10]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    registry
        .script("GET /v2/a/b/manifests/", [Fault::answer(200, &[("content-type", "text/html")], "<html>")]);
    let error = house.manifest("a/b", "latest", Want::Body).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UpstreamUnavailable);
    let lie = format!("sha256:{}", "0".repeat(64));
    // A HEAD that lies is seen through: the tag itself is fetched, and its bytes are what counts.
    let house = House::new(&registry).await;
    registry.script("HEAD /v2/a/b/manifests/", [Fault::headers(&[("docker-content-digest", &lie)])]);
    let manifest = house.manifest("a/b", "latest", Want::Body).await.unwrap();
    assert_eq!(manifest.digest, image.manifest.digest);
    // A GET by tag that lies moves nothing.
    let house = House::new(&registry).await;
    registry.always("HEAD /v2/a/b/manifests/", Fault::status(405));
    registry.script("GET /v2/a/b/manifests/", [Fault::headers(&[("docker-content-digest", &lie)])]);
    let error = house.manifest("a/b", "latest", Want::Body).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UpstreamUnavailable);
}

/// Clients that ask by tag and clients that ask by digest, cold and at once: registries count each GET.
#[tokio::test(flavor = "multi_thread")]
async fn asking_by_tag_and_by_digest_costs_one_get() {
    let registry = Registry::open().await;
    let image = Image::new(28, &[10]);
    registry.add_image("a/b", "latest", &image);
    let house = std::sync::Arc::new(House::new(&registry).await);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (house, digest) = (house.clone(), image.manifest.digest.to_string());
        clients.spawn(async move {
            if number % 2 == 0 {
                house.manifest("a/b", "latest", Want::Body).await.unwrap();
            } else {
                house.manifest("a/b", "latest", Want::Head).await.unwrap();
                house.manifest("a/b", &digest, Want::Body).await.unwrap();
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(registry.asked("HEAD /v2/a/b/manifests/").len(), 1);
    assert_eq!(registry.asked("GET /v2/a/b/manifests/").len(), 1);
}
