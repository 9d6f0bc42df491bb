//! Blobs and partial files against kills, wrong content and each other.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use consilium_common::limits::BLOB_BYTES_MAX;

use super::*;
use crate::disk::replace;

fn opened() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&folder.path().join("blobs")).unwrap();
    (folder, blobs)
}

fn files_in(folder: &Path) -> usize {
    folder.read_dir().unwrap().count()
}

#[test]
fn a_blob_is_found_by_its_digest_and_read_whole() {
    let (_folder, blobs) = opened();
    for durability in [Durability::Lasting, Durability::Cache] {
        for bytes in [&b""[..], b"x", &[7; 3_000_000]] {
            let digest = blobs.put_bytes(bytes, durability).unwrap();
            assert_eq!(digest, Digest::of(bytes));
            assert!(blobs.contains(digest));
            assert_eq!(blobs.len(digest).unwrap(), Some(bytes.len() as u64));
            assert_eq!(blobs.read_verified(digest, 3_000_000).unwrap(), bytes);
            blobs.verify(digest).unwrap();
        }
    }
    assert_eq!(blobs.list().unwrap().len(), 3);
    assert_eq!(blobs.total_bytes().unwrap(), 3_000_001);
    assert_eq!(files_in(&blobs.folder.join(TEMPORARY)), 0);
}

#[test]
fn a_blob_that_is_gone_or_too_large_or_changed_is_refused() {
    let (_folder, blobs) = opened();
    let digest = blobs.put_bytes(b"four", Durability::Cache).unwrap();
    let small = blobs.read_verified(digest, 3);
    assert!(matches!(small, Err(BlobError::TooLarge { have: 4, max: 3 })));
    replace(&blobs.path_of(digest), b"five").unwrap();
    assert!(matches!(blobs.read_verified(digest, 4), Err(BlobError::Digest { .. })));
    assert!(matches!(blobs.verify(digest), Err(BlobError::Digest { .. })));
    assert!(blobs.remove(digest).unwrap());
    assert!(!blobs.remove(digest).unwrap());
    assert!(matches!(blobs.open_file(digest), Err(BlobError::Missing(_))));
    assert_eq!(blobs.len(digest).unwrap(), None);
}

#[test]
fn a_writer_gives_a_name_only_to_what_was_expected() {
    let (_folder, blobs) = opened();
    let mut writer = blobs.writer().unwrap();
    for piece in [&b"ab"[..], b"", b"cd"] {
        writer.write(piece).unwrap();
    }
    assert_eq!(writer.written(), 4);
    let wrong = writer.finish(Some(Digest::of(b"abce")), Durability::Lasting);
    assert!(matches!(wrong, Err(BlobError::Digest { .. })));
    assert_eq!((blobs.list().unwrap().len(), files_in(&blobs.folder.join(TEMPORARY))), (0, 0));

    let mut writer = blobs.writer().unwrap();
    writer.write(b"abcd").unwrap();
    writer.finish(Some(Digest::of(b"abcd")), Durability::Lasting).unwrap();
    assert!(blobs.contains(Digest::of(b"abcd")));
}

#[test]
fn what_a_killed_writer_left_is_swept_and_blobs_and_partials_stay() {
    let (folder, blobs) = opened();
    let kept = blobs.put_bytes(b"kept", Durability::Lasting).unwrap();
    replace(&blobs.folder.join(TEMPORARY).join("killed"), b"half").unwrap();
    let digest = Digest::of(b"whole");
    blobs.resume(digest, 5).unwrap().append(b"who").unwrap();
    drop(blobs);

    let blobs = Blobs::open(&folder.path().join("blobs")).unwrap();
    assert_eq!(files_in(&blobs.folder.join(TEMPORARY)), 0);
    assert!(blobs.contains(kept));
    assert_eq!(blobs.partials().unwrap(), [(digest, 3)]);
}

#[test]
fn a_partial_goes_on_after_a_kill_at_any_byte() {
    let (folder, _) = opened();
    let bytes: Vec<u8> = (0..=255).collect();
    let digest = Digest::of(&bytes);
    for cut in 0..=bytes.len() {
        let blobs = Blobs::open(&folder.path().join("blobs")).unwrap();
        let mut partial = blobs.resume(digest, 256).unwrap();
        assert_eq!(partial.received(), 0);
        partial.append(&bytes[..cut]).unwrap();
        drop((partial, blobs)); // a kill: nothing is finished

        let blobs = Blobs::open(&folder.path().join("blobs")).unwrap();
        let mut partial = blobs.resume(digest, 256).unwrap();
        assert_eq!(partial.received(), cut as u64);
        partial.append(&bytes[cut..]).unwrap();
        partial.complete(Durability::Cache).unwrap();
        assert_eq!(blobs.read_verified(digest, 256).unwrap(), bytes);
        assert!(blobs.partials().unwrap().is_empty());
        blobs.remove(digest).unwrap();
    }
}

#[test]
fn a_partial_with_wrong_content_is_deleted_at_the_end() {
    let (_folder, blobs) = opened();
    let digest = Digest::of(b"right");
    let mut partial = blobs.resume(digest, 5).unwrap();
    partial.append(b"wrong").unwrap();
    let error = partial.complete(Durability::Lasting).unwrap_err();
    assert!(matches!(error, BlobError::Digest { expected, .. } if expected == digest));
    assert!(!blobs.contains(digest));
    assert_eq!(blobs.resume(digest, 5).unwrap().received(), 0);
}

#[test]
fn a_partial_takes_no_more_than_was_announced() {
    let (_folder, blobs) = opened();
    let digest = Digest::of(b"abc");
    let mut partial = blobs.resume(digest, 3).unwrap();
    partial.append(b"ab").unwrap();
    assert!(matches!(partial.append(b"cd"), Err(BlobError::TooLarge { have: 4, max: 3 })));
    partial.append(b"c").unwrap();
    partial.complete(Durability::Cache).unwrap();

    let huge = blobs.resume(digest, BLOB_BYTES_MAX + 1);
    assert!(matches!(huge, Err(BlobError::TooLarge { .. })));
}

#[test]
fn a_partial_longer_than_the_blob_begins_again() {
    let (_folder, blobs) = opened();
    let digest = Digest::of(b"abc");
    blobs.resume(digest, 9).unwrap().append(b"too long").unwrap();
    let mut partial = blobs.resume(digest, 3).unwrap();
    assert_eq!(partial.received(), 0);
    partial.append(b"abc").unwrap();
    partial.complete(Durability::Lasting).unwrap();
    blobs.verify(digest).unwrap();
}

#[test]
fn two_receivers_of_one_blob_do_not_mix() {
    let (_folder, blobs) = opened();
    let digest = Digest::of(b"abc");
    let first = blobs.resume(digest, 3).unwrap();
    assert!(matches!(blobs.resume(digest, 3), Err(BlobError::Busy(_))));
    assert!(matches!(blobs.discard_partial(digest), Err(BlobError::Busy(_))));
    drop(first);
    blobs.resume(digest, 3).unwrap();
    blobs.discard_partial(digest).unwrap();
    assert!(blobs.partials().unwrap().is_empty());
}

#[test]
fn an_unknown_format_is_named_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("format"), b"consilium blobs 2\n").unwrap();
    let text = Blobs::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("consilium blobs 2"), "{text}");
    assert_eq!(files_in(folder.path()), 1);
}

#[test]
fn blobs_are_for_their_owner_alone() {
    let (_folder, blobs) = opened();
    let digest = blobs.put_bytes(b"secret", Durability::Cache).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&blobs.path_of(digest)), 0o600);
    assert_eq!(mode(&blobs.folder), 0o700);
    let partial = blobs.resume(Digest::of(b"x"), 1).unwrap();
    assert_eq!(mode(&blobs.partial_path(partial.digest())), 0o600);
}
