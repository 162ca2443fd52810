//! Uploads against a model: any order of appends, looks, cancellations, restarts and ends.

use std::time::Duration;

use binaryrepo::engine::{
    Engine, EngineError, ErrorKind, LocalSpec, Principal, RepositorySpec, Scope, Settings,
};
use binaryrepo::names::{Algorithm, Digest, UploadId};
use binaryrepo::telemetry::Metrics;
use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::support::patience::found;

/// What is done to one of a few uploads.
#[derive(Clone, Debug)]
enum Step {
    Begin {
        long: bool,
    },
    Append {
        upload: usize,
        bytes: Vec<u8>,
        at: At,
    },
    Look {
        upload: usize,
    },
    Cancel {
        upload: usize,
    },
    Finish {
        upload: usize,
        right: bool,
        long: bool,
    },
    /// Somebody else tries.
    Steal {
        upload: usize,
    },
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum At {
    End,
    Elsewhere(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let upload = 0..3_usize;
    let at = prop_oneof![4 => Just(At::End), 1 => (0..40_u64).prop_map(At::Elsewhere)];
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (0..200_000_usize, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
    ];
    let step = prop_oneof![
        3 => any::<bool>().prop_map(|long| Step::Begin { long }),
        6 => (upload.clone(), bytes, at).prop_map(|(upload, bytes, at)| Step::Append { upload, bytes, at }),
        2 => upload.clone().prop_map(|upload| Step::Look { upload }),
        1 => upload.clone().prop_map(|upload| Step::Cancel { upload }),
        3 => (upload.clone(), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(upload, right, long)| Step::Finish { upload, right, long }),
        1 => upload.prop_map(|upload| Step::Steal { upload }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

/// What must be true of an upload.
struct Known {
    id: UploadId,
    bytes: Vec<u8>,
    over: bool,
}

struct Model {
    engine: Engine,
    dir: TempDir,
    settings: Settings,
    uploads: Vec<Known>,
    published: Vec<(Digest, Vec<u8>)>,
}

const ME: Principal = Principal::Operator;

async fn open(dir: &TempDir, settings: &Settings) -> Engine {
    Engine::open(dir.path(), settings.clone(), Metrics::new(), Vec::new()).await.unwrap()
}

impl Model {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir, &settings).await;
        let spec = RepositorySpec::Local(LocalSpec::default());
        engine.repositories().create("mine".parse().unwrap(), spec).await.unwrap();
        Self { engine, dir, settings, uploads: Vec::new(), published: Vec::new() }
    }

    async fn restart(&mut self) {
        self.engine.shutdown().await;
        self.engine = open(&self.dir, &self.settings).await;
    }

    fn scope(&self) -> Scope {
        let repository = self.engine.repositories().by_name("mine").unwrap();
        Scope { repository, image: "a/b".parse().unwrap() }
    }

    async fn run(&mut self, step: Step) {
        let scope = self.scope();
        match step {
            Step::Begin { long } => {
                let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
                let id = self.engine.start_upload(&scope, &ME, algorithm).await.unwrap();
                self.uploads.push(Known { id, bytes: Vec::new(), over: false });
            }
            Step::Append { upload, bytes, at } => self.append(&scope, upload, bytes, at).await,
            Step::Look { upload } => {
                let Some(known) = self.uploads.get(upload) else { return };
                let len = self.engine.upload_len(&scope, &ME, &known.id).await;
                check(len, known.over, |len| assert_eq!(len, known.bytes.len() as u64));
            }
            Step::Cancel { upload } => {
                let Some(known) = self.uploads.get_mut(upload) else { return };
                check(self.engine.cancel_upload(&scope, &ME, &known.id).await, known.over, |()| ());
                known.over = true;
            }
            Step::Finish { upload, right, long } => self.finish(&scope, upload, right, long).await,
            Step::Steal { upload } => {
                let Some(known) = self.uploads.get(upload) else { return };
                let other = Scope { image: "a/c".parse().unwrap(), ..scope.clone() };
                let by_image = self.engine.upload(&other, &ME, &known.id).await.unwrap_err();
                let by_person =
                    self.engine.upload(&scope, &Principal::Anonymous, &known.id).await.unwrap_err();
                assert_eq!(
                    (by_image.kind, by_person.kind),
                    (ErrorKind::UploadUnknown, ErrorKind::UploadUnknown)
                );
            }
            Step::Restart => self.restart().await,
        }
    }

    async fn append(&mut self, scope: &Scope, upload: usize, bytes: Vec<u8>, at: At) {
        let Some(known) = self.uploads.get_mut(upload) else { return };
        let end = known.bytes.len() as u64;
        let start = match at {
            At::End => end,
            At::Elsewhere(start) => start,
        };
        let leased = self.engine.upload(scope, &ME, &known.id).await;
        let mut lease = match leased {
            Ok(lease) => lease,
            Err(error) => return check::<()>(Err(error), known.over, |()| ()),
        };
        assert!(!known.over);
        // Who is second does not get it.
        let second = self.engine.upload(scope, &ME, &known.id).await.unwrap_err();
        assert_eq!(second.kind, ErrorKind::UploadOutOfOrder { at: end });
        match lease.begins_at(start) {
            Ok(()) => assert_eq!(start, end),
            Err(error) => {
                assert_ne!(start, end);
                assert_eq!(error.kind, ErrorKind::UploadOutOfOrder { at: end });
                return;
            }
        }
        for piece in bytes.chunks(64 * 1024) {
            lease.append(vec![Bytes::copy_from_slice(piece)]).await.unwrap();
        }
        known.bytes.extend(bytes);
    }

    async fn finish(&mut self, scope: &Scope, upload: usize, right: bool, long: bool) {
        let Some(known) = self.uploads.get_mut(upload) else { return };
        let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let digest = if right {
            Digest::of(algorithm, &known.bytes)
        } else {
            Digest::of(algorithm, &[&known.bytes[..], b"more"].concat())
        };
        let lease = match self.engine.upload(scope, &ME, &known.id).await {
            Ok(lease) => lease,
            Err(error) => return check::<()>(Err(error), known.over, |()| ()),
        };
        assert!(!known.over);
        let ended = lease.finish(&digest).await;
        known.over = true;
        match ended {
            Ok(size) => {
                assert!(right);
                assert_eq!(size, known.bytes.len() as u64);
                self.published.push((digest, known.bytes.clone()));
                assert!(self.engine.has_uploaded(scope, &ME, &known.id, &digest).await.unwrap());
            }
            Err(error) => {
                assert!(!right);
                assert_eq!(error.kind, ErrorKind::DigestMismatch);
            }
        }
    }

    /// All that was acknowledged is whole on the disk, and nothing else is.
    async fn check_disk(&self) {
        for (digest, bytes) in &self.published {
            let hex = digest.hex();
            let path =
                self.dir.path().join("cas").join(digest.algorithm().as_str()).join(&hex[..2]).join(&hex);
            assert_eq!(&std::fs::read(path).unwrap(), bytes);
        }
        let live = self.uploads.iter().filter(|known| !known.over && !known.bytes.is_empty()).count();
        let drafts = || std::fs::read_dir(self.dir.path().join("tmp")).unwrap().count();
        let what = format!("the drafts are those of the {live} uploads with bytes");
        found(&what, async || (drafts() == live).then_some(())).await;
    }
}

fn check<T>(result: Result<T, EngineError>, over: bool, then: impl FnOnce(T)) {
    match result {
        Ok(value) => {
            assert!(!over);
            then(value);
        }
        Err(error) => {
            assert!(over, "{error:?}");
            assert_eq!(error.kind, ErrorKind::UploadUnknown);
        }
    }
}

/// Each has an engine of its own, which takes its time. The nightly run has more.
fn cases() -> ProptestConfig {
    let cases = std::env::var("UPLOAD_CASES").map_or(24, |text| text.parse().unwrap());
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn an_upload_is_its_bytes_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for step in steps {
                model.run(step).await;
            }
            model.check_disk().await;
            model.engine.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_goes_on_with_expires() {
    let begun = async |model: &Model| {
        let id = model.engine.start_upload(&model.scope(), &ME, Algorithm::Sha256).await.unwrap();
        let mut upload = model.engine.upload(&model.scope(), &ME, &id).await.unwrap();
        upload.append(vec![Bytes::from_static(b"abc")]).await.unwrap();
        (id, upload)
    };
    let is_gone = async |model: &Model, id: &UploadId| {
        let told = model.engine.upload_len(&model.scope(), &ME, id).await.unwrap_err();
        assert_eq!(told.kind, ErrorKind::UploadUnknown);
    };
    let a_while = || tokio::time::sleep(Duration::from_millis(5));
    let settings = Settings { upload_life: Duration::ZERO, ..Settings::default() };
    let mut model = Model::with(settings).await;
    let ((id, upload), (left, _)) = (begun(&model).await, begun(&model).await);
    a_while().await;
    model.engine.expire_uploads().await;
    let len = model.engine.upload_len(&model.scope(), &ME, &id).await.unwrap();
    assert_eq!(len, 3, "somebody works on it");
    is_gone(&model, &left).await;
    drop(upload);
    a_while().await;
    model.engine.expire_uploads().await;
    is_gone(&model, &id).await;
    // Of an earlier run as well, and for good.
    let (id, upload) = begun(&model).await;
    drop(upload);
    model.restart().await;
    model.engine.expire_uploads().await;
    is_gone(&model, &id).await;
    model.restart().await;
    is_gone(&model, &id).await;
    model.check_disk().await;
    model.engine.shutdown().await;
}

/// Sessions cost a row each, so there is an end to them. Whoever is refused is told to come again.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_not_more_than_ten_thousand_uploads() {
    let model = Model::new().await;
    let scope = model.scope();
    let begin = || {
        let (engine, scope) = (model.engine.clone(), scope.clone());
        tokio::spawn(async move { engine.start_upload(&scope, &ME, Algorithm::Sha256).await })
    };
    let mut last = None;
    for _ in 0..20 {
        for begun in (0..500).map(|_| begin()).collect::<Vec<_>>() {
            last = Some(begun.await.unwrap().unwrap());
        }
    }
    let refused = begin().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Overloaded);
    assert!(refused.retry_after.is_some());
    model.engine.cancel_upload(&scope, &ME, &last.unwrap()).await.unwrap();
    begin().await.unwrap().unwrap();
    model.engine.shutdown().await;
}
