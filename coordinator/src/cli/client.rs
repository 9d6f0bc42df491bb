//! An operator's connection to the coordinator: requests, and fetches of models.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::credentials::Credentials;
use consilium_certs::identity::Role;
use consilium_certs::tls;
use consilium_common::ids::Digest;
use consilium_common::time::Clock;
use consilium_common::wire::codec;
use consilium_common::wire::operator::{End, KIND_END, KIND_PART, KIND_REQUEST, Request};
use consilium_io::SystemClock;
use consilium_io::disk::{Blobs, Durability};
use consilium_io::net::transfer::{Pace, PartialSink, Refusal, Source, TransferError, fetch, push};
use consilium_io::net::{
    Carrier, CarrierError, Closed, ClosedBy, ConnectError, FrameReader, FrameWriter, QuicDialer,
    StreamKind,
};
use serde::de::DeserializeOwned;

use super::{Connection, Failure};
use crate::limits::TRANSFER_IDLE_MAX;

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// An answer's JSON at most: every site of every study with all that status shows.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A connection to a coordinator.
#[derive(Debug)]
pub struct Client {
    carrier: Arc<dyn Carrier>,
    dialer: QuicDialer,
}

impl Client {
    /// Connects with the bundle that `connection` names.
    ///
    /// # Errors
    /// The bundle is of no use (failed), the coordinator is not reachable, or one side refuses the
    /// other.
    pub async fn connect(connection: &Connection) -> Result<Self, Failure> {
        let clock = SystemClock::open();
        let credentials =
            Credentials::load(connection.bundle()?, clock.wall()).map_err(Failure::failed)?;
        let identity = &credentials.identity;
        if let Role::Site(_) | Role::Coordinator = identity.role {
            return Err(Failure::usage(format!(
                "{} is the bundle of {identity}: this command needs that of an operator, an auditor or a \
                 researcher",
                connection.identity.display()
            )));
        }
        if let Some(reminder) = credentials.reminder(clock.wall()) {
            super::output::notice(&reminder);
        }
        let config = tls::client_config(&credentials, Arc::new(clock)).map_err(Failure::usage)?;
        let (host, address) = resolve(&connection.coordinator).await?;
        let dialer = QuicDialer::bind(address).map_err(connect_failure)?;
        let carrier = dialer
            .connect(address, &host, config, CONNECT_WAIT_MAX)
            .await
            .map_err(connect_failure)?;
        Ok(Self { carrier, dialer })
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// The coordinator refuses or fails, or the connection is lost.
    pub async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let json = match self.exchange(request).await {
            Ok((json, End::Done)) => json,
            Ok((_, End::Failed { message })) => return Err(Failure::failed(message)),
            Ok((_, End::Refused { message })) => return Err(Failure::refused(message)),
            Err(lost) => return Err(self.why(lost).await),
        };
        serde_json::from_slice(&json).map_err(|error| {
            Failure::failed(format!("the answer is not the expected JSON ({error}): is the coordinator of another version?"))
        })
    }

    async fn exchange(&self, request: &Request) -> Result<(Vec<u8>, End), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let frame = codec::frame(KIND_REQUEST, request).map_err(|e| text(&e))?;
        let stream = self.carrier.open(StreamKind::Request).await.map_err(|e| text(&e))?;
        let mut writer = FrameWriter::new(stream.send);
        writer.write(&frame).await.map_err(|e| text(&e))?;
        writer.finish().await.map_err(|e| text(&e))?;
        let mut reader = FrameReader::new(stream.recv);
        let mut json = Vec::new();
        while let Some(frame) = reader.next().await.map_err(|e| text(&e))? {
            match frame.kind {
                KIND_PART if json.len() + frame.body.len() <= ANSWER_BYTES_MAX => {
                    json.extend_from_slice(&frame.body);
                }
                KIND_END => return Ok((json, codec::decode(&frame.body).map_err(|e| text(&e))?)),
                other => return Err(format!("a frame of kind {other} is not expected")),
            }
        }
        Err("the answer ended early".to_owned())
    }

    /// Fetches a model, or the log, into `blobs` and checks its digest.
    ///
    /// # Errors
    /// The coordinator does not have it, the bytes are others, or the connection is lost.
    pub async fn fetch(
        &self,
        blobs: &Blobs,
        digest: Digest,
        bytes: u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Failure> {
        self.fetch_up_to(blobs, digest, bytes, progress).await.map_err(Failure::failed)
    }

    /// Fetches a blob of at most `bytes_max` bytes that may be gone there: then it says false.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn fetch_if_there(
        &self,
        blobs: &Blobs,
        digest: Digest,
        bytes_max: u64,
    ) -> Result<bool, Failure> {
        let fetched = self.fetch_up_to(blobs, digest, bytes_max, &mut |_| {}).await;
        match fetched {
            Ok(()) => Ok(true),
            Err(TransferError::Refused(Refusal::Missing)) => {
                blobs.discard_partial(digest).map_err(Failure::failed)?;
                Ok(false)
            }
            Err(error) => Err(Failure::failed(error)),
        }
    }

    async fn fetch_up_to(
        &self,
        blobs: &Blobs,
        digest: Digest,
        bytes_max: u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), TransferError> {
        let mut sink = PartialSink::resume(blobs, digest, bytes_max, Durability::Cache).await?;
        fetch(&*self.carrier, &mut sink, &mut Pace { idle: TRANSFER_IDLE_MAX, progress }).await?;
        Ok(())
    }

    /// Brings a model that the coordinator awaits.
    ///
    /// # Errors
    /// The coordinator does not take it, or the connection is lost.
    pub async fn push(
        &self,
        source: &Source,
        digest: Digest,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Failure> {
        let mut pace = Pace { idle: TRANSFER_IDLE_MAX, progress };
        push(&*self.carrier, digest, &[], source, &mut pace).await.map_err(Failure::failed)?;
        Ok(())
    }

    /// Ends the connection in good order.
    pub async fn close(self) {
        self.dialer.shut_down(0, "done").await;
    }

    /// Why the connection was lost: the coordinator's own words if it ended it.
    async fn why(&self, lost: String) -> Failure {
        let closed = tokio::time::timeout(Duration::from_millis(500), self.carrier.closed()).await;
        match closed {
            Ok(closed) => closed_failure(&closed),
            Err(_) => Failure::failed(format!("the coordinator's answer was lost: {lost}")),
        }
    }
}

fn closed_failure(closed: &Closed) -> Failure {
    let told = format!("the coordinator's connection was {closed}");
    match closed.by {
        ClosedBy::Peer | ClosedBy::Fault => Failure::refused(told),
        ClosedBy::Silence | ClosedBy::Us => Failure::not_reachable(told),
    }
}

fn connect_failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::Refused { .. } => Failure::refused(error),
        ConnectError::Unreachable { .. } => Failure::not_reachable(error),
        ConnectError::PortInUse(_)
        | ConnectError::PortReserved(_)
        | ConnectError::Socket { .. }
        | ConnectError::Configuration(_) => Failure::failed(error),
    }
}

impl From<CarrierError> for Failure {
    fn from(error: CarrierError) -> Self {
        Self::not_reachable(error)
    }
}

/// Host and address of `HOST:PORT`; `[…]` around an IPv6 address goes.
async fn resolve(coordinator: &str) -> Result<(String, SocketAddr), Failure> {
    let host = match coordinator.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => host,
        _ => {
            let told = format!("{coordinator:?} is not an address: expected HOST:PORT");
            return Err(Failure::usage(told));
        }
    };
    let mut found = tokio::net::lookup_host(coordinator)
        .await
        .map_err(|error| Failure::not_reachable(format!("{host} is not found: {error}")))?;
    let address =
        found.next().ok_or_else(|| Failure::not_reachable(format!("{host} has no address")))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), address))
}
