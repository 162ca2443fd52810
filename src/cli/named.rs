//! Owns how an image is written on the command line: `REPOSITORY/IMAGE`, with `:TAG` or `@DIGEST`.
//! Must not know: whether it is there, what is done with it.

use std::fmt;
use std::str::FromStr;

use binaryrepo::names::{ImageName, Reference, RepositoryName};

/// An image of a repository, or one thing in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub repository: RepositoryName,
    pub image: ImageName,
    pub reference: Option<Reference>,
}

impl Named {
    /// Where the management API has the image.
    pub fn path(&self) -> String {
        format!("/api/images/{}", self.image_name())
    }

    pub fn image_name(&self) -> String {
        format!("{}/{}", self.repository, self.image)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.image_name())?;
        match &self.reference {
            None => Ok(()),
            Some(Reference::Tag(tag)) => write!(f, ":{tag}"),
            Some(Reference::Digest(digest)) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let said = |error: &dyn fmt::Display| error.to_string();
        let (repository, rest) = text
            .split_once('/')
            .ok_or_else(|| "write REPOSITORY/IMAGE, such as docker-local/team/app".to_owned())?;
        let (image, reference) = match (rest.split_once('@'), rest.rsplit_once(':')) {
            (Some((image, digest)), _) => {
                (image, Some(Reference::Digest(digest.parse().map_err(|error| said(&error))?)))
            }
            (None, Some((image, tag))) => {
                (image, Some(Reference::Tag(tag.parse().map_err(|error| said(&error))?)))
            }
            (None, None) => (rest, None),
        };
        Ok(Self {
            repository: repository.parse().map_err(|error| said(&error))?,
            image: image.parse().map_err(|error| said(&error))?,
            reference,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for text in ["r/a", "docker-local/team/app:1.0", &format!("r/a/b@{digest}")] {
            assert_eq!(text.parse::<Named>().expect("a name").to_string(), text);
        }
        for wrong in ["", "r", "r/", "/a", "r/A", "r/a:", "r/a@sha256:00", "R/a", "r/a:1:2", "r/../a"] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }
}
