//! The second server of nginx's configuration: a name of one's own that is mapped to `/repo/docker-remote`. What is handed
//! out to its clients leads on under that name, and says nothing of the path behind it.

use serde_json::json;

use super::client::{Answer, Ask};
use super::nginx::Nginx;
use super::process::{Process, good};
use super::support::image::Image;
use super::support::upstream::Registry;

const NAME: &str = "docker-remote.example.com";
/// ada, and her password.
const ADA: &str = "Basic YWRhOmNhbmFyeS1wYXNzd29yZA==";
const PASSWORD: &str = "canary-password";
const TAGS: &str = "/v2/team/app/tags/list";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: `make e2e` runs it"]
async fn a_name_that_nginx_maps_to_a_path_hides_that_path() {
    let registry = Registry::open().await;
    for (seed, tag) in [(1, "7"), (2, "8")] {
        registry.add_image("team/app", tag, &Image::new(seed, &[10]));
    }
    let data = tempfile::tempdir().unwrap();
    let password = data.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let first = ["--admin-user", "ada", "--admin-password-file", password.to_str().unwrap()];
    let proxy = ["--set", "server.trusted_proxies=127.0.0.2/32"];
    let server = Process::start(&data, &[first, [proxy[0], proxy[1], "--log-level", "info"]].concat());
    good(data.path(), &["repo", "update", "docker-remote", "--url", registry.url().as_str()]);
    let nginx = Nginx::start(server.address);
    let ask = async |target: &str, authorization: &str| -> Answer {
        let ask = Ask::get(target).host(NAME).header("Authorization", authorization);
        ask.send(nginx.address).await
    };

    let moved = ask("/v2", ADA).await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("/v2/")), "{}", moved.all());

    let page = ask(&format!("{TAGS}?n=1"), ADA).await;
    assert_eq!(page.json(), json!({ "name": "team/app", "tags": ["7"] }), "{}", page.all());
    let next = page.header("link").and_then(|link| link.strip_prefix('<')?.strip_suffix(">; rel=\"next\""));
    let next = next.unwrap_or_else(|| panic!("no next page: {}", page.all()));
    assert!(next.starts_with(&format!("{TAGS}?")), "{next}");
    assert_eq!(ask(next, ADA).await.json()["tags"], json!(["8"]), "{next}");

    let refused = Ask::get(TAGS).host(NAME).send(nginx.address).await;
    assert_eq!(refused.status, 401, "{}", refused.all());
    let challenge = refused.header("www-authenticate").unwrap();
    let realm = challenge.split_once("realm=\"").and_then(|(_, rest)| rest.split('"').next()).unwrap();
    let token =
        realm.strip_prefix(&format!("http://{NAME}")).unwrap_or_else(|| panic!("elsewhere: {challenge}"));
    assert_eq!(token, "/token", "{challenge}");
    // And there is one to be had, which opens what was asked for.
    let given = ask(&format!("{token}?scope=repository:team/app:pull&service={NAME}"), ADA).await;
    let bearer = format!("Bearer {}", given.json()["token"].as_str().unwrap());
    assert_eq!(ask(TAGS, &bearer).await.json()["tags"], json!(["7", "8"]));
}
