//! Both ends of a connection with real certificates, and a blob to move between them.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_agent::config::Endpoint;
use consilium_agent::link::Dialer;
use consilium_agent::link::connect::Dialed;
use consilium_certs::ca::Ca;
use consilium_certs::credentials::Credentials;
use consilium_certs::issue::MACHINE_LENGTH;
use consilium_certs::roster::Roster;
use consilium_certs::{keys, signed_file, tls};
use consilium_common::ids::{Digest, SiteId};
use consilium_common::random::Generator;
use consilium_common::time::Clock;
use consilium_coordinator::local::Federation;
use consilium_io::SystemClock;
use consilium_io::disk::{Blobs, Durability};
use consilium_io::net::QuicListener;

/// The listener's secret: that of a coordinator follows from its log key.
const SECRET: [u8; 32] = [7; 32];

/// Issues the bundles of so many sites and signs the roster anew; their folders.
pub(crate) fn issue_sites(federation: &Federation, count: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut ca = Ca::open(&federation.root().join("ca"))?;
    let now = clock().wall();
    let mut folders = Vec::new();
    for index in 0..count {
        let name: SiteId = format!("site-{}", index + 1).parse()?;
        folders.push(ca.issue_site(&name, MACHINE_LENGTH, now)?.folder);
    }
    let key = keys::load(&federation.operator_key())?;
    signed_file::sign::<Roster>(&ca.roster_path(), &key)?;
    Ok(folders)
}

/// The clock of the system.
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::open())
}

/// The coordinator's bundle below `root`.
pub(crate) fn coordinator(root: &Path) -> PathBuf {
    root.join("ca/issued/coordinator")
}

/// The first site's bundle below `root`.
pub(crate) fn site(root: &Path) -> PathBuf {
    root.join("ca/issued/site/site-1")
}

/// Listens as the coordinator does.
pub(crate) fn listen(identity: &Path, address: SocketAddr) -> anyhow::Result<QuicListener> {
    let credentials = Credentials::load(identity, clock().wall())?;
    let config = tls::server_config(&credentials, clock())?;
    Ok(QuicListener::bind_lasting(address, config, &SECRET)?)
}

/// Dials as an agent does.
pub(crate) async fn dial(identity: &Path, address: SocketAddr) -> anyhow::Result<Dialed> {
    let credentials = Credentials::load(identity, clock().wall())?;
    Ok(dialer(address).dial(&credentials).await?)
}

/// An agent's dialer.
pub(crate) fn dialer(address: SocketAddr) -> Dialer {
    Dialer::new(Endpoint { host: address.ip().to_string(), port: address.port() }, clock())
}

/// An address of loopback that was free a moment ago.
pub(crate) fn free_address() -> std::io::Result<SocketAddr> {
    UdpSocket::bind("127.0.0.1:0")?.local_addr()
}

/// Writes a blob of so many megabytes, no two blocks of it the same.
pub(crate) fn write_blob(folder: &Path, megabytes: u64) -> anyhow::Result<Digest> {
    let mut generator = Generator::new("benches/transfer", b"blob");
    let mut block: Vec<u8> =
        (0..250_000).flat_map(|_| generator.next_u32().to_le_bytes()).collect();
    let mut writer = Blobs::open(folder)?.writer()?;
    for number in 0..megabytes {
        let head = number.to_le_bytes();
        block.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        writer.write(&block)?;
    }
    // Synced: the disk has no work left from this when the measurement begins.
    Ok(writer.finish(None, Durability::Lasting)?)
}
