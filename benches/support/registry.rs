//! Debian's docker-registry to compare with, where it is installed: with a directory and a port of its own.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ends when dropped.
pub struct DockerRegistry {
    pub address: String,
    _dir: TempDir,
    child: Child,
}

impl DockerRegistry {
    /// `None` where there is no docker-registry.
    pub fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Free at this moment; nobody else binds a port of the kernel's choice right after.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = dir.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut registry = Self { address, _dir: dir, child: started.ok()? };
        registry.wait();
        Some(registry)
    }

    fn wait(&mut self) {
        let since = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "docker-registry ended");
            assert!(since.elapsed() < Duration::from_secs(10), "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
