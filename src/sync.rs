//! Locks and atomics: those of `parking_lot` and std, or those of shuttle, whose scheduler explores thread
//! interleavings in the tests of `concurrency`.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use parking_lot::{Mutex, RwLock};
    pub(crate) use std::sync::atomic;
}

#[cfg(feature = "shuttle")]
mod real {
    pub(crate) use shuttle::sync::atomic;
    pub(crate) use shuttle_parking_lot::{Mutex, RwLock};
}

pub(crate) use real::*;
