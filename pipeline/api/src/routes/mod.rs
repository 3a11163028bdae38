//! One file per route.

pub mod health;
pub mod metrics;
pub mod models;
pub mod result;
pub mod results;
pub mod search;
pub mod version;

mod search_body;

use crate::problem::Problem;
use serde::Serialize;

/// Most results or hits of one answer.
const LIMIT_MAX: i64 = 200;

fn json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(Problem::internal)
}

/// `limit`, if an answer may be that long.
fn accepted(limit: i64) -> Result<i64, Problem> {
    let fits = (1..=LIMIT_MAX).contains(&limit);
    fits.then_some(limit)
        .ok_or_else(|| Problem::query(format!("limit is {limit}; 1 to {LIMIT_MAX} are accepted")))
}
