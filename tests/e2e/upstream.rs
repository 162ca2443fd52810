//! Owns the upstream registry: Debian's docker-registry and how it is filled. Must not know: who pulls.

use crate::images::{Blob, Image, Index};
use crate::process::Service;
use crate::trouble::{Context, Outcome, ensure};
use crate::wire::Origin;
use http_body_util::Full;
use hyper::{Method, StatusCode};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use tokio::runtime::Handle;

const PORT: u16 = 5000;

pub struct Upstream {
    _service: Service,
    origin: Origin,
    runtime: Handle,
}

impl Upstream {
    pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

    pub fn start(runtime: &Handle, dir: &Path) -> Outcome<Upstream> {
        let config = dir.join("registry.yml");
        let storage = dir.join("registry");
        let address = Upstream::ADDRESS;
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            storage.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        // It reads every REGISTRY_ variable as configuration.
        command
            .arg("serve")
            .arg(&config)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("OTEL_TRACES_EXPORTER", "none");
        let mut service = Service::start("docker-registry", &mut command, &dir.join("registry.log"))?;
        service.ready_at(address)?;
        let origin = Origin { host: address.ip().to_string(), port: PORT, tls: None };
        Ok(Upstream { _service: service, origin, runtime: runtime.clone() })
    }

    pub fn publish(&self, name: &str, tag: &str, image: &Image) -> Outcome {
        self.runtime.block_on(async {
            self.put_image(name, image).await?;
            self.put_manifest(name, tag, &image.manifest).await
        })
    }

    pub fn publish_index(&self, name: &str, tag: &str, index: &Index) -> Outcome {
        self.runtime.block_on(async {
            for image in &index.images {
                self.put_image(name, image).await?;
                self.put_manifest(name, &image.manifest.digest, &image.manifest).await?;
            }
            self.put_manifest(name, tag, &index.manifest).await
        })
    }

    async fn put_image(&self, name: &str, image: &Image) -> Outcome {
        for blob in image.blobs() {
            self.put_blob(name, blob).await.context(format!("filling the upstream with a blob of {name}"))?;
        }
        Ok(())
    }

    async fn put_blob(&self, name: &str, blob: &Blob) -> Outcome {
        let begin =
            self.origin.request(Method::POST, &format!("/v2/{name}/blobs/uploads/")).body(Full::default())?;
        let answer = self.origin.answer(begin).await?;
        ensure!(
            answer.status() == StatusCode::ACCEPTED,
            "POST was answered {}: {}",
            answer.status(),
            answer.text
        );
        let location: hyper::Uri = answer.header("location").parse()?;
        let path = location.path_and_query().map_or("/", |path| path.as_str());
        let finish = self
            .origin
            .request(Method::PUT, &format!("{path}&digest={}", blob.digest))
            .body(Full::new(blob.bytes.clone()))?;
        let answer = self.origin.answer(finish).await?;
        ensure!(
            answer.status() == StatusCode::CREATED,
            "PUT was answered {}: {}",
            answer.status(),
            answer.text
        );
        Ok(())
    }

    async fn put_manifest(&self, name: &str, reference: &str, manifest: &Blob) -> Outcome {
        let request = self
            .origin
            .request(Method::PUT, &format!("/v2/{name}/manifests/{reference}"))
            .header("content-type", manifest.media_type)
            .body(Full::new(manifest.bytes.clone()))?;
        let answer = self.origin.answer(request).await?;
        ensure!(
            answer.status() == StatusCode::CREATED,
            "{name}:{reference}: {}: {}",
            answer.status(),
            answer.text
        );
        Ok(())
    }
}
