//! A broker and a database of a test's own, to be stopped, killed and set back.

use crate::world::root;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use tempfile::TempDir;

/// An Apache Kafka of a test's own, to be stopped and killed.
pub struct Kafka {
    dir: TempDir,
    port: u16,
}

impl Kafka {
    pub fn start() -> Self {
        let kafka = Self { dir: TempDir::new().unwrap(), port: server_port() };
        kafka.start_again();
        kafka
    }

    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn server(&self, args: &[&str]) {
        let script = root().join("setup/kafka-server");
        let status =
            Command::new(script).arg(args[0]).arg(self.dir.path()).args(&args[1..]).status().unwrap();
        assert!(status.success(), "kafka-server {args:?}");
    }

    pub fn start_again(&self) {
        self.server(&["start", &self.port.to_string()]);
    }

    pub fn kill(&mut self) {
        self.server(&["stop", "now"]);
    }

    pub fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A PostgreSQL of a test's own, to be set back.
pub struct Postgres {
    dir: TempDir,
    port: u16,
}

impl Postgres {
    pub fn start() -> Self {
        let postgres = Self { dir: TempDir::new().unwrap(), port: server_port() };
        // Root's server runs as another user.
        run(Command::new("chmod").arg("755").arg(postgres.dir.path()));
        postgres.server(&["start", &postgres.port.to_string()]);
        postgres
    }

    pub fn url(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("url")).unwrap().trim().to_owned()
    }

    fn server(&self, args: &[&str]) {
        let mut command = Command::new(root().join("setup/postgres-server"));
        run(command.arg(args[0]).arg(self.dir.path()).args(&args[1..]));
    }

    /// Dies, and comes back as `change` leaves the folder with its data and the one with the copy.
    fn reborn(&self, change: impl FnOnce(PathBuf, PathBuf)) {
        self.server(&["stop", "now"]);
        change(self.dir.path().join("data"), self.dir.path().join("copy"));
        self.server(&["start", &self.port.to_string()]);
    }

    /// Dies, and comes back with everything that was committed, of which a copy is kept.
    pub fn save(&self) {
        self.reborn(|data, copy| run(Command::new("cp").arg("-a").arg(data).arg(copy)));
    }

    /// Dies, and comes back as it was saved.
    pub fn restore(&self) {
        self.reborn(|data, copy| {
            std::fs::remove_dir_all(&data).unwrap();
            std::fs::rename(copy, data).unwrap();
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.server(&["stop", "now"]);
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// A free port, and the next one too: Kafka's controller has it. Below the ports of outgoing connections, where a client could be given the
/// server's own port.
fn server_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port: &u16| (0..2).all(|i| std::net::TcpListener::bind(("127.0.0.1", port + i)).is_ok());
    // Servers of one process that start at once look in different places.
    let first = (std::process::id() as usize % 40) * 100 + usize::from(NEXT.fetch_add(7, Relaxed));
    (21_000..31_000).step_by(2).skip(first).find(free).unwrap()
}
