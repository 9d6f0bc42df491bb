//! Making, storing and loading keys. Signing keys (site, operator, coordinator log) are Ed25519 and
//! last for years; TLS keys are ECDSA P-256 and last as long as their certificate. They are separate
//! files from the first day, so that a leaked TLS key never signs anything.
//!
//! `NAME.key` is one line, `ed25519-secret:` and 64 hexadecimal digits, mode 0600; `NAME.pub` beside
//! it is one line, `ed25519:` and 64 hexadecimal digits. TLS keys are PKCS#8 in PEM.

use std::path::{Path, PathBuf};

use consilium_common::signed::{PublicKey, SecretKey, SignedError};
use rcgen::KeyPair;
use zeroize::Zeroizing;

use crate::file::{self, FileError, Readers};

const SECRET_PREFIX: &str = "ed25519-secret:";

/// Why a key could not be made, stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The text is not a secret key.
    #[error("{path} is not a signing key: expected one line, `ed25519-secret:` and 64 digits")]
    NotSecret {
        /// The file.
        path: PathBuf,
    },
    /// The text is not a public key.
    #[error("{path}: {source}")]
    NotPublic {
        /// The file.
        path: PathBuf,
        /// What is wrong with the text.
        source: SignedError,
    },
    /// Not a private key in PEM.
    #[error("{path} is not a TLS key: expected a PKCS#8 private key in PEM ({reason})")]
    NotTls {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The TLS library could not make a key.
    #[error("no TLS key could be made: {0}")]
    MakeTls(rcgen::Error),
}

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A new signing key.
///
/// # Errors
/// The operating system gave no random bytes.
pub fn generate() -> Result<SecretKey, KeyError> {
    Ok(SecretKey::from_seed(&Zeroizing::new(random()?)))
}

/// Writes `key` to `path` (mode 0600) and its public half beside it as `.pub`.
///
/// # Errors
/// `path` exists (a key is never overwritten) or cannot be written.
pub fn store(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    let digits = Zeroizing::new(hex::encode(key.seed().as_slice()));
    let mut line = Zeroizing::new(String::with_capacity(SECRET_PREFIX.len() + digits.len() + 1));
    line.push_str(SECRET_PREFIX);
    line.push_str(&digits);
    line.push('\n');
    file::write_new_secret(path, line.as_bytes())?;
    store_public(&path.with_extension("pub"), &key.public())
}

/// Writes a public key, replacing what was there.
///
/// # Errors
/// `path` cannot be written.
pub fn store_public(path: &Path, key: &PublicKey) -> Result<(), KeyError> {
    Ok(file::replace(path, format!("{key}\n").as_bytes(), Readers::Everybody)?)
}

/// Loads a signing key.
///
/// # Errors
/// The file is missing, readable by others, or not a key.
pub fn load(path: &Path) -> Result<SecretKey, KeyError> {
    let text = file::read_secret(path)?;
    let mut seed = Zeroizing::new([0; 32]);
    text.trim_end()
        .strip_prefix(SECRET_PREFIX)
        .and_then(|digits| hex::decode_to_slice(digits, seed.as_mut_slice()).ok())
        .ok_or_else(|| KeyError::NotSecret { path: path.to_owned() })?;
    Ok(SecretKey::from_seed(&seed))
}

/// Loads a public key, such as the `operators` that an agent's policy names.
///
/// # Errors
/// The file is missing or not a public key.
pub fn load_public(path: &Path) -> Result<PublicKey, KeyError> {
    let text = file::read_text(path)?;
    text.parse().map_err(|source| KeyError::NotPublic { path: path.to_owned(), source })
}

/// A new TLS key: ECDSA on P-256 (FIPS 186-5).
pub(crate) fn generate_tls() -> Result<KeyPair, KeyError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyError::MakeTls)
}

/// The PEM text of a TLS key.
pub(crate) fn tls_pem(key: &KeyPair) -> Zeroizing<String> {
    Zeroizing::new(key.serialize_pem())
}

/// Loads a CA's key for signing certificates.
pub(crate) fn load_ca(path: &Path) -> Result<KeyPair, KeyError> {
    let text = file::read_secret(path)?;
    KeyPair::from_pem(&text)
        .map_err(|error| KeyError::NotTls { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_stored_key_comes_back_and_its_secret_half_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        let key = generate().unwrap();
        store(&path, &key).unwrap();
        assert_eq!(load(&path).unwrap().public(), key.public());
        let public = dir.path().join("site.pub");
        assert_eq!(load_public(&public).unwrap(), key.public());
        assert_eq!(mode(&path), 0o600);
        assert_ne!(mode(&public) & 0o400, 0);
        assert_ne!(generate().unwrap().public(), key.public());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.key");
        let first = generate().unwrap();
        store(&path, &first).unwrap();
        let again = store(&path, &generate().unwrap());
        assert!(matches!(again, Err(KeyError::File(FileError::Exists { .. }))));
        assert_eq!(load(&path).unwrap().public(), first.public());
    }

    #[test]
    fn what_is_not_a_key_names_the_file_and_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        let short = "ed25519-secret:00112233445566778899";
        for text in ["", "hello", short, "ed25519:00", "ed25519-secret:zz"] {
            file::replace(&path, text.as_bytes(), Readers::Owner).unwrap();
            let told = load(&path).unwrap_err().to_string();
            assert!(told.contains("site.key") && !told.contains("0011"), "{told}");
            assert!(matches!(load_public(&path), Err(KeyError::NotPublic { .. })));
        }
    }
}
