//! Who may depend on whom, proved on the graph that cargo resolved with all features on: libtorch
//! is in the worker alone, and the crates of the workspace import downwards only.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Result, bail};

use crate::workspace::{Graph, Node, Package, WORKER};

/// The crate that links libtorch.
const TORCH: &str = "torch-sys";

/// Each crate of the workspace and the ones of the workspace that it may name in its Cargo.toml.
const DIRECTIONS: [(&str, &[&str]); 9] = [
    ("consilium-common", &[]),
    ("consilium-io", &["consilium-common"]),
    ("consilium-certs", &["consilium-common", "consilium-io"]),
    ("consilium-coordinator", &["consilium-common", "consilium-io", "consilium-certs"]),
    ("consilium-agent", &["consilium-common", "consilium-io", "consilium-certs"]),
    (WORKER, &["consilium-common", "consilium-io"]),
    ("consilium-tests", LIBRARIES),
    ("consilium-benches", LIBRARIES),
    ("xtask", &[]),
];

/// What tests and benches may use: everything that needs no libtorch.
const LIBRARIES: &[&str] = &[
    "consilium-common",
    "consilium-io",
    "consilium-certs",
    "consilium-coordinator",
    "consilium-agent",
];

/// Check both rules.
///
/// # Returns
/// A line for each crate that was proved free of libtorch, with the size of its graph.
///
/// # Errors
/// Names the crate, the rule, and for libtorch the way by which it came in.
pub(crate) fn prove(graph: &Graph) -> Result<Vec<String>> {
    let view = View::new(graph);
    let mut proof = Vec::new();
    let mut broken = Vec::new();
    for member in &graph.workspace_members {
        let name = view.name(member);
        broken.extend(view.wrong_directions(member));
        let reached = view.reach(member);
        match (name == WORKER, view.way_to_torch(&reached)) {
            (true, Some(_)) => proof.push(format!("{name}: {TORCH}, as it should")),
            (true, None) => broken.push(format!(
                "{name} does not reach {TORCH}: this proof would hold for anything; has the crate \
                 that links libtorch another name now?"
            )),
            (false, None) => {
                proof.push(format!("{name}: no {TORCH} in {} packages", reached.len()));
            }
            (false, Some(way)) => broken.push(format!(
                "{name} reaches {TORCH} by {}: only {WORKER} may; the daemon starts the worker as \
                 a process and the coordinator never needs tensors",
                way.join(" → ")
            )),
        }
    }
    if !broken.is_empty() {
        bail!("the dependency graph breaks {} rule(s):\n  {}", broken.len(), broken.join("\n  "));
    }
    Ok(proof)
}

/// The graph, indexed by package id.
struct View<'a> {
    nodes: BTreeMap<&'a str, &'a Node>,
    packages: BTreeMap<&'a str, &'a Package>,
    members: Vec<&'a str>,
}

impl<'a> View<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self {
            nodes: graph.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect(),
            packages: graph.packages.iter().map(|p| (p.id.as_str(), p)).collect(),
            members: graph.workspace_members.iter().map(String::as_str).collect(),
        }
    }

    fn name(&self, id: &'a str) -> &'a str {
        self.packages.get(id).map_or(id, |package| &package.name)
    }

    /// Everything that is linked into `start`, its tests or its build: package → who asked for it.
    /// A test dependency of `start` counts, one of a dependency does not (cargo leaves it out).
    fn reach(&self, start: &'a str) -> BTreeMap<&'a str, &'a str> {
        let mut asked_by = BTreeMap::from([(start, start)]);
        let mut queue = VecDeque::from([start]);
        while let Some(id) = queue.pop_front() {
            let edges = self.nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
            for edge in edges {
                let linked = |kind: Option<&str>| id == start || kind != Some("dev");
                let counts = edge.dep_kinds.iter().any(|kind| linked(kind.kind.as_deref()));
                if counts && !asked_by.contains_key(edge.pkg.as_str()) {
                    asked_by.insert(&edge.pkg, id);
                    queue.push_back(&edge.pkg);
                }
            }
        }
        asked_by
    }

    /// The names from the start of `reached` to libtorch, if it is in there.
    fn way_to_torch(&self, reached: &BTreeMap<&'a str, &'a str>) -> Option<Vec<&'a str>> {
        let mut id = *reached.keys().find(|id| self.name(id) == TORCH)?;
        let mut way = vec![self.name(id)];
        while let Some(&by) = reached.get(id).filter(|&&by| by != id) {
            way.push(self.name(by));
            id = by;
        }
        way.reverse();
        Some(way)
    }

    /// A sentence for each crate of the workspace that `member` names against the rules.
    fn wrong_directions(&self, member: &'a str) -> Vec<String> {
        let name = self.name(member);
        let Some(&(_, allowed)) = DIRECTIONS.iter().find(|(crate_name, _)| *crate_name == name)
        else {
            return vec![format!(
                "{name} is new: say in deploy/xtask/src/graph.rs what it may use"
            )];
        };
        let edges = self.nodes.get(member).map(|node| node.deps.as_slice()).unwrap_or_default();
        edges
            .iter()
            .filter(|edge| self.members.contains(&edge.pkg.as_str()))
            .map(|edge| self.name(&edge.pkg))
            .filter(|used| !allowed.contains(used))
            .map(|used| format!("{name} depends on {used}: imports point downwards only"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph from `from -kind> to` lines; names starting with `consilium` are members.
    fn graph(edges: &[(&str, &str, &str)]) -> Graph {
        let mut names: Vec<&str> = edges.iter().flat_map(|&(from, _, to)| [from, to]).collect();
        names.sort_unstable();
        names.dedup();
        let package = |name: &&str| serde_json::json!({"id": name, "name": name, "version": "1.0.0", "targets": [], "features": {}});
        let node = |name: &&str| {
            let own = edges.iter().filter(|(from, _, _)| from == name);
            let deps: Vec<_> = own
                .map(|(_, kind, to)| {
                    let kind = (!kind.is_empty()).then_some(kind);
                    serde_json::json!({"pkg": to, "dep_kinds": [{"kind": kind}]})
                })
                .collect();
            serde_json::json!({"id": name, "deps": deps})
        };
        let members: Vec<_> = names.iter().filter(|n| n.starts_with("consilium")).collect();
        serde_json::from_value(serde_json::json!({
            "packages": names.iter().map(package).collect::<Vec<_>>(),
            "workspace_members": members,
            "resolve": {"nodes": names.iter().map(node).collect::<Vec<_>>()},
        }))
        .unwrap()
    }

    const WORKER_LINKS_TORCH: [(&str, &str, &str); 2] =
        [(WORKER, "", "tch"), ("tch", "", "torch-sys")];

    fn broken_by(more: &[(&str, &str, &str)]) -> String {
        let edges: Vec<_> = WORKER_LINKS_TORCH.iter().chain(more).copied().collect();
        prove(&graph(&edges)).unwrap_err().to_string()
    }

    #[test]
    fn the_worker_alone_may_link_libtorch() {
        let edges = [WORKER_LINKS_TORCH.as_slice(), &[("consilium-agent", "", "serde")]].concat();
        let proof = prove(&graph(&edges)).unwrap();
        assert_eq!(
            proof,
            [
                "consilium-agent: no torch-sys in 2 packages",
                "consilium-worker: torch-sys, as it should"
            ]
        );
    }

    #[test]
    fn libtorch_by_a_detour_is_found_and_the_detour_named() {
        let error = broken_by(&[("consilium-agent", "", "helper"), ("helper", "build", "tch")]);
        assert!(error.contains("by consilium-agent → helper → tch → torch-sys"), "{error}");
    }

    #[test]
    fn a_test_dependency_counts_for_its_own_crate_only() {
        let error = broken_by(&[("consilium-agent", "dev", "tch")]);
        assert!(error.contains("consilium-agent reaches torch-sys"), "{error}");
        let edges = [
            WORKER_LINKS_TORCH.as_slice(),
            &[("consilium-agent", "", "helper"), ("helper", "dev", "tch")],
        ];
        prove(&graph(&edges.concat())).unwrap();
    }

    #[test]
    fn an_import_upwards_is_refused() {
        let error = broken_by(&[("consilium-common", "", "consilium-io")]);
        assert!(error.contains("consilium-common depends on consilium-io"), "{error}");
    }

    #[test]
    fn a_proof_about_nothing_is_no_proof() {
        let error = prove(&graph(&[(WORKER, "", "serde")])).unwrap_err().to_string();
        assert!(error.contains("does not reach torch-sys"), "{error}");
    }
}
