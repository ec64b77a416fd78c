//! Plays `spec/conversations.json`: with a server over real sockets, with a cluster of two servers (feature
//! `nats`), and with the Rust client against a scripted server (`__test__/conversations.test.js` plays
//! those of the clients in JavaScript). And checks the specification: rules that are cited exist, and
//! all rules are cited.

mod client;
#[cfg(feature = "nats")]
mod cluster;
mod rules;
mod script;
mod server;
mod socket;

/// Result of a step; an error names the unexpected frame or event.
type Outcome<T = ()> = Result<T, String>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_follows_the_conversations() {
    let mut failures = Vec::new();
    for conversation in script::conversations("server") {
        failures.extend(server::Stage::play(&conversation).await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_follows_the_conversations() {
    let mut failures = Vec::new();
    let playable = |conversation: &script::Conversation| {
        !conversation.members.texts("not").contains(&"rust".into())
    };
    for conversation in script::conversations("client").into_iter().filter(playable) {
        failures.extend(client::Stage::play(&conversation).await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
