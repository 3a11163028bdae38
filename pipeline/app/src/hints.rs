//! What an operator should do about a rejection code: the last column of `docs/rejections.md`, which is the list of codes. It is compiled
//! in, so that the page and the command line cannot disagree.

const PAGE: &str = include_str!("../../../docs/rejections.md");

/// The hint for a code; none for one that the page does not have.
pub fn hint(code: &str) -> Option<&'static str> {
    rows().find(|(codes, _)| codes.contains(&code)).map(|(_, hint)| hint)
}

/// Codes of a row of the table, and what to do about them.
fn rows() -> impl Iterator<Item = (Vec<&'static str>, &'static str)> {
    PAGE.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let codes: Vec<&str> = cells.first()?.split('`').skip(1).step_by(2).collect();
        let hint = cells.get(3)?;
        (!codes.is_empty()).then_some((codes, *hint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_page_has_codes_and_a_hint() {
        let table = PAGE.lines().filter(|line| line.starts_with("| `")).count();
        assert!(table > 15, "{table} rows");
        assert_eq!(rows().count(), table);
        for (codes, hint) in rows() {
            assert!(hint.len() > 3 && codes.iter().all(|c| c.contains('.')), "{codes:?}: {hint}");
        }
        assert_eq!(hint("limit.pixels"), hint("limit.bytes"));
        assert_eq!(hint("nobody.knows"), None);
    }
}
