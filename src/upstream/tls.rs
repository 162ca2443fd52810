//! Owns whom we trust: the system's certificates, and those of the administrator's file.
//! Must not know: which host is visited.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::model::SettingsError;

/// Where distributions keep their certificates in one file; `SSL_CERT_FILE` goes first.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub(super) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, SettingsError> {
    let trusting = match ca_file {
        Some(path) => builder()?.with_root_certificates(roots_with(path)?),
        None => system_roots()?,
    };
    Ok(Arc::new(trusting.with_no_client_auth()))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, SettingsError> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::Tls(error.to_string()))
}

/// A container without certificates still reaches the public registries.
fn system_roots() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, SettingsError> {
    match builder()?.with_native_roots() {
        Ok(trusting) => Ok(trusting),
        Err(error) => {
            tracing::warn!(%error, "the system has no certificates to trust; using the built-in ones");
            Ok(builder()?.with_webpki_roots())
        }
    }
}

fn roots_with(path: &Path) -> Result<RootCertStore, SettingsError> {
    let refuse = |reason: String| SettingsError::CaFile { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("holds no certificate in PEM form".into()));
    }
    let system = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    for bundle in system.into_iter().chain(BUNDLES.map(PathBuf::from)) {
        if let Ok(certificates) = CertificateDer::pem_file_iter(&bundle) {
            roots.add_parsable_certificates(certificates.flatten());
            break;
        }
    }
    Ok(roots)
}
