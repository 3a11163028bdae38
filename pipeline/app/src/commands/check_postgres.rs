//! The part of `spawn check` about the database: its versions, the way to it, its schema, and what pipelines have stored in it.

use super::check::Findings;
use crate::config::Settings;
use spawn_postgres::{PipelineIdentity, Store, Versions};

/// Oldest major release of PostgreSQL.
const POSTGRES_MIN: u32 = 16;

pub(super) async fn postgres(settings: &Settings, pipelines: &[PipelineIdentity], findings: &mut Findings) {
    let url = &settings.postgres.url;
    let at = crate::config::mask("postgres.url", url);
    let store = match super::store(settings).await {
        Ok(store) => store,
        Err(failure) => {
            let fix = "start it, or set postgres.url";
            return findings.wrong("postgres", &at, failure.error, "a connection", fix);
        }
    };
    match store.versions().await {
        Ok(found) => versions(&found, &at, findings),
        Err(error) => findings.wrong("postgres", &at, error, "versions", "see the server's log"),
    }
    match spawn_postgres::pooled(url).await {
        Ok(false) => findings.well("pooler", "postgres.url", "connections keep their server process".into()),
        Ok(true) => findings.wrong(
            "pooler",
            "postgres.url",
            "a pooler in transaction mode: a connection changes its server process",
            "a direct connection, because writers bring settings of their own",
            "set postgres.url to the server itself for workers; the API alone may use the pooler",
        ),
        Err(error) => findings.wrong(
            "pooler",
            "postgres.url",
            error,
            "two connections at once",
            "raise max_connections or the role's limit",
        ),
    }
    match spawn_postgres::pending(url).await {
        Ok(pending) if pending.is_empty() => {
            findings.well("schema", &at, "up to date".into());
            for identity in pipelines {
                stored(&store, identity, findings).await;
            }
        }
        Ok(pending) => findings.wrong(
            "schema",
            &at,
            format!("{} migrations behind", pending.len()),
            "up to date",
            "run `spawn migrate`",
        ),
        Err(error) => findings.wrong("schema", &at, error, "up to date", "run `spawn migrate`"),
    }
}

fn versions(found: &Versions, at: &str, findings: &mut Findings) {
    let major =
        found.postgres.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse::<u32>().ok());
    findings.judge(
        major.is_some_and(|major| major >= POSTGRES_MIN),
        "postgres",
        at,
        format!("PostgreSQL {}, pgvector {}", found.postgres, found.pgvector),
        "PostgreSQL 16 or newer",
        "upgrade the server",
    );
    // Without a schema there is none yet; `schema` says so.
    if found.pgvector != "none" {
        findings.judge(
            !spawn_postgres::migrate::too_old(&found.pgvector),
            "pgvector",
            at,
            found.pgvector.clone(),
            "0.8.4 or newer: older ones corrupt indexes or overflow",
            "install it on the server, then run `ALTER EXTENSION vector UPDATE`",
        );
    }
}

/// What the pipeline's rows were made with, and their vectors' type, against what this binary would claim with.
async fn stored(store: &Store, identity: &PipelineIdentity, findings: &mut Findings) {
    let at = format!("pipeline.{}", identity.pipeline);
    let stored = match store.stored_source(&identity.pipeline, &identity.topic).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return findings.well("source", &at, "has not read its topic yet".into()),
        Err(error) => {
            return findings.wrong("source", &at, error, "its stored specification", "see the server's log");
        }
    };
    let differences = identity.differences(&stored.spec);
    match differences.is_empty() {
        true => findings.well("source", &at, format!("{} as before", identity.model)),
        false => findings.wrong(
            "source",
            &at,
            differences.join("; "),
            "the specification that its rows were made with; a worker would be refused",
            "run the binary and models of before, or give the new ones a pipeline of their own with another name",
        ),
    }
    let column = stored.column.unwrap_or_else(|| "no column".into());
    let want = format!("halfvec({}), as the model's manifest says", identity.dimension);
    findings.judge(
        stored.dimension as usize == identity.dimension
            && column == format!("halfvec({})", identity.dimension),
        "dimension",
        &at,
        format!("generation {} of {} elements, vectors in {column}", stored.generation, stored.dimension),
        &want,
        "restore spawn.embedding_<generation>, or give the model a pipeline of its own with another name",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_extensions_are_told_apart() {
        for (postgres, pgvector, wrong) in [
            ("18.4", "0.8.5", vec![]),
            ("16beta1", "none", vec![]),
            ("15.9", "0.8.4", vec!["postgres"]),
            ("17.1", "0.8.3", vec!["pgvector"]),
        ] {
            let mut findings = Findings::default();
            versions(
                &Versions { postgres: postgres.into(), pgvector: pgvector.into() },
                "here",
                &mut findings,
            );
            assert_eq!(findings.wrong_ids(), wrong, "{postgres} {pgvector}");
        }
    }
}
