//! Connections: two of its own for each writer, a pool for readers.

use crate::errors::{class, fault};
use spawn_core::{Fault, FaultClass};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::Mutex;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the server's own limit on a statement: passing it means that the server cannot be heard any more. Shorter than the 30 s
/// within which a partition has to move on.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options for `url`, under a name that `pg_stat_activity` shows. It may be cut to 63 bytes there.
pub(crate) fn options(url: &str, name: &str) -> Result<PgConnectOptions, Fault> {
    Ok(PgConnectOptions::from_str(url)
        .map_err(|e| fault(&e))?
        .application_name(name)
        .disable_statement_logging())
}

/// A direct connection of its own for one kind of work, opened when it is needed, and again after any trouble. Not from a pool:
/// whoever writes should not find a dead connection after a dead connection, nor wait for somebody else's.
#[derive(Debug)]
pub(crate) struct Lane {
    options: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
}

impl Lane {
    /// Connects on the first call. Not through a pooler, because it brings settings.
    pub(crate) fn new(url: &str, name: &str) -> Result<Self, Fault> {
        let options = options(url, name)?.options([
            // What the protocol was proven for, whatever the server's default is.
            ("default_transaction_isolation", "read committed"),
            ("idle_in_transaction_session_timeout", "10s"),
            ("statement_timeout", "20s"),
            // Compiling a plan takes longer than a write.
            ("jit", "off"),
        ]);
        Ok(Self { options, connection: Mutex::new(None) })
    }

    /// Asks the server, and waits for its answer for a bounded time. One call at a time. After trouble with the connection, or when the
    /// caller stops waiting, it is closed: whatever the server still does there, it does without us, and the next attempt finds out.
    pub(crate) async fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut kept = self.connection.lock().await;
        let asked = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => connect(&self.options).await?,
            };
            let answer = ask(&mut connection).await;
            if answer.as_ref().err().is_none_or(is_about_the_values) {
                *kept = Some(connection);
            }
            answer
        };
        timeout(ANSWER_TIMEOUT, asked).await?
    }

    /// For tests of what happens to an open connection.
    #[cfg(test)]
    pub(crate) async fn is_open(&self) -> bool {
        self.connection.lock().await.is_some()
    }
}

/// The server has answered and the connection is as good as before.
fn is_about_the_values(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some() && class(error) != FaultClass::Systemic
}

/// A new connection; without one the error says where it was looked for.
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connected = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await;
    match connected.and_then(|connected| connected) {
        Err(sqlx::Error::Io(error)) => {
            let (host, port) = (options.get_host(), options.get_port());
            let text = format!(
                "cannot connect to PostgreSQL at {host}:{port}: {error}; is it running, is postgres.url (DATABASE_URL) right?"
            );
            Err(sqlx::Error::Io(std::io::Error::new(error.kind(), text)))
        }
        other => other,
    }
}

async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let text = format!("no answer from PostgreSQL within {} s", limit.as_secs());
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
    })
}

/// The connections for questions. Nothing in the startup message that a pooler refuses.
pub(crate) async fn readers(url: &str, connections_max: u32) -> Result<PgPool, Fault> {
    let options = options(url, "spawn-reader")?;
    // The pool would try again until its time is up, and not say why.
    connect(&options).await.map_err(|e| fault(&e))?.close().await.map_err(|e| fault(&e))?;
    Ok(PgPoolOptions::new()
        .max_connections(connections_max.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute("SET statement_timeout = '30s'; SET jit = off").await?;
                Ok(())
            })
        })
        .connect_lazy_with(options))
}
