//! The daemon's ear, with a stand-in for the driver behind it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use consilium_agent::control_socket::client::{AskError, ask};
use consilium_agent::control_socket::server::{Asked, listen, serve};
use consilium_agent::control_socket::{Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Answers every list with an empty one.
fn start(path: &Path) {
    let listener = listen(path).unwrap();
    let (asking, mut asked) = mpsc::channel::<Asked>(4);
    tokio::spawn(serve(listener, asking));
    tokio::spawn(async move {
        while let Some(Asked { reply, .. }) = asked.recv().await {
            let _gone = reply.send(Reply::StudyList { studies: vec![] });
        }
    });
}

#[tokio::test]
async fn a_question_is_answered_and_the_socket_is_for_this_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    start(&path);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for _ in 0..40 {
        let reply = ask(&path, &Request::StudyList).await.unwrap();
        assert_eq!(reply, Reply::StudyList { studies: vec![] });
    }
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_no_daemon_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let told = ask(&path, &Request::Status).await.unwrap_err();
    assert!(matches!(told, AskError::NotRunning(_)), "{told}");
    drop(listen(&path).unwrap());
    assert!(path.exists());
    assert!(matches!(ask(&path, &Request::Status).await, Err(AskError::NotRunning(_))));
    start(&path);
    ask(&path, &Request::StudyList).await.unwrap();
}

#[tokio::test]
async fn noise_endless_lines_and_silence_do_not_hold_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    start(&path);
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    for noise in [b"what?\n".to_vec(), vec![b'x'; 100_000], b"{\"kind\":\"dance\"}\n".to_vec()] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&noise).await.unwrap();
        let mut answer = vec![0; 1000];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer));
        let read = read.await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(text.starts_with("{\"kind\":\"failed\""), "{text}");
    }
    ask(&path, &Request::StudyList).await.unwrap();
}

#[test]
fn a_path_too_long_for_a_socket_is_an_error_and_no_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(120));
    assert!(listen(&path).is_err());
}
