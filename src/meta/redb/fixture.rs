//! The file of every schema that there was is kept under `fixtures/`, and this version reads it.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;

use super::{Opened, Options, RedbMeta, SCHEMA};
use crate::meta::{
    AccessTokenRow, AccountRow, Batch, ContentRow, CopyRow, DocumentRow, DraftRow, DraftSource, Durability,
    EdgeRow, GrantRow, HolderRow, LinkRow, Meta, MetaExt, PackageType, ReferrerRow, RepositoryRow,
    RepositoryType, ScopeRow, SessionRow, SettingKey, SettingRow, TagRow,
};
use crate::names::{
    AccountId, Algorithm, Digest, ImageName, ImagePattern, RepositoryId, Role, Tag, UploadId,
};

const REMOTE: RepositoryId = RepositoryId(1);
const LOCAL: RepositoryId = RepositoryId(2);
const ADA: AccountId = AccountId(1);
const UPLOAD: UploadId = UploadId::new(1, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const NEXT: SettingKey = SettingKey::NEXT_REPOSITORY_ID;

fn fixture(schema: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/schema-{schema}/meta.redb"))
}

fn image() -> ImageName {
    "library/redis".parse().expect("legal")
}

fn tag() -> Tag {
    "7.2".parse().expect("legal")
}

fn manifest() -> Digest {
    Digest::of(Algorithm::Sha256, b"{\"layers\":[]}")
}

fn layer() -> Digest {
    Digest::of(Algorithm::Sha512, b"layer")
}

fn remote() -> RepositoryRow {
    RepositoryRow {
        name: "docker-remote".parse().expect("legal"),
        repo_type: RepositoryType::Remote,
        package_type: PackageType::Docker,
        remote_url: Some("https://registry-1.docker.io".to_owned()),
        username: Some("somebody".to_owned()),
        password: Some("not a secret".to_owned()),
        password_file: Some("/etc/binaryrepo/password".to_owned()),
        ca_file: Some("/etc/binaryrepo/ca.pem".to_owned()),
        tag_ttl_ms: Some(60_000),
        negative_ttl_ms: Some(10_000),
        stale_if_error_ms: Some(604_800_000),
        max_size: Some(1 << 40),
        upstream_namespace: Some("team".to_owned()),
        default_mirror: true,
        anonymous_pull: true,
        allowed_hosts: vec!["auth.docker.io".to_owned()],
        mirrors: vec!["https://mirror.example.com".to_owned()],
        immutable_tags: false,
        sparse_manifests: false,
        created_ms: 1_700_000_000_000,
        retired: false,
    }
}

/// Of schema 1, which knew nothing of `immutable_tags`, or a later one. Neither knew `sparse_manifests`.
fn local(schema: u32) -> RepositoryRow {
    RepositoryRow {
        name: "docker-local".parse().expect("legal"),
        repo_type: RepositoryType::Local,
        remote_url: None,
        username: None,
        password: None,
        password_file: None,
        ca_file: None,
        tag_ttl_ms: None,
        negative_ttl_ms: None,
        stale_if_error_ms: None,
        max_size: None,
        upstream_namespace: None,
        default_mirror: false,
        anonymous_pull: false,
        allowed_hosts: Vec::new(),
        mirrors: Vec::new(),
        immutable_tags: schema > 1,
        retired: true,
        ..remote()
    }
}

fn link(media_type: Option<&str>) -> LinkRow {
    LinkRow { media_type: media_type.map(str::to_owned), size: 13, stamp: None }
}

fn copy() -> CopyRow {
    CopyRow { size: 5, durable: true, epoch: 1, last_used_ms: 1_700_000_000_001, upstream: 3 }
}

fn document() -> DocumentRow {
    DocumentRow {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        last_used_ms: 1_700_000_000_002,
        bytes: Bytes::from_static(b"{\"layers\":[]}"),
    }
}

fn tag_row() -> TagRow {
    TagRow { digest: manifest(), media_type: document().media_type, checked_ms: 1_700_000_000_003, size: 13 }
}

fn edge() -> EdgeRow {
    EdgeRow { child: layer(), size: 5, media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned() }
}

fn holder() -> HolderRow {
    HolderRow { stamp: 1_700_000_000_005_000 }
}

fn referrer() -> ReferrerRow {
    ReferrerRow {
        media_type: document().media_type,
        size: 13,
        artifact_type: Some("application/vnd.example.sbom.v1".to_owned()),
        annotations: [("org.example.author".to_owned(), "somebody".to_owned())].into(),
    }
}

fn session() -> SessionRow {
    SessionRow {
        repository: LOCAL,
        image: image(),
        owner: "account 1".to_owned(),
        draft: 78,
        algorithm: Algorithm::Sha512,
        used_ms: 1_700_000_000_006,
    }
}

fn draft() -> DraftRow {
    DraftRow {
        digest: layer(),
        size: Some(5),
        sources: vec![DraftSource { repository: REMOTE, image: image() }],
        checkpoints: vec![(2, Digest::of(Algorithm::Sha512, b"la").to_string())],
        created_ms: 1_700_000_000_004,
    }
}

fn account() -> AccountRow {
    AccountRow {
        name: "ada".parse().expect("legal"),
        password: "$argon2id$not-a-hash".to_owned(),
        admin: true,
        disabled: true,
        created_ms: 1_700_000_000_005,
    }
}

fn pattern() -> ImagePattern {
    "team/*".parse().expect("legal")
}

fn grant() -> GrantRow {
    GrantRow { role: Role::Delete }
}

fn access_token() -> AccessTokenRow {
    AccessTokenRow {
        name: "ci".to_owned(),
        account: Some(1),
        scopes: vec![ScopeRow { repository: 2, images: pattern(), role: Role::Write }],
        created_ms: 1_700_000_000_006,
        expires_ms: Some(1_800_000_000_000),
    }
}

fn everything() -> Batch {
    let mut batch = Batch::new(Durability::Durable);
    batch
        .put(&REMOTE, &remote())
        .put(&LOCAL, &local(SCHEMA))
        .put(&(REMOTE, image(), manifest()), &link(Some(&document().media_type)))
        .put(&(REMOTE, image(), layer()), &link(None))
        .put(&layer(), &ContentRow { size: 5, pushed: true })
        .put(&layer(), &copy())
        .put(&manifest(), &document())
        .put(&(REMOTE, image(), tag()), &tag_row())
        .put(&(manifest(), 0), &edge())
        .put(&(layer(), LOCAL, image()), &holder())
        .put(&(LOCAL, image(), (layer(), manifest())), &referrer())
        .put(&77, &draft())
        .put(&ADA, &account())
        .put(&(ADA, LOCAL, pattern()), &grant())
        .put(&layer(), &access_token())
        .put(&UPLOAD, &session())
        .put(&NEXT, &SettingRow { value: json!(3) })
        .put(&SettingKey::NEXT_ACCOUNT_ID, &SettingRow { value: json!(2) });
    batch
}

/// Writes the fixture of the schema at hand. Run by hand, once, before a release with a new schema:
/// `cargo test --lib make_fixture -- --ignored`
#[tokio::test]
#[ignore = "writes into the source tree"]
#[expect(clippy::disallowed_methods, reason = "lays out the fixture's directory")]
async fn make_fixture() {
    let path = fixture(SCHEMA);
    assert!(!path.exists(), "a fixture is never written anew: later versions must read this very file");
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    let (meta, _) = RedbMeta::open(&path, Options::default()).expect("a new store");
    meta.apply(everything()).await.expect("applied");
    meta.close().await.expect("closed");
}

#[tokio::test]
async fn the_file_of_every_schema_is_read() {
    for schema in 1..=SCHEMA {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("meta.redb");
        fs::copy(fixture(schema), &path).expect("every schema has its fixture");
        // As it was found, and again as an ordinary file of today's schema.
        for (found, epoch) in [(schema, 2), (SCHEMA, 3)] {
            let (meta, opened) = RedbMeta::open(&path, Options::default()).expect("opens");
            assert_eq!(opened, Opened { clean: true, created: false, schema: found, epoch });
            holds_everything(&meta, schema);
            meta.close().await.expect("closed");
        }
    }
}

fn holds_everything(meta: &dyn Meta, written_by: u32) {
    let repositories = meta.scan::<RepositoryRow>(&(), None, 10).expect("rows");
    assert!(
        repositories == [(REMOTE, remote()), (LOCAL, local(written_by))],
        "{written_by}: {repositories:?}"
    );
    let mut links = [
        ((REMOTE, image(), manifest()), link(Some(&document().media_type))),
        ((REMOTE, image(), layer()), link(None)),
    ];
    links.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(meta.scan::<LinkRow>(&(REMOTE, image()), None, 10).expect("rows"), links);
    assert_eq!(meta.get(&layer()).expect("a row"), Some(ContentRow { size: 5, pushed: true }));
    assert_eq!(meta.get(&layer()).expect("a row"), Some(copy()));
    assert_eq!(meta.get(&manifest()).expect("a row"), Some(document()));
    assert_eq!(meta.get(&(REMOTE, image(), tag())).expect("a row"), Some(tag_row()));
    assert_eq!(meta.scan::<EdgeRow>(&manifest(), None, 10).expect("rows"), [((manifest(), 0), edge())]);
    assert_eq!(meta.get(&77).expect("a row"), Some(draft()));
    assert_eq!(meta.get(&ADA).expect("a row"), Some(account()));
    assert_eq!(meta.scan::<GrantRow>(&ADA, None, 10).expect("rows"), [((ADA, LOCAL, pattern()), grant())]);
    assert_eq!(meta.get(&layer()).expect("a row"), Some(access_token()));
    assert_eq!(meta.get(&NEXT).expect("a row"), Some(SettingRow { value: json!(3) }));

    let since_2 = written_by >= 2;
    let holders = meta.scan::<HolderRow>(&layer(), None, 10).expect("rows");
    assert_eq!(holders, since_2.then(|| ((layer(), LOCAL, image()), holder())).as_slice());
    let about = meta.scan::<ReferrerRow>(&(LOCAL, image(), layer()), None, 10).expect("rows");
    assert_eq!(about, since_2.then(|| ((LOCAL, image(), (layer(), manifest())), referrer())).as_slice());
    assert_eq!(meta.get(&UPLOAD).expect("no damage"), since_2.then(session));
}
