//! That `make demo` shows something: it succeeds, and a build that does not join makes it fail.

mod support;

use support::demonstration::{Scene, play};

const LINE: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_make_one_get() {
    let outcome = play(Scene { clients: 100, layer: 4 << 20, line: LINE, bug: None }).await;
    assert!(outcome.is_as_promised(), "{}", outcome.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_fails_where_nobody_joins() {
    // As few and as little as the line carries for each of them: more are refused before their turn comes.
    let bug = Some("NobodyJoins");
    let outcome = play(Scene { clients: 10, layer: 1 << 20, line: LINE, bug }).await;
    assert!(!outcome.is_as_promised(), "{}", outcome.story());
    // Everybody was served: it is the fetches alone that were too many.
    assert!(outcome.gets > 1 && outcome.herd_succeeded(), "{}", outcome.story());
}
