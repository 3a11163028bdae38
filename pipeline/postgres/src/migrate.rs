//! The schema. Several processes may start at once: an advisory lock makes them take turns.

use crate::connect::options;
use crate::errors::fault;
use spawn_core::{Fault, FaultClass};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};

/// Older ones corrupt indexes or overflow.
const PGVECTOR_MIN: (u32, u32, u32) = (0, 8, 4);
const SERVER_MIN: i32 = 160_000;

/// Brings the schema up to date and answers which migrations that took.
pub async fn migrate(url: &str) -> Result<Vec<String>, Fault> {
    let mut connection = connect(url).await?;
    check_server(&mut connection).await?;
    let pending = missing(&mut connection).await?;
    // `run` has a bound that no boxed future can meet (sqlx documents it there); this is what it calls.
    migrator().run_direct(None, &mut connection, false).await.map_err(|e| explain(&e))?;
    check_extension(&mut connection).await?;
    connection.close().await.map_err(|e| fault(&e))?;
    for migration in &pending {
        tracing::info!(%migration, "migration applied");
    }
    Ok(pending)
}

/// Which migrations [`migrate`] would apply. Changes nothing.
pub async fn pending(url: &str) -> Result<Vec<String>, Fault> {
    let mut connection = connect(url).await?;
    check_server(&mut connection).await?;
    missing(&mut connection).await
}

async fn connect(url: &str) -> Result<PgConnection, Fault> {
    PgConnection::connect_with(&options(url, "spawn-migrate")?).await.map_err(|e| fault(&e))
}

/// With its own table inside our schema, so that it does not meet the one of another program in the same database.
pub(crate) fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name("spawn.migration");
    migrator.create_schema("spawn");
    migrator
}

async fn missing(connection: &mut PgConnection) -> Result<Vec<String>, Fault> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('spawn.migration') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(|e| fault(&e))?;
    let applied: Vec<i64> = if exists {
        sqlx::query_scalar("SELECT version FROM spawn.migration WHERE success")
            .fetch_all(connection)
            .await
            .map_err(|e| fault(&e))?
    } else {
        Vec::new()
    };
    Ok(migrator()
        .iter()
        .filter(|m| !applied.contains(&m.version))
        .map(|m| format!("{:04} {}", m.version, m.description))
        .collect())
}

/// PostgreSQL and the pgvector that it offers are new enough.
async fn check_server(connection: &mut PgConnection) -> Result<(), Fault> {
    let (server, version): (i32, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|e| fault(&e))?;
    if server < SERVER_MIN {
        return Err(operator(format!("PostgreSQL {version} is too old: 16 or newer is needed")));
    }
    let offered: Option<String> =
        sqlx::query_scalar("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
            .fetch_optional(connection)
            .await
            .map_err(|e| fault(&e))?;
    match offered {
        None => Err(operator(
            "the server has no pgvector: install its package (`postgresql-NN-pgvector`), 0.8.4 or newer",
        )),
        Some(version) if too_old(&version) => Err(operator(format!(
            "the server offers pgvector {version}, which may corrupt indexes: install 0.8.4 or newer"
        ))),
        Some(_) => Ok(()),
    }
}

/// The pgvector that this database has created is new enough.
async fn check_extension(connection: &mut PgConnection) -> Result<(), Fault> {
    let version: String = sqlx::query_scalar("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        .fetch_one(connection)
        .await
        .map_err(|e| fault(&e))?;
    if too_old(&version) {
        return Err(operator(format!(
            "this database uses pgvector {version}, which may corrupt indexes: run `ALTER EXTENSION vector UPDATE`"
        )));
    }
    Ok(())
}

/// Whether this pgvector is older than the one that is needed.
pub fn too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next()) < PGVECTOR_MIN
}

fn operator(detail: impl std::fmt::Display) -> Fault {
    Fault::new(FaultClass::Operator, "postgres", detail)
}

fn explain(error: &MigrateError) -> Fault {
    match error {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => {
            let fault = fault(e);
            let advice = match crate::errors::sqlstate(e).as_deref() {
                Some("42501") => {
                    "; a superuser may run `CREATE EXTENSION vector` and `CREATE SCHEMA spawn AUTHORIZATION <role>` once"
                }
                _ => "",
            };
            Fault::new(fault.class, fault.domain, format!("{}{advice}", fault.detail))
        }
        MigrateError::VersionMissing(version) => operator(format!(
            "the schema has migration {version}, which this binary does not know: use a newer one"
        )),
        MigrateError::VersionMismatch(version) => operator(format!(
            "migration {version} was applied in another form: this binary is of another line of builds"
        )),
        other => operator(other),
    }
}

#[cfg(test)]
mod unit {
    use super::too_old;

    #[test]
    fn versions_compare_by_number() {
        assert!(too_old("0.8.3") && too_old("0.7.10") && too_old("0.8"));
        assert!(!too_old("0.8.4") && !too_old("0.8.10") && !too_old("0.10.0") && !too_old("1.0"));
    }
}
