//! `consilium.toml`: what `consilium serve` is told.
//!
//! ```toml
//! [coordinator]
//! listen = "0.0.0.0:443"
//! state = "/var/lib/consilium"
//! certificates = "/etc/consilium/coordinator"
//! roster = "/etc/consilium/roster.toml"
//! ca = "/run/consilium-ca/socket"
//! retain_updates = false
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use consilium_common::config::{self, ConfigError};
use consilium_common::limits::CONFIG_BYTES_MAX;
use consilium_io::disk::{TextError, read_text};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[coordinator]`
    pub coordinator: Coordinator,
}

/// `[coordinator]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coordinator {
    /// Address and UDP port to listen on; port 0 takes a free one.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The state folder.
    pub state: PathBuf,
    /// The bundle that `consilium ca issue coordinator` made.
    pub certificates: PathBuf,
    /// The roster that the operators signed; its `.sig` lies beside it. One that came into force later
    /// (`consilium roster sign`) is in the log, and goes before it.
    pub roster: PathBuf,
    /// The socket of the issuing CA (`consilium ca serve`); without it no site enrols or renews here,
    /// and the coordinator's own certificate is renewed by hand.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Keep the updates that inspectable rounds count, so that auditors can recompute each round.
    #[serde(default)]
    pub retain_updates: bool,
}

fn default_listen() -> SocketAddr {
    (std::net::Ipv4Addr::UNSPECIFIED, 443).into()
}

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Its content.
    #[error(transparent)]
    Content(#[from] ConfigError),
}

impl Config {
    /// Reads the file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// The file is missing, or holds an unknown field or a value of another kind.
    pub fn load(path: &Path) -> Result<Self, ConfigFileError> {
        let text = read_text(path, CONFIG_BYTES_MAX)?;
        let mut config: Self = config::parse(&text, &path.display().to_string())?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let Coordinator { state, certificates, roster, ca, .. } = &mut config.coordinator;
        for path in [state, certificates, roster].into_iter().chain(ca) {
            *path = folder.join(&*path);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../consilium.example.toml");

    #[test]
    fn the_example_file_is_one_that_works() {
        let config: Config = config::parse(EXAMPLE, "consilium.example.toml").unwrap();
        assert_eq!(config.coordinator.listen, default_listen());
        assert!(config.coordinator.state.is_absolute() && !config.coordinator.retain_updates);
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("consilium.toml");
        let text =
            "[coordinator]\nstate = \"state\"\ncertificates = \"/abs\"\nroster = \"r.toml\"\n";
        consilium_io::disk::replace(&path, text.as_bytes()).unwrap();
        let config = Config::load(&path).unwrap().coordinator;
        assert_eq!(config.state, folder.path().join("state"));
        assert_eq!(config.certificates, Path::new("/abs"));
        assert_eq!(config.listen.port(), 443);
    }

    #[test]
    fn an_unknown_field_is_refused_and_the_nearest_named() {
        let text = EXAMPLE.replace("listen", "lisden");
        let told = config::parse::<Config>(&text, "c.toml").unwrap_err().to_string();
        assert!(told.contains("did you mean `listen`?"), "{told}");
        assert!(config::parse::<Config>("[coordinator]\n", "c.toml").is_err());
    }
}
