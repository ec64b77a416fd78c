//! System calls that the standard library lacks: processor time, and the limit of open files.

use std::mem::MaybeUninit;

/// User and system time of this process so far, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is valid for a write of one rusage, and is read only if it was filled.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Raises the soft limit of open files to the hard limit, as Node.js does. If that is too low, a
/// connection fails to open.
pub(crate) fn raise_file_limit() {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: both calls get a pointer to one rlimit, filled before it is read.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) == 0 {
            let mut limit = limit.assume_init();
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
