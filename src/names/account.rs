//! Owns who may do what, as values: the names of accounts, patterns of image names, roles.
//! Must not know: which accounts there are, and how anybody shows who they are.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::ImageName;

/// The number of an account. Never used again after a removal, so that whatever holds it (rows, tokens) never
/// serves a namesake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);

/// Why a text is not the name of an account, a pattern or a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error(
        "a user name is 1 to {} lower-case letters, digits, dots, hyphens, underscores, plus and at signs, \
         and begins with a letter or digit",
        AccountName::MAX
    )]
    Name,
    #[error(
        "a pattern is an image name such as team/app; a * in it stands for any text, slashes too: team/*, *"
    )]
    Pattern,
    #[error("a role is read, write, delete or admin")]
    Role,
}

/// The name that somebody logs in with. Basic authentication cannot send a colon, so there is none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(Arc<str>);

impl AccountName {
    /// Longest legal name, in characters.
    pub const MAX: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = text.bytes().next().is_some_and(word);
        let rest = text.bytes().all(|byte| word(byte) || b"._-+@".contains(&byte));
        if first && rest && text.len() <= Self::MAX { Ok(Self(text.into())) } else { Err(AccountError::Name) }
    }
}

/// Which images of a repository: an image name in which each `*` stands for any text, slashes too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePattern(Arc<str>);

impl ImagePattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every image.
    pub fn all() -> Self {
        Self("*".into())
    }

    /// Exactly this image.
    pub fn exactly(image: &ImageName) -> Self {
        Self(image.as_str().into())
    }

    pub fn matches(&self, image: &ImageName) -> bool {
        let mut rest = image.as_str();
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(last) = parts.next_back() else {
            return rest == first;
        };
        let Some(after) = rest.strip_prefix(first) else {
            return false;
        };
        rest = after;
        // The leftmost place for each part leaves the most for those behind it.
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl FromStr for ImagePattern {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/*".contains(&byte);
        let shaped = !text.is_empty() && text.len() <= ImageName::MAX && !text.contains("**");
        let name = text.contains('*') || text.parse::<ImageName>().is_ok();
        if shaped && name && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(AccountError::Pattern)
        }
    }
}

/// What somebody may do with images; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Read,
    Write,
    Delete,
    /// Also lets others in, and removes what is cached.
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Delete, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(AccountError::Role)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["ada", "a", "0", "ada.l", "ada@example.com", "ci-1_x+y"] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "Ada", "-a", ".a", "a:b", "a b", "a/b", "é", "a\n", &"a".repeat(65)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        let cases = [
            ("*", "a", true),
            ("*", "a/b/c", true),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", true),
            ("team/*", "team", false),
            ("team/*", "teams/app", false),
            ("*/base", "team/base", true),
            ("*/base", "base", false),
            ("team/app", "team/app", true),
            ("team/app", "team/app2", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("*ab*ab", "ab", false),
        ];
        for (pattern, image, expected) in cases {
            let pattern: ImagePattern = pattern.parse().expect("a pattern");
            assert_eq!(pattern.matches(&image.parse().expect("a name")), expected, "{pattern} {image}");
        }
        for bad in ["", "**", "A", "a b", "a?", "team//app", "a:b", &"a*".repeat(200)] {
            assert!(bad.parse::<ImagePattern>().is_err(), "{bad}");
        }
    }

    /// The plain definition, which takes exponential time.
    fn matches_slowly(pattern: &str, text: &str) -> bool {
        match pattern.split_at_checked(1) {
            None => text.is_empty(),
            Some(("*", rest)) => (0..=text.len()).any(|at| matches_slowly(rest, &text[at..])),
            Some((letter, rest)) => text.strip_prefix(letter).is_some_and(|text| matches_slowly(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_defined(pattern in "[ab]{0,2}(\\*[ab]{1,2}){0,3}\\*?", text in "[ab]{1,7}") {
            prop_assume!(pattern.contains('*'));
            let matches = pattern.parse::<ImagePattern>().expect("a pattern")
                .matches(&text.parse().expect("a name"));
            prop_assert_eq!(matches, matches_slowly(&pattern, &text));
        }
    }

    #[test]
    fn roles_include_those_before_them() {
        assert!(Role::Admin > Role::Delete && Role::Delete > Role::Write && Role::Write > Role::Read);
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("owner".parse::<Role>().is_err());
    }
}
