//! Owns what cosign keeps in a registry beside an image: signatures and bills of materials, in each form it has had.
//! Must not know: other clients, but for the one that pushes the image.

use crate::process::{Run, run};
use crate::pushers::{Hand, Pusher, Site, VERSION};
use crate::trouble::{Context, Outcome, ensure};
use crate::world::{LOCAL, MEMBER, World, step};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Today's, and the one before it, which keeps tags unless told otherwise.
const EDITIONS: [&str; 2] = ["cosign-2", "cosign-3"];
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Nothing is looked up or written down in the world: a key is all there is.
const ALONE: [&str; 3] = ["--use-signing-config=false", "--tlog-upload=false", "--yes"];
/// Whom to trust besides the key: nobody.
const TRUSTED: &str = "trusted-root.json";
const BILL: &str = "bill.json";
const OURS: &str = "ours";
const OTHERS: &str = "others";

/// Where what cosign says of an image lies.
struct Form {
    name: &'static str,
    bundle: &'static str,
    sign: &'static [&'static str],
    verify: &'static [&'static str],
    /// What the referrers list it as. `None`: it has a tag made of the image's digest, and no referrer.
    listed_as: Option<&'static str>,
    /// Bills of materials never had the form between the two.
    attests: bool,
}

const FORMS: [Form; 3] = [
    Form {
        name: "tag",
        bundle: "--new-bundle-format=false",
        sign: &[],
        verify: &[],
        listed_as: None,
        attests: true,
    },
    Form {
        name: "referrer",
        bundle: "--new-bundle-format=false",
        sign: &["--registry-referrers-mode", "oci-1-1"],
        verify: &["--experimental-oci11"],
        listed_as: Some(SIGNATURE),
        attests: false,
    },
    Form {
        name: "bundle",
        bundle: "--new-bundle-format=true",
        sign: &[],
        verify: &["--trusted-root", TRUSTED],
        listed_as: Some(BUNDLE),
        attests: true,
    },
];

/// Whose log-in a command has.
#[derive(Clone, Copy)]
enum Who {
    Member,
    Anybody,
}

/// One edition, with two pairs of keys, and a log-in with one of its two homes.
struct Signer {
    program: PathBuf,
    authority: PathBuf,
    dir: TempDir,
}

impl Signer {
    fn new(world: &World, edition: &str, site: &Site) -> Outcome<Signer> {
        let program = world.source.join("target/clients").join(edition).join("cosign");
        let signer =
            Signer { program, authority: world.nginx_authority(), dir: TempDir::with_prefix(edition)? };
        for home in ["member", "anybody"] {
            fs::create_dir(signer.dir.path().join(home))?;
        }
        for key in [OURS, OTHERS] {
            signer.run(Who::Anybody).args(["generate-key-pair", "--output-key-prefix", key]).success()?;
        }
        signer.run(Who::Anybody).args(["trusted-root", "create", "--out", TRUSTED]).success()?;
        let bill = json!({ "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "signed" });
        fs::write(signer.dir.path().join(BILL), bill.to_string())?;
        signer.run(Who::Member).args(["login", "-u", MEMBER.0, "-p", MEMBER.1, &site.host]).success()?;
        Ok(signer)
    }

    fn run(&self, who: Who) -> Run {
        let home = match who {
            Who::Member => "member",
            Who::Anybody => "anybody",
        };
        run(&self.program)
            .env("HOME", self.dir.path().join(home))
            .env("SSL_CERT_FILE", &self.authority)
            .env("COSIGN_PASSWORD", "of the keys")
            // Without it a signature cannot be a referrer.
            .env("COSIGN_EXPERIMENTAL", "1")
            .dir(self.dir.path())
    }

    fn sign(&self, who: Who, form: &Form, image: &str) -> Run {
        let sign = self.run(who).args(["sign", form.bundle]).args(form.sign).args(ALONE);
        sign.args(["--key", &format!("{OURS}.key"), image])
    }

    fn attest(&self, form: &Form, image: &str) -> Run {
        let attest = self.run(Who::Member).args(["attest", form.bundle]).args(form.sign).args(ALONE);
        attest.args(["--key", &format!("{OURS}.key"), "--type", "spdxjson", "--predicate", BILL, image])
    }

    /// Asks without a log-in: who believes in a key need not be somebody.
    fn verify(&self, form: &Form, key: &str, image: &str) -> Run {
        self.check("verify", form, key).arg(image)
    }

    fn verify_bill(&self, form: &Form, key: &str, image: &str) -> Run {
        self.check("verify-attestation", form, key).args(["--type", "spdxjson", image])
    }

    fn check(&self, what: &str, form: &Form, key: &str) -> Run {
        let check = self.run(Who::Anybody).args([what, form.bundle]).args(form.verify);
        check.args(["--insecure-ignore-tlog", "--key", &format!("{key}.pub")])
    }
}

/// Signed and attested through nginx by who has logged in, in every form of both editions; verified by anybody.
pub fn sign(world: &mut World) -> Outcome {
    world.serve_users()?;
    let site = Site::nginx("docker-local.binaryrepo.local", "team");
    for edition in EDITIONS {
        let signer = Signer::new(world, edition, &site)?;
        for form in &FORMS {
            let what = format!("{edition}-{}", form.name);
            signed(world, &site, &signer, form, &what).context(&what)?;
            step(&format!(
                "{what:<18}signed, verified by anybody, neither with another key nor where the tag has moved"
            ));
        }
    }
    Ok(())
}

fn signed(world: &mut World, site: &Site, signer: &Signer, form: &Form, name: &str) -> Outcome {
    let mut pusher = world.hand(Pusher::Skopeo, site)?;
    pusher.login(MEMBER)?;
    let digest = pushed(world, &pusher, name)?;
    let (tagged, exact) = (site.reference(name), format!("{}@{digest}", site.image(name)));

    refused(signer.verify(form, OURS, &tagged), &["no signatures found", "no valid bundles exist"])?;
    refused(signer.sign(Who::Anybody, form, &exact), &["UNAUTHORIZED"])?;
    kept(world, form, name, &digest, &[])?;

    signer.sign(Who::Member, form, &exact).success()?;
    let said = signer.verify(form, OURS, &tagged).success()?;
    ensure!(said.contains(&digest), "what was verified is not {digest}: {said}");
    refused(signer.verify(form, OTHERS, &tagged), &["no matching", "no signatures found"])?;
    kept(world, form, name, &digest, &["sig"])?;

    if form.attests {
        signer.attest(form, &exact).success()?;
        signer.verify_bill(form, OURS, &tagged).success()?;
        refused(signer.verify_bill(form, OTHERS, &tagged), &["no matching attestations"])?;
        // The signature is still one, beside the attestation.
        signer.verify(form, OURS, &tagged).success()?;
    }
    let all: &[&str] = if form.attests { &["att", "sig"] } else { &["sig"] };
    let kept = kept(world, form, name, &digest, all)?;
    let tree = signer.run(Who::Anybody).args(["tree", "--experimental-oci11", &tagged]).success()?;
    for one in kept {
        ensure!(tree.contains(&one), "cosign's tree has no {one}: {tree}");
    }

    pushed(world, &pusher, name)?;
    refused(signer.verify(form, OURS, &tagged), &["no signatures found", "no valid bundles exist"])?;
    signer.verify(form, OURS, &exact).success().map(drop)
}

/// Pushes another image under the same name. Its digest.
fn pushed(world: &World, pusher: &Hand, name: &str) -> Outcome<String> {
    let image = pusher.stock(&world.maker, &world.upstream, name)?;
    pusher.push(name)?.success()?;
    Ok(image.manifest.digest)
}

fn refused(command: Run, sentences: &[&str]) -> Outcome {
    let said = command.done()?.failure()?;
    ensure!(sentences.iter().any(|sentence| said.contains(sentence)), "none of {sentences:?} in: {said}");
    Ok(())
}

/// Whether just these lie beside the image, in this form and no other. Their tags or digests.
fn kept(world: &World, form: &Form, name: &str, digest: &str, what: &[&str]) -> Outcome<BTreeSet<String>> {
    let server = world.server.as_ref().expect("serving");
    let path = format!("/v2/{LOCAL}/team/{name}");
    let list = |path: &str, field: &str| -> Outcome<Vec<Value>> {
        let answer = server.get(path)?;
        ensure!(answer.status() == 200, "{path} was answered {}: {}", answer.status(), answer.text);
        let all: Value = serde_json::from_str(&answer.text).context(path)?;
        Ok(all[field].as_array().cloned().unwrap_or_default())
    };
    let texts = |all: &[Value]| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();

    let mut tags: BTreeSet<String> = texts(&list(&format!("{path}/tags/list"), "tags")?);
    ensure!(tags.remove(VERSION), "the image's own tag is gone: {tags:?}");
    let by_tag: BTreeSet<String> = match form.listed_as {
        None => what.iter().map(|one| format!("{}.{one}", digest.replace(':', "-"))).collect(),
        Some(_) => BTreeSet::new(),
    };
    ensure!(tags == by_tag, "the tags beside the image are {tags:?} instead of {by_tag:?}");

    let referrers = list(&format!("{path}/referrers/{digest}"), "manifests")?;
    let wanted = form.listed_as.map_or(0, |_| what.len());
    let listed = referrers.iter().filter(|one| one["artifactType"].as_str() == form.listed_as).count();
    ensure!(
        referrers.len() == wanted && listed == wanted,
        "instead of {wanted}, the referrers are {referrers:?}"
    );
    let digests: Vec<Value> = referrers.into_iter().map(|mut one| one["digest"].take()).collect();
    Ok(tags.into_iter().chain(texts(&digests)).collect())
}
