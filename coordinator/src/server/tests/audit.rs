//! The log over the wire: auditors take it away and check it; sites get neither it nor one another's
//! updates.

use std::path::Path;

use clap::Parser;
use consilium_certs::consortium::Consortium;
use consilium_common::audit::Checkpoint;
use consilium_common::ids::Digest;
use consilium_common::signed::Signed;
use consilium_io::disk::{Blobs, Durability};
use consilium_io::net::transfer::{Refusal, TransferError};

use super::*;
use crate::audit::{Check, Folder, Verdict, verify};
use crate::cli::{self, Cli};
use crate::document::AuditExportDocument;

struct Auditor {
    client: Client,
    pinned: Consortium,
    blobs: Blobs,
}

impl Auditor {
    async fn of(town: &Town) -> Self {
        let bundle = town.dir.path().join("ca/issued/auditor/eve");
        Self {
            client: town.client("auditor/eve").await,
            pinned: Consortium::load(&bundle.join("consortium.toml")).unwrap(),
            blobs: Blobs::open(&town.dir.path().join("auditor")).unwrap(),
        }
    }

    async fn export(&self) -> AuditExportDocument {
        let exported: AuditExportDocument = self.client.ask(&Request::AuditExport).await.unwrap();
        let AuditExportDocument { digest, bytes, .. } = exported;
        self.client.fetch(&self.blobs, digest, bytes, &mut |_| {}).await.unwrap();
        exported
    }

    fn verify(&self, exported: &AuditExportDocument) -> Verdict {
        let log = self.blobs.read_verified(exported.digest, exported.bytes).unwrap();
        let open = || Ok((log.as_slice(), log.len() as u64));
        verify(open, exported.checkpoint.as_bytes(), &[], &self.pinned, None).unwrap()
    }
}

/// What a site gets that asks for these bytes.
async fn fetched_by_site(agent: &Agent, digest: Digest) -> Result<Vec<u8>, TransferError> {
    let mut sink = MemorySink::new(digest, 1 << 20);
    let mut pace = Pace { idle: WAIT, progress: &mut |_| {} };
    fetch(&*agent.peer.carrier, &mut sink, &mut pace).await?;
    Ok(sink.into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_takes_the_log_away_while_it_grows_and_finds_it_sound() {
    let town = Town::new().await;
    let auditor = Auditor::of(&town).await;
    let first = auditor.export().await;
    let operator = town.client("operator/ada").await;
    let signed = town.signed_study();
    let _done: CommandDocument = operator.ask(&Request::StudySubmit { signed }).await.unwrap();
    let second = auditor.export().await;
    assert!(second.bytes > first.bytes);
    for (exported, studies) in [(&first, 0), (&second, 1)] {
        let verdict = auditor.verify(exported);
        assert!(verdict.is_sound(), "{:#?}", verdict.faults());
        assert_eq!(verdict.count(Check::Studies).right, studies);
        assert_eq!(verdict.count(Check::Rosters).right, 1);
    }
    let records = auditor.verify(&second).count(Check::Tree).right;
    // Both exports are held for a while, and the first is what it was.
    let again = Blobs::open(&town.dir.path().join("again")).unwrap();
    auditor.client.fetch(&again, first.digest, first.bytes, &mut |_| {}).await.unwrap();
    assert_eq!(records, town.end().await.len() as u64, "looking adds no record");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_log_nor_another_sites_update_is_for_sites() {
    let town = Town::new().await;
    let kept = Blobs::open(&town.dir.path().join("state/updates")).unwrap();
    let update = kept.put_bytes(b"what a hospital sent", Durability::Lasting).unwrap();
    let auditor = Auditor::of(&town).await;
    let exported = auditor.export().await;
    assert!(auditor.client.fetch_if_there(&auditor.blobs, update, 1 << 20).await.unwrap());
    let absent = Digest::of(b"nothing");
    assert!(!auditor.client.fetch_if_there(&auditor.blobs, absent, 1 << 20).await.unwrap());
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    for digest in [update, exported.digest] {
        let got = fetched_by_site(&agent, digest).await;
        assert!(matches!(got, Err(TransferError::Refused(Refusal::Missing))), "{got:?}");
    }
}

/// A command as a person would type it.
async fn consilium(words: &[&str]) -> Result<(), Failure> {
    let words = std::iter::once("consilium").chain(words.iter().copied());
    let words = Cli::try_parse_from(words).unwrap();
    tokio::task::spawn_blocking(move || cli::run(words)).await.unwrap()
}

fn failure(said: Result<(), Failure>, exit: Exit, words: &str) {
    let failure = said.unwrap_err();
    assert_eq!(failure.exit, exit, "{failure}");
    assert!(failure.message.contains(words), "{failure}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_export_verify_and_show() {
    let town = Town::new().await;
    let (signed, root) = (town.signed_study(), town.dir.path());
    let operator = town.client("operator/ada").await;
    let _done: CommandDocument = operator.ask(&Request::StudySubmit { signed }).await.unwrap();
    let (out, address) = (root.join("export"), town.address.to_string());
    let (folder, bundle) = (Folder::at(&out), root.join("ca/issued/auditor/eve"));
    let export = ["audit", "export", "--models", "--coordinator", &address, "--identity"];
    let export = [&export[..], &[text(&bundle), "--out", text(&out)]].concat();
    consilium(&export).await.unwrap();
    consilium(&export).await.unwrap();
    assert!(!out.join("incoming").exists(), "what came is in its place");
    let verify = ["audit", "verify", text(&out)];
    consilium(&verify).await.unwrap();
    consilium(&[&verify[..], &["--also", text(&folder.checkpoint())]].concat()).await.unwrap();
    for rest in [vec![], vec!["--json"], vec!["--study", "demo"], vec!["--record", "1"]] {
        consilium(&[&["audit", "show", text(&out)][..], &rest[..]].concat()).await.unwrap();
    }
    failure(
        consilium(&["audit", "show", text(&out), "--record", "99"]).await,
        Exit::Failed,
        "has no record 99",
    );

    // The state folder of a running coordinator gives the same, up to its last checkpoint.
    let (state, pinned) = (root.join("state"), bundle.join("consortium.toml"));
    let other = root.join("from-state");
    let from_state = ["audit", "export", "--models", "--state", text(&state), "--consortium"];
    let from_state = [&from_state[..], &[text(&pinned), "--out", text(&other)]].concat();
    consilium(&from_state).await.unwrap();
    consilium(&["audit", "verify", text(&other), "--consortium", text(&pinned)]).await.unwrap();

    let mut log = std::fs::read(folder.log()).unwrap();
    log[100] ^= 1;
    consilium_io::disk::replace(&folder.log(), &log).unwrap();
    failure(consilium(&verify).await, Exit::Failed, "1 fault was found");

    // Another history was signed before: what comes now contradicts it.
    let key = keys::load(&root.join("ca/issued/coordinator/log.key")).unwrap();
    let forked = Checkpoint { origin: "thorax".to_owned(), size: 1, root: [9; 32] };
    let forked = Checkpoint::to_file(&Signed::sign(forked.to_bytes(), &key)).unwrap();
    consilium_io::disk::replace(&folder.checkpoint(), &forked).unwrap();
    failure(consilium(&export).await, Exit::Refused, "another than the one exported before");
    let names = out.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("contradiction-")), "{names:?}");
    assert_eq!(std::fs::read(folder.log()).unwrap(), log, "the export is as it was");
}
