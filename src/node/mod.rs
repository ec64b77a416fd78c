//! The Node.js addon: the only place that names napi. It decides nothing about messages.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `hub` | one per JavaScript environment: wakes its event loop, at most once for all that waits |
//! | `mailbox` | the way of events into the hub's queue, as JSON text in batches |
//! | `client`, `server` | the classes that `lib/` wraps |
//! | `events`, `stats` | what a server tells of itself: what happens, and figures |
//! | `authenticate` | the question whether a client may register |
//! | `heap` | what a JSON text takes of the JavaScript heap once it is parsed |
//! | `convert` | options and errors, from and to JavaScript |
//! | `defaults` | the options when nobody sets them |

// The macros of napi write `unsafe` and items without documentation.
#![allow(unsafe_code, missing_docs)]

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
