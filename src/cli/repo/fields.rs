//! Owns the flags for a remote's fields, and their JSON. The values go as they are: the server reads them
//! with the same rules as any other request.
//! Must not know: which values are right.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::super::error::CliError;
use super::super::password;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings of remotes")]
pub struct RemoteFields {
    /// User name at the upstream
    #[arg(long, value_name = "NAME")]
    username: Option<String>,

    /// Read the password from stdin; there is no flag for the password itself, since flags are public
    #[arg(long, conflicts_with_all = ["password_env", "password_file"])]
    password_stdin: bool,

    /// Take the password from this variable of the command's environment
    #[arg(long, value_name = "VARIABLE", conflicts_with = "password_file")]
    password_env: Option<String>,

    /// File on the server's machine that it reads the password from, at every start and change
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// PEM certificates to trust besides the system's, a file on the server's machine
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// How long a tag is answered without asking the upstream [default: 60s]
    #[arg(long, value_name = "DURATION")]
    tag_ttl: Option<String>,

    /// How long it is remembered that something is not there [default: 10s]
    #[arg(long, value_name = "DURATION")]
    negative_ttl: Option<String>,

    /// How old a tag may be served while the upstream fails [default: 7d]
    #[arg(long, value_name = "DURATION")]
    stale_if_error: Option<String>,

    /// What this repository may cache: 10GiB [default: only the whole cache has a limit]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,

    /// The registry that containerd's ?ns= names, such as docker.io
    #[arg(long, value_name = "HOST")]
    upstream_namespace: Option<String>,

    /// Answer /v2/IMAGE without a repository, for dockerd's registry-mirrors
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    default_mirror: Option<bool>,

    /// Let everyone pull without logging in, from a remote with its stored password too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    anonymous_pull: Option<bool>,

    /// Token server or CDN that the upstream may send us to; may be repeated
    #[arg(long = "allowed-host", value_name = "HOST")]
    allowed_hosts: Vec<String>,

    /// Another registry with the same content, asked when the upstream fails; may be repeated
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,

    /// A tag that is there is neither moved nor removed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Settings of local repositories")]
    immutable_tags: Option<bool>,

    /// Manifests may name platforms and layers that were not pushed to their image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Settings of local repositories")]
    sparse_manifests: Option<bool>,
}

/// What `update` may say besides.
#[derive(Debug, clap::Args)]
pub struct Changes {
    #[command(flatten)]
    fields: RemoteFields,

    /// Put a setting back to its default; may be repeated
    #[arg(long, value_name = "FIELD", value_parser = RESETTABLE, hide_possible_values = true)]
    reset: Vec<String>,
}

const RESETTABLE: [&str; 15] = [
    "username",
    "password",
    "password_file",
    "ca_file",
    "tag_ttl",
    "negative_ttl",
    "stale_if_error",
    "max_size",
    "upstream_namespace",
    "default_mirror",
    "anonymous_pull",
    "allowed_hosts",
    "mirrors",
    "immutable_tags",
    "sparse_manifests",
];

impl RemoteFields {
    /// The fields that were given. Paths on this machine are made absolute: the server's own directory
    /// is another.
    pub fn into_json(self, elsewhere: bool) -> Result<Map<String, Value>, CliError> {
        let mut map = Map::new();
        let password = self.password()?;
        let mut put = |name: &str, value: Option<Value>| {
            map.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("password", password.map(Value::String));
        put("username", self.username.map(Value::String));
        put("password_file", self.password_file.map(|path| path_value(&path, elsewhere)).transpose()?);
        put("ca_file", self.ca_file.map(|path| path_value(&path, elsewhere)).transpose()?);
        put("tag_ttl", self.tag_ttl.map(Value::String));
        put("negative_ttl", self.negative_ttl.map(Value::String));
        put("stale_if_error", self.stale_if_error.map(Value::String));
        put("max_size", self.max_size.map(Value::String));
        put("upstream_namespace", self.upstream_namespace.map(Value::String));
        put("default_mirror", self.default_mirror.map(Value::Bool));
        put("anonymous_pull", self.anonymous_pull.map(Value::Bool));
        let list = |items: Vec<String>| (!items.is_empty()).then(|| json!(items));
        put("allowed_hosts", list(self.allowed_hosts));
        put("mirrors", list(self.mirrors));
        put("immutable_tags", self.immutable_tags.map(Value::Bool));
        put("sparse_manifests", self.sparse_manifests.map(Value::Bool));
        Ok(map)
    }

    fn password(&self) -> Result<Option<String>, CliError> {
        if let Some(name) = &self.password_env {
            return match std::env::var(name) {
                Ok(password) if !password.is_empty() => Ok(Some(password)),
                _ => Err(CliError::usage(format!("the environment has no `{name}`"))),
            };
        }
        if !self.password_stdin {
            return Ok(None);
        }
        password::from_stdin("binaryrepo repo add ...").map(Some)
    }
}

impl Changes {
    pub fn into_json(self, elsewhere: bool) -> Result<Map<String, Value>, CliError> {
        let mut map = self.fields.into_json(elsewhere)?;
        for field in self.reset {
            if map.contains_key(&field) {
                return Err(CliError::usage(format!("{field} is both given and reset")));
            }
            map.insert(field, Value::Null);
        }
        Ok(map)
    }
}

fn path_value(path: &Path, elsewhere: bool) -> Result<Value, CliError> {
    let path = if elsewhere { Ok(path.to_owned()) } else { std::path::absolute(path) };
    let path = path.map_err(|error| CliError::usage("the path has no absolute form").with_cause(error))?;
    match path.to_str() {
        Some(text) => Ok(json!(text)),
        None => Err(CliError::usage(format!("{} is not UTF-8", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::RESETTABLE;

    #[test]
    fn what_can_be_reset_is_a_field() {
        let strange: Vec<_> =
            RESETTABLE.iter().filter(|field| !binaryrepo::form::FIELDS.contains(*field)).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
}
