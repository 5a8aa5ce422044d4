//! Every claim of the threat model has an id, a check, and tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

const DIRECTORY: &str = "threat-model";
/// Other documents that name tests.
const WITH_TESTS: [&str; 1] = ["docs/rfc9458.md"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    claim: Vec<Claim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    id: String,
    statement: String,
    check: String,
    /// `directory of the package::name of the test function`
    tests: Vec<String>,
}

/// Asserts it for the repository in the current directory.
///
/// # Errors
/// Everything that is wrong with the claims.
pub fn check() -> Result<()> {
    let path = Path::new(DIRECTORY).join("claims.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let claims: Claims = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    let mut tests = BTreeSet::new();
    sources(Path::new("."), &mut |path, text| {
        let package = path
            .components()
            .nth(1)
            .map(|part| part.as_os_str().to_string_lossy());
        if let Some(package) = package {
            tests.extend(tests_in(text).map(|name| format!("{package}::{name}")));
        }
    })?;
    crate::validation::check(&tests)?;
    let mut prose = BTreeMap::new();
    for entry in fs::read_dir(DIRECTORY)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            prose.insert(path.display().to_string(), fs::read_to_string(&path)?);
        }
    }
    let mut faults = faults(&claims, &tests, &prose);
    for document in WITH_TESTS {
        let text = fs::read_to_string(document).with_context(|| document.to_owned())?;
        faults.extend(missing_tests(document, &text, &tests));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n       "));
    }
    println!(
        "check-claims: {} claims, each with a test",
        claims.claim.len()
    );
    Ok(())
}

fn faults(
    claims: &Claims,
    tests: &BTreeSet<String>,
    prose: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let mut ids = BTreeSet::new();
    for Claim {
        id,
        statement,
        check,
        tests: named,
    } in &claims.claim
    {
        if !is_id(id) {
            faults.push(format!("{id} is no claim id: C-PART-…-NUMBER"));
        }
        if !ids.insert(id.as_str()) {
            faults.push(format!("{id} is there twice"));
        }
        if statement.is_empty() || check.is_empty() {
            faults.push(format!("{id} needs a statement and a check"));
        }
        if named.is_empty() {
            faults.push(format!("{id} has no test"));
        }
        for name in named.iter().filter(|name| !tests.contains(*name)) {
            faults.push(format!("{id}: there is no test {name}"));
        }
        if !prose
            .values()
            .any(|text| ids_in(text).any(|found| found == id))
        {
            faults.push(format!("{id} is mentioned in no document of {DIRECTORY}/"));
        }
    }
    for (path, text) in prose {
        for id in ids_in(text).filter(|id| !ids.contains(id)) {
            faults.push(format!("{path}: there is no claim {id}"));
        }
    }
    faults
}

/// Tests that a document names (`package::test`, as code) and that are not there.
fn missing_tests(document: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.contains("::") && !tests.contains(*code))
        .map(|code| format!("{document}: there is no test {code}"))
        .collect()
}

fn is_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_word = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    parts.len() >= 3
        && parts[0] == "C"
        && parts.iter().all(is_word)
        && parts
            .last()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn ids_in(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '-'))
        .map(|word| word.trim_end_matches('-'))
        .filter(|word| is_id(word))
}

/// Names of the functions that an attribute makes a test, and of scenarios that run on every
/// engine.
pub(crate) fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    let mut scenarios = false;
    source.lines().filter_map(move |line| {
        let line = line.trim();
        if scenarios {
            scenarios = line != "}";
            return scenarios.then_some(line);
        }
        scenarios = line == "on_every_engine! {";
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let signature = line
            .strip_prefix("async fn ")
            .or_else(|| line.strip_prefix("fn "))?;
        std::mem::take(&mut is_test).then_some(())?;
        signature.split(['(', '<']).next()
    })
}

pub(crate) fn sources(directory: &Path, visit: &mut impl FnMut(&Path, &str)) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        if kind.is_dir() && name != "target" && !name.as_encoded_bytes().starts_with(b".") {
            sources(&path, visit)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Claims {
        toml::from_str(text).unwrap()
    }

    fn one_claim(id: &str, tests: &str) -> Claims {
        claims(&format!(
            "[[claim]]\nid = '{id}'\nstatement = 's'\ncheck = 'c'\ntests = [{tests}]"
        ))
    }

    fn faults_of(claims: &Claims, prose: &str) -> Vec<String> {
        let tests = BTreeSet::from(["ds::nothing_is_lost".to_owned()]);
        faults(
            claims,
            &tests,
            &BTreeMap::from([("README.md".into(), prose.into())]),
        )
    }

    #[test]
    fn a_claim_with_a_test_and_a_mention_is_in_order() {
        let claims = one_claim("C-AT-REST-1", "'ds::nothing_is_lost'");
        assert_eq!(faults_of(&claims, "see C-AT-REST-1."), Vec::<String>::new());
    }

    #[test]
    fn a_claim_whose_test_is_missing_or_was_renamed_is_a_fault() {
        assert_eq!(
            faults_of(&one_claim("C-A-1", ""), "C-A-1"),
            ["C-A-1 has no test"]
        );
        let renamed = one_claim("C-A-1", "'ds::nothing_was_lost'");
        assert_eq!(
            faults_of(&renamed, "C-A-1"),
            ["C-A-1: there is no test ds::nothing_was_lost"]
        );
    }

    #[test]
    fn a_document_that_names_a_test_which_is_not_there_is_a_fault() {
        let tests = BTreeSet::from(["ds::nothing_is_lost".to_owned()]);
        let text = "`ds::nothing_is_lost`, `ds/tests` and `ds::all_is_lost`";
        assert_eq!(
            missing_tests("a.md", text, &tests),
            ["a.md: there is no test ds::all_is_lost"]
        );
    }

    #[test]
    fn a_claim_in_one_place_only_is_a_fault() {
        let claims = one_claim("C-A-1", "'ds::nothing_is_lost'");
        let found = faults_of(&claims, "`C-A-2`");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], "README.md: there is no claim C-A-2");
    }

    #[test]
    fn an_id_is_used_once_and_looks_like_one() {
        let twice = one_claim("C-A-1", "'ds::nothing_is_lost'");
        let twice = Claims {
            claim: twice
                .claim
                .into_iter()
                .chain(one_claim("C-A-1", "'ds::nothing_is_lost'").claim)
                .collect(),
        };
        assert_eq!(faults_of(&twice, "C-A-1"), ["C-A-1 is there twice"]);
        assert!(is_id("C-AT-REST-12") && !is_id("C-1") && !is_id("C-AT-REST") && !is_id("C-at-1"));
    }

    #[test]
    fn only_functions_with_a_test_attribute_are_tests() {
        let source = "
            #[test]
            fn one() {}
            fn helper() {}
            #[tokio::test(flavor = \"multi_thread\")]
            #[ignore]
            async fn two() {}
            // #[test]
            fn three() {}
            on_every_engine! {
                a_scenario
            }
            async fn a_scenario(service: Service) {}
        ";
        let found: Vec<_> = tests_in(source).collect();
        assert_eq!(found, ["one", "two", "a_scenario"]);
    }
}
