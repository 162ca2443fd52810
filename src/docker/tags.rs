//! Owns the tag listing: the page, and the link to the next one in the form in which the request came.
//! Must not know: where the tags were read.

use http::StatusCode;
use http::header::LINK;
use serde::Serialize;

use super::address::Address;
use super::pull::warn;
use super::route::without_namespace;
use super::wire::{WireError, X_CACHE};
use crate::engine::{Engine, PageQuery, Scope, TagsPage, Verdict};
use crate::reply::Reply;

pub async fn list(
    engine: &Engine,
    scope: &Scope,
    address: &Address<'_>,
    page: PageQuery,
) -> Result<Reply, WireError> {
    Ok(page_reply(engine.tags(scope, page).await?, address))
}

#[derive(Serialize)]
struct TagList<'a> {
    name: &'a str,
    tags: &'a [String],
}

fn page_reply(page: TagsPage, address: &Address<'_>) -> Reply {
    let list = TagList { name: address.spelling, tags: &page.tags };
    let mut reply = Reply::json(StatusCode::OK, &list);
    if page.verdict != Verdict::Local {
        reply = reply.with_header(X_CACHE, page.verdict.as_str());
    }
    reply.note.verdict = Some(page.verdict);
    link_next(warn(reply, page.verdict, None), address, "tags/list", page.next_query.as_deref())
}

/// `Link: </v2/…?…>; rel="next"`. From elsewhere comes the query only, and only one that can stand in a link.
pub fn link_next(reply: Reply, address: &Address<'_>, endpoint: &str, query: Option<&str>) -> Reply {
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b'\\' | b'#');
    let Some(query) = query.filter(|query| query.bytes().all(legal)) else {
        return reply;
    };
    let mut query = without_namespace(query);
    if let Some(namespace) = address.namespace {
        let encoded: String = url::form_urlencoded::byte_serialize(namespace.as_bytes()).collect();
        query = format!("{query}&ns={encoded}");
    }
    reply.with_header(LINK, &format!("<{}/{endpoint}?{query}>; rel=\"next\"", address.base()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::docker::address::tests::remote;
    use crate::reply::Content;

    pub fn address(namespace: Option<&str>) -> Address<'_> {
        let repository = remote(1, "docker-remote", "https://registry-1.docker.io", |_| {});
        let scope = Scope { repository, image: "library/redis".parse().expect("a legal name") };
        Address { scope, spelling: "redis", front: "/repo/docker-remote".into(), namespace }
    }

    fn reply(next: Option<&str>, namespace: Option<&str>) -> Reply {
        let tags = vec!["7".to_owned(), "latest".to_owned()];
        let page = TagsPage { tags, next_query: next.map(str::to_owned), verdict: Verdict::Miss };
        page_reply(page, &address(namespace))
    }

    #[test]
    fn a_page_keeps_the_clients_spelling() {
        let reply = reply(None, None);
        let Content::Bytes(bytes) = &reply.content else { panic!("a body") };
        assert_eq!(&bytes[..], br#"{"name":"redis","tags":["7","latest"]}"#);
        assert!(!reply.headers.contains_key(LINK));
        assert_eq!(reply.headers[X_CACHE], "miss");
    }

    #[test]
    fn the_next_page_is_where_this_one_was() {
        let link = |next, namespace| reply(Some(next), namespace).headers.get(LINK).cloned();
        let plain = link("n=2&last=latest", None).expect("a link");
        assert_eq!(plain, "</repo/docker-remote/v2/redis/tags/list?n=2&last=latest>; rel=\"next\"");
        let spaced = link("ns=x&last=a", Some("docker.io")).expect("a link");
        assert_eq!(spaced, "</repo/docker-remote/v2/redis/tags/list?last=a&ns=docker.io>; rel=\"next\"");
        for hostile in ["a>; rel=\"next\", <http://evil.test/", "a\r\nb", "a b"] {
            assert_eq!(link(hostile, None), None, "{hostile}");
        }
    }
}
