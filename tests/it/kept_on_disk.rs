//! Kept topics on the disk: receipts, restarts, and folders that cannot be used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::runtime::Handle;
use wsmsgbroker::{KeepRule, MailboxRule, Server, ServerOptions, StoreOptions, StoreSync};

use crate::support::{Peer, options, start_server};

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("wsmb-kept-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn on_disk(folder: &Path, sync: StoreSync) -> ServerOptions {
    let rule = KeepRule {
        disk: true,
        ..KeepRule::new("room.>")
    };
    let store = StoreOptions {
        sync,
        ..StoreOptions::new(folder)
    };
    ServerOptions {
        keep: vec![rule, KeepRule::new("news")],
        store: Some(store),
        ..options()
    }
}

/// Publishes, and returns the end of the receipt.
async fn deliver(peer: &mut Peer, topic: &str, message: u32) -> String {
    peer.send(&format!(
        r#"{{"action":"send","message":{message},"dest":{{"topic":"{topic}"}},"ref":1}}"#
    ))
    .await;
    let receipt = peer.receive().await;
    let at = receipt.find(r#""offset""#);
    receipt[at.unwrap_or_else(|| panic!("{receipt}"))..].to_owned()
}

/// The messages of a topic, and the epoch.
async fn history(peer: &mut Peer, topic: &str) -> (Vec<String>, String) {
    peer.send(&format!(
        r#"{{"action":"history","topic":"{topic}","ref":2}}"#
    ))
    .await;
    let text = peer.receive().await;
    let (_, rest) = text.split_once(r#""epoch":""#).unwrap();
    let epoch = rest.split_once('"').unwrap().0.to_owned();
    let messages = text.split(r#""message":"#).skip(1);
    let message = |text: &str| text.split(',').next().unwrap_or_default().to_owned();
    (messages.map(message).collect(), epoch)
}

#[tokio::test]
async fn messages_on_the_disk_survive_a_restart_and_those_in_memory_do_not() {
    let folder = Folder::new();
    let (server, _) = start_server(on_disk(&folder.0, StoreSync::Batch));
    let mut ann = Peer::register_2(&server, "ann").await;
    let first = deliver(&mut ann, "room.7", 11).await;
    assert_eq!(first, r#""offset":1,"stored":"disk"}"#);
    let second = deliver(&mut ann, "room.8", 12).await;
    assert_eq!(second, r#""offset":2,"stored":"disk"}"#);
    let news = deliver(&mut ann, "news", 13).await;
    assert_eq!(news, r#""offset":1,"stored":"memory"}"#);
    let (_, epoch) = history(&mut ann, "room.7").await;
    server.close();
    server.closed().await;
    drop(server);

    let (server, _) = start_server(on_disk(&folder.0, StoreSync::Batch));
    let mut ann = Peer::register_2(&server, "ann").await;
    assert_eq!(
        history(&mut ann, "room.7").await,
        (vec!["11".to_owned()], epoch.clone())
    );
    assert_eq!(history(&mut ann, "news").await.0, [""; 0]);
    ann.send(&format!(
        r#"{{"action":"subscribe","topic":"room.*","since":{{"offset":1,"epoch":"{epoch}"}},"ref":3}}"#
    ))
    .await;
    ann.expect(&format!(
        r#"{{"action":"subscribed","topic":"room.*","ref":3,"offset":2,"epoch":"{epoch}","recovered":true,"replay":1}}"#
    ))
    .await;
    ann.expect(
        r#"{"action":"message","message":12,"from":"ann","topic":"room.8","offset":2,"prev":0}"#,
    )
    .await;
    server.close();
    server.closed().await;
}

#[tokio::test]
async fn a_receipt_does_not_wait_for_a_store_that_never_syncs_and_says_memory() {
    let folder = Folder::new();
    let (server, _) = start_server(on_disk(&folder.0, StoreSync::Never));
    let mut ann = Peer::register_2(&server, "ann").await;
    let receipt = deliver(&mut ann, "room.7", 1).await;
    assert_eq!(receipt, r#""offset":1,"stored":"memory"}"#);
    server.close();
    server.closed().await;
    let (server, _) = start_server(on_disk(&folder.0, StoreSync::Never));
    let mut ann = Peer::register_2(&server, "ann").await;
    assert_eq!(history(&mut ann, "room.7").await.0, ["1"]);
}

#[tokio::test]
async fn a_folder_that_is_in_use_or_cannot_be_written_is_refused() {
    let folder = Folder::new();
    let (server, _) = start_server(on_disk(&folder.0, StoreSync::Batch));
    let code = |folder: &Path| {
        let options = on_disk(folder, StoreSync::Batch);
        let bound = Server::bind(
            options,
            |_: wsmsgbroker::ServerEvent<'_>| (),
            &Handle::current(),
        );
        bound.map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(code(&folder.0), Err("ERR_WSMB_STORE"));
    server.close();
    server.closed().await;
    assert_eq!(code(&folder.0), Ok(()));
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(code(&file), Err("ERR_WSMB_STORE"));
}

#[tokio::test]
async fn a_sender_waits_for_the_disk_and_no_message_is_lost() {
    const MESSAGES: u64 = 300;
    let folder = Folder::new();
    let mailboxes = vec![MailboxRule {
        messages: 1 << 20,
        bytes: 1 << 30,
        total_bytes: 1 << 30,
        disk: true,
        ..MailboxRule::new("*")
    }];
    let (server, _) = start_server(ServerOptions {
        mailboxes,
        ..on_disk(&folder.0, StoreSync::Every(Duration::from_millis(200)))
    });
    let mut ann = Peer::register_2(&server, "ann").await;
    let message = "x".repeat(100 << 10);
    for _ in 0..MESSAGES {
        ann.send(&format!(
            r#"{{"action":"send","message":"{message}","dest":{{"mailbox":"bob"}}}}"#
        ))
        .await;
    }
    ann.send(r#"{"action":"send","message":1,"dest":{"mailbox":"bob"},"ref":1}"#)
        .await;
    ann.expect(r#"{"action":"receipt","ref":1,"mailboxes":{"bob":"disk"},"failed":{}}"#)
        .await;
    assert_eq!(server.mailbox("bob").unwrap().messages, MESSAGES + 1);
    assert_eq!(server.stats().not_stored, 0);
    server.close();
    server.closed().await;
}
