//! A client that pushes, on a connection that is kept.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::scripted::image::{Content, Image};

pub struct Pusher {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Pusher {
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { host: address.to_owned(), sender }
    }

    /// In two requests, as clients push.
    pub async fn blob(&mut self, name: &str, content: &Content) {
        let path = format!("/v2/{name}/blobs/uploads/");
        let begun = self.send(Method::POST, &path, None, Bytes::new(), StatusCode::ACCEPTED).await;
        let location: Uri = begun.headers()[LOCATION].to_str().unwrap().parse().unwrap();
        let join = if location.query().is_some() { '&' } else { '?' };
        let path = format!("{}{join}digest={}", location.path_and_query().unwrap(), content.digest);
        self.send(Method::PUT, &path, None, content.bytes.clone(), StatusCode::CREATED).await;
    }

    /// The blobs, then the manifest under a tag.
    pub async fn image(&mut self, name: &str, tag: &str, image: &Image) {
        for content in image.blobs() {
            self.blob(name, content).await;
        }
        let path = format!("/v2/{name}/manifests/{tag}");
        let bytes = image.manifest.bytes.clone();
        self.send(Method::PUT, &path, Some(Image::MEDIA_TYPE), bytes, StatusCode::CREATED).await;
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        media_type: Option<&str>,
        body: Bytes,
        expected: StatusCode,
    ) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        let request = request.body(Full::new(body)).unwrap();
        self.sender.ready().await.unwrap();
        let (head, body) = self.sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(head.status, expected, "{path}: {}", String::from_utf8_lossy(&body));
        Response::from_parts(head, body)
    }
}
