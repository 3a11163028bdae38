//! Which fault a driver's error is: one small table. Nobody else in this crate decides about classes.

use spawn_core::{Fault, FaultClass, Modality};

/// Raised by `spawn.write_batch`: ids came again with other content; the detail lists the rows.
pub(crate) const ID_CONFLICT: &str = "SP001";
/// Raised by `spawn.write_batch` at the end of a probe, to undo it.
pub(crate) const PROBE_DONE: &str = "SP003";

/// Raised by `spawn.claim`: the source belongs to another specification; the detail is that one.
pub(crate) const OTHER_SPEC: &str = "SP004";
/// Raised by `spawn.claim`: the topic was made anew; the detail is the id that it had.
pub(crate) const OTHER_TOPIC: &str = "SP006";

/// What a question to the store may be answered with instead.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The page cursor was not made by this program.
    #[error("the cursor is not one that a previous page gave")]
    Cursor,
    /// Ids have 32 hexadecimal digits.
    #[error("`{0}` is not an id: 32 hexadecimal digits are expected")]
    Id(String),
    /// Nothing was ever written for this modality.
    #[error("there is no generation of {0} results yet: run a worker for it first")]
    NoGeneration(Modality),
    /// No such generation.
    #[error("there is no generation {0}; `spawn generations` lists them")]
    UnknownGeneration(i32),
    /// A dead letter is named by its item's id or by its origin.
    #[error("`{0}` names no dead letter: give 32 hexadecimal digits, or topic/partition@offset")]
    LetterName(String),
    /// The vector does not fit the generation.
    #[error("the vector has {got} elements, generation {generation} holds vectors of {want}")]
    Dimension {
        /// Searched.
        generation: i32,
        /// Its dimension.
        want: usize,
        /// The vector's.
        got: usize,
    },
    /// Cosine needs a direction.
    #[error("the vector has no direction: it is zero, or not finite as 16-bit floats")]
    NoDirection,
    /// The database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(fault(&error))
    }
}

/// The class of an SQLSTATE.
pub(crate) fn class_of(sqlstate: &str) -> FaultClass {
    match sqlstate.get(..2).unwrap_or_default() {
        // Data exception, integrity constraint, program limit: a value's fault.
        "22" | "23" | "54" => FaultClass::Store,
        // Feature, syntax or missing object, missing schema, PL/pgSQL, our own refusals: waiting does not help.
        "0A" | "3F" | "42" | "P0" | "SP" => FaultClass::Operator,
        // 08 connection, 25 read-only (a standby), 28/3D (a server that is being restored), 40 serialisation and deadlock, 53
        // resources, 55 lock, 57 shutdown or cancelled, 58 system, XX internal, and what nobody thought of: keep everything, try again.
        _ => FaultClass::Systemic,
    }
}

/// The class of any error of the driver.
pub(crate) fn class(error: &sqlx::Error) -> FaultClass {
    match error {
        sqlx::Error::Database(e) => e.code().map_or(FaultClass::Systemic, |code| class_of(&code)),
        sqlx::Error::Configuration(_)
        | sqlx::Error::InvalidArgument(_)
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound => FaultClass::Operator,
        _ => FaultClass::Systemic,
    }
}

/// A fault with the server's words, its SQLSTATE and what would mend it. Never the values: they may be secret.
pub(crate) fn fault(error: &sqlx::Error) -> Fault {
    let Some(code) = sqlstate(error) else {
        let class = class(error);
        return match error {
            sqlx::Error::Io(error) => Fault::new(class, "postgres", error),
            error => Fault::new(class, "postgres", error),
        };
    };
    let message = error.as_database_error().map_or_else(String::new, |e| e.message().to_owned());
    let advice = match code.as_str() {
        "3F000" | "42P01" | "42883" | "42703" => {
            "; the schema is older than this binary: run `spawn migrate`"
        }
        "42501" => "; grant the role of `postgres.url` what it lacks",
        "53100" => "; the disk is full",
        "53300" => "; raise max_connections or lower the number of workers",
        "25006" => "; this server is a standby: point `postgres.url` at the primary",
        _ => "",
    };
    Fault::new(class(error), "postgres", format!("{message} (SQLSTATE {code}){advice}"))
}

/// The SQLSTATE, if the server answered.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|e| e.code()).map(|code| code.into_owned())
}

/// The rejection code of a record whose value the store refused.
pub(crate) fn rejection_code(sqlstate: &str) -> &'static str {
    match sqlstate {
        "22001" => "store.too_large",
        "22021" | "22P05" => "store.encoding",
        _ if sqlstate.starts_with("54") => "store.too_large",
        _ if sqlstate.starts_with("23") => "store.constraint",
        _ => "store.value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_sqlstates() {
        let table = [
            (FaultClass::Store, ["22P05", "23505", "54000"].as_slice()),
            (FaultClass::Operator, &["42P01", "42883", "SP002", "SP004", "SP008"]),
            (
                FaultClass::Systemic,
                &["08006", "57P01", "53100", "53300", "40001", "40P01", "25006", "57014", "XX000"],
            ),
        ];
        for (class, codes) in table {
            for code in codes {
                assert_eq!(class_of(code), class, "{code}");
            }
        }
    }

    #[test]
    fn a_lost_connection_is_systemic_and_a_bad_url_is_not() {
        assert_eq!(class(&sqlx::Error::PoolTimedOut), FaultClass::Systemic);
        assert_eq!(class(&sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into())), FaultClass::Systemic);
        assert_eq!(class(&sqlx::Error::Configuration("x".into())), FaultClass::Operator);
    }
}
