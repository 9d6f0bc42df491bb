//! What `cargo metadata` knows about this workspace, as far as the tasks need it: folders,
//! packages, their targets and features, and on request the resolved dependency graph.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::shell;

/// The one crate that links libtorch.
pub(crate) const WORKER: &str = "consilium-worker";
/// The measurements.
pub(crate) const BENCHES: &str = "consilium-benches";

/// The packages whose binaries make up the product, in the order they are built.
pub(crate) const PROGRAMS: [&str; 3] = ["consilium-coordinator", "consilium-agent", WORKER];

/// The workspace without its dependencies: quick, and enough for every task but `lint`.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    /// The packages of the workspace.
    pub(crate) packages: Vec<Package>,
}

/// One package, of the workspace or from a registry.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Cargo's own name for package, version and source together.
    pub(crate) id: String,
    /// As in Cargo.toml.
    pub(crate) name: String,
    /// As in Cargo.toml.
    pub(crate) version: String,
    /// Libraries, binaries, tests, benches.
    pub(crate) targets: Vec<Target>,
    /// Features and what each turns on.
    pub(crate) features: BTreeMap<String, Vec<String>>,
}

/// One thing that cargo can build in a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// As in Cargo.toml, or the file's name.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `bench`, …
    pub(crate) kind: Vec<String>,
}

/// The workspace with everything it depends on, all features on.
#[derive(Debug, Deserialize)]
pub(crate) struct Graph {
    /// Every package in it.
    pub(crate) packages: Vec<Package>,
    /// The ids of the workspace's own.
    pub(crate) workspace_members: Vec<String>,
    /// Who depends on whom.
    pub(crate) resolve: Resolve,
}

/// The edges of a [`Graph`].
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    /// One for each package.
    pub(crate) nodes: Vec<Node>,
}

/// A package's own edges.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    /// The package.
    pub(crate) id: String,
    /// What it depends on.
    pub(crate) deps: Vec<Edge>,
}

/// One dependency.
#[derive(Debug, Deserialize)]
pub(crate) struct Edge {
    /// The id of the package depended on.
    pub(crate) pkg: String,
    /// Why: an edge can be for the code, for its tests and for its build at once.
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

/// What an edge is for.
#[derive(Debug, Deserialize)]
pub(crate) struct EdgeKind {
    /// `None` for the code itself, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Workspace {
    /// Ask cargo, from the current folder.
    ///
    /// # Errors
    /// When cargo fails or answers something unknown.
    pub(crate) fn load() -> Result<Self> {
        let mut metadata = shell::cargo();
        metadata.args(["metadata", "--format-version", "1", "--no-deps"]);
        serde_json::from_str(&shell::read(&mut metadata)?).context("reading `cargo metadata`")
    }

    /// The folder of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.workspace_root
    }

    /// A cargo command that runs in the root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> std::process::Command {
        let mut cargo = shell::cargo();
        cargo.current_dir(&self.workspace_root).args(arguments);
        cargo
    }

    /// Where cargo puts the binaries of `profile` (`debug` or `release`).
    pub(crate) fn binaries(&self, profile: &str) -> PathBuf {
        self.target_directory.join(profile)
    }

    /// The package of that name, if the workspace has it.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// `package/failpoints` for every package that has this feature: code for the kill tests,
    /// compiled into tests only.
    pub(crate) fn failpoints(&self) -> Vec<String> {
        let with = self.packages.iter().filter(|p| p.features.contains_key("failpoints"));
        with.map(|package| format!("{}/failpoints", package.name)).collect()
    }

    /// Everything that the workspace depends on, resolved, all features on: an optional
    /// dependency counts.
    ///
    /// # Errors
    /// When cargo fails or answers something unknown.
    pub(crate) fn graph(&self) -> Result<Graph> {
        let mut metadata = self.cargo(&["metadata", "--format-version", "1", "--all-features"]);
        metadata.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
        serde_json::from_str(&shell::read(&mut metadata)?).context("reading `cargo metadata`")
    }
}

impl Target {
    /// Whether this is a target of that kind (`lib`, `bin`, …).
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|k| k == kind)
    }
}
