//! That `make demo` shows something: it succeeds, and a build that does not join makes it fail.

mod support;

use support::demonstration::{Scene, play};

fn scene(bug: Option<&'static str>) -> Scene {
    Scene { clients: 100, layer: 4 << 20, line: 16 << 20, bug }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_make_one_get() {
    let outcome = play(scene(None)).await;
    assert!(outcome.is_as_promised(), "{}", outcome.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_fails_where_nobody_joins() {
    let outcome = play(scene(Some("NobodyJoins"))).await;
    assert!(!outcome.is_as_promised(), "{}", outcome.story());
    // Everybody was served: it is the fetches alone that were too many.
    assert!(outcome.gets > 1 && outcome.herd_succeeded(), "{}", outcome.story());
}
