//! Every rule of `docs/validation.md` names a test that violates it, and the test exists.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

const TABLE: &str = "docs/validation.md";

/// Asserts it, given all tests as `package::name`.
///
/// # Errors
/// Every rule that has no test.
pub(crate) fn check(tests: &BTreeSet<String>) -> Result<()> {
    let text = fs::read_to_string(TABLE).context(TABLE)?;
    let faults = faults(&text, tests);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n       "));
    }
    Ok(())
}

/// The rows of a table of rules: rule, where, tests.
fn faults(text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let names: BTreeSet<&str> = tests
        .iter()
        .filter_map(|test| test.split_once("::"))
        .map(|(_, name)| name)
        .collect();
    let mut faults = Vec::new();
    let mut rules = 0;
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [rule, place, named] = cells.as_slice() else {
            faults.push(format!("{TABLE}: not three cells: {row}"));
            continue;
        };
        if *rule == "Rule" || rule.starts_with("---") {
            continue;
        }
        rules += 1;
        let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        if place.is_empty() || named.is_empty() {
            faults.push(format!("{TABLE}: {rule}: no place or no test"));
        }
        for name in named.iter().filter(|name| !names.contains(*name)) {
            faults.push(format!("{TABLE}: {rule}: there is no test {name}"));
        }
    }
    if rules == 0 {
        faults.push(format!("{TABLE}: no rules"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(row: &str) -> usize {
        let tests = BTreeSet::from(["ds::it_is_refused".to_owned()]);
        faults(
            &format!("| Rule | Where | Test |\n|---|---|---|\n{row}"),
            &tests,
        )
        .len()
    }

    #[test]
    fn a_rule_with_a_place_and_a_test_is_in_order() {
        assert_eq!(faults_of("| a rule | `f` | `it_is_refused` |"), 0);
    }

    #[test]
    fn a_rule_without_a_test_or_with_one_that_is_gone_is_a_fault() {
        assert_eq!(faults_of("| a rule | `f` | |"), 1);
        assert_eq!(faults_of("| a rule | | `it_is_refused` |"), 1);
        assert_eq!(faults_of("| a rule | `f` | `it_was_refused` |"), 1);
        assert_eq!(faults_of("| a rule | `it_is_refused` |"), 2);
        assert_eq!(faults_of(""), 1);
    }
}
