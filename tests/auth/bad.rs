//! Bad input: credentials that are none, guesses, and secrets that must not be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::house::{ADA, ADMIN_TOKEN, BOB, CLIENT, EVE, House, logged};
use super::support::metrics::counted;

const MANIFEST: &str = "/v2/vault/team/app/manifests/1";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_credential_is_401_with_a_challenge() {
    let house = House::new().await;
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims =
        part(json!({ "iss": "binaryrepo", "aud": "registry", "sub": "account:1", "exp": 4_000_000_000_u64,
        "iat": 0, "access": [] }));
    let none = part(json!({ "alg": "none", "typ": "JWT" }));
    let foreign = part(json!({ "alg": "HS256", "typ": "JWT", "kid": "0badf00d" }));
    let keyed = part(json!({ "alg": "RS256", "jwk": { "kty": "RSA", "n": "AQAB", "e": "AQAB" } }));
    let mut strange: Vec<Vec<u8>> = [
        "",
        " ",
        "Basic",
        "Basic ",
        "Basic !",
        "Basic YQ==",
        "Bearer",
        "Bearer ",
        "Bearer a",
        "Bearer a.b.c",
        "Bearer ..",
        "Digest username=\"a\"",
        "Negotiate YII=",
        "Basic Og== Og==",
        "bearer brt_",
        "Bearer brt_xyz",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    strange.extend([
        format!("Bearer {none}.{claims}.").into_bytes(),
        format!("Bearer {none}.{claims}.AAAA").into_bytes(),
        format!("Bearer {foreign}.{claims}.{}", "A".repeat(43)).into_bytes(),
        format!("Bearer {keyed}.{claims}.AAAA").into_bytes(),
        b"Basic \xff\xfe\x80".to_vec(),
        b"\xff".to_vec(),
        format!("Bearer {}", "A".repeat(30_000)).into_bytes(),
        format!("Basic {}", "A".repeat(30_000)).into_bytes(),
        format!("Bearer {}", "a.".repeat(15_000)).into_bytes(),
    ]);
    for value in &strange {
        let shown = value.escape_ascii().to_string();
        for path in ["/v2/", MANIFEST, "/token", "/v2/docker-local/nothing/manifests/1"] {
            let answer = house.request("GET", path).header("Authorization", value).send().await;
            assert_eq!(answer.status, 401, "{path} {shown:.100}");
            assert!(answer.header("www-authenticate").is_some(), "{path} {shown:.100}");
        }
        let answer = house.api("GET", "/api/users").header("Authorization", value).send().await;
        assert_eq!(answer.status, 401, "{shown:.100}");
    }
    let twice = house.request("GET", "/v2/").basic(ADA.0, ADA.1).basic(ADA.0, ADA.1).send().await;
    assert_eq!(twice.status, 401);
    // Heads beyond all measure do not come so far.
    let huge = house.request("GET", "/v2/").header("Authorization", "A".repeat(128 * 1024)).send().await;
    assert_eq!(huge.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_forms_are_refused_and_never_our_fault() {
    let house = House::new().await;
    let long = format!("grant_type=password&username=a&password={}", "x".repeat(20_000));
    for (form, status) in [
        ("", 400),
        ("grant_type", 400),
        ("grant_type=authorization_code&code=x", 400),
        ("grant_type=password&username=ada", 401),
        ("grant_type=password&username=%FF%FE&password=%00", 401),
        (&long, 401),
    ] {
        let answer = house.request("POST", "/token").form(form).send().await;
        assert_eq!(answer.status, status, "{form:.60}");
    }
    let large = house.request("POST", "/token").form(&"a".repeat(40_000)).send().await;
    assert_eq!(large.status, 413);
    for method in ["PUT", "DELETE", "PATCH"] {
        assert_eq!(house.request(method, "/token").send().await.status, 405, "{method}");
    }
    for scope in
        ["", ":::", "repository", "repository:A:pull", "repository:a/../b:pull", "x:y:z", "%00", "a%20b"]
    {
        let answer = house.get(&format!("/token?scope={scope}&service=%22%0d%0a")).await;
        assert_eq!(answer.status, 200, "{scope}");
    }
}

/// Passwords are bytes: odd ones are wrong ones, and take no other way.
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_passwords_are_wrong_ones() {
    let house = House::new().await;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    for credentials in [
        b"nobody:x".to_vec(),
        b"ada:".to_vec(),
        b":x".to_vec(),
        b"ada:\0".to_vec(),
        b"ada:\xff\xfe".to_vec(),
        b"\xff\xfe:x".to_vec(),
        [b"bob:".as_slice(), &[b'x'; 1_025]].concat(),
        [vec![b'u'; 10_000], b":x".to_vec()].concat(),
    ] {
        let header = format!("Basic {}", encode(&credentials));
        let answer = house.request("GET", "/v2/").header("Authorization", header).send().await;
        assert_eq!(answer.status, 401, "{}", credentials.escape_ascii());
    }
}

/// Guesses for one user from one address are slowed down. Nobody else is: not a token of that user, not another
/// user behind the same address, not the same user elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_and_only_for_who_guesses() {
    let house = House::new().await;
    let ticket = house.ticket(Some(BOB), "repository:open-remote/team/app:pull").await;
    let token = json!({ "name": "t", "user": "bob" });
    let token = house.manage("POST", "/api/tokens", Some(&token)).await.json()["token"].clone();
    let other_proxy = "198.51.100.1";
    let ping = |user: &str, password: &str, from: &str| {
        let request = super::client::Request::new(house.address, "GET", "/v2/").through_proxy(from);
        request.basic(user, password).send()
    };
    // A user who logged in from there a moment ago goes on undisturbed.
    assert_eq!(ping(EVE.0, EVE.1, other_proxy).await.status, 200);
    for _ in 0..3 {
        assert_eq!(ping(EVE.0, "wrong", other_proxy).await.status, 401);
        assert_eq!(ping(BOB.0, "wrong", other_proxy).await.status, 401);
    }
    // After one, two and four seconds, each since the end of the attempt before.
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(ping(BOB.0, "wrong", other_proxy).await.status, 401);
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    // The next waits for eight seconds; all this is done before.
    let others = async {
        assert_eq!(ping(ADA.0, ADA.1, other_proxy).await.status, 200);
        assert_eq!(ping(BOB.0, BOB.1, "198.51.100.2").await.status, 200);
        assert_eq!(ping(EVE.0, EVE.1, other_proxy).await.status, 200);
        let by_token = ping("bob", token.as_str().unwrap(), other_proxy).await;
        assert_eq!(by_token.status, 200);
        let pull = house.request("GET", "/v2/open-remote/team/app/manifests/1").bearer(&ticket).send().await;
        assert_eq!(pull.status, 200);
    };
    tokio::select! {
        biased;
        () = others => {}
        guess = ping(BOB.0, "wrong", other_proxy) => panic!("a guess was quick: {}", guess.status),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_in_parallel_are_no_way_around() {
    let house = House::new().await;
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..40 {
        let request = house.request("GET", "/v2/").basic(BOB.0, &format!("guess-{number}"));
        guesses.spawn(async move { request.send().await });
    }
    let mut refused = 0;
    let start = Instant::now();
    // Those that are sent away come back first.
    while let Some(answer) = guesses.join_next().await {
        let answer = answer.unwrap();
        if answer.status == 429 {
            assert_eq!(answer.code(), "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").is_some());
            refused += 1;
        }
        if refused >= 20 {
            break;
        }
    }
    assert!(refused >= 20 && start.elapsed() < Duration::from_secs(10), "{refused} {:?}", start.elapsed());
}

/// More guesses than can wait, all from one address, and each for a user name of its own: whoever comes from elsewhere
/// does not notice. All once stood in one line, and right passwords were sent away with the guesses.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_guesses_leaves_room_for_who_knows_the_password() {
    let house = House::new().await;
    let from =
        |address: &str| super::client::Request::new(house.address, "GET", "/v2/").through_proxy(address);
    let sent_away = Arc::new(AtomicUsize::new(0));
    let mut flood = tokio::task::JoinSet::new();
    for guesser in 0..400 {
        let (request, sent_away) = (from("198.51.100.1"), sent_away.clone());
        flood.spawn(async move {
            for number in 0.. {
                let name = format!("nobody-{guesser}-{number}");
                let status = request.clone().basic(&name, "guess").send().await.status;
                assert!(matches!(status, 401 | 503), "{status}");
                if status == 503 {
                    sent_away.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
    }
    let full = async {
        while sent_away.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), full).await.expect("the flood fills the line");
    for (user, password) in [ADA, BOB, EVE] {
        let start = Instant::now();
        let answer = from("198.51.100.2").basic(user, password).send().await;
        println!("{user}: {} after {:?}", answer.status, start.elapsed());
        assert_eq!(answer.status, 200, "{user}");
        assert!(start.elapsed() < Duration::from_secs(5), "{user}: {:?}", start.elapsed());
    }
    assert!(flood.try_join_next().is_none(), "the flood went on all the time");
}

/// How long an answer takes does not tell which names there are: each password is hashed once, whoever's it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_costs_as_much_as_a_wrong_password() {
    let house = House::new().await;
    let hashes = async || {
        let text = String::from_utf8(house.get("/metrics").await.body).unwrap();
        counted(&text, "binaryrepo_password_hashes_total").expect("the metric")
    };
    let token =
        house.manage("POST", "/api/tokens", Some(&json!({ "name": "t", "user": "ada" }))).await.json();
    let disabled = json!({ "disabled": true });
    assert_eq!(house.manage("PUT", "/api/users/bob", Some(&disabled)).await.status, 200);
    for (user, password, status, expected) in [
        ("ada", "wrong", 401, 1),
        ("nobody", "wrong", 401, 1),
        ("No Name!", "wrong", 401, 1),
        ("", "wrong", 401, 1),
        (BOB.0, BOB.1, 401, 1),
        (ADA.0, ADA.1, 200, 1),
        // Known since a moment ago, or without a hash.
        (ADA.0, ADA.1, 200, 0),
        ("nobody", token["token"].as_str().unwrap(), 200, 0),
    ] {
        let before = hashes().await;
        let answer = house.request("GET", "/v2/").basic(user, password).send().await;
        assert_eq!((answer.status, hashes().await - before), (status, expected), "{user}");
    }
}

/// Secrets appear in no log line, in no metric, and in no answer but the one that hands them out.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_told_to_nobody() {
    let house = House::new().await;
    let mut secrets = vec![ADMIN_TOKEN.to_owned(), "canary-of-the-vault".to_owned()];
    let mut answers = Vec::new();
    let made = house.manage("POST", "/api/tokens", Some(&json!({ "name": "t", "user": "ada" }))).await.json();
    secrets.push(made["token"].as_str().unwrap().to_owned());
    secrets.push(house.ticket(Some(ADA), "repository:vault/team/app:pull").await);
    for (user, password) in [ADA, BOB, EVE, ("nobody", "canary-of-nobody"), ("canary-in-the-name", "x")] {
        secrets.push(password.to_owned());
        answers.push(house.request("GET", MANIFEST).basic(user, password).send().await);
        let form = format!("grant_type=password&username={user}&password={password}&scope=x");
        house.request("POST", "/token").form(&form).send().await;
    }
    secrets.push("canary-in-the-name".to_owned());
    for secret in secrets.clone() {
        answers.push(house.request("GET", MANIFEST).bearer(&secret).send().await);
        answers.push(house.request("GET", MANIFEST).header("Authorization", &secret).send().await);
        answers.push(house.api("GET", "/api/users").basic("ada", &secret).send().await);
    }
    for body in [
        json!({ "name": "x", "password": ["canary-in-a-list"] }),
        json!({ "name": "x", "password": { "canary-in-an-object": 1 } }),
        json!({ "name": "x y", "password": "canary-beside-a-bad-name" }),
        json!({ "name": "ada", "password": "canary-of-a-second-ada" }),
    ] {
        answers.push(house.manage("POST", "/api/users", Some(&body)).await);
    }
    for path in
        ["/api/users", "/api/users/ada", "/api/tokens", "/api/grants", "/api/repository", "/api/status"]
    {
        answers.push(house.manage("GET", path, None).await);
    }
    answers.push(house.get("/metrics").await);
    answers.push(house.get("/readyz").await);
    let told: String = answers.iter().map(|answer| String::from_utf8_lossy(&answer.body)).collect();
    for text in [told, logged()] {
        for line in text.lines() {
            assert!(!line.contains("canary-") && !line.contains("argon2"), "{line}");
            let token = secrets.iter().find(|secret| line.contains(secret.as_str()) && secret.len() > 1);
            assert!(token.is_none(), "{line}");
        }
    }
    assert!(logged().contains("api.user.create"), "the log was not recorded");
    // Who it was is there to be found.
    let written = logged();
    let of_ada = |line: &&str| line.contains("user=\"ada\"") && line.contains(CLIENT);
    assert!(written.lines().any(|line| of_ada(&line)), "no line names ada");
    let tickets = |line: &str| line.contains("action=\"token\"") && line.contains("user=\"ada\"");
    assert!(written.lines().any(tickets), "no ticket names ada");
}

/// What lies on the disk: neither a password nor a token.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_stored() {
    let house = House::new().await;
    let made = house.manage("POST", "/api/tokens", Some(&json!({ "name": "t", "user": "ada" }))).await.json();
    let token = made["token"].as_str().unwrap().to_owned();
    let house = house.restart().await;
    let stored = std::fs::read(house.dir.path().join("data/meta.redb")).unwrap();
    let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("$argon2id$v=19$m=19456,t=2,p=1$"));
    for secret in [ADA.1, BOB.1, EVE.1, &token, &token[4..]] {
        assert!(!holds(secret), "{secret}");
    }
}
