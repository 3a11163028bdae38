//! The store: everything that Spawn knows lies in PostgreSQL, and all SQL of the product lies here.
//!
//! The guarantee that this crate gives: per partition every record has exactly one ledger row, and that row, its result or dead letter,
//! its vectors and the checkpoint become visible in one transaction, written by the partition's owner only. How it is kept:
//!
//! - A *claim* raises the partition's epoch and stores a random token. Records carry both, so that a writer that lost the partition -
//!   a zombie - is recognised whenever it wakes up.
//! - A *write* is one call of a function in the database: all bytes travel with its parameters, then it locks the checkpoints, compares
//!   claim and position in a later statement, inserts, and commits as it ends. A client that is frozen or gone holds no lock.
//! - A write whose answer was lost is repeated with the same batch: the position tells that it was written.
//!
//! # Layout
//!
//! - [`mod@migrate`]: the schema, and whether this server can hold it
//! - [`mod@identity`]: who a pipeline is, and the hash that keeps two models from mixing
//! - [`mod@sink`]: [`PgSink`], the line's end; its steps are `claim`, `check`, `rows`, `write`, `bisect`
//! - `known`: what was made of contents before
//! - [`mod@redrive`]: [`Redrive`], deferred records that are tried again outside the line
//! - [`mod@pause`]: pipelines that stand still
//! - [`mod@store`]: [`Store`], the reading side; `results`, `search`, `rejections`, `audit`, `index` add to it
//! - [`mod@decisions`]: what an operator writes off
//! - [`mod@letters`], [`mod@replay`], [`mod@relay`]: dead letters found, sent back or purged, and on their way to a topic
//! - [`mod@coverage`]: the ledger's offsets, to be compared with Kafka's; [`mod@delete`]: what a key has left
//! - [`mod@inspect`]: what is asked before a start
//! - [`mod@errors`]: which fault a driver's error is

mod bisect;
mod check;
mod claim;
mod connect;
mod deaths;
mod known;
mod rows;
mod telemetry;
mod trial;
mod write;

pub mod audit;
pub mod audit_report;
pub mod coverage;
pub mod decisions;
pub mod delete;
pub mod errors;
pub mod identity;
pub mod index;
pub mod inspect;
pub mod letters;
pub mod migrate;
pub mod pause;
pub mod redrive;
pub mod rejections;
pub mod relay;
pub mod replay;
pub mod results;
pub mod search;
pub mod sink;
pub mod store;

#[cfg(test)]
mod tests;

pub use audit_report::{AuditReport, AuditScope, Difference, Gap, PartitionAudit};
pub use claim::PATIENCE as CLAIM_PATIENCE;
pub use coverage::{Coverage, Portion, Unread};
pub use decisions::{Adopted, Reading, WrittenOff};
pub use delete::Deleted;
pub use errors::StoreError;
pub use identity::PipelineIdentity;
pub use index::Indexed;
pub use inspect::{StoredSource, pooled};
pub use known::index_contents;
pub use letters::{GroupBy, Letter, LetterCounts, LetterGroup, LetterName, Wanted};
pub use migrate::{migrate, pending};
pub use pause::PipelineRow;
pub use redrive::{Deferral, Deferred, Redrive, Waiting};
pub use rejections::{DeadLetter, RejectionPage, RejectionRow};
pub use relay::{LETTERS_RELAY, RelayLimits};
pub use replay::Purge;
pub use results::{LabelRow, OriginRow, ResultFilter, ResultPage, ResultRow};
pub use search::{Found, Hit, Narrow, SearchFilter, as_stored};
pub use sink::PgSink;
pub use store::{Generation, OutcomeCounts, Store, Versions};
