//! The CA's end of the socket.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consilium_certs::ca::Ca;
use consilium_certs::grant::{GrantError, Granted};
use consilium_certs::validity::date;
use consilium_common::time::{Clock, Millis};
use consilium_common::wire::codec;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{ANSWER_WAIT_MAX, Answer, Ask, decode, receive, send};

/// Questions at a time: each is a signature and some syncs, and they come one after the other anyhow.
const CONNECTIONS_MAX: usize = 8;
/// After a failed accept (too many open files), not at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens on `path`. Its folder decides who may connect; the socket itself is its owner's and group's.
///
/// # Errors
/// The path is too long for a socket (107 bytes), another process listens there, or the system refused.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let told = format!(
            "there is no folder {}: make it, so that only this user writes there",
            folder.display()
        );
        return Err(io::Error::new(ErrorKind::NotFound, told));
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers until dropped. Certificates are good for `length`.
pub async fn serve(ca: Ca, listener: UnixListener, length: Millis, clock: Arc<dyn Clock>) {
    let (ca, places) = (Arc::new(Mutex::new(ca)), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (ca, clock) = (Arc::clone(&ca), Arc::clone(&clock));
                tokio::spawn(async move {
                    let conversed = converse(stream, ca, length, clock);
                    match timeout(ANSWER_WAIT_MAX, conversed).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(%error, "a question broke off"),
                        Err(_) => tracing::warn!("a question took too long"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the socket cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    ca: Arc<Mutex<Ca>>,
    length: Millis,
    clock: Arc<dyn Clock>,
) -> io::Result<()> {
    let asked = receive(&mut stream).await?;
    let judged = tokio::task::spawn_blocking(move || answer(&asked, &ca, length, &*clock));
    let answer = codec::encode(&judged.await?).map_err(io::Error::other)?;
    send(&mut stream, &answer).await
}

fn answer(asked: &[u8], ca: &Mutex<Ca>, length: Millis, clock: &dyn Clock) -> Answer {
    let refused = |message: String| Answer::Refused { message };
    let ask = match decode::<Ask>(asked) {
        Ok(ask) => ask,
        Err(error) => return refused(format!("the question {error}: is it another version?")),
    };
    let (ca, now) = (ca.lock().unwrap_or_else(PoisonError::into_inner), clock.wall());
    let certified = |what: &str, made: Result<Granted, GrantError>| match made {
        Ok(made) => {
            tracing::info!(what, until = %date(made.validity.until), "certified");
            Answer::Certified { chain: made.chain, until: made.validity.until }
        }
        Err(error) => {
            tracing::warn!(what, "refused: {error}");
            refused(error.to_string())
        }
    };
    match ask {
        Ask::Grant { request, approval } => {
            certified("a first certificate", ca.grant(&request, &approval, length, now))
        }
        Ask::Renew { request } => certified("a renewal", ca.renew(&request, length, now)),
        Ask::RenewCoordinator { request } => {
            certified("the coordinator's renewal", ca.renew_coordinator(&request, length, now))
        }
        Ask::Retired => Answer::Retired(ca.retired().authorities.clone()),
        Ask::Revoke { revocation } => match ca.revoke(&revocation) {
            Ok(()) => {
                tracing::info!("a key was revoked");
                Answer::Revoked
            }
            Err(error) => {
                tracing::warn!("refused: {error}");
                refused(error.to_string())
            }
        },
    }
}
