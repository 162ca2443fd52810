//! Owns the management API as a person with curl sees it. Must not know: pulls.

use crate::process::run;
use crate::trouble::{Outcome, ensure};
use crate::world::{World, step, upstream_url};
use serde_json::{Value, json};

const API: &str = "https://api.binaryrepo.local/api/repository";

pub fn curl(world: &mut World) -> Outcome {
    let token = world.serve()?.token()?;
    let remote = json!({
        "name": "docker-remote", "repo_type": "remote", "package_type": "docker",
        "remote_url": "https://registry-1.docker.io",
    });
    let with = |name: &str, key: &str, value: &str| {
        let mut body = remote.clone();
        body["name"] = json!(name);
        body[key] = json!(value);
        body
    };
    let call =
        |method: &str, path: &str, body: &Value, wanted: u16| call(world, &token, method, path, body, wanted);

    call("POST", "", &remote, 409)?;
    call(
        "POST",
        "",
        &json!({ "name": "docker-local", "repo_type": "local", "package_type": "docker" }),
        409,
    )?;
    step("the first start has made docker-remote and docker-local");
    call("POST", "", &with("older", "package_type", "remote"), 201)?;
    let stored = call("GET", "/older", &Value::Null, 200)?;
    ensure!(stored.contains(r#""docker""#), "the older spelling is not stored as docker: {stored}");
    let refused = call("POST", "", &with("wrong", "colour", "blue"), 400)?;
    ensure!(refused.contains("colour"), "the error does not name the unknown field: {refused}");
    let refused = call("POST", "", &with("wrong", "remote_url", "registry-1"), 400)?;
    ensure!(refused.contains("remote_url"), "the error does not name the field: {refused}");
    step("201, 400 with the field, 409");

    let mut secret = with("secret", "username", "robot");
    secret["password"] = json!("do not show me");
    call("POST", "", &secret, 201)?;
    let shown = call("GET", "/secret", &Value::Null, 200)? + &call("GET", "", &Value::Null, 200)?;
    ensure!(!shown.contains("do not show me"), "a password is shown: {shown}");
    ensure!(shown.contains(r#""repositories""#), "the listing has no \"repositories\": {shown}");
    let changed = with("older", "remote_url", &upstream_url());
    call("PUT", "/older", &changed, 200)?;
    let stored = call("GET", "/older", &Value::Null, 200)?;
    ensure!(stored.contains(&upstream_url()), "PUT did not change remote_url: {stored}");
    for name in ["/older", "/secret"] {
        call("DELETE", name, &Value::Null, 204)?;
        call("GET", name, &Value::Null, 404)?;
    }
    step("passwords hidden, changed, deleted");
    let anonymous = curl_line(world, "POST", API, &remote, &[])?;
    ensure!(anonymous.ends_with("401"), "without the token, through the proxy: {anonymous}");
    Ok(())
}

fn call(world: &World, token: &str, method: &str, path: &str, body: &Value, wanted: u16) -> Outcome<String> {
    let header = format!("Authorization: Bearer {token}");
    let said = curl_line(world, method, &format!("{API}{path}"), body, &["-H", &header])?;
    let (text, status) = said.rsplit_once('\n').unwrap_or(("", &said));
    ensure!(
        status == wanted.to_string(),
        "{method} {path} {body} was answered {status} instead of {wanted}: {text}"
    );
    Ok(text.to_owned())
}

/// The answer's body and, on the last line, its status.
fn curl_line(world: &World, method: &str, url: &str, body: &Value, more: &[&str]) -> Outcome<String> {
    let mut curl = run("curl").args(["-sS", "-X", method, url, "-w", "\n%{http_code}", "--cacert"]);
    curl = curl.args([world.nginx_authority()]).args(more);
    if !body.is_null() {
        curl = curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
    }
    curl.success()
}
