//! The end of a live connection's certificate: TLS judges it once, at the handshake.

use std::time::Duration;

use consilium_certs::validity::Validity;
use consilium_common::time::{Clock, WallMillis};
use consilium_common::wire::reject::Code;
use consilium_io::net::Carrier;

use super::broken::Broken;

/// The calendar is looked at again this often: it may be set while we sleep.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Ends when the certificate that the peer showed does.
pub(super) async fn expired(carrier: &dyn Carrier, clock: &dyn Clock) -> Broken {
    let chain = carrier.peer_certificates();
    let validity = chain.first().and_then(|leaf| Validity::of_certificate(leaf).ok());
    // Without a certificate nobody gets here; were it so, the connection would end at once.
    let until = validity.map_or(WallMillis(0), |validity| validity.until);
    loop {
        let left = until.0.saturating_sub(clock.wall().0);
        if left == 0 {
            return Broken::new(Code::CertificateExpired, "its certificate has run out: renew it");
        }
        tokio::time::sleep(LOOK_INTERVAL.min(Duration::from_millis(left))).await;
    }
}
