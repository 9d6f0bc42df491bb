//! The end of a live connection's certificate: TLS judges it once, at the handshake, and knows nothing of
//! issuing CAs that are over.

use std::time::Duration;

use consilium_certs::validity::Validity;
use consilium_common::time::WallMillis;
use consilium_common::wire::reject::Code;
use consilium_io::net::Carrier;

use super::Server;
use super::broken::Broken;

/// The calendar is looked at again this often: it may be set while we sleep, and an issuing CA end.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Why the certificate that the peer showed works no more although TLS took it.
pub(super) fn over(server: &Server, carrier: &dyn Carrier) -> Option<Broken> {
    let end = server.certificate.end_of(carrier)?;
    let what = "the issuing CA that made its certificate is over: renew it";
    (end <= server.clock.wall()).then(|| Broken::new(Code::CertificateExpired, what))
}

/// Ends when the certificate that the peer showed does.
pub(super) async fn expired(server: &Server, carrier: &dyn Carrier) -> Broken {
    let chain = carrier.peer_certificates();
    let validity = chain.first().and_then(|leaf| Validity::of_certificate(leaf).ok());
    // Without a certificate nobody gets here; were it so, the connection would end at once.
    let until = validity.map_or(WallMillis(0), |validity| validity.until);
    loop {
        if let Some(over) = over(server, carrier) {
            return over;
        }
        let end = server.certificate.end_of(carrier).map_or(until, |end| end.min(until));
        let left = end.0.saturating_sub(server.clock.wall().0);
        if left == 0 {
            return Broken::new(Code::CertificateExpired, "its certificate has run out: renew it");
        }
        tokio::time::sleep(LOOK_INTERVAL.min(Duration::from_millis(left))).await;
    }
}
