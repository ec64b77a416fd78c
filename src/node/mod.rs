//! The Node.js addon: classes and events for `lib/`. Only this folder uses napi, and no message is routed here.
//!
//! | file | purpose |
//! | --- | --- |
//! | `hub` | queues events for a JavaScript environment, and wakes its event loop |
//! | `mailbox` | the queue of one object's events, as JSON text in batches |
//! | `client`, `server` | the classes that `lib/` wraps; `client` lists the kinds of client events |
//! | `events`, `stats` | the events of a server with the list of their kinds, and its counters |
//! | `store` | functions of the command `wsmsgbroker store` |
//! | `systemd` | notifications for systemd |
//! | `attach` | sockets that an HTTP server of Node.js hands over |
//! | `authenticate` | asks JavaScript whether a client may register |
//! | `heap` | estimates the JavaScript heap that a JSON text takes once it is parsed |
//! | `convert` | options from JavaScript, and errors for it |
//! | `defaults` | the default options, for JavaScript |

// The macros of napi generate `unsafe` code and items without documentation.
#![allow(unsafe_code, missing_docs)]

mod attach;
mod authenticate;
mod client;
mod convert;
mod defaults;
mod events;
mod heap;
mod hub;
mod mailbox;
mod server;
mod stats;
mod store;
#[cfg(unix)]
mod systemd;
