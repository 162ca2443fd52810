//! Secrets are planted wherever one can stand, in good requests and in failing ones, and then looked for in all that
//! the server ever says: log lines of every level, answers, metrics.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::json;

use super::client::{Answer, Ask, raw};
use super::house::{blob, manifest};
use super::process::{Process, run_with};
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::upstream::{Access, Options, Registry};

/// What must be found nowhere. The tokens are those of the scripted token server.
fn secrets(admin_token: &str) -> Vec<String> {
    let basic = |pair: &str| STANDARD.encode(pair);
    let mut all = vec![
        "canary".to_owned(),
        admin_token.to_owned(),
        "token-1".to_owned(),
        "token-2".to_owned(),
        basic("ada:canary-stored"),
        basic("ada:canary-file"),
        basic("eve:canary-client"),
        basic("ada:canary-wrong"),
    ];
    // As a URL or a form would write it.
    all.extend(all.clone().iter().map(|text| text.replace('=', "%3D")));
    all
}

struct Scene {
    server: Process,
    heard: Vec<String>,
}

impl Scene {
    async fn send(&mut self, ask: Ask) -> Answer {
        let answer = self.server.send(ask).await;
        self.heard.push(answer.all());
        answer
    }

    async fn put(&mut self, form: serde_json::Value) -> u16 {
        self.send(Ask::new("PUT", "/api/repository/docker-remote").json(&form)).await.status
    }

    /// A client that shows all it has to somebody whom it does not concern.
    async fn pull(&mut self, path: &str) -> u16 {
        let query = if path.contains('?') { "&" } else { "?" };
        let ask = Ask::get(&format!("{path}{query}X-Amz-Signature=canary-query&token=canary-query"))
            .header("Authorization", &format!("Basic {}", STANDARD.encode("eve:canary-client")))
            .header("Proxy-Authorization", "Bearer canary-proxy")
            .header("Cookie", "session=canary-cookie")
            .header("Referer", "https://cdn.test/?sig=canary-referer");
        self.send(ask).await.status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_said() {
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "canary-file\n").unwrap();
    let image = Image::new(1101, &[100_000, 90_000, 80_000]);
    let access = || Access::token_for("ada", "canary-stored");
    let upstream = Registry::start(Options { access: access(), ..Options::default() }).await;
    let by_file =
        Registry::start(Options { access: Access::basic("ada", "canary-file"), ..Options::default() }).await;
    let cdn = Registry::open().await;
    for registry in [&upstream, &by_file, &cdn] {
        registry.add_image("library/redis", "7", &image);
    }
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(&data, &["--log-level", "trace"]);
    let token = super::process::text(&data.path().join("admin.token")).trim().to_owned();
    let mut scene = Scene { server, heard: Vec::new() };
    let [first, second, third] = [0, 1, 2].map(|number| &image.layers[number]);

    // A good pull, by token; then a layer by a signed address that works, and one that does not.
    let form = json!({
        "remote_url": upstream.url().as_str(), "username": "ada", "password": "canary-stored",
        "allowed_hosts": ["localhost"], "tag_ttl": "0s",
    });
    assert_eq!(scene.put(form).await, 200);
    assert_eq!(scene.pull(&manifest("redis", "7")).await, 200);
    assert_eq!(scene.pull(&blob("redis", first)).await, 200);
    let signed = |host: &str, digest| {
        let url = cdn.url_as(host);
        Fault::Redirect(format!(
            "{url}v2/library/redis/blobs/{digest}?X-Amz-Signature=canary-signed&sig=canary"
        ))
    };
    upstream.always(&second.digest.to_string(), signed("localhost", second.digest));
    assert_eq!(scene.pull(&blob("redis", second)).await, 200);
    cdn.always("/blobs/", Fault::status(403));
    upstream.always(&third.digest.to_string(), signed("localhost", third.digest));
    assert_eq!(scene.pull(&blob("redis", third)).await, 502);
    upstream.behave();
    upstream.always(&third.digest.to_string(), signed("127.0.0.2", third.digest));
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert_eq!(scene.pull(&blob("redis", third)).await, 502);

    // A token server that fails, one that lies elsewhere, and an upstream that is gone.
    upstream.revoke_tokens();
    upstream.always("/token", Fault::answer(500, &[], "canary-answer"));
    scene.pull(&manifest("redis", "8")).await;
    upstream.behave();
    upstream.set_realm("https://eve:canary@auth.evil.test/token?x=canary");
    scene.pull(&manifest("redis", "9")).await;
    upstream.stop().await;
    scene.pull(&manifest("redis", "10")).await;
    // Another way to keep a password, and a wrong one.
    let form =
        json!({ "remote_url": by_file.url().as_str(), "username": "ada", "password_file": password_file });
    assert_eq!(scene.put(form).await, 200);
    assert_eq!(scene.pull(&manifest("redis", "7")).await, 200);
    assert_eq!(scene.put(json!({ "password": "canary-wrong" })).await, 200);
    assert_eq!(scene.pull(&manifest("redis", "11")).await, 502);

    // Mistakes of an administrator.
    for form in [
        json!({ "remote_url": "https://eve:canary@registry.test" }),
        json!({ "remote_url": "https://registry.test/?token=canary" }),
        json!({ "password": ["canary"] }),
        json!({ "mirrors": ["https://eve:canary@mirror.test"] }),
        json!({ "username": "eve:canary" }),
        json!({ "passwort": "canary" }),
    ] {
        let status = scene.put(form.clone()).await;
        assert_eq!(status, 400, "{form}");
    }
    let broken = Ask::new("POST", "/api/repository").body("{\"password\":\"canary\",");
    assert_eq!(scene.send(broken).await.status, 400);
    for authorization in [format!("Bearer {token}x"), format!("Bearer {token}"), "Bearer canary".to_owned()] {
        scene.send(Ask::get("/api/repository?token=canary").header("Authorization", &authorization)).await;
    }
    // Heads that never reach a handler.
    let to = scene.server.address;
    let smuggled = "GET /v2/?sig=canary HTTP/1.1\r\nHost: a b\r\nAuthorization: Bearer canary\r\n\r\n";
    scene.heard.push(raw(to, smuggled).await.all());
    scene.heard.push(
        raw(to, "GET /v2/?sig=canary HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer canary\r\n\r\n")
            .await
            .all(),
    );

    for path in ["/metrics", "/readyz", "/healthz", "/", "/api/status", "/api/images", "/api/repository"] {
        scene.send(Ask::get(path)).await;
    }
    let mut add =
        super::process::binary(&["repo", "add", "other", "https://registry.test", "--username", "ada"]);
    add.args(["--password-stdin", "--data-dir", data.path().to_str().unwrap()]);
    let added = run_with(add, "canary-stdin\n");
    assert_eq!(added.code, 0);
    scene.heard.extend([added.out, added.err]);
    scene.server.signal(Signal::TERM);
    assert_eq!(scene.server.wait(), 0);

    // They were used where they belong.
    let shown = |registry: &Registry, text: &str| {
        let all = registry.log();
        all.iter().any(|seen| format!("{} {:?}", seen.query, seen.headers).contains(text))
    };
    assert!(shown(&upstream, &STANDARD.encode("ada:canary-stored")) && shown(&upstream, "Bearer token-1"));
    assert!(shown(&by_file, &STANDARD.encode("ada:canary-file")) && shown(&cdn, "canary-signed"));

    let log = scene.server.log();
    assert!(log.iter().any(|line| line.contains("\"level\":\"TRACE\"")), "the log is of every level");
    assert!(log.len() > 100);
    let said = log.iter().chain(&scene.heard);
    let secrets = secrets(&token);
    let told: Vec<_> = said.filter(|text| secrets.iter().any(|secret| text.contains(secret))).collect();
    assert!(told.is_empty(), "{} texts hold a secret, the first:\n{}", told.len(), told[0]);
}
