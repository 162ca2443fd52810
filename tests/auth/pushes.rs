//! Pushes and what was pushed: who gets in, who sees it, and who learns nothing of it.

use binaryrepo::names::Digest;
use serde_json::json;

use super::client::{Answer, Request};
use super::house::{ADA, BOB, EVE, House};
use super::support::image::Content;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// Somebody at the registry.
#[derive(Clone, Copy)]
struct Client<'a> {
    house: &'a House,
    user: (&'a str, &'a str),
}

impl Client<'_> {
    fn request(&self, method: &str, path: &str) -> Request {
        self.house.request(method, path).basic(self.user.0, self.user.1)
    }

    async fn send(&self, method: &str, path: &str) -> Answer {
        self.request(method, path).send().await
    }

    /// Pushes an image of one layer that nobody else has; answers with the layer's digest.
    async fn push(&self, name: &str, seed: u64) -> Digest {
        let (config, layer) = (Content::new("{}"), Content::random(seed, 3_000));
        for blob in [&config, &layer] {
            let path = format!("/v2/{name}/blobs/uploads/?digest={}", blob.digest);
            let answer = self.request("POST", &path).body(blob.bytes.to_vec()).send().await;
            assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        }
        let describe = |content: &Content, media_type: &str| json!({ "mediaType": media_type, "digest": content.digest.to_string(), "size": content.bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI,
            "config": describe(&config, "application/vnd.oci.image.config.v1+json"),
            "layers": [describe(&layer, "application/vnd.oci.image.layer.v1.tar")],
        });
        let put = self.request("PUT", &format!("/v2/{name}/manifests/1")).header("Content-Type", OCI);
        let answer = put.body(manifest.to_string()).send().await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        layer.digest
    }
}

fn client<'a>(house: &'a House, user: (&'a str, &'a str)) -> Client<'a> {
    Client { house, user }
}

/// docker without a log-in took a minute to say that its push was refused. Its library drops a message that is the
/// code's own standard sentence, and what is left of the error looks to it like one that is worth another try.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_is_not_tried_again() {
    let house = House::new().await;
    let refused = [
        house.request("POST", "/v2/docker-local/team/app/blobs/uploads/").send().await,
        client(&house, BOB).send("POST", "/v2/public-local/app/blobs/uploads/").await,
    ];
    for answer in refused {
        let sentence = answer.json()["errors"][0]["message"].as_str().unwrap_or_default().to_owned();
        let standard = ["", "authentication required", "requested access to the resource is denied"];
        assert!(!standard.contains(&sentence.as_str()), "{}: {sentence:?}", answer.status);
    }
}

/// All that a client is told, but for the request's own id.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let own = |(name, _): &&(String, String)| !matches!(name.as_str(), "x-request-id" | "date");
    let headers = answer.headers.iter().filter(own).cloned().collect();
    (answer.status, headers, String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_shown_to_whom_it_was_granted() {
    let house = House::new().await;
    let ada = client(&house, ADA);
    let layer = ada.push("docker-local/team/app", 1).await;
    let manifest = "/v2/docker-local/team/app/manifests/1";
    let blob = format!("/v2/docker-local/team/app/blobs/{layer}");
    for path in [manifest, &blob] {
        assert_eq!(ada.send("GET", path).await.status, 200);
        assert_eq!(client(&house, EVE).send("GET", path).await.status, 200);
        assert_eq!(client(&house, BOB).send("GET", path).await.status, 404);
        assert_eq!(house.get(path).await.status, 401);
    }
    // Known by its digest, and in another image: bytes that lie here are not permission.
    house.grant("bob", "docker-local", "mine/*", "write").await;
    let elsewhere = format!("/v2/docker-local/mine/app/blobs/{layer}");
    assert_eq!(client(&house, BOB).send("GET", &elsewhere).await.status, 404);
    // Opened to everybody, by a setting that is in force at once.
    let open = json!({ "anonymous_pull": true });
    assert_eq!(house.manage("PUT", "/api/repository/docker-local", Some(&open)).await.status, 200);
    assert_eq!(house.get(manifest).await.status, 200);
    assert_eq!(house.request("DELETE", manifest).send().await.status, 401);
}

/// The whole answer: status, headers and body.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_see_is_told_from_what_is_not_there_by_nothing() {
    let house = House::new().await;
    let layer = client(&house, EVE).push("docker-local/hidden/app", 2).await;
    house.grant("bob", "docker-local", "mine/*", "read").await;
    let bob = client(&house, BOB);
    let manifest = client(&house, EVE).send("HEAD", "/v2/docker-local/hidden/app/manifests/1").await;
    let digest = manifest.header("docker-content-digest").expect("a digest").to_owned();
    for method in ["GET", "HEAD"] {
        for rest in [
            "manifests/1".to_owned(),
            format!("manifests/{digest}"),
            format!("blobs/{layer}"),
            "tags/list".to_owned(),
            format!("referrers/{digest}"),
        ] {
            let there = bob.send(method, &format!("/v2/docker-local/hidden/app/{rest}")).await;
            let absent = bob.send(method, &format!("/v2/docker-local/hidden/xyz/{rest}")).await;
            let (status, headers, body) = told(&absent);
            let renamed = (status, headers, body.replace("hidden/xyz", "hidden/app"));
            assert_eq!(told(&there), renamed, "{method} {rest}");
            // And from what is not there among one's own.
            let own = bob.send(method, &format!("/v2/docker-local/mine/thing/{rest}")).await;
            assert_eq!(own.status, there.status, "{method} {rest}");
        }
    }
    let delete = |name: &str| bob.request("DELETE", &format!("/v2/docker-local/{name}/manifests/1")).send();
    assert_eq!(told(&delete("hidden/app").await), told(&delete("hidden/xyz").await));
    let start = |name: &str| bob.request("POST", &format!("/v2/docker-local/{name}/blobs/uploads/")).send();
    assert_eq!(told(&start("hidden/app").await), told(&start("hidden/xyz").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_what_it_says() {
    let house = House::new().await;
    client(&house, EVE).push("docker-local/app", 3).await;
    let manifest = "/v2/docker-local/app/manifests/1";
    let upload = "/v2/docker-local/app/blobs/uploads/";
    for (role, read, write, delete) in
        [("read", 200, 403, 403), ("write", 200, 202, 403), ("delete", 200, 202, 202)]
    {
        house.grant("bob", "docker-local", "app", role).await;
        let bob = client(&house, BOB);
        assert_eq!(bob.send("GET", manifest).await.status, read, "{role}");
        assert_eq!(bob.send("POST", upload).await.status, write, "{role}");
        assert_eq!(bob.send("DELETE", manifest).await.status, delete, "{role}");
    }
}

/// Who may not read the source gets what somebody gets who named a digest that nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_from_what_one_may_not_read_is_a_plain_upload() {
    let house = House::new().await;
    let layer = client(&house, EVE).push("docker-local/secret/base", 4).await;
    let ada = client(&house, ADA);
    let mount = async |digest: &Digest, from: &str| {
        let path = format!("/v2/docker-local/team/app/blobs/uploads/?mount={digest}&from={from}");
        ada.send("POST", &path).await
    };
    let names = |answer: &Answer| {
        let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        (answer.status, names, answer.body.clone())
    };
    let nobodys = Content::random(99, 10).digest;
    let refused = mount(&layer, "docker-local/secret/base").await;
    assert_eq!(refused.status, 202);
    assert_eq!(names(&refused), names(&mount(&nobodys, "docker-local/secret/base").await));
    house.grant("ada", "docker-local", "secret/*", "read").await;
    assert_eq!(mount(&layer, "docker-local/secret/base").await.status, 201);
    // A ticket must name the source too, as docker's does.
    let into = "repository:docker-local/team/app:pull,push";
    let other = client(&house, EVE).push("docker-local/secret/base", 5).await;
    for (scope, status) in
        [(into.to_owned(), 202), (format!("{into}+repository:docker-local/secret/base:pull"), 201)]
    {
        let ticket = house.ticket(Some(ADA), &scope).await;
        let path =
            format!("/v2/docker-local/team/app/blobs/uploads/?mount={other}&from=docker-local/secret/base");
        assert_eq!(house.request("POST", &path).bearer(&ticket).send().await.status, status, "{scope}");
    }
}

/// Who names no source is offered what they may read, and nothing else that lies here (CVE-2024-39897).
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_from_anywhere_is_from_what_one_may_read() {
    let house = House::new().await;
    let layer = client(&house, EVE).push("docker-local/hidden/app", 6).await;
    house.grant("bob", "docker-local", "mine/*", "write").await;
    let bob = client(&house, BOB);
    let blob = format!("/v2/docker-local/mine/x/blobs/{layer}");
    let mount = async |more: &str| {
        let path = format!("/v2/docker-local/mine/x/blobs/uploads/?mount={layer}{more}");
        (bob.send("POST", &path).await.status, bob.send("GET", &blob).await.status)
    };
    let sources = ["", "&from=", "&from=docker-local/hidden/app", "&from=hidden/app"];
    for from in sources {
        assert_eq!(mount(from).await, (202, 404), "{from}");
    }
    // It was to be had all the time.
    house.grant("bob", "docker-local", "hidden/*", "read").await;
    assert_eq!(mount("").await, (201, 200));
}

/// Whoever learns an upload's name, an administrator even, cannot put other bytes into it.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_for_who_began_it() {
    let house = House::new().await;
    for user in ["ada", "bob"] {
        house.grant(user, "docker-local", "both/*", "write").await;
    }
    let begun = client(&house, ADA).send("POST", "/v2/docker-local/both/app/blobs/uploads/").await;
    let location = begun.header("location").expect("where it goes on").to_owned();
    let (digest, half) = (Content::new("hellohello").digest, b"hello".to_vec());
    let patch = client(&house, ADA).request("PATCH", &location).body(half.clone()).send().await;
    assert_eq!(patch.status, 202);
    let last = format!("{location}?digest={digest}");
    let others = async |house: &House| {
        for user in [BOB, EVE] {
            for (method, path) in
                [("GET", &location), ("PATCH", &location), ("DELETE", &location), ("PUT", &last)]
            {
                let bytes = if method == "GET" { Vec::new() } else { half.clone() };
                let answer = client(house, user).request(method, path).body(bytes).send().await;
                let told = (answer.status, answer.code());
                assert_eq!(told, (404, "BLOB_UPLOAD_UNKNOWN".to_owned()), "{method} by {}", user.0);
            }
        }
    };
    others(&house).await;
    let house = house.restart().await;
    others(&house).await;
    // The same person may show another credential.
    let ticket = house.ticket(Some(ADA), "repository:docker-local/both/app:pull,push").await;
    let put = house.request("PUT", &last).bearer(&ticket).body(half).send().await;
    assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_lists_what_one_may_read() {
    let house = House::new().await;
    let eve = client(&house, EVE);
    for (name, seed) in [("docker-local/team/app", 6), ("docker-local/other", 7), ("public-local/app", 8)] {
        eve.push(name, seed).await;
    }
    let names = |answer: Answer| {
        assert_eq!(answer.status, 200);
        let body = answer.json();
        let names = body["repositories"].as_array().expect("a list").iter();
        names.map(|name| name.as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let catalog = "/v2/_catalog";
    let all = ["docker-local/other", "docker-local/team/app", "public-local/app"];
    assert_eq!(names(eve.send("GET", catalog).await), all);
    assert_eq!(names(client(&house, ADA).send("GET", catalog).await), all[1..]);
    assert_eq!(names(client(&house, BOB).send("GET", catalog).await), all[2..]);
    assert_eq!(house.get(catalog).await.status, 401);
    // In one repository.
    assert_eq!(names(client(&house, ADA).send("GET", "/repo/docker-local/v2/_catalog").await), ["team/app"]);
    let hidden = client(&house, BOB).send("GET", "/repo/docker-local/v2/_catalog").await;
    let absent = client(&house, BOB).send("GET", "/repo/nonesuch-xx/v2/_catalog").await;
    assert_eq!((hidden.status, hidden.code()), (absent.status, absent.code()));
    // With a ticket for it, and with one for something else.
    let ticket = house.ticket(Some(ADA), "registry:catalog:*").await;
    assert_eq!(names(house.request("GET", catalog).bearer(&ticket).send().await), all[1..]);
    let other = house.ticket(Some(ADA), "repository:docker-local/team/app:pull").await;
    let refused = house.request("GET", catalog).bearer(&other).send().await;
    assert_eq!((refused.status, refused.challenge("error").as_deref()), (401, Some("insufficient_scope")));
    // Nobody gets a ticket for it without a log-in.
    let nobody = house.ticket(None, "registry:catalog:*").await;
    assert_eq!(house.request("GET", catalog).bearer(&nobody).send().await.status, 401);
}

/// A body that is sent to somebody who is not let in ends as an answer, not as a broken connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_is_answered_though_its_body_comes() {
    let house = House::new().await;
    let blob = Content::random(9, 500_000);
    let path = format!("/v2/docker-local/team/app/blobs/uploads/?digest={}", blob.digest);
    for request in [house.request("POST", &path), house.request("POST", &path).basic(BOB.0, BOB.1)] {
        let answer = request.body(blob.bytes.to_vec()).send().await;
        assert!(matches!(answer.status, 401 | 404), "{}", answer.status);
        assert!(!answer.code().is_empty());
    }
}
