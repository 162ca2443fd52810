//! Owns plain HTTP requests to a host, with and without TLS. Must not know: registries.

use crate::images::digest_text;
use crate::trouble::{Context, Outcome, Trouble};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A certificate authority and the one server certificate that it made, as PEM.
pub struct Authority {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(common_name: &str, hosts: &[&str]) -> Outcome<Authority> {
        let authority_key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages =
            vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, authority_key)?;
        let key = rcgen::KeyPair::generate()?;
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(hosts)?.signed_by(&key, &issuer)?;
        Ok(Authority { ca: issuer.pem(), certificate: certificate.pem(), key: key.serialize_pem() })
    }

    pub fn server(&self) -> Outcome<Arc<ServerConfig>> {
        let key: PrivateKeyDer<'static> =
            rustls::pki_types::pem::PemObject::from_pem_slice(self.key.as_bytes())?;
        let chain = vec![certificate(&self.certificate)?];
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificate(pem: &str) -> Outcome<CertificateDer<'static>> {
    Ok(rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes())?)
}

pub fn client_tls(authorities: &[&str]) -> Outcome<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        roots.add(certificate(pem)?)?;
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// Where requests go.
#[derive(Clone)]
pub struct Origin {
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<ClientConfig>>,
}

impl Origin {
    /// One request on a connection of its own; the answer's body is still to be read.
    pub async fn open(&self, request: Request<Full<Bytes>>) -> Outcome<Response<Incoming>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.context(format!("connecting to {}:{}", self.host, self.port))?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some(config) => {
                let name = ServerName::try_from(self.host.clone())?;
                exchange(TlsConnector::from(config.clone()).connect(name, stream).await?, request).await
            }
        }
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let host = if matches!(self.port, 80 | 443) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        };
        Request::builder().method(method).uri(path).header("host", host).header("accept", "*/*")
    }

    /// A GET whose body is hashed as it comes.
    pub async fn get(&self, path: &str) -> Outcome<Answer> {
        self.answer(self.request(Method::GET, path).body(Full::default())?).await
    }

    pub async fn answer(&self, request: Request<Full<Bytes>>) -> Outcome<Answer> {
        let begun = Instant::now();
        let response = self.open(request).await?;
        let (head, mut body) = response.into_parts();
        let (mut hash, mut length, mut first, mut text) = (Sha256::new(), 0, None, Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            first.get_or_insert_with(|| begun.elapsed());
            length += data.len();
            hash.update(&data);
            if text.len() < KEPT {
                text.extend_from_slice(&data);
            }
        }
        let digest = digest_text(&hash.finalize());
        let first_byte = first.unwrap_or_else(|| begun.elapsed());
        Ok(Answer {
            head,
            digest,
            length,
            first_byte,
            took: begun.elapsed(),
            text: String::from_utf8_lossy(&text).into(),
        })
    }
}

/// Enough of a body to show or parse; larger ones are only hashed.
const KEPT: usize = 64 * 1024;

pub struct Answer {
    pub head: http::response::Parts,
    pub digest: String,
    pub length: usize,
    pub first_byte: Duration,
    pub took: Duration,
    pub text: String,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Outcome<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Its end is seen by whoever reads the answer.
    tokio::spawn(async move { drop(connection.await) });
    let response: Result<_, Trouble> = sender.send_request(request).await.map_err(Into::into);
    response
}
