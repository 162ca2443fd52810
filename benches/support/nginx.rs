//! nginx to compare with, where it is installed: with a configuration, a directory and a port of its own.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ends when dropped.
pub struct Nginx {
    pub address: String,
    pub dir: TempDir,
    child: Child,
}

impl Nginx {
    /// With what stands in `http`, where `ADDRESS` is replaced by an address of its own and `DIR` by its
    /// directory. `None` where there is no nginx.
    pub fn start(http: &str) -> Option<Self> {
        Self::with_files(http, &[])
    }

    /// With files in its directory, in which the same is replaced.
    pub fn with_files(http: &str, files: &[(String, String)]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Free at this moment; nobody else binds a port of the kernel's choice right after.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let own = |text: &str| text.replace("ADDRESS", &address).replace("DIR", dir.path().to_str().unwrap());
        let http = own(http);
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, own(text)).unwrap();
        }
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "daemon off; {user} worker_processes {workers}; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
                 access_log {dir}/access.log; keepalive_requests 100000000; client_body_temp_path {dir}/body;\n\
                 proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
                 {http}\n\
             }}\n",
            dir = dir.path().display(),
        );
        std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
        let started = Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(dir.path().join("nginx.conf"))
            .arg("-e")
            .arg(dir.path().join("error.log"))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn();
        let mut nginx = Self { address, dir, child: started.ok()? };
        nginx.wait();
        Some(nginx)
    }

    fn wait(&mut self) {
        let since = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "nginx ended: {}", log());
            assert!(since.elapsed() < Duration::from_secs(10), "nginx does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Of the master; the workers are its children.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killing the master would leave its workers.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
