//! The tarball that a hospital installs: `tar -C /usr --strip-components=1 -xf …` puts programs,
//! units, documents and libtorch where the units and the programs' rpath look for them.
//!
//! ```text
//! consilium-VERSION-x86_64-linux/
//!   bin/                        consilium, consilium-agent, consilium-worker
//!   lib/consilium-agent/        torch/lib, beside it what it loads itself, and their licences
//!   lib/systemd/system/         the units
//!   share/doc/consilium/        documents, LICENSE, SHA256SUMS over all of the above
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{PROGRAMS, Workspace};
use crate::{libtorch, shell};

/// Build in release, lay the files out under dist/, pack them and write dist/SHA256SUMS.
///
/// # Errors
/// When the build, a copy or tar fails, or LICENSE or a program is missing.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    libtorch::ensure(workspace)?;
    let packages = PROGRAMS.iter().flat_map(|name| ["-p", name]);
    shell::run(workspace.cargo(&["build", "--release", "--locked"]).args(packages))?;

    let dist = workspace.root().join("dist");
    let name = format!("consilium-{}-x86_64-linux", version(workspace)?);
    let stage = dist.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("clearing {}", stage.display()))?;
    }
    programs(workspace, &stage.join("bin"))?;
    torch(&libtorch::folder(workspace), &stage.join("lib/consilium-agent"))?;
    let root = workspace.root();
    copy(&files(&root.join("deploy/systemd"), "service")?, &stage.join("lib/systemd/system"))?;
    let documents = stage.join("share/doc/consilium");
    copy(&files(root, "md")?, &documents)?;
    copy(&[root.join("LICENSE")], &documents)?;
    checksums(&stage, "share/doc/consilium/SHA256SUMS")?;
    pack(workspace, &dist, &name)?;
    eprintln!("dist: {}", dist.join(format!("{name}.tar.gz")).display());
    Ok(())
}

fn version(workspace: &Workspace) -> Result<&str> {
    let coordinator = workspace.package("consilium-coordinator");
    Ok(&coordinator.context("no package consilium-coordinator")?.version)
}

fn programs(workspace: &Workspace, to: &Path) -> Result<()> {
    let binaries = workspace.binaries("release");
    for package in PROGRAMS {
        let package =
            workspace.package(package).with_context(|| format!("no package {package}"))?;
        let names = package.targets.iter().filter(|target| target.is("bin"));
        let built: Vec<PathBuf> = names.map(|target| binaries.join(&target.name)).collect();
        copy(&built, to)?;
    }
    Ok(())
}

/// libtorch's libraries, without headers. They find each other by relative paths that lead out of
/// `torch/lib` into `nvidia`, its neighbour in the wheels' layout.
fn torch(from: &Path, to: &Path) -> Result<()> {
    copy(&[from.join("lib")], &to.join("torch"))?;
    let around = from.parent().context("LIBTORCH is the root folder")?;
    let mut beside = files(around, "dist-info")?;
    beside.extend(Some(around.join("nvidia")).filter(|folder| folder.is_dir()));
    copy(&beside, to)
}

/// What lies in `folder` under a name with that extension, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Files and folders, links kept, into `to`.
fn copy(what: &[PathBuf], to: &Path) -> Result<()> {
    if what.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    shell::run(Command::new("cp").args(["-a", "--"]).args(what).arg(to))
}

/// SHA-256 of every file under `folder`, in the form that `sha256sum --check` reads.
fn checksums(folder: &Path, list: &str) -> Result<()> {
    let script =
        r#"find . -type f ! -path "./$1" -printf '%P\0' | sort -z | xargs -0 sha256sum >"$1""#;
    shell::run(Command::new("bash").current_dir(folder).args(["-euc", script, "checksums", list]))
}

/// The same tree gives the same tarball: sorted, owned by root, dated by the last commit.
fn pack(workspace: &Workspace, dist: &Path, name: &str) -> Result<()> {
    let mut date = Command::new("git");
    date.current_dir(workspace.root()).args(["log", "-1", "--format=%ct"]);
    let date = shell::read(&mut date)?.trim().to_owned();
    if date.is_empty() {
        bail!("the repository has no commit to date the tarball by");
    }
    let tarball = format!("{name}.tar.gz");
    let mut tar = Command::new("tar");
    tar.current_dir(dist)
        .args(["--create", "--gzip", "--sort=name", "--numeric-owner"])
        .arg("--mode=go-w,a+rX");
    tar.args(["--owner=0", "--group=0", &format!("--mtime=@{date}"), "--file", &tarball, name]);
    shell::run(&mut tar)?;
    let script = r#"sha256sum "$1" >SHA256SUMS"#;
    shell::run(Command::new("bash").current_dir(dist).args(["-euc", script, "sum", &tarball]))
}
