//! The locks and atomics through which threads meet: `parking_lot`'s and std's, or, for the tests
//! in `concurrency`, those of shuttle, which decides who runs at each of them.

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
