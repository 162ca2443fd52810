//! Owns the answers to pushes and deletions. None is taken here: a remote repository is a cache, and what a local
//! one will take it does not take yet. Must not know: blobs, manifests.

use super::address::Directory;
use super::route::Push;
use super::wire::WireError;
use crate::engine::{Repository, RepositoryKind};

/// 405, with a sentence that says where to go instead.
pub fn refuse(directory: &impl Directory, repository: &Repository, push: Push) -> WireError {
    let name = &repository.name;
    let message = match (&repository.kind, push) {
        (RepositoryKind::Local(_), _) => {
            format!("{name} takes no pushes and deletions in this version; remote repositories serve pulls")
        }
        (RepositoryKind::Remote(_), Push::PutManifest | Push::Upload) => {
            format!(
                "{name} is a cache of {} and takes no pushes; {}",
                upstream(repository),
                elsewhere(directory)
            )
        }
        (RepositoryKind::Remote(_), Push::DeleteManifest | Push::DeleteBlob) => format!(
            "{name} is a cache of {}; `binaryrepo purge` removes what it keeps, not a client",
            upstream(repository)
        ),
    };
    WireError::refused("GET, HEAD", message)
}

fn upstream(repository: &Repository) -> String {
    let host = repository.remote().and_then(|remote| remote.spec.remote_url.host_str());
    host.unwrap_or("another registry").to_owned()
}

fn elsewhere(directory: &impl Directory) -> String {
    let all = directory.list();
    let locals = all.iter().filter(|other| other.local().is_some());
    let names: Vec<String> = locals.map(|local| local.name.to_string()).collect();
    if names.is_empty() {
        "there is no local repository to push to".to_owned()
    } else {
        format!("push to a local repository: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::address::tests::{Table, remote, repository};
    use crate::engine::LocalSpec;

    #[test]
    fn a_push_to_a_remote_is_told_where_to_go() {
        let hub = remote(1, "docker-remote", "https://user:secret@registry-1.docker.io", |_| {});
        let local = repository(2, "docker-local", RepositoryKind::Local(LocalSpec::default()));
        let table = Table(vec![hub.clone(), local.clone()]);
        let error = refuse(&table, &hub, Push::Upload);
        assert_eq!((error.code.row().0, error.status.as_u16()), ("UNSUPPORTED", 405));
        assert!(error.message.ends_with("push to a local repository: docker-local"), "{}", error.message);
        assert!(!error.message.contains("secret"));
        assert!(refuse(&table, &hub, Push::DeleteBlob).message.contains("purge"));
        assert_eq!(refuse(&table, &local, Push::PutManifest).status.as_u16(), 405);
        assert!(
            refuse(&Table(vec![hub.clone()]), &hub, Push::Upload).message.contains("no local repository")
        );
    }
}
