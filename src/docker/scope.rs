//! Owns the grammar of scopes: `repository:team/app:pull,push`. Pure.
//! Must not know: who may have what a scope asks for.

use crate::names::Role;

/// Scopes that are looked at in one request; docker asks for one, and one more for each mount.
const MOST: usize = 64;

/// What a client asks a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Image {
        /// As the client spells it: which image that is, its address tells.
        name: String,
        rights: Vec<Role>,
    },
    /// `registry:catalog:*`
    Listing,
}

/// Reads scopes, separated by spaces. What is not understood asks for nothing.
pub fn scopes<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Scope> {
    let words = texts.into_iter().flat_map(|text| text.split(' ')).filter(|word| !word.is_empty());
    words.take(MOST).filter_map(scope).collect()
}

/// `type[(class)]:name:action[,action]`; the name may hold a colon.
fn scope(text: &str) -> Option<Scope> {
    let (kind, rest) = text.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
    match (kind, name) {
        ("repository", name) => Some(Scope::Image { name: name.to_owned(), rights: rights(actions) }),
        ("registry", "catalog") => Some(Scope::Listing),
        _ => None,
    }
}

fn rights(actions: &str) -> Vec<Role> {
    let mut rights = Vec::new();
    for action in actions.split(',') {
        match action.trim() {
            "pull" => rights.push(Role::Read),
            "push" => rights.push(Role::Write),
            "delete" => rights.push(Role::Delete),
            "*" => rights.extend([Role::Read, Role::Write, Role::Delete]),
            _ => {}
        }
    }
    rights.sort_unstable();
    rights.dedup();
    rights
}

/// A scope as it was granted.
pub fn granted(name: &str, rights: &[Role]) -> String {
    let word = |right: &Role| match right {
        Role::Read => "pull",
        Role::Write => "push",
        Role::Delete | Role::Admin => "delete",
    };
    let actions: Vec<&str> = rights.iter().map(word).collect();
    format!("repository:{name}:{}", actions.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, rights: &[Role]) -> Scope {
        Scope::Image { name: name.into(), rights: rights.to_vec() }
    }

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        use Role::{Delete, Read, Write};
        let cases: [(&str, &[Scope]); 12] = [
            ("", &[]),
            ("repository:a:pull", &[image("a", &[Read])]),
            ("repository:team/app:push,pull", &[image("team/app", &[Read, Write])]),
            ("repository:h:5000/a:pull", &[image("h:5000/a", &[Read])]),
            ("repository(plugin):a:pull,pull", &[image("a", &[Read])]),
            ("repository:a:*", &[image("a", &[Read, Write, Delete])]),
            ("repository:a:delete", &[image("a", &[Delete])]),
            ("repository:a:", &[image("a", &[])]),
            ("repository:a:fly", &[image("a", &[])]),
            ("registry:catalog:*", &[Scope::Listing]),
            ("repository:a", &[]),
            ("other:a:pull x :: repository:b:pull", &[image("b", &[Read])]),
        ];
        for (text, expected) in cases {
            assert_eq!(scopes([text]), expected, "{text}");
        }
        assert_eq!(scopes(["repository:a:pull", "repository:b:pull"]).len(), 2);
        let many = "repository:a:pull ".repeat(1_000);
        assert_eq!(scopes([many.as_str()]).len(), MOST);
    }

    #[test]
    fn what_was_granted_is_written_the_same_way() {
        assert_eq!(granted("team/app", &[Role::Read, Role::Write]), "repository:team/app:pull,push");
        assert_eq!(granted("a", &[]), "repository:a:");
    }
}
