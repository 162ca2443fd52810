//! Holds the house together: reads every path in `src/` and fails on an import that runs up or sideways, on a
//! file or function that has grown too long, and on words that have no place in production code.
//!
//! The rules are the data below. Every rule also gets a planted violation, so that a rule which has gone blind
//! fails as well.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Every room, from the top down, and the rooms that it may see. A room may always see itself. Nothing may see a
/// room that stands above it in this list, so the list has no circles.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["cli", "lib"]),
    (
        "cli",
        &[
            "lib",
            "config",
            "http",
            "api",
            "backup",
            "reply",
            "form",
            "text",
            "engine",
            "names",
            "telemetry",
            "clock",
        ],
    ),
    (
        "lib",
        &[
            "config",
            "http",
            "docker",
            "api",
            "backup",
            "reply",
            "form",
            "text",
            "engine",
            "cache",
            "store",
            "meta",
            "upstream",
            "names",
            "telemetry",
            "clock",
        ],
    ),
    ("config", &["form", "text", "engine", "names", "telemetry", "clock"]),
    ("http", &["docker", "api", "reply", "engine", "names", "telemetry", "clock"]),
    ("docker", &["reply", "engine", "names", "telemetry", "clock"]),
    ("api", &["reply", "form", "text", "engine", "names", "telemetry", "clock"]),
    ("backup", &["store", "meta", "names"]),
    ("reply", &["engine", "names", "telemetry", "clock"]),
    ("form", &["text", "engine", "names"]),
    ("engine", &["cache", "store", "meta", "upstream", "names", "telemetry", "clock", "planted"]),
    ("cache", &["clock"]),
    ("store", &["names", "telemetry", "clock", "planted"]),
    ("meta", &["names", "telemetry", "clock"]),
    ("upstream", &["names", "telemetry", "clock", "planted"]),
    ("text", &["names"]),
    ("names", &[]),
    ("telemetry", &[]),
    ("clock", &[]),
    ("planted", &[]),
];

/// Outside crates that only some rooms may name.
const OWNED_CRATES: &[(&str, &[&str])] =
    &[("redb", &["meta"]), ("prometheus_client", &["telemetry"]), ("clap", &["cli", "main"])];

/// Outside crates that some rooms must not name: those rooms are pure.
const PURE_ROOMS: &[(&str, &[&str])] = &[
    ("cache", &["tokio", "hyper", "http", "rustix", "fastrand", "getrandom"]),
    ("names", &["tokio", "hyper", "http", "rustix"]),
    ("config", &["tokio", "hyper"]),
    ("form", &["tokio", "hyper"]),
    ("text", &["tokio", "hyper"]),
];

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// Token sequences that production code does not contain, and what to write instead.
const BANNED_WORDS: &[(&[&str], &str)] = &[
    (&[".", "unwrap", "("], "return the error, or `expect` with the invariant as its text"),
    (&["todo", "!"], "finish it"),
    (&["unimplemented", "!"], "finish it"),
    (&["panic", "!"], "return an error"),
    (&["dbg", "!"], "use tracing"),
    (&["unsafe", "{"], "there is a safe way"),
    (&["unsafe", "fn"], "there is a safe way"),
    (&["unsafe", "impl"], "there is a safe way"),
    (&["#", "[", "allow", "("], "write #[expect(lint, reason = \"…\")]"),
    (&["#", "!", "[", "allow", "("], "write #![expect(lint, reason = \"…\")]"),
];

#[test]
fn the_sources_keep_the_rules() {
    let sources = read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "only {} source files found: is this the right directory?", sources.len());
    let found = check(&sources);
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} broken rules:\n{}", found.len(), list.join("\n"));
}

#[test]
fn the_table_runs_downwards() {
    for (floor, (room, may_see)) in ROOMS.iter().enumerate() {
        for seen in *may_see {
            let below = ROOMS[floor + 1..].iter().any(|(name, _)| name == seen);
            assert!(below, "`{room}` may see `{seen}`, which does not stand below it");
        }
    }
}

// ---- reading ------------------------------------------------------------------------------------------------

/// One source file: its path below `src/`, and its text.
struct Source {
    path: String,
    text: String,
}

#[expect(clippy::disallowed_methods, reason = "this test reads the sources")]
fn read_sources(dir: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(&next).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let below = path.strip_prefix(dir).expect("found below src");
                let text = std::fs::read_to_string(&path).expect("sources are text");
                sources.push(Source { path: below.to_str().expect("plain names").to_owned(), text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

impl Source {
    /// Where the file stands in the tree of modules: `docker/pull.rs` is `[docker, pull]`.
    fn module(&self) -> Vec<&str> {
        let bare = self.path.trim_end_matches(".rs");
        let bare = bare.strip_suffix("/mod").unwrap_or(bare);
        bare.split('/').collect()
    }

    fn room(&self) -> &str {
        self.module()[0]
    }
}

// ---- tokens -------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Identifiers, `::` and single punctuation marks. Comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let rest = &text[at..];
        let length = match skipped(rest) {
            0 => {
                let length = token_length(rest);
                found.push(Token { text: &rest[..length], line });
                length
            }
            length => length,
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

fn token_length(rest: &str) -> usize {
    let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    match word {
        0 if rest.starts_with("::") => 2,
        0 => rest.chars().next().map_or(0, char::len_utf8),
        length => length,
    }
}

/// How many bytes at the start of `rest` are no token.
fn skipped(rest: &str) -> usize {
    let space = rest.len() - rest.trim_start().len();
    if space > 0 {
        space
    } else if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else {
        literal(rest)
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a string, character or lifetime at the start of `rest`, zero if there is none.
fn literal(rest: &str) -> usize {
    let plain = ["\"", "b\"", "c\""].into_iter().find(|start| rest.starts_with(start));
    if let Some(start) = plain {
        return start.len() + closing_quote(&rest[start.len()..], '"');
    }
    let raw = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - raw.len();
    if let Some(after) = raw.strip_prefix('r').filter(|_| prefix <= 1) {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &after[hashes + 1..];
            let length = body.find(&end).map_or(body.len(), |at| at + end.len());
            return prefix + 1 + hashes + 1 + length;
        }
    }
    if let Some(byte) = rest.strip_prefix("b'") {
        return 2 + closing_quote(byte, '\'');
    }
    rest.strip_prefix('\'').map_or(0, character_or_lifetime)
}

/// After a single quote: `a'` closes a character, `a` alone names a lifetime.
fn character_or_lifetime(after: &str) -> usize {
    let mut letters = after.chars();
    match (letters.next(), letters.next()) {
        (Some('\\'), _) => 1 + closing_quote(after, '\''),
        (Some(first), Some('\'')) => 1 + first.len_utf8() + 1,
        _ => 1 + token_length(after),
    }
}

/// Bytes up to and with the closing quote, minding backslashes.
fn closing_quote(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in body.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

// ---- what is production code --------------------------------------------------------------------------------

/// A file without its `#[cfg(test)]` items.
struct Production<'a> {
    tokens: Vec<Token<'a>>,
    lines: usize,
    /// Names of `#[cfg(test)] mod name;`: whole files that are tests.
    test_modules: Vec<&'a str>,
}

fn production(text: &str) -> Production<'_> {
    let all = tokens(text);
    let mut kept = Vec::new();
    let mut test_modules = Vec::new();
    let mut test_lines = 0;
    let mut at = 0;
    while at < all.len() {
        if !starts_with(&all[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            kept.push(all[at]);
            at += 1;
            continue;
        }
        let end = item_end(&all, at + 7);
        let name = all[at + 7..end].iter().position(|token| token.text == "mod");
        if let Some(name) = name.filter(|_| all[end - 1].text == ";") {
            test_modules.push(all[at + 7 + name + 1].text);
        }
        test_lines += all[end - 1].line - all[at].line + 1;
        at = end;
    }
    Production { tokens: kept, lines: text.lines().count() - test_lines, test_modules }
}

/// The index after the item that starts at `start`: past its `;`, or past the brace that closes its first `{`.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let mut brackets = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets -= 1,
            ";" if brackets == 0 => return at + 1,
            "{" if brackets == 0 => return matching_brace(tokens, at) + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The index of the brace that closes the one at `open`.
fn matching_brace(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

// ---- the rules ----------------------------------------------------------------------------------------------

#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Edge,
    UnknownRoom,
    UnseenPath,
    ForeignCrate,
    FileLength,
    FunctionLength,
    Head,
    BannedWord,
}

#[derive(Debug)]
struct Violation {
    rule: Rule,
    path: String,
    line: usize,
    why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "src/{}:{}: {:?}: {}", self.path, self.line, self.rule, self.why)
    }
}

fn check(sources: &[Source]) -> Vec<Violation> {
    let tests = test_files(sources);
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !is_test(source, &tests)) {
        let production = production(&source.text);
        let mut report = |rule, line, why: String| {
            found.push(Violation { rule, path: source.path.clone(), line, why });
        };
        check_head(source, &mut report);
        check_length(&production, &mut report);
        check_functions(&production.tokens, &mut report);
        check_words(&production.tokens, &mut report);
        check_crates(source, &production.tokens, &mut report);
        check_paths(source, &production.tokens, &mut report);
    }
    found
}

/// The modules, as paths, that some file declares as `#[cfg(test)] mod name;`.
fn test_files(sources: &[Source]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for source in sources {
        for name in production(&source.text).test_modules {
            let mut module = source.module();
            if matches!(source.path.as_str(), "lib.rs" | "main.rs") {
                module.clear();
            }
            module.push(name);
            files.insert(module.join("/"));
        }
    }
    files
}

fn is_test(source: &Source, tests: &BTreeSet<String>) -> bool {
    let module = source.module();
    (1..=module.len()).any(|length| tests.contains(&module[..length].join("/")))
}

fn check_head(source: &Source, report: &mut impl FnMut(Rule, usize, String)) {
    if !source.text.trim_start().starts_with("//!") {
        let why = "begins without a `//!` head that says what it owns and what it must not know";
        report(Rule::Head, 1, why.to_owned());
    }
}

fn check_length(production: &Production<'_>, report: &mut impl FnMut(Rule, usize, String)) {
    if production.lines > MAX_FILE_LINES {
        let why = format!("{} production lines, at most {MAX_FILE_LINES}", production.lines);
        report(Rule::FileLength, 1, why);
    }
}

fn check_functions(tokens: &[Token<'_>], report: &mut impl FnMut(Rule, usize, String)) {
    for (at, pair) in tokens.windows(2).enumerate() {
        let named = pair[1].text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if pair[0].text != "fn" || !named {
            continue;
        }
        let end = item_end(tokens, at);
        let lines = tokens[end - 1].line - pair[0].line + 1;
        if lines > MAX_FUNCTION_LINES {
            let why = format!("`{}` has {lines} lines, at most {MAX_FUNCTION_LINES}", pair[1].text);
            report(Rule::FunctionLength, pair[0].line, why);
        }
    }
}

fn check_words(tokens: &[Token<'_>], report: &mut impl FnMut(Rule, usize, String)) {
    for at in 0..tokens.len() {
        for (words, instead) in BANNED_WORDS {
            if starts_with(&tokens[at..], words) {
                report(Rule::BannedWord, tokens[at].line, format!("`{}`: {instead}", words.concat()));
            }
        }
    }
}

fn check_crates(source: &Source, tokens: &[Token<'_>], report: &mut impl FnMut(Rule, usize, String)) {
    let room = source.room();
    for at in 0..tokens.len() {
        let outside = at == 0 || tokens[at - 1].text != "::";
        if !outside || tokens.get(at + 1).is_none_or(|next| next.text != "::") {
            continue;
        }
        let name = tokens[at].text;
        let owners = OWNED_CRATES.iter().find(|(owned, _)| *owned == name).map(|(_, rooms)| *rooms);
        if let Some(owners) = owners.filter(|owners| !owners.contains(&room)) {
            let why = format!("`{name}` belongs to `{}`", owners.join("`, `"));
            report(Rule::ForeignCrate, tokens[at].line, why);
        }
        if PURE_ROOMS.iter().any(|(pure, banned)| *pure == room && banned.contains(&name)) {
            report(Rule::ForeignCrate, tokens[at].line, format!("`{room}` must not know `{name}`"));
        }
    }
}

fn check_paths(source: &Source, tokens: &[Token<'_>], report: &mut impl FnMut(Rule, usize, String)) {
    let room = source.room();
    let Some((_, may_see)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return report(Rule::UnknownRoom, 1, format!("`{room}` is not in the table of rooms"));
    };
    for Seen { name, line } in seen_rooms(source, tokens) {
        if name == "*" || name == "as" {
            let why = "this path hides which room is meant: write the room out".to_owned();
            report(Rule::UnseenPath, line, why);
            continue;
        }
        // What is no room is an item of `lib.rs`.
        let target = if ROOMS.iter().any(|(known, _)| *known == name) { name } else { "lib" };
        if target != room && !may_see.contains(&target) {
            report(Rule::Edge, line, format!("`{room}` must not see `{target}`"));
        }
    }
}

/// The first component below the root of the crate that a path names.
struct Seen<'a> {
    name: &'a str,
    line: usize,
}

/// Walks all tokens, keeping count of inline modules, and resolves each path from `crate` or `super`.
fn seen_rooms<'a>(source: &'a Source, tokens: &[Token<'a>]) -> Vec<Seen<'a>> {
    let mut module =
        if matches!(source.path.as_str(), "lib.rs" | "main.rs") { vec![] } else { source.module() };
    let mut inline_ends = Vec::new();
    let mut seen = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if inline_ends.last() == Some(&at) {
            inline_ends.pop();
            module.pop();
        }
        let starts = at == 0 || tokens[at - 1].text != "::";
        match token.text {
            "mod" if tokens.get(at + 2).is_some_and(|brace| brace.text == "{") => {
                inline_ends.push(matching_brace(tokens, at + 2));
                module.push(tokens[at + 1].text);
            }
            "crate" | "binaryrepo" if starts => resolve(&tokens[at + 1..], &[], &mut seen),
            "super" if starts => {
                let above = &module[..module.len().saturating_sub(1)];
                resolve(&tokens[at + 1..], above, &mut seen);
            }
            _ => {}
        }
    }
    seen
}

/// `tokens` go on after a path that has led to the module `base`; groups are followed into each branch.
fn resolve<'a>(tokens: &[Token<'a>], base: &[&'a str], seen: &mut Vec<Seen<'a>>) {
    let Some(first) = tokens.first() else { return };
    if first.text == "as" && base.is_empty() {
        return seen.push(Seen { name: "as", line: first.line });
    }
    if first.text != "::" {
        return; // `pub(crate)`, or a whole module by name: nothing is looked up in it
    }
    let Some(next) = tokens.get(1) else { return };
    match (next.text, base) {
        ("super", _) => resolve(&tokens[2..], &base[..base.len().saturating_sub(1)], seen),
        ("{", _) => {
            for branch in branches(&tokens[1..]) {
                resolve(&branch, base, seen);
            }
        }
        (_, [room, ..]) => seen.push(Seen { name: room, line: next.line }),
        (name, []) => seen.push(Seen { name, line: next.line }),
    }
}

/// The comma-separated branches of the group that `tokens` begin with, each with a `::` in front.
fn branches<'a>(tokens: &[Token<'a>]) -> Vec<Vec<Token<'a>>> {
    let end = matching_brace(tokens, 0);
    let mut found = vec![Vec::new()];
    let mut depth = 0_i32;
    for token in &tokens[1..end] {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        match found.last_mut() {
            Some(branch) if token.text != "," || depth > 0 => {
                if branch.is_empty() {
                    branch.push(Token { text: "::", line: token.line });
                }
                branch.push(*token);
            }
            _ => found.push(Vec::new()),
        }
    }
    found.retain(|branch| !branch.is_empty());
    found
}

// ---- planted violations: each rule sees ---------------------------------------------------------------------

fn broken(path: &str, text: &str) -> Vec<Rule> {
    let text = format!("//! Owns a test.\n{text}");
    check(&[Source { path: path.to_owned(), text }]).into_iter().map(|found| found.rule).collect()
}

#[test]
fn an_import_that_runs_up_or_sideways_is_seen() {
    for (path, text) in [
        ("engine/fill.rs", "use crate::docker::wire;"),
        ("store/fs.rs", "use crate::meta::Row;"),
        ("store/fs.rs", "fn f() { let x = crate::cache::Counts::default(); }"),
        ("docker/pull.rs", "use crate::{names::Digest, store::Reader};"),
        ("docker/pull.rs", "use crate::{\n    names::{Digest, Tag},\n    engine::{self},\n    meta,\n};"),
        ("docker/pull.rs", "use super::super::store::Reader;"),
        ("docker/pull.rs", "use super::{wire, super::store::Reader};"),
        ("docker/mod.rs", "use super::api::Thing;"),
        ("names/digest.rs", "use crate::clock::Millis;"),
        ("clock.rs", "fn f(x: super::telemetry::Metrics) {}"),
        ("telemetry.rs", "mod inner { use super::super::engine::Engine; }"),
        ("telemetry.rs", "mod inner { fn f() {} } use super::engine::Engine;"),
        ("api/mod.rs", "use crate::Server;"),
        ("main.rs", "fn main() { binaryrepo::store::open(); }"),
        ("engine/mod.rs", "macro_rules! m { () => { $crate::http::serve() } }"),
    ] {
        assert_eq!(broken(path, text), [Rule::Edge], "{path}: {text}");
    }
}

#[test]
fn an_import_that_runs_down_is_none() {
    for (path, text) in [
        ("engine/fill.rs", "use crate::store::{Draft, Tail}; use super::actor::Actor; use crate::names;"),
        ("engine/fill.rs", "pub(crate) fn f() {} pub(super) fn g() {} pub(in crate::engine) fn h() {}"),
        ("docker/pull.rs", "mod inner { use super::super::wire; use super::Thing; }"),
        (
            "docker/pull.rs",
            "// use crate::store::Reader;\n/* crate::meta::Row */ const A: &str = \"crate::meta::X\";",
        ),
        ("docker/pull.rs", "const A: &str = r#\"\"crate::meta::X\"#; fn f<'a>(x: &'a str) -> char { '\"' }"),
        ("docker/pull.rs", "#[cfg(test)]\nmod tests { use crate::store::FsStore; }"),
        ("lib.rs", "pub mod store; use crate::meta::RedbMeta;"),
        ("main.rs", "fn main() { binaryrepo::cli::main(); }"),
    ] {
        assert_eq!(broken(path, text), [], "{path}: {text}");
    }
}

#[test]
fn a_path_that_hides_its_room_is_seen() {
    assert_eq!(broken("docker/pull.rs", "use crate::*;"), [Rule::UnseenPath]);
    assert_eq!(broken("docker/pull.rs", "use crate as house;"), [Rule::UnseenPath]);
    assert_eq!(broken("docker/mod.rs", "use super::*;"), [Rule::UnseenPath]);
}

#[test]
fn a_room_that_is_not_in_the_table_is_seen() {
    assert_eq!(broken("attic/mod.rs", ""), [Rule::UnknownRoom]);
}

#[test]
fn a_crate_in_the_wrong_room_is_seen() {
    assert_eq!(broken("engine/mod.rs", "use redb::Database;"), [Rule::ForeignCrate]);
    assert_eq!(broken("cache/mod.rs", "fn f() { tokio::time::sleep(x); }"), [Rule::ForeignCrate]);
    assert_eq!(broken("meta/redb.rs", "use redb::Database;"), []);
    assert_eq!(broken("engine/mod.rs", "use crate::meta::redb::RedbMeta;"), []);
}

#[test]
fn a_file_that_is_too_long_is_seen() {
    let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
    assert_eq!(broken("clock.rs", &lines(MAX_FILE_LINES)), [Rule::FileLength]);
    assert_eq!(broken("clock.rs", &lines(MAX_FILE_LINES - 1)), []);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(MAX_FILE_LINES));
    assert_eq!(broken("clock.rs", &tests), []);
}

#[test]
fn a_function_that_is_too_long_is_seen() {
    let function = |lines: usize| format!("fn f(a: [u8; 2]) {{\n{}}}", "    g();\n".repeat(lines - 2));
    assert_eq!(broken("clock.rs", &function(MAX_FUNCTION_LINES + 1)), [Rule::FunctionLength]);
    assert_eq!(broken("clock.rs", &function(MAX_FUNCTION_LINES)), []);
    let method = format!("impl T {{\n{}\n}}", function(MAX_FUNCTION_LINES + 1));
    assert_eq!(broken("clock.rs", &method), [Rule::FunctionLength]);
}

#[test]
fn a_file_without_a_head_is_seen() {
    let source = Source { path: "clock.rs".to_owned(), text: "fn f() {}\n".to_owned() };
    let found = check(&[source]);
    assert_eq!(found.into_iter().map(|found| found.rule).collect::<Vec<_>>(), [Rule::Head]);
}

#[test]
fn banned_words_are_seen() {
    for text in [
        "fn f() { g().unwrap(); }",
        "fn f() { g()\n    .unwrap() }",
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"later\") }",
        "fn f() { panic!(\"no\") }",
        "fn f() { dbg!(1); }",
        "fn f() { unsafe { g() } }",
        "#[allow(dead_code)] fn f() {}",
    ] {
        assert_eq!(broken("clock.rs", text), [Rule::BannedWord], "{text}");
    }
    for text in [
        "fn f() { g().unwrap_or(1); g().expect(\"never empty\"); }",
        "/// Like `unwrap()`, todo!\nfn f() { log(\"panic!(unwrap())\") }",
        "#[cfg(test)]\nmod tests { fn f() { g().unwrap(); panic!() } }",
        "#[cfg(test)]\nfn f() { g().unwrap(); }\nfn h() {}",
    ] {
        assert_eq!(broken("clock.rs", text), [], "{text}");
    }
}

#[test]
fn a_file_of_tests_may_do_what_production_may_not() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let declared = [
        source("cache/mod.rs", "//! Owns.\n#[cfg(test)]\nmod simulation;\n"),
        source("cache/simulation.rs", "use tokio::time; fn f() { g().unwrap() }"),
        source("cache/simulation/world.rs", "fn f() { panic!() }"),
    ];
    assert!(check(&declared).is_empty());
    let undeclared = [source("cache/simulation.rs", "//! Owns.\nfn f() { g().unwrap() }")];
    assert_eq!(check(&undeclared).len(), 1);
}
