//! Keys: round trip and order. Rows: round trip, and what must not decode.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::names::{AccountId, Algorithm, Digest, ImageName, ImagePattern, RepositoryId, Tag, UploadId};

fn repositories() -> impl Strategy<Value = RepositoryId> {
    // Small numbers meet each other, large ones show a wrong byte order.
    prop_oneof![(0..3_u64), (250..260_u64), any::<u64>()].prop_map(RepositoryId)
}

fn images() -> impl Strategy<Value = ImageName> {
    "[ab0](\\.|_|__|-)?[ab]{0,2}[0a](/[ab0]{1,2}){0,2}".prop_map(|text| text.parse().expect("legal"))
}

fn tags() -> impl Strategy<Value = Tag> {
    "[A-Za-c_0][a-b.A-]{0,3}".prop_map(|text| text.parse().expect("legal"))
}

fn digests() -> impl Strategy<Value = Digest> {
    (any::<bool>(), 0..100_u8).prop_map(|(long, content)| {
        Digest::of(if long { Algorithm::Sha512 } else { Algorithm::Sha256 }, &[content])
    })
}

fn patterns() -> impl Strategy<Value = ImagePattern> {
    "[a0]{0,2}\\*(/[ab]{1,2})?".prop_map(|text| text.parse().expect("legal"))
}

fn check<K: RowKey + Ord + Debug>(a: &K, b: &K) -> Result<(), TestCaseError> {
    let (left, right) = (encoded(a), encoded(b));
    prop_assert_eq!(left.cmp(&right), a.cmp(b), "{:?} and {:?}", a, b);
    let decoded = K::decode(&left);
    prop_assert_eq!(decoded.as_ref(), Some(a));
    Ok(())
}

/// The rows under a prefix are exactly those whose keys begin with its parts.
fn check_prefix<P: Prefix<K> + PartialEq + Debug, K: RowKey>(
    prefix: &P,
    key: &K,
    of_key: &P,
) -> Result<(), TestCaseError> {
    let mut start = Vec::new();
    prefix.encode_prefix(&mut start);
    prop_assert_eq!(encoded(key).starts_with(&start), prefix == of_key, "{:?}, {:?}", prefix, of_key);
    Ok(())
}

proptest! {
    #[test]
    fn keys_of_images_sort_and_survive(
        a in (repositories(), images(), tags()),
        b in (repositories(), images(), tags()),
        c in (repositories(), images(), digests()),
        d in (repositories(), images(), digests()),
    ) {
        check(&a, &b)?;
        check(&c, &d)?;
        check_prefix(&a.0, &b, &b.0)?;
        check_prefix(&(a.0, a.1.clone()), &b, &(b.0, b.1.clone()))?;
        check_prefix(&(a.0, a.1), &c, &(c.0, c.1.clone()))?;
    }

    #[test]
    fn keys_of_children_sort_and_survive(
        a in (digests(), any::<u32>()),
        b in (digests(), any::<u32>()),
    ) {
        check(&a, &b)?;
        check(&a.0, &b.0)?;
        check_prefix(&a.0, &b, &b.0)?;
    }

    #[test]
    fn keys_of_grants_sort_and_survive(
        a in (0..300_u64, repositories(), patterns()),
        b in (0..300_u64, repositories(), patterns()),
    ) {
        let key = |(account, repository, images)| (AccountId(account), repository, images);
        let (a, b) = (key(a), key(b));
        check(&a, &b)?;
        check_prefix(&a.0, &b, &b.0)?;
    }

    #[test]
    fn keys_of_holders_and_referrers_sort_and_survive(
        a in (digests(), repositories(), images()),
        b in (digests(), repositories(), images()),
        c in (repositories(), images(), (digests(), digests())),
        d in (repositories(), images(), (digests(), digests())),
    ) {
        check(&a, &b)?;
        check_prefix(&a.0, &b, &b.0)?;
        check(&c, &d)?;
        let subject = |key: &(RepositoryId, ImageName, (Digest, Digest))| (key.0, key.1.clone(), key.2.0);
        check_prefix(&subject(&c), &d, &subject(&d))?;
    }

    #[test]
    fn keys_of_uploads_sort_and_survive(a: (u16, u128), b: (u16, u128)) {
        check(&UploadId::new(a.0, a.1), &UploadId::new(b.0, b.1))?;
    }

    #[test]
    fn plain_keys_sort_and_survive(a: u64, b: u64, c in "[a-z_]{0,9}", d in "[a-z_]{0,9}") {
        check(&a, &b)?;
        check(&RepositoryId(a), &RepositoryId(b))?;
        let name = |text: &str| SettingKey::decode(text.as_bytes()).expect("text");
        check(&name(&c), &name(&d))?;
    }

    #[test]
    fn decoding_survives_any_bytes(bytes: Vec<u8>) {
        let _ = <(RepositoryId, ImageName, Tag)>::decode(&bytes);
        let _ = <(RepositoryId, ImageName, Digest)>::decode(&bytes);
        let _ = <(Digest, u32)>::decode(&bytes);
        let _ = <(AccountId, RepositoryId, ImagePattern)>::decode(&bytes);
        let _ = <(Digest, RepositoryId, ImageName)>::decode(&bytes);
        let _ = <(Digest, Digest)>::decode(&bytes);
        let _ = UploadId::decode(&bytes);
        let _ = DocumentRow::decode(&bytes);
        let _ = TagRow::decode(&bytes);
    }

    #[test]
    fn a_document_keeps_its_bytes_as_they_are(bytes: Vec<u8>, media_type in "[a-z]{1,9}/[a-z\"\\\\]{1,9}") {
        let row = DocumentRow { media_type, last_used_ms: 7, bytes: Bytes::from(bytes) };
        prop_assert_eq!(DocumentRow::decode(&encode_row(&row)), Some(row));
    }
}

#[test]
fn keys_with_more_or_less_than_their_parts_are_refused() {
    let key: (RepositoryId, ImageName, Tag) =
        (RepositoryId(1), "a/b".parse().expect("legal"), "v1".parse().expect("legal"));
    let good = encoded(&key);
    for cut in 0..=good.len() - "v1".len() {
        assert_eq!(<(RepositoryId, ImageName, Tag)>::decode(&good[..cut]), None, "{cut}");
    }
    assert_eq!(u64::decode(&[0; 9]), None);
    assert_eq!(u64::decode(&[0; 7]), None);
}

#[test]
fn rows_with_more_fields_than_known_decode_and_others_do_not() {
    let row = ContentRow { size: 3, pushed: false };
    assert_eq!(ContentRow::decode(b"\x01{\"size\":3,\"later\":{}}"), Some(row));
    for bad in [&b""[..], b"\x01", b"\x01{}", b"\x02{\"size\":3}", b"{\"size\":3}", b"\x01{\"size\":-1}"] {
        assert_eq!(ContentRow::decode(bad), None, "{}", bad.escape_ascii());
    }
}

#[test]
fn what_is_printed_of_a_repository_holds_no_secret() {
    let json = br#"{"name":"hub","repo_type":"remote","package_type":"docker","created_ms":1,
        "remote_url":"https://me:s3cret@example.com","password":"s3cret"}"#;
    let row = RepositoryRow::decode(&[&[VERSION], &json[..]].concat()).expect("a row with defaults");
    assert_eq!(row.password.as_deref(), Some("s3cret"));
    assert!(!format!("{row:?}").contains("s3cret"));
    let json = br#"{"name":"ada","password":"s3cret","created_ms":1}"#;
    let row = AccountRow::decode(&[&[VERSION], &json[..]].concat()).expect("a row with defaults");
    assert_eq!((row.password.as_str(), row.admin, row.disabled), ("s3cret", false, false));
    assert!(!format!("{row:?}").contains("s3cret"));
}
