//! Who may import whom.
//!
//! Trust is split between processes that different operators run; what a crate cannot link, its
//! process cannot do. The rules are asserted for each package from the edges that it and the
//! packages below it declare: a build of the whole workspace unifies features and would hide a
//! slip.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::modules;

/// What a package may import, directly or through others.
struct Rule {
    package: &'static str,
    /// Packages of this workspace.
    ours: Ours,
    /// Packages from elsewhere that must not be linked, at any depth.
    never: &'static [&'static str],
    reason: &'static str,
}

enum Ours {
    Only(&'static [&'static str]),
    Any,
}

const DECRYPTION_AND_STORES: &[&str] = &[
    "ohttp",
    "bhttp",
    "hpke",
    "hpke-rs",
    "openmls",
    "rocksdb",
    "rsa",
    "rusqlite",
    "tokio-postgres",
];
const TOKEN_SIGNING_AND_SQLITE: &[&str] =
    &["blind-rsa-signatures", "privacypass", "rsa", "rusqlite"];
/// The second implementation of what the gateway does, and what it must not know.
const CLIENTS_GROUPS_AND_STORES: &[&str] = &[
    "ohttp",
    "bhttp",
    "openmls",
    "rocksdb",
    "rsa",
    "rusqlite",
    "tokio-postgres",
];

const RULES: &[Rule] = &[
    Rule {
        package: "mimimi-basis",
        ours: Ours::Only(&[]),
        never: &["tokio", "serde", "http"],
        reason: "services and SDK share it: it brings nothing along",
    },
    Rule {
        package: "mimimi-protocol",
        ours: Ours::Only(&[]),
        never: &["tokio", "axum", "aws-lc-rs", "openmls"],
        reason: "wire types are read by every party: no cryptography, no I/O",
    },
    Rule {
        package: "mimimi-content",
        ours: Ours::Only(&[]),
        never: &["tokio", "axum", "aws-lc-rs", "openmls", "rusqlite"],
        reason: "what messages say is read without keys, groups or I/O",
    },
    Rule {
        package: "mimimi-crypto",
        ours: Ours::Only(&["mimimi-protocol"]),
        never: &["tokio", "axum"],
        reason: "an auditor reads it without a server around it",
    },
    Rule {
        package: "mimimi-mls-rules",
        ours: Ours::Only(&["mimimi-protocol", "mimimi-crypto"]),
        never: &["tokio", "axum", "rusqlite", "rocksdb"],
        reason: "service and members judge by it: it reads and writes nothing",
    },
    Rule {
        package: "service",
        ours: Ours::Only(&["mimimi-basis"]),
        never: DECRYPTION_AND_STORES,
        reason: "every binary links it, the relay too",
    },
    Rule {
        package: "ohttp-relay",
        ours: Ours::Only(&["mimimi-basis", "service"]),
        never: DECRYPTION_AND_STORES,
        reason: "its operator audits it in an afternoon, and it cannot link decryption code",
    },
    Rule {
        package: "mimimi-ohttp",
        ours: Ours::Only(&[]),
        never: &[
            "tokio", "axum", "hyper", "reqwest", "futures", "ohttp", "bhttp", "openmls",
        ],
        reason: "client and gateway share it: no I/O, and nothing of the crates that it is held against in tests",
    },
    Rule {
        package: "ohttp-gateway",
        ours: Ours::Only(&["mimimi-basis", "mimimi-protocol", "service", "mimimi-ohttp"]),
        never: CLIENTS_GROUPS_AND_STORES,
        reason: "it opens requests, but never what they carry",
    },
    Rule {
        package: "privacy-pass-issuer",
        ours: Ours::Only(&["mimimi-basis", "mimimi-protocol", "service"]),
        never: &[
            "ohttp",
            "bhttp",
            "openmls",
            "rusqlite",
            "tokio-postgres",
            // Signs in constant time (RUSTSEC-2023-0071).
            "rsa",
            "blind-rsa-signatures",
        ],
        reason: "it knows accounts, so it must know nothing of what they do; it signs with AWS-LC alone",
    },
    Rule {
        package: "push-sender",
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-protocol",
            "mimimi-crypto",
            "service",
        ]),
        never: &[
            "ohttp",
            "bhttp",
            "openmls",
            "rocksdb",
            "tokio-postgres",
            "reqwest",
        ],
        reason: "it knows devices, so it must know nothing of groups; it asks nobody but push services",
    },
    Rule {
        package: "ds-domain",
        ours: Ours::Only(&["mimimi-protocol", "mimimi-crypto", "mimimi-mls-rules"]),
        never: &[
            "tokio",
            "axum",
            "hyper",
            "http",
            "reqwest",
            "rocksdb",
            "tokio-postgres",
            "metrics",
            "tracing",
        ],
        reason: "decisions are pure: no runtime, no HTTP, no engine",
    },
    Rule {
        package: "ds-store-rocks",
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-protocol",
            "mimimi-crypto",
            "mimimi-mls-rules",
            "ds-domain",
            "service",
        ]),
        never: &["tokio-postgres"],
        reason: "an engine knows keys and bytes",
    },
    Rule {
        package: "ds-store-blobs",
        ours: Ours::Only(&[
            "mimimi-protocol",
            "mimimi-crypto",
            "mimimi-mls-rules",
            "ds-domain",
        ]),
        never: &["rocksdb", "tokio-postgres", "axum"],
        reason: "it keeps bytes under names that say nothing",
    },
    Rule {
        package: "ds-store-postgres",
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-protocol",
            "mimimi-crypto",
            "mimimi-mls-rules",
            "ds-domain",
            "service",
        ]),
        never: &["rocksdb"],
        reason: "an engine knows keys and bytes",
    },
    Rule {
        package: "ds-server",
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-protocol",
            "mimimi-crypto",
            "mimimi-mls-rules",
            "ds-domain",
            "ds-store-blobs",
            "ds-store-postgres",
            "ds-store-rocks",
            "service",
        ]),
        never: TOKEN_SIGNING_AND_SQLITE,
        reason: "it verifies tokens with the issuer's public key and cannot mint",
    },
    Rule {
        package: "mimimi-client",
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-content",
            "mimimi-protocol",
            "mimimi-crypto",
            "service",
            "mimimi-ohttp",
            "mimimi-mls-rules",
        ]),
        never: &["rocksdb", "tokio-postgres", "ohttp"],
        reason: "it runs on the user's device and holds no service's code, and of OHTTP only ours",
    },
    Rule {
        package: "mimimi",
        // Through the SDK's public interface, as everybody who builds on it.
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-client",
            "mimimi-content",
            "mimimi-protocol",
            "mimimi-crypto",
            "service",
            "mimimi-ohttp",
            "mimimi-mls-rules",
        ]),
        never: &["rocksdb", "tokio-postgres", "ohttp"],
        reason: "it runs on the user's device and holds no service's code, and of OHTTP only ours",
    },
    Rule {
        package: "mimimi-bindings",
        // Through the SDK's public interface, as everybody who builds on it.
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-client",
            "mimimi-content",
            "mimimi-protocol",
            "mimimi-crypto",
            "service",
            "mimimi-ohttp",
            "mimimi-mls-rules",
        ]),
        never: &["rocksdb", "tokio-postgres", "ohttp", "uniffi_bindgen"],
        reason: "it is the SDK in other languages, and nothing of what writes their side",
    },
    Rule {
        package: "mimimi-web-sdk",
        // Through the SDK's public interface, as everybody who builds on it.
        ours: Ours::Only(&[
            "mimimi-basis",
            "mimimi-client",
            "mimimi-content",
            "mimimi-protocol",
            "mimimi-crypto",
            "mimimi-ohttp",
            "mimimi-mls-rules",
        ]),
        never: &["rocksdb", "tokio-postgres"],
        reason: "it is the SDK in browsers, and nothing of the services",
    },
    Rule {
        package: "mimimi-bindgen",
        ours: Ours::Only(&[]),
        never: &["tokio"],
        reason: "it reads a library's metadata, and links nothing of the library",
    },
    Rule {
        package: "end-to-end",
        ours: Ours::Any,
        never: &[],
        reason: "it is the only place where everything meets",
    },
    Rule {
        package: "presentation",
        ours: Ours::Only(&[]),
        never: &["tls_codec"],
        reason: "codecs are held against it: it must know nothing of them",
    },
    Rule {
        package: "xtask",
        ours: Ours::Only(&[]),
        never: &[],
        reason: "what is checked must not be what checks",
    },
];

/// The edges between packages by name: what each needs to be built and run, tests left out.
#[derive(Default)]
struct Graph {
    ours: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    #[serde(default)]
    manifest_path: String,
    dependencies: Vec<Declared>,
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Declared {
    name: String,
    rename: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    optional: bool,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
    /// Those that are enabled.
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    kind: Option<String>,
}

/// Asserts [`RULES`] on the workspace around the current directory, that no modules of a package
/// need each other, and that rooms stand one on the other.
///
/// # Errors
/// Every slip, with the way it came in.
pub fn check() -> Result<()> {
    let metadata = Metadata::of_workspace()?;
    let graph = Graph::new(&metadata);
    let mut slips = slips(&graph, RULES);
    slips.extend(modules::slips(&metadata.directories_of_ours())?);
    if !slips.is_empty() {
        bail!("{}", slips.join("\n       "));
    }
    println!(
        "check-deps: {} packages keep to their rules, and their modules form no circles",
        graph.ours.len()
    );
    Ok(())
}

impl Metadata {
    fn of_workspace() -> Result<Self> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked"])
            // What only other systems need is not fetched for this.
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("cargo metadata cannot be run")?;
        if !output.status.success() {
            bail!("cargo metadata failed");
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata is not as expected")
    }

    fn directories_of_ours(&self) -> BTreeMap<String, PathBuf> {
        let ours = self
            .packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id));
        ours.filter_map(|package| {
            let directory = Path::new(&package.manifest_path).parent()?;
            Some((package.name.clone(), directory.to_owned()))
        })
        .collect()
    }
}

impl Graph {
    fn new(metadata: &Metadata) -> Self {
        let names: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let name = |id: &str| names.get(id).copied().unwrap_or(id).to_owned();
        let mut graph = Self {
            ours: metadata
                .workspace_members
                .iter()
                .map(|id| name(id))
                .collect(),
            edges: BTreeMap::new(),
        };
        let packages: BTreeMap<&str, &Package> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package))
            .collect();
        for node in &metadata.resolve.nodes {
            for dep in &node.deps {
                let mut kinds = dep.dep_kinds.iter();
                let is_on = packages
                    .get(node.id.as_str())
                    .is_none_or(|package| package.switches_on(&name(&dep.pkg), &node.features));
                if is_on && kinds.any(|kind| is_linked(kind.kind.as_deref())) {
                    graph.add(&name(&node.id), &name(&dep.pkg));
                }
            }
        }
        // Also what is declared but optional and switched off: the next feature would link it.
        for package in metadata
            .packages
            .iter()
            .filter(|package| graph.ours.contains(&package.name))
            .collect::<Vec<_>>()
        {
            for declared in &package.dependencies {
                if is_linked(declared.kind.as_deref()) {
                    graph.add(&package.name, &declared.name);
                }
            }
        }
        graph
    }

    fn add(&mut self, from: &str, to: &str) {
        self.edges
            .entry(from.to_owned())
            .or_default()
            .insert(to.to_owned());
    }

    /// Everything below `package`, each with the package that brought it in.
    fn below<'a>(&'a self, package: &'a str) -> BTreeMap<&'a str, &'a str> {
        let mut found = BTreeMap::new();
        let mut open = vec![package];
        while let Some(importer) = open.pop() {
            for imported in self.edges.get(importer).into_iter().flatten() {
                if imported != package && !found.contains_key(imported.as_str()) {
                    found.insert(imported.as_str(), importer);
                    open.push(imported);
                }
            }
        }
        found
    }
}

impl Package {
    /// Whether the package builds with this dependency. Cargo's list also has optional ones that a
    /// weak feature (`dependency?/feature`) names, which switches nothing on.
    fn switches_on(&self, dependency: &str, enabled: &[String]) -> bool {
        let mut declared = self
            .dependencies
            .iter()
            .filter(|declared| declared.name == dependency && is_linked(declared.kind.as_deref()))
            .peekable();
        declared.peek().is_none()
            || declared.any(|declared| {
                let key = declared.rename.as_ref().unwrap_or(&declared.name);
                let names = |value: &String| {
                    value.strip_prefix("dep:") == Some(key)
                        || value.split_once('/').is_some_and(|(name, _)| name == key)
                };
                !declared.optional
                    || enabled
                        .iter()
                        .filter_map(|feature| self.features.get(feature))
                        .flatten()
                        .any(names)
            })
    }
}

/// Whether a dependency of this kind ends up in the program: tests' dependencies don't.
fn is_linked(kind: Option<&str>) -> bool {
    kind != Some("dev")
}

fn slips(graph: &Graph, rules: &[Rule]) -> Vec<String> {
    let mut slips = Vec::new();
    for package in &graph.ours {
        let Some(rule) = rules.iter().find(|rule| rule.package == package) else {
            slips.push(format!(
                "{package} has no rule: say in xtask/src/deps.rs what it may import"
            ));
            continue;
        };
        let below = graph.below(package);
        for (&imported, importer) in &below {
            let allowed = match rule.ours {
                Ours::Any => true,
                Ours::Only(ours) => !graph.ours.contains(imported) || ours.contains(&imported),
            };
            if !allowed || rule.never.contains(&imported) {
                slips.push(format!(
                    "{package} must not import {imported} (which {importer} brings in): {}",
                    rule.reason
                ));
            }
        }
    }
    for rule in rules {
        if !graph.ours.contains(rule.package) {
            slips.push(format!(
                "there is a rule for {}, which is no package",
                rule.package
            ));
        }
    }
    slips
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn this_workspace_keeps_to_the_rules() {
        let graph = Graph::new(&Metadata::of_workspace().unwrap());
        assert_eq!(slips(&graph, RULES), Vec::<String>::new());
    }

    #[test]
    fn a_runtime_or_an_engine_planted_in_the_domain_is_a_slip() {
        for planted in ["axum", "tokio", "rocksdb", "ds-server", "ds-store-rocks"] {
            let mut graph = Graph::new(&Metadata::of_workspace().unwrap());
            graph.add("ds-domain", planted);
            let found = slips(&graph, RULES);
            let domains = |slip: &String| slip.starts_with("ds-domain must not import");
            assert!(found.iter().any(domains), "{planted}: {found:?}");
        }
    }

    const TWO_RULES: &[Rule] = &[
        Rule {
            package: "relay",
            ours: Ours::Only(&["kit"]),
            never: &["cipher"],
            reason: "it only forwards",
        },
        Rule {
            package: "kit",
            ours: Ours::Only(&[]),
            never: &[],
            reason: "all link it",
        },
    ];

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph {
            ours: ["relay".to_owned(), "kit".to_owned()].into(),
            ..Graph::default()
        };
        for (from, to) in edges {
            graph.add(from, to);
        }
        graph
    }

    #[test]
    fn what_the_rules_allow_is_no_slip() {
        let edges = [("relay", "kit"), ("kit", "log"), ("relay", "log")];
        assert_eq!(slips(&graph(&edges), TWO_RULES), Vec::<String>::new());
    }

    #[test]
    fn an_import_that_is_not_allowed_is_a_slip() {
        let found = slips(&graph(&[("kit", "relay")]), TWO_RULES);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("kit must not import relay"));
    }

    #[test]
    fn a_forbidden_package_is_found_at_any_depth_and_its_importer_named() {
        let edges = [("relay", "kit"), ("kit", "log"), ("log", "cipher")];
        let found = slips(&graph(&edges), TWO_RULES);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("relay must not import cipher (which log brings in)"));
    }

    #[test]
    fn a_package_without_a_rule_and_a_rule_without_a_package_are_slips() {
        let mut graph = graph(&[]);
        graph.ours = ["relay".to_owned(), "new".to_owned()].into();
        let found = slips(&graph, TWO_RULES);
        assert!(found.iter().any(|slip| slip.starts_with("new has no rule")));
        assert!(found.iter().any(|slip| slip.contains("rule for kit")));
    }

    #[test]
    fn cycles_end() {
        let edges = [("relay", "a"), ("a", "b"), ("b", "a"), ("b", "relay")];
        assert_eq!(graph(&edges).below("relay").len(), 2);
    }

    fn metadata(kinds: &Value, declared: &Value) -> Graph {
        let document = json!({
            "workspace_members": ["relay-id", "kit-id"],
            "packages": [
                {"id": "relay-id", "name": "relay", "dependencies": declared},
                {"id": "kit-id", "name": "kit", "dependencies": []},
                {"id": "cipher-id", "name": "cipher", "dependencies": []},
            ],
            "resolve": {"nodes": [
                {"id": "relay-id", "deps": [{"pkg": "cipher-id", "dep_kinds": kinds}]},
            ]},
        });
        Graph::new(&serde_json::from_value(document).unwrap())
    }

    #[test]
    fn what_only_tests_need_is_not_linked() {
        let graph = metadata(
            &json!([{"kind": "dev"}]),
            &json!([{"name": "cipher", "kind": "dev"}]),
        );
        assert_eq!(slips(&graph, TWO_RULES), Vec::<String>::new());
    }

    #[test]
    fn what_is_linked_besides_being_tested_with_is_a_slip() {
        let graph = metadata(&json!([{"kind": "dev"}, {"kind": null}]), &json!([]));
        assert_eq!(slips(&graph, TWO_RULES).len(), 1);
    }

    /// Of a library that the relay links and that has an optional cipher, with this feature
    /// enabled.
    fn with_feature(values: &[&str]) -> Graph {
        let document = json!({
            "workspace_members": ["relay-id", "kit-id"],
            "packages": [
                {"id": "relay-id", "name": "relay", "dependencies": [{"name": "library", "kind": null}]},
                {"id": "kit-id", "name": "kit", "dependencies": []},
                {
                    "id": "library-id", "name": "library", "features": {"on": values},
                    "dependencies": [{"name": "cipher", "kind": null, "optional": true}],
                },
                {"id": "cipher-id", "name": "cipher", "dependencies": []},
            ],
            "resolve": {"nodes": [
                {"id": "relay-id", "deps": [{"pkg": "library-id", "dep_kinds": [{"kind": null}]}]},
                {
                    "id": "library-id", "features": ["on"],
                    "deps": [{"pkg": "cipher-id", "dep_kinds": [{"kind": null}]}],
                },
            ]},
        });
        Graph::new(&serde_json::from_value(document).unwrap())
    }

    #[test]
    fn what_a_library_links_by_a_feature_is_a_slip() {
        for values in [["dep:cipher"], ["cipher/fast"]] {
            assert_eq!(
                slips(&with_feature(&values), TWO_RULES).len(),
                1,
                "{values:?}"
            );
        }
    }

    #[test]
    fn what_a_weak_feature_names_is_not_linked() {
        let graph = with_feature(&["cipher?/fast"]);
        assert_eq!(slips(&graph, TWO_RULES), Vec::<String>::new());
    }

    #[test]
    fn what_is_declared_but_switched_off_is_a_slip() {
        let declared = json!([{"name": "cipher", "kind": null, "optional": true}]);
        let graph = metadata(&json!([]), &declared);
        assert_eq!(slips(&graph, TWO_RULES).len(), 1);
    }
}
