//! State folders that run full or refuse, by the means that the system has: a small file system of
//! its own to fill, and the immutable flag, which refuses root as well.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of a small file system: some thousand rounds of a small model fit.
const SMALL_MIB: u32 = 64;
const FILLER: &str = "filler";

/// A file system of its own over a state folder; goes when dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one over `folder`, or says why the system does not let us.
    ///
    /// # Errors
    /// No right to mount.
    pub fn over(folder: &Path) -> Result<Self, String> {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={SMALL_MIB}m");
        done(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "consilium"]).arg(folder))?;
        Ok(Self(folder.to_owned()))
    }

    /// Not one byte more fits.
    pub fn fill(&self) {
        let mut file = File::create(self.0.join(FILLER)).unwrap();
        for block in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
    }

    /// There is room again.
    pub fn clear(&self) {
        fs::remove_file(self.0.join(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = done(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// Folders in which nothing can be made, renamed or removed; they allow it again when dropped.
#[derive(Debug)]
pub struct Locked(Vec<PathBuf>);

impl Locked {
    /// Locks `folder` and the folders in it, or says why the system does not let us.
    ///
    /// # Errors
    /// No right to, or a file system without the flag.
    pub fn lock(folder: &Path) -> Result<Self, String> {
        let inner = fs::read_dir(folder).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let mut folders: Vec<PathBuf> = inner.filter(|path| path.is_dir()).collect();
        folders.push(folder.to_owned());
        let mut locked = Self(Vec::new());
        for path in folders {
            done(Command::new("chattr").arg("+i").arg(&path))?;
            locked.0.push(path);
        }
        Ok(locked)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            if let Err(error) = done(Command::new("chattr").arg("-i").arg(path)) {
                eprintln!("{} stays locked: {error}", path.display());
            }
        }
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
