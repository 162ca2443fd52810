//! Tags and referrers of a remote, passed through page by page.

use serde_json::{Value, json};

use super::client::Ask;
use super::house::House;
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::upstream::Registry;

async fn hub(tags: usize) -> (Registry, House, Image) {
    let registry = Registry::open().await;
    let image = Image::new(701, &[10]);
    for number in 0..tags {
        registry.add_image("library/redis", &format!("v{number:04}"), &image);
    }
    let house = House::beside(&registry).await;
    (registry, house, image)
}

const TAGS: &str = "/v2/docker-remote/redis/tags/list";

fn next(link: Option<&str>) -> Option<String> {
    Some(link?.strip_prefix('<')?.split_once('>')?.0.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_tags_lead_from_one_to_the_next() {
    let (registry, house, _) = hub(25).await;
    let mut target = Some(format!("{TAGS}?n=10"));
    let mut seen = Vec::new();
    while let Some(here) = target {
        let page = house.get(&here).await;
        assert_eq!(page.json()["name"], "docker-remote/redis");
        seen.extend(page.json()["tags"].as_array().unwrap().clone());
        target = next(page.header("link"));
    }
    let expected: Vec<Value> = (0..25).map(|number| json!(format!("v{number:04}"))).collect();
    assert_eq!(seen, expected);
    assert_eq!(registry.asked("/tags/list").len(), 3);
    let head = house.head(TAGS).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let unknown = house.get("/v2/docker-remote/a/no-such/tags/list").await;
    assert_eq!(unknown.code(), (404, "NAME_UNKNOWN".to_owned()));
}

/// Some registries call their cursors otherwise: quay's is `next_page`. A client follows the link, and the link
/// must lead on, not back to the first page.
#[tokio::test(flavor = "multi_thread")]
async fn cursors_of_the_upstreams_own_kind_are_passed_on() {
    let (registry, house, _) = hub(0).await;
    let page = |tags: Value, link: Option<&str>| {
        let headers: Vec<_> = link.map(|link| ("link", link)).into_iter().collect();
        let body = json!({ "name": "library/redis", "tags": tags }).to_string();
        Fault::answer(200, &[headers, vec![("content-type", "application/json")]].concat(), body)
    };
    let link = "</v2/library/redis/tags/list?n=1&next_page=gAAA%3D%3D>; rel=\"next\"";
    registry.always("tags/list?n=1&next_page=gAAA%3D%3D", page(json!(["second"]), None));
    registry.always("tags/list?n=1", page(json!(["first"]), Some(link)));
    for (first, host) in
        [(format!("{TAGS}?n=1"), None), ("/v2/redis/tags/list?n=1&ns=docker.io".to_owned(), None)]
            .into_iter()
            .chain([("/v2/redis/tags/list?n=1".to_owned(), Some("docker-remote.localhost"))])
    {
        let ask = |target: &str| match host {
            Some(host) => Ask::get(target).host(host),
            None => Ask::get(target),
        };
        let answer = house.send(ask(&first)).await;
        assert_eq!(answer.json()["tags"], json!(["first"]));
        let onwards = next(answer.header("link")).expect("there is more");
        assert!(onwards.contains("next_page=gAAA%3D%3D"), "{onwards}");
        let answer = house.send(ask(&onwards)).await;
        assert_eq!(answer.json()["tags"], json!(["second"]), "{onwards}");
        assert_eq!(next(answer.header("link")), None);
    }
    // Whose registry it is, is no affair of the upstream's.
    assert!(registry.log().iter().all(|seen| !seen.query.contains("ns=")), "{:?}", registry.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_is_longer_than_ours() {
    let (registry, house, _) = hub(1).await;
    for (asked, passed) in
        [("?n=5000", "n=1000"), ("?n=99999999999999999999", "n=1000"), ("", ""), ("?n=7", "n=7")]
    {
        registry.forget();
        assert_eq!(house.get(&format!("{TAGS}{asked}")).await.status, 200, "{asked}");
        assert_eq!(registry.asked("/tags/list")[0].query, passed, "{asked}");
    }
}

/// Of what the upstream calls the next page, only the query can be believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_the_upstreams_leads_nowhere_else() {
    for (link, expected) in [
        ("<https://evil.test/steal?last=a>; rel=\"next\"", Some(format!("{TAGS}?last=a"))),
        ("</v2/_catalog?last=a>; rel=next", Some(format!("{TAGS}?last=a"))),
        ("<?last=a>; rel=\"prev\"", None),
        ("</v2/x/tags/list>; rel=\"next\"", None),
    ] {
        let (registry, house, _) = hub(0).await;
        let headers = [("link", link), ("content-type", "application/json")];
        let body = r#"{"name":"whatever","tags":["a"]}"#;
        registry.always("/tags/list", Fault::answer(200, &headers, body));
        let page = house.get(TAGS).await;
        assert_eq!(next(page.header("link")), expected, "{link}");
        assert_eq!(page.json()["name"], "docker-remote/redis");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_make_no_sense_are_gateway_errors() {
    let json = [("content-type", "application/json")];
    for fault in [
        Fault::answer(200, &json, "nonsense"),
        Fault::answer(200, &json, "[]"),
        Fault::answer(200, &json, r#"{"tags":7}"#),
        Fault::answer(200, &[("content-type", "text/html")], "<html>"),
        Fault::answer(200, &json, vec![b' '; 9 << 20]),
        Fault::status(500),
    ] {
        let (registry, house, _) = hub(1).await;
        registry.always("/tags/list", fault);
        assert_eq!(house.get(TAGS).await.code(), (502, "UNAVAILABLE".to_owned()));
    }
    let (registry, house, _) = hub(1).await;
    registry.always("/tags/list", Fault::answer(200, &json, r#"{"name":"library/redis","tags":null}"#));
    assert_eq!(
        house.get(TAGS).await.json()["tags"],
        json!([]),
        "as distribution says of an image without tags"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_listed_and_never_404() {
    let (registry, house, image) = hub(1).await;
    let signature = Image::new(702, &[10]);
    let descriptor = json!({
        "mediaType": Image::MEDIA_TYPE, "digest": signature.manifest.digest.to_string(),
        "size": signature.manifest.bytes.len(), "artifactType": "application/x-signature",
    });
    registry.shelf().add_referrer("library/redis", image.manifest.digest, descriptor.clone());
    let list = async |query: &str| {
        let path = format!("/v2/docker-remote/redis/referrers/{}{query}", image.manifest.digest);
        let answer = house.get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.all());
        assert_eq!(answer.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
        let index: Value = serde_json::from_slice(&answer.body).unwrap();
        (index["manifests"].clone(), answer.header("oci-filters-applied").map(str::to_owned))
    };
    assert_eq!(list("").await, (json!([descriptor]), None));
    let filtered = Some("artifactType".to_owned());
    assert_eq!(list("?artifactType=application/x-signature").await, (json!([descriptor]), filtered.clone()));
    assert_eq!(list("?artifactType=application/x-sbom").await, (json!([]), filtered));

    // An upstream without the listing, and nothing under the tag that stands for it.
    registry.always("/referrers/", Fault::status(404));
    let other = format!("/v2/docker-remote/redis/referrers/{}", signature.manifest.digest);
    let answer = house.get(&other).await;
    assert_eq!(answer.status, 200, "{}", answer.all());
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap()["manifests"], json!([]));
}
